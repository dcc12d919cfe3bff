//! The node's user makes root's commands wait: each answers or ends within its deadline, and obeys its caller.

use std::time::{Duration, Instant};

use u7s_harness::{Output, until};

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Check, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    (
        "hostile_waits::f4_the_status_answers_whatever_serves_the_control_socket",
        the_status_answers_whatever_serves_the_control_socket,
    ),
    (
        "hostile_waits::f4_the_status_answers_while_the_supervisor_is_stopped",
        the_status_answers_while_the_supervisor_is_stopped,
    ),
    (
        "hostile_waits::f4_the_status_answers_while_kubectl_inside_hangs",
        the_status_answers_while_kubectl_inside_hangs,
    ),
    ("hostile_waits::f13_root_connects_to_no_other_socket", root_connects_to_no_other_socket),
    (
        "hostile_waits::f4_a_reset_whose_kubeadm_hangs_obeys_sigterm_and_frees_the_lock",
        a_reset_whose_kubeadm_hangs_obeys_sigterm,
    ),
];

/// What `u7s status --help` promises.
const PROMISED: Duration = Duration::from_secs(45);

/// Starting the program on a busy machine.
const MARGIN: Duration = Duration::from_secs(15);

/// The node's user with its rights on the host.
const USER: &str = "setpriv --reuid=u7s-admin --regid=u7s-admin --clear-groups --no-new-privs";

const SOCKET: &str = "/run/u7s/control.sock";

/// Runs `u7s status` in all three forms; each ends in time and says something.
fn status_answers(cluster: &Cluster) -> Result<Vec<Output>, Box<dyn std::error::Error>> {
    let form = |arguments: &[&str]| {
        let argv = [&["u7s", "status"], arguments].concat();
        let began = Instant::now();
        let output = cluster.node().command(&argv).within(PROMISED + MARGIN).run()?;
        note(format!("{argv:?}: {:?} after {:.1} s", output.code(), began.elapsed().as_secs_f64()));
        holds(!output.stdout.is_empty(), format!("nothing is said: {output}"))?;
        Ok(output)
    };
    [&[][..], &["-o", "json"], &["--nagios"]].into_iter().map(form).collect()
}

fn the_status_answers_whatever_serves_the_control_socket(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    for server in ["sleep 1000", "while printf x; do sleep 1; done"] {
        node.sh(&format!("{USER} mv {SOCKET} /run/u7s/honest"))?;
        let listen = format!("UNIX-LISTEN:{SOCKET},fork");
        let argv: Vec<&str> = USER.split(' ').chain(["socat", &listen]).collect();
        let system = format!("SYSTEM:{server}");
        let liar = node.spawn(&[&argv[..], &[&system]].concat())?;
        let listens = format!("test -S {SOCKET}");
        until(Duration::from_secs(20), "the other server", || {
            node.sh(&listens).map_err(|error| error.to_string())
        })?;
        let seen = status_answers(&cluster);
        node.sh(&format!("{USER} mv -f /run/u7s/honest {SOCKET}"))?;
        drop(liar);
        for output in seen? {
            holds(output.code() != Some(0), format!("well with {server}: {output}"))?;
        }
    }
    Ok(())
}

fn the_status_answers_while_the_supervisor_is_stopped(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let pid = node.sh("systemctl show --value -p MainPID u7s.service")?;
    node.ok(&["kill", "-STOP", &pid])?;
    let output = node.command(&["u7s", "status", "--nagios"]).within(PROMISED + MARGIN).run();
    let _ = node.exec(&["kill", "-CONT", &pid]);
    let output = output?;
    note(output.stdout.clone());
    holds(output.stdout.contains("U7S CRITICAL"), format!("{output}"))?;
    cluster.converge(Duration::from_secs(240)).map(drop)
}

fn the_status_answers_while_kubectl_inside_hangs(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let kubectl =
        node.sh("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v kubectl")?;
    node.sh(&hidden(&kubectl, "trap '' TERM; while :; do sleep 1; done"))?;
    let seen = status_answers(&cluster);
    node.sh(&format!("u7s shell -- umount {kubectl}"))?;
    for output in seen? {
        holds(output.code() != Some(0), format!("well: {output}"))?;
    }
    Ok(())
}

/// Lays a script over a program, inside alone.
fn hidden(program: &str, script: &str) -> String {
    format!(
        "printf '#!/bin/sh\n%s\n' \"{script}\" | u7s shell -- sh -c 'cat > /run/in-its-place; chmod 755 /run/in-its-place; \
         mount --bind /run/in-its-place {program}'"
    )
}

fn root_connects_to_no_other_socket(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let other =
        node.spawn(&["socat", "UNIX-LISTEN:/run/other.sock,fork", "SYSTEM:touch /run/other.reached"])?;
    until(Duration::from_secs(20), "the other service", || {
        node.sh("test -S /run/other.sock").map_err(|error| error.to_string())
    })?;
    node.sh(&format!("{USER} sh -c 'mv {SOCKET} /run/u7s/honest; ln -s /run/other.sock {SOCKET}'"))?;
    let output = node.command(&["u7s", "ports", "list"]).within(Duration::from_secs(30)).run();
    node.sh(&format!("{USER} sh -c 'rm {SOCKET}; mv /run/u7s/honest {SOCKET}'"))?;
    let reached = node.sh("test -e /run/other.reached && echo yes || echo no")?;
    drop(other);
    node.sh("rm -f /run/other.sock /run/other.reached")?;
    let output = output?;
    wants(&output, "is no socket of the node, or is reached through a symbolic link")?;
    holds(reached == "no", "root connected to the service of somebody else")
}

/// The last one: what the reset has done by then is done.
fn a_reset_whose_kubeadm_hangs_obeys_sigterm(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    node.sh(&hidden(
        "/usr/bin/kubeadm",
        "trap '' TERM INT; touch /run/u7s/begun; while :; do sleep 1; done",
    ))?;
    let reset = kubeadm(node, &["reset", "-f"]).spawn()?;
    until(Duration::from_secs(60), "the kubeadm inside", || {
        node.sh("test -e /run/u7s/begun").map_err(|error| error.to_string())
    })?;
    let began = Instant::now();
    // The harness may stand between: the signal is for the command itself.
    node.sh("pkill -TERM -u root -f '[k]ubeadm reset -f'")?;
    let output = reset.wait(Duration::from_secs(60));
    let active = node.sh("systemctl is-active u7s.service || true")?;
    let lock = node.sh("test -e /run/u7s.lock && echo there || echo gone")?;
    node.sh("u7s shell -- umount /usr/bin/kubeadm; rm -f /run/u7s/begun")?;
    let output = output?;
    note(format!("{:?} after {:.1} s\n{}", output.code(), began.elapsed().as_secs_f64(), output.stderr));
    wants(&output, "was ended by signal 15, which reached this command")?;
    exits(&output, 128 + 15)?;
    holds(active == "active", format!("what comes after it was done all the same: {active}"))?;
    holds(lock == "gone", "the lock is held")
}
