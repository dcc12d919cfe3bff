//! kubeadm's kubeconfigs belong to the node's user, who may write into them what kubectl shall run: nobody is told to use them.

use std::time::Duration;

use u7s_harness::{Node, Output};

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Check, IGNORED, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("kubeconfigs::f1_init_names_none_of_the_nodes_users_and_says_how_others_join", init_names_none),
    ("kubeconfigs::f1_another_user_gets_a_clean_one", another_user_gets_a_clean_one),
    ("kubeconfigs::f1_a_command_in_one_is_told_and_never_run_as_root", a_command_in_one_is_told),
    ("kubeconfigs::f13i_no_kubectl_of_ours_leaves_a_cache_of_roots", no_cache_of_roots),
];

/// Where a command that ran as root on the host would leave its mark.
const MARK: &str = "/run/owned-by-kubeconfig";

/// Fails for every line that tells its reader to use or to copy a file of the node's user.
pub(crate) fn names_no_kubeconfig(printed: &Output) -> Check {
    for line in printed.stdout.lines().chain(printed.stderr.lines()) {
        let copies = line.contains("cp ") && line.contains("/etc/kubernetes/");
        holds(!copies && !line.contains("KUBECONFIG=") && !line.contains("$HOME/.kube"), line)?;
    }
    Ok(())
}

fn init_names_none(world: &World) -> Check {
    let cluster = world.cluster()?;
    let printed = &cluster.init;
    names_no_kubeconfig(printed)?;
    for text in [
        "Your Kubernetes control-plane has initialized successfully!",
        "kubectl of root works as it is, by /root/.kube/config",
        "a kubeconfig for somebody else: u7s kubeconfig --file FILE",
    ] {
        wants(printed, text)?;
    }
    // What scripts look for: the last two lines, continued as kubeadm continues them.
    let lines: Vec<&str> = printed.stdout.trim_end().lines().collect();
    let [.., first, second] = lines[..] else { return Err(format!("{printed}").into()) };
    note(format!("{first}\n{second}"));
    let address = cluster.node().ip();
    holds(
        first.starts_with(&format!("kubeadm join {address}:6443 --token ")) && first.ends_with(" \\"),
        first,
    )?;
    let hash = cluster.node().sh(
        "openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der | sha256sum",
    )?;
    let hash = hash.split(' ').next().unwrap_or_default();
    holds(second.trim() == format!("--discovery-token-ca-cert-hash sha256:{hash}"), second)?;
    let token = first.split(' ').skip_while(|word| *word != "--token").nth(1).unwrap_or_default();
    wants(&kubeadm(cluster.node(), &["token", "list"]).run()?, token)
}

fn another_user_gets_a_clean_one(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    let script = "set -e; rm -rf /dev/shm/kc; mkdir -m 755 /dev/shm/kc; cd /dev/shm/kc; u7s kubeconfig --file theirs; \
                  stat -c '%a %U' theirs; chown 65534:65534 theirs";
    holds(node.sh(script)? == "600 root", "mode and owner")?;
    let nodes = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let nodes =
        nodes.into_iter().chain(["kubectl", "--kubeconfig=/dev/shm/kc/theirs", "get", "nodes", "-o", "name"]);
    let nodes: Vec<&str> = nodes.collect();
    wants(
        &node.command(&nodes).env("KUBECACHEDIR", "/dev/shm/kc/cache").run()?,
        &format!("node/{}", node.name()),
    )?;
    let again = node.exec(&["u7s", "kubeconfig", "--file", "/dev/shm/kc/theirs"])?;
    exits(&again, 1)?;
    wants(&again, "cannot write /dev/shm/kc/theirs: file exists")?;
    holds(node.sh("u7s kubeconfig | cmp - /root/.kube/config; rm -r /dev/shm/kc").is_ok(), "not root's own")?;
    let stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "u7s", "kubeconfig"];
    exits(&node.exec(&stranger)?, 2)
}

/// The node's user puts a command into a kubeconfig, on the host; gives what brings the former one back.
fn spoil(node: &Node, name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let path = format!("/etc/kubernetes/{name}");
    let spoiled = format!(
        "{{ sed '/^users:/,$d' {path}; printf '%s\\n' users: '- name: kubernetes-admin' '  user:' '    exec:' \
         '      apiVersion: client.authentication.k8s.io/v1' '      command: /bin/sh' \
         '      args: [\"-c\", \"id > {MARK}\"]' '      interactiveMode: Never'; }} > /dev/shm/spoiled; cat /dev/shm/spoiled > {path}"
    );
    node.sh(&format!("cp -p {path} /root/{name}.saved"))?;
    let user = ["setpriv", "--reuid=u7s-admin", "--regid=u7s-admin", "--clear-groups", "--no-new-privs"];
    let argv: Vec<&str> = user.into_iter().chain(["sh", "-ec", &spoiled]).collect();
    node.ok(&argv)?;
    Ok(format!("cat /root/{name}.saved > {path}; rm /root/{name}.saved /dev/shm/spoiled"))
}

fn a_command_in_one_is_told(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    let back = spoil(node, "admin.conf")?;
    let result = told(&cluster);
    node.sh(&back)?;
    result?;
    let sound = node.exec(&["u7s", "status", "--ignore=Degraded"])?;
    holds(!sound.stdout.contains("Kubeconfig"), format!("{sound}"))
}

fn told(cluster: &Cluster) -> Check {
    const TOLD: &str = "[ERROR Kubeconfig]: /etc/kubernetes/admin.conf has users[].user.exec";
    let node = cluster.node();
    let status = node.exec(&["u7s", "status"])?;
    exits(&status, 1)?;
    wants(&status, TOLD)?;
    wants(&status, "hint: do not use /etc/kubernetes/admin.conf")?;
    let document = cluster.status()?;
    let problems = document["problems"].as_array().cloned().unwrap_or_default();
    holds(problems.iter().any(|problem| problem["id"] == "Kubeconfig"), document.to_string())?;
    let nagios = node.exec(&["u7s", "status", "--nagios"])?;
    exits(&nagios, 2)?;
    wants(&nagios, "Kubeconfig: /etc/kubernetes/admin.conf has users[].user.exec")?;
    for line in [
        &["init", IGNORED][..],
        &["init", "phase", "addon", "coredns"],
        &["upgrade", "plan"],
        &["upgrade", "apply", "--yes"],
    ] {
        let printed = kubeadm(node, line).within(Duration::from_secs(180)).run()?;
        exits(&printed, 2)?;
        wants(&printed, TOLD)?;
        holds(!printed.stderr.contains("was not ready"), format!("{printed}"))?;
    }
    let printed = node.exec(&["u7s", "kubeconfig"])?;
    exits(&printed, 1)?;
    wants(&printed, "users[].user.exec is not allowed")?;
    wants(&node.exec(&["kubectl", "--cache-dir=/dev/shm/kubectl", "get", "nodes"])?, node.name())?;
    holds(node.sh(&format!("test ! -e {MARK}")).is_ok(), "a command of the node's user ran on the host")
}

/// kubectl makes directories by names that an API server chooses: as root on the host it is the administrator's alone.
fn no_cache_of_roots(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.node().exec(&["u7s", "status"])?;
    exits(&kubeadm(cluster.node(), &["init", IGNORED]).run()?, 0)?;
    let there = cluster.node().sh("find /root/.kube -mindepth 1")?;
    holds(there == "/root/.kube/config", there)
}
