//! Bad input: a clear error, the right exit status, nothing half-made.
//!
//! Each test makes one thing wrong on a node where nothing was done yet, puts it right again, and compares the node
//! with what it was.

use std::error::Error;
use std::time::Duration;

use u7s_harness::{Node, Output};

use crate::Listed;
use crate::world::{Bare, Check, IGNORED, SHIMS, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("refusals::not_root", not_root),
    ("refusals::no_cgroup_v2_delegation", no_cgroup_v2_delegation),
    ("refusals::missing_dev_net_tun", missing_dev_net_tun),
    ("refusals::no_subuid_range", no_subuid_range),
    ("refusals::subuid_range_too_small", subuid_range_too_small),
    ("refusals::subuid_ranges_overlap", subuid_ranges_overlap),
    ("refusals::port_6443_taken", port_6443_taken),
    ("refusals::pod_cidr_overlaps_a_host_route", pod_cidr_overlaps_a_host_route),
    ("refusals::unknown_flag", unknown_flag),
    ("refusals::malformed_config", malformed_config),
    ("refusals::fifo_as_config", fifo_as_config),
    ("refusals::f31_one_command_at_a_time", f31_one_command_at_a_time),
    ("refusals::f8_a_strangers_lock_plays_no_role", a_strangers_lock_plays_no_role),
    ("refusals::unit_already_failed", unit_already_failed),
    ("refusals::crio_missing", crio_missing),
    ("refusals::all_unmet_needs_at_once", all_unmet_needs_at_once),
];

/// Runs init and wants exit status 2 with this line, a hint below it, and no change of the node.
fn refused(bare: &Bare, arguments: &[&str], line: &str) -> Result<Output, Box<dyn Error>> {
    let output =
        kubeadm(&bare.node, &[&["init"], arguments].concat()).within(Duration::from_secs(30)).run()?;
    wants(&output, line)?;
    exits(&output, 2)?;
    wants(&output, "hint: ")?;
    let told = output.stderr.lines().filter(|text| text.contains("[ERROR") || text.contains("hint:"));
    note(told.collect::<Vec<_>>().join("\n"));
    Ok(output)
}

/// Nothing differs from before the first command of u7s.
fn untouched(bare: &Bare) -> Check {
    let changes = bare.before.diff(&bare.node.snapshot()?);
    holds(changes.is_empty(), format!("half-made: {changes:#?}"))
}

/// Changes a file for the time of a test and puts the former text back.
fn with_file(node: &Node, path: &str, text: &str, test: impl FnOnce() -> Check) -> Check {
    let former = node.read(path)?;
    node.write(path, text)?;
    let result = test();
    node.write(path, former)?;
    result
}

fn not_root(world: &World) -> Check {
    let bare = world.bare()?;
    let output = bare.node.command(&["kubeadm", "init"]).first_in_path(SHIMS).user("daemon").run()?;
    wants(&output, "[ERROR IsPrivilegedUser]: user is not running as root")?;
    exits(&output, 2)?;
    untouched(&bare)
}

fn no_cgroup_v2_delegation(world: &World) -> Check {
    let bare = world.bare()?;
    // Not ignored: this machine's nodes have no controllers in cgroup v2.
    refused(
        &bare,
        &["--ignore-preflight-errors=OomScore"],
        "[ERROR CgroupControllers]: cgroup v2 lacks the controllers cpu, memory, pids",
    )?;
    untouched(&bare)
}

fn missing_dev_net_tun(world: &World) -> Check {
    let bare = world.bare()?;
    bare.node.sh("mv /dev/net/tun /dev/net/away")?;
    let result = refused(&bare, &[IGNORED], "[ERROR Tun]: /dev/net/tun is missing");
    bare.node.sh("mv /dev/net/away /dev/net/tun")?;
    result?;
    untouched(&bare)
}

fn no_subuid_range(world: &World) -> Check {
    let bare = world.bare()?;
    with_file(&bare.node, "/etc/subuid", "other:100000:65536\n", || {
        refused(&bare, &[IGNORED], "[ERROR Subids]: u7s-admin has no range in /etc/subuid").map(drop)
    })?;
    untouched(&bare)
}

fn subuid_range_too_small(world: &World) -> Check {
    let bare = world.bare()?;
    with_file(&bare.node, "/etc/subuid", "u7s-admin:524288:1000\n", || {
        refused(&bare, &[IGNORED], "[ERROR Subids]: u7s-admin has 1000 ids in /etc/subuid, 65536 are needed")
            .map(drop)
    })?;
    untouched(&bare)
}

fn subuid_ranges_overlap(world: &World) -> Check {
    let bare = world.bare()?;
    with_file(&bare.node, "/etc/subuid", "u7s-admin:524288:65536\nother:550000:65536\n", || {
        refused(&bare, &[IGNORED], "[ERROR SubidOverlap]: the range 524288-589823 of u7s-admin in /etc/subuid overlaps 550000-615535 of other").map(drop)
    })?;
    untouched(&bare)
}

fn port_6443_taken(world: &World) -> Check {
    let bare = world.bare()?;
    let holder = bare.node.spawn(&["socat", "TCP-LISTEN:6443,fork,reuseaddr", "-"])?;
    bare.node.until(Duration::from_secs(10), "the listener", |node| {
        let ports = node.sh("ss -Hlnt").map_err(|error| error.to_string())?;
        if ports.contains(":6443") { Ok(()) } else { Err(ports) }
    })?;
    let output = refused(&bare, &[IGNORED], "[ERROR Port-6443]: port 6443 is in use");
    drop(holder);
    wants(&output?, "by socat (pid ")?;
    untouched(&bare)
}

fn pod_cidr_overlaps_a_host_route(world: &World) -> Check {
    let bare = world.bare()?;
    let both = "[ERROR PodCIDR]: the pod network 10.77.0.0/16 overlaps 10.77.0.0/24 on eth0";
    refused(&bare, &["--pod-network-cidr=10.77.0.0/16", IGNORED], both)?;
    untouched(&bare)
}

/// kubeadm's own words and status.
fn unknown_flag(world: &World) -> Check {
    let bare = world.bare()?;
    let real = bare.node.command(&["/usr/bin/kubeadm", "init", "--no-such-flag"]).run()?;
    let ours = kubeadm(&bare.node, &["init", "--no-such-flag"]).run()?;
    wants(&ours, "unknown flag: --no-such-flag")?;
    holds(real.code() == ours.code() && real.stderr == ours.stderr, format!("real {real} ours {ours}"))?;
    untouched(&bare)
}

fn malformed_config(world: &World) -> Check {
    let bare = world.bare()?;
    bare.node.write(
        "/tmp/bad.yaml",
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nnodeRegistration: {name: [}\n",
    )?;
    let output = kubeadm(&bare.node, &["init", "--config", "/tmp/bad.yaml", IGNORED]).run()?;
    bare.node.sh("rm /tmp/bad.yaml")?;
    wants(&output, "/tmp/bad.yaml:3:")?;
    exits(&output, 3)?;
    untouched(&bare)
}

/// F52: no hang.
fn fifo_as_config(world: &World) -> Check {
    let bare = world.bare()?;
    bare.node.sh("mkfifo /tmp/fifo")?;
    let output = kubeadm(&bare.node, &["init", "--config", "/tmp/fifo", IGNORED])
        .within(Duration::from_secs(10))
        .run();
    bare.node.sh("rm /tmp/fifo")?;
    let output = output?;
    wants(&output, "/tmp/fifo")?;
    wants(&output, "not a regular file")?;
    untouched(&bare)
}

fn f31_one_command_at_a_time(world: &World) -> Check {
    let bare = world.bare()?;
    let holder = bare.node.spawn(&["flock", "/run/u7s.lock", "sleep", "60"])?;
    bare.node.until(Duration::from_secs(10), "the lock", |node| {
        let locked = node
            .sh("flock -n /run/u7s.lock true && echo free || echo held")
            .map_err(|error| error.to_string())?;
        if locked == "held" { Ok(()) } else { Err(locked) }
    })?;
    let run = |words: &[&str]| kubeadm(&bare.node, words).within(Duration::from_secs(20)).run();
    let outputs = [run(&["init", IGNORED]), run(&["reset", "--force"])];
    drop(holder);
    bare.node.sh("rm /run/u7s.lock")?;
    for output in outputs {
        let output = output?;
        wants(&output, "another init or reset is running")?;
        exits(&output, 1)?;
    }
    untouched(&bare)
}

/// F8: who comes first to a place that is open to all does not decide whether root's command runs.
fn a_strangers_lock_plays_no_role(world: &World) -> Check {
    let bare = world.bare()?;
    let stranger = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    bare.node.sh(&format!("chmod 1777 /run/lock; {stranger} touch /run/lock/u7s.lock"))?;
    holds(bare.node.sh(&format!("! {stranger} touch /run/u7s.lock 2>&1")).is_ok(), "/run is open to all")?;
    let result = refused(&bare, &["--pod-network-cidr=10.77.0.0/16", IGNORED], "[ERROR PodCIDR]");
    bare.node.sh("rm /run/lock/u7s.lock; mkdir /run/u7s.lock")?;
    let taken = kubeadm(&bare.node, &["init", IGNORED]).within(Duration::from_secs(10)).run();
    bare.node.sh("rmdir /run/u7s.lock")?;
    result?;
    let taken = taken?;
    wants(&taken, "/run/u7s.lock")?;
    wants(&taken, "hint: rm what lies there")?;
    exits(&taken, 1)?;
    untouched(&bare)
}

fn unit_already_failed(world: &World) -> Check {
    let bare = world.bare()?;
    // A start without a specification that can be read: the unit fails before anything of ours exists.
    bare.node.sh("mkdir -p /run/systemd/system/u7s.service.d && printf '[Unit]\\nConditionPathExists=\\n[Service]\\nRestart=no\\n' > /run/systemd/system/u7s.service.d/x.conf && systemctl daemon-reload; ! systemctl start u7s; systemctl is-failed u7s")?;
    let result = refused(&bare, &[IGNORED], "[ERROR UnitFailed]: u7s.service failed before");
    bare.node
        .sh("rm -r /run/systemd/system/u7s.service.d; systemctl daemon-reload; systemctl reset-failed u7s")?;
    wants(&result?, "journalctl -u u7s")?;
    untouched(&bare)
}

fn crio_missing(world: &World) -> Check {
    let bare = world.bare()?;
    // A bind mount of the kit: cover it in the command's own mount namespace.
    let hidden = "mount --bind /dev/null /usr/bin/crio; exec kubeadm init \"$@\"";
    let output = bare
        .node
        .command(&["unshare", "-m", "sh", "-c", hidden, "sh", IGNORED])
        .first_in_path(SHIMS)
        .run()?;
    wants(&output, "[ERROR FileExisting-crio]: crio is not installed")?;
    exits(&output, 2)?;
    wants(&output, "hint: ")?;
    untouched(&bare)
}

fn all_unmet_needs_at_once(world: &World) -> Check {
    let bare = world.bare()?;
    bare.node.sh("mv /dev/net/tun /dev/net/away")?;
    let result = with_file(&bare.node, "/etc/subuid", "", || {
        let output = refused(&bare, &["--pod-network-cidr=10.77.0.0/16"], "[ERROR Tun]")?;
        ["[ERROR Subids]", "[ERROR PodCIDR]", "[ERROR CgroupControllers]"]
            .into_iter()
            .try_for_each(|id| wants(&output, id))
    });
    bare.node.sh("mv /dev/net/away /dev/net/tun")?;
    result?;
    untouched(&bare)
}
