//! Subordinate ids of the node's user.

use crate::facts::Facts;
use crate::host;
use crate::need::Unmet;
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
        unmet.push(error(id, format!("{file}: {why}"), remedy));
    }
    unmet
}

/// A range that is free in both files.
fn free(facts: &Facts) -> Result<Range, Error> {
    subid::allocate(&format!("{}\n{}", facts.subuid, facts.subgid), &facts.users, NEEDED)
}
