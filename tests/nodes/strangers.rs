//! Joins that cannot succeed: kubeadm's own words and our hint, within the deadline, and nothing half-made.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use u7s_harness::{Output, until};

use crate::Listed;
use crate::pair::{Pair, join, join_words, ready_within};
use crate::world::{Bare, Check, IGNORED, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    (
        "strangers::bad_words_are_refused_before_anything_is_done",
        bad_words_are_refused_before_anything_is_done,
    ),
    ("strangers::an_unknown_token_is_refused", an_unknown_token_is_refused),
    ("strangers::an_expired_token_is_refused", an_expired_token_is_refused),
    ("strangers::a_wrong_hash_of_the_ca_is_refused", a_wrong_hash_of_the_ca_is_refused),
    ("strangers::an_endpoint_that_does_not_answer_is_named", an_endpoint_that_does_not_answer_is_named),
    ("strangers::a_name_that_is_taken_is_refused", a_name_that_is_taken_is_refused),
    ("strangers::a_black_hole_for_large_packets_is_hinted_at", a_black_hole_for_large_packets_is_hinted_at),
    (
        "strangers::a_host_network_within_the_pod_network_is_told",
        a_host_network_within_the_pod_network_is_told,
    ),
    ("strangers::a_join_that_is_cut_off_can_be_repeated", a_join_that_is_cut_off_can_be_repeated),
    ("strangers::joins_and_resets_five_times_without_a_trace", joins_and_resets_five_times_without_a_trace),
];

/// kubeadm's own waits in these tests.
const PATIENCE: &str = "10s";

/// How much more than [`PATIENCE`] a failing join may take: its images are loaded first.
const DEADLINE: Duration = Duration::from_secs(75);

/// Endpoint, token and hash of A's cluster.
struct Words {
    endpoint: String,
    token: String,
    hash: String,
}

fn words(pair: &Pair) -> Result<Words, Box<dyn std::error::Error>> {
    let words = join_words(&pair.a)?;
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag).map(|at| at + 1);
        at.and_then(|at| words.get(at)).cloned().ok_or_else(|| format!("no {flag} in {words:?}"))
    };
    Ok(Words {
        endpoint: words.first().cloned().unwrap_or_default(),
        token: after("--token")?,
        hash: after("--discovery-token-ca-cert-hash")?,
    })
}

/// `kubeadm join --config` with short waits.
fn attempt(
    bare: &Bare,
    words: &Words,
    flags: &[&str],
) -> Result<(Output, Duration), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let output = kubeadm(&bare.node, &[&["join", "--config=/dev/shm/join.json", IGNORED], flags].concat());
    bare.node.write("/dev/shm/join.json", document(words).to_string())?;
    let output = output.run();
    bare.node.sh("rm /dev/shm/join.json")?;
    Ok((output?, began.elapsed()))
}

fn document(words: &Words) -> Value {
    json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {"apiServerEndpoint": words.endpoint, "token": words.token, "caCertHashes": [words.hash]},
            "tlsBootstrapToken": words.token,
        },
        "timeouts": {"discovery": PATIENCE, "kubernetesAPICall": PATIENCE, "tlsBootstrap": PATIENCE, "kubeletHealthCheck": PATIENCE},
    })
}

/// Tries, wants the refusal, and wants nothing of the attempt to be left.
fn refused(world: &World, change: impl Fn(&Pair, &mut Words) -> Check, flags: &[&str], text: &str) -> Check {
    let pair = world.pair()?;
    let bare = world.stranger()?;
    let mut words = words(&pair)?;
    change(&pair, &mut words)?;
    let (output, took) = attempt(&bare, &words, flags)?;
    note(format!("refused after {:.1} s", took.as_secs_f64()));
    let said = output.stderr.lines().rev().find(|line| line.contains(text));
    note(said.unwrap_or_default());
    exits(&output, 1)?;
    wants(&output, text)?;
    wants(&output, "hint: ")?;
    holds(took < DEADLINE, format!("it took {took:?}"))?;
    nothing_half_made(&pair, &bare, &words)
}

fn nothing_half_made(pair: &Pair, bare: &Bare, words: &Words) -> Check {
    let files = bare.node.sh("ls /etc/kubernetes/*.conf /etc/kubernetes/manifests /var/lib/u7s-admin/node/kubelet/pki 2>/dev/null || true")?;
    holds(
        !files.contains(".conf") && !files.contains(".yaml") && !files.contains(".pem"),
        format!("left: {files}"),
    )?;
    let kubelet = bare.node.exec(&["pgrep", "-x", "kubelet"])?;
    holds(!kubelet.ok(), "a kubelet runs")?;
    let nodes = pair.a.kubectl(&["get", "nodes", "-o", "name"])?;
    holds(nodes == "node/a\nnode/b", format!("nodes of the cluster: {nodes}"))?;
    let secret = words.token.split_once('.').map_or("", |(_, secret)| secret);
    let found = bare
        .node
        .sh(&format!("grep -rlF -e {secret} /etc /run /root /var/lib/u7s-admin/.kube /var/lib/u7s-admin/node/kubelet /var/lib/u7s-admin/node/log 2>/dev/null || true"))?;
    holds(found.is_empty(), format!("the token is in {found}"))
}

/// No namespace is made for them, either.
fn bad_words_are_refused_before_anything_is_done(world: &World) -> Check {
    let bare = world.stranger()?;
    let token = "abcdef.0123456789abcdef";
    let cases: [(&[&str], &str); 5] = [
        (
            &["10.77.0.1:6443", "--token", token],
            "using token-based discovery without caCertHashes can be unsafe",
        ),
        (
            &["10.77.0.1:6443", "--token", "abc", "--discovery-token-unsafe-skip-ca-verification"],
            "the bootstrap token is invalid",
        ),
        (&["--token", token], "bootstrapToken or file must be set"),
        (
            &["10.77.0.1", "--token", token, "--discovery-token-unsafe-skip-ca-verification"],
            "missing port in address",
        ),
        (
            &[
                "10.77.0.1:6443",
                "--token",
                token,
                "--discovery-token-unsafe-skip-ca-verification",
                "--cri-socket=unix:///run/x.sock",
            ],
            "containers run under the node's own CRI-O",
        ),
    ];
    for (arguments, text) in cases {
        let output = kubeadm(&bare.node, &[&["join", IGNORED], arguments].concat()).run()?;
        exits(&output, 3)?;
        wants(&output, text)?;
        let state = bare.node.exec(&["systemctl", "is-active", "u7s.service"])?;
        holds(state.stdout.trim() == "inactive", format!("u7s.service is {state}"))?;
    }
    Ok(())
}

fn an_unknown_token_is_refused(world: &World) -> Check {
    let change = |_: &Pair, words: &mut Words| {
        words.token = "aaaaaa.0z1y2x3w4v5u6t7s".into();
        Ok(())
    };
    refused(
        world,
        change,
        &[],
        "could not find a JWS signature in the cluster-info ConfigMap for token ID \"aaaaaa\"",
    )
}

fn an_expired_token_is_refused(world: &World) -> Check {
    let change = |pair: &Pair, words: &mut Words| {
        let token = kubeadm(pair.a.node(), &["token", "create", "--ttl=1s"]).ok()?;
        words.token = token.trim().to_owned();
        until(Duration::from_secs(60), "the token to be cleaned away", || {
            let left = pair.a.kubectl(&["get", "secrets", "-n", "kube-system", "-o", "name"]);
            let left = left.map_err(|error| error.to_string())?;
            let id = words.token.split('.').next().unwrap_or_default();
            if left.contains(&format!("bootstrap-token-{id}")) { Err(left) } else { Ok(()) }
        })?;
        Ok(())
    };
    refused(world, change, &[], "could not find a JWS signature in the cluster-info ConfigMap for token ID")
}

fn a_wrong_hash_of_the_ca_is_refused(world: &World) -> Check {
    let change = |_: &Pair, words: &mut Words| {
        words.hash = format!("sha256:{}", "0".repeat(64));
        Ok(())
    };
    refused(world, change, &[], "none of the public keys")
}

fn an_endpoint_that_does_not_answer_is_named(world: &World) -> Check {
    let change = |_: &Pair, words: &mut Words| {
        words.endpoint = "10.77.0.254:6443".into();
        Ok(())
    };
    refused(world, change, &[], "10.77.0.254:6443")
}

fn a_name_that_is_taken_is_refused(world: &World) -> Check {
    refused(
        world,
        |_, _| Ok(()),
        &["--node-name=a"],
        "a Node with name \"a\" and status \"Ready\" already exists",
    )
}

/// The bridge's port to this host drops what is large, and tells nobody.
fn a_black_hole_for_large_packets_is_hinted_at(world: &World) -> Check {
    let lan = world.lan()?;
    let port = world.stranger()?.node.port();
    lan.command(&["ip", "link", "set", &port, "mtu", "1280"]).ok()?;
    let result = refused(world, |_, _| Ok(()), &[], "couldn't validate the identity of the API Server");
    lan.command(&["ip", "link", "set", &port, "mtu", "1500"]).ok()?;
    result
}

/// kubeadm has no word for it, and joins.
fn a_host_network_within_the_pod_network_is_told(world: &World) -> Check {
    let pair = world.pair()?;
    let bare = world.stranger()?;
    bare.node
        .sh("ip link add clash type bridge; ip addr add 10.244.77.1/24 dev clash; ip link set clash up")?;
    let output = join(&bare.node, &join_words(&pair.a)?, &[]).run();
    bare.node.sh("ip link del clash")?;
    let output = output?;
    exits(&output, 0)?;
    wants(
        &output,
        "[WARNING PodCIDR]: the pod network 10.244.0.0/16 of the cluster overlaps 10.244.77.0/24 on clash",
    )?;
    exits(&kubeadm(&bare.node, &["reset", "--force"]).run()?, 0)?;
    pair.a.kubectl(&["delete", "node", bare.node.name()]).map(drop)
}

/// The way to the API server ends between preflight and bootstrap; the same command later completes the join.
fn a_join_that_is_cut_off_can_be_repeated(world: &World) -> Check {
    let pair = world.pair()?;
    let bare = world.stranger()?;
    let lan = world.lan()?;
    let words = words(&pair)?;
    bare.node.write("/dev/shm/join.json", document(&words).to_string())?;
    let began = Instant::now();
    let mut running = kubeadm(&bare.node, &["join", "--config=/dev/shm/join.json", IGNORED]).spawn()?;
    until(DEADLINE, "the kubelet's configuration to be written", || {
        let (stdout, stderr) = running.so_far();
        let there = stdout.contains("Writing kubelet configuration")
            || stderr.contains("Writing kubelet configuration");
        let ended = running.try_status().map_err(|error| error.to_string())?;
        if there || ended.is_some() { Ok(()) } else { Err(String::new()) }
    })?;
    let port = pair.a.node().port();
    lan.command(&["ip", "link", "set", &port, "down"]).ok()?;
    let output = running.wait(DEADLINE);
    lan.command(&["ip", "link", "set", &port, "up"]).ok()?;
    let output = output?;
    note(format!("cut off: exit {:?} after {:.1} s", output.code(), began.elapsed().as_secs_f64()));
    exits(&output, 1)?;
    wants(&output, "hint: ")?;
    let left = bare.node.exec(&["ls", "/etc/kubernetes/bootstrap-kubelet.conf"])?;
    holds(!left.ok(), "bootstrap-kubelet.conf is left")?;
    let again = join(&bare.node, &join_words(&pair.a)?, &[]).run()?;
    exits(&again, 0)?;
    ready_within(&pair.a, bare.node.name(), Duration::from_secs(120))?;
    exits(&kubeadm(&bare.node, &["reset", "--force"]).run()?, 0)?;
    pair.a.kubectl(&["delete", "node", bare.node.name()])?;
    bare.node.sh("rm /dev/shm/join.json").map(drop)?;
    Ok(())
}

/// Each time the host is as it was before the first, and the cluster has no more of the node.
fn joins_and_resets_five_times_without_a_trace(world: &World) -> Check {
    let pair = world.pair()?;
    let bare = world.stranger()?;
    if bare.node.exec(&["systemctl", "is-active", "u7s.service"])?.ok() {
        exits(&kubeadm(&bare.node, &["reset", "--force"]).run()?, 0)?;
    }
    for round in 1..=5 {
        let began = Instant::now();
        exits(&join(&bare.node, &join_words(&pair.a)?, &[]).run()?, 0)?;
        let joined = began.elapsed();
        ready_within(&pair.a, bare.node.name(), Duration::from_secs(120))?;
        let ready = began.elapsed();
        exits(&kubeadm(&bare.node, &["reset", "--force"]).run()?, 0)?;
        pair.a.kubectl(&["delete", "node", bare.node.name()])?;
        let changes = bare.before.diff(&bare.node.snapshot()?);
        let (joined, ready) = (joined.as_secs_f64(), ready.as_secs_f64());
        note(format!(
            "round {round}: joined after {joined:.1} s, Ready after {ready:.1} s, {} changes left",
            changes.len()
        ));
        holds(changes.is_empty(), format!("left behind: {changes:#?}"))?;
    }
    Ok(())
}
