//! Whoever dies, nothing is left that should not be.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_plan::control::Request;
use u7s_plan::node::ComponentName;

use crate::bench::{Bench, Running, component};
use crate::proc::{of_user, wait_for};

/// How long the remains of a killed node may last.
const REMAINS: Duration = Duration::from_secs(2);

fn wait_until_nothing_runs(node: &Running) {
    let uid = node.bench.uid;
    let mut last = Vec::new();
    let gone = || {
        last = of_user(uid);
        last.is_empty().then_some(())
    };
    wait_for("the user's last process to end", REMAINS, gone);
}

fn assert_nothing_is_left(node: &Running) {
    assert_eq!(of_user(node.bench.uid), []);
    assert!(!node.bench.cgroup().join("node").exists(), "the cgroup is left");
    assert!(!node.bench.path("run/control.sock").exists(), "the socket is left");
}

#[test]
fn sigterm_ends_everything_in_order() {
    let mut node = Bench::new().start();
    let sleeper = node.inside("sleep 300 >/dev/null 2>&1 & echo $!");
    assert_ne!(sleeper, "");
    assert_eq!(node.end(Signal::SIGTERM).code(), Some(0), "{}", node.output());
    assert_nothing_is_left(&node);
    let said = node.said();
    assert!(said.contains(&"STOPPING=1".to_owned()), "{said:?}");
    let place = |words: &str| said.iter().position(|line| line.contains(words));
    assert!(place("stopping the pods") < place("stopping pid 1"), "{said:?}");
}

#[test]
fn a_pod_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut bench = Bench::new();
    let pod = "mkdir -p /sys/fs/cgroup/kubepods/pod1
        (echo 0 > /sys/fs/cgroup/kubepods/pod1/cgroup.procs; trap '' TERM; exec sleep 300) &
        exec sleep 300";
    bench.spec.components.push(component(ComponentName::Kubelet, &["/bin/sh", "-c", pod]));
    let mut node = bench.start();
    let procs = node.bench.cgroup().join("node/kubepods/pod1/cgroup.procs");
    wait_for("the pod", Duration::from_secs(5), || {
        fs::read_to_string(&procs).ok().filter(|pids| !pids.is_empty())
    });
    let begun = std::time::Instant::now();
    assert_eq!(node.end(Signal::SIGTERM).code(), Some(0), "{}", node.output());
    let took = begun.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert_nothing_is_left(&node);
}

#[test]
fn f2_kill_of_the_supervisor_leaves_no_process() {
    let mut node = Bench::new().start();
    node.inside("sleep 300 >/dev/null 2>&1 &");
    assert_eq!(node.end(Signal::SIGKILL).signal(), Some(9));
    wait_until_nothing_runs(&node);
}

#[test]
fn f2_kill_of_pid_one_is_a_failure_that_cleans_up() {
    let mut node = Bench::new().start();
    node.inside("sleep 300 >/dev/null 2>&1 &");
    kill(Pid::from_raw(node.init()), Signal::SIGKILL).unwrap();
    assert_eq!(node.ended().code(), Some(1));
    assert_nothing_is_left(&node);
    assert!(node.output().contains("the node's pid 1 ended: signal, status=9/KILL"), "{}", node.output());
}

#[test]
fn a_signal_to_pid_one_from_inside_is_an_orderly_end_and_a_failure() {
    let mut node = Bench::new().start();
    // Later, or the shell would die of the answer.
    node.inside("(sleep 0.2; kill -TERM 1) >/dev/null 2>&1 &");
    assert_eq!(node.ended().code(), Some(1));
    assert_nothing_is_left(&node);
    assert!(node.output().contains("the node's pid 1 was told to end by a signal"), "{}", node.output());
}

#[test]
fn a_stale_node_of_a_killed_supervisor_is_removed_by_the_next() {
    let mut first = Bench::new().start();
    first.end(Signal::SIGKILL);
    wait_until_nothing_runs(&first);
    assert!(first.bench.cgroup().join("node/init").exists(), "nobody was there to remove it");
    let second = first.restart();
    assert!(second.now().ready);
}

#[test]
fn a_hung_pid_one_ends_the_node() {
    let mut bench = Bench::new();
    bench.spec.components.push(component(ComponentName::Kubelet, &["/bin/sleep", "infinity"]));
    let mut node = bench.start();
    kill(Pid::from_raw(node.init()), Signal::SIGSTOP).unwrap();
    node.shout(&Request::Restart { component: ComponentName::Kubelet });
    assert_eq!(node.ended().code(), Some(1));
    assert_nothing_is_left(&node);
    assert!(node.output().contains("waited 5 s for an answer of the node's pid 1"), "{}", node.output());
}

#[test]
fn sigterm_at_any_moment_of_the_start_leaves_no_process() {
    for delay in [0, 1, 2, 4, 8, 12, 16, 24, 32, 48] {
        let bench = Bench::new();
        let (uid, cgroup) = (bench.uid, bench.cgroup().join("node"));
        bench.interrupt(Duration::from_millis(delay));
        wait_for("the user's last process to end", REMAINS, || of_user(uid).is_empty().then_some(()));
        // What a start cut off in its first moments leaves is an empty directory, which the next one removes.
        assert!(bench.start().now().ready, "{}", cgroup.display());
    }
}
