//! Ports of the host come and go while the node runs.

use std::time::Duration;

use nix::sys::signal::Signal;
use u7s_plan::control::{Answer, Origin, Request};
use u7s_plan::node::HostPort;

use crate::bench::{Bench, NODE_IP, Running};
use crate::proc::{capabilities, wait_for};

fn port(text: &str) -> HostPort {
    text.parse().unwrap()
}

fn add(node: &Running, text: &str) -> Answer {
    node.ask(&Request::PortsAdd { port: port(text) })
}

fn remove(node: &Running, text: &str) -> Answer {
    node.ask(&Request::PortsRemove { port: port(text) })
}

/// Wanted ports with their origin and whether they are open.
fn listed(node: &Running) -> Vec<(String, Origin, bool)> {
    match node.ask(&Request::PortsList) {
        Answer::Ports { ports } => ports
            .into_iter()
            .map(|port| (port.forward.to_string(), port.origin, port.problem.is_none()))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// Starts a server inside that answers each line of each connection with the peer's address.
fn answer_inside(node: &Running, port: u16) {
    node.inside(&format!(
        "/usr/bin/python3 -u -c \"
import socket, threading
def talk(c, a):
    while c.recv(99): c.sendall(a[0].encode())
s = socket.create_server(('{NODE_IP}', {port}))
while True: threading.Thread(target=talk, args=s.accept()).start()
\" >/dev/null 2>&1 &"
    ));
}

/// What a client on the host is told through the port, or `failed` and why.
fn ask(node: &Running, address: &str, port: u16) -> String {
    node.outside(&format!(
        "/usr/bin/python3 -c \"
import socket
try:
    s = socket.create_connection(('{address}', {port}), 2); s.settimeout(2); s.sendall(b'x'); print(s.recv(99).decode())
except OSError as e: print('failed', e)\""
    ))
    .trim()
    .to_owned()
}

fn until_answered(node: &Running, address: &str, port: u16) {
    wait_for("an answer through the port", Duration::from_secs(5), || {
        (ask(node, address, port) == "10.41.0.2").then_some(())
    });
}

#[test]
fn a_port_is_opened_closed_and_kept_over_a_restart_of_the_node() {
    let node = Bench::new().start();
    answer_inside(&node, 18080);
    assert_eq!(listed(&node), []);
    assert!(ask(&node, "192.0.2.10", 18080).starts_with("failed"));
    assert_eq!(add(&node, "18080"), Answer::Done);
    assert_eq!(add(&node, "127.0.0.1:18080/tcp"), Answer::Done);
    assert_eq!(add(&node, "18080"), Answer::Done, "it is open already");
    until_answered(&node, "192.0.2.10", 18080);
    until_answered(&node, "127.0.0.1", 18080);
    let expected = [
        ("127.0.0.1:18080/tcp".to_owned(), Origin::Administrator, true),
        ("192.0.2.10:18080/tcp".to_owned(), Origin::Administrator, true),
    ];
    assert_eq!(listed(&node), expected);
    assert_eq!(remove(&node, "127.0.0.1:18080"), Answer::Done);
    assert!(ask(&node, "127.0.0.1", 18080).contains("refused"), "closed at once");
    until_answered(&node, "192.0.2.10", 18080);
    let mut node = node;
    node.end(Signal::SIGTERM);
    let node = node.restart();
    assert_eq!(listed(&node), expected[1..]);
    answer_inside(&node, 18080);
    until_answered(&node, "192.0.2.10", 18080);
    assert_eq!(remove(&node, "18080"), Answer::Done);
    assert!(
        matches!(remove(&node, "18080"), Answer::Refused { reason } if reason == "192.0.2.10:18080/tcp was not added")
    );
    assert_eq!(listed(&node), []);
}

#[test]
fn an_open_connection_outlives_its_port() {
    let node = Bench::new().start();
    answer_inside(&node, 18080);
    assert_eq!(add(&node, "18080"), Answer::Done);
    until_answered(&node, "192.0.2.10", 18080);
    let said = std::thread::scope(|scope| {
        let talk = scope.spawn(|| {
            node.outside(
                "/usr/bin/python3 -c \"
import socket, time
s = socket.create_connection(('192.0.2.10', 18080), 2); s.settimeout(5)
s.sendall(b'x'); s.recv(99)
time.sleep(2)
s.sendall(b'x'); print(s.recv(99).decode())\"",
            )
        });
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(remove(&node, "18080"), Answer::Done);
        assert!(ask(&node, "192.0.2.10", 18080).contains("refused"));
        talk.join().unwrap()
    });
    assert_eq!(said.trim(), "10.41.0.2");
}

#[test]
fn a_taken_port_is_refused_with_its_owner_and_not_remembered() {
    let node = Bench::new().start();
    let _server =
        node.serve("import socket; s = socket.create_server(('192.0.2.10', 18080)); print(1); s.accept()");
    let Answer::Refused { reason } = add(&node, "18080") else { panic!("it is taken") };
    assert!(reason.starts_with("TCP port 18080 of 192.0.2.10 is taken by a process of uid 0"), "{reason}");
    assert_eq!(listed(&node), []);
    assert_eq!(add(&node, "18080/udp"), Answer::Done, "the same number of UDP is free");
}

#[test]
fn a_port_of_the_node_itself_is_no_administrators() {
    let mut bench = Bench::new();
    bench.spec.forwards.push(port("16443").on(NODE_IP));
    let node = bench.start();
    assert_eq!(listed(&node), [("192.0.2.10:16443/tcp".to_owned(), Origin::Node, true)]);
    let Answer::Refused { reason } = remove(&node, "16443") else { panic!("it is the node's") };
    assert_eq!(reason, "192.0.2.10:16443/tcp belongs to the node, not to an administrator");
    // Added to it, it stays open when it is taken away again.
    assert_eq!(add(&node, "16443"), Answer::Done);
    assert_eq!(remove(&node, "16443"), Answer::Done);
    assert_eq!(listed(&node).len(), 1);
}

#[test]
fn a_low_port_needs_to_be_listed_and_costs_no_lasting_capability() {
    let mut bench = Bench::new();
    bench.spec.network.low_ports = vec![port("81"), port("53/udp")];
    let node = bench.start();
    assert_eq!(capabilities(node.pid()), [0; 4]);
    let Answer::Unmet(need) = add(&node, "80") else { panic!("80 is not listed") };
    assert_eq!(need.id, "LowPort");
    assert!(need.remedy.contains("net.ipv4.ip_unprivileged_port_start=80"), "{need:?}");
    answer_inside(&node, 81);
    for _ in 0..2 {
        assert!(ask(&node, "192.0.2.10", 81).contains("refused"));
        assert_eq!(add(&node, "81"), Answer::Done);
        until_answered(&node, "192.0.2.10", 81);
        assert_eq!(remove(&node, "81"), Answer::Done);
    }
    assert_eq!(add(&node, "53/udp"), Answer::Done);
}
