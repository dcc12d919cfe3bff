//! A plan as data: phases, each a list of steps with a closed set of actions.

mod display;

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::firewall;
use crate::host;
use crate::node::ComponentName;

pub use self::display::line;

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
    /// Loads the host's nft table of the node in one transaction, in place of a former one.
    LoadFirewall {
        /// The whole table.
        table: firewall::Table,
    },
    /// Removes it; where it is not there, or no nft(8), there is nothing to do.
    RemoveFirewall,
    /// Makes a directory and its missing parents (0755, owner of the realm); what was not there before is kept for reset.
    ///
    /// No part of the path may be a symbolic link that the node's user could have made.
    MakeDir {
        /// Path.
        path: PathBuf,
        /// Permission bits of a new directory.
        mode: u32,
        /// Owner of a new directory.
        owner: Owner,
        /// Owner and mode of an existing directory are fitted too, the former ones kept for reset; else it stays as it is.
        fit: bool,
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
    /// Compares a file of a finished node that runs with what init would write; a missing one is written.
    ///
    /// A difference is told and left alone: to apply it would mean to restart every pod of the node.
    Keep {
        /// Path.
        path: PathBuf,
        /// Permission bits of a missing one.
        mode: u32,
        /// Owner of a missing one.
        owner: Owner,
        /// Whole text; `None` where init would remove the file.
        text: Option<String>,
    },
    /// Removes a file that we wrote; a missing one is fine.
    RemoveFile {
        /// Path.
        path: PathBuf,
    },
    /// Removes a directory of ours with all it holds; a missing one is fine.
    ///
    /// Root removes in a user's tree only while nothing of the node runs, descriptor by descriptor: no link is followed, no mount
    /// is entered. That also removes what subordinate ids own, which the user itself could not.
    RemoveTree {
        /// Path.
        path: PathBuf,
        /// The directory itself stays, empty.
        keep_root: bool,
    },
    /// Brings to disk what the file systems of these directories hold in memory alone; it never holds.
    Sync {
        /// The directories.
        paths: Vec<PathBuf>,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Clears a failed state and starts a unit; waits until it is active.
    ///
    /// A unit that runs is restarted if one of the files in `follows` is younger than its start; else the step holds.
    StartUnit {
        /// Unit name.
        unit: String,
        /// Files that it reads when it starts only; a missing one is older than everything.
        follows: Vec<PathBuf>,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Stops a unit and waits until it is inactive; clears a failed state. A unit that is not known is fine.
    ///
    /// After the deadline all its processes are killed, by systemd and by their cgroup, and the node's FUSE connections aborted:
    /// twenty seconds later nothing of it lives, or the step fails and names what does.
    StopUnit {
        /// Unit name.
        unit: String,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Ends what runs of a user beside its units: lingering, its user manager and its sessions.
    EndSessions {
        /// Login name.
        user: String,
        /// Deadline for each, seconds.
        seconds: u64,
    },
    /// Removes from directories that many users share what this one, or one of its subordinate ids, owns there.
    ///
    /// In a spool of cron what has the user's name is its own as well.
    RemoveOwned {
        /// Login name.
        user: String,
        /// The directories; one that is not there is fine.
        dirs: Vec<PathBuf>,
    },
    /// Kills every process of a user and of its subordinate ids, wherever it lives, until there is none.
    EndProcesses {
        /// Login name.
        user: String,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Unmounts what is mounted at a path and removes it; unmounts what the user mounted by FUSE, anywhere.
    Unmount {
        /// Login name.
        user: String,
        /// The path.
        path: PathBuf,
    },
    /// Removes from a directory what others than root put there, or may change, with all that these directories hold; what is
    /// root's stays. A directory of root's own loses what the node's ids own and nothing else.
    ClearDir {
        /// The directory.
        path: PathBuf,
        /// Names in it that go, whoever owns what they name, if the directory itself is not root's.
        names: Vec<String>,
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
        /// Further documents, passed like `config` by the descriptors after it.
        documents: Vec<SecretString>,
        /// Files of the node's user that hold secrets: removed after the run, however it ends.
        secrets: Vec<PathBuf>,
        /// It holds when this does.
        done_when: Option<Done>,
        /// Deadline, seconds.
        seconds: u64,
    },
    /// Takes this control plane's etcd member out of the cluster, if kubeadm cannot: its Node object was deleted, or its join was
    /// killed half-way. kubeadm finds no configuration then, and would leave a dead member behind.
    ///
    /// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/phases/reset/removeetcdmember.go.
    LeaveEtcd,
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
    /// Undoes what undo.json holds, last change first: sysctls, device modes, owners, directories that were not there and are
    /// empty, subordinate ids and the user if [`Action::AddSubids`] and [`Action::CreateUser`] made them. Then removes it.
    RestoreHost,
}

/// What tells that the real kubeadm came to its end, so that it is not run again.
///
/// The kubelet's mark counts most: enabling it is our own last phase, and what an administrator took out of a finished cluster
/// stays out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// `init`: the file exists, the API server is ready, and either the kubelet is enabled or the objects are there, which
    /// kubeadm makes last.
    Begun {
        /// Made early; without it there is no cluster to ask.
        file: PathBuf,
        /// Namespace and objects as kubectl names them; no object where all phases that make one are skipped.
        objects: (&'static str, &'static [&'static str]),
    },
    /// `join`: the file exists, and either the kubelet is enabled or the cluster knows the node, as a control plane if it is to
    /// be one.
    Joined {
        /// The kubelet's kubeconfig, which exists once the cluster has signed its certificate.
        file: PathBuf,
        /// Name of the node.
        node: String,
        /// It is to be a control plane; one that is not, or the other way round, has not joined as asked.
        control_plane: bool,
    },
}

impl Action {
    /// Whether nothing later of a plan may be done when this failed: what comes next relies on a node that is dead.
    #[must_use]
    pub fn is_barrier(&self) -> bool {
        matches!(self, Self::StopUnit { .. } | Self::EndSessions { .. } | Self::EndProcesses { .. })
    }
}

impl Done {
    /// The file without which nothing is asked.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Begun { file, .. } | Self::Joined { file, .. } => file,
        }
    }
}

impl Plan {
    /// Adds a phase, unless it has no step.
    pub fn push(&mut self, phase: Phase, steps: Vec<Step>) {
        if !steps.is_empty() {
            self.phases.push(PhaseSteps { phase, steps });
        }
    }
}

impl Step {
    /// A step of root on the host.
    #[must_use]
    pub fn root(action: Action, why: &'static str) -> Self {
        Self { realm: Realm::Root, action, why }
    }

    /// A step of the node's user on the host.
    #[must_use]
    pub fn user(action: Action, why: &'static str) -> Self {
        Self { realm: Realm::User, action, why }
    }

    /// A step of the node's user inside its namespaces.
    #[must_use]
    pub fn inside(action: Action, why: &'static str) -> Self {
        Self { realm: Realm::Inside, action, why }
    }
}

/// One line a step: `[host] root: load the module tun: …`.
impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.phases {
            write!(out, "{phase}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PhaseSteps {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(out, "[{}] {step}", self.phase.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}", self.realm, self.action, self.why)
    }
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

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => out.write_str("root:root"),
            Self::RootForNode => write!(out, "root:{}", host::USER),
            Self::Node => write!(out, "{0}:{0}", host::USER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_without_secrets() {
        let step = Step::inside(
            Action::Run {
                argv: vec!["/usr/bin/kubeadm".into(), "init".into(), "--x=a b\n\u{1b}".into()],
                config: Some("hush".into()),
                documents: Vec::new(),
                secrets: Vec::new(),
                done_when: None,
                seconds: 7,
            },
            "brings up the control plane",
        );
        assert_eq!(
            step.to_string(),
            "inside: run /usr/bin/kubeadm init \"--x=a b\\n\\u{1b}\" within 7 s ({config}: 4 bytes): brings up the control plane"
        );
        assert!(!format!("{step:?}").contains("hush"));
        let step = Step::root(
            Action::WriteFile {
                path: "/etc/u7s/node.json".into(),
                mode: 0o640,
                owner: Owner::RootForNode,
                text: "{}".into(),
            },
            "the supervisor's specification",
        );
        assert_eq!(
            step.to_string(),
            "root: write /etc/u7s/node.json (0640 root:u7s-admin, 2 bytes): the supervisor's specification"
        );
    }
}
