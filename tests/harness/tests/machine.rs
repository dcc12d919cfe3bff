//! The harness itself on a real machine: nodes boot, obey deadlines, are compared, and leave nothing behind.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "nothing but tests"
)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use u7s_harness::{Error, Lan, Node, Signal, until};

const BOOT: Duration = Duration::from_secs(60);

fn booted(lan: &Lan, name: &str) -> Node {
    let mut node = lan.node(name).unwrap();
    node.install_kit(&[]).unwrap();
    let start = Instant::now();
    let state = node.boot(BOOT).unwrap();
    println!("{name} is {state} after {:.2?}", start.elapsed());
    node
}

#[test]
fn a_node_runs_the_kit_and_is_reached_by_others() {
    let lan = Lan::new().unwrap();
    let (one, two) = (booted(&lan, "one"), booted(&lan, "two"));
    let client = lan.client("visitor").unwrap();
    let images = one
        .ok(&["kubeadm", "config", "images", "list", "--kubernetes-version", u7s_kit::KUBERNETES])
        .unwrap();
    let kit: Vec<&str> = lan
        .kit()
        .images()
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("registry.k8s.io/"))
        .collect();
    assert_eq!(images.lines().collect::<Vec<_>>(), kit);
    for name in ["kubeadm", "kubelet", "crio"] {
        let sum = one.ok(&["sha256sum", &format!("/usr/bin/{name}")]).unwrap();
        assert_eq!(sum.split(' ').next(), lan.kit().sha256(name), "{name}");
    }
    let address = one.ip().to_string();
    assert!(two.exec(&["ping", "-c1", "-W5", &address]).unwrap().ok());
    let server = one.spawn(&["busybox", "httpd", "-f", "-p", "8000", "-h", "/etc"]).unwrap();
    let url = format!("http://{address}:8000/hostname");
    let get = || {
        client
            .exec(&["curl", "-s", &url])
            .map_err(|e| e.to_string())
            .and_then(|out| if out.ok() { Ok(out.stdout) } else { Err(out.to_string()) })
    };
    assert_eq!(until(Duration::from_secs(10), "an answer", get).unwrap(), "one\n");
    drop(server);
}

#[test]
fn a_command_is_killed_at_its_deadline() {
    let lan = Lan::new().unwrap();
    let node = booted(&lan, "slow");
    let start = Instant::now();
    let error = node
        .command(&["sh", "-c", "echo begun; sleep 300"])
        .within(Duration::from_secs(1))
        .run()
        .unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }) && error.to_string().contains("begun"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(60));
    let gone = |node: &Node| {
        if node.processes().iter().any(|p| p.comm == "sleep") { Err("sleep".into()) } else { Ok(()) }
    };
    node.until(Duration::from_secs(5), "the end of sleep", gone).unwrap();
    let output =
        node.command(&["sh", "-c", "id -un; cat; exit 7"]).user("daemon").input("words").run().unwrap();
    assert_eq!((output.stdout.as_str(), output.code()), ("daemon\nwords", Some(7)));
}

#[test]
fn a_snapshot_shows_what_changed_and_only_that() {
    let lan = Lan::new().unwrap();
    let node = booted(&lan, "camera");
    let start = Instant::now();
    let before = node.snapshot().unwrap();
    println!("{} entries in {:.2?}", before.len(), start.elapsed());
    assert_eq!(before.diff(&node.snapshot().unwrap()), [""; 0]);
    node.write("/etc/new/file", "x").unwrap();
    node.sh("chmod 600 /etc/hosts; mount -t tmpfs x /mnt; nft add table inet u7s; sysctl -q net.ipv4.ip_forward=1").unwrap();
    node.sh("systemd-run -q --unit=u7s-test sleep 300; mkdir /sys/fs/cgroup/left").unwrap();
    let server = node.spawn(&["nc", "-l", "10.77.0.2", "6443"]).unwrap();
    let listens = |node: &Node| {
        if node.ok(&["ss", "-Hltn"]).unwrap().contains(":6443") { Ok(()) } else { Err(String::new()) }
    };
    node.until(Duration::from_secs(5), "nc to listen", listens).unwrap();
    let diff = before.diff(&node.snapshot().unwrap());
    println!("{}", diff.join("\n"));
    for wanted in [
        "+ cgroup /left",
        "+ cgroup /system.slice/u7s-test.service",
        "+ file /etc/new d 755 0:0",
        "+ file /etc/new/file f 644 0:0 1 ",
        "~ file /etc/hosts: f 644",
        "+ mount /mnt tmpfs",
        "+ nft inet u7s",
        "+ port tcp ",
        "~ sysctl net/ipv4/ip_forward: 0 -> 1",
        "+ unit u7s-test.service loaded active running",
    ] {
        assert!(diff.iter().any(|line| line.starts_with(wanted)), "{wanted}");
    }
    drop(server);
    node.sh("rm -r /etc/new; chmod 644 /etc/hosts; umount /mnt; nft delete table inet u7s; sysctl -q net.ipv4.ip_forward=0").unwrap();
    node.sh("systemctl stop u7s-test; rmdir /sys/fs/cgroup/left").unwrap();
    let quiet = |node: &Node| {
        let diff = before.diff(&node.snapshot().unwrap());
        if diff.is_empty() { Ok(()) } else { Err(diff.join("\n")) }
    };
    node.until(Duration::from_secs(10), "no difference", quiet).unwrap();
}

#[test]
fn a_power_cut_keeps_the_tree_and_devices_can_be_left_out() {
    let lan = Lan::new().unwrap();
    let mut node = booted(&lan, "cut");
    assert!(
        node.ok(&["stat", "-c", "%a", "/dev/net/tun", "/dev/fuse", "/dev/kmsg"])
            .unwrap()
            .lines()
            .all(|mode| mode == "666")
    );
    node.write("/var/lib/mark", "here").unwrap();
    let crio = node.processes().into_iter().find(|process| process.comm == "dbus-daemon").unwrap();
    node.signal(&crio, Signal::SIGKILL).unwrap();
    node.power_cut().unwrap();
    assert!(node.processes().is_empty());
    node.without_device("net/tun").unwrap();
    node.boot(BOOT).unwrap();
    assert_eq!(node.read("/var/lib/mark").unwrap(), "here");
    assert!(!node.exec(&["test", "-e", "/dev/net/tun"]).unwrap().ok());
    assert!(node.exec(&["test", "-e", "/usr/bin/crio"]).unwrap().ok());
}

#[test]
fn nothing_is_left_after_a_node() {
    let lan = Lan::new().unwrap();
    let node = booted(&lan, "gone");
    let (pid1, root) = (node.pid1().unwrap(), node.root_dir());
    drop(node);
    drop(lan);
    let stat = fs::read_to_string(format!("/proc/{pid1}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    assert!(!root.exists());
}

/// The helper of the next test: a test process that boots a node and is killed before it can tidy up.
#[test]
#[ignore = "only as a child of another test"]
fn helper_that_never_ends() {
    let lan = Lan::new().unwrap();
    let node = booted(&lan, "orphan");
    println!("pid1 {}", node.pid1().unwrap());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_test_takes_its_node_along_and_the_next_sweeps() {
    let me = std::env::current_exe().unwrap();
    let mut child = Command::new(me)
        .args(["--ignored", "--exact", "helper_that_never_ends", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let line =
        lines.find_map(|line| line.unwrap().rsplit_once("pid1 ").map(|(_, pid)| pid.to_string())).unwrap();
    let pid1 = format!("/proc/{line}");
    assert!(Path::new(&pid1).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = || if Path::new(&pid1).exists() { Err("it runs".into()) } else { Ok(()) };
    until(Duration::from_secs(10), "the end of the orphan", gone).unwrap();
    let _lan = Lan::new().unwrap();
    let nodes = u7s_kit::cache_dir().unwrap().join("nodes");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let left: Vec<String> = fs::read_dir(nodes).unwrap().flatten().map(name).collect();
    let prefix = format!("u7s-{}-", child.id());
    assert!(!left.iter().any(|name| name.starts_with(&prefix)), "{left:?}");
}
