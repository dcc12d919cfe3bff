//! How a node that was made is judged: what is wrong, what to type, and whether it counts.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{machine, planned};
use u7s_plan::certificate::Validity;
use u7s_plan::control::{ActiveState, ComponentStatus, Connections, Followed, Runtime, Status, Timings};
use u7s_plan::facts::{Facts, Listener, ResolvConf, Space, UnitFact};
use u7s_plan::health::{Certificate, ClusterSeen, Seen, TableSeen, Verdict, problems, verdict};
use u7s_plan::kubeconfig::{Fault, Wrong};
use u7s_plan::need::{Ignored, Level};
use u7s_plan::node::ComponentName;
use u7s_plan::preflight;
use u7s_plan::request::Init;

const NOW: u64 = 1_800_000_000;

fn component(name: ComponentName) -> ComponentStatus {
    ComponentStatus {
        name,
        description: String::new(),
        active: ActiveState::Active,
        enabled: true,
        pid: Some(7),
        pid_inside: Some(7),
        restarts: 0,
        last_exit: None,
        since: NOW,
    }
}

fn status() -> Status {
    Status {
        version: 1,
        supervisor_pid: 2,
        init_pid: 3,
        driver_pid: Some(4),
        cgroup: "/x".into(),
        state: "ready".into(),
        ready: true,
        runtime: Some(Runtime { name: "cri-o".into(), version: "1.34.0".into() }),
        components: ComponentName::ALL.map(component).to_vec(),
        forwards: Vec::new(),
        connections: Connections { open: 0, limit: 100, refused: 0 },
        timings: Timings::default(),
        degraded: Vec::new(),
        services: Followed { state: "followed".into(), refused: Vec::new() },
        rules: None,
        run: None,
    }
}

/// A sound control plane.
fn sound() -> Seen {
    let mut facts = machine();
    let node = planned(&facts, &Init::default()).node;
    facts.unit = UnitFact { active: "active".into(), sub: "running".into(), ..facts.unit };
    facts.space = Some(Space { total: 100 << 30, free: 50 << 30, ..Space::default() });
    Seen {
        now: NOW,
        facts,
        node: Some(node),
        status: Some(status()),
        cluster: Some(ClusterSeen { api: true, ready: true, ..ClusterSeen::default() }),
        certificates: vec![certificate(300)],
        ..Seen::default()
    }
}

fn certificate(days: u64) -> Certificate {
    Certificate::new("apiserver", "/x.crt", Validity { begins: NOW - 1000, ends: NOW + days * 86_400 }, NOW)
}

/// Spoils a sound node; gives ids with levels, the whole of messages and hints, and the verdict.
fn spoilt(spoil: impl FnOnce(&mut Seen)) -> (Vec<(String, Level)>, String, Verdict) {
    let mut seen = sound();
    spoil(&mut seen);
    let found = problems(&seen);
    let text = found.iter().map(|need| format!("{need}\n{}\n", need.remedy)).collect();
    let verdict = verdict(&found, &Ignored::default());
    (found.into_iter().map(|need| (need.id, need.level)).collect(), text, verdict)
}

fn status_of(seen: &mut Seen) -> &mut Status {
    seen.status.as_mut().unwrap()
}

#[test]
fn a_sound_node_has_no_problem() {
    assert_eq!(spoilt(|_| ()), (Vec::new(), String::new(), Verdict::Ok));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_trouble_has_its_id_and_its_hint() {
    type Spoil = fn(&mut Seen);
    let cases: [(&str, &str, Spoil); 23] = [
        ("Namespace", "kubeadm init", |seen| seen.node = None),
        ("Namespace", "systemctl start u7s.service", |seen| {
            seen.status = None;
            seen.facts.unit.active = "inactive".into();
        }),
        ("UnitFailed", "journalctl -u u7s.service", |seen| {
            seen.status = None;
            seen.facts.unit =
                UnitFact { active: "activating".into(), sub: "auto-restart".into(), ..UnitFact::default() };
        }),
        ("Supervisor", "runs, but gave no answer", |seen| {
            seen.status = None;
            seen.silent = Some("gave no answer".into());
        }),
        ("Supervisor", "runs, but its ports are unknown", |seen| {
            seen.silent = Some("its ports are unknown".into());
        }),
        ("Supervisor", "names a process of another user as crio", |seen| {
            seen.foreign = vec!["crio".into()];
        }),
        ("Kubeconfig", "do not use /etc/kubernetes/admin.conf", |seen| {
            let what = Wrong::Settings(vec!["users[].user.exec".into()]);
            seen.facts.cluster.kubeconfigs = vec![Fault { path: "/etc/kubernetes/admin.conf".into(), what }];
        }),
        ("Supervisor", "kill -CONT 9", |seen| {
            seen.stopped = vec![("u7s-supervisor".into(), 9)];
        }),
        ("NetworkDriver", "kill -CONT 9", |seen| seen.stopped = vec![("slirp4netns".into(), 9)]),
        ("NetworkDriver", "/usr/bin/slirp4netns --version", |seen| status_of(seen).driver_pid = None),
        ("CRI", "u7s logs crio", |seen| status_of(seen).runtime = None),
        ("CRI", "it ended last with signal, status=9/KILL", |seen| {
            let crio = &mut status_of(seen).components[0];
            crio.active = ActiveState::Failed;
            crio.last_exit = Some("signal, status=9/KILL".into());
        }),
        ("Kubelet", "kubeadm init    (or join: it goes on)", |seen| {
            let kubelet = &mut status_of(seen).components[1];
            (kubelet.active, kubelet.enabled) = (ActiveState::Inactive, false);
        }),
        ("ApiServer", "x509", |seen| {
            seen.cluster = Some(ClusterSeen { api_problem: Some("x509".into()), ..ClusterSeen::default() });
        }),
        ("NodeReady", "kubectl describe node", |seen| {
            seen.cluster = Some(ClusterSeen {
                api: true,
                conditions: vec!["Ready is False: no CNI".into()],
                ..ClusterSeen::default()
            });
        }),
        ("Certificate", "kubeadm certs renew all", |seen| seen.certificates = vec![certificate(0)]),
        ("Certificate", "timedatectl", |seen| {
            seen.certificates = vec![Certificate { begins: NOW + 5000, ..certificate(300) }];
        }),
        ("DiskSpace", "du -xhd2 /var/lib/u7s-admin", |seen| {
            seen.facts.space = Some(Space { total: 100 << 30, free: 1 << 20, ..Space::default() });
        }),
        ("RunSpace", "du -xhd2 /run", |seen| {
            status_of(seen).run = Some(Space { total: 1 << 30, free: 1 << 20, ..Space::default() });
        }),
        ("RunSpace", "9 of 1000 inodes", |seen| {
            status_of(seen).run = Some(Space { total: 1 << 30, free: 1 << 30, files: 1000, free_files: 9 });
        }),
        ("ResolvConf", "ls -l /etc/resolv.conf", |seen| {
            seen.facts.resolver = ResolvConf::Loop;
            seen.status = None;
            seen.facts.unit.active = "failed".into();
        }),
        ("NodeAddress", "kubeadm reset", |seen| {
            for route in &mut seen.facts.addresses {
                route.network = "192.0.2.77/24".parse().unwrap();
            }
        }),
        ("Namespace", "waits for something", |seen| {
            let status = status_of(seen);
            (status.ready, status.state) = (false, "waits for something".into());
        }),
    ];
    for (id, word, spoil) in cases {
        let (ids, text, verdict) = spoilt(spoil);
        assert!(ids.iter().any(|(seen, level)| seen == id && *level == Level::Error), "{id}: {text}");
        assert!(text.contains(word), "{word}: {text}");
        assert_eq!(verdict, Verdict::Failed, "{text}");
    }
}

#[test]
fn what_only_the_next_start_misses_degrades_a_running_node_and_fails_a_stopped_one() {
    let (ids, text, verdict) = spoilt(|seen| seen.facts.subuid = "joe:100000:65536\n".into());
    assert_eq!((ids, verdict), (vec![("Subids".to_owned(), Level::Warning)], Verdict::Degraded));
    assert!(text.contains("; the node would not start again\n"), "{text}");
    let (ids, ..) = spoilt(|seen| {
        seen.facts.subuid.clear();
        seen.status = None;
        seen.facts.unit.active = "failed".into();
    });
    let errors: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(errors, ["Subids", "UnitFailed"], "the cause comes first");
}

#[test]
fn a_node_gets_its_own_ids_back_and_no_others() {
    let mut seen = sound();
    let node = seen.node.as_mut().unwrap();
    node.uid_map[1].outside = 300_000;
    node.gid_map[1].outside = 400_000;
    seen.facts.subuid.clear();
    seen.facts.subgid.clear();
    let remedies: Vec<String> = problems(&seen).into_iter().map(|need| need.remedy).collect();
    let wanted =
        ["usermod --add-subuids 300000-365535 u7s-admin", "usermod --add-subgids 400000-465535 u7s-admin"];
    assert_eq!(remedies, wanted);
}

#[test]
fn f29_the_owner_of_a_nodes_port_is_named_and_the_node_itself_is_none() {
    let taken = |ours: bool| Listener {
        address: [0, 0, 0, 0].into(),
        port: 10250,
        owner: Some((7, "socat".into())),
        ours,
    };
    let (ids, text, _) = spoilt(|seen| {
        seen.status = None;
        seen.facts.unit.active = "failed".into();
        seen.facts.listeners = vec![taken(false)];
    });
    assert!(
        ids.iter().any(|(id, _)| id == "Port-10250") && text.contains("in use by socat (pid 7)"),
        "{text}"
    );
    assert_eq!(spoilt(|seen| seen.facts.listeners = vec![taken(true)]).2, Verdict::Ok);
}

#[test]
fn ports_whose_owner_others_may_not_see_are_not_told_taken_while_the_node_runs() {
    let mut facts: Facts = sound().facts;
    facts.listeners = vec![Listener { address: [0, 0, 0, 0].into(), port: 10250, owner: None, ours: false }];
    let node = sound().node.unwrap();
    let taken =
        |facts: &Facts| preflight::standing_needs(facts, &node).iter().any(|need| need.id == "Port-10250");
    assert!(taken(&facts), "root sees all owners");
    facts.euid = 65_534;
    assert!(!taken(&facts));
    facts.unit.active = "inactive".into();
    assert!(taken(&facts));
}

#[test]
fn ignored_problems_do_not_count() {
    let mut seen = sound();
    seen.node.as_mut().unwrap().degraded = vec!["OomScore".into()];
    let found = problems(&seen);
    assert_eq!(verdict(&found, &Ignored::default()), Verdict::Degraded);
    assert_eq!(verdict(&found, &Ignored::new(["degraded"])), Verdict::Ok);
}

/// An nft that failed at the start was told to the journal alone.
#[test]
fn rules_of_the_forwarder_that_are_not_loaded_degrade_the_node() {
    let (ids, text, verdict) =
        spoilt(|seen| status_of(seen).rules = Some("nft took longer than 10 s".into()));
    assert_eq!((ids, verdict), (vec![("ForwardRules".to_owned(), Level::Warning)], Verdict::Degraded));
    assert!(text.contains("datagrams do not work: nft took longer than 10 s"), "{text}");
}

/// Rules of the host that were loaded anew had taken the table away, and status was OK.
#[test]
fn a_table_of_the_host_that_is_gone_or_another_degrades_the_node_and_is_put_back() {
    for (table, word) in [(TableSeen::Missing, "is gone"), (TableSeen::Other, "is not the one")] {
        let (ids, text, verdict) = spoilt(|seen| seen.table = table);
        assert_eq!((ids, verdict), (vec![("FirewallTable".to_owned(), Level::Warning)], Verdict::Degraded));
        assert!(text.contains(word) && text.ends_with("\nu7s host-apply\n"), "{text}");
    }
    assert_eq!(spoilt(|seen| seen.table = TableSeen::Holds).2, Verdict::Ok);
}
