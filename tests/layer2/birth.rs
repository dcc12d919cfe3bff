//! What is true once READY=1 was said.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::bench::{Bench, NODE_IP, SUBIDS};
use crate::proc::{capabilities, cgroup, map, namespace, status};

/// CAP_NET_BIND_SERVICE, which slirp4netns keeps in its sandbox, over the node's namespaces only.
const NET_BIND_SERVICE: u64 = 1 << 10;

#[test]
fn supervisor_and_driver_hold_nothing_and_the_node_holds_everything_of_its_own() {
    let node = Bench::new().start();
    let (uid, driver) = (node.bench.uid.to_string(), node.status().driver_pid.unwrap());
    assert_eq!(capabilities(node.pid()), [0; 4]);
    assert_eq!(status(node.pid(), "NoNewPrivs"), "1");
    assert!(
        capabilities(driver).iter().all(|set| set & !NET_BIND_SERVICE == 0),
        "{:x?}",
        capabilities(driver)
    );
    assert_eq!(status(driver, "NoNewPrivs"), "1");
    let full = (1_u64 << (last_capability() + 1)) - 1;
    assert_eq!(capabilities(node.init()), [full, full, 0, 0]);
    assert_eq!(status(node.init(), "NoNewPrivs"), "0");
    assert_eq!(status(node.init(), "CapBnd"), format!("{full:016x}"));
    for pid in [node.pid(), driver, node.init()] {
        let uids: Vec<String> = status(pid, "Uid").split_whitespace().map(str::to_owned).collect();
        assert_eq!(uids, vec![uid.clone(); 4], "{pid}");
    }
    assert_eq!(status(node.init(), "Groups").trim(), "");
}

#[test]
fn the_forwarder_keeps_one_capability_and_gains_none() {
    let node = Bench::new().start();
    let said = node.inside(
        "for p in /proc/[0-9]*; do grep -qs u7s-forwarder $p/comm && grep -hE '^(Cap|NoNew)' $p/task/*/status; done; true",
    );
    let net_admin = format!("{:016x}", 1 << 12);
    let none = format!("{:016x}", 0);
    let expected = [("CapInh", &none), ("CapPrm", &net_admin), ("CapEff", &net_admin), ("CapBnd", &none)];
    let mut lines: Vec<String> = expected.map(|(set, bits)| format!("{set}:\t{bits}")).into();
    lines.extend([format!("CapAmb:\t{none}"), "NoNewPrivs:\t1".to_owned()]);
    let said: Vec<&str> = said.lines().collect();
    let threads: Vec<&[&str]> = said.chunks(lines.len()).collect();
    // One for datagrams, at least one for connections.
    assert!(threads.len() >= 2 && threads.iter().all(|thread| *thread == lines), "{threads:?}");
}

#[test]
fn every_namespace_is_the_nodes_own_and_the_maps_are_those_of_the_specification() {
    let node = Bench::new().start();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(namespace(node.pid(), kind), namespace(node.init(), kind), "{kind}");
    }
    let expected = [format!("0 {} 1", node.bench.uid), format!("1 {SUBIDS} 65536")];
    assert_eq!(map(node.init(), "uid_map"), expected);
    assert_eq!(map(node.init(), "gid_map"), expected);
    assert_eq!(status(node.init(), "NSpid").split_whitespace().last(), Some("1"));
}

#[test]
fn the_node_has_a_cgroup_of_its_own_beside_the_supervisors() {
    let node = Bench::new().start();
    let unit = node.bench.cgroup().file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(cgroup(node.pid()), format!("/{unit}/supervisor"));
    assert_eq!(cgroup(node.status().driver_pid.unwrap()), format!("/{unit}/supervisor"));
    assert_eq!(cgroup(node.init()), format!("/{unit}/node/init"));
    assert_eq!(node.status().cgroup, format!("/{unit}/node"));
    assert_eq!(
        node.inside("grep ^0:: /proc/1/cgroup; cat /sys/fs/cgroup/init/cgroup.procs | head -1"),
        "0::/init\n1\n"
    );
    assert_eq!(
        node.inside("mkdir /sys/fs/cgroup/kubepods && rmdir /sys/fs/cgroup/kubepods && echo made"),
        "made\n"
    );
    assert_eq!(node.inside("cat /sys/fs/cgroup/cgroup.procs"), "");
}

#[test]
fn the_link_is_tap0_with_the_nodes_address_alone() {
    let node = Bench::new().start();
    let addresses = node.inside("ip -4 -o addr show | tr -s ' ' | cut -d' ' -f2,4");
    assert_eq!(addresses, format!("lo 127.0.0.1/8\ntap0 {NODE_IP}/32\nu7s0 10.41.0.1/32\n"));
    let routes = node.inside("ip -4 route show | sed 's/ *$//'");
    let expected = "default via 10.41.0.2 dev tap0 proto static\n\
                    10.41.0.2 dev tap0 proto static scope link\n\
                    10.41.0.3 dev tap0 proto static scope link\n";
    assert_eq!(routes, expected);
    assert_eq!(node.inside("cat /sys/class/net/tap0/mtu"), "1400\n");
    assert_eq!(node.inside("ip link show tap0 | grep -o LOWER_UP"), "LOWER_UP\n");
    let rules =
        node.inside("ip rule show | grep -E 'lookup 11[78]' | sed 's/^[0-9]*:[[:space:]]*//; s/ *$//'");
    let expected = "from all iif lo ipproto udp dport 8472 lookup 118\n\
                    from all fwmark 0x20/0x30 lookup 118\n\
                    from all fwmark 0x10/0x30 lookup 117\n";
    assert_eq!(rules, expected);
    let routes =
        node.inside("ip route show table 117 | sed 's/ *$//'; ip route show table 118 | sed 's/ *$//'");
    assert_eq!(
        routes,
        "local default dev lo proto static scope host\ndefault dev u7s0 proto static scope link\n"
    );
}

#[test]
fn the_runtime_directory_is_the_same_on_both_sides_and_run_is_fresh() {
    let node = Bench::new().start();
    let ours = fs::metadata(node.bench.path("run/control.sock")).unwrap();
    let theirs = node.inside("stat -c '%i %a' /run/u7s/control.sock");
    assert_eq!(theirs, format!("{} 600\n", ours.ino()));
    assert_eq!(node.inside("stat -f -c %T /run"), "tmpfs\n");
    assert_eq!(node.inside("ls /run | tr '\\n' ' '"), "containers crio flannel lock netns u7s ");
}

/// What is in memory has a bound, in bytes and in files; layers of images are not in memory.
#[test]
fn no_file_system_of_the_node_takes_all_memory() {
    let node = Bench::new().start();
    let memory: u64 = node.inside("awk '/^MemTotal/ { print $2 }' /proc/meminfo").trim().parse().unwrap();
    for place in ["/run", "/tmp", "/root"] {
        let seen = node.inside(&format!("stat -f -c '%T %b %S %c' {place}"));
        let words: Vec<&str> = seen.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        assert_eq!(words[0], "tmpfs", "{place}");
        let kib = number(1) * number(2) / 1024;
        assert!(kib * 4 < memory, "{place} may take {kib} KiB of {memory}");
        assert!((10_000..=102_400).contains(&number(3)), "{place}: {seen}");
    }
    assert_eq!(node.inside("stat -c %a /tmp /var/tmp"), "1777\n1777\n");
    node.inside("echo layer > /var/tmp/layer");
    assert_eq!(fs::read_to_string(node.bench.path("home/node/var-tmp/layer")).unwrap(), "layer\n");
}

/// Whoever wrote there has ended; it may belong to any id of the node, which only its own root may remove.
#[test]
fn var_tmp_is_empty_after_a_restart() {
    let mut first = Bench::new().start();
    first.inside(
        "mkdir -m 700 /var/tmp/theirs; touch /var/tmp/theirs/layer; chown -R 1000:1000 /var/tmp/theirs",
    );
    first.end(nix::sys::signal::Signal::SIGTERM);
    let second = first.restart();
    assert_eq!(second.inside("ls -A /var/tmp"), "");
    let old = second.bench.path("home/node/var-tmp.old");
    crate::proc::wait_for("what was left to be removed", std::time::Duration::from_secs(10), || {
        (!old.exists()).then_some(())
    });
}

/// A fifth of the memory would have to be filled; files are counted as well.
#[test]
fn the_room_of_run_is_told() {
    let node = Bench::new().start();
    let before = node.now().run.unwrap();
    assert!(before.total > 0 && before.free_files > 10_000, "{before:?}");
    node.inside("seq -f /run/lock/%.0f 1000 | xargs touch; head -c 3000000 /dev/zero > /run/lock/fill");
    let after = node.now().run.unwrap();
    assert!(before.free - after.free >= 3_000_000, "{before:?} {after:?}");
    assert!(before.free_files - after.free_files >= 1000, "{before:?} {after:?}");
}

#[test]
fn names_files_and_binds_are_those_of_the_specification() {
    let node = Bench::new().start();
    assert_eq!(node.inside("hostname; cat /etc/resolv.conf"), "n1\nnameserver 10.41.0.3\n");
    assert_eq!(node.inside("cat /etc/hosts"), "127.0.0.1 localhost\n192.0.2.10 n1\n");
    assert_eq!(
        node.inside("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/tcp_fwmark_accept"),
        "1\n1\n"
    );
    let target = node.bench.path("target");
    node.inside(&format!("echo written > {}/file", target.display()));
    assert_eq!(fs::read_to_string(node.bench.path("home/node/kubelet/file")).unwrap(), "written\n");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "the bind is seen inside only");
    let propagation =
        node.inside(&format!("grep ' {} ' /proc/self/mountinfo | grep -o 'shared:'", target.display()));
    assert_eq!(propagation, "shared:\n");
    assert_eq!(node.inside("touch /root/mine && stat -c %u /root/mine"), "0\n");
    assert_eq!(node.inside("head -c0 /dev/kmsg && echo readable"), "readable\n");
}

#[test]
fn a_resolv_conf_that_links_into_run_is_ours_all_the_same() {
    let mut bench = Bench::new();
    bench.prelude = r#"
        mkdir "$BENCH/etc" "$BENCH/work"
        mount -t overlay -o "lowerdir=/etc,upperdir=$BENCH/etc,workdir=$BENCH/work" overlay /etc
        rm -f /etc/resolv.conf
        ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"#;
    let node = bench.start();
    assert_eq!(node.inside("readlink /etc/resolv.conf"), "../run/systemd/resolve/stub-resolv.conf\n");
    assert_eq!(node.inside("cat /etc/resolv.conf"), "nameserver 10.41.0.3\n");
}

#[test]
fn pid_one_reaps_what_is_left_to_it() {
    let node = Bench::new().start();
    node.inside("for i in 1 2 3 4 5; do (sleep 0.05 &) ; done; sleep 0.3");
    let zombies = node.inside("for s in /proc/[0-9]*/status; do grep -s '^State:.Z' $s; done; true");
    assert_eq!(zombies, "");
}

#[test]
fn without_capabilities_newuidmap_and_newgidmap_write_the_maps() {
    let mut bench = Bench::new();
    bench.privileges = "--inh-caps=-all";
    let node = bench.start();
    assert_eq!(map(node.init(), "uid_map"), [format!("0 {} 1", node.bench.uid), format!("1 {SUBIDS} 65536")]);
    assert_eq!(map(node.init(), "gid_map"), map(node.init(), "uid_map"));
    assert_eq!((capabilities(node.pid()), status(node.pid(), "NoNewPrivs").as_str()), ([0; 4], "1"));
}

#[test]
fn systemd_is_told_what_is_waited_for_and_that_the_loop_lives() {
    let mut bench = Bench::new();
    bench.env.push(("WATCHDOG_USEC", "200000"));
    let mut node = bench.start();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let said = node.said().to_vec();
    let place = |line: &str| said.iter().position(|said| said == line);
    let waiting =
        said.iter().position(|line| line.starts_with("STATUS=waiting until the namespaces are built"));
    assert!(waiting < place("READY=1"), "{said:?}");
    assert_eq!(said.iter().filter(|line| *line == "READY=1").count(), 1);
    assert!(said.iter().filter(|line| *line == "WATCHDOG=1").count() >= 4, "{said:?}");
    assert!(place("STATUS=ready").is_some(), "{said:?}");
}

fn last_capability() -> u32 {
    fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap()
}

#[test]
fn what_a_pod_that_broke_out_planted_does_not_keep_the_node_from_starting() {
    let mut bench = Bench::new();
    bench.prelude = r#"
        mkdir -p "$BENCH/home/node/resolv.conf/full"
        ln -s /dev/zero "$BENCH/home/node/hosts"
        mkfifo "$BENCH/home/node/units.json" "$BENCH/home/node/hosts.new"
        chown -hR "$OWN:$OWN" "$BENCH/home/node""#;
    let node = bench.start();
    assert_eq!(node.inside("cat /etc/resolv.conf"), "nameserver 10.41.0.3\n");
    assert_eq!(node.inside("tail -1 /etc/hosts"), "192.0.2.10 n1\n");
}

#[test]
fn pid_one_holds_nothing_that_leads_to_the_hosts_journal() {
    let node = Bench::new().start();
    let supervisors = fs::read_link(format!("/proc/{}/fd/2", node.pid())).unwrap();
    for entry in fs::read_dir(format!("/proc/{}/fd", node.init())).unwrap().flatten() {
        assert_ne!(fs::read_link(entry.path()).unwrap(), supervisors);
    }
}

#[test]
fn the_nodes_cgroups_are_bounded() {
    let node = Bench::new().start();
    let limits = node.inside("cat /sys/fs/cgroup/cgroup.max.depth /sys/fs/cgroup/cgroup.max.descendants");
    assert_eq!(limits, "64\n20000\n");
}
