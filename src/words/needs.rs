//! Needs that are not met, and their remedies: `plan::preflight` and what else makes them.

use super::Table;

pub(super) const TABLE: Table = &[
    // What an attacker may have left.
    (
        "{path} of uid {uid} may be changed by others than root, and a node would trust it",
        "{path} (uid {uid}) может изменить не только root, а узел стал бы ему доверять",
    ),
    ("ls -ldn {paths*}; if it may go: rm -r {again*}", "ls -ldn {paths*}; если это не нужно: rm -r {again*}"),
    (
        "{user} lingers: what it wants is started at each boot, outside of the unit's bounds",
        "для {user} включён фоновый менеджер: при каждой загрузке запускается то, что он захочет, вне ограничений службы",
    ),
    ("loginctl disable-linger {user}", "loginctl disable-linger {user}"),
    ("/etc/kubernetes holds only what root put there", "в /etc/kubernetes только то, что положил root"),
    (
        "nothing of u7s-admin is started beside u7s.service",
        "помимо u7s.service от имени u7s-admin ничего не запускается",
    ),
    // The caller, the unit, the kernel.
    ("user is not running as root", "программа запущена не от имени root"),
    ("{unit} is not installed (systemd says {state})", "{unit} не установлена (systemd сообщает: {state})"),
    ("install u7s, then: systemctl daemon-reload", "установите u7s, затем: systemctl daemon-reload"),
    ("{unit} failed before (result {result})", "{unit} ранее завершилась ошибкой (результат {result})"),
    (
        "journalctl -u u7s.service -n 50; when the cause is gone: systemctl stop u7s.service; systemctl reset-failed u7s.service",
        "journalctl -u u7s.service -n 50; когда причина устранена: systemctl stop u7s.service; systemctl reset-failed u7s.service",
    ),
    ("{units} of the host is running as root", "{units} хоста работает с правами root"),
    ("the kernel is {kernel}, {least} or newer is needed", "версия ядра {kernel}, нужна {least} или новее"),
    ("install a newer kernel and reboot", "установите более новое ядро и перезагрузите машину"),
    ("systemd does not answer", "systemd не отвечает"),
    ("systemd is {version}, {least} or newer is needed", "версия systemd {version}, нужна {least} или новее"),
    ("/sys/fs/cgroup is not cgroup v2", "/sys/fs/cgroup - не cgroup v2"),
    (
        "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line and reboot",
        "добавьте systemd.unified_cgroup_hierarchy=1 в командную строку ядра и перезагрузите машину",
    ),
    (
        "cgroup v2 lacks the controllers {names}: limits of pods would be lost",
        "в cgroup v2 нет контроллеров {names}: ограничения подов не действовали бы",
    ),
    (
        "boot with cgroup_no_v1=all; or, without limits: kubeadm init --ignore-preflight-errors=CgroupControllers",
        "загрузитесь с cgroup_no_v1=all; или, без ограничений: kubeadm init --ignore-preflight-errors=CgroupControllers",
    ),
    (
        "systemd may not lower oom scores here (CAP_SYS_RESOURCE is missing)",
        "systemd здесь не может понижать oom score (нет CAP_SYS_RESOURCE)",
    ),
    (
        "give the container that systemd runs in CAP_SYS_RESOURCE; or, with the kernel's own choice of victims: kubeadm init --ignore-preflight-errors=OomScore",
        "дайте контейнеру, в котором работает systemd, CAP_SYS_RESOURCE; или, если жертву выбирает само ядро: kubeadm init --ignore-preflight-errors=OomScore",
    ),
    (
        "user namespaces are forbidden: {key} is {value}",
        "пространства имён пользователей запрещены: {key} равно {value}",
    ),
    ("{path} is missing: the node's network cannot be made", "нет {path}: сеть узла создать нельзя"),
    (
        "modprobe tun; in a container, pass the device in",
        "modprobe tun; в контейнер устройство нужно передать",
    ),
    (
        "/etc/resolv.conf {why*}: the node's own cannot be mounted over it",
        "/etc/resolv.conf {why*}: смонтировать поверх файл узла нельзя",
    ),
    ("is missing", "отсутствует"),
    ("is a loop of symbolic links", "- петля символических ссылок"),
    ("is a directory", "- каталог"),
    ("leads to nothing", "ведёт в никуда"),
    (
        "ls -l /etc/resolv.conf; make it a file with the name servers of this host: resolv.conf(5)",
        "ls -l /etc/resolv.conf; сделайте его файлом с серверами имён этого хоста: resolv.conf(5)",
    ),
    (
        "{message*}: pods resolve no names of the world outside",
        "{message*}: поды не разрешают имён внешнего мира",
    ),
    (
        "/etc/resolv.conf leads to {target}, which is not there",
        "/etc/resolv.conf ведёт к {target}, а его нет",
    ),
    (
        "/etc/resolv.conf leads to {target}, which u7s.service does not see",
        "/etc/resolv.conf ведёт к {target}, а u7s.service его не видит",
    ),
    (
        "start what makes it, e.g.: systemctl enable --now systemd-resolved",
        "запустите то, что его создаёт, например: systemctl enable --now systemd-resolved",
    ),
    (
        "systemctl edit u7s.service, below [Service]: BindReadOnlyPaths={directory}",
        "systemctl edit u7s.service, в разделе [Service]: BindReadOnlyPaths={directory}",
    ),
    // Programs.
    (
        "{message*}: ports of Services are not opened on this host",
        "{message*}: порты сервисов на этом хосте не открываются",
    ),
    ("kubeadm did not tell its version in time", "kubeadm вовремя не сообщил свою версию"),
    (
        "kubeadm version -o short; if it answers now, the machine was busy: say it again",
        "kubeadm version -o short; если теперь он отвечает, машина была занята: повторите команду",
    ),
    ("{name} is not used: {reason*}", "{name} не используется: {reason*}"),
    (
        "chown root: and chmod go-w what is named; or, as packaged: {install}",
        "выполните chown root: и chmod go-w для названного; или поставьте из пакета: {install}",
    ),
    ("{name} is not installed", "{name} не установлена"),
    (
        "the CNI plugin {name} is in none of {directories}",
        "модуля CNI {name} нет ни в одном из {directories}",
    ),
    ("{path} is not executable", "{path} нельзя исполнить"),
    ("{path} belongs to uid {uid}, not to root", "{path} принадлежит uid {uid}, а не root"),
    ("{path} may be written by others than root", "{path} может изменить не только root"),
    // The user.
    (
        "{home} belongs to uid {owner}, not to {user} (uid {uid})",
        "{home} принадлежит uid {owner}, а не {user} (uid {uid})",
    ),
    (
        "ls -ldn {home}; if what it holds may go: kubeadm reset",
        "ls -ldn {home}; если содержимое не нужно: kubeadm reset",
    ),
    (
        "{home} has the mode {mode}: other users could reach setuid programs of images",
        "у {home} права {mode}: программы setuid из образов были бы доступны другим пользователям",
    ),
    (
        "{home} lies on {kind}, which cannot carry the images' overlay",
        "{home} находится на {kind}, где overlay для образов невозможен",
    ),
    (
        "mount a local file system (ext4, xfs, btrfs) on {home}",
        "смонтируйте в {home} локальную файловую систему (ext4, xfs, btrfs)",
    ),
    ("correct line {line} of {file}, see subuid(5)", "исправьте строку {line} файла {file}, см. subuid(5)"),
    ("{user} has no range in {file}", "у {user} нет диапазона в {file}"),
    (
        "{user} has {count} ids in {file}, {needed} are needed",
        "у {user} в {file} {count} идентификаторов, нужно {needed}",
    ),
    (
        "the range {own} of {user} in {file} overlaps {range} of {other}",
        "диапазон {own} пользователя {user} в {file} пересекается с {range} пользователя {other}",
    ),
    (
        "the range {range} of {user} in {file} holds the id {id} of {name}",
        "диапазон {range} пользователя {user} в {file} содержит идентификатор {id} пользователя {name}",
    ),
    ("line {line} of {file} ({text*}): {reason*}", "строка {line} файла {file} ({text*}): {reason*}"),
    // Kubeconfigs of the node.
    (
        "kubeconfigs of the node are as kubeadm writes them",
        "файлы kubeconfig узла таковы, какими их пишет kubeadm",
    ),
    (
        "{path} has {settings}, which kubeadm does not write: whoever uses this file runs programs, reads files or trusts a server that somebody else chose",
        "в {path} есть {settings}, чего kubeadm не пишет: кто пользуется этим файлом, запускает программы, читает файлы или доверяет серверу по чужому выбору",
    ),
    ("{path} cannot be read as a kubeconfig: {why*}", "{path} не читается как kubeconfig: {why*}"),
    (
        "do not use {path}; if nobody of yours changed it, somebody had the rights of the node's user: /usr/share/doc/u7s/troubleshooting.md, Kubeconfig",
        "не пользуйтесь {path}; если его изменили не вы, у кого-то были права пользователя узла: /usr/share/doc/u7s/troubleshooting.md, Kubeconfig",
    ),
    // Name, data, ports.
    ("it is longer than 63 characters", "оно длиннее 63 знаков"),
    ("it means every host", "оно означает любой хост"),
    ("{name} cannot be the node's name: {why*}", "{name} не может быть именем узла: {why*}"),
    (
        "hostnamectl set-hostname NAME, or kubeadm init --node-name=NAME",
        "hostnamectl set-hostname NAME или kubeadm init --node-name=NAME",
    ),
    (
        "{path} cannot be covered by the node's own directory",
        "{path} нельзя закрыть собственным каталогом узла",
    ),
    (
        "choose an etcd data directory of its own below /var/lib, /srv, /opt, /mnt or /data",
        "выберите для данных etcd отдельный каталог в /var/lib, /srv, /opt, /mnt или /data",
    ),
    (
        "port {port} of the API server is below {lowest}, {user} may not bind it",
        "порт {port} сервера API ниже {lowest}, пользователь {user} не может его занять",
    ),
    (
        "kubeadm init --apiserver-bind-port=6443; or: sysctl -w net.ipv4.ip_unprivileged_port_start={port}",
        "kubeadm init --apiserver-bind-port=6443; или: sysctl -w net.ipv4.ip_unprivileged_port_start={port}",
    ),
    ("port {port} is in use", "порт {port} занят"),
    ("port {port} is in use by {name} (pid {pid})", "порт {port} занят: {name} (pid {pid})"),
    (
        "stop what listens there: ss -ltnp 'sport = :{port}'",
        "остановите то, что его слушает: ss -ltnp 'sport = :{port}'",
    ),
    // The packet filter.
    (
        "pods reach the host's loopback and metadata services: the firewall is switched off",
        "подам доступны петлевой интерфейс хоста и службы метаданных: межсетевой экран выключен",
    ),
    (
        "in /etc/u7s/config.toml, section [firewall]: enabled = true",
        "в /etc/u7s/config.toml, раздел [firewall]: enabled = true",
    ),
    (
        "in /etc/u7s/config.toml, section [firewall]: enabled = false",
        "в /etc/u7s/config.toml, раздел [firewall]: enabled = false",
    ),
    ("{remedy*}; or, without bounds for pods, {off*}", "{remedy*}; или, без ограничений для подов, {off*}"),
    ("nft does not work here: {why*}", "nft здесь не работает: {why*}"),
    (
        "modprobe nf_tables; or, without bounds for pods, {off*}",
        "modprobe nf_tables; или, без ограничений для подов, {off*}",
    ),
    (
        "firewall.egress does not hold {address}: nodes beside this one would not be reached",
        "{address} не входит в firewall.egress: соседние узлы были бы недоступны",
    ),
    (
        "add the network of the cluster's nodes to firewall.egress in /etc/u7s/config.toml",
        "добавьте сеть узлов кластера в firewall.egress в /etc/u7s/config.toml",
    ),
    (
        "the firewall would keep the node from the API endpoint {endpoint}",
        "межсетевой экран не пустил бы узел к адресу API {endpoint}",
    ),
    (
        "in /etc/u7s/config.toml, section [firewall]: allow = [\"{endpoint}\"]",
        "в /etc/u7s/config.toml, раздел [firewall]: allow = [\"{endpoint}\"]",
    ),
    (
        "the host's own rules ({place}) drop {ports} from outside",
        "собственные правила хоста ({place}) отбрасывают {ports} снаружи",
    ),
    (
        "look at the rules and accept these ports: nft list ruleset",
        "посмотрите правила и разрешите эти порты: nft list ruleset",
    ),
    // Networks.
    (
        "the host has no default IPv4 route, so the node has no address",
        "у хоста нет маршрута IPv4 по умолчанию, поэтому у узла нет адреса",
    ),
    ("ip route add default via GATEWAY dev INTERFACE", "ip route add default via ШЛЮЗ dev ИНТЕРФЕЙС"),
    ("{what*} overlaps {network}", "{what*} пересекается с {network}"),
    (
        "{what*} of the cluster overlaps {network}: this node and its pods do not reach it",
        "{what*} кластера пересекается с {network}: этому узлу и его подам она недоступна",
    ),
    ("the pod network {network}", "сеть подов {network}"),
    ("the service network {network}", "сеть сервисов {network}"),
    ("the node's own range {network}", "собственный диапазон узла {network}"),
    (
        "kubeadm reset; then give the host another network, or join a cluster that was made with --pod-network-cidr and --service-cidr apart from it",
        "kubeadm reset; затем дайте хосту другую сеть или присоединитесь к кластеру, созданному с --pod-network-cidr и --service-cidr вне её",
    ),
    (
        "in /etc/u7s/config.toml, section [network]: range = \"{range}",
        "в /etc/u7s/config.toml, раздел [network]: range = \"{range}",
    ),
    (
        "in a cluster with kubeadm's own settings kube-proxy ends on this node: it wants net.netfilter.nf_conntrack_max to be {max} (it is {is}) and to read {path}, which only the machine's first network namespace allows to be set",
        "в кластере с настройками самого kubeadm kube-proxy на этом узле завершается: ему нужно, чтобы net.netfilter.nf_conntrack_max был равен {max} (сейчас {is}) и чтобы читался {path}, а задать это можно только в первом сетевом пространстве имён машины",
    ),
    (
        "on the machine itself: sysctl -w net.netfilter.nf_conntrack_max={max}; chmod 0644 {path}; or for the whole cluster, in ConfigMap kube-system/kube-proxy: conntrack: {settings*}",
        "на самой машине: sysctl -w net.netfilter.nf_conntrack_max={max}; chmod 0644 {path}; или для всего кластера, в ConfigMap kube-system/kube-proxy: conntrack: {settings*}",
    ),
    // Of the doors.
    (
        "systemctl start u7s.service for a node that was made before, kubeadm init for a new one",
        "systemctl start u7s.service для ранее созданного узла, kubeadm init для нового",
    ),
    ("the node's namespaces do not run", "пространства имён узла не работают"),
    (
        "u7s status; or give the configuration yourself: kubeadm init phase ... --config FILE",
        "u7s status; или задайте настройки сами: kubeadm init phase ... --config ФАЙЛ",
    ),
    (
        "the cluster's own configuration cannot be had: its API server does not answer",
        "настройки самого кластера получить нельзя: его сервер API не отвечает",
    ),
    (
        "put OCI layouts or *.tar archives there that root alone may write",
        "поместите туда каталоги OCI или архивы *.tar, доступные для записи только root",
    ),
    ("there are no images in {directory}", "в {directory} нет образов"),
    ("only root and the node's user may enter", "войти могут только root и пользователь узла"),
];
