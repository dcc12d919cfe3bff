//! What the supervisor does where the kernel gives no more: processes (F12), descriptors (F13); and what it does not need:
//! a directory that systemd makes (F32), helpers that map ids (F34).

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_plan::control::{ActiveState, ComponentStatus};
use u7s_plan::node::ComponentName::Kubelet;

use crate::bench::{Bench, Running, component};
use crate::proc::{of_user, wait_for};

/// How long the node is watched while it cannot have what it asks for.
const WATCHED: Duration = Duration::from_secs(4);

/// Sets a soft limit of a process as its own user: root of another user namespace's parent has no right to.
fn limit(node: &Running, pid: i32, limit: &str) {
    let uid = node.bench.uid;
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
    let status = Command::new("setpriv")
        .args(ids)
        .args(["prlimit", "--pid", &pid.to_string(), limit])
        .status()
        .unwrap();
    assert!(status.success(), "prlimit {limit} of {pid}: {status}");
}

/// Processor time of a process so far, in ticks of 10 ms.
///
/// Source: proc_pid_stat(5), fields 14 and 15; the name in field 2 may hold blanks.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [11, 12].map(|at| fields[at].parse::<u64>().unwrap()).iter().sum()
}

/// Processor time that supervisor and pid 1 use while they are watched, as a part of one processor.
fn load(node: &Running) -> f64 {
    let both = || ticks(node.pid()) + ticks(node.init());
    let before = both();
    std::thread::sleep(WATCHED);
    let used = u32::try_from(both() - before).unwrap();
    f64::from(used) / 100.0 / WATCHED.as_secs_f64()
}

fn kubelet(node: &Running) -> ComponentStatus {
    node.now().components.into_iter().find(|component| component.name == Kubelet).unwrap()
}

fn active(node: &Running, within: Duration) -> i32 {
    wait_for("an active component", within, || {
        let status = kubelet(node);
        status.pid.filter(|_| status.active == ActiveState::Active)
    })
}

#[test]
fn f12_without_processes_a_component_is_tried_again_and_nothing_spins() {
    let mut bench = Bench::new();
    bench.spec.components.push(component(Kubelet, &["/bin/sleep", "infinity"]));
    let node = bench.start();
    let first = active(&node, Duration::from_secs(10));
    limit(&node, node.init(), "--nproc=1:");
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    wait_for("a start that is refused", Duration::from_secs(20), || {
        (node.output().contains("EAGAIN") && kubelet(&node).pid.is_none()).then_some(())
    });
    let load = load(&node);
    assert!(load < 0.05, "{load:.3} of a processor\n{}", node.output());
    assert!(kubelet(&node).pid.is_none(), "the limit is none");
    limit(&node, node.init(), "--nproc=4096:");
    // Pauses double up to 30 s.
    assert_ne!(active(&node, Duration::from_secs(45)), first);
}

#[test]
fn f13_without_descriptors_nothing_spins_and_clients_are_answered_afterwards() {
    let mut bench = Bench::new();
    bench.spec.components.push(component(Kubelet, &["/bin/sleep", "infinity"]));
    let node = bench.start();
    let first = active(&node, Duration::from_secs(10));
    limit(&node, node.pid(), "--nofile=3:");
    let socket = node.bench.path("run/control.sock");
    // They lie in the socket's queue, and each wakes whoever accepts.
    let waiting: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let load = load(&node);
    assert!(load < 0.05, "{load:.3} of a processor\n{}", node.output());
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    drop(waiting);
    limit(&node, node.pid(), "--nofile=4096:");
    assert_ne!(active(&node, Duration::from_secs(45)), first);
    assert_eq!(node.now().init_pid, node.init(), "the node is the same");
}

#[test]
fn f32_a_missing_runtime_directory_is_named() {
    let bench = Bench::new();
    fs::remove_dir(bench.path("run")).unwrap();
    assert!(refused(&bench).contains(&bench.path("run").display().to_string()));
}

#[test]
fn f32_a_runtime_directory_of_somebody_else_is_named() {
    let bench = Bench::new();
    chown(bench.path("run"), Some(0), Some(0)).unwrap();
    let said = refused(&bench);
    assert!(said.contains("control.sock") && said.contains("Permission denied"), "{said}");
}

fn refused(bench: &Bench) -> String {
    let (status, output) = bench.fail();
    assert_eq!(status.code(), Some(1), "{output}");
    assert_eq!(of_user(bench.uid), []);
    output
}

#[test]
fn f34_the_unit_needs_no_helpers() {
    let mut bench = Bench::new();
    bench.spec.programs.newuidmap = Some("/nonexistent/newuidmap".into());
    bench.spec.programs.newgidmap = None;
    assert!(bench.start().now().ready);
}

/// A program in the place of newuidmap, on the bench.
fn helper(bench: &Bench, script: &str) -> PathBuf {
    let path = bench.path("helper");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn f34_a_helper_that_refuses_is_named_with_its_words() {
    let mut bench = Bench::new();
    bench.privileges = "--inh-caps=-all";
    let path = helper(&bench, "echo 'newuidmap: Target 1 is owned by a different user' >&2; exit 1");
    bench.spec.programs.newuidmap = Some(path.clone());
    let said = refused(&bench);
    assert!(said.contains(&path.display().to_string()), "{said}");
    assert!(said.contains("Target 1 is owned by a different user"), "{said}");
}

#[test]
fn f34_a_helper_without_its_capability_is_named() {
    let mut bench = Bench::new();
    bench.privileges = "--inh-caps=-all";
    // A copy has neither file capabilities nor the setuid bit: what a package manager or a copied image leaves.
    let path = bench.path("newuidmap");
    fs::copy("/usr/bin/newuidmap", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    bench.spec.programs.newuidmap = Some(path.clone());
    let said = refused(&bench);
    assert!(said.contains(&path.display().to_string()) && said.contains("Operation not permitted"), "{said}");
}

#[test]
fn f34_a_helper_that_hangs_is_ended_and_named() {
    let mut bench = Bench::new();
    bench.privileges = "--inh-caps=-all";
    let path = helper(&bench, "exec sleep 300");
    bench.spec.programs.newuidmap = Some(path.clone());
    let said = refused(&bench);
    assert!(said.contains(&path.display().to_string()) && said.contains("no end within 10 s"), "{said}");
}
