//! The administrator's configuration, `/etc/u7s/config.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::host;
use crate::node::HostPort;
use crate::suggest;

/// Where the configuration lies; it may be missing.
pub const PATH: &str = "/etc/u7s/config.toml";

/// Directory of drop-ins `*.toml`, read after [`PATH`] in the order of their names.
pub const DROP_INS: &str = "/etc/u7s/config.d";

/// The whole surface; [`Config::default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Version of this document, 1.
    pub version: u32,
    /// Login name of the node's user: the one of u7s.service, [`host::USER`].
    pub user: String,
    /// Network of the cluster that `kubeadm init` begins.
    pub cni: Cni,
    /// flannel, where [`Self::cni`] is that.
    pub flannel: Flannel,
    /// Network of the namespace.
    pub network: Network,
    /// What the node may reach.
    pub firewall: Firewall,
    /// Images on disk.
    pub images: Images,
    /// Services from outside.
    pub services: Services,
    /// Multiplies every deadline; for slow machines. 1 to 100.
    pub timeout_factor: u32,
}

/// Which cluster network we configure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// flannel with vxlan, applied by `kubeadm init`: any number of nodes.
    Flannel,
    /// The bridge plugin with host-local addresses: one node, no image.
    Bridge,
    /// None: the administrator brings one.
    None,
}

/// flannel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flannel {
    /// Image with flanneld.
    pub image: String,
    /// MTU of the net between the nodes, 1280 to 65520; unset: that of this node's uplink. Pods get 50 fewer.
    pub mtu: Option<u32>,
}

/// Network of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// The driver's own range; at least a /29.
    pub range: Ipv4Net,
    /// MTU of `tap0`, 1280 to 65520; unset: that of the uplink.
    pub mtu: Option<u32>,
    /// Ports below the host's `ip_unprivileged_port_start` that may be opened: `["80/tcp", "53/udp"]`.
    pub low_ports: Vec<HostPort>,
    /// What [`crate::conntrack`] sets on a host that joins, 16384 to 2147483647; 0: nothing. Unset: as a kube-proxy with its defaults.
    pub conntrack_max: Option<u64>,
}

/// What the node may reach: the host's nft table `inet u7s` ([`crate::firewall`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Firewall {
    /// There is such a table.
    pub enabled: bool,
    /// Networks outside of this host that the node may reach; unset: all. Never metadata services or the host itself.
    pub egress: Option<Vec<IpNet>>,
    /// Exceptions, address and port: services of the host itself, a metadata service, others outside of `egress`.
    pub allow: Vec<SocketAddr>,
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

/// Services from outside: what users of the cluster may open on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Services {
    /// Open the ports of NodePort and LoadBalancer Services and the host ports of pods.
    pub follow: bool,
    /// On control planes: write the nodes' addresses into the status of LoadBalancer Services without a class.
    pub load_balancer: bool,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No TOML, an unknown key or a value of the wrong type; `why` shows line, column and a caret.
    #[error("{origin}: {why}")]
    Syntax {
        /// File name.
        origin: String,
        /// The parser's words.
        why: String,
    },
    /// A value out of its range.
    #[error("{origin}: {key} is {value}, but {need}")]
    Value {
        /// File name.
        origin: String,
        /// `network.range`.
        key: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        need: &'static str,
    },
}

/// Reads the configuration from its files, name and text each, later ones winning key by key.
///
/// No file at all means [`Config::default`].
///
/// # Errors
/// [`Error`] names the file; every file must be valid alone, so that the line is known.
pub fn read<N: AsRef<str>, T: AsRef<str>>(files: &[(N, T)]) -> Result<Config, Error> {
    let mut merged = Table::new();
    for (name, text) in files {
        let (origin, text) = (name.as_ref(), text.as_ref());
        let syntax = |error: toml::de::Error| Error::Syntax {
            origin: origin.into(),
            why: meant(error.to_string().trim_end()),
        };
        check(&toml::from_str(text).map_err(syntax)?, origin)?;
        merge(&mut merged, text.parse().map_err(syntax)?);
    }
    let origin = files.last().map_or(PATH, |(name, _)| name.as_ref());
    let config = merged
        .try_into()
        .map_err(|error| Error::Syntax { origin: origin.into(), why: error.to_string().trim_end().into() })?;
    check(&config, origin)?;
    Ok(config)
}

/// The parser's words, and after an unknown key or value the one that was meant.
///
/// Source: serde, `de::Error::unknown_field` and `unknown_variant`: names stand between backquotes, the unknown one first.
fn meant(why: &str) -> String {
    let line =
        why.lines().find(|line| line.starts_with("unknown field") || line.starts_with("unknown variant"));
    let mut names = line.unwrap_or_default().split('`').skip(1).step_by(2);
    let nearest = names.next().and_then(|unknown| suggest::nearest(unknown, names));
    nearest.map_or_else(|| why.to_owned(), |name| format!("{why}; did you mean `{name}`?"))
}

/// Puts `upper` over `lower`: tables are joined, everything else is replaced.
fn merge(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

fn check(config: &Config, origin: &str) -> Result<(), Error> {
    let refuse = |key, value: String, need| Err(Error::Value { origin: origin.into(), key, value, need });
    let network = &config.network;
    if config.version != 1 {
        return refuse("version", config.version.to_string(), "this program reads version 1");
    }
    if config.user != host::USER {
        return refuse("user", format!("{:?}", config.user), "u7s.service runs as u7s-admin");
    }
    if !(8..=29).contains(&network.range.prefix_len()) || network.range != network.range.trunc() {
        return refuse(
            "network.range",
            network.range.to_string(),
            "a network of /8 to /29 without host bits is needed",
        );
    }
    for (key, mtu) in [("network.mtu", network.mtu), ("flannel.mtu", config.flannel.mtu)] {
        if let Some(mtu) = mtu.filter(|mtu| !(1280..=65_520).contains(mtu)) {
            return refuse(key, mtu.to_string(), "1280 to 65520 is possible");
        }
    }
    if let Some(max) =
        network.conntrack_max.filter(|max| *max != 0 && !(16_384..=2_147_483_647).contains(max))
    {
        return refuse("network.conntrack_max", max.to_string(), "0, or 16384 to 2147483647 is possible");
    }
    if let Some((key, value, need)) = bad_firewall(&config.firewall) {
        return refuse(key, value, need);
    }
    if !config.images.preload.is_absolute() {
        return refuse(
            "images.preload",
            format!("{:?}", config.images.preload),
            "an absolute path is needed",
        );
    }
    let images =
        [("images.pause", config.images.pause.as_ref()), ("flannel.image", Some(&config.flannel.image))];
    for (key, image) in images {
        if let Some(image) = image.filter(|image| !is_image(image)) {
            return refuse(key, format!("{image:?}"), "an image with registry and tag is needed");
        }
    }
    if !(1..=100).contains(&config.timeout_factor) {
        return refuse("timeout_factor", config.timeout_factor.to_string(), "1 to 100 is possible");
    }
    Ok(())
}

/// The most entries of a list of the firewall: nft takes more, nobody reads them.
const MOST_ENTRIES: usize = 1000;

/// Key, value and need of what cannot become a rule.
fn bad_firewall(firewall: &Firewall) -> Option<(&'static str, String, &'static str)> {
    let egress = firewall.egress.as_deref().unwrap_or_default();
    for (key, count) in [("firewall.egress", egress.len()), ("firewall.allow", firewall.allow.len())] {
        if count > MOST_ENTRIES {
            return Some((key, format!("a list of {count}"), "at most 1000 entries are possible"));
        }
    }
    if let Some(network) = egress.iter().find(|network| **network != network.trunc()) {
        return Some(("firewall.egress", network.to_string(), "networks without host bits are needed"));
    }
    let vague = |address: &&SocketAddr| address.port() == 0 || address.ip().is_unspecified();
    let address = firewall.allow.iter().find(vague)?;
    Some(("firewall.allow", address.to_string(), "one address and one port are needed"))
}

/// Roughly `registry/name:tag`; CRI-O parses it finely.
fn is_image(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:@".contains(&byte);
    name.contains('/') && name.bytes().all(plain)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            user: "u7s-admin".into(),
            cni: Cni::Flannel,
            flannel: Flannel::default(),
            network: Network::default(),
            firewall: Firewall::default(),
            images: Images::default(),
            services: Services::default(),
            timeout_factor: 1,
        }
    }
}

impl Default for Flannel {
    fn default() -> Self {
        Self { image: "ghcr.io/flannel-io/flannel:v0.26.7".into(), mtu: None }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            range: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 41, 0, 0), 24),
            mtu: None,
            low_ports: Vec::new(),
            conntrack_max: None,
        }
    }
}

impl Default for Services {
    fn default() -> Self {
        Self { follow: true, load_balancer: true }
    }
}

impl Default for Firewall {
    fn default() -> Self {
        Self { enabled: true, egress: None, allow: Vec::new() }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self { preload: "/var/lib/u7s/images".into(), pause: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_means_the_defaults_and_the_defaults_read_back() {
        assert_eq!(read::<&str, &str>(&[]), Ok(Config::default()));
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(read(&[(PATH, text)]), Ok(Config::default()));
    }

    #[test]
    fn the_packaged_file_is_the_defaults() {
        let text = include_str!("../../../packaging/config.toml");
        assert_eq!(read(&[(PATH, text)]), Ok(Config::default()));
    }

    #[test]
    fn later_files_win_key_by_key() {
        let config = read(&[
            ("a", "cni = \"none\"\n[network]\nrange = \"10.42.0.0/24\"\nmtu = 9000\n"),
            ("b", "[network]\nmtu = 1500\n"),
        ])
        .unwrap();
        assert_eq!(config.cni, Cni::None);
        assert_eq!(config.network.mtu, Some(1500));
        assert_eq!(config.network.range.to_string(), "10.42.0.0/24");
    }

    #[test]
    fn bad_values_are_named_with_their_file() {
        let cases = [
            ("version = 2", "f: version is 2, but this program reads version 1"),
            ("user = \"joe\"", "f: user is \"joe\", but u7s.service runs as u7s-admin"),
            (
                "[network]\nrange = \"10.41.0.1/24\"",
                "f: network.range is 10.41.0.1/24, but a network of /8 to /29 without host bits is needed",
            ),
            (
                "[network]\nrange = \"10.41.0.0/30\"",
                "f: network.range is 10.41.0.0/30, but a network of /8 to /29 without host bits is needed",
            ),
            ("[network]\nmtu = 100", "f: network.mtu is 100, but 1280 to 65520 is possible"),
            (
                "[firewall]\negress = [\"10.0.0.1/8\"]",
                "f: firewall.egress is 10.0.0.1/8, but networks without host bits are needed",
            ),
            (
                "[firewall]\nallow = [\"10.0.0.1:0\"]",
                "f: firewall.allow is 10.0.0.1:0, but one address and one port are needed",
            ),
            (
                "[firewall]\nallow = [\"[::]:80\"]",
                "f: firewall.allow is [::]:80, but one address and one port are needed",
            ),
            ("[images]\npreload = \"x\"", "f: images.preload is \"x\", but an absolute path is needed"),
            (
                "[images]\npause = \"a\\nb\"",
                "f: images.pause is \"a\\nb\", but an image with registry and tag is needed",
            ),
            ("[flannel]\nmtu = 70000", "f: flannel.mtu is 70000, but 1280 to 65520 is possible"),
            (
                "[flannel]\nimage = \"flannel\"",
                "f: flannel.image is \"flannel\", but an image with registry and tag is needed",
            ),
            ("timeout_factor = 0", "f: timeout_factor is 0, but 1 to 100 is possible"),
        ];
        for (text, message) in cases {
            assert_eq!(read(&[("f", text)]).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn syntax_errors_cite_line_and_column() {
        let error = read(&[("f", "version = 1\ncolour = 3\n")]).unwrap_err().to_string();
        assert!(error.starts_with("f: TOML parse error at line 2, column 1"), "{error}");
        assert!(error.contains("unknown field `colour`") && !error.contains("did you mean"), "{error}");
    }

    #[test]
    fn the_key_and_the_word_that_were_meant_are_proposed() {
        for (text, meant) in [
            ("timeout-factor = 3\n", "timeout_factor"),
            ("[netwrok]\nmtu = 1500\n", "network"),
            ("[network]\nrnage = \"10.42.0.0/24\"\n", "range"),
            ("cni = \"flanel\"\n", "flannel"),
        ] {
            let error = read(&[("f", text)]).unwrap_err().to_string();
            assert!(error.ends_with(&format!("; did you mean `{meant}`?")), "{error}");
        }
    }
}
