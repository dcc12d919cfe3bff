//! A node that was taken over: it finds no bus of the host (N1), and neither stop, reboot nor reset waits for it (F3).
//!
//! This machine has what distributions ship: polkit, whose rule for lingering lets every user do it for himself, PAM's module of
//! systemd, cron and at.

use std::time::{Duration, Instant};

use crate::Listed;
use crate::world::{Check, Cluster, World, exits, holds, kubeadm, note};

pub(crate) const TESTS: &[Listed] =
    &[("hostile::n1_no_bus_of_the_host_is_found_inside", n1_no_bus_of_the_host_is_found_inside)];

/// The end of the machine that the others share.
pub(crate) const LAST: &[Listed] = &[
    ("hostile::f3_a_reboot_does_not_wait_for_a_hostile_supervisor", f3_a_reboot_does_not_wait),
    ("hostile::n1_reset_ends_all_that_a_hostile_node_left", n1_reset_ends_all_that_a_hostile_node_left),
];

/// logind is asked to let the user linger, by the bus's usual name.
const LINGER: &str = "busctl --system --timeout=20 call org.freedesktop.login1 /org/freedesktop/login1 \
    org.freedesktop.login1.Manager SetUserLinger ubb";

/// Takes away, as often as that goes, what lies over the host's directories, then tries every socket that is seen. Those of the
/// journal and of readiness any user of the host may write to.
const UNCOVER: &str = r#"
for turn in 1 2 3 4 5; do
    for dir in /run /run/u7s /var/run /tmp /var/tmp /root /dev/shm /sys /proc; do umount -l $dir 2>/dev/null; done
done
find /run /tmp /dev /var/lib -type s 2>/dev/null | grep -v -e /run/systemd/journal/ -e /run/systemd/notify -e /run/u7s/ \
    -e ^/dev/log -e ^/var/lib/u7s-admin/ -e ^/var/lib/kubelet/ | while read -r socket; do
    for kind in -NU -NuU; do timeout 5 nc $kind "$socket" </dev/null >/dev/null 2>&1 && echo "socket: $kind $socket"; done
done
"#;

fn uid(cluster: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
    Ok(cluster.vm.ok(&["id", "-u", "u7s-admin"])?)
}

fn lingers(cluster: &Cluster) -> Result<bool, Box<dyn std::error::Error>> {
    Ok(cluster.vm.exec(&["test", "-e", "/var/lib/systemd/linger/u7s-admin"])?.ok())
}

fn n1_no_bus_of_the_host_is_found_inside(world: &World) -> Check {
    let cluster = world.cluster()?;
    let ask = format!("{LINGER} {} true false", uid(&cluster)?);
    // On the host that user may: what is refused below could succeed.
    let ids = "--reuid u7s-admin --regid u7s-admin --clear-groups --no-new-privs";
    let outside = cluster.vm.exec(&["sh", "-c", &format!("setpriv {ids} {ask}")])?;
    note(format!("on the host: {:?} {}", outside.code(), outside.stderr.trim()));
    holds(
        outside.ok() && lingers(&cluster)?,
        "on the host u7s-admin may not linger: the trial shows nothing",
    )?;
    cluster.vm.ok(&["loginctl", "disable-linger", "u7s-admin"])?;
    cluster.vm.ok(&["loginctl", "terminate-user", "u7s-admin"])?;

    let inside = format!("unshare -m sh -c '{UNCOVER}{ask}'");
    let supervisor = format!("nsenter -t $(systemctl show -P MainPID u7s) -m -- setpriv {ids} sh -c '{ask}'");
    for (who, argv) in [
        ("root of the node", &["u7s", "shell", "--", "sh", "-c", &inside][..]),
        ("the supervisor", &["sh", "-c", &supervisor]),
    ] {
        let run = cluster.vm.exec(argv)?;
        note(format!("{who}: {:?} {}", run.code(), run.stderr.trim()));
        holds(!run.ok() && !lingers(&cluster)?, format!("{who} made u7s-admin linger: {run}"))?;
        holds(!run.stdout.contains("socket: "), format!("{who} sees sockets of the host: {run}"))?;
    }
    Ok(())
}

/// `timeout_factor` while the hostile program runs: that of an ordinary machine, or each stop takes the half hour that an
/// emulated one is given.
const FACTOR: u32 = 1;

/// Puts the hostile program in the supervisor's place and waits until it runs.
fn take_over(cluster: &Cluster) -> Check {
    let drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/perl /usr/local/lib/hostile.pl\n";
    let script =
        "mkdir -p /etc/systemd/system/u7s.service.d; cat > /etc/systemd/system/u7s.service.d/hostile.conf";
    cluster.vm.command(&["sh", "-c", script]).input(drop_in).ok()?;
    cluster
        .vm
        .command(&["sh", "-c", "cat > /usr/local/lib/hostile.pl"])
        .input(include_str!("hostile.pl"))
        .ok()?;
    let factor = format!("s/^timeout_factor = .*/timeout_factor = {FACTOR}/");
    cluster.vm.ok(&["sed", "-i.before", &factor, "/etc/u7s/config.toml"])?;
    cluster.vm.ok(&["systemctl", "daemon-reload"])?;
    cluster.vm.command(&["systemctl", "restart", "u7s"]).within(Duration::from_secs(600)).ok()?;
    let main = cluster.vm.sh("cat /proc/$(systemctl show -P MainPID u7s)/comm")?;
    holds(main == "perl", format!("the main process is {main}"))
}

fn give_back(cluster: &Cluster) -> Check {
    cluster.vm.ok(&["rm", "-r", "/etc/systemd/system/u7s.service.d", "/usr/local/lib/hostile.pl"])?;
    cluster.vm.ok(&["mv", "/etc/u7s/config.toml.before", "/etc/u7s/config.toml"])?;
    cluster.vm.ok(&["systemctl", "daemon-reload"]).map(drop).map_err(Into::into)
}

/// How long the unit's stop may take: [`FACTOR`] times `TimeoutStopSec=` and root's margin, the end by root, and some.
const STOP: Duration = Duration::from_secs(240);

fn f3_a_reboot_does_not_wait(world: &World) -> Check {
    let mut cluster = world.cluster()?;
    take_over(&cluster)?;
    let begin = Instant::now();
    cluster.vm.command(&["systemctl", "stop", "u7s"]).within(STOP).ok()?;
    note(format!("systemctl stop: {:.0} s", begin.elapsed().as_secs_f64()));
    let left = cluster.vm.sh("pgrep -c -u u7s-admin || true")?;
    holds(left == "0", format!("{left} processes of u7s-admin are left"))?;
    cluster.vm.command(&["systemctl", "start", "u7s"]).within(STOP).ok()?;
    let (off, on) = cluster.vm.reboot()?;
    note(format!("reboot: off after {:.0} s, agent after {:.0} s more", off.as_secs_f64(), on.as_secs_f64()));
    // The jobs of a shutdown end after half an hour, whatever hangs.
    holds(off < STOP + Duration::from_secs(120), format!("off after {off:?} only"))?;
    cluster.vm.command(&["systemctl", "stop", "u7s"]).within(STOP).ok()?;
    give_back(&cluster)?;
    cluster.vm.command(&["systemctl", "start", "u7s"]).within(Duration::from_secs(600)).ok()?;
    cluster.converge()
}

/// A user manager with a unit of its own, a crontab, a job of at: made as root, as if the node had found a way.
const LEFTOVERS: &str = r#"
d=/var/lib/u7s-admin/.config/systemd/user; mkdir -p $d/default.target.wants
printf '[Service]\nExecStart=/bin/sleep 4711\nRestart=always\n' > $d/left.service
ln -sf ../left.service $d/default.target.wants/left.service
chown -R u7s-admin:u7s-admin /var/lib/u7s-admin/.config
loginctl enable-linger u7s-admin
echo '* * * * * true' | crontab -u u7s-admin -
setpriv --reuid u7s-admin --regid u7s-admin --init-groups sh -c 'cd /; echo true | HOME=/ at now + 300 days' 2>/dev/null
for turn in $(seq 600); do pgrep -f '^/bin/sleep 4711' >/dev/null && exit 0; sleep 0.5; done; exit 1
"#;

/// What is left of them, a line each.
const LEFT: &str = r#"
pgrep -u u7s-admin -l; awk -F: '$1 == "u7s-admin" { print $2, $2 + $3 - 1 }' /etc/subuid | while read first last; do
    for status in /proc/[0-9]*/status; do awk -v a=$first -v b=$last '/^Name:/ { n = $2 } /^Uid:/ && $2 >= a && $2 <= b { print n, $2 }' $status 2>/dev/null; done; done
ls /var/lib/systemd/linger 2>/dev/null
ls /var/spool/cron/crontabs 2>/dev/null | grep u7s-admin
find /var/spool/cron/atjobs /var/spool/at -user u7s-admin -type f 2>/dev/null
systemctl list-units --all --plain --no-legend "user@$(id -u u7s-admin).service" | grep -v inactive
nft list table inet u7s 2>/dev/null | head -1
find /sys/fs/cgroup/system.slice/u7s.service -maxdepth 0 2>/dev/null
true
"#;

fn n1_reset_ends_all_that_a_hostile_node_left(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.vm.command(&["sh", "-c", LEFTOVERS]).within(Duration::from_secs(600)).ok()?;
    take_over(&cluster)?;
    let begin = Instant::now();
    let reset = kubeadm(&cluster.vm, &["reset", "--force"]).within(STOP * 3).run()?;
    note(format!("reset: {:?} after {:.0} s", reset.code(), begin.elapsed().as_secs_f64()));
    exits(&reset, 0)?;
    let left = cluster.vm.sh(LEFT)?;
    holds(left.is_empty(), format!("left behind: {left}\n{reset}"))?;
    give_back(&cluster)?;
    let begin = Instant::now();
    exits(
        &kubeadm(&cluster.vm, &["init"]).within(cluster.vm.speed().scale(Duration::from_secs(120))).run()?,
        0,
    )?;
    cluster.converge()?;
    note(format!("another init: all Ready after {:.0} s", begin.elapsed().as_secs_f64()));
    Ok(())
}
