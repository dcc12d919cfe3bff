//! The host's nft table of the node.

use std::time::Duration;

use u7s_plan::firewall::{LIST, REMOVAL, TABLE, Table};

use super::Ended;
use crate::error::Error;
use crate::nft::{Listing, Nft};
use crate::programs::{self, Found};

/// How long listing one small table may take.
const LISTING: Duration = Duration::from_secs(30);

/// Loads the table unless this very one is in force, and looks whether it is then.
///
/// An nft or a kernel that does not know cgroups gets the table without them: judging by user is what there was before, and better
/// than nothing.
pub(super) fn load(table: &Table) -> Result<Ended, Error> {
    let nft = Nft::find()?;
    if matches!(nft.list(&LIST, LISTING)?, Listing::Read(listing) if table.holds_in(&listing)) {
        return Ok(Ended::Held);
    }
    let (error, by_user) = match (nft.load(&table.text, "load"), &table.by_user) {
        (Ok(()), _) => return check(&nft, table).map(|()| Ended::Done),
        (Err(error), None) => return Err(error),
        (Err(error), Some(by_user)) => (error, by_user),
    };
    nft.load(&by_user.text, "load")?;
    check(&nft, by_user)?;
    let why = error.to_string();
    Ok(Ended::Skipped(format!("loaded, but it knows the node by its user alone, not by its cgroup: {why}")))
}

fn check(nft: &Nft, table: &Table) -> Result<(), Error> {
    let reason = match nft.list(&LIST, LISTING)? {
        Listing::Read(listing) if !table.holds_in(&listing) => "it was loaded and is another one now".into(),
        Listing::Failed(reason) => reason,
        Listing::Read(_) | Listing::Unknown => return Ok(()),
    };
    Err(Error::Firewall { operation: "load", reason })
}

/// Without nft nobody has loaded a table.
pub(super) fn remove() -> Result<Ended, Error> {
    if programs::find("nft") == Found::Missing {
        return Ok(Ended::Held);
    }
    let nft = Nft::find()?;
    // A kernel without nf_tables has no table either.
    let Listing::Read(tables) = nft.list(&["-j", "list", "tables"], LISTING)? else {
        return Ok(Ended::Held);
    };
    let [family, name] = TABLE;
    let ours =
        |object: &serde_json::Value| object["table"]["family"] == family && object["table"]["name"] == name;
    if !tables["nftables"].as_array().is_some_and(|objects| objects.iter().any(ours)) {
        return Ok(Ended::Held);
    }
    nft.load(REMOVAL, "remove")?;
    Ok(Ended::Done)
}
