//! A node whose supervisor is an attacker's: every way to stop it ends in its deadline, and reset ends all of it or says what lives.

use std::error::Error;
use std::time::{Duration, Instant};

use u7s_harness::{Node, Process, until};

use crate::Listed;
use crate::cluster::Cluster;
use crate::double;
use crate::world::{Check, IGNORED, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("hostile_stop::a_stop_that_is_put_off_ends_in_its_deadline", a_stop_that_is_put_off),
    ("hostile_stop::a_restart_that_is_put_off_ends_in_its_deadline", a_restart_that_is_put_off),
    ("hostile_stop::processes_that_sigkill_does_not_end_are_ended", processes_that_sigkill_does_not_end),
    ("hostile_stop::a_removal_of_the_package_that_is_put_off_ends", a_removal_that_is_put_off),
    (
        "hostile_stop::reset_fails_and_keeps_the_firewall_while_something_lives",
        reset_fails_while_something_lives,
    ),
    ("hostile_stop::reset_ends_what_broke_out_and_gives_back_what_is_roots", reset_ends_what_broke_out),
    ("hostile_stop::init_works_again_without_a_reboot", init_works_again),
    ("hostile_stop::files_of_strangers_are_named_before_init_trusts_the_directory", strangers_are_named),
];

/// Where the double lies in the node.
const DOUBLE: &str = "/usr/local/lib/u7s-double";

/// Its drop-in: five seconds in place of the unit's ninety.
const DROP_IN: &str = "/run/systemd/system/u7s.service.d/double.conf";

/// `TimeoutStopSec=` of the drop-in, ten seconds, twenty for what was killed; the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(5 + 10 + 20 + 30);

/// Less than this would mean that the double did not put anything off.
const PUT_OFF: Duration = Duration::from_secs(12);

/// A node after init, with the double in it.
pub(crate) fn make(world: &World) -> Result<Cluster, Box<dyn Error>> {
    let lan = world.lan()?;
    let cluster = Cluster::named(&lan, "evil", &["init", IGNORED])?;
    let node = cluster.node();
    node.write(DOUBLE, std::fs::read(std::env::current_exe()?)?)?;
    node.ok(&["chmod", "0755", DOUBLE])?;
    Ok(cluster)
}

/// The double in place of the supervisor; with a knot in the unit's own cgroup if wanted.
fn take_over(node: &Node, knot: bool) -> Check {
    let knot = if knot {
        "PrivateTmp=no\nDeviceAllow=/dev/fuse rw\nInaccessiblePaths=\nEnvironment=DOUBLE_KNOT=/dev/shm/knot\n"
    } else {
        ""
    };
    let text = format!("[Service]\nTimeoutStopSec=5\nExecStart=\nExecStart={DOUBLE} supervisor\n{knot}");
    node.write(DROP_IN, text)?;
    node.ok(&["systemctl", "daemon-reload"])?;
    node.command(&["systemctl", "restart", "u7s"]).within(Duration::from_secs(150)).ok()?;
    until(Duration::from_secs(30), "the double to have its children", || {
        let there = all(node).iter().filter(|process| process.comm == double::NAME).count();
        if there >= 2 { Ok(()) } else { Err(format!("{there} processes")) }
    })?;
    Ok(())
}

/// Processes in the unit.
fn all(node: &Node) -> Vec<Process> {
    node.processes().into_iter().filter(|process| process.cgroup.contains("/u7s.service")).collect()
}

/// Processes of the node's ids, wherever they are.
fn of_its_ids(node: &Node) -> Result<Vec<Process>, Box<dyn Error>> {
    let Ok(uid) = node.ok(&["id", "-u", "u7s-admin"]) else { return Ok(Vec::new()) };
    let uid: u32 = uid.trim().parse()?;
    let ours = |id: &u32| *id == uid || (524_288..600_100_000).contains(id);
    Ok(node.processes().into_iter().filter(|process| process.uids.iter().any(ours)).collect())
}

fn ended(node: &Node, began: Instant) -> Check {
    note(format!("ended after {:.1} s", began.elapsed().as_secs_f64()));
    let left = all(node);
    holds(left.is_empty(), format!("processes left: {left:?}"))
}

fn a_stop_that_is_put_off(world: &World) -> Check {
    let cluster = world.hostile()?;
    let node = cluster.node();
    take_over(node, false)?;
    let began = Instant::now();
    let output = node.command(&["systemctl", "stop", "u7s"]).within(DEADLINE).run()?;
    exits(&output, 0)?;
    holds(began.elapsed() >= PUT_OFF, "the double did not put the stop off")?;
    ended(node, began)?;
    holds(node.exec(&["nft", "list", "table", "inet", "u7s"])?.ok(), "a stop removed the nft table")?;
    let state = node.ok(&["systemctl", "show", "-P", "ActiveState", "u7s-stop.service"])?;
    holds(state.trim() != "failed", "u7s-stop.service failed")
}

fn a_restart_that_is_put_off(world: &World) -> Check {
    let cluster = world.hostile()?;
    let node = cluster.node();
    take_over(node, false)?;
    let began = Instant::now();
    exits(&node.command(&["systemctl", "restart", "u7s"]).within(DEADLINE).run()?, 0)?;
    note(format!("restarted after {:.1} s", began.elapsed().as_secs_f64()));
    // The guard is there for the next one as well.
    let began = Instant::now();
    exits(&node.command(&["systemctl", "stop", "u7s"]).within(DEADLINE).run()?, 0)?;
    ended(node, began)
}

/// What every package does before its files go.
fn a_removal_that_is_put_off(world: &World) -> Check {
    let cluster = world.hostile()?;
    let node = cluster.node();
    take_over(node, false)?;
    let began = Instant::now();
    let output = node.command(&["/usr/libexec/u7s/preremove"]).within(DEADLINE).run()?;
    exits(&output, 0)?;
    wants(&output, "the node was not reset: its data stays")?;
    ended(node, began)
}

fn processes_that_sigkill_does_not_end(world: &World) -> Check {
    let cluster = world.hostile()?;
    let node = cluster.node();
    take_over(node, true)?;
    let knotted = until(Duration::from_secs(30), "two servers that wait for each other", || {
        // Once SIGKILL has come they wait on, in state D, and hear nothing more.
        let script =
            "for wait in /proc/[0-9]*/wchan; do grep -l request_wait_answer $wait 2>/dev/null || true; done";
        let waiting = node.sh(script).map_err(|error| error.to_string())?;
        if waiting.lines().count() >= 2 { Ok(()) } else { Err(waiting) }
    });
    // Stopped in any case: nothing but an abort of its FUSE connections ends a knot that outlives its node.
    let began = Instant::now();
    let output = node.command(&["systemctl", "stop", "u7s"]).within(DEADLINE).run()?;
    knotted?;
    exits(&output, 0)?;
    ended(node, began)
}

/// One that waits for somebody else's file system: neither SIGKILL nor an abort of the node's own ends it.
fn reset_fails_while_something_lives(world: &World) -> Check {
    let cluster = world.hostile()?;
    let node = cluster.node();
    node.command(&["systemctl", "stop", "u7s"]).within(DEADLINE).ok()?;
    let server = node.command(&[DOUBLE, "trap", "/dev/shm/trap"]).spawn()?;
    until(Duration::from_secs(20), "the file system", || {
        let mounts = node.sh("cat /proc/self/mountinfo").map_err(|error| error.to_string())?;
        if mounts.contains("/dev/shm/trap") { Ok(()) } else { Err(mounts) }
    })?;
    let waiting = node.command(&["stat", "/dev/shm/trap/never"]).user("u7s-admin").spawn()?;
    until(Duration::from_secs(20), "the process to wait", || {
        let there = of_its_ids(node).map_err(|error| error.to_string())?;
        if there.iter().any(|process| process.comm == "stat") { Ok(()) } else { Err(format!("{there:?}")) }
    })?;
    let output = kubeadm(node, &["reset", "--force"]).within(Duration::from_secs(120)).run()?;
    let kept = node.exec(&["nft", "list", "table", "inet", "u7s"])?.ok();
    let owner = node.ok(&["stat", "-c", "%U", "/etc/kubernetes"])?;
    let config = node.exec(&["ls", "/root/.kube/config"])?.ok();
    drop(server);
    node.sh("umount -l /dev/shm/trap; rmdir /dev/shm/trap")?;
    drop(waiting);
    exits(&output, 1)?;
    wants(&output, "processes of u7s-admin still live: ")?;
    wants(&output, "(stat, uid ")?;
    wants(&output, "hint: kill -KILL PID")?;
    holds(!output.stdout.contains("as it was") && !output.stderr.contains("as it was"), output.to_string())?;
    holds(kept && owner.trim() == "u7s-admin" && config, format!("{kept} {owner} {config}: {output}"))
}

fn reset_ends_what_broke_out(world: &World) -> Check {
    let cluster = world.hostile()?;
    let node = cluster.node();
    take_over(node, false)?;
    plant(node)?;
    let outside = node.command(&[DOUBLE, "comet"]).user("u7s-admin").spawn()?;
    let began = Instant::now();
    // The real reset inside has nobody to talk to: that alone may fail.
    let output = kubeadm(node, &["reset", "--force"]).within(Duration::from_secs(240)).run()?;
    note(format!("reset ended with {:?} after {:.1} s", output.code(), began.elapsed().as_secs_f64()));
    drop(outside);
    clean(node, &output.stderr)?;
    let again = kubeadm(node, &["reset", "--force"]).run()?;
    exits(&again, 0)?;
    clean(node, &again.stderr)?;
    node.sh("rm -r /run/systemd/system/u7s.service.d; rm -rf /etc/kubernetes/of-root /dev/shm/knot; systemctl daemon-reload")?;
    let changes = cluster.bare.before.diff(&node.snapshot()?);
    // What this test made itself, and a directory in which root had a file.
    let ours = |change: &&String| {
        let own = ["+ file /etc/kubernetes ", "+ file /var/spool/cron"];
        change.contains(DOUBLE) || own.iter().any(|start| change.starts_with(start))
    };
    let changes: Vec<&String> = changes.iter().filter(|change| !ours(change)).collect();
    holds(changes.is_empty(), format!("left behind: {changes:#?}\n{output}\n{again}"))
}

/// What an attacker who has every id of the node leaves.
fn plant(node: &Node) -> Check {
    node.sh(
        "mkdir -p /var/lib/systemd/linger /var/spool/cron/crontabs /var/spool/cron/atjobs /etc/kubernetes/deep/er
        touch /var/lib/systemd/linger/u7s-admin
        echo '* * * * * true' >/var/spool/cron/crontabs/u7s-admin
        echo true >/var/spool/cron/atjobs/a0001 && chown u7s-admin: /var/spool/cron/crontabs/u7s-admin /var/spool/cron/atjobs/a0001
        echo LD_PRELOAD=/evil.so >/etc/kubernetes/kubelet && chown 525287:525287 /etc/kubernetes/kubelet
        echo evil >/etc/kubernetes/manifests/evil.yaml && chown -R 525287:525287 /etc/kubernetes/manifests
        echo evil >/etc/kubernetes/deep/er/evil && chown -R u7s-admin: /etc/kubernetes/deep
        echo root >/etc/kubernetes/of-root
        rm -rf /etc/kubernetes/pki && ln -s /etc /etc/kubernetes/pki && chown -h u7s-admin: /etc/kubernetes/pki
        mkdir -p /var/lib/u7s-admin/.config/systemd/user && chown -R u7s-admin: /var/lib/u7s-admin/.config
        touch /tmp/evil /dev/shm/evil && chown 525287 /tmp/evil /dev/shm/evil",
    )
    .map(drop)?;
    Ok(())
}

/// Nothing of an attacker is left, but perhaps a book of what reset has still to do.
fn clean(node: &Node, said: &str) -> Check {
    let left = of_its_ids(node)?;
    holds(left.is_empty(), format!("processes left: {left:?}; {said}"))?;
    let files = node.sh(
        "for path in /var/lib/systemd/linger/u7s-admin /var/spool/cron/crontabs/u7s-admin /var/spool/cron/atjobs/a0001 \
         /etc/kubernetes.u7s-left /tmp/evil /dev/shm/evil /var/lib/u7s-admin/.config; do ls -d $path 2>/dev/null || true; done
         find /etc/kubernetes ! -user root; stat -c %U:%a /etc/kubernetes; cat /etc/kubernetes/of-root",
    )?;
    holds(files == "root:755\nroot" || files == "root:755\nroot\n", format!("files: {files:?}; {said}"))?;
    let table = node.exec(&["nft", "list", "table", "inet", "u7s"])?;
    holds(!table.ok(), "the nft table is left")
}

fn init_works_again(world: &World) -> Check {
    let cluster = world.hostile()?;
    exits(&kubeadm(cluster.node(), &["init", IGNORED]).run()?, 0)?;
    let took = cluster.converge(Duration::from_secs(180))?;
    note(format!("Ready {:.1} s after the next init", took.as_secs_f64()));
    exits(&kubeadm(cluster.node(), &["reset", "--force"]).run()?, 0)
}

fn strangers_are_named(world: &World) -> Check {
    let cluster = world.hostile()?;
    let node = cluster.node();
    node.sh("mkdir -p /etc/kubernetes/manifests; touch /etc/kubernetes/manifests/evil.yaml; chown 525287 /etc/kubernetes/manifests/evil.yaml")?;
    let looked = kubeadm(node, &["init", "--dry-run", IGNORED]).run()?;
    let tried = kubeadm(node, &["init", IGNORED]).run()?;
    exits(&tried, 2)?;
    for output in [looked, tried, node.exec(&["u7s", "check"])?] {
        wants(&output, "KubernetesDir")?;
        wants(&output, "rm -r /etc/kubernetes/manifests/evil.yaml")?;
    }
    Ok(())
}
