//! The OCI adapter on a bundle as CRI-O writes it, pretty-printed: what is dropped, what stays, and in which order.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::{Value, json};
use u7s_plan::oci::{NodeLimits, fit};

mod common;

use common::golden;

fn limits(oom_score_adj: i64, controllers: &[&str]) -> NodeLimits {
    NodeLimits { oom_score_adj, controllers: controllers.iter().map(|name| (*name).to_owned()).collect() }
}

fn bundle() -> Value {
    serde_json::from_str(include_str!("golden/oci/config.json")).unwrap()
}

#[test]
fn a_node_without_controllers_gets_the_golden_bundle() {
    let (fitted, changes) = fit(bundle(), &limits(0, &[]));
    golden("oci/fitted.json", &format!("{fitted:#}\n"));
    let log: String = changes.iter().map(|change| format!("{change}\n")).collect();
    golden("oci/changes.txt", &log);
}

#[test]
fn a_full_node_keeps_every_wish() {
    let all = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma"];
    assert_eq!(fit(bundle(), &limits(-999, &all)), (bundle(), Vec::new()));
}

#[test]
fn only_what_has_no_controller_goes() {
    let (fitted, changes) = fit(bundle(), &limits(-999, &["cpu", "memory"]));
    let resources = &fitted["linux"]["resources"];
    assert_eq!(resources["cpu"], json!({ "shares": 102, "quota": 20000, "period": 100_000 }));
    assert_eq!(resources["memory"], bundle()["linux"]["resources"]["memory"]);
    assert_eq!(resources["devices"], bundle()["linux"]["resources"]["devices"]);
    assert_eq!(resources["unified"], json!({ "memory.oom.group": "1", "cgroup.freeze": "0" }));
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "linux.resources.cpu.cpus",
            "linux.resources.cpu.mems",
            "linux.resources.pids",
            "linux.resources.blockIO",
            "linux.resources.hugepageLimits",
            "linux.resources.unified.io.weight"
        ]
    );
}

#[test]
fn the_score_is_raised_never_lowered() {
    for (asked, floor, now, changed) in [
        (json!(-998), 0, json!(0), true),
        (json!(-998), -999, json!(-998), false),
        (json!(1000), 0, json!(1000), false),
        (json!("x"), 0, json!("x"), false),
    ] {
        let (fitted, changes) = fit(json!({ "process": { "oomScoreAdj": asked } }), &limits(floor, &[]));
        assert_eq!(fitted["process"]["oomScoreAdj"], now);
        assert_eq!(!changes.is_empty(), changed);
    }
}

#[test]
fn other_shapes_come_back_as_they_are() {
    let empty = json!({ "linux": { "resources": { "cpu": {}, "unified": {}, "hugepageLimits": [], "memory": null } } });
    let (fitted, changes) = fit(empty, &limits(0, &[]));
    assert_eq!((fitted, changes), (json!({ "linux": { "resources": {} } }), Vec::new()));
    for shape in [json!(null), json!([1]), json!({ "process": 1, "linux": { "resources": [] } })] {
        assert_eq!(fit(shape.clone(), &limits(0, &[])), (shape, Vec::new()));
    }
}
