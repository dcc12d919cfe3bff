//! From facts to plan and files: golden files for whole trips.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::ExposeSecret;
use u7s_plan::config::{self, Config};
use u7s_plan::facts::{Facts, Listener};
use u7s_plan::init::{Docs, Outcome};
use u7s_plan::need::Level;
use u7s_plan::request::{Init, Reset};
use u7s_plan::step::{Action, Phase};
use u7s_plan::{host, init, reset};

mod common;

use common::{file, flags, golden, ignoring, machine, planned};

#[test]
fn a_plain_init_is_the_golden_plan_and_files() {
    let outcome = planned(&machine(), &Init::default());
    assert_eq!(outcome.unmet, []);
    assert!(!outcome.provisional);
    // The size of kubeadm's own configuration is not ours to pin.
    let plan: String = outcome
        .plan
        .to_string()
        .lines()
        .map(|line| match line.split_once(" ({config}: ") {
            Some((head, tail)) => format!("{head}{}\n", tail.split_once(')').unwrap().1),
            None => format!("{line}\n"),
        })
        .collect();
    golden("init/plan.txt", &plan);
    golden("init/node.json", &file(&outcome, "node.json"));
    golden("init/summary.txt", &outcome.summary.to_string());
    golden("crio/crio.conf", &file(&outcome, "crio.conf"));
    golden("crio/storage.conf", &file(&outcome, "storage.conf"));
    golden("crio/policy.json", &file(&outcome, "policy.json"));
}

/// What a step carries to the program that it runs.
fn carried(outcome: &Outcome, program: &str) -> Option<String> {
    let steps = outcome.plan.phases.iter().flat_map(|phase| &phase.steps);
    let mut configs = steps.filter_map(|step| match &step.action {
        Action::Run { argv, config, .. } if argv[0].ends_with(program) => config.clone(),
        _ => None,
    });
    configs.next().map(|text| text.expose_secret().to_owned())
}

#[test]
fn flannel_is_applied_with_the_networks_of_the_cluster() {
    let manifest = carried(&planned(&machine(), &Init::default()), "kubectl").unwrap();
    golden("cni/flannel.json", &manifest);
    let with = |config: &Config, facts: &Facts, request: &Init| {
        let text = carried(&init(config, request, Docs::default(), facts).unwrap(), "kubectl").unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let items = list["items"].as_array().unwrap().clone();
        let data = items.iter().find(|item| item["kind"] == "ConfigMap").unwrap()["data"].clone();
        let network: serde_json::Value =
            serde_json::from_str(data["net-conf.json"].as_str().unwrap()).unwrap();
        let pod = items.last().unwrap()["spec"]["template"]["spec"].clone();
        (network, pod["containers"][0].clone())
    };
    let request = flags(&[
        ("pod-network-cidr", "10.60.0.0/16"),
        ("control-plane-endpoint", "api.example:7443"),
        ("apiserver-bind-port", "8443"),
    ]);
    let mut config = Config::default();
    // A tap0 that is larger than the uplink is none of vxlan's business.
    config.network.mtu = Some(65_520);
    config.flannel.image = "r.example/flannel:v1".into();
    let (network, flanneld) = with(&config, &machine(), &request);
    assert_eq!((&network["Network"], &network["Backend"]["MTU"]), (&"10.60.0.0/16".into(), &1500.into()));
    assert_eq!(flanneld["image"], "r.example/flannel:v1");
    let env = |flanneld: &serde_json::Value, name: &str| {
        let all = flanneld["env"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    let api = |flanneld| ["HOST", "PORT"].map(|end| env(flanneld, &format!("KUBERNETES_SERVICE_{end}")));
    assert_eq!(api(&flanneld), ["api.example", "7443"]);
    config.network.mtu = Some(1400);
    let request = flags(&[("apiserver-bind-port", "8443")]);
    let (network, flanneld) = with(&config, &machine(), &request);
    assert_eq!(network["Backend"]["MTU"], 1400);
    assert_eq!(api(&flanneld), ["10.77.0.11", "8443"]);
    config.flannel.mtu = Some(1300);
    let request = flags(&[("control-plane-endpoint", "api.example")]);
    let (network, flanneld) = with(&config, &machine(), &request);
    assert_eq!(network["Backend"]["MTU"], 1300);
    assert_eq!(api(&flanneld), ["api.example", "6443"]);
}

#[test]
fn without_flannel_a_missing_kubectl_is_no_error() {
    let mut facts = machine();
    facts.programs.insert("kubectl".into(), None);
    for cni in [config::Cni::Bridge, config::Cni::None] {
        let config = Config { cni, ..Config::default() };
        let outcome = init(&config, &Init::default(), Docs::default(), &facts).unwrap();
        assert_eq!(outcome.errors().count(), 0);
        assert_eq!(carried(&outcome, "kubectl"), None);
    }
}

#[test]
fn a_bridge_has_the_first_part_of_the_pod_network() {
    let config = Config { cni: config::Cni::Bridge, ..Config::default() };
    let planned = |request: &Init| init(&config, request, Docs::default(), &machine()).unwrap();
    let outcome = planned(&Init::default());
    golden("cni/10-u7s-bridge.conflist", &file(&outcome, "10-u7s-bridge.conflist"));
    let outcome = planned(&flags(&[("pod-network-cidr", "10.60.0.0/16")]));
    assert!(file(&outcome, "10-u7s-bridge.conflist").contains("\"10.60.0.0/24\""));
}

#[test]
fn what_crio_gets_is_toml_with_the_settings_that_are_known_to_work() {
    let outcome = planned(&machine(), &Init::default());
    let conf: toml::Table = file(&outcome, "crio.conf").parse().unwrap();
    let at = |path: &str| {
        let mut keys = path.split('.');
        let first = conf.get(keys.next().unwrap()).unwrap();
        keys.fold(first, |table, key| table.get(key).unwrap_or_else(|| panic!("{path}"))).to_string()
    };
    for (path, value) in [
        ("crio.runtime.cgroup_manager", "\"cgroupfs\""),
        ("crio.runtime.conmon_cgroup", "\"pod\""),
        ("crio.runtime.runtimes.crun.runtime_path", "\"/usr/bin/crun\""),
        ("crio.runtime.enable_criu_support", "false"),
        ("crio.runtime.add_inheritable_capabilities", "false"),
        ("crio.image.pause_image", "\"registry.k8s.io/pause:3.10.1\""),
        ("crio.network.plugin_dirs", "[\"/opt/cni/bin\", \"/usr/lib/cni\"]"),
    ] {
        assert_eq!(at(path), value, "{path}");
    }
}

#[test]
fn the_pause_image_follows_kubeadm_and_the_administrator() {
    let pause = |facts: &Facts, config: &Config, request: &Init| {
        let outcome = init(config, request, Docs::default(), facts).unwrap();
        let conf: toml::Table = file(&outcome, "crio.conf").parse().unwrap();
        conf["crio"]["image"]["pause_image"].as_str().unwrap().to_owned()
    };
    let (mut facts, mut config) = (machine(), Config::default());
    let mirror = flags(&[("image-repository", "registry.local/k8s")]);
    facts.versions.insert("kubeadm".into(), Some("1.33.2".into()));
    assert_eq!(pause(&facts, &config, &mirror), "registry.local/k8s/pause:3.10");
    facts.pause_image = Some("registry.k8s.io/pause:3.11".into());
    assert_eq!(pause(&facts, &config, &mirror), "registry.local/k8s/pause:3.11");
    config.images.pause = Some("r.example/pause:1".into());
    assert_eq!(pause(&facts, &config, &mirror), "r.example/pause:1");
}

#[test]
fn a_degraded_node_runs_the_adapter_and_says_so() {
    let mut facts = machine();
    facts.cgroup.controllers = vec!["hugetlb".into()];
    facts.oom_floor = false;
    let errors = |outcome: &Outcome| outcome.errors().map(|need| need.id.clone()).collect::<Vec<_>>();
    assert_eq!(errors(&planned(&facts, &Init::default())), ["CgroupControllers", "OomScore"]);
    let outcome = planned(&facts, &ignoring(&["cgroupcontrollers", "OomScore", "SystemVerification"]));
    assert_eq!(errors(&outcome), [""; 0]);
    assert_eq!(outcome.unmet.len(), 2);
    assert!(outcome.unmet.iter().all(|need| need.level == Level::Warning));
    assert_eq!(outcome.node.degraded, ["CgroupControllers", "OomScore"]);
    assert_eq!(outcome.node.controllers, [""; 0]);
    let conf = file(&outcome, "crio.conf");
    assert!(conf.contains("runtime_path = \"/usr/libexec/u7s/u7s-crun\""), "{conf}");
    assert!(outcome.summary.to_string().ends_with(", degraded: CgroupControllers, OomScore"));
}

#[test]
fn a_host_without_the_user_is_planned_in_two_rounds() {
    let mut facts = machine();
    facts.user = None;
    facts.subuid.clear();
    facts.subgid.clear();
    let outcome = planned(&facts, &Init::default());
    assert_eq!(outcome.unmet, []);
    assert!(outcome.provisional);
    assert_eq!(outcome.phases().map(|phase| phase.phase).collect::<Vec<_>>(), [Phase::Host]);
    let text = outcome.plan.to_string();
    for line in [
        "[host] root: create the user u7s-admin with the home /var/lib/u7s-admin: owns the node",
        "[host] root: give u7s-admin 65536 subordinate uids and gids: users inside images and pods",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// A second init after a change of the host's files restarted the node with all its pods.
#[test]
fn a_finished_node_that_runs_is_compared_and_never_restarted() {
    let writes = |facts: &Facts| {
        let outcome = planned(facts, &Init::default());
        let steps: Vec<_> = outcome.plan.phases.iter().flat_map(|phase| phase.steps.clone()).collect();
        let count = |wanted: fn(&Action) -> bool| steps.iter().filter(|step| wanted(&step.action)).count();
        (
            count(|action| matches!(action, Action::WriteFile { .. })),
            count(|action| matches!(action, Action::Keep { .. })),
            count(|action| matches!(action, Action::StartUnit { follows, .. } if follows.is_empty())),
        )
    };
    let mut facts = machine();
    facts.patches = vec!["etcd0.json".into()];
    // With the mark of what is not on disk yet.
    assert_eq!(writes(&facts), (7, 0, 0));
    facts.unit.active = "active".into();
    facts.cluster.begun = true;
    facts.cluster.kubelet_conf = true;
    assert_eq!(writes(&facts), (7, 0, 0), "an unfinished cluster takes up what changed");
    facts.cluster.finished = true;
    assert_eq!(writes(&facts), (0, 8, 1));
    facts.unit.active = "inactive".into();
    assert_eq!(writes(&facts), (6, 0, 0), "what is stopped takes up what changed");
}

/// Images and kubeadm's files that a power cut left without content were taken for whole.
#[test]
fn f19_what_an_earlier_boot_left_half_written_goes_before_anything_uses_it() {
    let lines = |facts: &Facts| planned(facts, &Init::default()).plan.to_string();
    let at = |text: &str, words: &str| text.lines().position(|line| line.contains(words));
    let mut facts = machine();
    facts.boot_id = "b".into();
    facts.cluster.begun = true;
    facts.cluster.unsynced = Some("b".into());
    let text = lines(&facts);
    assert_eq!(at(&text, "remove all that"), None, "a run that was killed left all in memory: {text}");
    facts.cluster.unsynced = Some("a".into());
    facts.cluster.pki.extend([("sa.key".to_owned(), true), ("sa.pub".to_owned(), false)]);
    let text = lines(&facts);
    let order = [
        "stop u7s.service",
        "remove all that /var/lib/u7s-admin/node/containers holds",
        "start u7s.service",
        "/usr/bin/rm -rf -- /etc/kubernetes/manifests/etcd.yaml",
        "/usr/bin/find",
        "write /var/lib/u7s/unsynced",
        "/usr/bin/kubeadm init",
        "bring /var/lib/u7s-admin and /etc/kubernetes to disk",
        "remove /var/lib/u7s/unsynced",
        "enable u7s.service",
    ];
    let places: Vec<_> = order.iter().map(|words| at(&text, words)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {text}");
    // Finished before the end was told: nothing is torn down, what is left is done.
    facts.cluster.finished = true;
    facts.unit.active = "active".into();
    let text = lines(&facts);
    assert_eq!((at(&text, "remove all that"), at(&text, "/usr/bin/find")), (None, None), "{text}");
    assert!(at(&text, "remove /var/lib/u7s/unsynced").is_some(), "{text}");
}

/// The supervisor refused the specification, so that the node never started.
#[test]
fn a_hosts_file_against_advertisements_does_not_burst_the_specification() {
    let mut facts = machine();
    facts.hosts.push_str(&"0.0.0.0 ads.example\n".repeat(1000));
    let extra: String = (0..40_000).map(|n| format!("10.1.2.3 host-{n}.example\n")).collect();
    facts.hosts.push_str(&extra);
    let outcome = planned(&facts, &Init::default());
    let spec = file(&outcome, "node.json");
    assert!(u64::try_from(spec.len()).unwrap() < u7s_plan::node::MAX_BYTES, "{}", spec.len());
    assert!(outcome.node.hosts.contains("10.77.0.5 registry.local\n"));
    assert!(outcome.node.hosts.contains("10.1.2.3 host-0.example\n") && !outcome.node.hosts.contains("ads."));
}

/// The user's file was taken and never read.
#[test]
fn reset_hands_its_configuration_to_kubeadm_with_the_answer_that_was_given() {
    let mut facts = machine();
    facts.unit.active = "active".into();
    let document = serde_json::json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ResetConfiguration", "unmountFlags": ["MNT_DETACH"],
    });
    let request = Reset {
        pass_flags: vec!["--force=true".into(), "--v=5".into()],
        document: Some(document),
        ..Reset::default()
    };
    let plan = reset(&Config::default(), &request, &facts);
    let steps = plan.phases.iter().flat_map(|phase| &phase.steps);
    let runs: Vec<_> = steps
        .filter_map(|step| match &step.action {
            Action::Run { argv, config, .. } => Some((argv.join(" "), config.clone())),
            _ => None,
        })
        .collect();
    let [(argv, Some(config))] = runs.as_slice() else { panic!("no configuration") };
    assert_eq!(argv, "/usr/bin/kubeadm reset --v=5 --config={config}");
    let config: serde_json::Value = serde_json::from_str(config.expose_secret()).unwrap();
    assert_eq!((&config["force"], &config["unmountFlags"][0]), (&true.into(), &"MNT_DETACH".into()));
}

/// What kubeadm is told to ignore.
fn kubeadm_ignores(outcome: &Outcome) -> Vec<String> {
    let text = carried(outcome, "kubeadm").unwrap_or_default();
    let first = text.split("---\n").next().unwrap_or_default();
    let init: serde_json::Value = serde_json::from_str(first).unwrap_or_default();
    let list = init["nodeRegistration"]["ignorePreflightErrors"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect()
}

#[test]
fn f18_kubeadm_goes_on_where_a_killed_run_of_it_left_off() {
    let mut facts = machine();
    assert_eq!(kubeadm_ignores(&planned(&facts, &Init::default())), [""; 0]);
    facts.cluster.begun = true;
    let request = flags(&[("apiserver-bind-port", "7443")]);
    let expected = [
        "diravailable--var-lib-etcd",
        "fileavailable--etc-kubernetes-manifests-etcd.yaml",
        "fileavailable--etc-kubernetes-manifests-kube-apiserver.yaml",
        "fileavailable--etc-kubernetes-manifests-kube-controller-manager.yaml",
        "fileavailable--etc-kubernetes-manifests-kube-scheduler.yaml",
        "port-10250",
        "port-10257",
        "port-10259",
        "port-2379",
        "port-2380",
        "port-7443",
    ];
    assert_eq!(kubeadm_ignores(&planned(&facts, &request)), expected);
    // Those are ports inside: the host's own are judged as ever.
    facts.listeners = vec![Listener {
        address: [0, 0, 0, 0].into(),
        port: 7443,
        owner: Some((1, "x".into())),
        ours: false,
    }];
    let errors = planned(&facts, &request).errors().map(|need| need.id.clone()).collect::<Vec<_>>();
    assert_eq!(errors, ["Port-7443"]);
    facts.cluster.finished = true;
    assert_eq!(kubeadm_ignores(&planned(&facts, &request)), [""; 0]);
}

#[test]
fn the_node_follows_flags_and_the_host() {
    let mut facts = machine();
    let request = flags(&[
        ("apiserver-bind-port", "7443"),
        ("apiserver-advertise-address", "172.17.0.1"),
        ("pod-network-cidr", "10.60.0.0/16"),
        ("node-name", "Alpha"),
    ]);
    facts.cni_plugins = BTreeMap::from([("/opt/cni/bin".into(), vec!["bridge".into()])]);
    facts.patches = vec!["old+merge.yaml".into()];
    facts.devices.insert(host::TUN.into(), Some(0o600));
    let outcome = planned(&facts, &request);
    let node = &outcome.node;
    assert_eq!(node.node_name, "alpha");
    assert_eq!(node.network.node_ip.to_string(), "172.17.0.1");
    assert_eq!(node.forwards.iter().map(|forward| forward.port).collect::<Vec<_>>(), [7443, 10250, 8472]);
    assert!(node.binds.iter().all(|bind| bind.target != Path::new("/opt/cni/bin")));
    let text = outcome.plan.to_string();
    for line in [
        "[host] root: set the mode of /dev/net/tun to 0666: the node makes its tap device",
        "[configure] root: remove /etc/u7s/patches/old+merge.yaml: a patch of an earlier run",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn planning_twice_gives_the_same_plan() {
    let (facts, request) = (machine(), Init::default());
    let [one, two] = [planned(&facts, &request), planned(&facts, &request)];
    assert_eq!(one.plan.to_string(), two.plan.to_string());
    assert_eq!(one.node, two.node);
}

#[test]
fn what_a_reboot_loses_is_part_of_the_plan() {
    let facts = machine();
    let outcome = planned(&facts, &Init::default());
    let whole = outcome.plan.to_string();
    let config = Config::default();
    let volatile = init::volatile(&config, &facts, Some(&outcome.node)).to_string();
    assert_eq!(volatile.lines().count(), 12);
    assert!(volatile.contains("load the nft table inet u7s"));
    // Before init there is no node whose traffic could be bounded.
    assert_eq!(init::volatile(&config, &facts, None).to_string().lines().count(), 11);
    assert!(volatile.lines().all(|line| whole.contains(line)), "{volatile}");
}

#[test]
fn reset_is_the_golden_plan() {
    let mut facts = machine();
    facts.unit.active = "active".into();
    let request = Reset { pass_flags: vec!["--v=5".into(), "--force=true".into()], ..Reset::default() };
    golden("reset/plan.txt", &reset(&Config::default(), &request, &facts).to_string());
    // systemd waits a second before it starts a killed one again: a dead member of etcd would be left behind.
    (facts.unit.active, facts.unit.result) = ("activating".into(), "signal".into());
    let text = reset(&Config::default(), &request, &facts).to_string();
    assert!(text.find("start u7s.service").unwrap() < text.find("kubeadm reset").unwrap(), "{text}");
    facts.unit.result = "exit-code".into();
    let text = reset(&Config::default(), &request, &facts).to_string();
    assert!(!text.contains("kubeadm reset"), "{text}");
    facts.unit.active = "failed".into();
    let text = reset(&Config::default(), &request, &facts).to_string();
    assert!(!text.contains("kubeadm reset"), "{text}");
}

#[test]
fn without_a_bridge_the_conflist_goes() {
    let config = Config { cni: config::Cni::None, ..Config::default() };
    let text = init(&config, &Init::default(), Docs::default(), &machine()).unwrap().plan.to_string();
    let line = "[configure] user: remove /var/lib/u7s-admin/node/cni-net.d/10-u7s-bridge.conflist: the administrator brings a cluster network";
    assert!(text.contains(line), "{text}");
}
