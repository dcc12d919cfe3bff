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
        for (kind, flag) in [("tcp", ""), ("udp", "-u")] {
            let server = format!("exec nc {flag} -l -p 7000 -e /bin/cat");
            let server = pair.a.kubectl_command(&["exec", to, "--", "sh", "-c", &server]).spawn()?;
            let line = format!("{kind} from {from}");
            let client = format!("(echo {line}; sleep 1) | nc {flag} -w 3 {address} 7000");
            let answer = until(TRY, &line, || {
                let output =
                    pair.a.in_pod(from, &["sh", "-c", &client]).map_err(|error| error.to_string())?;
                if output.stdout.trim() == line { Ok(output.stdout) } else { Err(output.to_string()) }
            });
            drop(server);
            note(format!("answered: {}", answer?.trim()));
            let _ = pair.a.in_pod(to, &["pkill", "nc"])?;
        }
    }
    Ok(())
}

fn two_hundred_megabytes_arrive_whole_both_ways(world: &World) -> Check {
    let pair = world.pair()?;
    let pods = pods(&pair)?;
    for (from, to, address) in ways(&pods) {
        let made = pair.a.in_pod(
            to,
            &["sh", "-c", "dd if=/dev/urandom of=/tmp/f bs=1M count=200 2>/dev/null && sha256sum </tmp/f"],
        )?;
        exits(&made, 0)?;
        let server = pair
            .a
            .kubectl_command(&["exec", to, "--", "sh", "-c", "exec nc -l -p 7002 </tmp/f"])
            .within(Duration::from_secs(200))
            .spawn()?;
        let client = format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do nc {address} 7002 >/tmp/g && [ -s /tmp/g ] && break; sleep 0.5; done; sha256sum </tmp/g; wc -c </tmp/g"
        );
        let began = Instant::now();
        let arrived = pair
            .a
            .kubectl_command(&["exec", from, "--", "sh", "-c", &client])
            .within(Duration::from_secs(200))
            .run()?;
        let took = began.elapsed().as_secs_f64();
        drop(server);
        note(format!("{to} to {from}: 200 MiB in {took:.1} s, {:.0} MiB/s", 200.0 / took));
        let sum = made.stdout.trim();
        holds(arrived.stdout.starts_with(sum), format!("sent {sum}, arrived {arrived}"))?;
        pair.a.in_pod(from, &["rm", "/tmp/g"])?;
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
        "ports":[{"port":80,"targetPort":7003}]}}"#,
    )?;
    let address = pair.a.kubectl(&["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"])?;
    let server = pair
        .a
        .kubectl_command(&["exec", "pb", "--", "sh", "-c", "while :; do echo served | nc -l -p 7003; done"])
        .within(Duration::from_secs(120))
        .spawn()?;
    let answers: Result<Vec<String>, Box<dyn std::error::Error>> = ["pa", "pb"]
        .into_iter()
        .map(|pod| {
            let name = pair.a.in_pod(pod, &["nslookup", "echo.default.svc.cluster.local"])?;
            wants(&name, &address)?;
            let ask = format!("nc -w 3 {address} 80 </dev/null");
            let answer = until(TRY, &format!("the ClusterIP {address} from {pod}"), || {
                let output = pair.a.in_pod(pod, &["sh", "-c", &ask]).map_err(|error| error.to_string())?;
                if output.stdout.trim() == "served" { Ok(()) } else { Err(output.to_string()) }
            });
            answer?;
            Ok(format!("{pod} resolves echo and reaches {address}"))
        })
        .collect();
    drop(server);
    let _ = pair.a.in_pod("pb", &["pkill", "-f", "while"])?;
    pair.a.kubectl(&["delete", "service", "echo"])?;
    note(answers?.join("\n"));
    Ok(())
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
    let server = pair
        .a
        .kubectl_command(&[
            "exec",
            "pb",
            "--",
            "sh",
            "-c",
            "while :; do echo forwarded | nc -l -p 7004; done",
        ])
        .within(Duration::from_secs(60))
        .spawn()?;
    let forward = pair.a.kubectl_command(&["port-forward", "pod/pb", "17004:7004"]).spawn()?;
    let answer = until(TRY, "an answer through port-forward", || {
        let output =
            node.exec(&["sh", "-c", "curl -s --http0.9 --max-time 3 http://127.0.0.1:17004/ </dev/null"]);
        let output = output.map_err(|error| error.to_string())?;
        if output.stdout.trim() == "forwarded" { Ok(output.stdout) } else { Err(output.to_string()) }
    });
    drop(forward);
    drop(server);
    let _ = pair.a.in_pod("pb", &["pkill", "-f", "while"])?;
    note(format!("port-forward: {}", answer?.trim()));
    Ok(())
}
