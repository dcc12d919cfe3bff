//! A rootful node: the same tree and kit, with CRI-O and kubelet as root in units of the tests' own, for mixed clusters.
//!
//! ```no_run
//! # fn test() -> Result<(), u7s_harness::Error> {
//! use std::path::Path;
//! use std::time::Duration;
//! let lan = u7s_harness::Lan::new()?;
//! let mut node = lan.node("r1")?;
//! node.install_kit(&[])?;
//! node.boot(Duration::from_secs(60))?;
//! node.install_rootful(Path::new("target/debug"))?; // u7s-crun is taken from there
//! node.bridge_network("10.244.7.0/24")?; // unless flannel comes
//! node.rootful_init("")?.ok()?; // or: node.rootful_join(&join)?.ok()?
//! let nodes = node.ok(&["kubectl", "get", "nodes"])?;
//! # drop(nodes); Ok(())
//! # }
//! ```
//!
//! What differs from a rootful node on a machine of its own, where this machine lacks controllers in cgroup2 or
//! capabilities: the kubelet keeps no cgroups per QoS class (by a patch of this node alone, so that the cluster's
//! ConfigMaps stay kubeadm's), limits are dropped by `u7s-crun`, and privileged containers get no capability that the
//! machine's root lacks.

use std::path::Path;
use std::time::Duration;

use crate::command::run;
use crate::invocation::Invocation;
use crate::node::LAYOUT;
use crate::{Error, Node};

const SCRIPT: &str = include_str!("rootful/install.sh");
const CRIO: &str = include_str!("rootful/crio.conf");
const UNITS: [(&str, &str); 3] = [
    ("/etc/systemd/system/crio.service", include_str!("rootful/crio.service")),
    ("/etc/systemd/system/kubelet.service", include_str!("rootful/kubelet.service")),
    ("/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", include_str!("rootful/10-kubeadm.conf")),
];
/// kubeadm's patches of this node.
const PATCHES: &str = "/etc/u7s-test/patches";
const KUBELET: &str = "\
cgroupDriver: cgroupfs
failSwapOn: false
cgroupsPerQOS: false
enforceNodeAllocatable: [none]
";
/// The kernel's table of connections is not a nested node's to size, nor a rootless one's; kube-proxy would end.
const PROXY: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
conntrack: {maxPerCore: 0, min: 0}
";
/// A nested node has not all cgroup controllers, and kubeadm's preflight says so.
const IGNORED: &str = "--ignore-preflight-errors=SystemVerification";
const LIMIT: Duration = Duration::from_secs(300);

/// What a rootful node must know to join a cluster.
#[derive(Debug, Clone, Default)]
pub struct Join {
    /// `address:port` of the API server.
    pub endpoint: String,
    /// A bootstrap token.
    pub token: String,
    /// `sha256:…` of the cluster's CA.
    pub ca_hash: String,
    /// Of a control plane: the key of its uploaded certificates.
    pub certificate_key: Option<String>,
}

impl Join {
    /// From what `kubeadm token create --print-join-command` printed, with or without `--certificate-key`.
    ///
    /// # Errors
    /// [`Error::Answer`]: it is no such line.
    pub fn from_line(line: &str) -> Result<Self, Error> {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "\\").collect();
        let after = |flag: &str| {
            let at = words.iter().position(|word| *word == flag)?;
            words.get(at + 1).map(ToString::to_string)
        };
        let parts = (after("join"), after("--token"), after("--discovery-token-ca-cert-hash"));
        let (Some(endpoint), Some(token), Some(ca_hash)) = parts else {
            return Err(Error::Answer { what: "a join command", text: line.into() });
        };
        Ok(Self { endpoint, token, ca_hash, certificate_key: after("--certificate-key") })
    }
}

impl Node {
    /// Makes a booted node an ordinary rootful one: images loaded, CRI-O running, kubelet enabled; `kubeadm` is the kit's.
    ///
    /// `bin_dir` holds `u7s-crun`. u7s itself must not be installed in this node.
    ///
    /// # Errors
    /// It is not booted; `u7s-crun` is not built; CRI-O does not start.
    pub fn install_rootful(&self, bin_dir: &Path) -> Result<(), Error> {
        let target = format!("/proc/{}/root/usr/local/libexec/u7s-test/u7s-crun", self.pid1()?);
        let adapter = bin_dir.join("u7s-crun").display().to_string();
        run(&["install", "-D", "-m", "755", &adapter, &target], Duration::from_secs(30))?;
        let images = self.kit.images();
        let pause = images.iter().find(|name| name.contains("/pause:")).map_or("", String::as_str);
        self.write("/etc/crio/u7s-test.conf", CRIO.replace("@PAUSE@", pause))?;
        for (path, text) in UNITS {
            self.write(path, text)?;
        }
        self.write(&format!("{PATCHES}/kubeletconfiguration+merge.yaml"), KUBELET)?;
        let argv = ["sh", "-c", SCRIPT, "install.sh", LAYOUT].into_iter();
        let argv: Vec<&str> = argv.chain(images.iter().map(String::as_str)).collect();
        self.command(&argv).within(LIMIT).ok().map(drop)
    }

    /// `kubeadm init` of a rootful node; `cluster` holds further lines of the ClusterConfiguration, each with its newline.
    ///
    /// root's kubectl finds the cluster afterwards.
    ///
    /// # Errors
    /// It is not booted.
    pub fn rootful_init(&self, cluster: &str) -> Result<Invocation, Error> {
        let head = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ";
        let (ip, registration) = (self.ip, self.registration());
        let version = u7s_kit::KUBERNETES;
        let text = format!(
            "{head}InitConfiguration\nlocalAPIEndpoint: {{advertiseAddress: {ip}}}\n{registration}---\n\
             {head}ClusterConfiguration\nkubernetesVersion: {version}\nnetworking: {{podSubnet: 10.244.0.0/16}}\n{cluster}---\n{PROXY}"
        );
        self.link_kubeconfig()?;
        self.kubeadm("init", &text)
    }

    /// `kubeadm join` of a rootful node.
    ///
    /// # Errors
    /// It is not booted.
    pub fn rootful_join(&self, join: &Join) -> Result<Invocation, Error> {
        let Join { endpoint, token, ca_hash, certificate_key } = join;
        let plane = certificate_key.as_ref().map_or_else(String::new, |key| {
            let ip = self.ip;
            format!(
                "controlPlane: {{localAPIEndpoint: {{advertiseAddress: {ip}}}, certificateKey: \"{key}\"}}\n"
            )
        });
        let text = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ndiscovery: {{bootstrapToken: {{apiServerEndpoint: \
             \"{endpoint}\", token: \"{token}\", caCertHashes: [\"{ca_hash}\"]}}}}\n{plane}{}",
            self.registration()
        );
        self.link_kubeconfig()?;
        self.kubeadm("join", &text)
    }

    /// A bridge network with this range for the pods of this node, where no network add-on comes.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn bridge_network(&self, range: &str) -> Result<(), Error> {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"u7s-test","plugins":[{{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,
"hairpinMode":true,"ipam":{{"type":"host-local","ranges":[[{{"subnet":"{range}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
{{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}
"#
        );
        self.write("/etc/cni/net.d/10-bridge.conflist", text)
    }

    fn registration(&self) -> String {
        let (name, ip) = (&self.name, self.ip);
        format!(
            "nodeRegistration:\n  name: {name}\n  criSocket: unix:///run/crio/crio.sock\n  imagePullPolicy: IfNotPresent\n  \
             kubeletExtraArgs: [{{name: node-ip, value: {ip}}}]\npatches: {{directory: {PATCHES}}}\n"
        )
    }

    fn kubeadm(&self, command: &str, document: &str) -> Result<Invocation, Error> {
        let path = format!("/etc/u7s-test/{command}.yaml");
        self.write(&path, document)?;
        Ok(self.command(&["kubeadm", command, "--config", &path, IGNORED]).within(LIMIT))
    }

    /// Dangles until kubeadm has written the file, and on workers.
    fn link_kubeconfig(&self) -> Result<(), Error> {
        self.sh("mkdir -p /root/.kube; ln -sfn /etc/kubernetes/admin.conf /root/.kube/config").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_join_command_is_read() {
        let line = "kubeadm join 10.77.0.2:6443 --token a.b \\\n\t--discovery-token-ca-cert-hash sha256:c \n";
        let join = Join::from_line(line).unwrap();
        assert_eq!((join.endpoint.as_str(), join.token.as_str()), ("10.77.0.2:6443", "a.b"));
        assert_eq!((join.ca_hash.as_str(), join.certificate_key), ("sha256:c", None));
        let plane = format!("{line} --control-plane --certificate-key k");
        assert_eq!(Join::from_line(&plane).unwrap().certificate_key.as_deref(), Some("k"));
        assert!(Join::from_line("kubeadm join x").is_err());
    }
}
