//! Errors: of the doors, of root's hands, of entering the node, of configurations.

use super::Table;

pub(super) const TABLE: Table = &[
    // src/error.rs
    ("{count} of reset's steps failed", "не выполнены шаги reset: {count}"),
    ("the value of --{flag} is not UTF-8", "значение --{flag} не в UTF-8"),
    ("this shell is inside the node's namespaces", "эта оболочка находится внутри пространств имён узла"),
    ("{path} is not there", "{path} отсутствует"),
    (
        "{path} is u7s's own shim, not the real program",
        "{path} - оболочка самой u7s, а не настоящая программа",
    ),
    (
        "no kubeadm init or join of ours has run on this machine since it was made or reset",
        "на этой машине ещё не выполнялся наш kubeadm init или join (или после него был reset)",
    ),
    (
        "won't proceed; the user didn't answer (Y|y) in order to continue",
        "не продолжаю: пользователь не ответил (Y|y)",
    ),
    ("cannot write to standard output", "не удаётся писать в стандартный вывод"),
    ("the host is not ready, {count} need is unmet", "хост не готов, не выполнено требований: {count}"),
    ("the host is not ready, {count} needs are unmet", "хост не готов, не выполнено требований: {count}"),
    // crates/host/src/error.rs
    ("cannot read {path}", "не удаётся прочитать {path}"),
    ("{path} is not a regular file", "{path} - не обычный файл"),
    (
        "{path} is no lock of this program, but something of uid {uid}",
        "{path} - не блокировка этой программы, а нечто, принадлежащее uid {uid}",
    ),
    ("{path} is not a directory", "{path} - не каталог"),
    ("{path} is not a character device", "{path} - не символьное устройство"),
    (
        "{path} is, or is reached through, a symbolic link, which is not followed here",
        "{path} - символьная ссылка или доступен через неё, а здесь по ссылкам не переходят",
    ),
    ("{path} is not an absolute path of a file", "{path} - не абсолютный путь файла"),
    ("{path} is larger than {limit} bytes", "{path} больше {limit} байт"),
    ("{path} holds more than {limit} files", "в {path} больше {limit} файлов"),
    ("{path} is not UTF-8 text", "{path} - не текст в UTF-8"),
    (
        "what kubeadm inside printed is not {what*} and is not passed on: {why*}",
        "то, что вывел kubeadm внутри, - не {what*}, и дальше не передаётся: {why*}",
    ),
    ("a kubeconfig", "kubeconfig"),
    ("a join command", "команда присоединения"),
    ("it is another command", "это другая команда"),
    ("it is too long", "слишком длинно"),
    ("it has {settings}", "там есть {settings}"),
    ("it is no YAML", "это не YAML"),
    ("it is not one document", "это не один документ"),
    (
        "clusters[].cluster.server: https://HOST:PORT is needed",
        "clusters[].cluster.server: нужно https://HOST:PORT",
    ),
    ("{path}: {need*} is needed", "{path}: нужно {need*}"),
    ("a list", "список"),
    ("an object", "объект"),
    ("one entry of the name that is referred to", "одна запись с указанным именем"),
    ("a text", "строка"),
    ("PEM in base64", "PEM в base64"),
    ("it does not exist", "его нет"),
    ("cannot write {path}", "не удаётся записать {path}"),
    ("cannot remove {path}", "не удаётся удалить {path}"),
    ("{key} is not a sysctl", "{key} - не sysctl"),
    ("there is no user {name}", "нет пользователя {name}"),
    ("cannot look up user {name}", "не удаётся найти пользователя {name}"),
    ("{program} was not found in {searched}", "{program} не найдена в {searched}"),
    ("cannot start {program}", "не удаётся запустить {program}"),
    ("{program} failed, {status}", "ошибка программы {program}, {status}"),
    ("{what} took longer than {seconds} s", "{what}: прошло больше {seconds} с"),
    ("as uid {uid}: {reason*}", "от имени uid {uid}: {reason*}"),
    ("[{phase}] {step*}", "[{phase}] {step*}"),
    ("another init or reset is running", "уже выполняется другой init или reset"),
    ("another init or reset is running, pid {pid}", "уже выполняется другой init или reset, pid {pid}"),
    (
        "systemd does not answer on the system bus (dbus.service)",
        "systemd не отвечает на системной шине (dbus.service)",
    ),
    ("systemd: cannot {operation}", "systemd: не удаётся выполнить: {operation}"),
    ("cannot make an event loop", "не удаётся создать цикл событий"),
    (
        "{unit} did not start: result {result}; see: journalctl -xeu {again}",
        "{unit} не запустилась: результат {result}; см.: journalctl -xeu {again}",
    ),
    ("{path} is not the specification of a node", "{path} - не описание узла"),
    (
        "nft cannot {operation} the table inet u7s: {reason*}",
        "nft не может выполнить {operation} для таблицы inet u7s: {reason*}",
    ),
    (
        "{path} does not hold the former values that reset needs",
        "в {path} нет прежних значений, нужных для reset",
    ),
    (
        "{path} has version {found}, this program reads version {known}",
        "у {path} версия {found}, эта программа читает версию {known}",
    ),
    (
        "no {count} subordinate ids in a row are free",
        "нет {count} свободных подчинённых идентификаторов подряд",
    ),
    (
        "{user} still has no {count} subordinate ids in /etc/subuid and /etc/subgid",
        "у {user} всё ещё нет {count} подчинённых идентификаторов в /etc/subuid и /etc/subgid",
    ),
    ("{path} cannot be used: {reason*}", "{path} использовать нельзя: {reason*}"),
    (
        "{path} is no OCI layout or image archive: {reason*}",
        "{path} - не каталог OCI и не архив образов: {reason*}",
    ),
    ("cannot read {what} of the kernel", "не удаётся прочитать у ядра {what}"),
    ("{program} failed inside, {status}", "внутри завершилась ошибкой программа {program}, {status}"),
    (
        "the cluster of an earlier init is here, but its API server was not ready within {seconds} s; see: u7s status; u7s logs kubelet; to begin anew: kubeadm reset",
        "здесь есть кластер от прежнего init, но его сервер API не стал готов за {seconds} с; см.: u7s status; u7s logs kubelet; чтобы начать заново: kubeadm reset",
    ),
    // crates/host/src/apply/clear.rs
    (
        "it is a symbolic link of root's in the place of a directory; if it may go, rm it",
        "это символьная ссылка root на месте каталога; если она не нужна, удалите её (rm)",
    ),
    ("something is mounted there; umount it", "там что-то смонтировано; выполните umount"),
    ("it is immutable; chattr -R -i -a it", "он неизменяемый; выполните chattr -R -i -a"),
    (
        "it is read-only; remount it, or of a btrfs snapshot: btrfs property set it ro false",
        "он только для чтения; перемонтируйте, а для снимка btrfs: btrfs property set ... ro false",
    ),
    ("cannot unmount {path}", "не удаётся отмонтировать {path}"),
    ("processes of {what} still live: {processes*}", "процессы {what} ещё живы: {processes*}"),
    (
        "{path} is left, of others than root: {reason*}",
        "{path} не удалён, хотя принадлежит не root: {reason*}",
    ),
    (
        "{path} holds what is not root's, so it is {aside} now, closed to everybody but root",
        "в {path} есть принадлежащее не root, поэтому теперь это {aside}, закрытый для всех, кроме root",
    ),
    ("secrets are left behind ({paths}); and before that", "остались секреты ({paths}); а до этого"),
    ("the former content of {path} is damaged", "прежнее содержимое {path} повреждено"),
    // crates/host/src/enter/error.rs
    ("process {pid} is not the node's pid 1: {reason*}", "процесс {pid} - не pid 1 узла: {reason*}"),
    ("cannot look at process {pid}", "не удаётся изучить процесс {pid}"),
    ("cannot open the cgroup {path}", "не удаётся открыть cgroup {path}"),
    ("{what} cannot be passed to a program", "{what} нельзя передать программе"),
    ("cannot run {program}", "не удаётся выполнить {program}"),
    ("cannot prepare an entry", "не удаётся подготовить вход в узел"),
    ("cannot watch {program}", "не удаётся следить за {program}"),
    (
        "{program} did not end within {seconds} s and was killed",
        "{program} не завершилась за {seconds} с и была принудительно остановлена",
    ),
    (
        "{program} (process {pid}) cannot be killed and is left behind",
        "{program} (процесс {pid}) нельзя завершить, он оставлен как есть",
    ),
    (
        "{program} was ended by signal {signal}, which reached this command",
        "{program} завершается из-за сигнала {signal}, полученного этой командой",
    ),
    // crates/sys/src/enter.rs
    ("arrange the descriptors of the child", "подготовка дескрипторов дочернего процесса"),
    ("put the child into its cgroup", "перемещение дочернего процесса в его cgroup"),
    ("give up the caller's keyring and priority", "отказ от ключей и приоритета вызывающего"),
    ("drop to the user", "переход к пользователю"),
    ("prove that the privileges are gone for good", "проверка, что прав больше нет"),
    ("join the namespaces", "вход в пространства имён"),
    ("become uid 0 inside", "переход к uid 0 внутри"),
    ("fork inside", "создание процесса внутри"),
    ("begin a session", "начало сеанса"),
    ("enter the working directory", "переход в рабочий каталог"),
    ("look at the files that arguments name", "просмотр файлов, названных в аргументах"),
    ("execute the program", "запуск программы"),
    (
        "not done after {seconds} s; process {pid} was killed",
        "не закончено за {seconds} с; процесс {pid} принудительно завершён",
    ),
    (
        "not done after {seconds} s; process {pid} cannot be killed and is left behind",
        "не закончено за {seconds} с; процесс {pid} нельзя завершить, он оставлен как есть",
    ),
    (
        "the child was killed or stopped before it could become the program",
        "дочерний процесс завершён или остановлен, прежде чем он стал программой",
    ),
    (
        "{path} is a pipe that nobody wrote to within {seconds} s",
        "{path} - канал, в который за {seconds} с никто не писал",
    ),
    (
        "{path} is a pipe that was not read to its end within {seconds} s",
        "{path} - канал, который не удалось прочитать до конца за {seconds} с",
    ),
    (
        "{path} leads through a link that others than root may change",
        "{path} ведёт через ссылку, которую может изменить не только root",
    ),
    (
        "{path} is named in a document that others than root may write, so uid {uid} must be able to read it: {reason*}",
        "{path} назван в документе, который может изменить не только root, поэтому его должен мочь прочесть uid {uid}: {reason*}",
    ),
    (
        "the child that works as uid {uid} failed: {reason*}",
        "ошибка дочернего процесса, работающего от имени uid {uid}: {reason*}",
    ),
    // crates/host/src/control.rs
    (
        "the node's namespaces do not run: nobody answers at {path}",
        "пространства имён узла не работают: по адресу {path} никто не отвечает",
    ),
    (
        "only root and the node's user may ask {path}",
        "обращаться к {path} могут только root и пользователь узла",
    ),
    (
        "{path} is served by uid {found}, not by the node's user, uid {expected}",
        "{path} обслуживает uid {found}, а не пользователь узла, uid {expected}",
    ),
    (
        "{path} is no socket of the node, or is reached through a symbolic link",
        "{path} - не сокет узла или доступен через символьную ссылку",
    ),
    ("u7s.service gave no answer within {seconds} s", "u7s.service не ответила за {seconds} с"),
    ("cannot talk to u7s.service at {path}", "не удаётся связаться с u7s.service через {path}"),
    (
        "u7s.service answered with something that is no answer",
        "u7s.service прислала нечто, что не является ответом",
    ),
    ("u7s.service refused: {reason*}", "u7s.service отказала: {reason*}"),
    // crates/plan: configurations
    ("can not mix '--config' with arguments [{flags}]", "нельзя совмещать '--config' с флагами [{flags}]"),
    ("document {number} of the configuration: {why*}", "документ {number} в настройках: {why*}"),
    (
        "{path} is {value}, but a rootless node needs {need}: {why*}",
        "{path} равно {value}, но узлу без прав root нужно {need}: {why*}",
    ),
    ("{first} ({one}) overlaps {second} ({other})", "{first} ({one}) пересекается с {second} ({other})"),
    ("patch {file}: {why*}", "патч {file}: {why*}"),
    ("{key} is {value}, but {need*}", "{key} равно {value}, но {need*}"),
    ("this program reads version 1", "эта программа читает версию 1"),
    ("u7s.service runs as u7s-admin", "u7s.service работает от имени u7s-admin"),
    ("a network of /8 to /29 without host bits is needed", "нужна сеть от /8 до /29 без битов хоста"),
    ("1280 to 65520 is possible", "возможно от 1280 до 65520"),
    ("0, or 16384 to 2147483647 is possible", "возможно 0 или от 16384 до 2147483647"),
    ("an absolute path is needed", "нужен абсолютный путь"),
    ("an image with registry and tag is needed", "нужен образ с реестром и меткой"),
    ("1 to 100 is possible", "возможно от 1 до 100"),
    ("at most 1000 entries are possible", "возможно не более 1000 записей"),
    ("networks without host bits are needed", "нужны сети без битов хоста"),
    ("one address and one port are needed", "нужны один адрес и один порт"),
    (
        "{origin}: {bytes} bytes, more than the {limit} that a configuration may have",
        "{origin}: {bytes} байт, больше допустимых для настроек {limit}",
    ),
    ("a byte order mark; save the file without one", "метка порядка байтов; сохраните файл без неё"),
    ("a NUL byte", "нулевой байт"),
    ("a number that JSON does not have", "число, которого нет в JSON"),
    (
        "{written} is a boolean to some readers and a text to others: write {value} or {quoted}",
        "{written} для одних программ логическое значение, для других текст: напишите {value} или {quoted}",
    ),
    (
        "{written} is octal to some readers and decimal to others: quote it or leave out the leading zero",
        "{written} для одних программ восьмеричное число, для других десятичное: возьмите в кавычки или уберите ведущий ноль",
    ),
];
