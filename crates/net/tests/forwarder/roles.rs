//! What this program is when it is started again by a test.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use u7s_net::forward::inner::{self, Settings};
use u7s_net::forward::{
    Acceptor, DATAGRAM_MARK, DATAGRAM_TABLE, MARKS, STREAM_MARK, STREAM_TABLE, SYSCTLS, TUN, VXLAN, bind,
};
use u7s_plan::node::{Driver, Forward, Network, Protocol};
use u7s_sys::{channel, netlink, tap};

use crate::bed::{GATEWAY, NODE, OTHER_PORT};

/// Plays the role that the environment names.
pub(crate) fn play(role: &str) {
    match role {
        "node" => node(),
        "inner" => inner_half(),
        "acceptor" => acceptor(),
        "squatter" => squatter(),
        _ => panic!("no role {role}"),
    }
}

/// Builds the network as pid 1 does, in namespaces of its own, and keeps it until standard input is closed.
fn node() {
    tap::persist(tap::create("tap0", tap::Kind::Tap).unwrap().as_fd()).unwrap();
    tap::persist(tap::create(TUN, tap::Kind::Tun).unwrap().as_fd()).unwrap();
    let [lo, tap0, tun] = ["lo", "tap0", TUN].map(|name| netlink::index_of(name).unwrap());
    let mut batch = netlink::Batch::default();
    batch.link_up(lo, None);
    batch.link_up(tap0, Some(1500));
    batch.address(tap0, NODE);
    batch.neighbour_route(tap0, GATEWAY);
    batch.default_route(tap0, GATEWAY);
    batch.local_default(lo, STREAM_TABLE);
    batch.mark_rule(STREAM_MARK, MARKS, STREAM_TABLE);
    batch.link_up(tun, Some(65_535));
    batch.link_address(tun, Ipv4Addr::new(10, 41, 0, 1));
    batch.device_default(tun, DATAGRAM_TABLE);
    batch.mark_rule(DATAGRAM_MARK, MARKS, DATAGRAM_TABLE);
    batch.own_datagrams_rule(VXLAN, DATAGRAM_TABLE);
    batch.apply().unwrap();
    let loose = [("net/ipv4/conf/all/rp_filter", "2")];
    for (key, value) in SYSCTLS.into_iter().chain(loose) {
        std::fs::write(format!("/proc/sys/{key}"), value).unwrap();
    }
    let network = Network {
        driver: Driver::Slirp4netns,
        node_ip: NODE,
        mtu: 1500,
        range: "10.41.0.0/24".parse().unwrap(),
        gateway: GATEWAY,
        dns: Ipv4Addr::new(10, 41, 0, 3),
        service_cidr: None,
        pod_cidr: None,
        low_ports: Vec::new(),
    };
    let loaded = Command::new("nft").arg(u7s_plan::forwarding::rules(&network)).status().unwrap();
    assert!(loaded.success(), "{loaded}");
    println!("node is ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Standard input is the channel.
fn inner_half() {
    let files = std::env::var("U7S_TEST_FILES").unwrap().parse().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let channel = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let idle = Duration::from_millis(std::env::var("U7S_TEST_IDLE").unwrap().parse().unwrap());
    let settings = Settings { node_ip: NODE, gateway: GATEWAY, dial_deadline: Duration::from_secs(2), idle };
    inner::run(channel, &settings).unwrap();
}

/// An acceptor that has no descriptor left until it is told so: standard input is a channel that first brings the end of
/// the inner half's channel, then one more packet.
fn acceptor() {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let forward = Forward { protocol: Protocol::Tcp, address: NODE, port: OTHER_PORT };
    let listeners = bind(&[forward]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let acceptor = Acceptor::new(listeners).unwrap();
        let mut hogged = Vec::new();
        let mut word = [0; 8];
        let mut attached = false;
        let commands = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let Ok((bytes, descriptors)) = channel::receive(std::io::stdin().as_fd(), &mut word) else {
                    continue;
                };
                match descriptors.into_iter().next() {
                    Some(inner) if !attached => {
                        acceptor.attach(inner).unwrap();
                        attached = true;
                        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
                        hogged.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
                        println!("no descriptor is left");
                    }
                    _ if bytes > 0 => hogged.clear(),
                    _ => return,
                }
            }
        };
        tokio::select! {
            _ = acceptor.run() => {}
            () = commands => {}
        }
    });
}

/// Takes the port as another user.
fn squatter() {
    let _taken = TcpListener::bind((NODE, OTHER_PORT)).unwrap();
    println!("taken");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
