use serde_json::{Value, json};

use super::*;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

fn rules(writes: bool) -> Rules {
    Rules { node_ip: NODE, own: [tcp(10_250), tcp(7443)].into(), writes }
}

fn tcp(number: u16) -> Port {
    Port { transport: Transport::Tcp, number }
}

fn udp(number: u16) -> Port {
    Port { transport: Transport::Udp, number }
}

fn key(name: &str) -> Key {
    Key { namespace: "default".into(), name: name.into() }
}

/// A Service as the API writes it; `day` orders by age.
fn service(name: &str, kind: &str, day: u8, ports: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
                     "creationTimestamp": format!("2026-11-{day:02}T10:00:00Z")},
        "spec": {"type": kind, "clusterIP": "10.96.1.1", "ports": ports},
        "status": {"loadBalancer": {}},
    })
}

fn web(name: &str, day: u8, port: u16, node_port: u16) -> Value {
    service(name, "LoadBalancer", day, json!([{"protocol": "TCP", "port": port, "nodePort": node_port}]))
}

fn written(mut service: Value, manager: &str, ips: &[&str]) -> Value {
    let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    service["status"]["loadBalancer"]["ingress"] = ingress.into();
    service["metadata"]["managedFields"] = json!([
        {"manager": "kubectl", "operation": "Update"},
        {"manager": manager, "operation": "Update", "subresource": "status"},
    ]);
    service
}

fn node(name: &str, ip: &str, ready: &str, labels: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": ready}],
                   "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "fd00::1"},
                                 {"type": "InternalIP", "address": ip}]},
    })
}

fn follows() -> Value {
    json!({LABEL: ""})
}

fn view(services: &[Value], pods: &[Value], nodes: &[Value]) -> View {
    fn read<T: Item>(objects: &[Value]) -> BTreeMap<Key, T> {
        let list: List<T> = list(
            json!({"kind": "List", "metadata": {"resourceVersion": "7"}, "items": objects})
                .to_string()
                .as_bytes(),
        )
        .unwrap();
        list.items.into_iter().map(|item| (item.key().clone(), item)).collect()
    }
    View { services: read(services), pods: read(pods), members: read(nodes) }
}

fn one_node() -> Vec<Value> {
    vec![node("n1", "192.0.2.10", "True", follows())]
}

fn open(wanted: &Wanted) -> Vec<String> {
    wanted.open.iter().map(|(port, claim)| format!("{port} {claim}")).collect()
}

fn refused(wanted: &Wanted) -> Vec<String> {
    wanted.refused.iter().map(|((claim, port), reason)| format!("{port} {claim}: {reason}")).collect()
}

#[test]
fn node_ports_of_both_protocols_and_the_health_check_are_wanted() {
    let mut both = service(
        "dns",
        "NodePort",
        1,
        json!([{"name": "t", "protocol": "TCP", "port": 53, "nodePort": 30053},
               {"name": "u", "protocol": "UDP", "port": 53, "nodePort": 30053},
               {"name": "s", "protocol": "SCTP", "port": 53, "nodePort": 30054}]),
    );
    both["spec"]["healthCheckNodePort"] = 30099.into();
    let wanted = Wanted::of(&view(&[both], &[], &[]), &rules(false));
    assert_eq!(
        open(&wanted),
        [
            "30053/tcp NodePort of Service default/dns",
            "30099/tcp healthCheckNodePort of Service default/dns",
            "30053/udp NodePort of Service default/dns",
        ]
    );
    assert_eq!(refused(&wanted), ["30054/sctp NodePort of Service default/dns: SCTP is not forwarded"]);
}

#[test]
fn other_types_want_nothing() {
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    let services =
        ["ClusterIP", "ExternalName", "Surprise"].map(|kind| service(kind, kind, 1, ports.clone()));
    assert_eq!(Wanted::of(&view(&services, &[], &one_node()), &rules(true)), Wanted::default());
}

#[test]
fn a_control_plane_opens_a_balanced_port_first_and_then_writes_the_address() {
    let (seen, rules) = (view(&[web("web", 1, 8080, 30080)], &[], &one_node()), rules(true));
    let wanted = Wanted::of(&seen, &rules);
    assert_eq!(
        open(&wanted),
        ["8080/tcp LoadBalancer port of Service default/web", "30080/tcp NodePort of Service default/web"]
    );
    assert_eq!(wanted.patches(&seen, &rules, &[tcp(30_080)].into()), []);
    assert_eq!(
        wanted.patches(&seen, &rules, &[tcp(8080), tcp(30_080)].into()),
        [Patch {
            service: key("web"),
            text: r#"{"metadata":{"uid":"uid-web"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.10"}]}}}"#
                .into()
        }]
    );
}

#[test]
fn what_is_written_is_not_written_again_and_other_nodes_follow_it() {
    let nodes = [node("n2", "192.0.2.11", "True", follows()), one_node().remove(0)];
    let seen =
        view(&[written(web("web", 1, 8080, 30080), "u7s", &["192.0.2.11", "192.0.2.10"])], &[], &nodes);
    let opened = [tcp(8080), tcp(30_080)].into();
    assert_eq!(Wanted::of(&seen, &rules(true)).patches(&seen, &rules(true), &opened), []);
    let worker = Wanted::of(&View { members: BTreeMap::new(), ..seen.clone() }, &rules(false));
    assert_eq!(worker.open.keys().copied().collect::<Vec<_>>(), [tcp(8080), tcp(30_080)]);
    assert_eq!(worker.patches(&seen, &rules(false), &opened), []);
    let unnamed = Rules { node_ip: Ipv4Addr::new(192, 0, 2, 12), ..rules(false) };
    assert_eq!(Wanted::of(&seen, &unnamed).open.keys().copied().collect::<Vec<_>>(), [tcp(30_080)]);
}

#[test]
fn the_list_of_addresses_is_that_of_ready_nodes_that_follow() {
    let excluded = json!({LABEL: "", "node.kubernetes.io/exclude-from-external-load-balancers": ""});
    let mut leaving = node("e", "192.0.2.15", "True", follows());
    leaving["metadata"]["deletionTimestamp"] = "2026-11-22T10:00:00Z".into();
    let workers = [
        node("z", "192.0.2.11", "True", follows()),
        node("a", "192.0.2.12", "True", follows()),
        node("b", "192.0.2.13", "Unknown", follows()),
        node("rootful", "192.0.2.14", "True", json!({})),
        leaving,
    ];
    let control = node("n1", "192.0.2.10", "True", excluded);
    let of = |nodes: &[Value]| addresses(&view(&[], &[], nodes).members);
    let ip = |last| Ipv4Addr::new(192, 0, 2, last);
    assert_eq!(of(std::slice::from_ref(&control)), [ip(10)], "a control plane that is alone serves");
    assert_eq!(of(&[&workers[..], &[control]].concat()), [ip(11), ip(12)]);
    assert_eq!(of(&workers[2..4]), [] as [Ipv4Addr; 0]);
}

#[test]
fn no_ready_node_leaves_the_status_as_it_is() {
    let down = [node("n1", "192.0.2.10", "False", follows())];
    let seen = view(&[written(web("web", 1, 8080, 30080), "u7s", &["192.0.2.10"])], &[], &down);
    assert_eq!(Wanted::of(&seen, &rules(true)).patches(&seen, &rules(true), &BTreeSet::new()), []);
}

#[test]
fn what_another_load_balancer_serves_is_left_alone() {
    let mut classed = web("classed", 1, 8081, 30081);
    classed["spec"]["loadBalancerClass"] = "example.com/lb".into();
    let foreign = written(web("foreign", 1, 8082, 30082), "controller", &["203.0.113.7"]);
    let mut proxied = written(web("proxied", 1, 8083, 30083), "controller", &["192.0.2.10"]);
    proxied["status"]["loadBalancer"]["ingress"][0]["ipMode"] = "Proxy".into();
    let seen = view(&[classed, foreign, proxied], &[], &one_node());
    let wanted = Wanted::of(&seen, &rules(true));
    assert_eq!(wanted.open.keys().map(|port| port.number).collect::<Vec<_>>(), [30_081, 30_082, 30_083]);
    assert_eq!(wanted.patches(&seen, &rules(true), &wanted.open.keys().copied().collect()), []);
}

#[test]
fn nobody_gets_a_port_of_the_node_or_of_the_cluster() {
    for port in [6443, 10_250, 7443, 2379] {
        let seen = view(&[web("evil", 1, port, 30080)], &[], &one_node());
        let wanted = Wanted::of(&seen, &rules(true));
        assert_eq!(open(&wanted), ["30080/tcp NodePort of Service default/evil"]);
        assert_eq!(
            refused(&wanted),
            [format!(
                "{port}/tcp LoadBalancer port of Service default/evil: the node or the cluster itself needs that port"
            )]
        );
        assert_eq!(wanted.patches(&seen, &rules(true), &[tcp(port), tcp(30_080)].into()), []);
    }
}

#[test]
fn the_older_service_keeps_a_port_and_a_node_port_is_stronger_than_both() {
    let services = [
        web("young", 3, 8080, 30080),
        web("older", 2, 8080, 30081),
        written(web("thief", 1, 31000, 30082), "u7s", &["192.0.2.10"]),
        service("victim", "NodePort", 9, json!([{"port": 1, "nodePort": 31000}])),
    ];
    let seen = view(&services, &[], &one_node());
    let wanted = Wanted::of(&seen, &rules(true));
    assert_eq!(
        open(&wanted)[..2],
        [
            "8080/tcp LoadBalancer port of Service default/older",
            "30080/tcp NodePort of Service default/young"
        ]
    );
    assert_eq!(
        refused(&wanted),
        [
            "31000/tcp LoadBalancer port of Service default/thief: it is the NodePort of Service default/victim",
            "8080/tcp LoadBalancer port of Service default/young: it is the LoadBalancer port of Service default/older",
        ]
    );
    let patches = wanted.patches(&seen, &rules(true), &wanted.open.keys().copied().collect());
    let texts: Vec<_> =
        patches.iter().map(|patch| (patch.service.name.as_str(), patch.text.as_str())).collect();
    assert_eq!(
        texts,
        [
            (
                "older",
                r#"{"metadata":{"uid":"uid-older"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.10"}]}}}"#
            ),
            ("thief", r#"{"metadata":{"uid":"uid-thief"},"status":{"loadBalancer":{"ingress":[]}}}"#),
        ]
    );
}

#[test]
fn half_of_a_service_is_not_opened() {
    let ports = json!([{"port": 8080, "nodePort": 30080}, {"port": 6443, "nodePort": 30081}]);
    let wanted =
        Wanted::of(&view(&[service("half", "LoadBalancer", 1, ports)], &[], &one_node()), &rules(true));
    assert_eq!(wanted.open.keys().copied().collect::<Vec<_>>(), [tcp(30_080), tcp(30_081)]);
}

#[test]
fn a_service_without_node_ports_has_its_front_port_alone() {
    let ports = json!([{"protocol": "UDP", "port": 5353}]);
    let seen = view(&[service("bare", "LoadBalancer", 1, ports)], &[], &one_node());
    assert_eq!(Wanted::of(&seen, &rules(true)).open.into_keys().collect::<Vec<_>>(), [udp(5353)]);
}

fn pod(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": {"phase": "Running"}})
}

#[test]
fn host_ports_of_living_pods_are_wanted() {
    let ports = json!({
        "containers": [{"ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}, {"containerPort": 1}]},
                       {"ports": [{"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.10"},
                                  {"containerPort": 2, "hostPort": 8082, "hostIP": "127.0.0.1"},
                                  {"containerPort": 3, "hostPort": 8083, "hostIP": "::1"}]}],
        "initContainers": [{"ports": [{"containerPort": 4, "hostPort": 8084}]}, {}],
    });
    let mut done = pod("done", json!({"containers": [{"ports": [{"hostPort": 8090}]}]}));
    done["status"]["phase"] = "Succeeded".into();
    let mirror = |name, host_network| {
        let mut pod =
            pod(name, json!({"hostNetwork": host_network, "containers": [{"ports": [{"hostPort": 8091}]}]}));
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        pod
    };
    let seen = view(&[], &[pod("web", ports), done, mirror("etcd", true)], &[]);
    assert_eq!(
        Wanted::of(&seen, &rules(false)).open.into_keys().collect::<Vec<_>>(),
        [tcp(8080), tcp(8084), udp(5353)]
    );
    let seen = view(&[], &[mirror("static", false)], &[]);
    assert_eq!(Wanted::of(&seen, &rules(false)).open.into_keys().collect::<Vec<_>>(), [tcp(8091)]);
}

#[test]
fn there_is_a_most() {
    let ports: Vec<Value> = (1..=5000).map(|port| json!({"port": 1, "nodePort": 20_000 + port})).collect();
    let wanted = Wanted::of(&view(&[service("all", "NodePort", 1, ports.into())], &[], &[]), &rules(false));
    assert_eq!((wanted.open.len(), wanted.refused.len() + wanted.refused_more), (MOST, 5000 - MOST));
    assert!(refused(&wanted)[0].ends_with("more than 4096 ports are wanted"));
}

#[test]
fn a_stream_of_events_is_read_line_by_line() {
    let line = |kind: &str, object: Value| json!({"type": kind, "object": object}).to_string();
    let is = |text: &str| event::<Service>(text.as_bytes()).unwrap();
    let web = web("web", 1, 8080, 30080);
    assert!(matches!(is(&line("ADDED", web.clone())), Event::Is(service) if service.key == key("web")));
    assert!(matches!(is(&line("MODIFIED", web.clone())), Event::Is(_)));
    assert!(matches!(is(&line("DELETED", web)), Event::Gone(service) if service.uid == "uid-web"));
    let bookmark = line("BOOKMARK", json!({"kind": "Service", "metadata": {"resourceVersion": "1"}}));
    assert_eq!(is(&bookmark), Event::Other);
    let gone = line("ERROR", json!({"kind": "Status", "metadata": {}, "message": "too old", "code": 410}));
    assert_eq!(is(&gone), Event::Failed("too old".into()));
}

/// What kube-apiserver 1.34.4 said while a Service of type LoadBalancer was made, got its status from us, became
/// `externalTrafficPolicy: Local`, while another turned into a ClusterIP, and the first was deleted.
#[test]
fn a_recorded_stream_opens_and_closes() {
    let list: List<Service> = list(include_bytes!("../../tests/services/list.json")).unwrap();
    let mut seen = View {
        services: list.items.into_iter().map(|service| (service.key.clone(), service)).collect(),
        members: view(&[], &[], &[node("svc", "10.77.0.2", "True", follows())]).members,
        ..View::default()
    };
    let rules = Rules { node_ip: Ipv4Addr::new(10, 77, 0, 2), ..rules(true) };
    let opened = |seen: &View| {
        let wanted = Wanted::of(seen, &rules);
        let ports: BTreeSet<Port> = wanted.open.into_keys().collect();
        let patches = Wanted::of(seen, &rules).patches(seen, &rules, &ports).len();
        (ports.iter().map(|port| port.number).collect::<Vec<_>>(), patches)
    };
    assert_eq!((list.version.as_str(), opened(&seen)), ("732", (vec![30_053], 0)));
    let expected: [(&[u16], usize); 5] = [
        (&[8080, 8443, 30_053, 30_640, 32_720], 1),
        (&[8080, 8443, 30_053, 30_640, 32_720], 0),
        (&[8080, 8443, 30_053, 30_428, 30_640, 32_720], 0),
        (&[8080, 8443, 30_428, 30_640, 32_720], 0),
        (&[], 0),
    ];
    for (line, (ports, patches)) in include_str!("../../tests/services/watch.jsonl").lines().zip(expected) {
        match event::<Service>(line.as_bytes()).unwrap() {
            Event::Is(service) => drop(seen.services.insert(service.key.clone(), service)),
            Event::Gone(service) => drop(seen.services.remove(&service.key)),
            other => panic!("{other:?}"),
        }
        assert_eq!(opened(&seen), (ports.to_vec(), patches), "{line}");
    }
}

#[test]
fn nonsense_is_no_event() {
    let deep = format!(r#"{{"type":"ADDED","object":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
    for line in ["", "{}", "[]", "null", r#"{"type":"ADDED"}"#, r#"{"type":"ADDED","object":{}}"#, &deep] {
        event::<Service>(line.as_bytes()).unwrap_err();
    }
    list::<Service>(br#"{"kind":"Status","metadata":{},"status":"Failure"}"#).unwrap_err();
}

#[test]
fn pages_follow_one_another() {
    let text = br#"{"kind":"ServiceList","metadata":{"resourceVersion":"9","continue":"abc","remainingItemCount":3},"items":null}"#;
    let page = list::<Service>(text).unwrap();
    assert_eq!((page.version.as_str(), page.next.as_deref(), page.items.len()), ("9", Some("abc"), 0));
}

#[test]
fn impossible_numbers_are_no_ports() {
    let ports = json!([{"port": 0, "nodePort": 70_000}, {"port": -1, "nodePort": 0}, {"port": 65_536}]);
    let wanted =
        Wanted::of(&view(&[service("odd", "LoadBalancer", 1, ports)], &[], &one_node()), &rules(true));
    assert_eq!(wanted.open, BTreeMap::new());
}

#[test]
fn who_wants_a_low_port_is_told_by_an_event_that_has_the_same_name_each_time() {
    let view = view(&[web("low", 1, 80, 30_080)], &[], &[]);
    let claim = Claim { kind: Kind::LoadBalancer, by: key("low") };
    let told = ("LowPort", "the node's user may not open it");
    let notice = Notice::of(&view, (&claim, tcp(80)), "n1", told, 1_795_332_361).unwrap();
    assert_eq!(notice.name, "low.uid-low.80-tcp.n1");
    let event: Value = serde_json::from_str(&notice.text).unwrap();
    assert_eq!(event["involvedObject"]["uid"], "uid-low");
    assert_eq!(event["involvedObject"]["kind"], "Service");
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(event["message"], "80/tcp on node n1: the node's user may not open it");
    assert_eq!(event["lastTimestamp"], "2026-11-22T07:26:01Z");
    let later = Notice::of(&view, (&claim, tcp(80)), "n1", told, 1_800_000_000).unwrap();
    assert_eq!(later.name, notice.name);
    let gone = Claim { kind: Kind::LoadBalancer, by: key("gone") };
    assert_eq!(Notice::of(&view, (&gone, tcp(80)), "n1", told, 0), None);
}

#[test]
fn an_event_about_a_pod_with_the_longest_name_still_has_a_name() {
    let long = format!("{}-{}", "a".repeat(119), "b".repeat(133));
    let pod = json!({
        "metadata": {"name": long, "namespace": "default", "uid": "0b0b0b0b-1"},
        "spec": {"containers": [{"ports": [{"hostPort": 80}]}]},
    });
    let view = view(&[], &[pod], &[]);
    let claim = Claim { kind: Kind::HostPort, by: key(&long) };
    let message = "x".repeat(5000);
    let notice = Notice::of(&view, (&claim, udp(80)), &"n".repeat(63), ("LowPort", &message), 0).unwrap();
    assert!(
        notice.name.len() <= 253
            && notice.name.starts_with(&format!("{}.0b0b0b0b.80-udp.n", "a".repeat(119)))
    );
    assert!(notice.text.len() < 4000);
}
