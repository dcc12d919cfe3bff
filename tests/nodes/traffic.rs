//! What two nodes carry for each other: pods, DNS, services, and the kubelet's streams.

use std::time::{Duration, Instant};

use u7s_harness::until;

use crate::Listed;
use crate::pair::Pair;
use crate::world::{Check, World, exits, holds, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("traffic::pods_of_both_nodes_ping_each_other", pods_of_both_nodes_ping_each_other),
    ("traffic::pods_of_both_nodes_talk_tcp_and_udp", pods_of_both_nodes_talk_tcp_and_udp),
    ("traffic::200_megabytes_arrive_whole_both_ways", two_hundred_megabytes_arrive_whole_both_ways),
    ("traffic::the_pod_mtu_fits_the_tunnel", the_pod_mtu_fits_the_tunnel),
    ("traffic::dns_and_services_work_from_both_nodes", dns_and_services_work_from_both_nodes),
    ("traffic::logs_exec_cp_and_port_forward_to_a_pod_on_b", logs_exec_cp_and_port_forward_to_a_pod_on_b),
];

/// How long a client in a pod tries.
const TRY: Duration = Duration::from_secs(20);

/// The pods of these tests, one on each node: name and address.
fn pods(pair: &Pair) -> Result<[(&'static str, String); 2], Box<dyn std::error::Error>> {
    let [a, b] = pair.nodes();
    pair.converge(Duration::from_secs(240))?;
    Ok([("pa", pair.pod("pa", a)?), ("pb", pair.pod("pb", b)?)])
}

/// Each pod with the other one's.
fn ways<'p>(pods: &'p [(&'static str, String); 2]) -> [(&'static str, &'static str, &'p str); 2] {
    let [(a, at_a), (b, at_b)] = pods;
    [(a, b, at_b), (b, a, at_a)]
}

fn pods_of_both_nodes_ping_each_other(world: &World) -> Check {
    let pair = world.pair()?;
    let pods = pods(&pair)?;
    note(format!("{pods:?}"));
    for (from, to, address) in ways(&pods) {
        let ping = until(TRY, &format!("{from} to reach {to}"), || {
            let ping = pair.a.in_pod(from, &["ping", "-c", "5", "-i", "0.2", "-W", "2", address]);
            let ping = ping.map_err(|error| error.to_string())?;
            if ping.ok() { Ok(ping) } else { Err(ping.to_string()) }
        })?;
        note(format!("{from} to {to}: {}", ping.stdout.lines().last().unwrap_or_default()));
        wants(&ping, " 0% packet loss")?;
    }
    Ok(())
}

fn pods_of_both_nodes_talk_tcp_and_udp(world: &World) -> Check {
    let pair = world.pair()?;
    let pods = pods(&pair)?;
    for (from, to, address) in ways(&pods) {
        named(&pair, (from, &format!("http://{address}:7000/name")), to)?;
        note(format!("TCP: {from} is answered by {to}"));
        // The name has no address; that there is an answer at all is what counts.
        let datagram = until(TRY, &format!("a datagram of {from} to be answered"), || {
            let output = pair.a.in_pod(from, &["nslookup", "-type=a", "who.test", address]);
            let output = output.map_err(|error| error.to_string())?;
            let answered = !output.stdout.contains("timed out") && output.stdout.contains(address);
            if answered { Ok(output.stdout) } else { Err(output.to_string()) }
        })?;
        let lines: Vec<&str> = datagram.lines().filter(|line| !line.is_empty()).collect();
        note(format!("UDP: {}", lines.join("; ")));
    }
    Ok(())
}

/// A pod gets the name of another one from a URL.
fn named(pair: &Pair, from: (&str, &str), name: &str) -> Check {
    let (pod, url) = from;
    until(TRY, &format!("{pod} to get {name} from {url}"), || {
        let output = pair.a.in_pod(pod, &["curl", "-s", "--max-time", "5", url]);
        let output = output.map_err(|error| error.to_string())?;
        if output.stdout.trim() == name { Ok(()) } else { Err(output.to_string()) }
    })?;
    Ok(())
}

fn two_hundred_megabytes_arrive_whole_both_ways(world: &World) -> Check {
    let pair = world.pair()?;
    let pods = pods(&pair)?;
    for (from, to, address) in ways(&pods) {
        let make = "dd if=/dev/urandom of=/tmp/f bs=1M count=200 2>/dev/null && sha256sum </tmp/f";
        let made = pair.a.in_pod(to, &["sh", "-c", make])?;
        exits(&made, 0)?;
        let client = format!("curl -s --max-time 180 http://{address}:7000/f | sha256sum");
        let began = Instant::now();
        let get = pair.a.kubectl_command(&["exec", from, "--", "sh", "-c", &client]);
        let arrived = get.within(Duration::from_secs(200)).run()?;
        let took = began.elapsed().as_secs_f64();
        note(format!("{to} to {from}: 200 MiB in {took:.1} s, {:.0} MiB/s", 200.0 / took));
        let sum = made.stdout.trim();
        holds(arrived.stdout.starts_with(sum), format!("sent {sum}, arrived {arrived}"))?;
        pair.a.in_pod(to, &["rm", "/tmp/f"])?;
    }
    Ok(())
}

/// A packet of the pods' full size crosses unbroken, a larger one is refused at its source.
fn the_pod_mtu_fits_the_tunnel(world: &World) -> Check {
    let pair = world.pair()?;
    let pods = pods(&pair)?;
    let [(from, _, address), _] = ways(&pods);
    let mtu = pair.a.in_pod(from, &["cat", "/sys/class/net/eth0/mtu"])?;
    let mtu: u32 = mtu.stdout.trim().parse()?;
    let ping = |size: u32| {
        let size = size.to_string();
        pair.a.in_pod(from, &["ping", "-M", "do", "-c", "2", "-W", "2", "-s", &size, address])
    };
    note(format!("MTU of pods: {mtu}"));
    exits(&ping(mtu - 28)?, 0)?;
    holds(!ping(mtu - 27)?.ok(), "a packet larger than the MTU was sent with the DF bit")
}

fn dns_and_services_work_from_both_nodes(world: &World) -> Check {
    let pair = world.pair()?;
    pods(&pair)?;
    pair.a.apply(
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"echo"},"spec":{"selector":{"app":"pb"},
        "ports":[{"port":80,"targetPort":7000}]}}"#,
    )?;
    let address = pair.a.kubectl(&["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"])?;
    for pod in ["pa", "pb"] {
        let name = pair.a.in_pod(pod, &["nslookup", "echo.default.svc.cluster.local"])?;
        wants(&name, &address)?;
        named(&pair, (pod, &format!("http://{address}/name")), "pb")?;
        note(format!("{pod} resolves echo and reaches {address}"));
    }
    pair.a.kubectl(&["delete", "service", "echo"]).map(drop)
}

fn logs_exec_cp_and_port_forward_to_a_pod_on_b(world: &World) -> Check {
    let pair = world.pair()?;
    pods(&pair)?;
    let logs = pair.a.kubectl(&["logs", "pb"])?;
    holds(logs.trim() == "started", format!("kubectl logs: {logs}"))?;
    let exec = pair.a.in_pod("pb", &["sh", "-c", "hostname; exit 7"])?;
    wants(&exec, "pb")?;
    exits(&exec, 7)?;
    let node = pair.a.node();
    node.sh("head -c 3000000 /dev/urandom >/dev/shm/sent")?;
    pair.a.kubectl(&["cp", "/dev/shm/sent", "default/pb:/tmp/copied"])?;
    pair.a.kubectl(&["cp", "default/pb:/tmp/copied", "/dev/shm/back"])?;
    node.sh("cmp /dev/shm/sent /dev/shm/back && rm /dev/shm/sent /dev/shm/back")?;
    let forward = pair.a.kubectl_command(&["port-forward", "pod/pb", "17004:7000"]).spawn()?;
    let answer = until(TRY, "an answer through port-forward", || {
        let output = node.exec(&["curl", "-s", "--max-time", "3", "http://127.0.0.1:17004/name"]);
        let output = output.map_err(|error| error.to_string())?;
        if output.stdout.trim() == "pb" { Ok(output.stdout) } else { Err(output.to_string()) }
    });
    drop(forward);
    note(format!("port-forward: {}", answer?.trim()));
    Ok(())
}
