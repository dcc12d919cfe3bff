//! The OCI adapter of degraded nodes: fits a container's specification to what the node may do.
//!
//! crun refuses a container whose oom score may not be written or whose limits have no controller. Such a node was accepted by
//! name (`CgroupControllers`, `OomScore`), so the wish is dropped and said, nothing else is touched.

use std::fmt;

use serde_json::{Map, Value};

/// What the node may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLimits {
    /// The lowest value that the runtime may write to its oom_score_adj, -1000 to 1000.
    pub oom_score_adj: i64,
    /// cgroup controllers of the node's root.
    pub controllers: Vec<String>,
}

/// One wish that was changed; `Display` is a line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `linux.resources.memory`.
    pub path: String,
    /// What was asked for, as JSON on one line, shortened.
    pub asked: String,
    /// What it is now; `None`: it is gone.
    pub now: Option<String>,
}

/// The parts of `linux.resources` and the controller that each needs.
///
/// Source: opencontainers/runtime-spec, config-linux.md; devices need a program of the kernel, no controller.
const PARTS: [(&str, &str); 6] = [
    ("memory", "memory"),
    ("cpu", "cpu"),
    ("pids", "pids"),
    ("blockIO", "io"),
    ("hugepageLimits", "hugetlb"),
    ("rdma", "rdma"),
];

/// Those of `linux.resources.cpu` that belong to another controller.
const CPUSET: [&str; 2] = ["cpus", "mems"];

/// The longest text of a wish in the log, characters.
const SHOWN: usize = 120;

/// Raises the oom score to the node's floor and drops limits whose controller is missing.
///
/// Shape: `config` is a bundle's config.json; a document of another shape comes back as it is, the runtime judges it.
/// Changes are in the order of the document's path.
#[must_use]
pub fn fit(mut config: Value, node: &NodeLimits) -> (Value, Vec<Change>) {
    let mut changes = Vec::new();
    if let Some(score) = config.pointer_mut("/process/oomScoreAdj") {
        changes.extend(raise(score, node.oom_score_adj));
    }
    if let Some(Value::Object(resources)) = config.pointer_mut("/linux/resources") {
        let has = |controller: &str| node.controllers.iter().any(|there| there == controller);
        drop_cpuset(resources, &has, &mut changes);
        for (part, controller) in PARTS {
            if !has(controller) {
                changes.extend(remove(resources, part, "linux.resources"));
            }
        }
        drop_unified(resources, &has, &mut changes);
    }
    (config, changes)
}

fn raise(score: &mut Value, floor: i64) -> Option<Change> {
    let asked = score.as_i64().filter(|asked| *asked < floor)?;
    *score = floor.into();
    let path = "process.oomScoreAdj".into();
    Some(Change { path, asked: asked.to_string(), now: Some(floor.to_string()) })
}

fn drop_cpuset(resources: &mut Map<String, Value>, has: &impl Fn(&str) -> bool, changes: &mut Vec<Change>) {
    let Some(Value::Object(cpu)) = resources.get_mut("cpu") else { return };
    if !has("cpuset") {
        changes.extend(CPUSET.into_iter().filter_map(|key| remove(cpu, key, "linux.resources.cpu")));
    }
    if cpu.is_empty() {
        resources.shift_remove("cpu");
    }
}

/// `unified` holds files of cgroup v2 by name: `memory.high` belongs to the controller memory, `cgroup.*` to none.
fn drop_unified(resources: &mut Map<String, Value>, has: &impl Fn(&str) -> bool, changes: &mut Vec<Change>) {
    let Some(Value::Object(unified)) = resources.get_mut("unified") else { return };
    let missing = |file: &&String| {
        let controller = file.split('.').next().unwrap_or_default();
        controller != "cgroup" && !has(controller)
    };
    let files: Vec<String> = unified.keys().filter(missing).cloned().collect();
    changes.extend(files.iter().filter_map(|file| remove(unified, file, "linux.resources.unified")));
    if unified.is_empty() {
        resources.shift_remove("unified");
    }
}

/// Takes a key out; nothing that asks for nothing is worth a line.
fn remove(map: &mut Map<String, Value>, key: &str, path: &str) -> Option<Change> {
    let value = map.shift_remove(key)?;
    let empty = match &value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let asked = value.to_string().chars().take(SHOWN).collect();
    (!empty).then(|| Change { path: format!("{path}.{key}"), asked, now: None })
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, asked, now } = self;
        match now {
            Some(now) => write!(out, "{}: {asked} became {now}", path.escape_debug()),
            None => write!(out, "{}: dropped {asked}", path.escape_debug()),
        }
    }
}
