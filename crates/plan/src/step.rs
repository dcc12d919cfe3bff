//! A plan as data: phases, each a list of steps with a closed set of actions.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;

use crate::node::ComponentName;

/// What to do on this host, in order.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Phases in order; empty ones are left out.
    pub phases: Vec<PhaseSteps>,
}

/// One phase and its steps.
#[derive(Debug, Clone)]
pub struct PhaseSteps {
    /// Which.
    pub phase: Phase,
    /// In order.
    pub steps: Vec<Step>,
}

/// The phases of `init` in order; `reset` walks its own from the last to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Facts against needs.
    Preflight,
    /// User, subordinate ids, sysctls, modules, directories.
    Host,
    /// crio.conf, kubeadm configuration and patches, CNI, node specification.
    Configure,
    /// u7s.service, images from disk.
    Namespace,
    /// The real kubeadm.
    Cluster,
    /// Kubeconfigs.
    Publish,
    /// Units enabled.
    Enable,
}

impl Phase {
    /// All seven, in order.
    pub const ALL: [Self; 7] = [
        Self::Preflight,
        Self::Host,
        Self::Configure,
        Self::Namespace,
        Self::Cluster,
        Self::Publish,
        Self::Enable,
    ];

    /// Its name as printed: `[host] …`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Host => "host",
            Self::Configure => "configure",
            Self::Namespace => "namespace",
            Self::Cluster => "cluster",
            Self::Publish => "publish",
            Self::Enable => "enable",
        }
    }
}

/// Who does a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Realm {
    /// Root, on the host.
    Root,
    /// A child that dropped to the node's user, on the host.
    User,
    /// A child that dropped to the node's user and entered its namespaces.
    Inside,
}

/// One idempotent step.
///
/// `Display` is what the dry run, the log and the tests show: imperative, without secrets.
#[derive(Debug, Clone)]
pub struct Step {
    /// Who does it.
    pub realm: Realm,
    /// What.
    pub action: Action,
    /// Why, half a sentence.
    pub why: &'static str,
}

/// Owner of something written: names, since the user may not exist yet when the plan is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// root:root.
    Root,
    /// root, group of the node's user.
    RootForNode,
    /// The node's user and group.
    Node,
}

/// The closed set of actions. Each is idempotent and can be observed: it *holds* when doing it would change nothing.
#[derive(Debug, Clone)]
pub enum Action {
    /// Creates the node's system user and group with this home (0700).
    CreateUser {
        /// Login and group name.
        name: String,
        /// Home directory.
        home: PathBuf,
    },
    /// Gives the user one free range of `count` subordinate uids and gids.
    AddSubids {
        /// Login name.
        user: String,
        /// How many ids.
        count: u32,
    },
    /// Loads a kernel module if it is neither loaded nor built in; going on without it when it does not exist.
    LoadModule {
        /// Module name.
        name: String,
    },
    /// Writes a sysctl; the former value is kept for reset.
    SetSysctl {
        /// Key with slashes below /proc/sys.
        key: String,
        /// Value.
        value: String,
    },
    /// Sets the permission bits of a device node; the former ones are kept for reset.
    SetDeviceMode {
        /// Path of the device.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a directory and its missing parents (0755 root), or fits owner and mode of an existing one; what was before is kept for reset.
    MakeDir {
        /// Path.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Owner.
        owner: Owner,
    },
    /// Writes a file by temporary sibling, fsync and rename; an equal file is left alone.
    WriteFile {
        /// Path.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Owner.
        owner: Owner,
        /// Whole text.
        text: String,
    },
    /// Removes a file that we wrote; a missing one is fine.
    RemoveFile {
        /// Path.
        path: PathBuf,
    },
    /// Removes a directory of ours with all it holds; a missing one is fine.
    RemoveTree {
        /// Path.
        path: PathBuf,
        /// The directory itself stays, empty.
        keep_root: bool,
    },
    /// `systemctl daemon-reload`.
    ReloadUnits,
    /// Clears a failed state and starts a unit; waits until it is active, with the deadline in seconds.
    StartUnit {
        /// Unit name.
        unit: String,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Restarts it if it runs with an older specification; else as [`Action::StartUnit`].
    StopUnit {
        /// Unit name.
        unit: String,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Enables a unit at boot.
    EnableUnit {
        /// Unit name.
        unit: String,
    },
    /// Disables it.
    DisableUnit {
        /// Unit name.
        unit: String,
    },
    /// Copies every image of an OCI layout or archive into the node's store, unless it is there.
    LoadImages {
        /// The layout's directory or the archive on the host, root-owned.
        source: PathBuf,
    },
    /// Runs a program inside the namespaces; its output is the caller's.
    Run {
        /// Program, absolute, and arguments. `{config}` stands for the path of the descriptor that carries `config`.
        argv: Vec<String>,
        /// A document passed by a sealed memory file, not by a path on disk.
        config: Option<SecretString>,
        /// It holds when this file exists inside and the API server is ready.
        done_when: Option<PathBuf>,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Marks a component as enabled or not with the supervisor.
    EnableComponent {
        /// Which.
        component: ComponentName,
        /// Enabled or disabled.
        enabled: bool,
    },
    /// Rebuilds a kubeconfig from the parsed data of `source` and writes it 0600 to `path`.
    PublishKubeconfig {
        /// admin.conf.
        source: PathBuf,
        /// Target.
        path: PathBuf,
        /// Owner of the target.
        owner: Owner,
    },
    /// Removes a kubeconfig that we published, or puts the former one back.
    UnpublishKubeconfig {
        /// Target.
        path: PathBuf,
        /// Owner of the target.
        owner: Owner,
    },
    /// Undoes what undo.json holds: sysctls, device modes, owners, directories that were not there.
    RestoreHost,
    /// Deletes the nft table `inet u7s` if it is there.
    RemoveFirewall,
}

impl fmt::Display for Realm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Root => "root",
            Self::User => "user",
            Self::Inside => "inside",
        })
    }
}
