//! Why a configuration is refused.

/// Why the flags and documents of the user do not make a configuration of a rootless node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Flags beside `--config`, names sorted; the words are kubeadm's.
    #[error("can not mix '--config' with arguments [{}]", .0.join(" "))]
    Mixed(Vec<String>),
    /// A flag that cannot be honoured on this node.
    #[error("--{name}: {why}")]
    Flag {
        /// Without dashes.
        name: String,
        /// Why not.
        why: String,
    },
    /// A document of the user's configuration that is no kubeadm configuration.
    #[error("document {number} of the configuration: {why}")]
    Document {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// A value that is not what the field takes.
    #[error("{path}: {why}")]
    Invalid {
        /// `ClusterConfiguration.networking.podSubnet`.
        path: String,
        /// What is wrong, with the value unless it is secret.
        why: String,
    },
    /// The user's value and a need of a rootless node exclude each other.
    #[error("{path} is {value}, but a rootless node needs {need}: {why}")]
    Contradiction {
        /// `InitConfiguration.nodeRegistration.criSocket`.
        path: String,
        /// The user's value.
        value: String,
        /// Ours.
        need: String,
        /// Why we need it.
        why: &'static str,
    },
    /// Two networks share addresses.
    #[error("{first} ({first_net}) overlaps {second} ({second_net})")]
    Overlap {
        /// Path of the first.
        first: String,
        /// Its network.
        first_net: String,
        /// Path of the second.
        second: String,
        /// Its network.
        second_net: String,
    },
    /// A file of the user's patches directory that cannot be used.
    #[error("patch {file}: {why}")]
    Patch {
        /// Name of the file.
        file: String,
        /// What is wrong.
        why: String,
    },
}
