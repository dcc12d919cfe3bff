//! Services from outside: a host that belongs to no cluster reaches NodePort and LoadBalancer Services and host ports.

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;
use u7s_harness::{Client, Node, until};

use crate::Listed;
use crate::pair::Pair;
use crate::world::{Check, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[
    (
        "outside::node_ports_on_both_hosts_show_the_pod_its_client",
        node_ports_on_both_hosts_show_the_pod_its_client,
    ),
    (
        "outside::a_load_balancer_is_reached_and_closed_with_its_service",
        a_load_balancer_is_reached_and_closed_with_its_service,
    ),
    ("outside::datagrams_reach_a_node_port", datagrams_reach_a_node_port),
    (
        "outside::host_ports_are_reached_while_their_pod_is_there",
        host_ports_are_reached_while_their_pod_is_there,
    ),
    ("outside::a_low_port_is_refused_with_its_remedy", a_low_port_is_refused_with_its_remedy),
    (
        "outside::f12_a_port_of_the_host_stays_its_own_while_its_program_restarts",
        f12_a_port_of_the_host_stays_its_own,
    ),
    ("outside::f11_clients_with_addresses_of_the_inside_are_refused", f11_inside_sources),
    ("outside::no_service_takes_the_api_servers_port", no_service_takes_the_api_servers_port),
    ("outside::ports_outlive_kubectl_and_the_api_server", ports_outlive_kubectl_and_the_api_server),
    ("outside::a_restarted_supervisor_opens_them_again", a_restarted_supervisor_opens_them_again),
];

/// What a Service's making and deletion may take to be seen on the host.
const PROMPT: Duration = Duration::from_secs(2);

/// How long kube-proxy and others may take on top of it.
const TRY: Duration = Duration::from_secs(30);

/// Tells each client its address over HTTP.
const SERVER: &str = r"mkdir -p /tmp/www/cgi-bin; cd /tmp/www/cgi-bin; printf '#!/bin/sh\necho; echo from $REMOTE_ADDR\n' >me; chmod 755 me; exec busybox httpd -f -p 80 -h /tmp/www";

/// Without a Corefile it answers each question with the address that the question came from (plugin whoami).
const DATAGRAMS: &str = "registry.k8s.io/coredns/coredns:v1.12.1";

/// The pods of these tests, one on each node.
fn servers(pair: &Pair) -> Check {
    pair.converge(Duration::from_secs(240))?;
    for (name, node) in ["out-a", "out-b"].iter().zip(pair.nodes()) {
        pair.a.apply(&server(name, node, "").to_string())?;
    }
    for name in ["pod/out-a", "pod/out-b"] {
        pair.a.kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", name])?;
    }
    Ok(())
}

/// `ports` is the text of the container's ports.
fn server(name: &str, node: &Node, ports: &str) -> Value {
    let ports: Value = serde_json::from_str(&format!("[{ports}]")).unwrap_or_default();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"outside": if ports[0].is_null() { "yes" } else { "no" }}},
        "spec": {
            "nodeName": node.name(), "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
            "containers": [
                {"name": "c", "image": "test.local/tools:1", "imagePullPolicy": "Never",
                 "command": ["/bin/sh", "-c", SERVER], "ports": ports},
                {"name": "dns", "image": DATAGRAMS, "imagePullPolicy": "Never"},
            ],
        },
    })
}

fn make(pair: &Pair, name: &str, spec: &str) -> Check {
    let spec: Value = serde_json::from_str(spec)?;
    let mut service = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"outside": "yes"}},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    pair.a.apply(&service.to_string())
}

/// What a server says to this client.
fn ask(client: &Client, ip: Ipv4Addr, port: u16) -> Result<String, String> {
    let url = format!("http://{ip}:{port}/cgi-bin/me");
    let answer = client.exec(&["curl", "-sS", "--max-time", "3", &url]).map_err(|error| error.to_string())?;
    if answer.ok() { Ok(answer.stdout) } else { Err(answer.to_string()) }
}

/// Waits until the host refuses connections, as it does where nobody listens; returns how long that took.
fn closed(client: &Client, ip: Ipv4Addr, port: u16, limit: Duration) -> Result<Duration, Box<dyn Error>> {
    const REFUSED: i32 = 7;
    let began = Instant::now();
    let url = format!("http://{ip}:{port}/");
    until(limit, &format!("{ip}:{port} to be closed"), || {
        let answer =
            client.exec(&["curl", "-s", "--max-time", "1", &url]).map_err(|error| error.to_string())?;
        if answer.code() == Some(REFUSED) { Ok(()) } else { Err(answer.to_string()) }
    })?;
    Ok(began.elapsed())
}

/// Waits until the host accepts connections; returns how long that took.
fn opened(client: &Client, ip: Ipv4Addr, port: u16, limit: Duration) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let connect = format!("exec 3<>/dev/tcp/{ip}/{port}");
    until(limit, &format!("{ip}:{port} to be open"), || {
        let answer =
            client.exec(&["timeout", "1", "bash", "-c", &connect]).map_err(|error| error.to_string())?;
        if answer.ok() { Ok(()) } else { Err(answer.to_string()) }
    })?;
    Ok(began.elapsed())
}

fn node_ports_on_both_hosts_show_the_pod_its_client(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    let client = &pair.a.bare.client;
    make(
        &pair,
        "local",
        r#"{"type":"NodePort","externalTrafficPolicy":"Local","ports":[{"port":80,"nodePort":30081}]}"#,
    )?;
    for node in pair.nodes() {
        let took = opened(client, node.ip(), 30_081, PROMPT)?;
        let wanted = client.ip().to_string();
        let said = until(TRY, "a pod that sees its client", || {
            ask(client, node.ip(), 30_081)
                .and_then(|said| if said.contains(&wanted) { Ok(said) } else { Err(said) })
        })?;
        note(format!(
            "{}: open after {took:?}, the pod said {:?}, the client is {wanted}",
            node.name(),
            said.trim()
        ));
    }
    pair.a.kubectl(&["delete", "service", "local"])?;
    for node in pair.nodes() {
        note(format!("{}: closed after {:?}", node.name(), closed(client, node.ip(), 30_081, PROMPT)?));
    }
    Ok(())
}

fn a_load_balancer_is_reached_and_closed_with_its_service(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    let client = &pair.a.bare.client;
    make(&pair, "lb", r#"{"type":"LoadBalancer","ports":[{"port":8080,"targetPort":80}]}"#)?;
    let addresses = until(TRY, "an address in the status", || {
        let service = pair.a.json(&["get", "service", "lb"]).map_err(|error| error.to_string())?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        let addresses: Vec<Ipv4Addr> =
            ingress.iter().filter_map(|one| one["ip"].as_str()?.parse().ok()).collect();
        if addresses.is_empty() { Err(service["status"].to_string()) } else { Ok(addresses) }
    })?;
    // kubeadm marks control planes as not to be used by load balancers, so it is the worker's.
    note(format!("status.loadBalancer.ingress: {addresses:?}"));
    holds(addresses == [pair.b.node().ip()], format!("ingress: {addresses:?}"))?;
    for ip in &addresses {
        let said = until(TRY, "an answer through the load balancer", || ask(client, *ip, 8080))?;
        note(format!("{ip}:8080 said {:?}", said.trim()));
    }
    pair.a.kubectl(&["delete", "service", "lb"])?;
    for ip in addresses {
        note(format!("{ip}:8080 closed after {:?}", closed(client, ip, 8080, PROMPT)?));
    }
    Ok(())
}

fn datagrams_reach_a_node_port(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    let spec = r#"{"type":"NodePort","externalTrafficPolicy":"Local","ports":[{"port":53,"protocol":"UDP","nodePort":30053}]}"#;
    make(&pair, "udp", spec)?;
    for node in pair.nodes() {
        let said = datagram(&pair.a.bare.client, node.ip(), 30_053)?;
        note(format!("{}: {said}", node.name()));
    }
    pair.a.kubectl(&["delete", "service", "udp"]).map(drop)
}

/// Asks a server that answers with its client's address, and wants this client's.
fn datagram(client: &Client, ip: Ipv4Addr, port: u16) -> Result<String, Box<dyn Error>> {
    const QUESTION: &str = r"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x01\x00\x01";
    let talk = format!(
        "exec 3<>/dev/udp/{ip}/{port}; printf '{QUESTION}' >&3; timeout 1 dd bs=512 count=1 <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'"
    );
    let own: String = client.ip().octets().iter().map(|byte| format!("{byte:02x}")).collect();
    let said = until(TRY, &format!("an answer from {ip}:{port}/udp that names {own}"), || {
        let answer = client.exec(&["bash", "-c", &talk]).map_err(|error| error.to_string())?;
        if answer.stdout.contains(&own) { Ok(answer.stdout) } else { Err(answer.to_string()) }
    })?;
    Ok(format!("an answer of {} bytes names {}", said.trim().len() / 2, client.ip()))
}

fn host_ports_are_reached_while_their_pod_is_there(world: &World) -> Check {
    let pair = world.pair()?;
    pair.converge(Duration::from_secs(240))?;
    let (client, node) = (&pair.a.bare.client, pair.b.node());
    let ports =
        r#"{"containerPort":80,"hostPort":8088},{"containerPort":53,"hostPort":8053,"protocol":"UDP"}"#;
    pair.a.apply(&server("hosted", node, ports).to_string())?;
    pair.a.kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", "pod/hosted"])?;
    let said = until(TRY, "an answer at the host port", || ask(client, node.ip(), 8088))?;
    note(format!("8088/tcp: {:?}; 8053/udp: {:?}", said.trim(), datagram(client, node.ip(), 8053)?));
    holds(ask(client, pair.a.node().ip(), 8088).is_err(), "the other node has the host port open")?;
    pair.a.kubectl(&["delete", "pod", "hosted", "--now"])?;
    note(format!("8088/tcp closed after {:?}", closed(client, node.ip(), 8088, PROMPT)?));
    Ok(())
}

fn a_low_port_is_refused_with_its_remedy(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    make(&pair, "low", r#"{"type":"LoadBalancer","ports":[{"port":80}]}"#)?;
    let status = refusal(pair.b.node(), "default/low")?;
    note(&status);
    holds(
        status.contains("80/tcp, LoadBalancer port of Service default/low")
            && status.contains("LowPort")
            && status.contains("net.ipv4.ip_unprivileged_port_start")
            && status.contains("network.low_ports"),
        status,
    )?;
    told_by_events(&pair)?;
    pair.a.kubectl(&["delete", "service", "low"]).map(drop)
}

/// Who has kubectl alone is told where he looks, by each node once.
fn told_by_events(pair: &Pair) -> Check {
    let about = ["get", "events", "--field-selector", "involvedObject.name=low,reason=LowPort", "-o", "json"];
    let events = |least: usize| {
        until(TRY, "an Event about the low port", || {
            let events = pair.a.json(&about).map_err(|error| error.to_string())?["items"].clone();
            let found = events.as_array().cloned().unwrap_or_default();
            if found.len() >= least { Ok(found) } else { Err(events.to_string()) }
        })
    };
    let first = events(1)?;
    note(first[0]["message"].as_str().unwrap_or_default());
    holds(
        first[0]["involvedObject"]["kind"] == "Service"
            && first[0]["message"].as_str().is_some_and(|text| text.contains("network.low_ports")),
        first[0].to_string(),
    )?;
    let described = pair.a.kubectl(&["describe", "service", "low"])?;
    holds(described.contains("LowPort"), described)?;
    // Both nodes ask the host again every five seconds, and tell nobody again.
    let node = |event: &Value| event["source"]["host"].as_str().unwrap_or_default().to_owned();
    std::thread::sleep(Duration::from_secs(12));
    let all = events(1)?;
    let mut nodes: Vec<String> = all.iter().map(node).collect();
    nodes.sort();
    nodes.dedup();
    let once = all.iter().all(|event| event["count"] == 1);
    holds(nodes.len() == all.len() && once, format!("told more than once: {all:?}"))
}

/// What `u7s status` of a node says about the refused ports of a Service.
fn refusal(node: &Node, service: &str) -> Result<String, Box<dyn Error>> {
    Ok(until(TRY, &format!("a word about {service}"), || {
        let status = node.exec(&["u7s", "status"]).map_err(|error| error.to_string())?.stdout;
        status.lines().find(|line| line.contains(service)).map(|line| line.trim().to_owned()).ok_or(status)
    })?)
}

/// A database that restarted could not come back, and its clients got a pod.
fn f12_a_port_of_the_host_stays_its_own(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    let (client, node) = (&pair.a.bare.client, pair.b.node());
    let database = || node.spawn(&["socat", "TCP4-LISTEN:5432,fork,reuseaddr", "SYSTEM:echo database"]);
    let running = database()?;
    opened(client, node.ip(), 5432, TRY)?;
    make(&pair, "taker", r#"{"type":"LoadBalancer","ports":[{"port":5432,"targetPort":80}]}"#)?;
    let status = refusal(node, "default/taker")?;
    note(&status);
    holds(status.contains("is left to the host") && status.contains("u7s ports add"), status)?;
    drop(running);
    node.sh("kill $(pgrep -f '^socat TCP4-LISTEN:5432') 2>/dev/null || true")?;
    closed(client, node.ip(), 5432, TRY)?;
    // It was tried again every five seconds.
    std::thread::sleep(Duration::from_secs(12));
    closed(client, node.ip(), 5432, Duration::ZERO)?;
    let running = database()?;
    opened(client, node.ip(), 5432, TRY)?;
    drop(running);
    node.sh("kill $(pgrep -f '^socat TCP4-LISTEN:5432') 2>/dev/null || true")?;
    closed(client, node.ip(), 5432, TRY)?;
    // Gone for good: the way that status tells.
    node.ok(&["u7s", "ports", "add", "5432"])?;
    note(until(TRY, "an answer of the Service", || ask(client, node.ip(), 5432))?.trim());
    node.ok(&["u7s", "ports", "remove", "5432"])?;
    until(TRY, "an answer without the administrator", || ask(client, node.ip(), 5432))?;
    pair.a.kubectl(&["delete", "service", "taker"]).map(drop)
}

/// A client with a pod's address was a pod to whoever asked. The second node has joined: it learns the networks.
fn f11_inside_sources(world: &World) -> Check {
    const FORGED: [&str; 3] = ["10.244.9.9", "10.96.0.9", "169.254.169.254"];
    let pair = world.pair()?;
    pair.converge(Duration::from_secs(240))?;
    let client = &pair.a.bare.client;
    for (node, port) in pair.nodes().into_iter().zip([6443, 10_250]) {
        let ask = |source: Option<&str>| {
            let url = format!("https://{}:{port}/healthz", node.ip());
            let mut argv = vec!["curl", "-sk", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}"];
            argv.extend(source.iter().flat_map(|source| ["--interface", source]));
            argv.push(&url);
            client.exec(&argv).map_err(|error| error.to_string())
        };
        for forged in FORGED {
            client.command(&["ip", "addr", "replace", &format!("{forged}/32"), "dev", "eth0"]).ok()?;
            node.sh(&format!("ip route replace {forged}/32 dev eth0"))?;
            until(TRY, &format!("{forged} to be refused by {}", node.name()), || {
                let answer = ask(Some(forged))?;
                let refused = !answer.ok() && answer.stdout == "000" && answer.code() != Some(28);
                if refused { Ok(()) } else { Err(answer.to_string()) }
            })?;
            node.sh(&format!("ip route del {forged}/32 dev eth0"))?;
        }
        let honest = ask(None)?;
        holds(honest.ok() && honest.stdout != "000", honest.to_string())?;
        let status = node.exec(&["u7s", "status"])?.stdout;
        let counted = status.lines().find(|line| line.starts_with("refused clients"));
        note(counted.unwrap_or_default());
        holds(counted.is_some(), status.clone())?;
    }
    for forged in FORGED {
        client.command(&["ip", "addr", "del", &format!("{forged}/32"), "dev", "eth0"]).ok()?;
    }
    Ok(())
}

fn no_service_takes_the_api_servers_port(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    make(&pair, "thief", r#"{"type":"LoadBalancer","ports":[{"port":6443,"targetPort":80}]}"#)?;
    let status = refusal(pair.a.node(), "default/thief")?;
    note(&status);
    let service = pair.a.json(&["get", "service", "thief"])?;
    holds(service["status"]["loadBalancer"]["ingress"].is_null(), service["status"].to_string())?;
    let version = ["curl", "-sk", "--max-time", "5", &format!("https://{}:6443/version", pair.a.node().ip())]
        .map(str::to_owned);
    let answer = pair.a.bare.client.exec(&version)?;
    holds(answer.stdout.contains("gitVersion"), answer.to_string())?;
    pair.a.kubectl(&["delete", "service", "thief"]).map(drop)
}

fn ports_outlive_kubectl_and_the_api_server(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    let (client, ip) = (&pair.a.bare.client, pair.a.node().ip());
    make(&pair, "kept", r#"{"type":"NodePort","ports":[{"port":80,"nodePort":30082}]}"#)?;
    opened(client, ip, 30_082, PROMPT)?;
    // Within the node, and only the watches of its supervisor.
    let kill = |pattern: &str| pair.a.node().sh(&format!("kill -9 $(pgrep -f '{pattern}')"));
    kill("^/usr/bin/kubectl .*watch=true")?;
    opened(client, ip, 30_082, PROMPT)?;
    kill("^kube-apiserver ")?;
    opened(client, ip, 30_082, PROMPT)?;
    pair.converge(Duration::from_secs(120))?;
    until(TRY, "the API server to take a deletion", || {
        pair.a
            .kubectl(&["delete", "service", "kept", "--ignore-not-found"])
            .map_err(|error| error.to_string())
    })?;
    note(format!("closed after {:?}", closed(client, ip, 30_082, TRY)?));
    Ok(())
}

fn a_restarted_supervisor_opens_them_again(world: &World) -> Check {
    let pair = world.pair()?;
    servers(&pair)?;
    let (client, node) = (&pair.a.bare.client, pair.b.node());
    make(&pair, "again", r#"{"type":"NodePort","ports":[{"port":80,"nodePort":30083}]}"#)?;
    opened(client, node.ip(), 30_083, PROMPT)?;
    let began = Instant::now();
    node.command(&["systemctl", "restart", "u7s"]).within(Duration::from_secs(120)).ok()?;
    let ready = began.elapsed();
    opened(client, node.ip(), 30_083, TRY)?;
    note(format!("restarted within {ready:?}, open after {:?}", began.elapsed()));
    pair.a.kubectl(&["delete", "service", "again"])?;
    pair.converge(Duration::from_secs(120)).map(drop)
}
