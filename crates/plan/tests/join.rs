//! `kubeadm join`: flags and documents to a JoinConfiguration and a plan.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use u7s_plan::config::Config;
use u7s_plan::facts::Facts;
use u7s_plan::init::{Docs, Outcome, join, volatile};
use u7s_plan::kubeadm::{DISCOVERY_FILE, Role};
use u7s_plan::need::Level;
use u7s_plan::step::{Action, Done, Phase};
use u7s_plan::{conntrack, preflight, request};

const TOKEN: &str = "abcdef.0123456789abcdef";
const HASH: &str = "sha256:6c3f1c1b7f1d7f7f8c7b5d2b2d1e5a1e3e4d6b7a8c9d0e1f2a3b4c5d6e7f8091";

fn request(flags: &[(&str, &str)]) -> request::Join {
    let config_flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let given = request::Init { config_flags, ..request::Init::default() };
    request::Join { given, endpoint: Some("10.77.0.11:6443".into()) }
}

fn plain() -> Vec<(&'static str, &'static str)> {
    vec![("token", TOKEN), ("discovery-token-ca-cert-hash", HASH)]
}

fn planned(request: &request::Join, docs: Docs, facts: &Facts) -> Outcome {
    join(&Config::default(), request, docs, facts).unwrap()
}

fn refused(request: &request::Join, docs: Docs) -> String {
    join(&Config::default(), request, docs, &common::machine()).unwrap_err().to_string()
}

/// The configuration that kubeadm gets, and the arguments beside it.
fn run(outcome: &Outcome) -> (Value, Vec<String>, Option<Done>) {
    let phase = outcome.plan.phases.iter().find(|steps| steps.phase == Phase::Cluster).unwrap();
    match &phase.steps[0].action {
        Action::Run { argv, config, done_when, .. } => {
            let config = serde_json::from_str(config.as_ref().unwrap().expose_secret()).unwrap();
            (config, argv.clone(), done_when.clone())
        }
        other => unreachable!("{other}"),
    }
}

fn document(discovery: Value) -> Docs {
    let document =
        json!({"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "JoinConfiguration", "discovery": discovery});
    Docs { documents: vec![document], ..Docs::default() }
}

fn from_file() -> request::Join {
    let given = request::Init { config: Some("/c".into()), ..request::Init::default() };
    request::Join { given, endpoint: None }
}

#[test]
fn a_worker_joins_by_its_flags() {
    let outcome = planned(&request(&plain()), Docs::default(), &common::machine());
    let (config, argv, done) = run(&outcome);
    assert_eq!(argv[1..3], ["join".to_owned(), "--config={config}".into()]);
    assert_eq!(config["kind"], "JoinConfiguration");
    assert_eq!(config["discovery"]["bootstrapToken"]["apiServerEndpoint"], "10.77.0.11:6443");
    assert_eq!(config["discovery"]["bootstrapToken"]["token"], TOKEN);
    assert_eq!(config["discovery"]["bootstrapToken"]["caCertHashes"], json!([HASH]));
    assert_eq!(config["discovery"]["tlsBootstrapToken"], TOKEN);
    assert_eq!(config["controlPlane"], Value::Null);
    assert_eq!(config["nodeRegistration"]["criSocket"], "unix:///run/crio/crio.sock");
    assert_eq!(config["patches"]["directory"], "/etc/u7s/patches");
    assert!(matches!(done, Some(Done::Joined { control_plane: false, .. })), "{done:?}");
    assert!(
        outcome.plan.phases.iter().all(|steps| steps.phase != Phase::Publish),
        "a worker has no admin.conf"
    );
    let ports: Vec<u16> = outcome.node.forwards.iter().map(|forward| forward.port).collect();
    assert!(ports.contains(&10_250) && !ports.contains(&6443) && !ports.contains(&2379), "{ports:?}");
}

#[test]
fn a_control_plane_joins_with_etcd_and_its_own_port() {
    let key = "0123456789abcdef".repeat(4);
    let mut flags = plain();
    flags.extend([
        ("control-plane", "true"),
        ("certificate-key", key.as_str()),
        ("apiserver-bind-port", "7443"),
    ]);
    let outcome = planned(&request(&flags), Docs::default(), &common::machine());
    let (config, _, done) = run(&outcome);
    assert_eq!(config["controlPlane"]["certificateKey"], key.as_str());
    assert_eq!(config["controlPlane"]["localAPIEndpoint"]["bindPort"], 7443);
    assert!(matches!(done, Some(Done::Joined { control_plane: true, .. })), "{done:?}");
    assert_eq!(outcome.summary.role, Role::JoinedControlPlane { api_port: 7443 });
    let ports: Vec<u16> = outcome.node.forwards.iter().map(|forward| forward.port).collect();
    assert!([7443, 10_250, 2379, 2380].iter().all(|port| ports.contains(port)), "{ports:?}");
    assert!(outcome.plan.phases.iter().any(|steps| steps.phase == Phase::Publish));
    let text = outcome.plan.to_string();
    assert!(text.contains("kube-controller-manager~u7s+strategic.json"), "{text}");
}

#[test]
fn s14_neither_token_nor_key_is_in_the_plan_that_is_shown() {
    let key = "0123456789abcdef".repeat(4);
    let mut flags = plain();
    flags.extend([("control-plane", "true"), ("certificate-key", key.as_str())]);
    let outcome = planned(&request(&flags), Docs::default(), &common::machine());
    for text in [outcome.plan.to_string(), format!("{outcome:?}"), outcome.summary.to_string()] {
        assert!(!text.contains(TOKEN) && !text.contains(&key), "{text}");
    }
}

#[test]
fn control_plane_flags_alone_make_none_as_in_kubeadm() {
    let mut flags = plain();
    flags.push(("apiserver-bind-port", "7443"));
    let outcome = planned(&request(&flags), Docs::default(), &common::machine());
    assert_eq!(outcome.summary.role, Role::Worker);
}

#[test]
fn a_discovery_file_is_carried_and_a_url_is_not() {
    let discovery = json!({"file": {"kubeConfigPath": "/root/cluster.conf"}, "tlsBootstrapToken": TOKEN});
    let docs = Docs { discovery: Some("secret".to_owned().into()), ..document(discovery) };
    let outcome = planned(&from_file(), docs, &common::machine());
    assert_eq!(run(&outcome).0["discovery"]["file"]["kubeConfigPath"], DISCOVERY_FILE);
    let url = "https://example.org/cluster.conf";
    let docs = document(json!({"file": {"kubeConfigPath": url}}));
    let outcome = planned(&from_file(), docs, &common::machine());
    assert_eq!(run(&outcome).0["discovery"]["file"]["kubeConfigPath"], url);
}

#[test]
fn a_join_that_was_killed_is_completed() {
    let mut facts = common::machine();
    facts.cluster.begun = true;
    let (config, argv, _) = run(&planned(&request(&plain()), Docs::default(), &facts));
    let ignored = config["nodeRegistration"]["ignorePreflightErrors"].to_string();
    assert!(ignored.contains("fileavailable--etc-kubernetes-pki-ca.crt"), "{ignored}");
    // Of a control plane that was killed once its etcd was announced.
    assert!(ignored.contains("fileavailable--etc-kubernetes-manifests-etcd.yaml"), "{ignored}");
    assert!(!argv.iter().any(|word| word.contains("kubelet-start")), "{argv:?}");
    facts.cluster.kubelet_conf = true;
    let (_, argv, _) = run(&planned(&request(&plain()), Docs::default(), &facts));
    assert!(argv.contains(&"--skip-phases=kubelet-start".to_owned()), "{argv:?}");
}

#[test]
fn a_join_that_was_killed_finds_its_own_port_taken() {
    let mut facts = common::machine();
    facts.cluster.begun = true;
    let ports = |request: &request::Join, docs: Docs| {
        let (config, ..) = run(&planned(request, docs, &facts));
        config["nodeRegistration"]["ignorePreflightErrors"].to_string()
    };
    let mut flags = plain();
    flags.extend([("control-plane", "true"), ("apiserver-bind-port", "7443")]);
    let by_flag = ports(&request(&flags), Docs::default());
    assert!(by_flag.contains("\"port-7443\"") && !by_flag.contains("6443"), "{by_flag}");
    let bootstrap = json!({"token": TOKEN, "apiServerEndpoint": "a:1", "unsafeSkipCAVerification": true});
    let mut docs = document(json!({"bootstrapToken": bootstrap}));
    docs.documents[0]["controlPlane"] = json!({"localAPIEndpoint": {"bindPort": 8443}});
    let by_document = ports(&from_file(), docs);
    assert!(by_document.contains("\"port-8443\"") && !by_document.contains("6443"), "{by_document}");
    assert!(ports(&request(&plain()), Docs::default()).contains("\"port-6443\""));
}

#[test]
fn a_phase_that_we_skip_does_not_make_kubeadm_forget_those_of_the_user() {
    let mut facts = common::machine();
    facts.cluster.begun = true;
    facts.cluster.kubelet_conf = true;
    let skipped = |request: &request::Join, docs: Docs| {
        let (_, argv, _) = run(&planned(request, docs, &facts));
        let flags: Vec<_> = argv.into_iter().filter(|word| word.starts_with("--skip-phases")).collect();
        flags.join(" ")
    };
    let bootstrap = json!({"token": TOKEN, "apiServerEndpoint": "a:1", "unsafeSkipCAVerification": true});
    let document = |phases: Value| {
        let mut docs = document(json!({"bootstrapToken": bootstrap}));
        docs.documents[0]["skipPhases"] = phases;
        docs
    };
    assert_eq!(
        skipped(&from_file(), document(json!(["preflight", "kubelet-wait-bootstrap"]))),
        "--skip-phases=preflight,kubelet-wait-bootstrap,kubelet-start"
    );
    // Named already, in the document alone: no flag, or kubeadm would not read it.
    assert_eq!(skipped(&from_file(), document(json!(["kubelet-start"]))), "");
    let mut by_flag = request(&plain());
    by_flag.given.skip_phases = vec!["preflight".into()];
    by_flag.given.pass_flags = vec!["--skip-phases=preflight".into(), "--v=5".into()];
    assert_eq!(skipped(&by_flag, Docs::default()), "--skip-phases=preflight,kubelet-start");
    // As in kubeadm the user's own flag stands for the document's list.
    let mut both = from_file();
    both.given.skip_phases = vec!["preflight".into()];
    both.given.pass_flags = vec!["--skip-phases=preflight".into()];
    assert_eq!(
        skipped(&both, document(json!(["kubelet-wait-bootstrap"]))),
        "--skip-phases=preflight,kubelet-start"
    );
}

/// A cluster of rootful control planes has kubeadm's own settings of kube-proxy, which ends where it cannot have its way.
#[test]
fn the_hosts_table_of_connections_fits_a_default_kube_proxy_after_a_join_and_a_reboot_and_not_after_init() {
    let about = |text: &str| {
        text.lines().filter(|line| line.contains("conntrack_") || line.contains("hashsize")).count()
    };
    let mut facts = common::machine();
    let outcome = planned(&request(&plain()), Docs::default(), &facts);
    let text = outcome.plan.to_string();
    assert!(
        text.contains("[host] root: set the sysctl net.netfilter.nf_conntrack_max to \"131072\""),
        "{text}"
    );
    assert_eq!(about(&text), 2, "{text}");
    let again = volatile(&Config::default(), &facts, Some(&outcome.node)).to_string();
    assert_eq!(about(&again), 2, "{again}");
    let begun = common::planned(&facts, &request::Init::default());
    assert_eq!(about(&begun.plan.to_string()), 0);
    assert_eq!(about(&volatile(&Config::default(), &facts, Some(&begun.node)).to_string()), 0);
    facts.read_only = vec![conntrack::MAX.into()];
    let outcome = planned(&request(&plain()), Docs::default(), &facts);
    assert_eq!(about(&outcome.plan.to_string()), 0);
    let warned: Vec<_> = outcome.unmet.iter().map(|need| (need.id.as_str(), need.level)).collect();
    assert_eq!(warned, [("Conntrack", Level::Warning)]);
}

#[test]
fn f44_bad_discovery_is_refused_before_anything_is_done() {
    let cases = [
        (vec![("token", "bad"), ("discovery-token-ca-cert-hash", HASH)], "discovery.bootstrapToken.token: "),
        (
            vec![("token", TOKEN)],
            "discovery.bootstrapToken.caCertHashes: using token-based discovery without",
        ),
        (vec![("token", TOKEN), ("discovery-token-ca-cert-hash", "sha256:xyz")], "invalid public key hash"),
        (
            vec![
                ("token", TOKEN),
                ("discovery-token-ca-cert-hash", HASH),
                ("control-plane", "true"),
                ("certificate-key", "feed"),
            ],
            "--certificate-key: the key must be an AES key of size 32",
        ),
    ];
    for (flags, expected) in cases {
        let said = refused(&request(&flags), Docs::default());
        assert!(said.contains(expected), "{said}");
    }
    let nothing = request::Join::default();
    assert!(refused(&nothing, Docs::default()).contains("bootstrapToken or file must be set"));
    let odd = request::Join { endpoint: Some("nonsense".into()), ..request(&plain()) };
    assert!(refused(&odd, Docs::default()).contains("apiServerEndpoint"));
    let typo = document(json!({"bootstrapTokn": {}}));
    assert!(refused(&from_file(), typo).contains("did you mean bootstrapToken?"));
    let elsewhere = Docs {
        documents: vec![json!({"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "JoinConfiguration",
            "caCertPath": "/srv/ca.crt", "discovery": {"bootstrapToken": {"token": TOKEN,
            "apiServerEndpoint": "a:1", "unsafeSkipCAVerification": true}}})],
        ..Docs::default()
    };
    assert!(refused(&from_file(), elsewhere).contains("caCertPath is /srv/ca.crt"));
}

#[test]
fn a_cluster_whose_networks_cover_the_hosts_is_told() {
    let told = |text: &str| -> Vec<String> {
        let needs = preflight::joined(&Config::default(), &common::machine(), text);
        needs.iter().map(ToString::to_string).collect()
    };
    let clash = told("networking:\n  podSubnet: 10.77.0.0/16\n  serviceSubnet: 10.96.0.0/12\n");
    assert_eq!(clash.len(), 1, "{clash:?}");
    assert!(clash[0].contains("[WARNING PodCIDR]") && clash[0].contains("10.77.0.0/24"), "{clash:?}");
    for text in ["networking:\n  podSubnet: 10.244.0.0/16\n", "networking: {}", "nonsense: [", ""] {
        assert_eq!(told(text), [""; 0], "{text:?}");
    }
}
