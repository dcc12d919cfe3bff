//! Walks a packet through the input chains of a ruleset, as `nft -j list ruleset` has it.
//!
//! Source: libnftables-json(5); iptables-nft's own matches show up there as `{"xt": {"type": …, "name": …}}`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::matches::{Hit, Packet, Sets, left, of_transport};

/// Names a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chain<'a> {
    pub(super) family: &'a str,
    pub(super) table: &'a str,
    pub(super) name: &'a str,
}

/// A whole ruleset.
pub(super) struct Rules<'a> {
    /// Chains in the input hook, in the order in which the kernel asks them, and whether they drop what comes to their end.
    bases: Vec<(Chain<'a>, bool)>,
    rules: BTreeMap<Chain<'a>, Vec<&'a Value>>,
    sets: Sets<'a>,
}

/// How a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    /// It came to its end, or returned.
    On,
}

/// What a rule does with the packet.
enum Flow {
    /// The next one is asked.
    Next,
    /// The chain ends so.
    Ends(End),
    /// It may have left the chain.
    MayLeave,
}

/// Chains that jump into each other deeper than the kernel lets them. Source: NFT_JUMP_STACK_SIZE.
const DEEPEST: u32 = 16;

/// The most rules that are looked at for one packet: chains that jump to the same chains again and again multiply.
const MOST_STEPS: u32 = 10_000;

impl<'a> Rules<'a> {
    pub(super) fn new(objects: &'a [Value]) -> Self {
        let all = |kind: &'static str| objects.iter().map(move |it| &it[kind]).filter(|it| !it.is_null());
        let mut bases: Vec<&Value> = all("chain").filter(|chain| is_input(chain)).collect();
        bases.sort_by_key(|chain| chain["prio"].as_i64().unwrap_or(0));
        let mut rules: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for rule in all("rule") {
            rules.entry(Chain::of(rule, "chain")).or_default().push(rule);
        }
        let named = all("set").chain(all("map")).map(|set| (Chain::of(set, "name"), &set["elem"]));
        let base = |chain: &'a Value| (Chain::of(chain, "name"), chain["policy"] == "drop");
        Self { bases: bases.into_iter().map(base).collect(), rules, sets: Sets(named.collect()) }
    }

    /// The base chain that drops the packet for certain; an accepted one goes on to the next base chain.
    pub(super) fn drops(&self, packet: &Packet<'_>) -> Option<Chain<'a>> {
        let mut walk = Walk { rules: self, packet, left: MOST_STEPS };
        let dropping = self.bases.iter().find(|(chain, policy)| match walk.chain(*chain, DEEPEST) {
            End::Accept => false,
            End::Drop => true,
            End::On => *policy,
        });
        dropping.map(|(chain, _)| *chain)
    }
}

impl<'a> Chain<'a> {
    fn of(object: &'a Value, name: &str) -> Self {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        Self { family: text("family"), table: text("table"), name: text(name) }
    }
}

/// IPv4 comes by here; `bridge` and `netdev` have other hooks.
fn is_input(chain: &Value) -> bool {
    chain["hook"] == "input" && (chain["family"] == "ip" || chain["family"] == "inet")
}

/// One packet's way.
struct Walk<'a, 'w> {
    rules: &'w Rules<'a>,
    packet: &'w Packet<'w>,
    left: u32,
}

impl<'a> Walk<'a, '_> {
    fn chain(&mut self, chain: Chain<'a>, depth: u32) -> End {
        let rules = self.rules;
        let mut may_leave = false;
        for rule in rules.rules.get(&chain).into_iter().flatten() {
            self.left = self.left.saturating_sub(1);
            if depth == 0 || self.left == 0 {
                return End::Accept;
            }
            match self.rule(chain, rule, depth) {
                Flow::Next => {}
                Flow::MayLeave => may_leave = true,
                Flow::Ends(End::Drop) if may_leave => return End::On,
                Flow::Ends(end) => return end,
            }
        }
        End::On
    }

    fn rule(&mut self, chain: Chain<'a>, rule: &'a Value, depth: u32) -> Flow {
        let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names_transport = statements.iter().any(of_transport);
        let mut hit = Hit::Yes;
        for statement in statements {
            let Some((key, value)) = statement.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            hit = hit.and(match key.as_str() {
                "match" => left(&value["left"], self.packet).op(value, chain, &self.rules.sets),
                "limit" | "quota" | "ct count" => Hit::Maybe,
                "xt" => match xt(value, names_transport) {
                    Some(hit) => hit,
                    None => return drop(hit),
                },
                "vmap" => return self.map(chain, value, hit, depth),
                _ => match self.verdict(chain, (key, value), hit, depth) {
                    Some(flow) => return flow,
                    None => Hit::Yes,
                },
            });
            if hit == Hit::No {
                return Flow::Next;
            }
        }
        Flow::Next
    }

    /// `None`: the statement is no verdict.
    fn verdict(
        &mut self,
        chain: Chain<'a>,
        verdict: (&str, &'a Value),
        hit: Hit,
        depth: u32,
    ) -> Option<Flow> {
        let (key, value) = verdict;
        let mut follow = || {
            let name = value["target"].as_str().unwrap_or_default();
            self.chain(Chain { name, ..chain }, depth.saturating_sub(1))
        };
        Some(match key {
            "accept" | "queue" => Flow::Ends(End::Accept),
            "drop" | "reject" => drop(hit),
            "return" if hit == Hit::Yes => Flow::Ends(End::On),
            "return" => Flow::MayLeave,
            "jump" => match (follow(), hit) {
                (End::Accept, _) => Flow::Ends(End::Accept),
                (End::Drop, Hit::Yes) => Flow::Ends(End::Drop),
                _ => Flow::Next,
            },
            "goto" => match (follow(), hit) {
                (End::Accept, _) => Flow::Ends(End::Accept),
                (end, Hit::Yes) => Flow::Ends(end),
                _ => Flow::MayLeave,
            },
            _ => return None,
        })
    }

    /// A map of verdicts: the first entry that fits, after those that may.
    fn map(&mut self, chain: Chain<'a>, map: &'a Value, hit: Hit, depth: u32) -> Flow {
        let seen = left(&map["key"], self.packet);
        let mut may_leave = false;
        for entry in self.rules.sets.elements(&map["data"], chain) {
            let fits = hit.and(seen.hit(&entry[0], chain, &self.rules.sets));
            let verdict = entry[1].as_object().and_then(|object| object.iter().next());
            let Some((key, value)) = verdict.filter(|_| fits != Hit::No) else { continue };
            match self.verdict(chain, (key, value), fits, depth) {
                Some(Flow::Ends(end)) => return Flow::Ends(end),
                Some(Flow::MayLeave) => may_leave = true,
                _ if fits == Hit::Yes => break,
                _ => {}
            }
        }
        if may_leave { Flow::MayLeave } else { Flow::Next }
    }
}

/// What drops only perhaps does not.
fn drop(hit: Hit) -> Flow {
    if hit == Hit::Yes { Flow::Ends(End::Drop) } else { Flow::Next }
}

/// A match or target of iptables that nft cannot show in full; `None`: it drops.
///
/// A rule on the state of a connection that names no port is the usual one for connections that stand.
fn xt(value: &Value, names_transport: bool) -> Option<Hit> {
    let name = value["name"].as_str().unwrap_or_default();
    match (value["type"].as_str(), name) {
        (Some("target"), "REJECT" | "DROP") => None,
        (Some("target"), _) | (_, "comment") => Some(Hit::Yes),
        (None, _) | (_, "conntrack" | "state") if !names_transport => Some(Hit::No),
        _ => Some(Hit::Maybe),
    }
}
