//! What the real kubeadm prints, without its advice about kubeconfigs: that names files which belong to the node's user.
//!
//! `export KUBECONFIG=/etc/kubernetes/admin.conf` lets whoever owns the node run programs as the one who types it: kubectl starts
//! what a kubeconfig names as its credential plugin. The commands for other nodes are kept as data, and printed by us.

use std::fmt;

use crate::kubeadm::{is_discovery_hash, is_endpoint, is_token};

/// The last line of kubeadm's own that is shown; what follows is advice.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/phases/init/showjoincommand.go, `initDoneTempl`.
const INITIALIZED: &str = "Your Kubernetes control-plane has initialized successfully!";

/// Where the advice begins after a control plane has joined.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/join.go, `joinControlPlaneDoneTemp`.
const ADMINISTER: &str = "To start administering your cluster from this node";

/// The most that is kept of the advice, bytes: a join command for each of several tokens.
const MOST: usize = 64 * 1024;

/// What kubeadm prints in the place of a secret (`--skip-token-print`), and as one word.
const WITHHELD: (&str, &str) = ("<value withheld>", "<value-withheld>");

/// Follows the standard output of `kubeadm init` or `kubeadm join`, line by line.
#[derive(Default)]
pub struct Closing {
    begun: bool,
    advice: String,
}

/// Secrets are in it.
impl fmt::Debug for Closing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Closing").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Closing {
    /// Whether the next line, without its end, is shown.
    pub fn shows(&mut self, line: &str) -> bool {
        if self.begun {
            if self.advice.len() + line.len() < MOST {
                self.advice.push_str(line);
                self.advice.push('\n');
            }
            return false;
        }
        self.begun = line == INITIALIZED || line.starts_with(ADMINISTER);
        !line.starts_with(ADMINISTER) && !names_kubeconfig(line)
    }

    /// The commands that were printed for other nodes; one that is not of kubeadm's form is none.
    #[must_use]
    pub fn commands(&self) -> Vec<JoinCommand> {
        let text = self.advice.replace("\\\n", " ").replace(WITHHELD.0, WITHHELD.1);
        let mut commands: Vec<JoinCommand> = Vec::new();
        for command in text.lines().filter_map(JoinCommand::parse) {
            if !commands.contains(&command) {
                commands.push(command);
            }
        }
        commands
    }
}

/// Whether a text is one `kubeadm join` of kubeadm's own form, in one line, and nothing else.
#[must_use]
pub fn is_join_command(text: &str) -> bool {
    let text = text.trim_end();
    !text.contains('\n') && JoinCommand::parse(text).is_some()
}

/// Whether a line tells its reader to use or to copy a kubeconfig of the node.
fn names_kubeconfig(line: &str) -> bool {
    let copies = line.split_whitespace().any(|word| matches!(word, "cp" | "ln" | "mv" | "install" | "cat"));
    line.contains("KUBECONFIG") || line.contains("/.kube") || (copies && line.contains("/etc/kubernetes/"))
}

/// `kubeadm join` of another node, as kubeadm printed it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinCommand {
    endpoint: String,
    token: String,
    hashes: Vec<String>,
    control_plane: bool,
    certificate_key: Option<String>,
}

impl fmt::Debug for JoinCommand {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("JoinCommand").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl JoinCommand {
    /// The other node becomes a control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.control_plane
    }

    /// With the key of certificates that were uploaded.
    #[must_use]
    pub fn has_certificate_key(&self) -> bool {
        self.certificate_key.is_some()
    }

    /// Every word is of its form: the text comes from the node, and people paste it into a root's shell of another one.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim().strip_prefix("kubeadm join ")?.split_ascii_whitespace();
        let endpoint = words.next().filter(|endpoint| is_endpoint(endpoint))?.to_owned();
        let mut command = Self {
            endpoint,
            token: String::new(),
            hashes: Vec::new(),
            control_plane: false,
            certificate_key: None,
        };
        while let Some(flag) = words.next() {
            match flag {
                "--token" => {
                    command.token = words.next().filter(|word| is_secret(word, is_token))?.to_owned()
                }
                "--discovery-token-ca-cert-hash" => {
                    command.hashes.push(words.next().filter(|word| is_discovery_hash(word))?.to_owned());
                }
                "--control-plane" => command.control_plane = true,
                "--certificate-key" => {
                    command.certificate_key =
                        Some(words.next().filter(|word| is_secret(word, is_key))?.to_owned());
                }
                _ => return None,
            }
        }
        (!command.token.is_empty()).then_some(command)
    }
}

fn is_secret(word: &str, form: fn(&str) -> bool) -> bool {
    word == WITHHELD.1 || form(word)
}

fn is_key(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// As kubeadm prints it, line ends and all: scripts look for it.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/util/join.go, `joinCommandTemplate`.
impl fmt::Display for JoinCommand {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |word: &str| if word == WITHHELD.1 { WITHHELD.0.to_owned() } else { word.to_owned() };
        write!(out, "kubeadm join {} --token {} \\\n\t", self.endpoint, plain(&self.token))?;
        for hash in &self.hashes {
            write!(out, "--discovery-token-ca-cert-hash {hash} ")?;
        }
        if self.control_plane {
            write!(out, "\\\n\t--control-plane ")?;
        }
        if let Some(key) = &self.certificate_key {
            write!(out, "--certificate-key {}", plain(key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const KEY: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    /// kubeadm 1.34.4, with `--upload-certs` and a `controlPlaneEndpoint`.
    fn init() -> String {
        format!(
            "[addons] Applied essential addon: kube-proxy\n\nYour Kubernetes control-plane has initialized successfully!\n\n\
             To start using your cluster, you need to run the following as a regular user:\n\n  mkdir -p $HOME/.kube\n  \
             sudo cp -i /etc/kubernetes/admin.conf $HOME/.kube/config\n  sudo chown $(id -u):$(id -g) $HOME/.kube/config\n\n\
             Alternatively, if you are the root user, you can run:\n\n  export KUBECONFIG=/etc/kubernetes/admin.conf\n\n\
             You can now join any number of control-plane nodes running the following command on each as root:\n\n  \
             kubeadm join cp.test:6443 --token abcdef.0123456789abcdef \\\n\t--discovery-token-ca-cert-hash {HASH} \\\n\t\
             --control-plane --certificate-key {KEY}\n\nPlease note that\n\n\
             Then you can join any number of worker nodes by running the following on each as root:\n\n\
             kubeadm join cp.test:6443 --token abcdef.0123456789abcdef \\\n\t--discovery-token-ca-cert-hash {HASH} \n"
        )
    }

    fn shown(text: &str) -> (Vec<String>, Closing) {
        let mut closing = Closing::default();
        let lines = text.lines().filter(|line| closing.shows(line)).map(str::to_owned).collect();
        (lines, closing)
    }

    #[test]
    fn f1_no_kubeconfig_of_the_node_is_named_and_the_join_commands_come_out_as_they_were() {
        let (lines, closing) = shown(&init());
        assert_eq!(lines, ["[addons] Applied essential addon: kube-proxy", "", INITIALIZED]);
        let commands = closing.commands();
        assert_eq!(commands.len(), 2);
        assert!(commands[0].is_control_plane() && commands[0].has_certificate_key());
        assert!(!commands[1].is_control_plane());
        for command in &commands {
            assert!(init().contains(&command.to_string()), "{command}");
        }
        assert!(!format!("{closing:?}{commands:?}").contains("abcdef"));
    }

    #[test]
    fn f1_a_control_plane_that_joined_names_none() {
        let text = "This node has joined the cluster and a new control plane instance was created:\n\n* x\n\n\
                    To start administering your cluster from this node, you need to run the following as a regular user:\n\n\
                    \tmkdir -p $HOME/.kube\n\tsudo cp -i /etc/kubernetes/admin.conf $HOME/.kube/config\n";
        let (lines, closing) = shown(text);
        let expected =
            ["This node has joined the cluster and a new control plane instance was created:", "", "* x", ""];
        assert_eq!(lines, expected);
        assert_eq!(closing.commands(), []);
    }

    #[test]
    fn f1_advice_in_other_words_is_left_out_too() {
        for line in [
            "  export KUBECONFIG=/etc/kubernetes/admin.conf",
            "sudo cp -i /etc/kubernetes/super-admin.conf $HOME/.kube/config",
            "install -m 600 /etc/kubernetes/kubelet.conf /root/x",
            "mkdir -p $HOME/.kube",
        ] {
            assert!(!Closing::default().shows(line), "{line}");
        }
        for line in
            ["[kubeconfig] Writing \"admin.conf\" kubeconfig file", "[certs] Using /etc/kubernetes/pki", ""]
        {
            assert!(Closing::default().shows(line), "{line}");
        }
    }

    #[test]
    fn withheld_secrets_stay_withheld() {
        let text =
            init().replace("abcdef.0123456789abcdef", "<value withheld>").replace(KEY, "<value withheld>");
        let commands = shown(&text).1.commands();
        assert_eq!(commands.len(), 2);
        assert!(text.contains(&commands[0].to_string()), "{}", commands[0]);
    }

    #[test]
    fn a_command_that_does_something_else_is_none() {
        let good = format!(
            "kubeadm join h:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash {HASH}"
        );
        assert!(JoinCommand::parse(&good).is_some());
        for bad in [
            format!("{good}; reboot"),
            format!("{good} --config /tmp/x"),
            good.replace("h:6443", "h:6443$(reboot)"),
            good.replace("abcdef.0123456789abcdef", "`reboot`"),
            good.replace("sha256:", "sha256:;"),
            "kubeadm join h:6443".to_owned(),
            "kubeadm join".to_owned(),
        ] {
            assert_eq!(JoinCommand::parse(&bad), None, "{bad}");
        }
    }
}
