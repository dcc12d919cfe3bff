//! A machine to plan for, and golden files.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests, which read and write golden files"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use u7s_plan::config::Config;
use u7s_plan::facts::{CgroupFact, Facts, Route, UnitFact, Uplink, UserFact};
use u7s_plan::init::{Docs, Outcome};
use u7s_plan::kubeadm::NodeFacts;
use u7s_plan::need::Ignored;
use u7s_plan::request::Init;
use u7s_plan::step::Action;
use u7s_plan::{conntrack, host, init};

/// What kubeadm's documents are merged for.
pub fn node() -> NodeFacts {
    NodeFacts {
        node_ip: Ipv4Addr::new(10, 77, 0, 11),
        hostname: "N1".into(),
        kubernetes_version: "1.34.4".parse().unwrap(),
        patches_dir: "/etc/u7s/patches".into(),
        cri_socket: "/run/crio/crio.sock".into(),
        degraded: false,
        ignored: Ignored::default(),
        timeout_factor: 1,
        memory: 4 << 30,
    }
}

/// A machine on which everything is as it should be.
pub fn machine() -> Facts {
    let route = |network: &str, interface: &str| Route {
        network: network.parse().unwrap(),
        interface: interface.into(),
    };
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let programs = host::PROGRAMS.map(|name| (name.to_owned(), Some(Path::new("/usr/bin").join(name))));
    let sysctl = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    Facts {
        kernel: "6.18.5-1-default".into(),
        hostname: "N1.example.org".into(),
        user: Some(UserFact {
            uid: 990,
            gid: 989,
            home: host::HOME.into(),
            home_owner: Some((990, 0o40700)),
        }),
        users: vec![("root".into(), 0), ("joe".into(), 1000), ("u7s-admin".into(), 990)],
        subuid: "joe:100000:65536\nu7s-admin:524288:65536\n".into(),
        subgid: "joe:100000:65536\nu7s-admin:524288:65536\n".into(),
        cgroup: CgroupFact {
            unified: true,
            controllers: strings(&["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"]),
        },
        oom_floor: true,
        systemd: 257,
        devices: BTreeMap::from([
            (PathBuf::from(host::TUN), Some(0o666)),
            (PathBuf::from(conntrack::HASHSIZE), Some(0o600)),
        ]),
        sysctls: BTreeMap::from([
            ("kernel/unprivileged_userns_clone".to_owned(), None),
            sysctl("user/max_user_namespaces", "63304"),
            sysctl("net/ipv4/ip_unprivileged_port_start", "1024"),
            sysctl("fs/inotify/max_user_instances", "128"),
            sysctl("fs/inotify/max_user_watches", "1048576"),
            sysctl("kernel/keys/maxkeys", "200"),
            sysctl("kernel/keys/maxbytes", "20000"),
            sysctl(conntrack::MAX, "262144"),
            sysctl(conntrack::BUCKETS, "262144"),
        ]),
        programs: programs.into(),
        versions: BTreeMap::from([("kubeadm".to_owned(), Some("1.34.4".to_owned()))]),
        uplink: Some(Uplink {
            interface: "eth0".into(),
            address: [10, 77, 0, 11].into(),
            gateway: Some([10, 77, 0, 1].into()),
            mtu: 1500,
        }),
        routes: vec![route("10.77.0.0/24", "eth0"), route("172.17.0.0/16", "docker0")],
        addresses: vec![
            route("127.0.0.1/8", "lo"),
            route("10.77.0.11/24", "eth0"),
            route("172.17.0.1/16", "docker0"),
        ],
        unit: UnitFact {
            load: "loaded".into(),
            active: "inactive".into(),
            sub: "dead".into(),
            result: "success".into(),
            file: "disabled".into(),
        },
        memory: 4 << 30,
        cpus: 2,
        online_cpus: 2,
        os: strings(&["debian"]),
        cni_plugins: BTreeMap::from([(
            PathBuf::from("/usr/lib/cni"),
            strings(&["bridge", "host-local", "loopback", "portmap"]),
        )]),
        resolv_conf: "# made by hand\nnameserver 10.77.0.1\nsearch example.org corp\noptions edns0 trust-ad\n".into(),
        hosts: "127.0.0.1 localhost\n127.0.1.1 n1.example.org n1\n10.77.0.5 registry.local # ours\n::1 localhost\n"
            .into(),
        home_fs: Some("ext4".into()),
        ..Facts::default()
    }
}

pub fn planned(facts: &Facts, request: &Init) -> Outcome {
    init(&Config::default(), request, Docs::default(), facts).unwrap()
}

pub fn ignoring(ids: &[&str]) -> Init {
    Init { ignored: Ignored::new(ids), ..Init::default() }
}

pub fn flags(pairs: &[(&str, &str)]) -> Init {
    let config_flags = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Init { config_flags, ..Init::default() }
}

/// The text of a file that the plan writes.
pub fn file(outcome: &Outcome, wanted: &str) -> String {
    let steps = outcome.plan.phases.iter().flat_map(|phase| &phase.steps);
    let mut texts = steps.filter_map(|step| match &step.action {
        Action::WriteFile { path, text, .. } if path.ends_with(wanted) => Some(text.clone()),
        _ => None,
    });
    texts.next().unwrap_or_else(|| panic!("{wanted} is not written"))
}

/// Compares with a golden file; with `U7S_BLESS=1` it is written.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("U7S_BLESS").is_ok() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (seen, wanted)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(seen, wanted, "{name}, line {}", number + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{name}: number of lines");
}
