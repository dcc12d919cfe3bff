//! The power fails, or somebody reboots, while an init is at work (F18, F19).

use std::time::{Duration, Instant};

use u7s_vm::Vm;

use crate::Listed;
use crate::power::{ALL, OURS, whole};
use crate::world::{Check, Cluster, exits, holds, kubeadm, machine, note, online, prepared};

pub(crate) const LONG: &[Listed] = &[
    ("cuts::f19_power_cuts_before_the_control_plane", |_| cuts(&BORDERS[..8])),
    ("cuts::f18_f19_power_cuts_and_a_reboot_while_it_starts", |_| cuts(&BORDERS[8..11])),
    ("cuts::f19_power_cuts_when_it_answers", |_| cuts(&BORDERS[11..])),
];

/// Where the init is stopped: a word for it, what it prints there, and how it is stopped.
type Border = (&'static str, &'static str, fn(&mut Vm) -> Check);

/// The borders of our phases, and of kubeadm's within the phase cluster.
const BORDERS: [Border; 17] = [
    ("host", r#""event":"phase".*"phase":"host""#, cut),
    ("configure", r#""event":"phase".*"phase":"configure""#, cut),
    ("namespace", r#""event":"phase".*"phase":"namespace""#, cut),
    ("cluster", r#""event":"phase".*"phase":"cluster""#, cut),
    ("certs", r"^\[certs\]", cut),
    ("kubeconfig", r"^\[kubeconfig\]", cut),
    ("etcd", r"^\[etcd\]", cut),
    ("control-plane", r"^\[control-plane\]", cut),
    ("kubelet-start", r"^\[kubelet-start\]", cut),
    ("wait-control-plane, by systemctl reboot", r"^\[wait-control-plane\]", reboot),
    ("wait-control-plane", r"^\[wait-control-plane\]", cut),
    ("upload-config", r"^\[upload-config\]", cut),
    ("mark-control-plane", r"^\[mark-control-plane\]", cut),
    ("bootstrap-token", r"^\[bootstrap-token\]", cut),
    ("addons", r"^\[addons\]", cut),
    ("publish", r#""event":"phase".*"phase":"publish""#, cut),
    ("enable", r#""event":"phase".*"phase":"enable""#, cut),
];

/// Starts an init and ends when it has printed what is looked for.
const UNTIL: &str = r#"
setsid kubeadm init --output json > /root/init.log 2>&1 < /dev/null &
while ! grep -qE -e "$0" /root/init.log; do
    kill -0 $! 2> /dev/null || { grep -qE -e "$0" /root/init.log && exit 0; tail -n 30 /root/init.log; exit 1; }
    sleep 0.1
done
"#;

fn cut(vm: &mut Vm) -> Check {
    Ok(vm.power_cut()?)
}

fn reboot(vm: &mut Vm) -> Check {
    // The agent may be stopped before it can tell how that ended.
    let _ = vm.exec(&["systemctl", "reboot"]);
    Ok(vm.wait_off(vm.speed().scale(Duration::from_secs(90)))?)
}

/// One machine, and each init goes a border further than the one before; nobody cleans up in between, and the last is completed.
fn cuts(borders: &[Border]) -> Check {
    let mut cluster = Cluster { vm: prepared(machine("cuts")?)?, init: None };
    let result = borders.iter().try_for_each(|border| stopped_at(&mut cluster, border));
    let result = result.and_then(|()| completed(&mut cluster));
    if result.is_err() {
        note(cluster.vm.sh("tail -n 40 /root/init.log").unwrap_or_default());
        crate::world::evidence(&mut cluster.vm, "cuts");
    }
    result
}

fn stopped_at(cluster: &mut Cluster, (name, words, stop): &Border) -> Check {
    let vm = &mut cluster.vm;
    let begin = Instant::now();
    vm.command(&["sh", "-uc", UNTIL, words])
        .first_in_path(crate::world::SHIMS)
        .within(vm.speed().scale(Duration::from_secs(120)))
        .ok()?;
    let there = begin.elapsed();
    stop(vm)?;
    let on = vm.boot()?;
    let empty = vm.sh("find /etc/kubernetes -type f -empty | wc -l")?;
    note(format!(
        "{name}: there after {:.0} s, agent after {:.0} s; {empty} of kubeadm's files are empty",
        there.as_secs_f64(),
        on.as_secs_f64()
    ));
    whole(vm, OURS).map_err(|error| format!("at the border of {name}: {error}"))?;
    online(vm)
}

/// What says that it is done outlives a cut right then: the node starts with the host.
fn completed(cluster: &mut Cluster) -> Check {
    let begin = Instant::now();
    let limit = cluster.vm.speed().scale(Duration::from_secs(120));
    let output = kubeadm(&cluster.vm, &["init"]).within(limit).run()?;
    exits(&output, 0)?;
    cluster.vm.power_cut()?;
    cluster.vm.boot()?;
    online(&cluster.vm)?;
    cluster.converge()?;
    note(format!("completed, cut, and all Ready after {:.0} s", begin.elapsed().as_secs_f64()));
    let left =
        cluster.vm.sh("find /etc /var/lib/u7s /root -name '*.u7s-new' -o -path /var/lib/u7s/unsynced")?;
    holds(left.is_empty(), format!("left behind: {left}"))?;
    whole(&cluster.vm, ALL)
}
