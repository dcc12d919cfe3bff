//! The packet filter of the host, as nft(8) shows it.

use std::time::Duration;

use serde_json::Value;
use u7s_plan::config::Config;
use u7s_plan::facts::{Facts, FirewallFact};
use u7s_plan::firewall::{self, LIST, RULESET, TABLE, TABLES, Table};
use u7s_plan::health::TableSeen;
use u7s_plan::node::NodeSpec;

use crate::nft::{Listing, Nft};

/// What is kept of a ruleset; counters, handles and the rest is for others.
const KINDS: [&str; 4] = ["chain", "rule", "set", "map"];

/// Reads the ruleset; only root may.
pub(crate) fn firewall(deadline: Duration) -> FirewallFact {
    if !nix::unistd::geteuid().is_root() {
        return FirewallFact::default();
    }
    // A missing program is a fact of its own.
    let Ok(nft) = Nft::find() else { return FirewallFact::default() };
    match nft.list(&RULESET, deadline) {
        Ok(Listing::Read(listing)) => FirewallFact { rules: Some(objects(listing)), broken: None },
        Ok(Listing::Failed(why)) => FirewallFact { rules: None, broken: Some(why) },
        Ok(Listing::Unknown) | Err(_) => FirewallFact::default(),
    }
}

fn objects(mut listing: Value) -> Vec<Value> {
    // By `get_mut`: an index panics where there is no object.
    let objects = listing.get_mut("nftables").and_then(Value::as_array_mut);
    let objects = objects.map(std::mem::take).unwrap_or_default();
    objects.into_iter().filter(|object| KINDS.iter().any(|kind| object.get(kind).is_some())).collect()
}

/// Looks whether the table of a node that runs is the one that `u7s host-apply` would load; only root may.
///
/// Administrators reload rules of their own with `flush ruleset`, which takes every table away.
pub(super) fn table(config: &Config, facts: &Facts, node: &NodeSpec) -> TableSeen {
    if facts.euid != 0 || !config.firewall.enabled {
        return TableSeen::Unseen;
    }
    let Ok(nft) = Nft::find() else { return TableSeen::Unseen };
    let deadline = Duration::from_secs(5) * config.timeout_factor.clamp(1, 100);
    let list = |arguments: &[&str]| nft.list(arguments, deadline).unwrap_or(Listing::Unknown);
    let wanted = firewall::table(&config.firewall, node, facts, true);
    judge(&wanted, &list(&LIST), || list(&TABLES))
}

/// `tables` tells whether a table that cannot be listed is missing or nft does not work.
fn judge(wanted: &Table, listed: &Listing, tables: impl FnOnce() -> Listing) -> TableSeen {
    match listed {
        Listing::Read(listing) if wanted.holds_in(listing) => TableSeen::Holds,
        // An older nft or kernel takes no more.
        Listing::Read(listing) if wanted.by_user.as_ref().is_some_and(|table| table.holds_in(listing)) => {
            TableSeen::Holds
        }
        Listing::Read(_) => TableSeen::Other,
        Listing::Unknown => TableSeen::Unseen,
        Listing::Failed(_) => match tables() {
            Listing::Read(tables) if !has_ours(&tables) => TableSeen::Missing,
            _ => TableSeen::Unseen,
        },
    }
}

fn has_ours(tables: &Value) -> bool {
    let [family, name] = TABLE;
    let ours = |object: &Value| object["table"]["family"] == family && object["table"]["name"] == name;
    tables["nftables"].as_array().is_some_and(|objects| objects.iter().any(ours))
}

/// A listing of nft.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let listing: Value = serde_json::from_slice(data).unwrap_or_default();
    let ours = has_ours(&listing);
    let kept = objects(listing);
    assert!(!ours || kept.iter().all(|object| KINDS.iter().any(|kind| object.get(kind).is_some())));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `systemctl reload nftables` with `flush ruleset` took the table away, and status said that all was well.
    #[test]
    fn a_table_that_was_flushed_is_missing_and_an_nft_that_fails_is_not() {
        let node = include_str!("../../../plan/tests/golden/init/node.json");
        let node: NodeSpec = serde_json::from_str(node).unwrap();
        let wanted = firewall::table(&Config::default().firewall, &node, &Facts::default(), true);
        let others = || Listing::Read(json!({"nftables": [{"table": {"family": "inet", "name": "filter"}}]}));
        let ours = || Listing::Read(json!({"nftables": [{"table": {"family": "inet", "name": "u7s"}}]}));
        let broken = || Listing::Failed("Operation not permitted".into());
        let gone = Listing::Failed("No such file or directory".into());
        assert_eq!(judge(&wanted, &gone, others), TableSeen::Missing);
        assert_eq!(judge(&wanted, &gone, ours), TableSeen::Unseen);
        assert_eq!(judge(&wanted, &broken(), broken), TableSeen::Unseen);
        assert_eq!(judge(&wanted, &Listing::Unknown, others), TableSeen::Unseen);
        assert_eq!(judge(&wanted, &ours(), others), TableSeen::Other, "without its rules");
    }

    #[test]
    fn chains_rules_and_sets_are_kept() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1"}}, {"table": {"name": "t"}}, {"chain": {"name": "c"}},
            {"rule": {"chain": "c"}}, {"set": {"name": "s"}}, {"map": {"name": "m"}}, {"counter": {"name": "k"}}]}"#;
        let kept = objects(serde_json::from_str(text).unwrap());
        let kinds: Vec<&String> = kept.iter().flat_map(|object| object.as_object().unwrap().keys()).collect();
        assert_eq!(kinds, ["chain", "rule", "set", "map"]);
        assert!(objects(Value::Null).is_empty());
    }
}
