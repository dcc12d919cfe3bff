//! What a machine must have, taken away: each is named before anything is done.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use u7s_vm::{Output, Vm};

use crate::Listed;
use crate::world::{Check, SOON, World, exits, holds, kubeadm, machine, note};

pub(crate) const TESTS: &[Listed] =
    &[("stripped::each_missing_ability_is_named_and_nothing_is_changed", each_missing_ability_is_named)];

/// Modules that are taken out, the kernel's index included: as if its package carried none of them.
const MODULES: [&str; 5] = ["tun", "overlay", "veth", "br_netfilter", "vxlan"];

/// What is taken, in an order that lets go of it, and how it is given back.
const STRIP: &str = r#"
lib=/usr/lib/modules/$(uname -r); mkdir -p /root/kept; cp -a $lib/modules.* /root/kept
for m in $MODULES; do modprobe -r $m; done
for m in $MODULES; do f=$(modinfo -n $m); echo $f >> /root/kept/paths; mv $f /root/kept; done
depmod
mv /usr/bin/crun /root/kept; mv /etc/subuid /root/kept; : > /etc/subuid
rm -f /dev/net/tun
sysctl -qw user.max_user_namespaces=0 net.ipv4.ip_unprivileged_port_start=7000 net.ipv4.ip_forward=0
"#;
const RESTORE: &str = r#"
lib=/usr/lib/modules/$(uname -r)
while read f; do mv /root/kept/$(basename $f) $f; done < /root/kept/paths
cp -a /root/kept/modules.* $lib; mv /root/kept/crun /usr/bin; mv /root/kept/subuid /etc
for m in $MODULES; do modprobe $m; done
[ -e /dev/net/tun ] || { mkdir -p /dev/net; mknod -m 666 /dev/net/tun c 10 200; }
sysctl -qw user.max_user_namespaces=$1 net.ipv4.ip_unprivileged_port_start=1024
rm -r /root/kept
"#;

/// The id of each, its level, a word of its message and one of its remedy.
const NAMED: [(&str, &str, &str, &str); 6] = [
    ("UserNamespaces", "error", "user.max_user_namespaces is 0", "sysctl"),
    ("Tun", "error", "/dev/net/tun is missing", "modprobe tun"),
    ("Modules", "error", "tun", "install linux-image-"),
    ("FileExisting-crun", "error", "crun is not installed", "install crun"),
    ("Subids", "error", "u7s-admin", "usermod"),
    ("LowPort", "error", "6443", "ip_unprivileged_port_start"),
];

/// Where init would leave traces.
const STATE: &str = "find /etc /var/lib/u7s /var/lib/u7s-admin /run/u7s /root /usr/lib/systemd/system -newer /root/mark \
    -not -path '/root/.cache*' 2>/dev/null | sort; cut -d' ' -f1 /proc/modules | sort; \
    systemctl is-active u7s.service || true; nft list tables; ls -A /var/lib/u7s-admin /run/u7s 2>/dev/null || true; \
    cat /proc/sys/user/max_user_namespaces /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ip_forward \
    /proc/sys/fs/inotify/max_user_instances /proc/sys/kernel/keys/maxkeys";

fn each_missing_ability_is_named(_: &World) -> Check {
    let mut vm = machine("stripped")?;
    vm.options.memory = 2048;
    note(format!("boot: {:.1} s", vm.boot()?.as_secs_f64()));
    let result = strip(&vm);
    if result.is_err() {
        crate::world::evidence(&mut vm, "stripped");
    }
    result
}

fn strip(vm: &Vm) -> Check {
    vm.until(SOON, "a default route, and systemd at rest", |vm| {
        let seen = vm.sh("ip route; systemctl list-jobs --no-legend | grep -v '^No' || true");
        let seen = seen.map_err(|error| error.to_string())?;
        if seen.lines().count() == seen.matches(" dev ").count() && seen.contains("default") {
            Ok(())
        } else {
            Err(seen)
        }
    })?;
    let factor = format!("s/^#timeout_factor = 1/timeout_factor = {}/", vm.speed().factor());
    vm.ok(&["sed", "-i", &factor, "/etc/u7s/config.toml"])?;
    let namespaces = vm.ok(&["cat", "/proc/sys/user/max_user_namespaces"])?;
    let (run, whole) = check(vm)?;
    let ids = |needs: &Needs| needs.keys().cloned().collect::<Vec<_>>();
    note(format!("a whole machine: {:?}, exit status {:?}", ids(&whole), run.code()));
    exits(&run, 0)?;
    let names = MODULES.join(" ");
    script(vm, STRIP, &names, &namespaces)?;
    vm.sh("touch /root/mark")?;
    let before = vm.sh(STATE)?;
    let (run, stripped) = check(vm)?;
    exits(&run, 2)?;
    judge(&stripped)?;
    let init = kubeadm(vm, &["init"]).within(vm.speed().scale(Duration::from_secs(30))).run()?;
    exits(&init, 2)?;
    for (id, ..) in NAMED {
        holds(init.stderr.contains(&format!("[ERROR {id}]")), format!("init does not name {id}: {init}"))?;
    }
    let after = vm.sh(STATE)?;
    holds(after == before, format!("before: {before}\nafter a check and an init: {after}"))?;
    script(vm, RESTORE, &names, &namespaces)?;
    let (run, again) = check(vm)?;
    note(format!("given back: {:?}, exit status {:?}", ids(&again), run.code()));
    holds(ids(&again) == ids(&whole), format!("{:?}, at first {:?}", ids(&again), ids(&whole)))
}

fn script(vm: &Vm, text: &str, modules: &str, namespaces: &str) -> Check {
    let command = vm.command(&["sh", "-euc", text, "sh", namespaces]).env("MODULES", modules);
    Ok(command.within(vm.speed().scale(SOON)).ok().map(drop)?)
}

fn judge(stripped: &Needs) -> Check {
    for (id, level, message, remedy) in NAMED {
        let need = stripped.get(id).ok_or_else(|| format!("{id} is not named: {stripped:?}"))?;
        note(format!("{id} ({}): {}; {}", need[0], need[1], need[2]));
        holds(need[0] == level, format!("{id} is a {}", need[0]))?;
        holds(need[1].contains(message), format!("no `{message}` in: {}", need[1]))?;
        holds(need[2].contains(remedy), format!("no `{remedy}` in: {}", need[2]))?;
    }
    let modules = &stripped["Modules"][1];
    let unnamed: Vec<&str> = MODULES.into_iter().filter(|name| !modules.contains(name)).collect();
    holds(unnamed.is_empty(), format!("{unnamed:?} are not named: {modules}"))?;
    // A node routes in its own network namespace.
    let forward = stripped.values().any(|need| need[1].contains("ip_forward"));
    holds(!forward, "net.ipv4.ip_forward of the host is none of a node's needs")
}

/// Level, message and remedy by id.
type Needs = BTreeMap<String, [String; 3]>;

fn check(vm: &Vm) -> Result<(Output, Needs), Box<dyn std::error::Error>> {
    let run = vm.command(&["u7s", "check", "-o", "json"]).within(vm.speed().scale(SOON)).run()?;
    let document: Value = serde_json::from_str(&run.stdout).map_err(|error| format!("{error}: {run}"))?;
    let text = |need: &Value, key: &str| need[key].as_str().unwrap_or_default().to_owned();
    let entry = |need: &Value| (text(need, "id"), ["level", "message", "remedy"].map(|key| text(need, key)));
    let needs = document["unmet"].as_array().into_iter().flatten().map(entry).collect();
    Ok((run, needs))
}
