//! Every unmet need with its id, message and remedy: one thing wrong at a time.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use u7s_plan::config::Config;
use u7s_plan::facts::{ClusterFact, Facts, Listener, Route, UnitFact, UserFact};
use u7s_plan::init;
use u7s_plan::init::Docs;
use u7s_plan::kubeconfig::{Fault, Wrong};
use u7s_plan::request::Init;

mod common;

use common::{flags, ignoring, machine, planned};

/// The machine with one thing wrong, and the lines that preflight prints: error, then remedy.
fn judged(name: &str, request: &Init, spoil: impl FnOnce(&mut Facts), expected: &[(&str, &str)]) {
    let mut facts = machine();
    spoil(&mut facts);
    let outcome = planned(&facts, request);
    let seen: Vec<_> = outcome.unmet.iter().map(|need| (need.to_string(), need.remedy.clone())).collect();
    let expected: Vec<_> =
        expected.iter().map(|(line, fix)| ((*line).to_owned(), (*fix).to_owned())).collect();
    assert_eq!(seen, expected, "{name}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn rights_units_and_the_system_have_their_messages() {
    let none = Init::default();
    judged(
        "user",
        &none,
        |facts| facts.euid = 1000,
        &[("[ERROR IsPrivilegedUser]: user is not running as root", "sudo kubeadm init")],
    );
    judged(
        "unit missing",
        &none,
        |facts| facts.unit.load = "not-found".into(),
        &[(
            "[ERROR Unit]: u7s.service is not installed (systemd says \"not-found\")",
            "install u7s, then: systemctl daemon-reload",
        )],
    );
    let failed = (
        "[ERROR UnitFailed]: u7s.service failed before (result \"exit-code\")",
        "journalctl -u u7s.service -n 50; when the cause is gone: systemctl stop u7s.service; systemctl reset-failed u7s.service",
    );
    for (active, sub) in [("failed", "failed"), ("activating", "auto-restart")] {
        let unit = UnitFact {
            load: "loaded".into(),
            active: active.into(),
            sub: sub.into(),
            result: "exit-code".into(),
            file: "disabled".into(),
        };
        judged(active, &none, |facts| facts.unit = unit, &[failed]);
    }
    judged(
        "rootful",
        &none,
        |facts| facts.rootful = vec!["kubelet.service".into(), "crio.service".into()],
        &[(
            "[ERROR RootfulRuntime]: kubelet.service and crio.service of the host is running as root",
            "systemctl disable --now kubelet.service crio.service",
        )],
    );
    judged(
        "kernel",
        &none,
        |facts| facts.kernel = "5.10.0-8-amd64".into(),
        &[(
            "[ERROR KernelVersion]: the kernel is \"5.10.0-8-amd64\", 5.15 or newer is needed",
            "install a newer kernel and reboot",
        )],
    );
    judged(
        "systemd",
        &none,
        |facts| facts.systemd = 241,
        &[("[ERROR Systemd]: systemd is 241, 244 or newer is needed", "systemctl --version")],
    );
    judged(
        "hybrid",
        &none,
        |facts| facts.cgroup.unified = false,
        &[(
            "[ERROR CgroupVersion]: /sys/fs/cgroup is not cgroup v2",
            "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line and reboot",
        )],
    );
    judged(
        "controllers",
        &none,
        |facts| facts.cgroup.controllers = vec!["cpu".into()],
        &[(
            "[ERROR CgroupControllers]: cgroup v2 lacks the controllers memory, pids: limits of pods would be lost",
            "boot with cgroup_no_v1=all; or, without limits: kubeadm init --ignore-preflight-errors=CgroupControllers",
        )],
    );
    judged(
        "tun",
        &none,
        |facts| facts.devices.clear(),
        &[(
            "[ERROR Tun]: /dev/net/tun is missing: the node's network cannot be made",
            "modprobe tun; in a container, pass the device in",
        )],
    );
}

#[test]
fn fault_f35_each_switch_against_user_namespaces_is_named() {
    for (key, value, fix) in [
        ("user.max_user_namespaces", "0", "65536"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.userns_restrict", "1", "0"),
        ("kernel.userns_restrict", "1\n", "0"),
    ] {
        let line =
            format!("[ERROR UserNamespaces]: user namespaces are forbidden: {key} is {}", value.trim());
        let remedy = format!(
            "echo '{key} = {fix}' >>/etc/sysctl.d/90-u7s.conf && sysctl -p /etc/sysctl.d/90-u7s.conf"
        );
        let spoil = |facts: &mut Facts| drop(facts.sysctls.insert(key.replace('.', "/"), Some(value.into())));
        judged(key, &Init::default(), spoil, &[(&line, &remedy)]);
    }
}

#[test]
fn apparmor_is_given_a_profile_and_then_asks_for_nothing() {
    let key = "kernel/apparmor_restrict_unprivileged_userns";
    let spoil = |facts: &mut Facts| drop(facts.sysctls.insert(key.into(), Some("1\n".into())));
    judged(
        "apparmor",
        &Init::default(),
        spoil,
        &[(
            "[ERROR UserNamespaces]: user namespaces are forbidden: kernel.apparmor_restrict_unprivileged_userns is 1",
            r"printf 'abi <abi/4.0>,\nprofile u7s /usr/{bin/u7s,libexec/u7s/u7s-supervisor} flags=(unconfined) { userns, }\n' >/etc/apparmor.d/u7s && apparmor_parser -r /etc/apparmor.d/u7s",
        )],
    );
    let profiled = |facts: &mut Facts| {
        spoil(facts);
        facts.apparmor_profile = true;
    };
    judged("apparmor with a profile", &Init::default(), profiled, &[]);
}

#[test]
fn fault_f33_subordinate_ids_have_precise_ids_and_remedies() {
    let none = Init::default();
    judged(
        "none",
        &none,
        |facts| facts.subuid = "joe:100000:65536\n".into(),
        &[(
            "[ERROR Subids]: u7s-admin has no range in /etc/subuid",
            "usermod --add-subuids 589824-655359 u7s-admin",
        )],
    );
    judged(
        "small",
        &none,
        |facts| facts.subgid = "u7s-admin:524288:1000\n".into(),
        &[(
            "[ERROR Subids]: u7s-admin has 1000 ids in /etc/subgid, 65536 are needed",
            "usermod --add-subgids 589824-655359 u7s-admin",
        )],
    );
    judged(
        "overlap",
        &none,
        |facts| facts.subuid = "u7s-admin:100000:65536\njoe:165535:10\n".into(),
        &[(
            "[ERROR SubidOverlap]: the range 100000-165535 of u7s-admin in /etc/subuid overlaps 165535-165544 of joe",
            "usermod --del-subuids 100000-165535 --add-subuids 589824-655359 u7s-admin",
        )],
    );
    judged(
        "a user",
        &none,
        |facts| facts.users.push(("ann".into(), 524_300)),
        &[
            (
                "[ERROR SubidOverlap]: the range 524288-589823 of u7s-admin in /etc/subuid holds the id 524300 of ann",
                "usermod --del-subuids 524288-589823 --add-subuids 589824-655359 u7s-admin",
            ),
            (
                "[ERROR SubidOverlap]: the range 524288-589823 of u7s-admin in /etc/subgid holds the id 524300 of ann",
                "usermod --del-subgids 524288-589823 --add-subgids 589824-655359 u7s-admin",
            ),
        ],
    );
    judged(
        "line",
        &none,
        |facts| facts.subuid = "u7s-admin:x:65536\n".into(),
        &[(
            "[ERROR Subids]: line 1 of /etc/subuid (\"u7s-admin:x:65536\"): start and count must be decimal numbers",
            "correct line 1 of /etc/subuid, see subuid(5)",
        )],
    );
}

#[test]
fn s9_a_program_that_others_may_write_is_said_with_the_reason() {
    let loose = |facts: &mut Facts| {
        facts.programs.remove("crio");
        facts.refused.insert("crio".into(), "/usr/local/bin/crio may be written by others than root".into());
    };
    judged(
        "loose",
        &Init::default(),
        loose,
        &[(
            "[ERROR FileExisting-crio]: crio is not used: /usr/local/bin/crio may be written by others than root",
            "chown root: and chmod go-w what is named; or, as packaged: apt-get install cri-o",
        )],
    );
}

/// On a busy machine it was taken for v1.34.0, and images of that name were asked for.
#[test]
fn a_kubeadm_that_did_not_tell_its_version_is_not_guessed_at() {
    for told in [None, Some("not a version".to_owned())] {
        judged(
            "version",
            &Init::default(),
            |facts| drop(facts.versions.insert("kubeadm".into(), told)),
            &[(
                "[ERROR KubeadmVersion]: kubeadm did not tell its version in time",
                "kubeadm version -o short; if it answers now, the machine was busy: say it again",
            )],
        );
    }
}

#[test]
fn missing_programs_have_the_packages_of_the_distribution() {
    let none = Init::default();
    let without =
        |name: &'static str| move |facts: &mut Facts| drop(facts.programs.insert(name.into(), None));
    judged(
        "crio",
        &none,
        without("crio"),
        &[("[ERROR FileExisting-crio]: crio is not installed", "apt-get install cri-o")],
    );
    let alt = |facts: &mut Facts| {
        without("crio")(facts);
        without("kubelet")(facts);
        without("kubectl")(facts);
        facts.os = vec!["altlinux".into()];
    };
    judged(
        "alt",
        &none,
        alt,
        &[
            (
                "[ERROR FileExisting-kubelet]: kubelet is not installed",
                "apt-get install kubernetes1.34-kubelet",
            ),
            ("[ERROR FileExisting-crio]: crio is not installed", "apt-get install cri-o1.34"),
            (
                "[ERROR FileExisting-kubectl]: kubectl is not installed",
                "apt-get install kubernetes1.34-client",
            ),
        ],
    );
    judged("skopeo is not needed", &none, without("skopeo"), &[]);
    let preload = |facts: &mut Facts| {
        without("skopeo")(facts);
        facts.preload = vec!["/var/lib/u7s/images/k8s".into()];
        facts.os = vec!["fedora".into()];
    };
    judged(
        "skopeo",
        &none,
        preload,
        &[("[ERROR FileExisting-skopeo]: skopeo is not installed", "dnf install skopeo")],
    );
    let bare = |facts: &mut Facts| {
        facts.cni_plugins = BTreeMap::from([("/usr/lib/cni".into(), vec!["bridge".into(), "portmap".into()])])
    };
    judged(
        "plugin",
        &none,
        bare,
        &[(
            "[ERROR FileExisting-cni-host-local]: the CNI plugin host-local is in none of /opt/cni/bin, /usr/libexec/cni, /usr/lib/cni",
            "apt-get install containernetworking-plugins",
        )],
    );
}

#[test]
fn fault_f61_f38_the_home_is_judged() {
    let none = Init::default();
    let home = |owner| {
        move |facts: &mut Facts| {
            facts.user = facts.user.take().map(|user| UserFact { home_owner: Some(owner), ..user });
        }
    };
    judged(
        "owner",
        &none,
        home((991, 0o40700)),
        &[(
            "[ERROR Home]: /var/lib/u7s-admin belongs to uid 991, not to u7s-admin (uid 990)",
            "ls -ldn /var/lib/u7s-admin; if what it holds may go: kubeadm reset",
        )],
    );
    judged(
        "mode",
        &none,
        home((990, 0o40755)),
        &[(
            "[ERROR Home]: /var/lib/u7s-admin has the mode 0755: other users could reach setuid programs of images",
            "chmod 0700 /var/lib/u7s-admin",
        )],
    );
    judged(
        "nfs",
        &none,
        |facts| facts.home_fs = Some("nfs4".into()),
        &[(
            "[ERROR Overlay]: /var/lib/u7s-admin lies on nfs4, which cannot carry the images' overlay",
            "mount a local file system (ext4, xfs, btrfs) on /var/lib/u7s-admin",
        )],
    );
}

#[test]
fn fault_f29_taken_and_low_ports_name_their_owner() {
    let listener = |address: [u8; 4], port, ours| Listener {
        address: address.into(),
        port,
        owner: Some((812, "haproxy".into())),
        ours,
    };
    judged(
        "taken",
        &Init::default(),
        |facts| facts.listeners.push(listener([0, 0, 0, 0], 6443, false)),
        &[(
            "[ERROR Port-6443]: port 6443 is in use by haproxy (pid 812)",
            "stop what listens there: ss -ltnp 'sport = :6443'",
        )],
    );
    let unknown = |facts: &mut Facts| {
        facts.listeners.push(Listener { owner: None, ..listener([10, 77, 0, 11], 10250, false) });
    };
    judged(
        "unknown owner",
        &Init::default(),
        unknown,
        &[("[ERROR Port-10250]: port 10250 is in use", "stop what listens there: ss -ltnp 'sport = :10250'")],
    );
    let others = |facts: &mut Facts| {
        facts.listeners.push(listener([10, 77, 0, 11], 6443, true));
        facts.listeners.push(listener([127, 0, 0, 1], 10250, false));
        facts.listeners.push(listener([0, 0, 0, 0], 22, false));
    };
    judged("ours and elsewhere", &Init::default(), others, &[]);
    judged(
        "low",
        &flags(&[("apiserver-bind-port", "443")]),
        |_| {},
        &[(
            "[ERROR LowPort]: port 443 of the API server is below 1024, u7s-admin may not bind it",
            "kubeadm init --apiserver-bind-port=6443; or: sysctl -w net.ipv4.ip_unprivileged_port_start=443",
        )],
    );
}

#[test]
fn fault_f47_overlaps_name_both_networks_and_a_free_one() {
    let route = |network: &str| Route { network: network.parse().unwrap(), interface: "eth1".into() };
    judged(
        "pods",
        &Init::default(),
        |facts| facts.routes.push(route("10.244.8.0/24")),
        &[(
            "[ERROR PodCIDR]: the pod network 10.244.0.0/16 overlaps 10.244.8.0/24 on eth1",
            "kubeadm init --pod-network-cidr=10.112.0.0/16",
        )],
    );
    judged(
        "services",
        &Init::default(),
        |facts| facts.routes.push(route("10.100.0.0/16")),
        &[(
            "[ERROR ServiceCIDR]: the service network 10.96.0.0/12 overlaps 10.100.0.0/16 on eth1",
            "kubeadm init --service-cidr=10.128.0.0/12",
        )],
    );
    judged(
        "range",
        &Init::default(),
        |facts| facts.addresses.push(route("10.41.0.7/16")),
        &[(
            "[ERROR RangeOverlap]: the node's own range 10.41.0.0/24 overlaps 10.41.0.0/16 on eth1",
            "in /etc/u7s/config.toml, section [network]: range = \"10.42.0.0/24\"",
        )],
    );
    judged(
        "each other",
        &flags(&[("pod-network-cidr", "10.41.0.0/16")]),
        |_| {},
        &[(
            "[ERROR PodCIDR]: the pod network 10.41.0.0/16 overlaps 10.41.0.0/24 (the node's own range)",
            "kubeadm init --pod-network-cidr=10.244.0.0/16",
        )],
    );
    judged(
        "no way out",
        &flags(&[("apiserver-advertise-address", "10.77.0.11")]),
        |facts| facts.uplink = None,
        &[(
            "[ERROR DefaultRoute]: the host has no default IPv4 route, so the node has no address",
            "ip route add default via GATEWAY dev INTERFACE",
        )],
    );
}

/// The addresses of nobody's network: as the cluster's they would be accepted, and no packet would find its way.
#[test]
fn networks_that_can_be_no_nodes_are_refused_with_a_free_one_in_their_place() {
    for (flag, network, id, expected) in [
        (
            "pod-network-cidr",
            "169.254.0.0/16",
            "PodCIDR",
            "overlaps 169.254.0.0/16 (link-local addresses and metadata services)",
        ),
        ("pod-network-cidr", "169.254.169.0/24", "PodCIDR", "overlaps 169.254.0.0/16 (link-local"),
        ("service-cidr", "169.254.0.0/16", "ServiceCIDR", "overlaps 169.254.0.0/16 (link-local"),
        ("pod-network-cidr", "127.16.0.0/16", "PodCIDR", "overlaps 127.0.0.0/8 (loopback)"),
        ("service-cidr", "224.0.0.0/16", "ServiceCIDR", "overlaps 224.0.0.0/4 (multicast)"),
        ("pod-network-cidr", "250.0.0.0/16", "PodCIDR", "overlaps 240.0.0.0/4 (reserved, and broadcast)"),
        ("service-cidr", "0.16.0.0/16", "ServiceCIDR", "overlaps 0.0.0.0/8 (this network)"),
    ] {
        let request = Init { config_flags: vec![(flag.to_owned(), network.to_owned())], ..Init::default() };
        let outcome = init(&Config::default(), &request, Docs::default(), &machine()).unwrap();
        let seen = outcome.errors().find(|need| need.id == id).unwrap_or_else(|| panic!("{network}"));
        assert!(seen.message.contains(expected), "{}", seen.message);
        assert!(seen.remedy.starts_with(&format!("kubeadm init --{flag}=1")), "{}", seen.remedy);
    }
    // Documentation's, benchmarks' and carriers' networks are the kernel's as any other.
    for network in ["192.0.2.0/24", "198.18.0.0/16", "100.64.0.0/16"] {
        let request =
            Init { config_flags: vec![("pod-network-cidr".into(), network.into())], ..Init::default() };
        let outcome = init(&Config::default(), &request, Docs::default(), &machine()).unwrap();
        assert!(!outcome.errors().any(|need| need.id == "PodCIDR"), "{network}");
    }
}

#[test]
fn f1_a_kubeconfig_that_was_tampered_with_stops_init_before_anything_is_done() {
    let what = Wrong::Settings(vec!["users[].user.exec".into()]);
    let fault = Fault { path: "/etc/kubernetes/admin.conf".into(), what };
    let mut facts = machine();
    facts.cluster.kubeconfigs = vec![fault];
    let outcome = init(&Config::default(), &Init::default(), Docs::default(), &facts).unwrap();
    let seen: Vec<String> = outcome.errors().map(ToString::to_string).collect();
    assert!(
        seen[0].starts_with("[ERROR Kubeconfig]: /etc/kubernetes/admin.conf has users[].user.exec"),
        "{seen:?}"
    );
}

#[test]
fn fault_f25_names_that_are_none() {
    let name = |name: &'static str| move |facts: &mut Facts| facts.hostname = name.into();
    let remedy = "hostnamectl set-hostname NAME, or kubeadm init --node-name=NAME";
    judged(
        "localhost",
        &Init::default(),
        name("localhost"),
        &[("[ERROR Hostname]: \"localhost\" cannot be the node's name: it means every host", remedy)],
    );
    const LONG: &str = "a123456789.a123456789.a123456789.a123456789.a123456789.a12345678";
    judged(
        "long",
        &Init::default(),
        name(LONG),
        &[(
            &format!(
                "[ERROR Hostname]: \"{LONG}\" cannot be the node's name: it is longer than 63 characters"
            ),
            remedy,
        )],
    );
}

#[test]
fn an_etcd_directory_must_not_cover_what_the_node_needs() {
    let planned = |directory: &str| {
        let document = serde_json::json!({
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "etcd": { "local": { "dataDir": directory } },
        });
        let docs = Docs { documents: vec![document], ..Docs::default() };
        init(&Config::default(), &Init::default(), docs, &machine()).unwrap()
    };
    for directory in ["/var/lib/kubelet/etcd", "/home/joe", "/var/lib/u7s-admin/x", "/var/lib/u7s"] {
        let outcome = planned(directory);
        let seen: Vec<String> = outcome.errors().map(ToString::to_string).collect();
        let line = format!("[ERROR EtcdDataDir]: {directory} cannot be covered by the node's own directory");
        assert_eq!(seen, [line]);
    }
    let outcome = planned("/srv/etcd");
    assert_eq!(outcome.unmet, []);
    let binds = &outcome.node.binds;
    let etcd = binds.iter().find(|bind| bind.source.ends_with("etcd")).unwrap();
    assert_eq!(etcd.target, Path::new("/srv/etcd"));
    assert!(outcome.plan.to_string().contains("[host] root: make /srv/etcd (0755 root:root)"));
}

#[test]
fn all_unmet_needs_come_at_once_and_some_cannot_be_ignored() {
    let facts = Facts { hostname: "n1".into(), unit: machine().unit, ..Facts::default() };
    let outcome = planned(&facts, &ignoring(&["all"]));
    let left: Vec<&str> = outcome.errors().map(|need| need.id.as_str()).collect();
    assert_eq!(
        left,
        [
            "CgroupVersion",
            "Tun",
            "FileExisting-kubeadm",
            "FileExisting-kubelet",
            "FileExisting-crio",
            "FileExisting-conmon",
            "FileExisting-crun",
            "FileExisting-slirp4netns",
            "FileExisting-kubectl",
            "DefaultRoute",
            "FileExisting-nft"
        ]
    );
    assert!(outcome.unmet.len() > left.len());
    assert!(outcome.unmet.iter().all(|need| !need.remedy.is_empty() && !need.message.ends_with('.')));
}

#[test]
fn a_finished_node_has_no_unmet_need() {
    let mut facts = machine();
    facts.unit = UnitFact { active: "active".into(), sub: "running".into(), ..facts.unit };
    facts.cluster =
        ClusterFact { admin_conf: true, kubelet_conf: true, api_ready: true, ..ClusterFact::default() };
    facts.listeners = [6443, 10250]
        .map(|port| Listener { address: [10, 77, 0, 11].into(), port, owner: None, ours: true })
        .to_vec();
    assert_eq!(planned(&facts, &Init::default()).unmet, []);
    assert_eq!(
        planned(&facts, &Init::default()).plan.to_string(),
        planned(&machine(), &Init::default()).plan.to_string()
    );
}
