//! Packets, and the driver that carries them.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_plan::node::{Forward, Protocol};

use crate::bench::{Bench, NODE_IP, Running, SERVER};
use crate::proc::{status, wait_for};

/// Answers each connection with its peer's address.
fn echo(address: &str, port: u16) -> String {
    format!(
        "import socket\n\
         s = socket.create_server(('{address}', {port}), backlog=64)\n\
         print('ready')\n\
         while True:\n    c, a = s.accept(); c.sendall(a[0].encode()); c.close()\n"
    )
}

/// Connects and returns what it is told, or why not.
fn client(address: impl std::fmt::Display, port: u16) -> String {
    format!(
        "/usr/bin/python3 -c \"import socket\ntry:\n s=socket.create_connection(('{address}', {port}), 2); s.settimeout(2); print(s.recv(99).decode())\nexcept OSError as e: print('failed', e)\""
    )
}

fn told(node: &Running) -> Option<String> {
    let said = node.inside(&client(SERVER, 8080)).trim().to_owned();
    (!said.starts_with("failed")).then_some(said)
}

#[test]
fn a_packet_passes_and_comes_from_the_nodes_address() {
    let node = Bench::new().start();
    let _server = node.serve(&echo("192.0.2.20", 8080));
    assert_eq!(told(&node), Some(NODE_IP.to_string()));
}

#[test]
fn a_killed_driver_is_replaced_and_addresses_stay() {
    let node = Bench::new().start();
    let _server = node.serve(&echo("192.0.2.20", 8080));
    let before = node.inside("ip -4 -o addr show tap0; ip route; cat /sys/class/net/tap0/ifindex");
    let first = node.status().driver_pid.unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    wait_for("another driver to be ready", Duration::from_secs(5), || {
        let now = node.now();
        (now.driver_pid.is_some_and(|pid| pid != first) && now.state == "ready").then_some(())
    });
    wait_for("a packet to pass again", Duration::from_secs(5), || told(&node));
    assert_eq!(node.inside("ip -4 -o addr show tap0; ip route; cat /sys/class/net/tap0/ifindex"), before);
    assert_eq!(status(node.now().driver_pid.unwrap(), "NoNewPrivs"), "1");
}

/// The package may be older than the one that init saw.
#[test]
fn a_driver_is_handed_tap0_and_one_that_does_not_take_it_opens_it_by_name() {
    let help = std::process::Command::new("/usr/bin/slirp4netns").arg("--help").output().unwrap();
    let takes = String::from_utf8_lossy(&help.stdout).contains("tapfd");
    let mut bench = Bench::new();
    bench.spec.programs.slirp4netns_tapfd = true;
    let node = bench.start();
    let _server = node.serve(&echo("192.0.2.20", 8080));
    assert_eq!(told(&node), Some(NODE_IP.to_string()));
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", node.now().driver_pid.unwrap())).unwrap();
    assert_eq!(line.contains("--netns-type=tapfd"), takes, "{line}");
    assert_eq!(node.output().contains("opens it by name"), !takes, "{}", node.output());
}

#[test]
fn a_forwarded_port_leads_inside_also_after_the_forwarder_was_killed() {
    let mut bench = Bench::new();
    bench.spec.forwards.push(Forward { protocol: Protocol::Tcp, address: NODE_IP, port: 16443 });
    let node = bench.start();
    let script = format!(
        "/usr/bin/python3 -u -c \"{}\" >/dev/null 2>&1 &",
        echo("192.0.2.10", 16443).replace('"', "\\\"")
    );
    node.inside(&script);
    let through = || {
        let said = node.outside(&client(NODE_IP, 16443)).trim().to_owned();
        (said == "10.41.0.2").then_some(())
    };
    wait_for("the forwarded port, seen from the gateway's address", Duration::from_secs(5), through);
    let forwarder = node
        .inside("for p in /proc/[0-9]*; do grep -qs u7s-forwarder $p/comm && echo ${p#/proc/}; done; true");
    node.inside(&format!("kill -9 {forwarder}"));
    wait_for("the port through another forwarder", Duration::from_secs(10), through);
}

#[test]
fn f9_a_stopped_driver_is_found_out_and_replaced() {
    let node = Bench::new().start();
    let _server = node.serve(&echo("192.0.2.20", 8080));
    wait_for("a packet to pass", Duration::from_secs(5), || told(&node));
    let first = node.status().driver_pid.unwrap();
    kill(Pid::from_raw(first), Signal::SIGSTOP).unwrap();
    wait_for("another driver to be ready", Duration::from_secs(25), || {
        let now = node.now();
        (now.driver_pid.is_some_and(|pid| pid != first) && now.state == "ready").then_some(())
    });
    wait_for("a packet to pass again", Duration::from_secs(5), || told(&node));
    assert!(!std::path::Path::new(&format!("/proc/{first}")).exists());
}

#[test]
fn a_driver_that_answers_no_echo_for_a_packet_filter_is_left_alone() {
    let node = Bench::new().start();
    let first = node.status().driver_pid;
    wait_for("the first echo", Duration::from_secs(5), || {
        let seen = node.inside("cat /sys/class/net/tap0/statistics/rx_packets");
        (seen.trim() != "0").then_some(())
    });
    node.inside(
        "nft add table ip t; nft add chain ip t o '{ type filter hook output priority 0; }'; \
         nft add rule ip t o ip protocol icmp drop",
    );
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!((node.now().driver_pid, node.now().state.as_str()), (first, "ready"));
}

#[test]
fn ready_means_that_the_forwarded_ports_lead_inside() {
    let mut bench = Bench::new();
    bench.spec.forwards.push(Forward { protocol: Protocol::Tcp, address: NODE_IP, port: 16443 });
    let node = bench.start();
    assert!(node.now().connections.limit > 0);
    let said = node.outside(&client(NODE_IP, 16443));
    assert!(said.contains("Connection reset by peer") || said.contains("Connection refused"), "{said}");
    assert!(!node.output().contains("no connection to the forwarded ports"), "{}", node.output());
}

/// Open descriptors of a process, by what they are.
fn descriptors(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let mut kinds: Vec<String> = links
        .map(|link| link.display().to_string().split('[').next().unwrap_or_default().to_owned())
        .collect();
    kinds.sort();
    kinds
}

#[test]
fn restarts_of_driver_and_forwarder_leave_no_descriptor_behind() {
    let mut bench = Bench::new();
    bench.spec.forwards.push(Forward { protocol: Protocol::Tcp, address: NODE_IP, port: 16443 });
    let node = bench.start();
    // A question to crio or a port is a descriptor for a moment: what counts is what does not change for a while.
    let settled = || {
        let mut last = (Vec::new(), Vec::new());
        wait_for("descriptors that stay as they are", Duration::from_secs(15), || {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(100));
                let now = (descriptors(node.pid()), descriptors(node.init()));
                if std::mem::replace(&mut last, now) != last {
                    return None;
                }
            }
            Some(last.clone())
        })
    };
    let before = settled();
    let mut last = node.status().driver_pid.unwrap();
    // The pauses double with each death: more of them would take minutes.
    for _ in 0..6 {
        kill(Pid::from_raw(last), Signal::SIGKILL).unwrap();
        last = wait_for("another driver", Duration::from_secs(15), || {
            let now = node.now();
            now.driver_pid.filter(|pid| *pid != last && now.state == "ready")
        });
    }
    let list = "for p in /proc/[0-9]*; do grep -qs u7s-forwarder $p/comm && echo ${p#/proc/}; done; true";
    for _ in 0..20 {
        let forwarder = node.inside(list).trim().to_owned();
        node.inside(&format!("kill -9 {forwarder}"));
        wait_for("another forwarder", Duration::from_secs(5), || {
            let other = node.inside(list).trim().to_owned();
            (!other.is_empty() && other != forwarder && node.now().connections.limit > 0).then_some(())
        });
    }
    assert_eq!(settled(), before);
    let driver = descriptors(last);
    assert!(driver.len() <= 10 && !driver.iter().any(|link| link.contains("/home/")), "{driver:?}");
}
