//! Every other command of kubeadm, on a live node: what it says, how it ends, and what stands afterwards.
//!
//! Lines are run by bash in [`DIR`] of the host as root, or as the node's user in `/`, with the shims first in PATH.

use std::error::Error;

use serde_json::Value;
use u7s_harness::{Output, until};

use crate::Listed;
use crate::cluster::{Cluster, SOON};
use crate::world::{Check, SHIMS, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[
    ("commands::that_only_speak_say_what_the_real_one_says", speaking),
    ("commands::tokens", tokens),
    ("commands::configurations", configurations),
    ("commands::kubeconfigs_and_certificates", certificates),
    ("commands::phases", phases),
    ("commands::upgrade_to_the_same_version", upgrade),
];

/// A directory that only root may enter, and that is not there inside.
const DIR: &str = "/root/commands";

/// A file in [`DIR`], 0600: the cluster's own configuration.
const CLUSTER: &str = "cluster.yaml";

/// A document that everybody may read.
const OLD: &str = "/etc/u7s-old.yaml";

/// One command line and what it must do.
struct Row {
    line: &'static str,
    who: Who,
    status: i32,
    /// Somewhere in the output.
    text: &'static str,
    effect: Effect,
}

/// Who calls.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Root,
    Node,
}

/// What is to be seen afterwards.
#[derive(Clone, Copy)]
enum Effect {
    /// Nothing beyond what was printed.
    Said,
    /// The real kubeadm, called on the host, prints the same and ends alike.
    AsReal,
    /// This script of sh succeeds on the host, in [`DIR`]; the command's standard output is its input.
    Script(&'static str),
}

use Effect::{AsReal, Said, Script};
use Who::{Node, Root};

const fn row(line: &'static str, status: i32, text: &'static str, effect: Effect) -> Row {
    Row { line, who: Root, status, text, effect }
}

const fn by_node(row: Row) -> Row {
    Row { who: Node, ..row }
}

const SPEAKING: &[Row] = &[
    row("kubeadm", 0, "Easily bootstrap a secure Kubernetes cluster", AsReal),
    row("kubeadm version", 0, "kubeadm version: &version.Info", AsReal),
    row("kubeadm version -o json", 0, "\"clientVersion\"", AsReal),
    row("kubeadm version -o yaml", 0, "clientVersion:", AsReal),
    row("kubeadm version -o short", 0, "v1.34", AsReal),
    row("kubeadm version -o no", 1, "invalid output format", AsReal),
    row("kubeadm completion bash", 0, "__start_kubeadm", AsReal),
    row("kubeadm completion zsh", 0, "__kubeadm_bash_source", AsReal),
    row("kubeadm completion fish", 1, "unsupported shell type", Said),
    row("kubeadm completion", 1, "shell not specified", AsReal),
    row("kubeadm config print init-defaults", 0, "kind: InitConfiguration", AsReal),
    row("kubeadm config print join-defaults", 0, "kind: JoinConfiguration", AsReal),
    row("kubeadm config print reset-defaults", 0, "kind: ResetConfiguration", AsReal),
    row("kubeadm config print upgrade-defaults", 0, "kind: UpgradeConfiguration", AsReal),
    row("kubeadm nonsense", 1, "unknown command \"nonsense\"", AsReal),
    row("kubeadm token nonsense", 1, "unknown command \"nonsense\"", AsReal),
    row("kubeadm certs renew nonsense", 1, "nonsense", AsReal),
    row("kubeadm --nonsense", 1, "unknown flag: --nonsense", AsReal),
    row("kubeadm token create --nonsense", 1, "unknown flag: --nonsense", AsReal),
    row("kubeadm init phase nonsense", 1, "", AsReal),
    row("kubeadm reset phase", 1, "single phase of the \"reset\" workflow", AsReal),
    by_node(row("kubeadm version -o short", 0, "v1.34", AsReal)),
    by_node(row("kubeadm nonsense", 1, "unknown command", AsReal)),
];

/// Each has a help of its own.
const HELPS: &str = "init join reset upgrade config certs kubeconfig token version completion \
    token\\ create token\\ delete token\\ generate token\\ list \
    certs\\ renew certs\\ renew\\ all certs\\ check-expiration certs\\ certificate-key certs\\ generate-csr \
    config\\ images\\ list config\\ images\\ pull config\\ print\\ init-defaults config\\ validate config\\ migrate \
    kubeconfig\\ user upgrade\\ plan upgrade\\ apply upgrade\\ node upgrade\\ diff \
    init\\ phase init\\ phase\\ certs\\ all join\\ phase\\ kubelet-start reset\\ phase\\ cleanup-node";

fn speaking(world: &World) -> Check {
    with_files(world, |cluster| run(cluster, SPEAKING).and_then(|()| helps(cluster)))
}

fn helps(cluster: &Cluster) -> Check {
    let script = format!(
        "for words in {HELPS}; do for form in \"help $words\" \"$words --help\"; do \
         $1 $form > /tmp/real 2>&1; real=$?; kubeadm $form > /tmp/ours 2>&1; ours=$?; \
         [ $real = $ours ] && cmp -s /tmp/real /tmp/ours || echo \"$form: $real $ours\"; done; done"
    );
    let differing = shell(cluster, Root, &script.replace("$1", "/usr/bin/kubeadm"))?;
    holds(differing.ok() && differing.stdout.is_empty(), format!("helps that differ: {differing}"))
}

const TOKENS: &[Row] = &[
    row("kubeadm token generate", 0, "", Script("grep -qxE '[a-z0-9]{6}\\.[a-z0-9]{16}'")),
    row(
        "kubeadm token create --ttl 1h --description 'two words, \"$x\"'",
        0,
        "",
        Script(
            "id=$(cut -d. -f1); kubectl -n kube-system get secret bootstrap-token-$id -o jsonpath='{.data.description}' \
             | base64 -d | grep -qxF 'two words, \"$x\"'",
        ),
    ),
    row(
        "kubeadm token create aaaaaa.0123456789abcdef",
        0,
        "aaaaaa.0123456789abcdef",
        Script("kubectl -n kube-system get secret bootstrap-token-aaaaaa"),
    ),
    row("kubeadm token create aaaaaa.0123456789abcdef", 1, "already exists", Said),
    row("kubeadm token create no-token", 1, "was not of the form", Said),
    row("kubeadm token list", 0, "aaaaaa.0123456789abcdef", Said),
    row("kubeadm token list -o json", 0, "\"token\": \"aaaaaa.0123456789abcdef\"", Said),
    row("kubeadm token list --kubeconfig admin.conf", 0, "aaaaaa.0123456789abcdef", Said),
    row("kubeadm token list --kubeconfig=none.conf", 1, "none.conf", Said),
    row("kubeadm token list -o jsonpath='{.token}{\"\\n\"}'", 0, "aaaaaa.0123456789abcdef", Said),
    by_node(row("kubeadm token list", 0, "aaaaaa.0123456789abcdef", Said)),
    row(
        "kubeadm token delete aaaaaa",
        0,
        "deleted",
        Script("! kubectl -n kube-system get secret bootstrap-token-aaaaaa"),
    ),
    row("kubeadm token delete aaaaaa", 1, "not found", Said),
    row("kubeadm token delete", 1, "missing argument", Said),
    row(
        "kubeadm token create --dry-run bbbbbb.0123456789abcdef",
        0,
        "",
        Script("! kubectl -n kube-system get secret bootstrap-token-bbbbbb"),
    ),
    row(
        "kubeadm token create --print-join-command",
        0,
        "kubeadm join",
        Script(
            "hash=$(openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der | sha256sum | cut -d' ' -f1); \
             grep -q \"^kubeadm join 10.77.0.[0-9]*:6443 --token .* --discovery-token-ca-cert-hash sha256:$hash\"",
        ),
    ),
    by_node(row("kubeadm token create --print-join-command --ttl 5m", 0, "kubeadm join", Said)),
];

fn tokens(world: &World) -> Check {
    with_files(world, |cluster| run(cluster, TOKENS))
}

const CONFIGURATIONS: &[Row] = &[
    row(
        "kubeadm config images list --config cluster.yaml",
        0,
        "registry.k8s.io/kube-apiserver:v1.34.4",
        AsReal,
    ),
    row(
        "kubeadm config images list --kubernetes-version v1.34.4 --image-repository r.test",
        0,
        "r.test/etcd:",
        AsReal,
    ),
    // There is no registry: what counts is that it is asked.
    row(
        "kubeadm config images pull --kubernetes-version v1.34.4 --image-repository 127.0.0.1:1/none --cri-socket unix:///run/crio/crio.sock",
        1,
        "failed to pull image \"127.0.0.1:1/none/kube-apiserver:v1.34.4\"",
        Said,
    ),
    row("kubeadm config validate --config cluster.yaml", 0, "ok", AsReal),
    row("kubeadm config validate --config=/root/commands/cluster.yaml", 0, "ok", AsReal),
    row("kubeadm config validate --config ../commands/cluster.yaml", 0, "ok", AsReal),
    row("kubeadm config validate --config <(cat cluster.yaml)", 0, "ok", AsReal),
    row("cat cluster.yaml | kubeadm config validate --config /dev/stdin", 0, "ok", AsReal),
    row("kubeadm config validate --config -", 1, "open -: no such file or directory", AsReal),
    row("kubeadm config validate --config none.yaml", 1, "none.yaml: no such file or directory", AsReal),
    row("kubeadm config validate", 1, "--config flag is mandatory", AsReal),
    row("kubeadm config validate --config wrong.yaml", 1, "", AsReal),
    row("kubeadm config migrate", 1, "--old-config flag is mandatory", AsReal),
    row("kubeadm config migrate --old-config old.yaml", 0, "apiVersion: kubeadm.k8s.io/v1beta4", Said),
    row("kubeadm config migrate --old-config <(cat old.yaml)", 0, "apiVersion: kubeadm.k8s.io/v1beta4", Said),
    row(
        "kubeadm config migrate --old-config old.yaml --new-config new.yaml",
        0,
        "",
        Script(
            "stat -c '%U %a' new.yaml | grep -qx 'root 644' && kubeadm config validate --config new.yaml && grep -q v1beta4 new.yaml",
        ),
    ),
    row(
        "kubeadm config migrate --old-config old.yaml --new-config=/root/commands/cluster2.yaml && \
         kubeadm config migrate --old-config old.yaml --new-config=/root/commands/cluster2.yaml",
        0,
        "",
        Script("kubeadm config validate --config cluster2.yaml"),
    ),
    row(
        "kubeadm config migrate --old-config old.yaml --new-config /etc/kubernetes/new.yaml",
        0,
        "",
        Script("stat -c %U /etc/kubernetes/new.yaml | grep -qx u7s-admin && rm /etc/kubernetes/new.yaml"),
    ),
    row(
        "kubeadm config migrate --old-config old.yaml --new-config none/new.yaml",
        1,
        "none",
        Script("! test -e none"),
    ),
    row(
        "kubeadm config migrate --old-config wrong.yaml --new-config wrong2.yaml",
        1,
        "",
        Script("! test -e wrong2.yaml"),
    ),
    row(
        "kubeadm config migrate --old-config old.yaml --new-config /dev/stdout | grep -c v1beta4",
        0,
        "2",
        Said,
    ),
    by_node(row(
        "kubeadm config migrate --old-config /etc/u7s-old.yaml --new-config /var/lib/u7s-admin/new.yaml",
        0,
        "",
        Script(
            "stat -c '%U' /var/lib/u7s-admin/new.yaml | grep -qx u7s-admin && rm /var/lib/u7s-admin/new.yaml",
        ),
    )),
];

fn configurations(world: &World) -> Check {
    with_files(world, |cluster| run(cluster, CONFIGURATIONS))
}

const CERTIFICATES: &[Row] = &[
    row("kubeadm certs certificate-key", 0, "", Script("grep -qxE '[0-9a-f]{64}'")),
    row("kubeadm certs check-expiration", 0, "etcd-healthcheck-client", Said),
    row("kubeadm certs check-expiration -o json", 0, "", Script("grep -q '\"name\": \"super-admin.conf\"'")),
    row("kubeadm certificates check-expiration", 0, "front-proxy-client", Said),
    by_node(row("kubeadm certs check-expiration", 0, "front-proxy-client", Said)),
    row(
        "kubeadm kubeconfig user --client-name bob --org system:masters --config cluster.yaml --validity-period 1h",
        0,
        "kind: Config",
        Script(
            "cat > bob.conf; kubectl --kubeconfig bob.conf auth whoami | grep -qw bob && kubectl --kubeconfig bob.conf get nodes; rm bob.conf",
        ),
    ),
    row("kubeadm kubeconfig user --client-name bob --token x.y --config cluster.yaml", 0, "token: x.y", Said),
    row("kubeadm kubeconfig user --config cluster.yaml", 1, "client-name", Said),
    row(
        "kubeadm certs generate-csr --cert-dir csr --kubeconfig-dir csr-conf --config cluster.yaml",
        0,
        "",
        Script(
            "stat -c '%U %a' csr/apiserver.key csr/etcd/peer.key csr-conf/admin.conf | uniq | grep -qx 'root 600' && \
             openssl req -noout -subject -in csr/apiserver.csr | grep -q kube-apiserver && ! ls -d /run/u7s/output*",
        ),
    ),
    row(
        "kubeadm init phase certs ca --cert-dir=/root/commands/new/pki --kubernetes-version v1.34.4",
        0,
        "Generating \"ca\" certificate and key",
        Script("stat -c '%U %a' new/pki/ca.key | grep -qx 'root 600'"),
    ),
    row(
        "kubeadm init phase certs apiserver --cert-dir new/pki --kubernetes-version v1.34.4",
        0,
        "",
        Script(
            "openssl verify -CAfile new/pki/ca.crt new/pki/apiserver.crt && ! cmp -s new/pki/ca.crt /etc/kubernetes/pki/ca.crt",
        ),
    ),
    row(
        "kubeadm init phase kubeconfig admin --cert-dir new/pki --kubeconfig-dir new/kc --kubernetes-version v1.34.4",
        0,
        "",
        Script("stat -c '%U %a' new/kc/admin.conf | grep -qx 'root 600'; rm -r new csr csr-conf"),
    ),
];

/// As `kubeadm certs renew` names them, and where the certificate is.
const RENEWED: [(&str, &str); 11] = [
    ("admin.conf", "/etc/kubernetes/admin.conf"),
    ("apiserver", "/etc/kubernetes/pki/apiserver.crt"),
    ("apiserver-etcd-client", "/etc/kubernetes/pki/apiserver-etcd-client.crt"),
    ("apiserver-kubelet-client", "/etc/kubernetes/pki/apiserver-kubelet-client.crt"),
    ("controller-manager.conf", "/etc/kubernetes/controller-manager.conf"),
    ("etcd-healthcheck-client", "/etc/kubernetes/pki/etcd/healthcheck-client.crt"),
    ("etcd-peer", "/etc/kubernetes/pki/etcd/peer.crt"),
    ("etcd-server", "/etc/kubernetes/pki/etcd/server.crt"),
    ("front-proxy-client", "/etc/kubernetes/pki/front-proxy-client.crt"),
    ("scheduler.conf", "/etc/kubernetes/scheduler.conf"),
    ("super-admin.conf", "/etc/kubernetes/super-admin.conf"),
];

fn certificates(world: &World) -> Check {
    with_files(world, |cluster| run(cluster, CERTIFICATES).and_then(|()| renewals(cluster)))
}

fn renewals(cluster: &Cluster) -> Check {
    for (name, path) in RENEWED {
        renewed(cluster, name, &[path])?;
    }
    let all: Vec<&str> = RENEWED.iter().map(|(_, path)| *path).collect();
    renewed(cluster, "all", &all)?;
    holds(
        cluster.kubectl(&["--kubeconfig=/etc/kubernetes/admin.conf", "get", "--raw", "/readyz"])? == "ok",
        "the API server does not know the renewed certificate",
    )
}

/// Renews and compares: later, other, and the file still the node's user's.
fn renewed(cluster: &Cluster, name: &str, paths: &[&str]) -> Check {
    let before = ends(cluster, paths)?;
    // Certificates end at whole seconds.
    let output = until(SOON, "a second to pass", || {
        let output = shell(cluster, Root, &format!("kubeadm certs renew {name}"))
            .map_err(|error| error.to_string())?;
        let after = ends(cluster, paths).map_err(|error| error.to_string())?;
        let later = before.iter().zip(&after).all(|(before, after)| after > before);
        if later { Ok(output) } else { Err(format!("{before:?} {after:?} {output}")) }
    })?;
    let owners = cluster.node().sh(&format!("stat -c %U {} | sort -u", paths.join(" ")))?;
    holds(output.ok() && owners == "u7s-admin", format!("renew {name}: owners {owners}, {output}"))
}

/// When certificates end, in seconds since 1970.
fn ends(cluster: &Cluster, paths: &[&str]) -> Result<Vec<u64>, Box<dyn Error>> {
    let script = "for file in $0 $*; do case $file in *.conf) sed -n 's/.*client-certificate-data: //p' $file | base64 -d ;; *) cat $file ;; esac \
        | openssl x509 -noout -enddate | cut -d= -f2 | date -f - +%s; done";
    let argv: Vec<&str> = ["sh", "-euc", script].iter().chain(paths).copied().collect();
    Ok(cluster.node().ok(&argv)?.lines().map(str::parse).collect::<Result<_, _>>()?)
}

const PHASES: &[Row] = &[
    row("kubeadm init phase show-join-command", 1, "unresolved dependencies", Said),
    row("kubeadm init phase addon kube-proxy", 0, "Applied essential addon: kube-proxy", Script(SAME)),
    row("kubeadm init phase addon coredns", 0, "Applied essential addon: CoreDNS", Script(SAME)),
    row("kubeadm init phase upload-config kubeadm", 0, "kubeadm-config", Script(SAME)),
    row("kubeadm init phase upload-config all --v=1", 0, "kubelet-config", Script(SAME)),
    by_node(row("kubeadm init phase upload-config kubelet", 0, "kubelet-config", Script(SAME))),
    row("kubeadm init phase control-plane all", 0, "kube-scheduler", Script(SAME)),
    row("kubeadm init phase etcd local", 0, "static Pod manifest for local etcd", Script(SAME)),
    row("kubeadm init phase certs all", 0, "Using existing apiserver certificate", Script(SAME)),
    row("kubeadm init phase kubelet-start", 0, "Starting the kubelet", Script(FITS)),
    row(
        "kubeadm init phase addon kube-proxy --print-manifest --image-repository=r.test",
        0,
        "r.test/kube-proxy:",
        Script(SAME),
    ),
    row(
        "kubeadm init phase certs all --config cluster.yaml",
        0,
        "Using existing apiserver certificate and key on disk",
        Said,
    ),
    row("kubeadm init phase kubeconfig all --config cluster.yaml", 0, "Using existing kubeconfig file", Said),
    row(
        "kubeadm init phase etcd local --config cluster.yaml",
        0,
        "Creating static Pod manifest for local etcd",
        Said,
    ),
    row("kubeadm init phase control-plane all --config cluster.yaml", 0, "kube-scheduler", Said),
    row(
        "kubeadm init phase control-plane apiserver --config cluster.yaml --dry-run",
        0,
        "kube-apiserver",
        Said,
    ),
    row("kubeadm init phase upload-config all --config cluster.yaml", 0, "kubeadm-config", Said),
    row(
        "kubeadm init phase upload-certs --upload-certs --config cluster.yaml",
        0,
        "Using certificate key",
        Script(
            "kubectl -n kube-system get secret kubeadm-certs && kubectl -n kube-system delete secret kubeadm-certs",
        ),
    ),
    row(
        "kubeadm init phase mark-control-plane --config cluster.yaml",
        0,
        "",
        Script("kubectl get nodes -l node-role.kubernetes.io/control-plane -o name | grep -q node/"),
    ),
    row("kubeadm init phase bootstrap-token --config cluster.yaml", 0, "Using token", Said),
    row("kubeadm init phase kubelet-finalize all --config cluster.yaml", 0, "", Said),
    row(
        "kubeadm init phase addon all --config cluster.yaml",
        0,
        "Applied essential addon: kube-proxy",
        Script("kubectl -n kube-system rollout status ds/kube-proxy --timeout=60s"),
    ),
    row(
        "kubeadm init phase kubelet-start --config cluster.yaml",
        0,
        "Starting the kubelet",
        Script(
            "grep -q 'cgroupDriver: cgroupfs' /var/lib/u7s-admin/node/kubelet/config.yaml && grep -q 'failSwapOn: false' /var/lib/u7s-admin/node/kubelet/config.yaml",
        ),
    ),
    row("kubeadm join phase preflight", 1, "discovery", Said),
    row("kubeadm join phase kubelet-start", 1, "discovery", Said),
    row("kubeadm reset phase preflight --dry-run", 0, "", Said),
    row("kubeadm reset phase remove-etcd-member --dry-run", 0, "", Said),
    row(
        "kubeadm reset phase cleanup-node --dry-run",
        0,
        "Would",
        Script("test -s /etc/kubernetes/admin.conf"),
    ),
];

/// What init wrote of the cluster's settings: ConfigMaps, and the static pods' manifests.
const SETTINGS: &str = "export KUBECACHEDIR=/dev/shm/kubectl; for map in kubeadm-config kubelet-config kube-proxy coredns; do \
    kubectl -n kube-system get cm $map -o jsonpath='{.data}' || exit 1; done; cat /etc/kubernetes/manifests/*.yaml";

/// They are as init left them.
const SAME: &str = "sh ./settings > now && cmp settings.init now";

/// A phase of init that is run again, without a configuration, must leave the cluster's settings as they were.
fn phases(world: &World) -> Check {
    with_files(world, |cluster| {
        cluster.node().write(&format!("{DIR}/settings"), SETTINGS)?;
        cluster.node().sh(&format!("cd {DIR}; sh ./settings > settings.init; test -s settings.init"))?;
        run(cluster, PHASES)?;
        cluster.converge(SOON).map(drop)
    })
}

const UPGRADE: &[Row] = &[
    row("kubeadm upgrade plan v1.34.4 --ignore-preflight-errors=SystemVerification", 0, "", Said),
    row("kubeadm upgrade diff v1.34.4", 0, "", Said),
    row(
        "kubeadm upgrade apply v1.34.4 --dry-run -y --ignore-preflight-errors=SystemVerification",
        0,
        "Finished dryrunning successfully",
        Said,
    ),
    row(
        "kubeadm upgrade node --dry-run --ignore-preflight-errors=SystemVerification",
        0,
        "Finished dryrunning successfully",
        Said,
    ),
    row("kubeadm upgrade apply v1.33.0 -y --ignore-preflight-errors=SystemVerification", 1, "", Said),
    row("kubeadm upgrade node phase kubelet-config", 0, "", Script(FITS)),
    row(
        "kubeadm upgrade node phase kubelet-config --patches mine",
        0,
        "",
        Script(
            "grep -q 'maxPods: 77' /var/lib/u7s-admin/node/kubelet/config.yaml && grep -q 'failSwapOn: false' /var/lib/u7s-admin/node/kubelet/config.yaml",
        ),
    ),
    row("kubeadm upgrade node phase kubelet-config --config upgrade.yaml", 0, "", Script(FITS)),
    row("kubeadm upgrade node --ignore-preflight-errors=SystemVerification", 0, "", Script(FITS)),
    row(
        "kubeadm upgrade apply v1.34.4 -y --force --ignore-preflight-errors=SystemVerification",
        0,
        "SUCCESS! A control plane node of your cluster was upgraded to \"v1.34.4\"",
        Script(FITS),
    ),
];

/// The kubelet's configuration still knows the node's limits.
const FITS: &str = "config=/var/lib/u7s-admin/node/kubelet/config.yaml; stat -c %U $config | grep -qx u7s-admin && \
    grep -q 'failSwapOn: false' $config && grep -q 'cgroupDriver: cgroupfs' $config && ! grep -q 'maxPods: 77' $config";

fn upgrade(world: &World) -> Check {
    with_files(world, |cluster| {
        run(cluster, UPGRADE)?;
        cluster.inside(&[&format!("{SHIMS}/systemctl"), "restart", "kubelet"])?;
        cluster.converge(SOON).map(drop)
    })
}

/// Runs a test between making the files that its lines name and removing them, whatever it gives.
fn with_files(world: &World, test: impl FnOnce(&Cluster) -> Check) -> Check {
    let cluster = world.cluster()?;
    let done = prepare(&cluster).and_then(|()| test(&cluster));
    cluster.node().sh(&format!("rm -rf {DIR} {OLD} /tmp/real /tmp/ours"))?;
    done
}

/// The files that lines name.
fn prepare(cluster: &Cluster) -> Check {
    let map = |name: &str, key: &str| -> Result<String, Box<dyn Error>> {
        let map: Value = cluster.json(&["-n", "kube-system", "get", "cm", name])?;
        Ok(map["data"][key].as_str().unwrap_or_default().to_owned())
    };
    let node = cluster.node();
    node.sh(&format!("umask 077; mkdir -p {DIR}/mine; cp /etc/kubernetes/admin.conf {DIR}/"))?;
    let proxy = map("kube-proxy", "config.conf")?;
    let text = format!("{}---\n{proxy}", map("kubeadm-config", "ClusterConfiguration")?);
    node.write(&format!("{DIR}/{CLUSTER}"), text)?;
    let old = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nkubernetesVersion: v1.34.4\n";
    node.write(&format!("{DIR}/old.yaml"), old)?;
    node.write(OLD, old)?;
    node.write(
        &format!("{DIR}/wrong.yaml"),
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnonsense: 1\n",
    )?;
    node.write(&format!("{DIR}/mine/kubeletconfiguration+merge.yaml"), "maxPods: 77\n")?;
    node.write(
        &format!("{DIR}/upgrade.yaml"),
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: UpgradeConfiguration\n",
    )?;
    node.sh(&format!("chmod -R go= {DIR}")).map(drop)?;
    Ok(())
}

/// The longest failure of a row, characters: completions are long.
const SHOWN: usize = 3000;

/// Runs all rows and tells all that failed.
fn run(cluster: &Cluster, rows: &[Row]) -> Check {
    let mut failed = Vec::new();
    for row in rows {
        let start = std::time::Instant::now();
        let result = check(cluster, row);
        let took = start.elapsed().as_secs_f64();
        let who = if row.who == Root { "" } else { "u7s-admin: " };
        note(format!("{} {who}{} ({took:.1} s)", if result.is_ok() { "ok  " } else { "FAIL" }, row.line));
        let shown = |error: Box<dyn Error>| error.to_string().chars().take(SHOWN).collect::<String>();
        failed.extend(result.err().map(|error| format!("{}: {}", row.line, shown(error))));
    }
    holds(failed.is_empty(), failed.join("\n"))
}

fn check(cluster: &Cluster, row: &Row) -> Check {
    let output = shell(cluster, row.who, row.line)?;
    holds(output.code() == Some(row.status), format!("wanted exit status {}: {output}", row.status))?;
    let said = output.stdout.contains(row.text) || output.stderr.contains(row.text);
    holds(said, format!("`{}` is not in the output: {output}", row.text))?;
    match row.effect {
        Said => Ok(()),
        AsReal => {
            let real =
                shell(cluster, Root, &format!("kubeadm() {{ /usr/bin/kubeadm \"$@\"; }}; {}", row.line))?;
            let same = real.stdout == output.stdout && real.code() == output.code();
            // The real one warns of the time by itself.
            let same = same && lines(&real.stderr) == lines(&output.stderr);
            holds(same, format!("real {real} ours {output}"))
        }
        Script(script) => {
            let argv = ["sh", "-uc", &format!("cd {DIR}; {script}")];
            let command =
                cluster.node().command(&argv).first_in_path(SHIMS).env("KUBECACHEDIR", "/dev/shm/kubectl");
            let seen = command.input(output.stdout.clone()).within(SOON).run()?;
            holds(seen.ok(), format!("`{script}`: {seen} after {output}"))
        }
    }
}

/// Lines without those of the log, which carry the time.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with(['W', 'I', 'E'])).collect()
}

fn shell(cluster: &Cluster, who: Who, line: &str) -> Result<Output, Box<dyn Error>> {
    let command = cluster.node().command(&["bash", "-c", line]).first_in_path(SHIMS).within(4 * SOON);
    Ok(match who {
        Root => command.dir(DIR).run()?,
        Node => command.user("u7s-admin").env("HOME", "/var/lib/u7s-admin").dir("/").run()?,
    })
}
