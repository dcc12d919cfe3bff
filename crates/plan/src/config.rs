//! The administrator's configuration, `/etc/u7s/config.toml`.

use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Where the configuration lies; it may be missing.
pub const PATH: &str = "/etc/u7s/config.toml";

/// The whole surface; [`Config::default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Version of this document, 1.
    pub version: u32,
    /// Login name of the node's user.
    pub user: String,
    /// Cluster network on a single node.
    pub cni: Cni,
    /// Network of the namespace.
    pub network: Network,
    /// Images on disk.
    pub images: Images,
    /// Multiplies every deadline; for slow machines. 1 to 100.
    pub timeout_factor: u32,
}

/// Which cluster network we configure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// The bridge plugin with host-local addresses: one node, no image.
    Bridge,
    /// None: the administrator brings one.
    None,
}

/// Network of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// The driver's own range; at least a /29.
    pub range: Ipv4Net,
    /// MTU of `tap0`; unset: that of the uplink.
    pub mtu: Option<u32>,
}

/// Images on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Directory of OCI layouts and archives that are loaded before kubeadm runs.
    pub preload: PathBuf,
    /// The pause image; unset: the one that kubeadm names.
    pub pause: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            user: "u7s-admin".into(),
            cni: Cni::Bridge,
            network: Network::default(),
            images: Images::default(),
            timeout_factor: 1,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { range: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 41, 0, 0), 24), mtu: None }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self { preload: "/var/lib/u7s/images".into(), pause: None }
    }
}
