//! slirp4netns serves a persistent tap0 that is not its own.

use std::io::Read;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use u7s_net::driver::{Driver, Health, Link, Node};
use u7s_net::slirp4netns::Slirp4netns;
use u7s_plan::node;

use crate::bed::{Bed, CLIENT, DEADLINE, GATEWAY, NODE, until};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

fn driver() -> Slirp4netns {
    let network = node::Network {
        driver: node::Driver::Slirp4netns,
        node_ip: NODE,
        mtu: 1500,
        range: "10.41.0.0/24".parse().unwrap(),
        gateway: GATEWAY,
        dns: Ipv4Addr::new(10, 41, 0, 3),
        service_cidr: None,
        pod_cidr: None,
        low_ports: Vec::new(),
    };
    Slirp4netns { program: PathBuf::from("/usr/bin/slirp4netns"), network }
}

fn attach(driver: &Slirp4netns, pid: i32) -> Result<Link, u7s_net::Error> {
    let pidfd = u7s_sys::pidfd::open(pid).unwrap();
    driver.attach(Node { pid, pidfd: pidfd.as_fd(), tap: None })
}

/// A driver that is detached at the end.
struct Attached(Option<Link>);

impl Attached {
    fn new(bed: &Bed) -> Self {
        let driver = driver();
        driver.validate().unwrap();
        let start = Instant::now();
        let link = bed.host.run(|| attach(&driver, bed.init_pid())).unwrap();
        let mut byte = [0];
        wait(&link.ready, "readiness");
        let mut ready = std::fs::File::from(link.ready.try_clone().unwrap());
        if ready.read(&mut byte).unwrap() != 1 {
            let mut text = String::new();
            let _ = std::fs::File::from(link.output.try_clone().unwrap()).read_to_string(&mut text);
            panic!("slirp4netns gave up: {text}");
        }
        println!("slirp4netns ready after {:?}", start.elapsed());
        Self(Some(link))
    }

    fn link(&self) -> &Link {
        self.0.as_ref().unwrap()
    }

    fn detach(mut self, grace: Duration) -> WaitStatus {
        self.0.take().unwrap().detach(grace).unwrap()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(link) = self.0.take() {
            let _ = link.detach(Duration::ZERO);
        }
    }
}

fn wait(descriptor: &OwnedFd, what: &str) {
    let mut watched = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).unwrap();
    assert_eq!(poll(&mut watched, timeout).unwrap(), 1, "waited {DEADLINE:?} for {what}");
}

/// From inside to a service on the other machine: what it answers, and whom it saw.
fn reach_outside(bed: &Bed) -> TcpStream {
    const PORT: u16 = 7000;
    let service = bed.client.listen(CLIENT, PORT);
    let inside = bed.node.connect(CLIENT, PORT).unwrap();
    let outside = service.accept();
    assert_eq!(outside.peer_addr().unwrap().ip(), NODE, "the outside sees the host's address");
    crate::limits::greet(&inside, &outside);
    crate::limits::greet(&outside, &inside);
    inside
}

pub(crate) fn attach_again() {
    let bed = Bed::new();
    let first = Attached::new(&bed);
    assert_eq!(first.link().health().unwrap(), Health::Running);
    let carried = reach_outside(&bed);
    // `linkdown` tells of the carrier, the route itself is there.
    let shown = |what| bed.node.ip(what).replace(" linkdown", "");
    let settings = || (shown("-o -4 addr show dev tap0"), shown("-o -4 route show"));
    let before = settings();
    u7s_sys::pidfd::signal(first.link().pidfd.as_fd(), Some(Signal::SIGKILL)).unwrap();
    wait(&first.link().pidfd, "the end of slirp4netns");
    assert!(matches!(
        first.link().health().unwrap(),
        Health::Ended(WaitStatus::Signaled(_, Signal::SIGKILL, _))
    ));
    let status = first.detach(Duration::ZERO);
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{status:?}");
    assert_eq!(settings(), before, "addresses and routes stay");
    let start = Instant::now();
    let second = Attached::new(&bed);
    drop(reach_outside(&bed));
    println!("from attach to the first answer: {:?}", start.elapsed());
    assert_eq!(settings(), before);
    println!("{}{}", before.0, before.1);
    drop(carried);
    let status = second.detach(Duration::from_secs(5));
    println!("asked to end: {status:?}");
}

pub(crate) fn exit_descriptor() {
    let bed = Bed::new();
    let attached = Attached::new(&bed);
    let pid = attached.link().pid;
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(environment, b"");
    let start = Instant::now();
    let status = attached.detach(DEADLINE);
    println!("ended {:?} after its exit descriptor was closed: {status:?}", start.elapsed());
    assert!(matches!(status, WaitStatus::Exited(..)), "{status:?}");
    until("no such process", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}
