//! Ports that lead to a pod: the client's address arrives there, and the answers find their way back.
//!
//! The pod is a network namespace inside, the rule that leads to it is what kube-proxy (`externalTrafficPolicy: Local`) and the
//! portmap plugin (`hostPort`) write: DNAT in PREROUTING and OUTPUT, without a masquerade.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use u7s_plan::control::{Answer, Request};

use crate::bench::{Bench, Running};
use crate::proc::wait_for;

/// The client, on another network than the node.
const CLIENT: &str = "198.51.100.7";

/// A machine beside the bench's host; it goes with this value.
struct Client(Child);

impl Client {
    fn new(node: &Running) -> Self {
        let child = Command::new("nsenter")
            .args(["--net", &format!("--target={}", node.pid()), "unshare", "--net", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let client = Self(child);
        let own = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let host = own(node.pid().unsigned_abs());
        wait_for("the client's namespace", Duration::from_secs(5), || {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (name == "sleep\n" && own(pid) != host).then_some(())
        });
        node.outside(&format!(
            "ip link add c0 type veth peer name c1 netns {pid} && ip addr add 198.51.100.1/24 dev c0 && ip link set c0 up"
        ));
        client.run(&format!(
            "ip addr add {CLIENT}/24 dev c1; ip link set c1 up; ip route add default via 198.51.100.1"
        ));
        client
    }

    fn run(&self, script: &str) -> String {
        let target = format!("--target={}", self.0.id());
        let output = Command::new("timeout")
            .args(["20", "nsenter", "--net", &target, "sh", "-c", script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What the other side sees of us.
    fn ask(&self, kind: &str, port: u16) -> String {
        self.run(&ask(kind, port))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks the node's address over TCP or UDP who we are; only the address that was asked may answer.
fn ask(kind: &str, port: u16) -> String {
    format!(
        "/usr/bin/python3 -c \"
import socket
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_{kind}); s.settimeout(2); s.connect(('192.0.2.10', {port}))
    s.send(b'who'); print(s.recv(99).decode())
except OSError as e: print('failed', e)\""
    )
}

/// Answers with the peer's address, over TCP and UDP on port 8080 of every address.
const SERVER: &str = "
import socket, threading
def talk(c, a):
    while c.recv(99): c.sendall(a[0].encode())
def streams():
    s = socket.create_server((\"\", 8080))
    while True: threading.Thread(target=talk, args=s.accept()).start()
def datagrams():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 8080))
    while True:
        _, a = s.recvfrom(99); s.sendto(a[0].encode(), a)
threading.Thread(target=streams).start()
datagrams()
";

/// A pod with the address 10.244.0.5, and ports of the node that lead to it.
fn pod(node: &Running) {
    node.inside(&format!(
        "unshare --net sh -c '/usr/bin/python3 -c \"$0\" & sleep 600' '{}' >/dev/null 2>&1 & echo $! > /run/pod
         for i in 1 2 3 4 5 6 7 8 9 10; do
             [ \"$(readlink /proc/$(cat /run/pod)/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ] || break; sleep 0.1
         done
         ip link add p0 type veth peer name p1 netns $(cat /run/pod)
         ip addr add 10.244.0.1/24 dev p0; ip link set p0 up
         nsenter --net=/proc/$(cat /run/pod)/ns/net sh -ec '
             ip link set lo up; ip addr add 10.244.0.5/24 dev p1; ip link set p1 up; ip route add default via 10.244.0.1'
         nft 'table ip proxy {{
             chain in {{ type nat hook prerouting priority dstnat; ip daddr 192.0.2.10 meta l4proto {{ tcp, udp }} th dport 30080 dnat to 10.244.0.5:8080; }}
             chain out {{ type nat hook output priority -100; ip daddr 192.0.2.10 meta l4proto {{ tcp, udp }} th dport 30080 dnat to 10.244.0.5:8080; }}
             chain far {{ type nat hook prerouting priority dstnat; ip daddr 192.0.2.10 meta l4proto {{ tcp, udp }} th dport 30081 meta mark set 0x4000 dnat to 10.244.0.5:8080; }}
             chain farout {{ type nat hook output priority -100; ip daddr 192.0.2.10 meta l4proto {{ tcp, udp }} th dport 30081 meta mark set meta mark or 0x4000 dnat to 10.244.0.5:8080; }}
             chain leaving {{ type nat hook postrouting priority srcnat; meta mark & 0x4000 != 0 masquerade; }}
         }}'",
        SERVER
    ));
}

fn open(node: &Running, ports: &[&str]) {
    for port in ports {
        assert_eq!(node.ask(&Request::PortsAdd { port: port.parse().unwrap() }), Answer::Done);
    }
}

#[test]
fn a_pod_behind_a_port_sees_the_clients_address() {
    let node = Bench::new().start();
    pod(&node);
    open(&node, &["30080", "30080/udp", "30081", "30081/udp"]);
    let client = Client::new(&node);
    for kind in ["STREAM", "DGRAM"] {
        wait_for("the pod to answer", Duration::from_secs(5), || {
            (client.ask(kind, 30080) == CLIENT).then_some(())
        });
        // The host itself has the gateway's address; with a masquerade everybody has the bridge's.
        assert_eq!(node.outside(&ask(kind, 30080)).trim(), "10.41.0.2", "{kind}");
        assert_eq!(client.ask(kind, 30081), "10.244.0.1", "{kind}");
    }
}

#[test]
fn a_service_of_the_node_itself_answers_datagrams_and_connections() {
    let node = Bench::new().start();
    node.inside(&format!("/usr/bin/python3 -c '{}' >/dev/null 2>&1 &", SERVER));
    open(&node, &["8080", "8080/udp"]);
    let client = Client::new(&node);
    for kind in ["STREAM", "DGRAM"] {
        wait_for("an answer", Duration::from_secs(5), || (client.ask(kind, 8080) == CLIENT).then_some(()));
        assert_eq!(node.outside(&ask(kind, 8080)).trim(), "10.41.0.2", "{kind}");
    }
}

#[test]
fn what_nobody_translated_is_refused_at_once_and_leaves_no_flow() {
    let node = Bench::new().start();
    let connect = "/usr/bin/python3 -c \"
import socket, time
begun = time.time()
try: socket.create_connection(('10.96.0.1', 443), 5)
except OSError as e: print(type(e).__name__, time.time() - begun < 1)\"";
    assert_eq!(node.inside(connect).trim(), "ConnectionRefusedError True");
    pod(&node);
    let from_pod = node.inside(&format!("nsenter --net=/proc/$(cat /run/pod)/ns/net {connect}"));
    assert_eq!(from_pod.trim(), "ConnectionRefusedError True");
    assert_eq!(node.inside("conntrack -L -d 10.96.0.1 2>/dev/null"), "");
    // Translated, it passes.
    node.inside("nft add rule ip proxy out ip daddr 10.96.0.1 tcp dport 443 dnat to 10.244.0.5:8080");
    wait_for("the service", Duration::from_secs(5), || node.inside(connect).trim().is_empty().then_some(()));
}
