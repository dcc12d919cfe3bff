//! The host firewall: our table as text, and the judgement over recorded rulesets of hosts.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::{Value, json};
use u7s_plan::config::{self, Config};
use u7s_plan::facts::{Facts, UnitCgroup};
use u7s_plan::firewall::{Table, admits, table};
use u7s_plan::init::{Docs, init};
use u7s_plan::request::Init;

mod common;

use common::{flags, golden, machine, planned};

fn configured(text: &str) -> Config {
    config::read(&[("f", text)]).unwrap()
}

fn rendered(text: &str, facts: &Facts) -> Table {
    let node = planned(facts, &Init::default()).node;
    table(&configured(text).firewall, &node, facts, facts.user.is_some())
}

#[test]
fn the_table_is_golden() {
    let mut facts = machine();
    golden("firewall/default.nft", &rendered("", &facts).text);
    facts.resolv_conf =
        "nameserver fe80::1%eth0\nnameserver 127.0.0.53\nnameserver 169.254.169.254\nnameserver 9.9.9.9\n"
            .into();
    let lists = "[firewall]\negress = [\"10.0.0.0/8\", \"10.1.0.0/16\", \"192.168.0.0/24\", \"192.168.1.0/24\", \"fd00::/8\"]\n\
        allow = [\"[fd01::1]:443\", \"192.0.2.1:8443\", \"127.0.0.1:5000\", \"192.0.2.1:8443\"]\n";
    golden("firewall/lists.nft", &rendered(lists, &facts).text);
    facts.user = None;
    facts.unit_cgroup = Some(UnitCgroup { path: "system.slice/u7s.service".into(), id: 4711 });
    golden("firewall/nothing-out.nft", &rendered("[firewall]\negress = []\n", &facts).text);
}

#[test]
fn another_uid_list_or_name_server_is_another_table() {
    let facts = machine();
    let plain = rendered("", &facts);
    assert_eq!(plain, rendered("", &machine()));
    let mut others = vec![rendered("[firewall]\negress = [\"0.0.0.0/0\"]\n", &facts)];
    let mut other = machine();
    other.resolv_conf = "nameserver 9.9.9.9\n".into();
    others.push(rendered("", &other));
    let mut other = machine();
    if let Some(user) = &mut other.user {
        user.uid += 1;
    }
    others.push(rendered("", &other));
    for other in others {
        assert_ne!(plain.text, other.text);
        assert!(plain.holds_in(&listing(&plain)) && !plain.holds_in(&listing(&other)));
    }
}

/// After a restart of the unit its cgroup is another one, and a rule that was loaded before judges nothing.
#[test]
fn f9_the_table_of_another_start_of_the_unit_is_another_table() {
    let with = |path: &str, id| {
        let mut facts = machine();
        facts.unit_cgroup = Some(UnitCgroup { path: path.into(), id });
        rendered("", &facts)
    };
    let (first, second) = (with("system.slice/u7s.service", 7), with("system.slice/u7s.service", 8));
    assert!(first.text.contains("socket cgroupv2 level 2 \"system.slice/u7s.service\" jump node"));
    assert!(first.holds_in(&listing(&first)) && !second.holds_in(&listing(&first)));
    assert!(with("a.slice/a-b.slice/u7s.service", 7).text.contains("cgroupv2 level 3"));
    let by_user = first.by_user.clone().unwrap();
    assert_eq!(*by_user, rendered("", &machine()));
    assert!(!first.holds_in(&listing(&by_user)));
    for path in ["", "/", "a\" accept", "a\nb", "a\\b"] {
        assert_eq!(with(path, 7), rendered("", &machine()), "{path:?} is not handed to nft");
    }
}

/// What nft would list of a table.
fn listing(table: &Table) -> Value {
    let mut objects =
        vec![json!({"metainfo": {"version": "1"}}), json!({"table": {"family": "inet", "name": "u7s"}})];
    let mut rules = Vec::new();
    let mut chain = "";
    for line in table.text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            chain = name;
            objects.push(match name {
                "output" => json!({"chain": {"name": name, "type": "filter", "hook": "output", "prio": -150, "policy": "accept"}}),
                "resolver" => json!({"chain": {"name": name, "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}}),
                _ => json!({"chain": {"name": name}}),
            });
        } else if let Some((_, comment)) = line.split_once(" comment ") {
            rules.push(json!({"rule": {"chain": chain, "comment": comment.trim_matches('"'), "expr": []}}));
        }
    }
    objects.extend(rules);
    json!({ "nftables": objects })
}

/// Somebody's hands in the live table.
type Change<'a> = &'a dyn Fn(&mut Vec<Value>);

#[test]
fn whatever_is_changed_in_the_live_table_shows() {
    let table = rendered("", &machine());
    let whole = listing(&table);
    assert!(table.holds_in(&whole));
    let objects = whole["nftables"].as_array().unwrap();
    let changed = |change: Change<'_>| {
        let mut objects = objects.clone();
        change(&mut objects);
        json!({ "nftables": objects })
    };
    let first = objects.iter().position(|object| !object["rule"].is_null()).unwrap();
    let output = objects.iter().position(|object| object["chain"]["name"] == "output").unwrap();
    let changes: [(&str, Change<'_>); 9] = [
        ("a rule is missing", &|objects| drop(objects.remove(first))),
        ("rules are flushed", &|objects| objects.truncate(first)),
        ("a rule is moved", &|objects| objects.swap(first, first + 1)),
        ("a rule is added", &|objects| objects.push(json!({"rule": {"chain": "output", "expr": []}}))),
        ("a rule is replaced", &|objects| objects[first]["rule"]["comment"] = Value::Null),
        ("a chain is added", &|objects| objects.push(json!({"chain": {"name": "x"}}))),
        ("another policy", &|objects| objects[output]["chain"]["policy"] = "drop".into()),
        ("no hook", &|objects| objects[output]["chain"] = json!({"name": "output"})),
        ("dormant", &|objects| objects[1]["table"]["flags"] = json!(["dormant"])),
    ];
    for (name, change) in changes {
        assert!(!table.holds_in(&changed(change)), "{name}");
    }
    assert!(!table.holds_in(&Value::Null));
}

#[test]
fn the_egress_list_says_where_a_peer_may_be() {
    let at = |text: &str, address: &str| admits(&configured(text).firewall, address.parse().unwrap());
    assert!(at("", "192.0.2.1"));
    let list = "[firewall]\negress = [\"10.0.0.0/8\"]\n";
    assert!(at(list, "10.9.9.9") && !at(list, "192.0.2.1") && !at(list, "fd00::1"));
    assert!(at("[firewall]\nenabled = false\negress = []\n", "192.0.2.1"));
}

/// Needs with their remedies.
fn judged(config: &str, facts: &Facts) -> String {
    let outcome = init(&configured(config), &Init::default(), Docs::default(), facts).unwrap();
    outcome.unmet.iter().map(|need| format!("{need}\nhint: {}\n", need.remedy)).collect()
}

#[test]
fn rules_of_hosts_that_drop_a_declared_port_are_named_with_the_line_to_paste() {
    let recorded = [
        ("empty", include_str!("golden/firewall/empty.json")),
        ("nft-drop", include_str!("golden/firewall/nft-drop.json")),
        ("nft-drop-open", include_str!("golden/firewall/nft-drop-open.json")),
        ("nft-reject-some", include_str!("golden/firewall/nft-reject-some.json")),
        ("nft-return-goto-map", include_str!("golden/firewall/nft-return-goto-map.json")),
        ("firewalld", include_str!("golden/firewall/firewalld.json")),
        ("iptables-drop", include_str!("golden/firewall/iptables-drop.json")),
        ("iptables-reject-open", include_str!("golden/firewall/iptables-reject-open.json")),
        ("iptables-kube", include_str!("golden/firewall/iptables-kube.json")),
    ];
    let judge = |(name, text): (&str, &str)| {
        let mut facts = machine();
        facts.firewall.rules = serde_json::from_str(text).unwrap();
        format!("{name}:\n{}", judged("", &facts))
    };
    golden("firewall/judged.txt", &recorded.map(judge).concat());
}

#[test]
fn rules_made_to_confuse_end_and_alarm_nobody() {
    let chain = json!({"chain": {"family": "inet", "table": "t", "name": "c", "hook": "input", "prio": 0, "policy": "drop"}});
    let rule = |expr: Value| json!({"rule": {"family": "inet", "table": "t", "chain": "c", "expr": expr}});
    let jump = json!([{"jump": {"target": "c"}}, {"jump": {"target": "c"}}]);
    let mut facts = machine();
    for rules in [
        vec![chain.clone(), rule(jump.clone()), rule(jump)],
        vec![
            chain.clone(),
            rule(
                json!([{"vmap": {"key": {"meta": {"key": "mark"}}, "data": {"set": [[1, {"accept": null}]]}}}]),
            ),
        ],
        vec![
            chain,
            rule(json!([{"match": {"op": "<", "left": {"&": [1, 2]}, "right": {}}}, {"accept": null}])),
        ],
        vec![Value::Null, json!({"rule": 1}), json!({"chain": {"hook": "input"}}), json!([[]])],
    ] {
        facts.firewall.rules = Some(rules);
        assert_eq!(judged("", &facts), "");
    }
}

#[test]
fn a_host_without_nft_or_nf_tables_is_told_so() {
    let mut facts = machine();
    facts.programs.insert("nft".into(), None);
    let off = "in /etc/u7s/config.toml, section [firewall]: enabled = false";
    let missing = format!(
        "[ERROR FileExisting-nft]: nft is not installed\nhint: apt-get install nftables; or, without bounds for pods, {off}\n"
    );
    assert_eq!(judged("", &facts), missing);
    let ignored = "[WARNING Firewall]: pods reach the host's loopback and metadata services: the firewall is switched off\n\
        hint: in /etc/u7s/config.toml, section [firewall]: enabled = true\n";
    assert_eq!(judged("[firewall]\nenabled = false\n", &facts), ignored);
    let mut facts = machine();
    facts.firewall.broken = Some("Error: Operation not supported\u{1b}".into());
    let broken = format!(
        "[ERROR Firewall]: nft does not work here: Error: Operation not supported\\u{{1b}}\n\
         hint: modprobe nf_tables; or, without bounds for pods, {off}\n"
    );
    assert_eq!(judged("", &facts), broken);
}

#[test]
fn a_list_without_the_nodes_own_network_is_doubted() {
    let said = judged("[firewall]\negress = [\"192.0.2.0/24\"]\n", &machine());
    assert_eq!(
        said,
        "[WARNING Egress]: firewall.egress does not hold 10.77.0.11: nodes beside this one would not be reached\n\
         hint: add the network of the cluster's nodes to firewall.egress in /etc/u7s/config.toml\n"
    );
    assert_eq!(judged("[firewall]\negress = [\"10.77.0.0/24\"]\n", &machine()), "");
}

#[test]
fn an_endpoint_that_the_table_would_refuse_is_named() {
    let said = |lists: &str, endpoint: &str| {
        let request = flags(&[("control-plane-endpoint", endpoint)]);
        let config = configured(&format!("[firewall]\negress = [\"10.77.0.0/24\"]\n{lists}"));
        let outcome = init(&config, &request, Docs::default(), &machine()).unwrap();
        outcome.unmet.iter().map(|need| format!("{need}\nhint: {}\n", need.remedy)).collect::<String>()
    };
    let refused = |endpoint: &str| {
        format!(
            "[WARNING Egress]: the firewall would keep the node from the API endpoint {endpoint}\n\
             hint: in /etc/u7s/config.toml, section [firewall]: allow = [\"{endpoint}\"]\n"
        )
    };
    // Elsewhere, outside of the list; an address of this host, where only the node's own ports are open.
    assert_eq!(said("", "192.0.2.1:8443"), refused("192.0.2.1:8443"));
    assert_eq!(said("", "172.17.0.1:8443"), refused("172.17.0.1:8443"));
    for open in ["10.77.0.9:8443", "172.17.0.1:6443", "10.77.0.11:6443", "lb.example:8443"] {
        assert_eq!(said("", open), "", "{open}");
    }
    assert_eq!(said("allow = [\"192.0.2.1:8443\"]\n", "192.0.2.1:8443"), "");
}
