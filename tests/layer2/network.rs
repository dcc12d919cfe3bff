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
