//! Messages of the control socket `/run/u7s/control.sock`: one JSON request, one JSON answer, a line each.

use serde::{Deserialize, Serialize};

use crate::facts::Space;
use crate::need::{Level, Unmet};
use crate::node::{ComponentName, Forward, HostPort};

/// Path of the control socket, the same inode on the host and inside.
pub const SOCKET: &str = "/run/u7s/control.sock";

/// The longest request that the supervisor reads, bytes.
pub const MAX_REQUEST: usize = 256 * 1024;

/// How many ports an administrator may add.
pub const MOST_ADDED: usize = 1024;

/// How many ports are refused in words; of the others only the number is told.
pub const MOST_REFUSED: usize = 100;

/// Room for one sentence about a refused port, bytes of JSON: see [`cut`].
pub const MAX_SENTENCE: usize = 1024;

/// Room for what keeps one port from being open, bytes of JSON: see [`cut`].
pub const MAX_PROBLEM: usize = 512;

/// The most ports that one answer names: of Services, the administrator's, and those of the node's role, which are few.
pub const MOST_PORTS: usize = crate::services::MOST + MOST_ADDED + 256;

/// Room for a [`Port`] beside its problem, bytes of JSON.
const PORT: usize = 160;

/// Room for all that is neither a port nor about one, bytes of JSON.
const REST: usize = 64 * 1024;

/// The longest answer that the supervisor gives and a client reads, bytes: every port is there and has a problem.
pub const MAX_ANSWER: usize =
    MOST_PORTS * (PORT + MAX_PROBLEM) + (MOST_REFUSED + 1) * (MAX_SENTENCE + 8) + REST;

/// What may be asked; anything else is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The whole state.
    Status,
    /// Starts a component; answered when its process runs (crio: when CRI answers).
    Start {
        /// Which.
        component: ComponentName,
    },
    /// Stops it and waits until it is gone.
    Stop {
        /// Which.
        component: ComponentName,
    },
    /// Stop, then start.
    Restart {
        /// Which.
        component: ComponentName,
    },
    /// Marks it to be started with the node; kept on disk.
    Enable {
        /// Which.
        component: ComponentName,
    },
    /// Takes the mark away.
    Disable {
        /// Which.
        component: ComponentName,
    },
    /// All ports of the host that lead inside, or should.
    PortsList,
    /// Opens a port for the administrator; kept on disk.
    PortsAdd {
        /// Which.
        port: HostPort,
    },
    /// Closes a port that an administrator added; open connections go on.
    PortsRemove {
        /// Which.
        port: HostPort,
    },
}

/// The answer to one [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// Done.
    Done,
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::PortsList`].
    Ports {
        /// Sorted.
        ports: Vec<Port>,
    },
    /// Not done: the host lacks something that has an id and a remedy.
    Unmet(Unmet),
    /// Not done.
    Refused {
        /// A sentence: what failed and why.
        reason: String,
    },
}

/// State of the node as the supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Version of this document, 1.
    pub version: u32,
    /// The supervisor's own pid on the host.
    pub supervisor_pid: i32,
    /// Host pid of the node's pid 1. A reader that acts on it verifies it first.
    pub init_pid: i32,
    /// Host pid of the network driver, absent while it is being restarted.
    pub driver_pid: Option<i32>,
    /// The node's cgroup below the cgroup2 mount, e.g. `/system.slice/u7s.service/node`.
    pub cgroup: String,
    /// Where the node stands: a sentence, the same as systemd's `STATUS=`.
    pub state: String,
    /// READY=1 was sent.
    pub ready: bool,
    /// What CRI's Version call answered last.
    pub runtime: Option<Runtime>,
    /// Components in start order.
    pub components: Vec<ComponentStatus>,
    /// Open forwards.
    pub forwards: Vec<Forward>,
    /// Connections that the forwarder carries now and at most.
    pub connections: Connections,
    /// Durations of the last start.
    pub timings: Timings,
    /// Needs that were ignored by name.
    pub degraded: Vec<String>,
    /// Services from outside.
    pub services: Followed,
    /// Why the forwarder's rules are not loaded inside; `None`: they are, or are being loaded for the first time.
    pub rules: Option<String>,
    /// Room of the node's own /run; `None` before it is made.
    #[serde(default)]
    pub run: Option<Space>,
}

/// How Services from outside are followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Followed {
    /// A sentence, `followed` if all is well.
    pub state: String,
    /// Ports that are not open: each with who wants it and why not. After [`MOST_REFUSED`] of them, how many more there are.
    pub refused: Vec<String>,
}

/// `text`, cut where it would take more than `most` bytes as a string of JSON: others chose some of its words.
///
/// Source: RFC 8259, section 7; of control characters serde_json writes five in two bytes, the others in six.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    const MARK: &str = "...";
    let (mut taken, mut keep) = (0, 0);
    for (at, letter) in text.char_indices() {
        if taken + MARK.len() <= most {
            keep = at;
        }
        taken += match letter {
            '"' | '\\' => 2,
            '\0'..' ' => 6,
            _ => letter.len_utf8(),
        };
        if taken > most {
            text.truncate(keep);
            text.push_str(MARK);
            return text;
        }
    }
    text
}

/// Why a port that is reserved for the privileged is not opened; `first` is the host's `ip_unprivileged_port_start`.
#[must_use]
pub fn low_port(forward: &Forward, first: u16) -> Unmet {
    let (port, protocol) = (forward.port, forward.protocol);
    Unmet {
        id: "LowPort".into(),
        message: format!(
            "port {port} is below {first}, the host's net.ipv4.ip_unprivileged_port_start: the node's user may not open it"
        ),
        remedy: format!(
            "sysctl -w net.ipv4.ip_unprivileged_port_start={port} (for every user of this host); or, for this node alone, \
             network.low_ports = [\"{port}/{protocol}\"] in {} before kubeadm init or join",
            crate::config::PATH
        ),
        level: Level::Error,
    }
}

/// A port of the host that leads inside, or should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What is bound.
    pub forward: Forward,
    /// Who wants it.
    pub origin: Origin,
    /// Why it is not open; it is tried again from time to time.
    pub problem: Option<String>,
}

/// Who wants a port; of several the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The node itself, by its role.
    Node,
    /// `u7s ports add`.
    Administrator,
    /// A Service of the cluster.
    Service,
}

impl Origin {
    /// `node`, `administrator`, `service`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Administrator => "administrator",
            Self::Service => "service",
        }
    }
}

/// CRI's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// `cri-o`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// State of one component, in systemd's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentStatus {
    /// Which.
    pub name: ComponentName,
    /// Text that `systemctl status` shows.
    pub description: String,
    /// `ActiveState`.
    pub active: ActiveState,
    /// Started with the node.
    pub enabled: bool,
    /// Host pid while it runs.
    pub pid: Option<i32>,
    /// Pid inside while it runs: what a caller inside the namespace sees.
    pub pid_inside: Option<i32>,
    /// Restarts since the node started.
    pub restarts: u32,
    /// How it ended last, as systemd words it: `exited, status=1`, `signal, status=9/KILL`.
    pub last_exit: Option<String>,
    /// Seconds since the epoch of the last change of `active`.
    pub since: u64,
}

/// systemd's active states that a component can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActiveState {
    /// Runs.
    Active,
    /// Was started and is not ready, or waits for its next restart.
    Activating,
    /// Is being stopped.
    Deactivating,
    /// Was stopped or never started.
    Inactive,
    /// Died too often: it is tried again, but seldom, and not at all while the node has never been ready.
    Failed,
}

/// Use of the forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// What the descriptor limit allows.
    pub limit: u64,
    /// Connections and datagrams refused since the start of the unit, since their source belongs inside; a lower bound.
    #[serde(default)]
    pub refused: u64,
}

/// Durations of the last start in microseconds, each from the supervisor's first instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timings {
    /// The namespaces exist, their id maps are written.
    pub namespace_us: u64,
    /// Mounts, sysctls and names are done inside.
    pub mounts_us: u64,
    /// The driver said that it is ready.
    pub network_us: u64,
    /// CRI answered.
    pub cri_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Protocol;

    #[test]
    fn a_text_is_cut_by_what_it_takes_in_json() {
        let table = [
            ("short", "short"),
            ("exactly 10", "exactly 10"),
            ("eleven 4567", "eleven ..."),
            ("\u{1}\u{1}", "\u{1}..."),
            ("\"\"\"\"\"", "\"\"\"\"\""),
            ("\"\"\"\"\"\"", "\"\"\"..."),
            ("\u{44f}\u{44f}\u{44f}\u{44f}\u{44f}\u{44f}", "\u{44f}\u{44f}\u{44f}..."),
        ];
        for (text, expected) in table {
            let short = cut(text.to_owned(), 10);
            assert_eq!(short, expected);
            assert!(serde_json::to_string(&short).unwrap().len() <= 12, "{short:?}");
        }
    }

    /// Every port that may be wanted is, has the longest problem, and some are refused in the worst words.
    #[test]
    fn the_longest_answers_are_within_the_bound() {
        let forward =
            Forward { protocol: Protocol::Tcp, address: [255, 255, 255, 255].into(), port: u16::MAX };
        let problem = cut("\u{1}".repeat(MAX_PROBLEM), MAX_PROBLEM);
        let port = Port { forward, origin: Origin::Administrator, problem: Some(problem) };
        let ports = Answer::Ports { ports: vec![port; MOST_PORTS] };
        let length = serde_json::to_vec(&ports).unwrap().len();
        assert!(length <= MAX_ANSWER - REST, "{length} of {MAX_ANSWER}");
        let sentence = cut("\"".repeat(MAX_SENTENCE), MAX_SENTENCE);
        let followed = Followed { state: String::new(), refused: vec![sentence; MOST_REFUSED + 1] };
        let length = serde_json::to_vec(&(vec![forward; MOST_PORTS], followed)).unwrap().len();
        assert!(length <= MAX_ANSWER - REST, "{length} of {MAX_ANSWER}");
    }
}
