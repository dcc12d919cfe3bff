//! Descriptors, credit, and what happens when a half dies.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
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
    // One address has a quarter of the room.
    let inner = bed.inner(20_000);
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

/// A client and who serves it inside.
type Pair = (TcpStream, TcpStream);

/// With so many open files an inner half has room for 431 connections: 53 are kept for the node's own ports, an address has 107.
const SMALL: u64 = 1024;
const OTHERS: u64 = 378;

/// Opens another port than the node's own, as a Service would.
fn open_another(bed: &Bed) {
    let ours = [NODE, Ipv4Addr::LOCALHOST].map(|address| (address, PORT));
    let all = ours.into_iter().chain([(NODE, OTHER_PORT)]);
    let wanted = all.map(|(address, port)| Forward { protocol: Protocol::Tcp, address, port }).collect();
    assert!(bed.set_forwards(&wanted).is_empty());
}

fn clients(count: u8) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).map(|number| Ipv4Addr::new(192, 0, 2, 30 + number))
}

/// The other end has closed, in whatever way.
fn is_closed(mut client: &TcpStream) -> bool {
    match client.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Takes all connections to the other port and says nothing, as a silent service does.
fn hold_another(bed: &Bed) {
    let service = bed.node.listen(NODE, OTHER_PORT);
    std::thread::spawn(move || {
        let mut held = Vec::new();
        loop {
            held.extend(service.accept_now());
        }
    });
}

/// 10 000 silent connections to a NodePort kept everybody from the API server for half a minute.
pub(crate) fn own_ports() {
    let bed = Bed::new();
    let _inner = bed.inner(SMALL);
    open_another(&bed);
    hold_another(&bed);
    let api = bed.node.listen(NODE, PORT);
    let silent: Vec<TcpStream> = clients(5)
        .flat_map(|client| {
            bed.another_client(client);
            let connect = || bed.client.connect_from(client, NODE, OTHER_PORT);
            std::iter::repeat_with(connect).take(100).collect::<Vec<_>>()
        })
        .collect();
    until("a full forwarder", || (bed.acceptor.connections().open == OTHERS).then_some(()));
    bed.log.wait_for("full, new connections wait");
    let connect = || {
        let client = bed.client.connect(NODE, PORT).unwrap();
        let server = api.accept();
        greet(&client, &server);
        (client, server)
    };
    let api_clients: Vec<Pair> = std::iter::repeat_with(connect).take(20).collect();
    assert_eq!(bed.acceptor.connections().open - OTHERS, api_clients.len() as u64);
    drop(silent);
}

pub(crate) fn one_address() {
    const PART: u64 = 114;
    let bed = Bed::new();
    let _inner = bed.inner(SMALL);
    open_another(&bed);
    let service = bed.node.listen(NODE, OTHER_PORT);
    let mut kept: Vec<Pair> =
        (0..PART).map(|_| (bed.client.connect(NODE, OTHER_PORT).unwrap(), service.accept())).collect();
    // Whose reset comes early has no connection at all.
    let more: Vec<TcpStream> = (0..200).filter_map(|_| bed.client.connect(NODE, OTHER_PORT).ok()).collect();
    assert!(more.iter().all(is_closed), "who has too many is told so at once");
    until("their ends", || (bed.acceptor.connections().open == PART).then_some(()));
    for (client, server) in &kept {
        greet(client, server);
    }
    let [another] = clients(1).collect::<Vec<_>>()[..] else { panic!() };
    bed.another_client(another);
    let client = bed.client.connect_from(another, NODE, OTHER_PORT);
    greet(&client, &service.accept());
    // One of its own that ends makes room for its next.
    drop(kept.remove(0));
    until("an end", || (bed.acceptor.connections().open == PART).then_some(()));
    let next = bed.client.connect(NODE, OTHER_PORT).unwrap();
    greet(&next, &service.accept());
}

pub(crate) fn oldest_idle() {
    let mut bed = Bed::new();
    bed.idle = Duration::from_millis(200);
    let _inner = bed.inner(SMALL);
    open_another(&bed);
    let service = bed.node.listen(NODE, OTHER_PORT);
    let sources: Vec<Ipv4Addr> = clients(8).collect();
    sources.iter().for_each(|source| bed.another_client(*source));
    let connect = |source: Ipv4Addr| -> Pair {
        let client = bed.client.connect_from(source, NODE, OTHER_PORT);
        (client, service.accept())
    };
    let shares = sources.iter().zip([106, 45, 45, 45, 45, 45, 47]);
    let pairs: Vec<Vec<Pair>> =
        shares.map(|(source, count)| (0..count).map(|_| connect(*source)).collect()).collect();
    assert_eq!(bed.acceptor.connections().open, OTHERS);
    // The newcomer waits until somebody has been silent for long enough.
    let (client, server) = connect(sources[7]);
    greet(&client, &server);
    let heaviest = &pairs[0];
    assert!(is_closed(&heaviest[0].0) && is_closed(&heaviest[0].1), "the oldest of who has the most");
    let closed = heaviest.iter().filter(|(client, _)| {
        client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        is_closed(client)
    });
    assert!(closed.count() <= 64, "not more than were asked for at once");
    let (client, server) = heaviest.last().unwrap();
    greet(client, server);
    for (client, server) in pairs[1..].iter().flatten() {
        greet(client, server);
    }
}

/// From outside, such a client would be a pod, a service, the node or a cloud to whoever asks for its address.
pub(crate) fn inside_sources() {
    let bed = Bed::new();
    let own = Ipv4Addr::new(169, 254, 7, 7);
    bed.host.ip(&format!("addr add {own}/32 dev h0"));
    let networks = ["10.244.0.0/16", "10.96.0.0/12", "10.41.0.0/24", "169.254.0.0/16"];
    bed.acceptor.refuse(&networks.map(|network| network.parse().unwrap()));
    let _inner = bed.inner(SMALL);
    let service = bed.node.listen(NODE, PORT);
    let forged = ["10.244.0.3", "10.96.0.1", "10.41.0.2", "169.254.169.254"];
    for address in forged.map(|address| address.parse().unwrap()) {
        bed.another_client(address);
        assert!(is_closed(&bed.client.connect_from(address, NODE, PORT)), "{address}");
    }
    assert!(!service.has_one());
    assert_eq!(bed.acceptor.connections().refused, 4);
    // An address of the host itself is not from outside, whatever it is.
    let client = bed.host.connect_from(own, NODE, PORT);
    greet(&client, &service.accept());
    let client = bed.client.connect(NODE, PORT).unwrap();
    greet(&client, &service.accept());
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
