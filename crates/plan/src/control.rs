//! Messages of the control socket `/run/u7s/control.sock`: one JSON request, one JSON answer, a line each.

use serde::{Deserialize, Serialize};

use crate::need::{Level, Unmet};
use crate::node::{ComponentName, Forward, HostPort};

/// Path of the control socket, the same inode on the host and inside.
pub const SOCKET: &str = "/run/u7s/control.sock";

/// The longest request or answer that either side reads, bytes.
pub const MAX_LINE: usize = 256 * 1024;

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
}

/// How Services from outside are followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Followed {
    /// A sentence, `followed` if all is well.
    pub state: String,
    /// Ports that are not open, whatever the host says: each with who wants it and why not.
    pub refused: Vec<String>,
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
    /// Died and is not restarted.
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
