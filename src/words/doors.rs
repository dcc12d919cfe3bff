//! What the programs say by themselves: hints, progress, last words, headings.

use super::Table;

pub(super) const TABLE: Table = &[
    ("[ERROR {id}]: {message*}", "[ERROR {id}]: {message*}"),
    ("[WARNING {id}]: {message*}", "[WARNING {id}]: {message*}"),
    ("hint: {hint*}", "подсказка: {hint*}"),
    ("u7s: {doing}: {cause*}", "u7s: {doing}: {cause*}"),
    // Hints: src/report.rs
    (
        "a token lives for 24 hours; a new one, on a control plane: kubeadm token create --print-join-command",
        "токен действует 24 часа; новый, на управляющем узле: kubeadm token create --print-join-command",
    ),
    (
        "the API server must answer from this host, in a few milliseconds: curl -k https://HOST:PORT/livez",
        "сервер API должен отвечать этому хосту за несколько миллисекунд: curl -k https://ХОСТ:ПОРТ/livez",
    ),
    (
        "packets of full size must pass: ping -M do -s 1472 HOST    (28 bytes less than the interface's MTU)",
        "должны проходить пакеты полного размера: ping -M do -s 1472 ХОСТ    (на 28 байт меньше MTU интерфейса)",
    ),
    ("the clocks of both hosts must agree: timedatectl", "часы обоих хостов должны совпадать: timedatectl"),
    (
        "systemctl start u7s.service    (a node that was made before)",
        "systemctl start u7s.service    (ранее созданный узел)",
    ),
    ("kubeadm init    (a new one)", "kubeadm init    (новый узел)"),
    ("every key is explained in /etc/u7s/config.toml", "каждый ключ объяснён в /etc/u7s/config.toml"),
    ("u7s check    (is this machine ready for one?)", "u7s check    (готова ли к этому машина?)"),
    ("exit, then run it on the host", "exit, затем выполните это на хосте"),
    (
        "kill -KILL PID; what is in state D waits for a file system, and a reboot ends it. Until then nothing else is taken away: the nft table still bounds them",
        "kill -KILL PID; процесс в состоянии D ждёт файловую систему, его завершит перезагрузка. До тех пор больше ничего не удаляется: таблица nft по-прежнему их ограничивает",
    ),
    ("ls -l FILE    (where does it lead?); rm FILE", "ls -l FILE    (куда ведёт ссылка?); rm FILE"),
    (
        "look at it as root, then remove it: rm -r FILE",
        "посмотрите на это как root, затем удалите: rm -r FILE",
    ),
    (
        "look at it as root, then remove it: rm -r DIRECTORY.u7s-left",
        "посмотрите на это как root, затем удалите: rm -r DIRECTORY.u7s-left",
    ),
    (
        "kubeadm reset    (again: what is done already holds)",
        "kubeadm reset    (ещё раз: сделанное повторяться не будет)",
    ),
    (
        "the same command again goes on from here; kubeadm reset takes everything back",
        "та же команда продолжит с этого места; kubeadm reset вернёт всё назад",
    ),
    ("rm what is left behind: it holds a credential", "удалите (rm) оставшееся: в нём учётные данные"),
    (
        "nft list ruleset    (works?); modprobe nf_tables nft_ct nft_reject_inet",
        "nft list ruleset    (работает?); modprobe nf_tables nft_ct nft_reject_inet",
    ),
    (
        "without bounds for pods: in /etc/u7s/config.toml, section [firewall]: enabled = false",
        "без ограничений для подов: в /etc/u7s/config.toml, раздел [firewall]: enabled = false",
    ),
    (
        "kubeadm init    (again: it writes the file anew)",
        "kubeadm init    (ещё раз: файл будет записан заново)",
    ),
    (
        "a file system inside the node does not answer: systemctl restart u7s.service    (ends what serves it)",
        "файловая система внутри узла не отвечает: systemctl restart u7s.service    (завершает то, что её обслуживает)",
    ),
    (
        "cat /proc/PID/wchan    (where it waits); it ends with what it waits for",
        "cat /proc/PID/wchan    (где он ждёт); он завершится вместе с тем, чего ждёт",
    ),
    (
        "rm what lies there, then the same command again: this program makes it anew",
        "удалите (rm) то, что там лежит, и повторите ту же команду: программа создаст файл заново",
    ),
    ("wait until it ends; its pid is in /run/u7s.lock", "дождитесь его завершения; его pid в /run/u7s.lock"),
    (
        "ls -l FILE    (where does it lead?), then name the file that is meant itself",
        "ls -l ФАЙЛ    (куда ведёт?), затем укажите сам нужный файл",
    ),
    (
        "read the document, then: cp FILE /root/    (root alone may write there), and name the copy",
        "прочтите документ, затем: cp ФАЙЛ /root/    (туда пишет только root), и укажите копию",
    ),
    (
        "or let the node's user read what the document names",
        "или дайте пользователю узла читать то, что названо в документе",
    ),
    // Progress: src/doors/progress/lines.rs
    (
        "[u7s] {steps} steps; what holds already is left alone. With all images at hand it takes about a minute",
        "[u7s] шагов: {steps}; что уже в порядке, не трогается. Если образы есть на месте, это около минуты",
    ),
    ("[{phase}] done: {step*}", "[{phase}] сделано: {step*}"),
    ("[{phase}] done: {step*} ({seconds} s)", "[{phase}] сделано: {step*} ({seconds} с)"),
    ("[{phase}] left out: {step*}", "[{phase}] пропущено: {step*}"),
    ("[{phase}] failed: {step*}", "[{phase}] ошибка: {step*}"),
    ("[{phase}] holds already", "[{phase}] уже в порядке"),
    ("[{phase}] {what*}: {elapsed} s of {limit} s", "[{phase}] {what*}: {elapsed} с из {limit} с"),
    ("{what*}: {elapsed} s of {limit} s", "{what*}: {elapsed} с из {limit} с"),
    // Last words: src/doors/init.rs, src/doors/reset.rs, src/doors/images.rs
    (
        "ids and what depends on them are a preview: the node's user does not exist yet",
        "идентификаторы и зависящее от них - предварительные: пользователя узла ещё нет",
    ),
    (
        "[patches] Ignoring file \"{name}\": it is none of kubeadm's patches",
        "[patches] файл \"{name}\" пропущен: это не патч для kubeadm",
    ),
    ("the times of this run are not kept: {error*}", "время этого запуска не сохранено: {error*}"),
    ("[u7s] {head*}", "[u7s] {head*}"),
    (
        "the node stands as it should, there was nothing to do",
        "узел в порядке, делать было нечего (nothing to do)",
    ),
    (
        "{done} steps done, {held} held already, in {seconds} s (u7s timings: of what)",
        "шагов сделано: {done}, уже было в порядке: {held}, за {seconds} с (u7s timings: на что)",
    ),
    (
        "node {node} at {address}, Kubernetes {version}, {role*}",
        "узел {node} с адресом {address}, Kubernetes {version}, {role*}",
    ),
    ("worker", "рабочий узел"),
    ("pods {pods}, services {services}, {rest*}", "поды {pods}, сервисы {services}, {rest*}"),
    ("joined by {endpoint}, {rest*}", "присоединён через {endpoint}, {rest*}"),
    ("everything as {user}", "всё от имени {user}"),
    ("everything as {user}, {rest*}", "всё от имени {user}, {rest*}"),
    ("tainted for the control plane", "только для управляющих подов"),
    ("tainted for the control plane, {rest*}", "только для управляющих подов, {rest*}"),
    ("degraded: {ids}", "возможности ограничены: {ids}"),
    ("to look inside: u7s status, u7s shell", "заглянуть внутрь: u7s status, u7s shell"),
    (
        "kubectl works on the control plane: kubectl get nodes",
        "kubectl работает на управляющем узле: kubectl get nodes",
    ),
    ("kubectl of root works as it is, by {root}", "kubectl у root работает сразу, через {root}"),
    (
        "a kubeconfig for somebody else: u7s kubeconfig --file FILE",
        "kubeconfig для другого пользователя: u7s kubeconfig --file FILE",
    ),
    ("workers: on each as root", "рабочие узлы: на каждом от имени root"),
    (
        "more control planes: on each as root, within two hours, or after another \"kubeadm init phase upload-certs --upload-certs\";",
        "другие управляющие узлы: на каждом от имени root, в течение двух часов или после нового \"kubeadm init phase upload-certs --upload-certs\";",
    ),
    (
        "the certificate key opens secrets of the cluster: keep it to yourself",
        "ключ сертификатов открывает секреты кластера: никому его не показывайте",
    ),
    (
        "more control planes: on each as root, once it has the cluster's certificate authorities and service account keys",
        "другие управляющие узлы: на каждом от имени root, когда на нём есть удостоверяющие центры кластера и ключи сервисных аккаунтов",
    ),
    (
        "only a control plane has one; u7s status    (names what is wrong with one that is there)",
        "он есть только на управляющем узле; u7s status    (покажет, что не так с имеющимся)",
    ),
    (
        "[u7s] no node is left on this host, there was nothing to do",
        "[u7s] на этом хосте узла нет, делать было нечего",
    ),
    ("[u7s] the host is as it was before init", "[u7s] хост такой, каким был до init"),
    (
        "images of {done} sources were loaded, those of {held} were there",
        "загружены образы из источников: {done}, уже были: {held}",
    ),
    ("--output is text or json, not {value}", "--output принимает text или json, а не {value}"),
    (
        "phases of init are for control planes, this node is a worker",
        "этапы init - для управляющих узлов, а этот узел рабочий",
    ),
    (
        "{name}: no ResetConfiguration found in the configuration file",
        "{name}: в файле настроек нет ResetConfiguration",
    ),
    ("these are not the flags of a kubeadm init", "это не флаги kubeadm init"),
    (
        "only the whole of kubeadm {command} has a plan, not its phases",
        "план есть только у всего kubeadm {command}, но не у его этапов",
    ),
];
