//! A forwarded connection behaves as a direct one.

use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use crate::bed::{Bed, CLIENT, DEADLINE, GATEWAY, NODE, PORT, until};

const FILES: u64 = 4096;

pub(crate) fn source_outside() {
    let bed = Bed::new();
    let inner = bed.inner(FILES);
    let (client, service) = bed.pair();
    println!("outside: client {} is seen as {}", client.local_addr().unwrap(), service.peer_addr().unwrap());
    assert_eq!(service.peer_addr().unwrap().ip(), IpAddr::V4(CLIENT));
    assert_eq!(service.local_addr().unwrap(), client.peer_addr().unwrap());
    echo(client, service);
    drop(inner);
}

pub(crate) fn source_host() {
    let bed = Bed::new();
    let _inner = bed.inner(FILES);
    let service = bed.node.listen(NODE, PORT);
    for address in [NODE, Ipv4Addr::LOCALHOST] {
        let client = bed.host.connect(address, PORT).unwrap();
        let server = service.accept();
        println!("host itself to {address}: seen as {}", server.peer_addr().unwrap());
        assert_eq!(server.peer_addr().unwrap().ip(), IpAddr::V4(GATEWAY));
        echo(client, server);
    }
}

fn echo(mut client: TcpStream, mut server: TcpStream) {
    let mut answer = [0; 4];
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut answer).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");
}

pub(crate) fn both_ways() {
    const BYTES: usize = 200_000_000;
    let bed = Bed::new();
    let _inner = bed.inner(FILES);
    let (client, service) = bed.pair();
    let start = Instant::now();
    let [up, down] = [(&client, &service, 1), (&service, &client, 2)].map(|(from, to, seed)| {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let sender = std::thread::spawn(move || send(from, BYTES, seed));
        (sender, std::thread::spawn(move || receive(to)))
    });
    for (way, (sender, receiver)) in [("up", up), ("down", down)] {
        let (sent, received) = (sender.join().unwrap(), receiver.join().unwrap());
        assert_eq!(received, (BYTES, sent), "{way}");
        println!("{way}: {BYTES} bytes, checksum {sent:016x} on both ends");
    }
    let megabytes = 2.0 * BYTES as f64 / 1e6;
    println!("{:.0} MB/s both ways together", megabytes / start.elapsed().as_secs_f64());
}

/// Sends pseudo-random bytes and the end; the checksum of what was sent.
fn send(mut stream: TcpStream, bytes: usize, seed: u64) -> u64 {
    let (mut hasher, mut state, mut left) = (DefaultHasher::new(), seed, bytes);
    let mut block = vec![0_u8; 100_003];
    while left > 0 {
        for word in block.chunks_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        let part = &block[..left.min(block.len())];
        hasher.write(part);
        stream.write_all(part).unwrap();
        left -= part.len();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    hasher.finish()
}

/// Receives up to the end: how much, and its checksum, block by block as it was sent.
fn receive(mut stream: TcpStream) -> (usize, u64) {
    let (mut hasher, mut total) = (DefaultHasher::new(), 0);
    let mut block = vec![0; 100_003];
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match stream.read(&mut block[filled..]).unwrap() {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return (total, hasher.finish());
        }
        hasher.write(&block[..filled]);
        total += filled;
    }
}

pub(crate) fn half_close() {
    let bed = Bed::new();
    let _inner = bed.inner(FILES);
    for client_first in [true, false] {
        let (client, service) = bed.pair();
        let (mut first, mut second) = if client_first { (client, service) } else { (service, client) };
        first.write_all(b"question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        for _ in 0..3 {
            // The other way lives on while the first is closed.
            second.write_all(b"answer").unwrap();
            let mut part = [0; 6];
            first.read_exact(&mut part).unwrap();
            assert_eq!(&part, b"answer");
        }
        drop(second);
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        println!(
            "half-closed by the {}: 3 answers after it",
            if client_first { "client" } else { "service" }
        );
    }
    until("no connection left", || (bed.acceptor.connections().open == 0).then_some(()));
}

pub(crate) fn reset() {
    let bed = Bed::new();
    let _inner = bed.inner(FILES);
    for client_first in [true, false] {
        let (client, service) = bed.pair();
        let (first, mut second) = if client_first { (client, service) } else { (service, client) };
        second.write_all(b"unread").unwrap();
        until("the data", || (first.peek(&mut [0; 6]).unwrap() == 6).then_some(()));
        setsockopt(&first, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(first);
        assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    until("no connection left", || (bed.acceptor.connections().open == 0).then_some(()));
}

pub(crate) fn refused() {
    let bed = Bed::new();
    let _inner = bed.inner(FILES);
    for (net, name) in [(&bed.client, "client"), (&bed.host, "host")] {
        let start = Instant::now();
        let answer = net.connect(NODE, PORT).and_then(|mut stream| stream.read(&mut [0]));
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionReset, "{name}");
        println!("{name}: reset after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
    }
    until("no connection left", || (bed.acceptor.connections().open == 0).then_some(()));
}

pub(crate) fn unanswered() {
    let bed = Bed::new();
    let _inner = bed.inner(FILES);
    let deaf = bed.node.run(|| std::net::TcpListener::bind((NODE, PORT)).unwrap());
    listen(&deaf, Backlog::new(0).unwrap()).unwrap();
    let queued = bed.node.connect(NODE, PORT).unwrap();
    let start = Instant::now();
    let answer = bed.client.connect(NODE, PORT).and_then(|mut stream| stream.read(&mut [0]));
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionReset);
    println!("given up after {:?}, the deadline is 2 s", start.elapsed());
    assert!((Duration::from_secs(2)..DEADLINE).contains(&start.elapsed()), "{:?}", start.elapsed());
    drop(queued);
}

pub(crate) fn slow_reader() {
    let bed = Bed::new();
    let inner = bed.inner(FILES);
    let (client, mut service) = bed.pair();
    let before = resident_kib(inner.process.pid());
    let accepted = fill(&client);
    let after = resident_kib(inner.process.pid());
    println!("sender blocked after {accepted} bytes; inner half {before} KiB before, {after} KiB after");
    // Twice what a direct connection would take, which has one pair of socket buffers.
    let bound = 2 * (largest_buffer("tcp_rmem") + largest_buffer("tcp_wmem")) + 65_536;
    assert!(accepted < bound, "{accepted} of {bound}");
    assert!(after < before + 4096, "{before} KiB, then {after} KiB");
    client.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    service.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), accepted);
}

/// The largest size that the kernel gives a socket buffer by itself.
fn largest_buffer(sysctl: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{sysctl}")).unwrap();
    text.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// Writes until nothing is taken for half a second; how much was.
fn fill(mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut total, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(500) {
        match stream.write(&[7; 65_536]) {
            Ok(count) => (total, last) = (total + count, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    total
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn slow_readers() {
    const MEGABYTES: usize = 50;
    let bed = Bed::new();
    // 96 files: 6 pipes.
    let inner = bed.inner(96);
    assert!(inner.log.text().contains("pipes=6"), "{}", inner.log.text());
    let service = bed.node.listen(NODE, PORT);
    let connect = || {
        let client = bed.client.connect(NODE, PORT).unwrap();
        (client, service.accept())
    };
    let before = crate::limits::descriptors(inner.process.pid()).pipes;
    let slow: Vec<_> = (0..6).map(|_| connect()).collect();
    let filled: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = slow.iter().map(|(client, _)| scope.spawn(|| fill(client))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(crate::limits::descriptors(inner.process.pid()).pipes, before + 12);
    let (client, server) = connect();
    let sender = std::thread::spawn(move || send(client, MEGABYTES * 1_000_000, 3));
    let start = Instant::now();
    let received = receive(server);
    println!("past 6 slow readers: {:.0} MB/s", MEGABYTES as f64 / start.elapsed().as_secs_f64());
    assert_eq!(received, (MEGABYTES * 1_000_000, sender.join().unwrap()));
    for ((client, mut server), count) in slow.into_iter().zip(filled) {
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        server.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), count);
    }
}
