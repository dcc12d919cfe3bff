//! What comes from the cluster and from the host's packet filter: Services, kubeadm's documents, rules of nft.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::Ipv4Addr;

use secrecy::ExposeSecret;
use serde_json::Value;
use u7s_plan::config::Config;
use u7s_plan::control::MOST_REFUSED;
use u7s_plan::kubeadm::{Input, NodeFacts, join, merge};
use u7s_plan::need::Ignored;
use u7s_plan::preflight::firewall_needs;
use u7s_plan::request::Init;
use u7s_plan::services::{
    Event, Item, MOST, Member, Notice, Pod, Port, Rules, Service, Transport, View, Wanted, event, list,
};
use u7s_plan::{firewall, yaml};
use u7s_shim::kubeadm::{Call, parse};

use crate::{parts, text, texts};

/// Lines of watches and pages of lists, the kind of their objects in front: `S`, `P` or `N`.
///
/// Whatever users of the cluster write, bounds and the node's own ports are kept, and what is written is JSON.
pub(super) fn services(data: &[u8]) {
    let mut view = View::default();
    for line in data.split(|byte| *byte == b'\n') {
        match line.split_first() {
            Some((b'S', line)) => take::<Service>(line, |key, is| put(&mut view.services, key, is)),
            Some((b'P', line)) => take::<Pod>(line, |key, is| put(&mut view.pods, key, is)),
            Some((b'N', line)) => take::<Member>(line, |key, is| put(&mut view.members, key, is)),
            _ => {}
        }
    }
    let own = Port { transport: Transport::Tcp, number: 10_250 };
    for writes in [false, true] {
        let rules = Rules { node_ip: Ipv4Addr::new(192, 0, 2, 10), own: [own].into(), writes };
        let wanted = Wanted::of(&view, &rules);
        assert!(wanted.open.len() <= MOST && wanted.refused.len() <= MOST_REFUSED);
        assert!(!wanted.open.contains_key(&own), "a port of the node itself was given away");
        assert!(wanted.open.keys().all(|port| port.number > 0 && port.transport != Transport::Sctp));
        let opened: BTreeSet<Port> = wanted.open.keys().copied().collect();
        let patches = wanted.patches(&view, &rules, &opened);
        assert!(writes || patches.is_empty());
        assert!(patches.iter().all(|patch| serde_json::from_str::<Value>(&patch.text).is_ok()));
        for ((claim, port), reason) in &wanted.refused {
            let Some(notice) = Notice::of(&view, (claim, *port), "n1", ("Port", &reason.to_string()), 0)
            else {
                continue;
            };
            assert!(notice.name.len() <= 4 * 253 && serde_json::from_str::<Value>(&notice.text).is_ok());
        }
    }
}

fn put<T: Item>(
    map: &mut std::collections::BTreeMap<u7s_plan::services::Key, T>,
    key: u7s_plan::services::Key,
    is: Option<T>,
) {
    match is {
        Some(object) => drop(map.insert(key, object)),
        None => drop(map.remove(&key)),
    }
}

fn take<T: Item>(line: &[u8], mut put: impl FnMut(u7s_plan::services::Key, Option<T>)) {
    match event::<T>(line) {
        Ok(Event::Is(object)) => put(object.key().clone(), Some(object)),
        Ok(Event::Gone(object)) => put(object.key().clone(), None),
        _ => {}
    }
    for object in list::<T>(line).map(|list| list.items).unwrap_or_default() {
        put(object.key().clone(), Some(object));
    }
}

/// A bootstrap token and a key of the user's, which nobody may see.
const SECRETS: [&str; 2] =
    ["zyxwvu.9876543210canary", "cafecafecafecafecafecafecafecafecafecafecafecafecafecafecafecafe"];

/// A configuration, flags a line each, and names and texts of patches: kubeadm gets what it can read, and people no secret.
pub(super) fn kubeadm(data: &[u8]) {
    let parts: Vec<_> = parts(data).into_iter().map(text).collect();
    let (given, flags) = (parts.first().map_or("", |text| text), parts.get(1).map_or("", |text| text));
    let Ok(documents) = yaml::documents(given, "kubeadm.yaml") else { return };
    let patches: Vec<_> = parts.iter().skip(2).map(ToString::to_string).collect();
    let patches: Vec<_> = patches.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let secret = [format!("--token={}", SECRETS[0]), format!("--certificate-key={}", SECRETS[1])];
    let words = flags.lines().map(str::to_owned).chain(secret.into_iter().filter(|_| flags.is_empty()));
    let argv = |command: &str| -> Vec<OsString> {
        std::iter::once(command.into()).chain(words.clone().map(OsString::from)).collect()
    };
    if let Call::Init(request) = parse(&argv("init")) {
        made(merge(&input(&request, &documents, &patches)).ok());
    }
    if let Call::Join(request) = parse(&argv("join")) {
        made(join(&input(&request.given, &documents, &patches), request.endpoint.as_deref()).ok());
    }
}

fn input<'a>(request: &'a Init, documents: &[Value], patches: &[(String, String)]) -> Input<'a> {
    Input { request, documents: documents.to_vec(), user_patches: patches.to_vec(), node: node() }
}

fn made(output: Option<u7s_plan::kubeadm::Output>) {
    let Some(output) = output else { return };
    let config = output.config.expose_secret();
    let again = yaml::documents(config, "made");
    assert!(again.as_ref().is_ok_and(|documents| !documents.is_empty()), "{again:?} is read of {config:?}");
    for secret in SECRETS {
        assert!(!output.redacted.contains(secret), "{}", output.redacted);
    }
    for (name, text) in &output.patches {
        assert!(!name.contains('/') && !name.is_empty() && name != "..", "{name}");
        assert!(!text.contains('\0'));
    }
}

fn node() -> NodeFacts {
    NodeFacts {
        node_ip: Ipv4Addr::new(10, 77, 0, 11),
        hostname: "N1".into(),
        kubernetes_version: semver::Version::new(1, 34, 4),
        patches_dir: "/etc/u7s/patches".into(),
        cri_socket: "/run/crio/crio.sock".into(),
        degraded: false,
        ignored: Ignored::default(),
        timeout_factor: 1,
        memory: 4 << 30,
    }
}

/// What `nft -j list ruleset` says: other tables may hold anything that others load, ours is known again whatever is beside it.
pub(super) fn nft(data: &[u8]) {
    let Ok(listing) = serde_json::from_slice::<Value>(data) else { return };
    let rules = listing["nftables"].as_array().cloned().unwrap_or_default();
    let (mut facts, node) = (texts::facts(), texts::node());
    facts.firewall.rules = Some(rules);
    facts.resolv_conf = "nameserver 10.77.0.1\n".into();
    let config = Config::default();
    let needs = firewall_needs(&config, &facts, node, Some("10.77.0.12:6443"));
    assert!(needs.len() <= 64, "{} needs", needs.len());
    let table = firewall::table(&config.firewall, node, &facts, true);
    assert!(!table.holds_in(&listing), "nobody knows the digest of our table");
}
