//! Subordinate ids of the node's user.

use crate::facts::Facts;
use crate::host;
use crate::need::Unmet;
use crate::node::{Extent, NodeSpec};
use crate::subid::{self, Error, NEEDED, Range};

use super::error;

/// Both files judged; a user that phase Host makes gets its ranges there.
pub(super) fn subids(facts: &Facts) -> Vec<Unmet> {
    let Some(user) = &facts.user else { return Vec::new() };
    let mut unmet: Vec<Unmet> = Vec::new();
    let files = [
        ("/etc/subuid", &facts.subuid, "--add-subuids", "--del-subuids"),
        ("/etc/subgid", &facts.subgid, "--add-subgids", "--del-subgids"),
    ];
    let free = free(facts);
    for (file, text, add, del) in files {
        let judged = subid::parse(text, host::USER, user.uid)
            .and_then(|ranges| subid::check_real(&ranges, host::USER, &facts.users));
        let Err(why) = judged else { continue };
        let id = match why {
            Error::Overlap { .. } | Error::RealId { .. } => "SubidOverlap",
            _ => "Subids",
        };
        let remedy = match (&why, &free) {
            (Error::Line { line, .. }, _) => format!("correct line {line} of {file}, see subuid(5)"),
            (_, Err(full)) => full.to_string(),
            (Error::Overlap { own: range, .. } | Error::RealId { range, .. }, Ok(free)) => {
                format!("usermod {del} {range} {add} {free} {}", host::USER)
            }
            (_, Ok(free)) => format!("usermod {add} {free} {}", host::USER),
        };
        unmet.push(error(id, sentence(&why, file), remedy));
    }
    unmet
}

/// As [`subids`], for a node that was made: its files belong to the ids that it was made with, so these are wanted back.
pub(super) fn same_subids(facts: &Facts, node: &NodeSpec) -> Vec<Unmet> {
    let range = |map: &[Extent]| {
        let extent = map.get(1)?;
        Some(format!("{}-{}", extent.outside, extent.outside.saturating_add(extent.count - 1)))
    };
    let same = |mut need: Unmet| {
        let users = need.message.contains("/etc/subuid");
        let (add, map) =
            if users { ("--add-subuids", &node.uid_map) } else { ("--add-subgids", &node.gid_map) };
        if let Some(range) = range(map).filter(|_| need.id == "Subids" && need.remedy.starts_with("usermod"))
        {
            need.remedy = format!("usermod {add} {range} {}", host::USER);
        }
        need
    };
    subids(facts).into_iter().map(same).collect()
}

fn sentence(why: &Error, file: &str) -> String {
    match why {
        Error::Missing { user } => format!("{user} has no range in {file}"),
        Error::TooFew { user, count } => format!("{user} has {count} ids in {file}, {NEEDED} are needed"),
        Error::Overlap { user, own, other, range } => {
            format!("the range {own} of {user} in {file} overlaps {range} of {}", other.escape_debug())
        }
        Error::RealId { user, range, name, id } => {
            format!("the range {range} of {user} in {file} holds the id {id} of {}", name.escape_debug())
        }
        Error::Line { line, text, reason } => format!("line {line} of {file} ({text:?}): {reason}"),
        Error::Full { .. } => format!("{file}: {why}"),
    }
}

/// A range that is free in both files.
fn free(facts: &Facts) -> Result<Range, Error> {
    subid::allocate(&format!("{}\n{}", facts.subuid, facts.subgid), &facts.users, NEEDED)
}
