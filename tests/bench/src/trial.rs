//! What is run in the node, and what came of it: the words between the two halves of this program.

use serde::{Deserialize, Serialize};

/// Directory in the node that holds programs, results and the stand-ins of a node's directories.
pub(crate) const PLACE: &str = "/opt/bench";
/// The payload of every tool.
pub(crate) const STAMP: &str = "/opt/bench/stamp";
/// Where the payload says when it began.
pub(crate) const FIFO: &str = "/opt/bench/run/stamp";
/// Becomes a tool; see programs/launch.c.
pub(crate) const LAUNCH: &str = "/opt/bench/launch";
/// `NOTIFY_SOCKET` of supervisors.
pub(crate) const NOTIFY: &str = "/opt/bench/run/notify";
/// What the last tool printed to standard error.
pub(crate) const ERRORS: &str = "/opt/bench/run/errors";

/// Rounds of all variants in turn: forwards, then backwards, so that none always follows the same other one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// How many times each.
    pub(crate) rounds: usize,
    /// What is compared.
    pub(crate) variants: Vec<Variant>,
}

/// One tool with its arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Variant {
    /// Its name in tables.
    pub(crate) name: String,
    /// Program, absolute, and arguments; `@TAP@` stands for the pid in a namespace with a persistent tap0.
    pub(crate) argv: Vec<String>,
    /// Environment, whole.
    pub(crate) env: Vec<(String, String)>,
    /// User and group; 0 stays root with all that it may.
    pub(crate) uid: u32,
    /// Mask of the ambient and bounding capabilities; 0 leaves the bounding set whole.
    pub(crate) capabilities: u64,
    /// When it counts as ready, and how it ends.
    pub(crate) kind: Kind,
    /// Where strace writes all calls of it and its children; the times mean nothing then.
    pub(crate) trace: Option<String>,
}

/// When a tool is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// When its payload runs; it ends when that ends.
    Tool,
    /// A supervisor: when its payload runs and, if the network is part of it, the driver is ready; it ends when it is told.
    Supervisor {
        /// The later of payload and driver counts.
        with_driver: bool,
    },
    /// A command without a payload: when it has ended, with any status of its own (below 4).
    Command,
    /// A network driver: when it says so on descriptor 20; it is killed then.
    Driver,
}

/// One run, milliseconds since the exec of the tool.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Until it was ready.
    pub(crate) ready: f64,
    /// Until the payload's first instruction.
    pub(crate) payload: Option<f64>,
    /// Until the driver was known to be ready.
    pub(crate) driver: Option<f64>,
    /// Until the tool was reaped.
    pub(crate) wall: f64,
}

/// What came of a job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// For each variant one entry a round; `None` has failed.
    pub(crate) times: Vec<Vec<Option<Times>>>,
    /// For each variant why its last failed round did, or nothing.
    pub(crate) complaints: Vec<String>,
}

impl Outcome {
    /// Adds the rounds of a later part of the same job.
    pub(crate) fn extend(&mut self, later: Self) {
        if self.times.is_empty() {
            *self = later;
            return;
        }
        for (place, times) in later.times.into_iter().enumerate() {
            self.times[place].extend(times);
        }
        for (place, complaint) in later.complaints.into_iter().enumerate() {
            if !complaint.is_empty() {
                self.complaints[place] = complaint;
            }
        }
    }
}
