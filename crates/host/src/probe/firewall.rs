//! The packet filter of the host, as nft(8) shows it.

use std::time::Duration;

use serde_json::Value;
use u7s_plan::facts::FirewallFact;
use u7s_plan::firewall::RULESET;

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
    let objects = listing["nftables"].as_array_mut().map(std::mem::take).unwrap_or_default();
    objects.into_iter().filter(|object| KINDS.iter().any(|kind| object.get(kind).is_some())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
