//! Datagrams: whose they seem to be, where the answers go, order, speed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use u7s_net::Error;
use u7s_net::forward::VXLAN;
use u7s_plan::node::{Forward, Protocol};

use crate::bed::{Bed, CLIENT, DEADLINE, GATEWAY, NODE, Net, until};

const PORT: u16 = 5353;

fn forward(address: Ipv4Addr, port: u16) -> Forward {
    Forward { protocol: Protocol::Udp, address, port }
}

/// Makes these the ports that are open, beside none.
fn open(bed: &Bed, wanted: &[Forward]) -> BTreeMap<Forward, Error> {
    let wanted: BTreeSet<Forward> = wanted.iter().copied().collect();
    bed.set_forwards(&wanted)
}

fn socket(net: &Net, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = net.run(|| UdpSocket::bind((address, port)).unwrap());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// A client that takes answers from where it sent to, and from nowhere else.
fn client(net: &Net, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = socket(net, Ipv4Addr::UNSPECIFIED, 0);
    socket.connect((address, port)).unwrap();
    socket
}

/// Sends until the service has heard it: what is sent before the inner half has the socket waits there, but a
/// neighbour that has to be found first, or a machine that is busy, may swallow one.
fn ask(client: &UdpSocket, service: &UdpSocket, word: &[u8]) -> SocketAddr {
    heard(service, word, || client.send(word).unwrap())
}

fn answer(service: &UdpSocket, to: SocketAddr, client: &UdpSocket, word: &[u8]) {
    heard(client, word, || service.send_to(word, to).unwrap());
}

/// Says it again after a second of silence only; what comes late of former words is no answer to this one.
fn heard(listener: &UdpSocket, word: &[u8], say: impl Fn() -> usize) -> SocketAddr {
    let mut buffer = vec![0; 65_536];
    listener.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let from = until("a datagram", || {
        say();
        loop {
            match listener.recv_from(&mut buffer) {
                Ok((length, from)) if buffer[..length] == *word => return Some(from),
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                    return None;
                }
            }
        }
    });
    listener.set_read_timeout(Some(DEADLINE)).unwrap();
    from
}

pub(crate) fn source_outside() {
    let bed = Bed::new();
    let _inner = bed.inner(4096);
    assert!(open(&bed, &[forward(NODE, PORT)]).is_empty());
    let service = socket(&bed.node, NODE, PORT);
    let any = socket(&bed.node, Ipv4Addr::UNSPECIFIED, PORT + 1);
    assert!(open(&bed, &[forward(NODE, PORT), forward(NODE, PORT + 1)]).is_empty());
    for (service, port) in [(&service, PORT), (&any, PORT + 1)] {
        let client = client(&bed.client, NODE, port);
        let own = SocketAddr::from((CLIENT, client.local_addr().unwrap().port()));
        for word in [&b"question"[..], b"", &[7; 60_000]] {
            assert_eq!(ask(&client, service, word), own);
            answer(service, own, &client, word);
        }
    }
}

pub(crate) fn source_host() {
    let bed = Bed::new();
    let _inner = bed.inner(4096);
    assert!(open(&bed, &[forward(NODE, PORT), forward(Ipv4Addr::LOCALHOST, PORT)]).is_empty());
    let service = socket(&bed.node, NODE, PORT);
    let clients = [NODE, Ipv4Addr::LOCALHOST].map(|address| {
        // The same port of two addresses: inside both are the gateway's.
        let socket = socket(&bed.host, address, 40_000);
        socket.connect((address, PORT)).unwrap();
        socket
    });
    let seen: Vec<SocketAddr> = clients.iter().map(|client| ask(client, &service, b"question")).collect();
    println!("seen inside: {seen:?}");
    assert!(seen.iter().all(|from| from.ip() == GATEWAY) && seen[0] != seen[1]);
    for (client, from) in clients.iter().zip(seen).rev() {
        answer(&service, from, client, b"answer");
    }
}

pub(crate) fn inside_sources() {
    let bed = Bed::new();
    let networks = ["10.244.0.0/16", "10.96.0.0/12", "10.41.0.0/24", "169.254.0.0/16"];
    bed.acceptor.refuse(&networks.map(|network| network.parse().unwrap()));
    for inner in 0..2 {
        // The second one is told, too.
        let _inner = bed.inner(4096);
        assert!(open(&bed, &[forward(NODE, PORT)]).is_empty());
        let service = socket(&bed.node, NODE, PORT);
        let honest = client(&bed.client, NODE, PORT);
        ask(&honest, &service, b"first");
        let forged = ["10.244.0.3", "10.96.0.1", "10.41.0.2", "169.254.169.254"];
        for address in forged.map(|address| address.parse().unwrap()) {
            if inner == 0 {
                bed.another_client(address);
            }
            let client = socket(&bed.client, address, 0);
            client.connect((NODE, PORT)).unwrap();
            client.send(b"forged").unwrap();
        }
        honest.send(b"last").unwrap();
        let mut word = [0; 16];
        let heard = std::iter::from_fn(|| service.recv(&mut word).ok().map(|length| word[..length].to_vec()));
        let heard: Vec<Vec<u8>> = heard.take_while(|word| word != b"last").collect();
        assert!(heard.iter().all(|word| word == b"first"), "{heard:?}");
        until("a word of it", || (bed.acceptor.connections().refused > inner).then_some(()));
    }
}

pub(crate) fn opened_and_closed() {
    let bed = Bed::new();
    let inner = bed.inner(4096);
    let service = socket(&bed.node, NODE, PORT);
    for _ in 0..3 {
        assert!(open(&bed, &[forward(NODE, PORT)]).is_empty());
        let client = client(&bed.client, NODE, PORT);
        let from = ask(&client, &service, b"open");
        answer(&service, from, &client, b"still open");
        assert!(open(&bed, &[]).is_empty());
        // Refused by the host's own kernel: nobody has the port.
        until("the port to be closed", || {
            let _ = client.send(b"closed?");
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let error = client.recv(&mut [0; 9]).unwrap_err();
            (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
        });
        service.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        while service.recv(&mut [0; 9]).is_ok() {}
        service.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    // Closed and opened in one breath: the socket that the inner half still has serves on.
    for _ in 0..50 {
        assert!(open(&bed, &[forward(NODE, PORT)]).is_empty());
        assert!(open(&bed, &[]).is_empty());
    }
    assert!(open(&bed, &[forward(NODE, PORT)]).is_empty());
    ask(&client(&bed.client, NODE, PORT), &service, b"open");
    println!("{}", inner.log.text());
}

pub(crate) fn taken() {
    let bed = Bed::new();
    let _squatter = socket(&bed.host, NODE, PORT);
    let errors = open(&bed, &[forward(NODE, PORT), forward(NODE, PORT + 1)]);
    let said: Vec<String> = errors.values().map(ToString::to_string).collect();
    assert!(
        said.len() == 1 && said[0].starts_with("UDP port 5353 of 192.0.2.10 is taken by pid "),
        "{said:?}"
    );
    assert_eq!(bed.acceptor.forwards(), [forward(NODE, PORT + 1)].into());
}

pub(crate) fn replaced() {
    let bed = Bed::new();
    let first = bed.inner(4096);
    assert!(open(&bed, &[forward(NODE, PORT)]).is_empty());
    let service = socket(&bed.node, NODE, PORT);
    let client = client(&bed.client, NODE, PORT);
    ask(&client, &service, b"first");
    drop(first);
    bed.log.wait_for("is gone");
    // Between two inner halves the socket of the host keeps what comes.
    client.send(b"between").unwrap();
    let _second = bed.inner(4096);
    let mut word = [0; 7];
    let (_, from) = service.recv_from(&mut word).unwrap();
    assert_eq!(&word, b"between");
    answer(&service, from, &client, b"second");
}

pub(crate) fn peers() {
    let bed = Bed::new();
    let _inner = bed.inner(4096);
    assert!(open(&bed, &[forward(NODE, VXLAN)]).is_empty());
    // From any port of the peer to ours, first: what comes in waits for the inner half to take the port, what goes out does not.
    let there = socket(&bed.node, NODE, VXLAN);
    let stranger = socket(&bed.client, CLIENT, 0);
    stranger.connect((NODE, VXLAN)).unwrap();
    assert_eq!(ask(&stranger, &there, b"in").ip(), CLIENT);
    let theirs = socket(&bed.client, CLIENT, VXLAN);
    let ours = socket(&bed.node, NODE, 0);
    ours.send_to(b"out", (CLIENT, VXLAN)).unwrap();
    let mut word = [0; 9];
    let (length, from) = theirs.recv_from(&mut word).unwrap();
    assert_eq!((&word[..length], from), (&b"out"[..], SocketAddr::from((NODE, VXLAN))));
    // Never to the host itself.
    let loopback = socket(&bed.host, Ipv4Addr::LOCALHOST, VXLAN);
    loopback.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    bed.node.ip("route add 127.0.0.9/32 dev u7s0 table 118");
    let _ = ours.send_to(b"loopback", ("127.0.0.1", VXLAN));
    loopback.recv(&mut word).unwrap_err();
}

/// Sends numbered datagrams one way, as fast as one thread can, and prints what arrives; the order is asserted.
fn flood(what: &str, sender: &UdpSocket, receiver: &UdpSocket, bytes: usize) {
    const COUNT: u32 = 150_000;
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (got, last, spent) = std::thread::scope(|scope| {
        let counted = scope.spawn(|| {
            let (mut buffer, mut got, mut last) = (vec![0; bytes], 0_u32, None);
            let mut span: Option<(Instant, Instant)> = None;
            while receiver.recv(&mut buffer).is_ok() {
                let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
                assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
                (got, last) = (got + 1, Some(number));
                let now = Instant::now();
                span = Some((span.map_or(now, |(first, _)| first), now));
            }
            (got, last, span.map_or(Duration::ZERO, |(first, end)| end - first))
        });
        let mut buffer = vec![0; bytes];
        for number in 0..COUNT {
            buffer[..4].copy_from_slice(&number.to_be_bytes());
            let _ = sender.send(&buffer);
        }
        counted.join().unwrap()
    });
    let rate = f64::from(got) / spent.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a length is small")]
    let gigabits = rate * bytes as f64 * 8.0 / 1e9;
    println!(
        "{what}, {bytes} bytes: {got} of {COUNT} arrived in order (the last is {last:?}), {rate:.0}/s, {gigabits:.2} Gbit/s"
    );
    assert!(got > COUNT / 20, "{got}");
}

pub(crate) fn order_and_speed() {
    let bed = Bed::new();
    let _inner = bed.inner(4096);
    assert!(open(&bed, &[forward(NODE, VXLAN)]).is_empty());
    let (here, there) = (socket(&bed.node, NODE, VXLAN), socket(&bed.client, CLIENT, VXLAN));
    let from_there = socket(&bed.client, CLIENT, 0);
    from_there.connect((NODE, VXLAN)).unwrap();
    let from_here = socket(&bed.node, NODE, 0);
    from_here.connect((CLIENT, VXLAN)).unwrap();
    // What the machine can do at this moment, without a forwarder.
    let plain = socket(&bed.host, NODE, PORT);
    let to_plain = client(&bed.client, NODE, PORT);
    for bytes in [100, 1450] {
        flood("client to host", &to_plain, &plain, bytes);
        flood("client to node", &from_there, &here, bytes);
        flood("node to client", &from_here, &there, bytes);
    }
}
