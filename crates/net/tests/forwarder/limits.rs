//! Descriptors, credit, and what happens when a half dies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use u7s_net::Error;
use u7s_net::forward::bind;
use u7s_plan::node::{Forward, Protocol};
use u7s_sys::channel;

use crate::bed::{Bed, Log, NODE, OTHER_PORT, PORT, Process, role, until};

/// Open descriptors of a process by kind.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) sockets: usize,
    pub(crate) pipes: usize,
    pub(crate) all: usize,
}

pub(crate) fn descriptors(pid: u32) -> Descriptors {
    let links: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let count = |kind| links.iter().filter(|link| link.starts_with(kind)).count();
    Descriptors { sockets: count("socket:"), pipes: count("pipe:"), all: links.len() }
}

/// The main thread is one.
fn relays(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap();
    1 + tasks.map(|task| name(task.unwrap())).filter(|name| name == "u7s-relay\n").count()
}

pub(crate) fn greet(mut from: &TcpStream, mut to: &TcpStream) {
    let mut word = [0; 5];
    from.write_all(b"hello").unwrap();
    to.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
}

pub(crate) fn idle() {
    const COUNT: usize = 2000;
    let bed = Bed::new();
    let inner = bed.inner(8192);
    let service = bed.node.listen(NODE, PORT);
    let before = descriptors(inner.process.pid());
    let connections: Vec<_> = bed.client.run(|| {
        let connect = || {
            let client = TcpStream::connect((NODE, PORT)).unwrap();
            (client, service.accept())
        };
        (0..COUNT).map(|_| connect()).collect()
    });
    let untouched = descriptors(inner.process.pid());
    println!("{COUNT} untouched: {untouched:?}, before: {before:?}");
    assert_eq!(untouched.sockets - before.sockets, 2 * COUNT);
    assert_eq!((untouched.pipes, untouched.all - before.all), (before.pipes, 2 * COUNT));
    for (client, server) in &connections {
        client.set_read_timeout(Some(crate::bed::DEADLINE)).unwrap();
        greet(client, server);
        greet(server, client);
    }
    let used = descriptors(inner.process.pid());
    println!("{COUNT} used both ways and idle again: {used:?}");
    assert_eq!(used.sockets, untouched.sockets);
    let relays = relays(inner.process.pid());
    println!("{relays} relays");
    assert!(used.pipes <= before.pipes + 2 * relays, "one pipe a relay at a time was enough: {used:?}");
    assert_eq!(bed.acceptor.connections().open, COUNT as u64);
    drop(connections);
    until("no connection left", || (bed.acceptor.connections().open == 0).then_some(()));
    assert_eq!(descriptors(inner.process.pid()).sockets, before.sockets);
}

pub(crate) fn full() {
    const CLIENTS: u8 = 30;
    let bed = Bed::new();
    let inner = bed.inner(64);
    let limit = usize::try_from(bed.acceptor.connections().limit).unwrap();
    assert_eq!(limit, 12);
    let service = bed.node.listen(NODE, PORT);
    let connect = |number: u8| {
        let mut client = bed.client.connect(NODE, PORT).unwrap();
        client.write_all(&[number]).unwrap();
        Some(client)
    };
    let mut clients: Vec<Option<TcpStream>> = (0..CLIENTS).map(connect).collect();
    let mut rounds = Vec::new();
    while clients.iter().any(Option::is_some) {
        let waiting = clients.iter().flatten().count();
        let servers: Vec<TcpStream> = (0..waiting.min(limit)).map(|_| service.accept()).collect();
        // Nobody else is let in before somebody leaves.
        std::thread::sleep(Duration::from_millis(100));
        // Ends of the last round may still be on their way; one too many let in would stay.
        until("no other connection", || {
            (bed.acceptor.connections().open == servers.len() as u64).then_some(())
        });
        assert!(descriptors(inner.process.pid()).all <= 64);
        rounds.push(servers.len());
        for mut server in servers {
            let mut number = [0];
            server.read_exact(&mut number).unwrap();
            server.write_all(&number).unwrap();
            let mut client = clients[usize::from(number[0])].take().unwrap();
            client.read_exact(&mut number).unwrap();
        }
    }
    bed.log.wait_for("accepts connections again");
    println!("limit {limit}: {CLIENTS} clients were served in rounds of {rounds:?}\n{}", bed.log.text());
    assert_eq!(rounds, [12, 12, 6]);
    let said = bed.log.count("full, new connections wait");
    // Once in ten seconds; a slow machine may take longer than that.
    assert!((1..=2).contains(&said), "said {said} times");
}

pub(crate) fn no_descriptors() {
    let bed = Bed::new();
    let port = OTHER_PORT;
    let (ours, theirs) = channel::pair().unwrap();
    let (control, controlled) = channel::pair().unwrap();
    let _inner = bed.inner_on(theirs, 4096);
    let mut command = role(&[], "acceptor");
    command.stdin(controlled).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = bed.host.run(|| command.spawn().unwrap());
    let log = Log::default();
    log.collect(child.stdout.take().unwrap());
    log.collect(child.stderr.take().unwrap());
    let child = Process(child);
    channel::send(control.as_fd(), b"attach", &[ours.as_fd()]).unwrap();
    drop(ours);
    log.wait_for("no descriptor is left");
    let service = bed.node.listen(NODE, port);
    let clients: Vec<TcpStream> = (0..10).map(|_| bed.client.connect(NODE, port).unwrap()).collect();
    log.wait_for("accepting connections pauses");
    let (before, start) = (cpu_time(child.pid()), std::time::Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_time(child.pid()) - before;
    println!("paused: {used:?} on a CPU in {:?}", start.elapsed());
    assert!(used < Duration::from_millis(50), "a busy loop");
    assert_eq!(log.count("accepting connections pauses"), 1);
    channel::send(control.as_fd(), b"release", &[]).unwrap();
    let servers: Vec<TcpStream> = clients.iter().map(|_| service.accept()).collect();
    for server in &servers {
        let peer = server.peer_addr().unwrap();
        assert_eq!(peer.ip(), crate::bed::CLIENT);
    }
    log.wait_for("connections are accepted again");
    println!("{}", log.text());
    drop(clients);
}

/// User and system time of a process.
/// Time on a CPU, exact; /proc/PID/stat counts ticks of 10 ms, which a busy machine charges to the wrong process.
///
/// Source: Documentation/scheduler/sched-stats.rst.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

pub(crate) fn replaced() {
    let bed = Bed::new();
    let first = bed.inner(4096);
    let service = bed.node.listen(NODE, PORT);
    let mut old = bed.client.connect(NODE, PORT).unwrap();
    let mut old_server = service.accept();
    greet(&old, &old_server);
    drop(first);
    // The connections of a dead inner half end, on both sides.
    assert!(matches!(old.read(&mut [0]), Ok(0) | Err(_)));
    assert!(matches!(old_server.read(&mut [0]), Ok(0) | Err(_)));
    bed.log.wait_for("the inner half of the port forwarder is gone");
    assert_eq!(bed.acceptor.connections().limit, 0);
    // Who comes meanwhile, waits.
    let between = bed.client.connect(NODE, PORT).unwrap();
    let _second = bed.inner(4096);
    let server = service.accept();
    greet(&between, &server);
    let later = bed.client.connect(NODE, PORT).unwrap();
    greet(&later, &service.accept());
    println!("{}", bed.log.text());
    assert_eq!(bed.acceptor.connections().open, 2);
}

pub(crate) fn orphan() {
    let bed = Bed::new();
    let mut first = bed.inner(4096);
    let service = bed.node.listen(NODE, PORT);
    let client = bed.client.connect(NODE, PORT).unwrap();
    let server = service.accept();
    greet(&client, &server);
    // Another one takes over: the first one's channel is closed.
    let _second = bed.inner(4096);
    greet(&server, &client);
    assert_eq!(first.process.0.try_wait().unwrap(), None);
    drop((client, server));
    let status = until("the end of the first inner half", || first.process.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

pub(crate) fn used_up_ports() {
    const PORTS: usize = 4;
    let bed = Bed::new();
    bed.narrow_ports(40_000, 40_003);
    let _inner = bed.inner(4096);
    let service = bed.node.listen(NODE, PORT);
    let connections: Vec<_> = (0..3 * PORTS)
        .map(|_| {
            let client = bed.client.connect(NODE, PORT).unwrap();
            let server = service.accept();
            greet(&client, &server);
            (client, server)
        })
        .collect();
    let own = connections
        .iter()
        .filter(|(client, server)| client.local_addr().unwrap().port() == server.peer_addr().unwrap().port());
    println!("{} of {} by the client's own port", own.clone().count(), connections.len());
    assert!(own.count() >= 2 * PORTS);
}

pub(crate) fn taken_port() {
    const NOBODY: u32 = 65_534;
    let bed = Bed::new();
    let forward = Forward { protocol: Protocol::Tcp, address: NODE, port: OTHER_PORT };
    let mut command = role(&[], "squatter");
    command.uid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = bed.host.run(|| command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let child = Process(child);
    let error = bed.host.run(|| bind(&[forward])).unwrap_err();
    println!("{error}");
    assert!(
        matches!(error, Error::PortTaken { forward, .. } if (forward.address, forward.port) == (NODE, OTHER_PORT))
    );
    let name = std::fs::read_to_string(format!("/proc/{}/comm", child.pid())).unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "TCP port 10250 of {NODE} is taken by pid {} ({}) of uid {NOBODY}",
            child.pid(),
            name.trim_end()
        )
    );
    drop(child);
    let any = Forward { address: Ipv4Addr::UNSPECIFIED, ..forward };
    until("a free port", || bed.host.run(|| bind(&[any])).ok());
}
