//! Texts of /etc that become parts of a plan: subordinate ids, name servers, hosts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use u7s_plan::config::Config;
use u7s_plan::facts::{CgroupFact, Facts, Route, Uplink, UserFact};
use u7s_plan::init::Docs;
use u7s_plan::node::NodeSpec;
use u7s_plan::request::Init;
use u7s_plan::subid::{MAX_EXTENTS, NEEDED, allocate, check_real, id_map, parse};
use u7s_plan::{firewall, host, init};

use crate::{comes_back, parts, text};

/// Ranges of the user hold enough ids, none of root or twice, and all of them are ids; what is allocated is free.
pub(super) fn subids(data: &[u8]) {
    let text = text(data);
    let user = "u7s-admin";
    if let Ok(ranges) = parse(&text, user, 990) {
        let count: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
        assert!(count >= u64::from(NEEDED));
        for (index, range) in ranges.iter().enumerate() {
            assert!(
                range.count > 0 && u64::from(range.start) + u64::from(range.count) <= u64::from(u32::MAX)
            );
            assert!(!range.contains(0) && !range.contains(990));
            assert!(ranges.iter().skip(index + 1).all(|other| !range.overlaps(*other)));
        }
        let map = id_map(990, &ranges);
        assert!(map.len() <= MAX_EXTENTS);
        let mut inside = 0_u32;
        for extent in &map {
            assert!(extent.inside == inside && extent.count > 0);
            inside = inside.saturating_add(extent.count);
            assert!(extent.outside.checked_add(extent.count).is_some());
        }
    }
    let users = [("root".to_owned(), 0), ("joe".to_owned(), 600_000)];
    if let Ok(range) = allocate(&text, &users, NEEDED) {
        assert_eq!(check_real(&[range], user, &users), Ok(()));
        let line = format!("\nsomebody:{}:{}\n", range.start, range.count);
        // With the range taken, the next one is another, if there is one.
        let next = allocate(&format!("{text}{line}"), &users, NEEDED);
        assert!(next.is_err() || next.is_ok_and(|next| !next.overlaps(range)));
    }
}

/// resolv.conf, hosts, subordinate ids and a host name: the plan's specification comes back, and is within what is read of it.
pub(super) fn machine(data: &[u8]) {
    let parts: Vec<_> = parts(data).into_iter().map(text).collect();
    let part = |index: usize| parts.get(index).map(|text| text.clone().into_owned());
    let mut facts = facts();
    facts.resolv_conf = part(0).unwrap_or_default();
    facts.hosts = part(1).unwrap_or_default();
    facts.hostname = part(2).unwrap_or(facts.hostname);
    facts.subuid = part(3).unwrap_or(facts.subuid);
    let Ok(outcome) = init(&Config::default(), &Init::default(), Docs::default(), &facts) else { return };
    comes_back(&outcome.node);
    for line in outcome.node.resolv_conf.lines() {
        assert!(["nameserver ", "search ", "options "].iter().any(|word| line.starts_with(word)), "{line:?}");
    }
    assert_eq!(outcome.node.resolv_conf.matches("nameserver ").count(), 1 + found(&facts, "nameserver "));
    let table = firewall::table(&Config::default().firewall, &outcome.node, &facts, true);
    assert!(
        table.text.bytes().all(|byte| byte.is_ascii_graphic() || b" \t\n".contains(&byte)),
        "{}",
        table.text
    );
    let _ = outcome.plan.to_string();
}

/// How often a word stands behind a keyword that is taken over.
fn found(facts: &Facts, word: &str) -> usize {
    let taken = |line: &&str| matches!(line.split_whitespace().next(), Some("search" | "options"));
    let words = |line: &str| {
        let line = line.split_whitespace().filter(|word| *word != "trust-ad").collect::<Vec<_>>().join(" ");
        line.matches(word).count()
    };
    facts.resolv_conf.lines().filter(taken).map(words).sum()
}

/// A machine on which everything is as it should be.
pub(super) fn facts() -> Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(machine_facts).clone()
}

/// The node of that machine.
pub(super) fn node() -> &'static NodeSpec {
    static NODE: OnceLock<NodeSpec> = OnceLock::new();
    NODE.get_or_init(|| {
        let made = init(&Config::default(), &Init::default(), Docs::default(), &facts());
        assert!(made.is_ok(), "{made:?}");
        made.map_or_else(|_| std::process::abort(), |outcome| outcome.node)
    })
}

fn machine_facts() -> Facts {
    let route = |network: &str, interface: &str| Route {
        network: network.parse().unwrap_or_default(),
        interface: interface.into(),
    };
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let programs = host::PROGRAMS.map(|name| (name.to_owned(), Some(Path::new("/usr/bin").join(name))));
    Facts {
        kernel: "6.18.5-1-default".into(),
        hostname: "N1.example.org".into(),
        user: Some(UserFact {
            uid: 990,
            gid: 989,
            home: host::HOME.into(),
            home_owner: Some((990, 0o40700)),
        }),
        users: vec![("root".into(), 0), ("u7s-admin".into(), 990)],
        subuid: "u7s-admin:524288:65536\n".into(),
        subgid: "u7s-admin:524288:65536\n".into(),
        cgroup: CgroupFact {
            unified: true,
            controllers: strings(&["cpuset", "cpu", "io", "memory", "pids"]),
        },
        oom_floor: true,
        systemd: 257,
        devices: BTreeMap::from([(PathBuf::from(host::TUN), Some(0o666))]),
        programs: programs.into(),
        versions: BTreeMap::from([("kubeadm".to_owned(), Some("1.34.4".to_owned()))]),
        uplink: Some(Uplink {
            interface: "eth0".into(),
            address: [10, 77, 0, 11].into(),
            gateway: Some([10, 77, 0, 1].into()),
            mtu: 1500,
        }),
        addresses: vec![route("127.0.0.1/8", "lo"), route("10.77.0.11/24", "eth0")],
        memory: 4 << 30,
        cpus: 2,
        online_cpus: 2,
        ..Facts::default()
    }
}
