//! What lies below the mounts of the node: whoever is root inside takes them away, and finds nothing of the host.

use std::collections::BTreeSet;
use std::time::Duration;

use u7s_harness::until;

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Check, World, exits, holds, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("uncovered::nothing_of_the_hosts_run_lies_below_the_nodes_mounts", nothing_of_the_hosts_run),
    ("uncovered::no_other_users_process_is_seen_below_proc", no_other_users_process),
    ("uncovered::the_hosts_temporary_files_are_out_of_reach", temporary_files),
    ("uncovered::s36_no_bus_is_within_reach_and_nobody_lingers", no_bus),
    ("uncovered::run_u7s_is_bounded", run_u7s),
    ("uncovered::the_unit_bounds_memory_and_processes", bounds),
    ("uncovered::no_fuse_file_system_can_be_mounted", no_fuse),
    ("uncovered::a_resolv_conf_without_which_no_node_starts_is_named", bad_resolv_conf),
    ("uncovered::a_resolv_conf_below_run_is_read_and_the_sockets_beside_it_are_not", resolv_conf_below_run),
];

/// Takes away every mount that the kernel lets the node's root take away, the last made first, again and again; /proc last,
/// since the list comes from there. Then runs the script that follows.
const UNCOVER: &str = r"
exec 2>/dev/null
for round in 1 2 3 4 5 6; do
    cut -d' ' -f5 /proc/self/mountinfo | tac | grep -v -e '^/$' -e ^/proc -e ^/usr -e ^/dev/pts | while read -r place; do
        umount -l $place
    done
done
for place in /run /tmp /var/tmp /root /dev/shm /dev/kmsg /etc/resolv.conf /etc/hosts; do
    n=0; while [ $n -lt 20 ] && umount -l $place; do n=$((n + 1)); done
done
";

/// What a shell prints that has uncovered all it could, as root of the node.
fn uncovered(cluster: &Cluster, script: &str) -> Result<String, Box<dyn std::error::Error>> {
    let whole = format!("{UNCOVER}{script}");
    let output = cluster.inside(&["unshare", "--mount", "sh", "-c", &whole])?;
    exits(&output, 0)?;
    Ok(output.stdout)
}

/// What a shell prints in the supervisor's own mount namespace, as the node's user.
fn beside_the_supervisor(cluster: &Cluster, script: &str) -> Result<String, Box<dyn std::error::Error>> {
    let pid = cluster.node().ok(&["systemctl", "show", "-P", "MainPID", "u7s.service"])?;
    let enter = ["nsenter", "--target", &pid, "--mount", "--"];
    let drop = ["setpriv", "--reuid=u7s-admin", "--regid=u7s-admin", "--clear-groups", "--no-new-privs"];
    let argv: Vec<&str> = enter.into_iter().chain(drop).chain(["sh", "-c", script]).collect();
    Ok(cluster.node().ok(&argv)?)
}

/// Names of everything below /run that is no directory, and of sockets anywhere that take a connection.
const FOUND: &str = r"
find /run ! -type d | sed 's/^/file /'
find /run /tmp /var /dev /etc -type s -not -path '/var/lib/u7s-admin/*' | while read -r path; do
    timeout 2 socat -u OPEN:/dev/null UNIX-CONNECT:$path && echo socket $path
done
true
";

fn nothing_of_the_hosts_run(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    // What a host has there: sessions, engines, files of services, open to everybody.
    node.sh(
        "mkdir -p -m 755 /run/engine /run/user/1000; umask 0; echo x >/run/engine/file
        systemd-run --unit engine --collect socat UNIX-LISTEN:/run/engine/engine.sock,fork,mode=777 OPEN:/dev/null",
    )?;
    until(Duration::from_secs(10), "a host's socket", || {
        node.sh("test -S /run/engine/engine.sock").map_err(|error| error.to_string())
    })?;
    let own = ["/run/u7s/control.sock", "/run/systemd/notify", "/run/systemd/journal/socket"];
    let known: BTreeSet<String> = own.iter().map(|path| format!("file {path}")).collect();
    let taking = "socket /run/u7s/control.sock".to_owned();
    for (place, seen) in [
        ("inside", uncovered(&cluster, FOUND)?),
        ("beside the supervisor", beside_the_supervisor(&cluster, FOUND)?),
    ] {
        let seen: BTreeSet<String> = seen.lines().map(str::to_owned).collect();
        note(format!("{place}: {seen:?}"));
        // It ran, and saw what is meant to be seen.
        holds(known.is_subset(&seen), format!("{place}: {seen:?}"))?;
        let foreign: Vec<&String> =
            seen.iter().filter(|line| !known.contains(*line) && **line != taking).collect();
        holds(foreign.is_empty(), format!("{place}: {foreign:?}"))?;
    }
    node.sh("systemctl stop engine; rm -r /run/engine /run/user/1000").map(drop).map_err(Into::into)
}

/// A second instance of proc could show all: the one of the unit hides them.
fn no_other_users_process(world: &World) -> Check {
    let cluster = world.cluster()?;
    let script = r"umount -l /proc/sys/fs/binfmt_misc; umount -l /proc
        for process in /proc/[0-9]*; do echo owner $(stat -c %u $process); done | sort | uniq -c";
    let seen = uncovered(&cluster, script)?;
    note(&seen);
    // u7s-admin is 0 inside, its subordinate ids are below 65536, all others are nobody's.
    let foreign: Vec<&str> = seen.lines().filter(|line| line.ends_with("owner 65534")).collect();
    holds(!seen.trim().is_empty() && foreign.is_empty(), format!("processes of others: {foreign:?}"))
}

fn temporary_files(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    node.sh("umask 0; for place in /tmp /var/tmp /dev/shm; do echo x >$place/of-the-host; done")?;
    let look = "ls -d /tmp/* /var/tmp/* /dev/shm/of-the-host; for place in /tmp /var/tmp; do touch $place/mine && echo wrote $place; done; true";
    for (place, seen) in
        [("inside", uncovered(&cluster, look)?), ("beside", beside_the_supervisor(&cluster, look)?)]
    {
        holds(seen.trim().is_empty(), format!("{place}: {seen}"))?;
    }
    node.sh("rm /tmp/of-the-host /var/tmp/of-the-host /dev/shm/of-the-host")?;
    // What is not taken away works: in memory with a bound, and on the node's own disk.
    let works = "echo x >/tmp/a; echo x >/var/tmp/a; stat -f -c %T /tmp /dev/shm; stat -f -c %b:%S /dev/shm; rm /tmp/a";
    let output = cluster.inside(&["sh", "-c", works])?;
    exits(&output, 0)?;
    wants(&output, "tmpfs\ntmpfs")?;
    node.sh("test -e /var/lib/u7s-admin/node/var-tmp/a && rm /var/lib/u7s-admin/node/var-tmp/a")
        .map(drop)
        .map_err(Into::into)
}

/// logind lets a user linger who asks: what it starts then is outside of the unit.
fn no_bus(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    let uid = node.ok(&["id", "-u", "u7s-admin"])?;
    let linger = format!(
        "busctl --system call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager \
         SetUserLinger ubb {uid} true false 2>&1; echo status $?"
    );
    // A bus there is: root's own question is answered.
    node.ok(&["busctl", "--system", "--no-pager", "list"])?;
    for seen in [uncovered(&cluster, &linger)?, beside_the_supervisor(&cluster, &linger)?] {
        note(&seen);
        holds(seen.contains("No such file or directory") && !seen.contains("status 0"), seen)?;
    }
    let left = node.sh("ls /var/lib/systemd/linger 2>/dev/null || true")?;
    holds(left.is_empty(), format!("lingers: {left}"))
}

/// Whoever fills it fills nothing of the host's.
fn run_u7s(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    let free = "stat -f -c %a /run";
    let before: u64 = node.sh(free)?.parse()?;
    let fill = "head -c 200M /dev/zero >/run/u7s/fill; stat -f -c '%T %b %S %c' /run/u7s";
    let output = cluster.inside(&["sh", "-c", fill])?;
    note(output.to_string());
    wants(&output, "No space left on device")?;
    let after: u64 = node.sh(free)?.parse()?;
    holds(before.abs_diff(after) < 1000, format!("{before} blocks of /run were free, now {after}"))?;
    node.ok(&["systemctl", "daemon-reload"])?;
    // The node lives on, and is asked as before.
    cluster.status()?;
    cluster.inside(&["rm", "/run/u7s/fill"]).and_then(|output| exits(&output, 0))
}

fn bounds(world: &World) -> Check {
    let cluster = world.cluster()?;
    let show = ["systemctl", "show", "-p", "MemoryMax,TasksMax", "u7s.service"];
    let seen = cluster.node().ok(&show)?;
    note(&seen);
    holds(seen.lines().count() == 2 && !seen.contains("infinity"), seen)
}

fn no_fuse(world: &World) -> Check {
    let cluster = world.cluster()?;
    let output = cluster.inside(&["sh", "-c", ": <>/dev/fuse"])?;
    holds(!output.ok(), "/dev/fuse can be opened inside")?;
    wants(&output, "Operation not permitted")
}

/// Puts something else in the place of the host's file.
const SPOILT: [(&str, &str); 3] = [
    ("is missing", "true"),
    ("a loop", "ln -s resolv.conf /etc/resolv.conf"),
    ("a directory", "mkdir /etc/resolv.conf"),
];

fn bad_resolv_conf(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    node.ok(&["systemctl", "stop", "u7s.service"])?;
    // What is mounted for the unit goes with it.
    until(Duration::from_secs(10), "/run/u7s to be unmounted", || {
        node.sh("! grep ' /run/u7s ' /proc/self/mountinfo").map_err(|error| error.to_string())
    })?;
    node.sh("mv /etc/resolv.conf /etc/resolv.conf.of-the-host")?;
    let tried = SPOILT.into_iter().try_for_each(|(why, spoil)| {
        node.sh(&format!("rm -rf /etc/resolv.conf; {spoil}"))?;
        let started = node.exec(&["systemctl", "start", "u7s.service"])?;
        holds(!started.ok(), format!("{why}: the unit started"))?;
        for argv in [["u7s", "check"], ["u7s", "status"]] {
            let said = node.exec(&argv)?;
            holds(said.stdout.contains("[ERROR ResolvConf]") && said.stdout.contains(why), said.to_string())?;
        }
        Ok(())
    });
    node.sh(
        "systemctl stop u7s.service; rm -rf /etc/resolv.conf; mv /etc/resolv.conf.of-the-host /etc/resolv.conf",
    )?;
    tried
}

/// The unit is down, from the test before, or goes down; it comes up with such a file, as with systemd-resolved.
fn resolv_conf_below_run(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    node.sh(
        "systemctl stop u7s.service; mkdir -p /run/systemd/resolve
        cp /etc/resolv.conf /etc/resolv.conf.of-the-host; cp /etc/resolv.conf /run/systemd/resolve/resolv.conf
        ln -sf ../run/systemd/resolve/resolv.conf /etc/resolv.conf
        systemd-run --unit resolve --collect socat UNIX-LISTEN:/run/systemd/resolve/io.systemd.Resolve,fork,mode=666 OPEN:/dev/null",
    )?;
    until(Duration::from_secs(10), "a host's socket", || {
        node.sh("test -S /run/systemd/resolve/io.systemd.Resolve").map_err(|error| error.to_string())
    })?;
    node.ok(&["systemctl", "start", "u7s.service"])?;
    // The driver's view, at once and after its owner has replaced the file.
    let seen = "cat /proc/$(pgrep -x slirp4netns)/root/etc/resolv.conf";
    holds(node.sh(seen)?.contains("nameserver"), "slirp4netns sees no name server")?;
    node.sh("cd /run/systemd/resolve; echo nameserver 192.0.2.53 >new; mv new resolv.conf")?;
    let after = node.sh(seen)?;
    holds(after == "nameserver 192.0.2.53", format!("slirp4netns sees {after:?}"))?;
    let ask = "socat -u OPEN:/dev/null UNIX-CONNECT:/run/systemd/resolve/io.systemd.Resolve 2>&1 || true";
    for refused in [uncovered(&cluster, ask)?, beside_the_supervisor(&cluster, ask)?] {
        holds(refused.contains("Permission denied"), refused)?;
    }
    node.sh("systemctl stop resolve; mv -f /etc/resolv.conf.of-the-host /etc/resolv.conf; rm -r /run/systemd/resolve")?;
    cluster.converge(Duration::from_secs(180)).map(drop)
}
