//! Subordinate ids: which ranges of /etc/subuid and /etc/subgid are the node's, and the id maps made from them.
//!
//! The user's own lines are read strictly, everybody else's tolerantly: a neighbour's typing error must not keep a node down,
//! and a doubtful line of our own must not become a map.

use std::fmt;

use crate::node::Extent;

/// How many subordinate ids a node needs at least: images use ids up to 65535.
pub const NEEDED: u32 = 65_536;

/// The most lines of an id map that every supported kernel and newuidmap take.
pub const MAX_EXTENTS: usize = 5;

/// Where the search for a free range begins, below systemd's own range for containers, on a 65536 border.
const FIRST_FREE: u32 = 524_288;

/// Where it ends (exclusive): shadow's SUB_UID_MAX.
const LAST_FREE: u32 = 600_100_000;

/// A range of subordinate ids on the host: `start` to `start + count - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id, never 0.
    pub start: u32,
    /// How many, at least one; the last id fits into an u32.
    pub count: u32,
}

/// Why subordinate ids are unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line of the user's own cannot be understood.
    #[error("line {line} ({text:?}): {reason}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The line, control characters escaped, shortened.
        text: String,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The user has no range.
    #[error("{user} has no range")]
    Missing {
        /// Login name.
        user: String,
    },
    /// The user's ranges are too small.
    #[error("{user} has {count} subordinate ids, {NEEDED} are needed")]
    TooFew {
        /// Login name.
        user: String,
        /// How many there are in total.
        count: u64,
    },
    /// A range of the user shares ids with another range.
    #[error("{user}'s range {own} overlaps {other}'s range {range}")]
    Overlap {
        /// Login name.
        user: String,
        /// The user's range.
        own: Range,
        /// Who holds the other range; the user itself when two of its own overlap.
        other: String,
        /// The other range.
        range: Range,
    },
    /// A range of the user holds the id of a real user or group.
    #[error("{user}'s range {range} holds the id {id} of {name}")]
    RealId {
        /// Login name.
        user: String,
        /// The user's range.
        range: Range,
        /// Who owns the id.
        name: String,
        /// The id.
        id: u32,
    },
    /// No free range of that size is left.
    #[error("no free range of {count} subordinate ids is left")]
    Full {
        /// How many were asked for.
        count: u32,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Not `name:start:count`.
    #[error("it is not name:start:count")]
    Shape,
    /// The line ends with a carriage return, which shadow's tools do not accept.
    #[error("it ends with a carriage return")]
    CarriageReturn,
    /// Start or count is no decimal number.
    #[error("start and count must be decimal numbers")]
    Number,
    /// The count is 0.
    #[error("the range is empty")]
    Empty,
    /// The last id does not fit into 32 bits.
    #[error("the last id is above 4294967294")]
    Overflow,
}

impl Range {
    /// The last id of the range.
    #[must_use]
    pub fn last(self) -> u32 {
        self.start.saturating_add(self.count.saturating_sub(1))
    }

    /// Whether `id` lies in the range.
    #[must_use]
    pub fn contains(self, id: u32) -> bool {
        (self.start..=self.last()).contains(&id)
    }

    /// Whether both ranges share an id.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.last() && other.start <= self.last()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.start, self.last())
    }
}

/// Reads the ranges of `user` (by name, or by `uid` written as a number) from the text of /etc/subuid or /etc/subgid.
///
/// Shape: the user's ranges in file order, disjoint, at least [`NEEDED`] ids in total, none holding id 0 or `uid`.
/// Lines of other users that cannot be understood are skipped, as newuidmap skips them; comments and empty lines too.
/// `uid` is the user's id for both files: a numeric owner in /etc/subgid is a uid as well.
///
/// # Errors
/// [`Error::Line`] for a line of the user's own, [`Error::Missing`], [`Error::TooFew`], [`Error::Overlap`] with another user or
/// between own ranges, [`Error::RealId`] for id 0 and `uid`.
///
/// Source: subuid(5), subgid(5).
pub fn parse(text: &str, user: &str, uid: u32) -> Result<Vec<Range>, Error> {
    let mut own = Vec::new();
    let mut claims = Vec::new();
    let number = uid.to_string();
    for (index, line) in text.split('\n').enumerate() {
        let owner = line.split(':').next().unwrap_or_default().trim();
        let ours = owner == user || owner == number;
        match range(line) {
            Ok(range) => {
                if ours {
                    own.push(range);
                }
                claims.push(Claim { range, owner: if ours { user } else { owner }, ours });
            }
            Err(reason) if ours => {
                return Err(Error::Line { line: index + 1, text: shorten(line), reason });
            }
            Err(_) => {}
        }
    }
    check_total(user, &own)?;
    check_disjoint(user, claims)?;
    check_real(&own, user, &[("root".into(), 0), (user.into(), uid)])?;
    Ok(own)
}

/// The user's own ranges and those of everybody else; lines that cannot be understood hold nothing.
///
/// For looking at what may be there, not for making a map: see [`parse`].
#[must_use]
pub fn claims(text: &str, user: &str, uid: u32) -> (Vec<Range>, Vec<Range>) {
    let number = uid.to_string();
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for line in text.split('\n') {
        let owner = line.split(':').next().unwrap_or_default();
        let Ok(range) = range(line) else { continue };
        if owner == user || owner == number { &mut own } else { &mut others }.push(range);
    }
    (own, others)
}

/// Checks that no range holds the id of a real user.
///
/// # Errors
/// [`Error::RealId`] names the first one found.
pub fn check_real(ranges: &[Range], user: &str, users: &[(String, u32)]) -> Result<(), Error> {
    for range in ranges {
        if let Some((name, id)) = users.iter().find(|(_, id)| range.contains(*id)) {
            return Err(Error::RealId { user: user.into(), range: *range, name: name.clone(), id: *id });
        }
    }
    Ok(())
}

/// Finds a free range of `count` ids, apart from every range in `text` and every id in `users`.
///
/// `text` may be the texts of /etc/subuid and /etc/subgid one after the other: then the range is free in both.
/// The start is a multiple of 65536, so that ranges of several tools stay apart.
///
/// # Errors
/// [`Error::Full`].
pub fn allocate(text: &str, users: &[(String, u32)], count: u32) -> Result<Range, Error> {
    let mut taken: Vec<Range> = text.split('\n').filter_map(|line| range(line).ok()).collect();
    taken.extend(users.iter().map(|(_, id)| Range { start: *id, count: 1 }));
    taken.sort_by_key(|range| range.start);
    let mut start = u64::from(FIRST_FREE);
    for range in taken {
        if u64::from(range.start) >= start + u64::from(count) {
            break;
        }
        if u64::from(range.last()) >= start {
            start = (u64::from(range.last()) + 1).next_multiple_of(u64::from(NEEDED));
        }
    }
    match u32::try_from(start) {
        Ok(start) if count > 0 && u64::from(start) + u64::from(count) <= u64::from(LAST_FREE) => {
            Ok(Range { start, count })
        }
        _ => Err(Error::Full { count }),
    }
}

/// Makes an id map: inside 0 is `own`, inside 1 and up are the ranges one after the other.
///
/// Shape: at most [`MAX_EXTENTS`] extents, sorted by inside start, without gaps.
/// Of more than four ranges the largest four are used, in the order given.
///
/// Source: user_namespaces(7), "User and group ID mappings".
#[must_use]
pub fn id_map(own: u32, ranges: &[Range]) -> Vec<Extent> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(ranges.get(index).map(|range| range.count)));
    order.truncate(MAX_EXTENTS - 1);
    order.sort_unstable();
    let mut map = vec![Extent { inside: 0, outside: own, count: 1 }];
    let mut inside = 1_u32;
    for range in order.into_iter().filter_map(|index| ranges.get(index)) {
        let count = range.count.min(u32::MAX - inside);
        if count == 0 {
            break;
        }
        map.push(Extent { inside, outside: range.start, count });
        inside += count;
    }
    map
}

/// A range and its holder.
struct Claim<'a> {
    range: Range,
    owner: &'a str,
    ours: bool,
}

fn check_total(user: &str, own: &[Range]) -> Result<(), Error> {
    if own.is_empty() {
        return Err(Error::Missing { user: user.into() });
    }
    let count = own.iter().map(|range| u64::from(range.count)).sum();
    if count < u64::from(NEEDED) {
        return Err(Error::TooFew { user: user.into(), count });
    }
    Ok(())
}

/// One pass over the claims sorted by start: an own range may touch nobody's, others' overlaps among themselves are not our business.
fn check_disjoint(user: &str, mut claims: Vec<Claim<'_>>) -> Result<(), Error> {
    claims.sort_by_key(|claim| claim.range.start);
    let mut farthest_own: Option<&Claim<'_>> = None;
    let mut farthest_other: Option<&Claim<'_>> = None;
    for claim in &claims {
        for before in [farthest_own, farthest_other].into_iter().flatten() {
            if (claim.ours || before.ours) && claim.range.overlaps(before.range) {
                let (own, other) = if before.ours { (before, claim) } else { (claim, before) };
                return Err(Error::Overlap {
                    user: user.into(),
                    own: own.range,
                    other: shorten(other.owner),
                    range: other.range,
                });
            }
        }
        let farthest = if claim.ours { &mut farthest_own } else { &mut farthest_other };
        if farthest.is_none_or(|before| before.range.last() < claim.range.last()) {
            *farthest = Some(claim);
        }
    }
    Ok(())
}

/// One line as a range; comments and empty lines are [`Reason::Shape`].
fn range(line: &str) -> Result<Range, Reason> {
    if line.ends_with('\r') {
        return Err(Reason::CarriageReturn);
    }
    let mut fields = line.split(':');
    let (Some(owner), Some(start), Some(count), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Reason::Shape);
    };
    if owner.is_empty() || owner.starts_with('#') || owner.trim() != owner {
        return Err(Reason::Shape);
    }
    let (start, count) = (decimal(start)?, decimal(count)?);
    if count == 0 {
        return Err(Reason::Empty);
    }
    // The last id itself must stay below (uid_t)-1, which is no id.
    match start.checked_add(count) {
        Some(end) if end <= u64::from(u32::MAX) => {}
        _ => return Err(Reason::Overflow),
    }
    let narrow = |value| u32::try_from(value).map_err(|_| Reason::Overflow);
    Ok(Range { start: narrow(start)?, count: narrow(count)? })
}

fn decimal(text: &str) -> Result<u64, Reason> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reason::Number);
    }
    text.parse().map_err(|_| Reason::Overflow)
}

/// At most 80 characters; control characters are escaped where the text is printed.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;

    const RANGE: Range = Range { start: 524_288, count: 65_536 };

    fn said(text: &str) -> String {
        parse(text, "u7s-admin", 990).unwrap_err().to_string()
    }

    #[test]
    fn own_lines_are_found_by_name_and_by_number() {
        for text in [
            "u7s-admin:524288:65536\n",
            "990:524288:65536",
            "# a comment\n\nroot:1:2:3\nbroken\nother:x:y\r\njoe:100000:65536\nu7s-admin:524288:65536\n",
        ] {
            assert_eq!(parse(text, "u7s-admin", 990), Ok(vec![RANGE]), "{text:?}");
        }
    }

    #[test]
    fn fault_f33_each_bad_input_has_its_own_message() {
        let cases = [
            ("", "u7s-admin has no range"),
            ("#u7s-admin:524288:65536\n", "u7s-admin has no range"),
            ("u7s-adminx:524288:65536\n", "u7s-admin has no range"),
            ("u7s-admin:524288:1000\n", "u7s-admin has 1000 subordinate ids, 65536 are needed"),
            (
                "u7s-admin:524288:65536\r\n",
                "line 1 (\"u7s-admin:524288:65536\\r\"): it ends with a carriage return",
            ),
            ("a:1:1\nu7s-admin:5\n", "line 2 (\"u7s-admin:5\"): it is not name:start:count"),
            (" u7s-admin:5:5\n", "line 1 (\" u7s-admin:5:5\"): it is not name:start:count"),
            (
                "u7s-admin:0x10:65536\n",
                "line 1 (\"u7s-admin:0x10:65536\"): start and count must be decimal numbers",
            ),
            (
                "u7s-admin:-1:65536\n",
                "line 1 (\"u7s-admin:-1:65536\"): start and count must be decimal numbers",
            ),
            ("u7s-admin:5:0\n", "line 1 (\"u7s-admin:5:0\"): the range is empty"),
            (
                "u7s-admin:4294900000:100000\n",
                "line 1 (\"u7s-admin:4294900000:100000\"): the last id is above 4294967294",
            ),
            (
                "u7s-admin:99999999999999999999:1\n",
                "line 1 (\"u7s-admin:99999999999999999999:1\"): the last id is above 4294967294",
            ),
            (
                "u7s-admin:524288:65536\njoe:589823:10\n",
                "u7s-admin's range 524288-589823 overlaps joe's range 589823-589832",
            ),
            (
                "joe:100000:1000000\nann:100001:5\nu7s-admin:524288:65536\n",
                "u7s-admin's range 524288-589823 overlaps joe's range 100000-1099999",
            ),
            (
                "u7s-admin:524288:65536\n990:524290:1\n",
                "u7s-admin's range 524288-589823 overlaps u7s-admin's range 524290-524290",
            ),
            ("u7s-admin:0:65536\n", "u7s-admin's range 0-65535 holds the id 0 of root"),
            ("u7s-admin:900:65536\n", "u7s-admin's range 900-66435 holds the id 990 of u7s-admin"),
        ];
        for (text, message) in cases {
            assert_eq!(said(text), message);
        }
    }

    #[test]
    fn a_range_over_a_real_user_is_named() {
        let users = [("root".into(), 0), ("joe".into(), 524_300)];
        assert_eq!(
            check_real(&[RANGE], "u7s-admin", &users).unwrap_err().to_string(),
            "u7s-admin's range 524288-589823 holds the id 524300 of joe"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test takes the time, the crate does not")]
    fn fault_f33_a_hundred_thousand_lines_take_less_than_100_ms() {
        let mut text = String::new();
        for line in 0..100_000_u32 {
            writeln!(text, "user{line}:{}:30", 1_000_000 + line * 30).unwrap();
        }
        text.push_str("u7s-admin:524288:65536\n");
        // CPU time: a busy machine shall fail no test.
        let cpu = || -> u64 {
            let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split_whitespace().next().unwrap().parse().unwrap()
        };
        let begin = cpu();
        parse(&text, "u7s-admin", 990).unwrap();
        allocate(&text, &[], NEEDED).unwrap();
        let took = Duration::from_nanos(cpu() - begin);
        // A debug build is about ten times slower than a release build.
        let bound = if cfg!(debug_assertions) { 1000 } else { 100 };
        assert!(took < Duration::from_millis(bound), "{took:?}");
    }

    #[test]
    fn the_allocated_range_is_free_for_everybody() {
        let users = [("root".into(), 0), ("joe".into(), 600_000)];
        for text in ["", "a:524288:1\n", "a:100000:600000\nb:720896:65536\n", "a:589824:65536\n"] {
            let range = allocate(text, &users, NEEDED).unwrap();
            let line = format!("{text}u7s-admin:{}:{}\n", range.start, range.count);
            assert_eq!(parse(&line, "u7s-admin", 990), Ok(vec![range]), "{text:?}");
            assert_eq!(check_real(&[range], "u7s-admin", &users), Ok(()), "{text:?}");
        }
        assert_eq!(allocate("", &[], NEEDED).unwrap().to_string(), "524288-589823");
        assert_eq!(allocate("a:1:4294967000\n", &[], NEEDED), Err(Error::Full { count: NEEDED }));
    }

    #[test]
    fn a_map_has_no_gap_and_at_most_five_extents() {
        let ranges: Vec<Range> = [10, 65_536, 20, 30, 5, 40]
            .iter()
            .zip(1_u32..)
            .map(|(count, n)| Range { start: n * 1_000_000, count: *count })
            .collect();
        let map = id_map(990, &ranges);
        let lines: Vec<_> = map.iter().map(|e| (e.inside, e.outside, e.count)).collect();
        assert_eq!(
            lines,
            [
                (0, 990, 1),
                (1, 2_000_000, 65_536),
                (65_537, 3_000_000, 20),
                (65_557, 4_000_000, 30),
                (65_587, 6_000_000, 40)
            ]
        );
    }
}
