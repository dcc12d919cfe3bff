//! Flags and documents to rendered files, one directory of `golden/kubeadm` a case.
//!
//! A case holds what the user gives (`flags`, `config.yaml`, `patches.in/`) and, in `out/`, what comes of it.
//! `U7S_BLESS=1` rewrites `out/`. Where `U7S_KUBEADM` names a kubeadm, it validates every configuration.
#![expect(
    clippy::disallowed_methods,
    reason = "golden files are read and written, and the real kubeadm is asked"
)]
#![expect(clippy::disallowed_types, reason = "the real kubeadm is asked")]
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::node;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use u7s_plan::kubeadm::{Error, Input, NodeFacts, Output, merge, patches_directory, phase};
use u7s_plan::need::Ignored;
use u7s_plan::{request, yaml};

fn case_dir(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kubeadm").join(case)
}

/// `name=value` a line; `pass FLAG` and `ignore IDS` for the other kinds.
fn request(dir: &Path) -> request::Init {
    let mut request = request::Init::default();
    let mut ignored = Vec::new();
    for line in fs::read_to_string(dir.join("flags")).unwrap_or_default().lines() {
        if let Some(flag) = line.strip_prefix("pass ") {
            request.pass_flags.push(flag.into());
            if let Some(phases) = flag.strip_prefix("--skip-phases=") {
                request.skip_phases.extend(phases.split(',').map(str::to_owned));
            }
        } else if let Some(ids) = line.strip_prefix("ignore ") {
            ignored.extend(ids.split(',').map(str::to_owned));
        } else {
            let (name, value) = line.split_once('=').unwrap();
            request.config_flags.push((name.into(), value.into()));
        }
    }
    request.ignored = Ignored::new(ignored);
    request
}

fn files(dir: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Everything but the secret configuration, for people who review a change.
fn facts(output: &Output) -> String {
    let mut text = String::new();
    let Output { config: _, redacted: _, patches, .. } = output;
    let names: Vec<_> = patches.iter().map(|(name, _)| name).collect();
    writeln!(
        text,
        "node_name: {}\napi: {}:{}",
        output.node_name,
        output.api_address,
        output.role.api_port().unwrap()
    )
    .unwrap();
    writeln!(text, "pod_cidr: {}\nservice_cidr: {}", output.pod_cidr.unwrap(), output.service_cidr.unwrap())
        .unwrap();
    writeln!(text, "dns_domain: {}\netcd_data_dir: {:?}", output.dns_domain, output.etcd_data_dir).unwrap();
    writeln!(text, "cert_dir: {:?}\nimage_repository: {}", output.cert_dir, output.image_repository).unwrap();
    writeln!(text, "kubernetes_version: {}", output.kubernetes_version).unwrap();
    writeln!(text, "control_plane_endpoint: {:?}", output.control_plane_endpoint).unwrap();
    writeln!(text, "tainted: {}\naudit: {}\ndry_run: {}", output.tainted, output.audit, output.dry_run)
        .unwrap();
    writeln!(text, "ignored: {:?}", output.ignored.ids().collect::<Vec<_>>()).unwrap();
    writeln!(text, "skip_phases: {:?}\npass_flags: {:?}", output.skip_phases, output.pass_flags).unwrap();
    writeln!(text, "patches: {names:?}").unwrap();
    text
}

fn golden(case: &str, node: NodeFacts) {
    let dir = case_dir(case);
    let mut request = request(&dir);
    let config = dir.join("config.yaml");
    let documents = fs::read_to_string(&config)
        .map(|text| {
            request.config = Some(config.clone());
            yaml::documents(&text, "config.yaml").unwrap()
        })
        .unwrap_or_default();
    let user_patches = files(&dir.join("patches.in"));
    let output = merge(&Input { request: &request, documents, user_patches, node }).unwrap();
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    made.insert("kubeadm.yaml".into(), output.config.expose_secret().to_owned());
    made.insert("redacted.yaml".into(), output.redacted.clone());
    made.insert("facts.txt".into(), facts(&output));
    made.extend(output.patches.iter().map(|(name, text)| (format!("patch.{name}"), text.clone())));
    compare(&dir.join("out"), &made);
    validate(case, output.config.expose_secret());
}

fn compare(out: &Path, made: &BTreeMap<String, String>) {
    if std::env::var_os("U7S_BLESS").is_some() {
        let _ = fs::remove_dir_all(out);
        fs::create_dir_all(out).unwrap();
        for (name, text) in made {
            fs::write(out.join(name), text).unwrap();
        }
        return;
    }
    let kept: BTreeMap<String, String> = files(out).into_iter().collect();
    let names: Vec<_> = made.keys().collect();
    assert_eq!(kept.keys().collect::<Vec<_>>(), names, "files of {}", out.display());
    for (name, text) in made {
        assert_eq!(&kept[name], text, "{} differs; U7S_BLESS=1 rewrites it", out.join(name).display());
    }
}

/// `kubeadm config validate` refuses what init only warns of.
fn validate(case: &str, config: &str) {
    let Some(program) = std::env::var_os("U7S_KUBEADM") else {
        println!("U7S_KUBEADM is not set: {case} not validated");
        return;
    };
    let mut child = Command::new(program)
        .args(["config", "validate", "--config", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("strict"), "{case}: kubeadm says: {said}");
}

#[test]
fn a_plain_init_gets_what_a_rootless_node_needs() {
    golden("plain", node());
}

#[test]
fn every_flag_finds_its_field() {
    golden("all-flags", node());
}

#[test]
fn a_v1beta4_configuration_is_completed_and_keeps_what_is_the_users() {
    golden("v1beta4", node());
}

#[test]
fn a_v1beta3_configuration_is_migrated() {
    golden("v1beta3", NodeFacts { kubernetes_version: "1.36.3".parse().unwrap(), ..node() });
}

#[test]
fn a_degraded_node_has_no_limits_of_its_own_and_ignores_what_it_must() {
    let ignored = Ignored::new(["SystemVerification"]);
    golden(
        "degraded",
        NodeFacts { degraded: true, ignored, kubernetes_version: "1.37.0".parse().unwrap(), ..node() },
    );
}

#[test]
fn a_slow_machine_gets_longer_timeouts_but_for_the_users_own() {
    golden("slow", NodeFacts { timeout_factor: 5, ..node() });
}

#[test]
fn a_users_patches_lie_beside_ours_and_component_configurations_pass_along() {
    golden("patches", node()); // ours is the last
    golden("components", node());
}

/// A merge of flags alone.
fn with_flags(flags: &[(&str, &str)]) -> Result<Output, Error> {
    let config_flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = request::Init { config_flags, ..request::Init::default() };
    merge(&Input { request: &request, documents: Vec::new(), user_patches: Vec::new(), node: node() })
}

/// A merge of one document.
fn with_document(kind: &str, mut document: Value) -> Result<Output, Error> {
    let version = match kind {
        "KubeletConfiguration" => "kubelet.config.k8s.io/v1beta1",
        "KubeProxyConfiguration" => "kubeproxy.config.k8s.io/v1alpha1",
        _ => "kubeadm.k8s.io/v1beta4",
    };
    document["apiVersion"] = version.into();
    document["kind"] = kind.into();
    let request = &request::Init::default();
    merge(&Input { request, documents: vec![document], user_patches: Vec::new(), node: node() })
}

fn with_patch(name: &str, text: &str) -> Result<Output, Error> {
    let user_patches = vec![(name.to_owned(), text.to_owned())];
    merge(&Input { request: &request::Init::default(), documents: Vec::new(), user_patches, node: node() })
}

#[test]
fn a_file_that_kubeadm_would_pass_over_is_not_written_among_the_nodes_patches() {
    let written = |name| with_patch(name, "{}").unwrap().patches.iter().any(|(found, _)| found == name);
    assert_eq!(["x.txt", "id_ed25519.json", "etcd0.json"].map(written), [false, false, true]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table")]
fn values_that_contradict_a_need_are_refused_with_both_named() {
    let arg = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let kubelet = |name, value| json!({"nodeRegistration": {"kubeletExtraArgs": arg(name, value)}});
    let cases = [
        (
            "--cri-socket",
            "unix:///run/containerd/containerd.sock",
            with_flags(&[("cri-socket", "unix:///run/containerd/containerd.sock")]),
        ),
        (
            "--apiserver-advertise-address",
            "10.77.0.12",
            with_flags(&[("apiserver-advertise-address", "10.77.0.12")]),
        ),
        (
            "--apiserver-advertise-address",
            "fd00::1",
            with_flags(&[("apiserver-advertise-address", "fd00::1")]),
        ),
        ("--cert-dir", "/root/pki", with_flags(&[("cert-dir", "/root/pki")])),
        ("--cert-dir", "/etc/kubernetes/../pki", with_flags(&[("cert-dir", "/etc/kubernetes/../pki")])),
        (
            "nodeRegistration.criSocket",
            "/run/x.sock",
            with_document("InitConfiguration", json!({"nodeRegistration": {"criSocket": "/run/x.sock"}})),
        ),
        (
            "localAPIEndpoint.advertiseAddress",
            "127.0.0.1",
            with_document(
                "InitConfiguration",
                json!({"localAPIEndpoint": {"advertiseAddress": "127.0.0.1"}}),
            ),
        ),
        ("kubeletExtraArgs, node-ip", "::", with_document("InitConfiguration", kubelet("node-ip", "::"))),
        (
            "kubeletExtraArgs, cgroup-driver",
            "systemd",
            with_document("InitConfiguration", kubelet("cgroup-driver", "systemd")),
        ),
        (
            "kubeletExtraArgs, feature-gates",
            "A=true,KubeletInUserNamespace=false",
            with_document(
                "InitConfiguration",
                kubelet("feature-gates", "A=true,KubeletInUserNamespace=false"),
            ),
        ),
        (
            "kubeletExtraArgs, root-dir",
            "/srv/kubelet",
            with_document("InitConfiguration", kubelet("root-dir", "/srv/kubelet")),
        ),
        (
            "controllerManager.extraArgs, flex-volume-plugin-dir",
            "/usr/x",
            with_document(
                "ClusterConfiguration",
                json!({"controllerManager": {"extraArgs": arg("flex-volume-plugin-dir", "/usr/x")}}),
            ),
        ),
        (
            "apiServer.extraArgs, advertise-address",
            "1.2.3.4",
            with_document(
                "ClusterConfiguration",
                json!({"apiServer": {"extraArgs": arg("advertise-address", "1.2.3.4")}}),
            ),
        ),
        (
            "apiServer.extraVolumes[0]",
            "/srv/audit",
            with_document(
                "ClusterConfiguration",
                json!({"apiServer": {"extraVolumes": [{"name": "a", "hostPath": "/srv/audit", "mountPath": "/etc/kubernetes/audit"}]}}),
            ),
        ),
        (
            "ClusterConfiguration.certificatesDir",
            "/pki",
            with_document("ClusterConfiguration", json!({"certificatesDir": "/pki"})),
        ),
        (
            "KubeletConfiguration.cgroupDriver",
            "systemd",
            with_document("KubeletConfiguration", json!({"cgroupDriver": "systemd"})),
        ),
        (
            "KubeletConfiguration.failSwapOn",
            "true",
            with_document("KubeletConfiguration", json!({"failSwapOn": true})),
        ),
        (
            "KubeletConfiguration.volumePluginDir",
            "/x",
            with_document("KubeletConfiguration", json!({"volumePluginDir": "/x"})),
        ),
        (
            "KubeletConfiguration.readOnlyPort",
            "10255",
            with_document("KubeletConfiguration", json!({"readOnlyPort": 10255})),
        ),
        (
            "KubeletConfiguration.authentication.anonymous.enabled",
            "true",
            with_document(
                "KubeletConfiguration",
                json!({"authentication": {"anonymous": {"enabled": true}}}),
            ),
        ),
        (
            "KubeletConfiguration.authorization.mode",
            "AlwaysAllow",
            with_document("KubeletConfiguration", json!({"authorization": {"mode": "AlwaysAllow"}})),
        ),
        (
            "KubeletConfiguration.featureGates.KubeletInUserNamespace",
            "false",
            with_document("KubeletConfiguration", json!({"featureGates": {"KubeletInUserNamespace": false}})),
        ),
        (
            "KubeletConfiguration.resolvConf",
            "/run/systemd/resolve/resolv.conf",
            with_document("KubeletConfiguration", json!({"resolvConf": "/run/systemd/resolve/resolv.conf"})),
        ),
        (
            "KubeProxyConfiguration.conntrack.maxPerCore",
            "32768",
            with_document("KubeProxyConfiguration", json!({"conntrack": {"maxPerCore": 32768}})),
        ),
        (
            "patch kubeletconfiguration.yaml, KubeletConfiguration.cgroupDriver",
            "systemd",
            with_patch("kubeletconfiguration.yaml", "cgroupDriver: systemd\n"),
        ),
        (
            "patch kubeletconfiguration0+json.json, KubeletConfiguration.authorization.mode",
            "AlwaysAllow",
            with_patch(
                "kubeletconfiguration0+json.json",
                "[{\"op\":\"replace\",\"path\":\"/authorization\",\"value\":{\"mode\":\"AlwaysAllow\"}}]",
            ),
        ),
    ];
    for (path, value, result) in cases {
        let error = result.expect_err(path);
        let Error::Contradiction { path: found, value: shown, need, why } = &error else {
            panic!("{path}: {error}")
        };
        assert!(
            found.ends_with(path) && shown.contains(value) && !need.is_empty() && !why.is_empty(),
            "{error}"
        );
        println!("{error}");
    }
}

#[test]
fn a_contradiction_reads_as_one_sentence() {
    let error = with_flags(&[("cri-socket", "/run/x.sock")]).unwrap_err().to_string();
    let expected = "--cri-socket is /run/x.sock, but a rootless node needs unix:///run/crio/crio.sock: containers run \
                    under the node's own CRI-O, which listens there inside the namespaces";
    assert_eq!(error, expected);
}

#[test]
fn f47_networks_are_checked_as_kubeadm_does_and_against_each_other() {
    let pod = |text| with_flags(&[("pod-network-cidr", text)]);
    let service = |text| with_flags(&[("service-cidr", text)]);
    let cases = [
        (pod("10.244.0.0/33"), "--pod-network-cidr: 10.244.0.0/33: couldn't parse subnet"),
        (pod("10.244.0.0"), "couldn't parse subnet"),
        (pod("10.244.0.0/16\n"), "10.244.0.0/16\\n: couldn't parse subnet"),
        (pod("fd00::/48"), "IPv6 is not supported yet"),
        (pod("10.244.0.0/16,fd00::/48"), "dual stack is not supported yet"),
        (pod("fd00::/48,10.244.0.0/16"), "dual stack is not supported yet"),
        (
            pod("10.244.0.0/30"),
            "the size of pod subnet with mask 30 is smaller than the size of node subnet with mask 24",
        ),
        (pod("0.0.0.0/0"), "pod subnet mask (0) and node-mask (24) difference is greater than 16"),
        (
            service("10.96.0.0/30"),
            "--service-cidr: 10.96.0.0/30: subnet with 4 address(es) is too small, the minimum is 10",
        ),
        (
            service("10.0.0.0/8"),
            "specified service subnet is too large; for 32-bit addresses, the mask must be >= 12",
        ),
        (
            pod("10.96.4.0/22"),
            "--pod-network-cidr (10.96.4.0/22) overlaps ClusterConfiguration.networking.serviceSubnet (10.96.0.0/12)",
        ),
        (
            service("10.240.0.0/12"),
            "ClusterConfiguration.networking.podSubnet (10.244.0.0/16) overlaps --service-cidr (10.240.0.0/12)",
        ),
    ];
    for (result, expected) in cases {
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let bits = pod("10.200.3.7/16").unwrap();
    assert_eq!(bits.pod_cidr.unwrap().to_string(), "10.200.0.0/16");
}

#[test]
fn flags_beside_a_config_are_refused_in_kubeadms_words() {
    let flags = ["token", "patches", "node-name", "apiserver-cert-extra-sans", "apiserver-cert-extra-sans"];
    let request = request::Init {
        config: Some("/c.yaml".into()),
        config_flags: flags.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect(),
        pass_flags: vec!["--v=5".into(), "--vmodule=a=1".into(), "--skip-phases=x".into()],
        ..request::Init::default()
    };
    let input = Input { request: &request, documents: Vec::new(), user_patches: Vec::new(), node: node() };
    let said = merge(&input).unwrap_err().to_string();
    assert_eq!(
        said,
        "can not mix '--config' with arguments [apiserver-cert-extra-sans patches token vmodule]"
    );
    let Some(program) = std::env::var_os("U7S_KUBEADM") else { return };
    let args = [
        "--config=/c.yaml",
        "--token=x",
        "--patches=x",
        "--node-name=x",
        "--apiserver-cert-extra-sans=x",
        "--v=0",
        "--vmodule=a=1",
        "--skip-phases=x",
    ];
    let output = Command::new(program).arg("init").args(args).output().unwrap();
    let theirs = String::from_utf8_lossy(&output.stderr);
    assert!(theirs.starts_with(&format!("error: {said}\n")), "kubeadm says {theirs}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table")]
fn bad_values_are_told_before_anything_is_done() {
    let long = "x".repeat(254);
    let cases = [
        (with_flags(&[("token", "abc.def")]), "--token: the bootstrap token was not of the form"),
        (
            with_flags(&[("certificate-key", "c0ffee")]),
            "--certificate-key: the key must be an AES key of size 32",
        ),
        (with_flags(&[("apiserver-bind-port", "0")]), "--apiserver-bind-port: 0 is no port number"),
        (with_flags(&[("apiserver-bind-port", "65536")]), "65536 is no port number"),
        (with_flags(&[("apiserver-bind-port", "-1")]), "-1 is no port number"),
        (with_flags(&[("node-name", "a\nb")]), "--node-name: a\\nb: a lowercase RFC 1123 subdomain"),
        (with_flags(&[("node-name", "a_b")]), "a lowercase RFC 1123 subdomain"),
        (
            with_flags(&[("node-name", &long)]),
            "--node-name: xxxxxxxxxxxxxxxxxxxx...: it has 254 characters, a node's name has 63 at most",
        ),
        (with_flags(&[("service-dns-domain", &long)]), "it has 254 characters, a DNS name has 253 at most"),
        (
            with_flags(&[("service-dns-domain", "x y")]),
            "--service-dns-domain: x y: a lowercase RFC 1123 subdomain",
        ),
        (with_flags(&[("feature-gates", "A")]), "--feature-gates: missing bool value for feature-gate key:A"),
        (
            with_flags(&[("feature-gates", "A=maybe")]),
            "invalid value maybe for feature-gate key: A, use true|false instead",
        ),
        (
            with_flags(&[("control-plane-endpoint", "a:b:c")]),
            "--control-plane-endpoint: a:b:c: endpoint is not valid",
        ),
        (
            with_flags(&[("image-repository", "a b")]),
            "--image-repository: a b: not a value that an image's name can hold",
        ),
        (
            with_document("ClusterConfiguration", json!({"etcd": {"local": {"dataDir": "/var/lib"}}})),
            "dataDir: /var/lib: the data of etcd",
        ),
        (
            with_document("ClusterConfiguration", json!({"etcd": {"local": {"dataDir": "/run/etcd"}}})),
            "dataDir: /run/etcd: the data of etcd",
        ),
        (
            with_document("ClusterConfiguration", json!({"etcd": {"local": {"dataDir": "etcd"}}})),
            "dataDir: etcd: the data of etcd",
        ),
        (
            with_document(
                "InitConfiguration",
                json!({"nodeRegistration": {"ignorePreflightErrors": ["all", "Swap"]}}),
            ),
            "don't specify individual checks if 'all' is used",
        ),
        (with_patch("../x.yaml", ""), "patch ../x.yaml: not the name of a file"),
        (
            with_patch("etcd+frob.yaml", "a: 1"),
            "patch etcd+frob.yaml: unknown or missing patch type after '+'",
        ),
        (with_patch("kubeletconfiguration~z.yaml", "a: 1"), "its name must sort before ours"),
        (
            with_patch("kubeletconfiguration.yaml", "a: [\n"),
            "patch kubeletconfiguration.yaml: kubeletconfiguration.yaml:",
        ),
        (with_patch("kubeletconfiguration.yaml", "- a\n"), "a patch of this type is a map"),
    ];
    for (result, expected) in cases {
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    let refused = |flag: &str| {
        let request = request::Init { pass_flags: vec![flag.into()], ..request::Init::default() };
        merge(&Input { request: &request, documents: Vec::new(), user_patches: Vec::new(), node: node() })
            .unwrap_err()
    };
    assert!(matches!(refused("--vmodule=a=1"), Error::Flag { name, .. } if name == "vmodule"));
    assert!(matches!(refused("--rootfs=/mnt"), Error::Flag { name, .. } if name == "rootfs"));
}

#[test]
fn s13_what_is_shown_holds_no_secret() {
    let flags = [("token", "abcdef.0123456789abcdef"), ("certificate-key", &"5a".repeat(32))];
    let output = with_flags(&flags).unwrap();
    let shown = format!("{output:?}");
    assert!(output.config.expose_secret().contains("0123456789abcdef"));
    for text in [&output.redacted, &shown] {
        assert!(!text.contains("0123456789abcdef") && !text.contains("5a5a"), "{text}");
    }
    let error = with_flags(&[("token", "abcdef.secretsecret")]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secretsecret"));
}

#[test]
fn the_same_input_gives_the_same_text_and_a_second_merge_changes_nothing() {
    let first = with_flags(&[("node-name", "n1")]).unwrap();
    let documents = yaml::documents(first.config.expose_secret(), "ours").unwrap();
    let request = request::Init { config: Some("/c".into()), ..request::Init::default() };
    assert_eq!(patches_directory(&request, &documents, "InitConfiguration"), Some("/etc/u7s/patches".into()));
    let second =
        merge(&Input { request: &request, documents, user_patches: Vec::new(), node: node() }).unwrap();
    assert_eq!(first.config.expose_secret(), second.config.expose_secret());
    assert_eq!(first.patches, second.patches);
}

/// kubeadm would write its own defaults over what the cluster has.
#[test]
fn a_phase_of_init_gets_the_clusters_own_documents_with_the_flags_laid_over_them() {
    let cluster = json!({"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration",
        "kubernetesVersion": "v1.34.4", "networking": {"podSubnet": "10.5.0.0/16", "serviceSubnet": "10.97.0.0/16"}});
    // As kubeadm stores it for a rootful cluster: not ours to judge.
    let proxy = json!({"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clusterCIDR": "10.5.0.0/16", "conntrack": {"maxPerCore": null, "min": null}});
    let request = request::Init {
        config_flags: vec![("image-repository".into(), "r.test".into())],
        ..request::Init::default()
    };
    let documents = vec![cluster.clone(), proxy.clone()];
    let input = Input { request: &request, documents, user_patches: Vec::new(), node: node() };
    let text = phase(&input, 7443).unwrap();
    let seen: Vec<Value> = text.split("---\n").map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0]["localAPIEndpoint"]["bindPort"], 7443);
    assert_eq!(seen[0]["localAPIEndpoint"]["advertiseAddress"], node().node_ip.to_string());
    assert_eq!(seen[0]["nodeRegistration"]["criSocket"], "unix:///run/crio/crio.sock");
    let mut wanted = cluster;
    wanted["imageRepository"] = "r.test".into();
    assert_eq!(seen[1], wanted);
    assert_eq!(seen[2], proxy);
}
