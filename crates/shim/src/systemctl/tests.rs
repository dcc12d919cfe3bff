use u7s_plan::control::{ActiveState, Answer, ComponentStatus, Connections, Timings};
use u7s_plan::control::{Request, Status};

use super::*;

/// 2026-11-22 07:26:01 UTC.
const SINCE: u64 = 1_795_332_361;

fn component(
    name: ComponentName,
    active: ActiveState,
    pid: Option<i32>,
    last_exit: Option<&str>,
) -> ComponentStatus {
    ComponentStatus {
        name,
        description: format!("the {}", name.as_str()),
        active,
        enabled: name == ComponentName::Kubelet,
        pid,
        pid_inside: pid.map(|pid| pid - 1000),
        restarts: 2,
        last_exit: last_exit.map(str::to_owned),
        since: SINCE,
    }
}

fn status(kubelet: ComponentStatus) -> Status {
    Status {
        version: 1,
        supervisor_pid: 1,
        init_pid: 2,
        driver_pid: None,
        cgroup: "/system.slice/u7s.service/node".into(),
        state: "ready".into(),
        ready: true,
        runtime: None,
        components: vec![component(ComponentName::Crio, ActiveState::Active, Some(1050), None), kubelet],
        forwards: Vec::new(),
        connections: Connections { open: 0, limit: 0, refused: 0 },
        timings: Timings::default(),
        degraded: Vec::new(),
        services: Default::default(),
        rules: None,
        run: None,
    }
}

fn running() -> Status {
    status(component(ComponentName::Kubelet, ActiveState::Active, Some(1060), None))
}

fn argv(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn inside(line: &str) -> Ours {
    match parse(&argv(line), Place::Inside) {
        Call::Ours(ours) => ours,
        call => panic!("{line}: {call:?}"),
    }
}

fn asked(line: &str, status: Option<&Status>) -> (String, String, u8) {
    let ours = inside(line);
    assert!(ours.is_question(), "{line}");
    let Rendered { stdout, stderr, code } = render(&ours, status, SINCE + 62, true);
    (stdout, stderr, code)
}

#[test]
fn every_call_of_kubeadm_is_ours_inside() {
    for line in [
        "daemon-reload",
        "start kubelet",
        "restart kubelet",
        "stop kubelet",
        "status kubelet",
        "is-enabled kubelet",
        "is-active kubelet",
        "status firewalld",
        "is-active firewalld",
        "is-active systemd-resolved",
        "reset-failed",
    ] {
        assert!(matches!(parse(&argv(line), Place::Inside), Call::Ours(_)), "{line}");
    }
}

#[test]
fn on_the_host_only_our_units_are_ours() {
    for (line, mine) in [
        ("is-active kubelet", true),
        ("-q is-active crio.service", true),
        ("status --no-pager -l kubelet crio", true),
        ("show -p ActiveState --value kubelet", true),
        ("show kubelet -pActiveState,SubState", true),
        ("enable --now kubelet", true),
        ("restart --no-block -- kubelet", true),
        ("is-active sshd", false),
        ("daemon-reload", false),
        ("status", false),
        ("reset-failed", false),
        ("list-units", false),
        ("kill kubelet", false),
        ("cat kubelet", false),
        ("mask kubelet", false),
        ("--user start kubelet", false),
        ("-H other start kubelet", false),
        ("-M box start kubelet", false),
        ("--root=/x enable kubelet", false),
        ("--frobnicate start kubelet", false),
        ("is-active kube*", false),
        ("is-active kubelet.socket", false),
        ("is-active kubelet.service.service", false),
        ("-p", false),
        ("", false),
    ] {
        let call = parse(&argv(line), Place::Host);
        assert_eq!(matches!(call, Call::Ours(_)), mine, "{line}: {call:?}");
        assert!(mine || call == Call::Real, "{line}: {call:?}");
    }
}

#[test]
fn options_are_read_wherever_they_stand() {
    let ours = inside("-ql show --property=Id,ActiveState kubelet -P MainPID --lines 3 -n5 --now");
    assert_eq!(
        ours.options,
        Options {
            quiet: true,
            no_block: false,
            now: true,
            value: true,
            properties: ["Id", "ActiveState", "MainPID"].map(str::to_owned).to_vec()
        }
    );
    assert_eq!(ours.units, [Unit::Component(ComponentName::Kubelet)]);
}

#[test]
fn a_mixed_call_is_parted() {
    let Call::Mixed { ours, real } = parse(&argv("restart -q kubelet sshd crio.service"), Place::Host) else {
        panic!("not mixed");
    };
    assert_eq!(real, argv("restart -q sshd"));
    assert_eq!(ours.units.iter().map(Unit::name).collect::<Vec<_>>(), ["kubelet.service", "crio.service"]);
}

#[test]
fn words_that_are_no_text_are_the_real_ones() {
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(vec![b'k', 0xff]);
    for line in [vec![odd.clone()], vec!["start".into(), odd.clone()], vec!["-p".into(), odd]] {
        assert_eq!(parse(&line, Place::Host), Call::Real);
    }
}

#[test]
fn states_and_exit_codes_are_those_of_systemctl() {
    use ActiveState::{Activating, Active, Deactivating, Failed, Inactive};
    let kubelet = |active, pid, exit| status(component(ComponentName::Kubelet, active, pid, exit));
    let table = [
        (kubelet(Active, Some(1060), None), "active", 0, 1, 0, "active (running)"),
        (kubelet(Activating, Some(1060), None), "activating", 3, 1, 3, "activating (start)"),
        (
            kubelet(Activating, None, Some("exited, status=1")),
            "activating",
            3,
            1,
            3,
            "activating (auto-restart) (Result: exit-code)",
        ),
        (kubelet(Deactivating, Some(1060), None), "deactivating", 3, 1, 3, "deactivating (stop-sigterm)"),
        (kubelet(Inactive, None, Some("exited, status=0")), "inactive", 3, 1, 3, "inactive (dead)"),
        (kubelet(Failed, None, Some("signal, status=9/KILL")), "failed", 3, 0, 3, "failed (Result: signal)"),
    ];
    for (status, state, is_active, is_failed, code, line) in table {
        let line_of = |text: &str| format!("{text}\n");
        assert_eq!(asked("is-active kubelet", Some(&status)), (line_of(state), String::new(), is_active));
        assert_eq!(asked("-q is-active kubelet", Some(&status)), (String::new(), String::new(), is_active));
        assert_eq!(asked("is-failed kubelet", Some(&status)), (line_of(state), String::new(), is_failed));
        let (text, _, exit) = asked("status kubelet", Some(&status));
        let active = format!("     Active: {line} since Sun 2026-11-22 07:26:01 UTC; 1min 2s ago\n");
        assert!(text.contains(&active), "{text}");
        assert_eq!(exit, code, "{text}");
    }
}

#[test]
fn the_status_block_is_what_kubeadm_reads() {
    assert_eq!(
        asked("status kubelet", Some(&running())).0,
        "* kubelet.service - the kubelet
     Loaded: loaded (/usr/lib/systemd/system/u7s.service; enabled; preset: disabled)
     Active: active (running) since Sun 2026-11-22 07:26:01 UTC; 1min 2s ago
   Main PID: 60 (kubelet)
     CGroup: /system.slice/u7s.service/node/init
             `-60 kubelet
"
    );
}

#[test]
fn without_a_supervisor_nothing_runs() {
    assert_eq!(asked("is-active kubelet", None), ("inactive\n".into(), String::new(), 3));
    assert_eq!(asked("is-enabled kubelet", None), ("disabled\n".into(), String::new(), 1));
    assert_eq!(
        asked("status kubelet", None),
        (
            "* kubelet.service - kubelet of the rootless node
     Loaded: loaded (/usr/lib/systemd/system/u7s.service; disabled; preset: disabled)
     Active: inactive (dead)
"
            .into(),
            String::new(),
            3
        )
    );
}

#[test]
fn units_that_are_not_there_are_named_as_systemctl_does() {
    let running = running();
    let status = Some(&running);
    assert_eq!(
        asked("status firewalld", status),
        (String::new(), "Unit firewalld.service could not be found.\n".into(), 4)
    );
    assert_eq!(asked("is-active systemd-resolved", status), ("inactive\n".into(), String::new(), 4));
    assert_eq!(asked("is-enabled firewalld.service", status), ("not-found\n".into(), String::new(), 4));
    assert_eq!(asked("is-active firewalld kubelet", status), ("inactive\nactive\n".into(), String::new(), 0));
    assert_eq!(
        asked("show -p LoadState,ActiveState foo.socket", status),
        ("LoadState=not-found\nActiveState=inactive\n".into(), String::new(), 0)
    );
    let said = |line: &str| {
        let Rendered { stderr, code, .. } = act(&inside(line), &[]);
        (stderr, code)
    };
    assert_eq!(said("start foo"), ("Failed to start foo.service: Unit foo.service not found.\n".into(), 5));
    assert_eq!(said("stop foo"), ("Failed to stop foo.service: Unit foo.service not loaded.\n".into(), 5));
    assert_eq!(said("enable foo"), ("Failed to enable unit: Unit foo.service does not exist\n".into(), 1));
    assert_eq!(
        said("try-restart foo"),
        ("Failed to try-restart foo.service: Unit foo.service not found.\n".into(), 5)
    );
    assert_eq!(said("daemon-reload"), (String::new(), 0));
}

#[test]
fn show_prints_the_properties_that_are_asked_for() {
    let running = running();
    assert_eq!(
        asked("show -p ActiveState -p MainPID,NoSuch kubelet crio", Some(&running)).0,
        "MainPID=60\nActiveState=active\n\nMainPID=50\nActiveState=active\n"
    );
    assert_eq!(asked("show -P SubState kubelet", Some(&running)).0, "running\n");
    let host = inside("show -P MainPID kubelet");
    assert_eq!(render(&host, Some(&running), SINCE, false).stdout, "1060\n");
}

#[test]
fn orders_become_requests_and_their_failures_sentences() {
    let kubelet = ComponentName::Kubelet;
    let crio = ComponentName::Crio;
    let table = [
        (
            "start crio kubelet",
            vec![Request::Start { component: crio }, Request::Start { component: kubelet }],
        ),
        ("restart kubelet", vec![Request::Restart { component: kubelet }]),
        ("try-restart kubelet crio", vec![Request::Restart { component: crio }]),
        (
            "enable --now kubelet",
            vec![Request::Enable { component: kubelet }, Request::Start { component: kubelet }],
        ),
        (
            "disable --now kubelet",
            vec![Request::Disable { component: kubelet }, Request::Stop { component: kubelet }],
        ),
        ("reset-failed kubelet", vec![]),
        ("is-active kubelet", vec![]),
    ];
    for (line, requests) in table {
        assert_eq!(inside(line).requests(|name| name == crio), requests, "{line}");
    }
    let ours = inside("enable --now kubelet");
    let refused = Outcome::Answered(Answer::Refused { reason: "no\u{1b}config".into() });
    let outcomes = [
        (Request::Enable { component: kubelet }, Outcome::Answered(Answer::Done)),
        (Request::Start { component: kubelet }, refused),
    ];
    let Rendered { stdout, stderr, code } = act(&ours, &outcomes);
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), code),
        ("", "Failed to start kubelet.service: no config\n", 1)
    );
    assert_eq!(
        act(&inside("reload kubelet"), &[]).stderr,
        "Failed to reload kubelet.service: Job type reload is not applicable for unit kubelet.service.\n"
    );
    assert_eq!(act(&inside("reload kubelet"), &[]).code, 3);
    // Read off a real one: `systemctl enable nope t-never` leaves t-never disabled.
    assert_eq!(inside("enable nope kubelet").requests(|_| true), []);
    assert_eq!(inside("disable --now nope kubelet").requests(|_| true), []);
}

/// Read off systemd 257: `Process: 180 ExecStart=… (code=exited, status=7)`, `(code=killed, signal=KILL)`.
#[test]
fn a_component_that_ended_shows_how_in_systemds_words() {
    use ActiveState::{Activating, Active, Failed, Inactive};
    let shown = |active, pid, last: &str| {
        asked("status kubelet", Some(&status(component(ComponentName::Kubelet, active, pid, Some(last))))).0
    };
    let line = |text: &str| text.lines().find(|line| line.contains("Process:")).map(str::to_owned);
    let cases = [
        (Failed, None, "exited, status=7", Some("    Process: kubelet (code=exited, status=7)")),
        (Failed, None, "signal, status=9/KILL", Some("    Process: kubelet (code=killed, signal=KILL)")),
        (Activating, None, "exited, status=1", Some("    Process: kubelet (code=exited, status=1)")),
        (Active, Some(1060), "exited, status=1", None),
        (Inactive, None, "exited, status=0", None),
    ];
    for (active, pid, last, expected) in cases {
        assert_eq!(line(&shown(active, pid, last)).as_deref(), expected, "{last}");
    }
}

#[test]
fn show_of_a_service_that_is_not_there_has_the_properties_of_a_service() {
    let running = running();
    assert_eq!(
        asked("show -p MainPID,Result,LoadState,UnitFileState,CanStart nope", Some(&running)).0,
        "MainPID=0\nResult=success\nLoadState=not-found\nUnitFileState=\nCanStart=no\n"
    );
    assert_eq!(asked("show -p MainPID,LoadState nope.socket", Some(&running)).0, "LoadState=not-found\n");
}

/// The status comes from the node's user; the answer goes to root's terminal.
#[test]
fn s39_nothing_that_the_supervisor_says_commands_the_terminal() {
    let mut hostile = component(ComponentName::Kubelet, ActiveState::Failed, None, Some("\u{1b}[2J"));
    hostile.description = "x\u{1b}]0;y\u{7}\nFake: line".into();
    let mut hostile = status(hostile);
    hostile.cgroup = "/a\u{9b}31m".into();
    for call in ["status kubelet crio", "show kubelet crio"] {
        let (text, _, _) = asked(call, Some(&hostile));
        assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
        assert!(!text.contains("\nFake"), "{text}");
    }
}
