//! Components are kept as their administrator wants them.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_plan::control::{ActiveState, Answer, ComponentStatus, Request};
use u7s_plan::node::ComponentName::{Crio, Kubelet};

use crate::bench::{Bench, Running, component};
use crate::proc::{cgroup, status, wait_for};

fn kubelet(node: &Running) -> ComponentStatus {
    node.now().components.into_iter().find(|component| component.name == Kubelet).unwrap()
}

fn start(argv: &[&str]) -> Running {
    let mut bench = Bench::new();
    bench.spec.components.push(component(Kubelet, argv));
    bench.start()
}

fn active(node: &Running) -> ComponentStatus {
    wait_for("the component to be active", Duration::from_secs(10), || {
        Some(kubelet(node)).filter(|status| status.active == ActiveState::Active)
    })
}

#[test]
fn a_component_runs_inside_with_the_nodes_rights_and_its_own_environment() {
    let node = start(&["/bin/sleep", "infinity"]);
    let pid = active(&node).pid.unwrap();
    assert_eq!(
        status(pid, "NSpid").split_whitespace().last(),
        active(&node).pid_inside.map(|pid| pid.to_string()).as_deref()
    );
    assert_eq!(cgroup(pid), cgroup(node.init()));
    assert_eq!(status(pid, "NoNewPrivs"), "0");
    assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"PATH=/usr/bin:/bin\0");
    assert_eq!(std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 3);
    let own = |pid| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(own(pid), own(node.pid()));
}

#[test]
fn start_stop_and_restart_do_what_they_say() {
    let node = start(&["/bin/sleep", "infinity"]);
    let first = active(&node).pid.unwrap();
    assert_eq!(node.ask(&Request::Start { component: Kubelet }), Answer::Done);
    assert_eq!(kubelet(&node).pid, Some(first), "it ran already");
    assert_eq!(node.ask(&Request::Restart { component: Kubelet }), Answer::Done);
    let second = active(&node).pid.unwrap();
    assert_ne!(second, first);
    assert_eq!(node.ask(&Request::Stop { component: Kubelet }), Answer::Done);
    let stopped = kubelet(&node);
    assert_eq!((stopped.active, stopped.pid), (ActiveState::Inactive, None));
    assert_eq!(stopped.last_exit.as_deref(), Some("signal, status=15/TERM"));
    assert!(!std::path::Path::new(&format!("/proc/{second}")).exists());
    assert_eq!(node.ask(&Request::Stop { component: Kubelet }), Answer::Done);
    assert_eq!(node.ask(&Request::Start { component: Kubelet }), Answer::Done);
    assert_eq!(kubelet(&node).active, ActiveState::Active);
}

#[test]
fn a_killed_component_is_started_again_alone() {
    let node = start(&["/bin/sleep", "infinity"]);
    let (first, driver) = (active(&node).pid.unwrap(), node.status().driver_pid);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let again = wait_for("its successor", Duration::from_secs(5), || {
        Some(kubelet(&node)).filter(|status| status.pid.is_some_and(|pid| pid != first))
    });
    assert_eq!((again.restarts, again.last_exit.as_deref()), (1, Some("signal, status=9/KILL")));
    assert_eq!((node.now().init_pid, node.now().driver_pid), (node.init(), driver));
}

#[test]
fn a_program_that_cannot_run_is_refused_with_its_name() {
    let node = start(&["/nonexistent/kubelet"]);
    let said = node.ask(&Request::Restart { component: Kubelet });
    let reason = "start a program inside: execve /nonexistent/kubelet: ENOENT: No such file or directory";
    assert_eq!(said, Answer::Refused { reason: reason.into() });
}

#[test]
fn a_component_whose_file_is_missing_is_not_started() {
    let mut bench = Bench::new();
    let mut kubelet_spec = component(Kubelet, &["/bin/sleep", "infinity"]);
    kubelet_spec.needs_file = Some(bench.path("target/config.yaml"));
    bench.spec.components.push(kubelet_spec);
    let node = bench.start();
    let needed = node.bench.path("target/config.yaml");
    let said = node.ask(&Request::Start { component: Kubelet });
    assert_eq!(said, Answer::Refused { reason: format!("{} is not there yet", needed.display()) });
    node.inside(&format!("touch {}", needed.display()));
    assert_eq!(node.ask(&Request::Start { component: Kubelet }), Answer::Done);
}

#[test]
fn arguments_come_from_environment_files_inside() {
    let mut bench = Bench::new();
    let mut spec = component(Kubelet, &["/bin/sleep"]);
    spec.env_files = vec![bench.path("target/flags.env")];
    spec.arg_vars = vec!["FLAGS".into()];
    spec.always = false;
    bench.spec.components.push(spec);
    let node = bench.start();
    node.inside(&format!("echo 'FLAGS=\"1000 2000\"' > {}", node.bench.path("target/flags.env").display()));
    assert_eq!(node.ask(&Request::Start { component: Kubelet }), Answer::Done);
    let pid = kubelet(&node).pid.unwrap();
    wait_for("its command line", Duration::from_secs(2), || {
        (std::fs::read(format!("/proc/{pid}/cmdline")).unwrap() == b"/bin/sleep\x001000\x002000\0")
            .then_some(())
    });
}

#[test]
fn enabled_is_remembered_over_a_restart_of_the_node() {
    let mut bench = Bench::new();
    let mut spec = component(Kubelet, &["/bin/sleep", "infinity"]);
    spec.always = false;
    bench.spec.components.push(spec);
    let mut node = bench.start();
    assert_eq!((kubelet(&node).active, kubelet(&node).enabled), (ActiveState::Inactive, false));
    assert_eq!(node.ask(&Request::Enable { component: Kubelet }), Answer::Done);
    assert_eq!(kubelet(&node).active, ActiveState::Inactive, "enabling starts nothing");
    node.end(Signal::SIGTERM);
    let node = node.restart();
    assert!(active(&node).enabled);
    assert_eq!(node.ask(&Request::Disable { component: Kubelet }), Answer::Done);
    assert!(!kubelet(&node).enabled);
}

#[test]
fn a_component_that_the_node_lacks_is_refused() {
    let node = start(&["/bin/sleep", "infinity"]);
    let said = node.ask(&Request::Start { component: Crio });
    assert_eq!(said, Answer::Refused { reason: "this node has no crio".into() });
}

#[test]
fn output_is_read_line_by_line_and_never_blocks_the_program() {
    let node =
        start(&["/bin/sh", "-c", "yes 0123456789 | head -n 100000; echo the end >&2; exec sleep infinity"]);
    wait_for("the last line", Duration::from_secs(10), || {
        node.output().contains("kubelet: the end\n").then_some(())
    });
}

#[test]
fn a_stranger_is_refused_even_where_the_directory_lets_him_in() {
    let node = start(&["/bin/sleep", "infinity"]);
    let socket = node.bench.path("run/control.sock");
    for path in [socket.parent().unwrap(), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ask = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups /usr/bin/python3 -c \"import socket\n\
         s=socket.socket(socket.AF_UNIX); s.connect('{}'); s.send(b'{{}}\\n'); print(s.recv(999).decode())\"",
        socket.display()
    );
    let said = node.outside(&ask);
    assert_eq!(said.trim(), r#"{"answer":"refused","reason":"only root and the node's user may ask"}"#);
}

#[test]
fn silent_clients_of_the_nodes_user_keep_root_from_nothing() {
    let node = start(&["/bin/sleep", "infinity"]);
    let crowd = "import socket, time\n\
         all = []\n\
         for _ in range(64):\n    s = socket.socket(socket.AF_UNIX); s.connect('/run/u7s/control.sock'); all.append(s)\n\
         open('/root/crowd', 'w').close(); time.sleep(20)";
    node.inside(&format!("/usr/bin/python3 -c \"{crowd}\" >/dev/null 2>&1 &"));
    node.inside("until test -e /root/crowd; do sleep 0.05; done");
    let begun = std::time::Instant::now();
    assert!(node.now().ready);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn an_environment_file_that_no_packet_can_carry_is_no_death_of_the_node() {
    let mut bench = Bench::new();
    let mut spec = component(Kubelet, &["/bin/sleep"]);
    spec.env_files = vec![bench.path("target/flags.env")];
    spec.arg_vars = vec!["FLAGS".into()];
    spec.always = false;
    bench.spec.components.push(spec);
    let node = bench.start();
    node.inside(&format!(
        "(echo -n FLAGS=; head -c 60000 /dev/zero | tr '\\0' '\\001') > {}",
        node.bench.path("target/flags.env").display()
    ));
    let said = node.ask(&Request::Start { component: Kubelet });
    assert!(matches!(&said, Answer::Refused { reason } if reason.contains("EMSGSIZE")), "{said:?}");
    assert!(node.now().ready);
}
