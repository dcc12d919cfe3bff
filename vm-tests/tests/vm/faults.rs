//! What the administrator, systemd or a stuck process does to a node that runs (F5, F6, F9, F14 to F17).

use std::time::{Duration, Instant};

use crate::Listed;
use crate::world::{Check, Cluster, SOON, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[
    ("faults::f5_f6_kill_of_crio_and_kubelet", f5_f6_kill_of_crio_and_kubelet),
    ("faults::f9_a_stopped_crio_is_replaced", |world| stopped(world, "crio")),
    ("faults::f9_a_stopped_kubelet_is_replaced", |world| stopped(world, "kubelet")),
    ("faults::f9_a_stopped_supervisor_is_replaced", f9_a_stopped_supervisor_is_replaced),
    ("faults::f14_f17_systemd_is_told_to_reload", f14_f17_systemd_is_told_to_reload),
    ("faults::f15_a_node_runs_and_heals_without_the_bus", f15_a_node_runs_and_heals_without_the_bus),
    (
        "faults::f16_the_end_of_the_users_sessions_is_not_the_nodes",
        f16_the_end_of_the_users_sessions_is_not_the_nodes,
    ),
    ("faults::restart_and_kill_by_systemctl", restart_and_kill_by_systemctl),
];

/// The pid of a component and its start time: a reused pid is another one. The supervisor is the process that systemd has
/// for the unit: its helpers have its name.
fn pid(cluster: &Cluster, name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let find = if name == SUPERVISOR { "systemctl show -P MainPID u7s" } else { "pgrep -o -x $0" };
    let script = format!("p=$({find}); echo $p $(cut -d' ' -f22 /proc/$p/stat)");
    Ok(cluster.vm.ok(&["sh", "-euc", &script, name])?)
}

const SUPERVISOR: &str = "u7s-supervisor";

fn replaced(
    cluster: &Cluster,
    name: &str,
    before: &str,
    limit: Duration,
) -> Result<Duration, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    cluster.vm.until(limit, &format!("another {name}"), |_| {
        let now = pid(cluster, name).map_err(|error| error.to_string())?;
        if now == before { Err(format!("still {now}")) } else { Ok(()) }
    })?;
    Ok(begin.elapsed())
}

/// Processes of pods: they stay when nothing but crio or kubelet is replaced.
fn containers(cluster: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
    let script = "for p in $(pgrep -x 'etcd|kube-apiserver|coredns|flanneld'); do \
        echo $p $(cut -d' ' -f22 /proc/$p/stat); done | sort";
    let seen = cluster.vm.sh(script)?;
    holds(seen.lines().count() == 5, format!("wanted etcd, API server, flannel and two of CoreDNS: {seen}"))?;
    Ok(seen)
}

fn first(word: &str) -> &str {
    word.split(' ').next().unwrap_or("0")
}

fn f5_f6_kill_of_crio_and_kubelet(world: &World) -> Check {
    let cluster = world.cluster()?;
    let processes = containers(&cluster)?;
    for name in ["crio", "kubelet"] {
        let before = pid(&cluster, name)?;
        cluster.vm.ok(&["kill", "-KILL", first(&before)])?;
        let took = replaced(&cluster, name, &before, Duration::from_secs(10))?;
        note(format!("{name}: another one after {:.1} s", took.as_secs_f64()));
    }
    cluster.converge()?;
    holds(containers(&cluster)? == processes, "pods were replaced")
}

/// Pauses between questions, the end of what was killed, the next start and the test's own questions, on an emulated machine.
const SLACK: Duration = Duration::from_secs(60);

/// What an emulated machine that does nothing else needs; its init needed three times as much.
const PATIENCE: u32 = 3;

/// Deadlines near those of an ordinary machine, so that the tests see when they end: as after an init with `timeout_factor = 3`.
fn hurry(cluster: &Cluster) -> Check {
    const SPEC: &str = "/etc/u7s/node.json";
    let mut spec: serde_json::Value = serde_json::from_str(&cluster.vm.read(SPEC)?)?;
    if spec["patience"] == PATIENCE {
        return Ok(());
    }
    spec["patience"] = PATIENCE.into();
    cluster.vm.write(SPEC, spec.to_string())?;
    cluster.vm.command(&["systemctl", "restart", "u7s"]).within(cluster.vm.speed().scale(SOON)).ok()?;
    cluster.converge()
}

/// A component that does not answer is killed and started again: a period until it is asked, and three questions.
fn stopped(world: &World, name: &str) -> Check {
    let cluster = world.cluster()?;
    hurry(&cluster)?;
    let (before, processes) = (pid(&cluster, name)?, containers(&cluster)?);
    cluster.vm.ok(&["kill", "-STOP", first(&before)])?;
    let took = replaced(&cluster, name, &before, SOON)?;
    note(format!("{name}: replaced {:.1} s after SIGSTOP", took.as_secs_f64()));
    let limit = Duration::from_secs(10) + PATIENCE * Duration::from_secs(3 * 5) + SLACK;
    holds(took < limit, format!("only after {took:?}, wanted {limit:?}"))?;
    cluster.converge()?;
    holds(containers(&cluster)? == processes, "pods were replaced")
}

/// `WatchdogSec=30`, counted from its last sign of life, until systemd has the next one as its main process.
fn f9_a_stopped_supervisor_is_replaced(world: &World) -> Check {
    let cluster = world.cluster()?;
    hurry(&cluster)?;
    let before = pid(&cluster, SUPERVISOR)?;
    cluster.vm.ok(&["kill", "-STOP", first(&before)])?;
    let took = replaced(&cluster, SUPERVISOR, &before, SOON)?;
    note(format!("replaced {:.1} s after SIGSTOP", took.as_secs_f64()));
    let limit = PATIENCE * Duration::from_secs(30) + SLACK;
    holds(took < limit, format!("only after {took:?}, wanted {limit:?}"))?;
    cluster.converge()?;
    let result = cluster.vm.ok(&[
        "journalctl",
        "-b",
        "-u",
        "u7s",
        "--no-pager",
        "-g",
        "Failed with result 'watchdog'",
    ])?;
    note(result.lines().last().unwrap_or("nothing"));
    Ok(())
}

fn f14_f17_systemd_is_told_to_reload(world: &World) -> Check {
    let cluster = world.cluster()?;
    let (before, processes) = (pid(&cluster, SUPERVISOR)?, containers(&cluster)?);
    for words in [["systemctl", "daemon-reload"], ["systemctl", "daemon-reexec"]] {
        cluster.vm.ok(&words)?;
        holds(cluster.vm.ok(&["systemctl", "is-active", "u7s"])? == "active", format!("after {words:?}"))?;
    }
    let manager = format!("user@{}.service", cluster.vm.ok(&["id", "-u", "u7s-admin"])?);
    for verb in ["restart", "restart", "stop"] {
        cluster.vm.command(&["systemctl", verb, &manager]).within(cluster.vm.speed().scale(SOON)).ok()?;
    }
    cluster.converge()?;
    holds(
        pid(&cluster, SUPERVISOR)? == before && containers(&cluster)? == processes,
        "the node was rebuilt",
    )?;
    let begin = Instant::now();
    let restart = cluster.vm.spawn(&["systemctl", "restart", "u7s"])?;
    // While it starts.
    for word in ["daemon-reload", "daemon-reexec", "daemon-reload"] {
        cluster.vm.ok(&["systemctl", word])?;
    }
    let limit = cluster.vm.speed().scale(SOON);
    // systemctl may lose its connection to a manager that executes itself again.
    let ended = restart.wait(limit)?;
    note(format!(
        "restart with reloads in between: {:?} after {:.1} s",
        ended.code(),
        begin.elapsed().as_secs_f64()
    ));
    cluster.converge()
}

fn f15_a_node_runs_and_heals_without_the_bus(world: &World) -> Check {
    let cluster = world.cluster()?;
    let (supervisor, processes) = (pid(&cluster, SUPERVISOR)?, containers(&cluster)?);
    cluster.vm.ok(&["systemctl", "stop", "dbus.socket", "dbus.service"])?;
    let healed = healed_without_the_bus(&cluster, &supervisor);
    cluster.vm.ok(&["systemctl", "start", "dbus.socket", "dbus.service"])?;
    // logind does not come back to another bus by itself.
    cluster.vm.ok(&["systemctl", "restart", "systemd-logind"])?;
    healed?;
    cluster.converge()?;
    holds(
        pid(&cluster, SUPERVISOR)? == supervisor && containers(&cluster)? == processes,
        "the node was rebuilt",
    )
}

fn healed_without_the_bus(cluster: &Cluster, supervisor: &str) -> Check {
    holds(!cluster.vm.exec(&["busctl", "list"])?.ok(), "the bus answers")?;
    for name in ["crio", "kubelet"] {
        let before = pid(cluster, name)?;
        cluster.vm.ok(&["kill", "-KILL", first(&before)])?;
        let took = replaced(cluster, name, &before, Duration::from_secs(10))?;
        note(format!("without the bus, {name}: another one after {:.1} s", took.as_secs_f64()));
    }
    cluster.converge()?;
    holds(pid(cluster, SUPERVISOR)? == supervisor, "the supervisor is another one")
}

/// The node has a user without a session, a manager or lingering: with them, their end must be nothing to it.
fn f16_the_end_of_the_users_sessions_is_not_the_nodes(world: &World) -> Check {
    let cluster = world.cluster()?;
    let (supervisor, processes) = (pid(&cluster, SUPERVISOR)?, containers(&cluster)?);
    let manager = format!("user@{}.service", cluster.vm.ok(&["id", "-u", "u7s-admin"])?);
    let active = || cluster.vm.exec(&["systemctl", "is-active", &manager]).map_err(|error| error.to_string());
    cluster.vm.ok(&["loginctl", "enable-linger", "u7s-admin"])?;
    cluster.vm.until(SOON, "the user's manager", |_| {
        let state = active()?;
        if state.ok() { Ok(()) } else { Err(state.stdout) }
    })?;
    cluster.vm.ok(&["loginctl", "disable-linger", "u7s-admin"])?;
    cluster.vm.ok(&["loginctl", "terminate-user", "u7s-admin"])?;
    cluster.vm.until(SOON, "the end of the user's manager", |_| {
        let state = active()?;
        if state.ok() { Err(state.stdout) } else { Ok(()) }
    })?;
    cluster.converge()?;
    holds(
        pid(&cluster, SUPERVISOR)? == supervisor && containers(&cluster)? == processes,
        "the node was rebuilt",
    )
}

fn restart_and_kill_by_systemctl(world: &World) -> Check {
    let cluster = world.cluster()?;
    for words in [
        &["systemctl", "kill", "u7s"][..],
        &["systemctl", "kill", "-s", "KILL", "u7s"],
        &["systemctl", "restart", "u7s"],
    ] {
        let (before, begin) = (pid(&cluster, SUPERVISOR)?, Instant::now());
        cluster.vm.ok(words)?;
        replaced(&cluster, SUPERVISOR, &before, SOON)?;
        cluster.converge()?;
        note(format!("{}: all Ready after {:.1} s", words.join(" "), begin.elapsed().as_secs_f64()));
    }
    Ok(())
}
