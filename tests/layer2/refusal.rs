//! What cannot be built is said in one sentence, and nothing is half made.

use u7s_plan::node::{Forward, Protocol};

use crate::bench::{Bench, NODE_IP};
use crate::proc::of_user;

fn refused(bench: &Bench) -> String {
    let (status, output) = bench.fail();
    assert_eq!(status.code(), Some(1), "{output}");
    assert_eq!(of_user(bench.uid), []);
    assert!(!bench.cgroup().join("node").exists(), "the cgroup is left");
    assert!(!bench.path("run/control.sock").exists(), "the socket is left");
    let last = output.lines().rfind(|line| line.starts_with("ERROR ")).unwrap_or_else(|| panic!("{output}"));
    last.trim_start_matches("ERROR ").to_owned()
}

#[test]
fn a_user_without_subordinate_ids_is_told_so() {
    let mut bench = Bench::new();
    bench.subids = "somebody:100000:65536\n".into();
    assert_eq!(refused(&bench), "check /etc/subuid: bench has no range");
}

#[test]
fn a_range_shared_with_another_user_is_refused() {
    let mut bench = Bench::new();
    bench.subids += "somebody:720000:65536\n";
    let expected = "check /etc/subuid: bench's range 700000-765535 overlaps somebody's range 720000-785535";
    assert_eq!(refused(&bench), expected);
}

#[test]
fn a_map_that_does_not_fit_the_ranges_is_refused() {
    let mut bench = Bench::new();
    bench.spec.uid_map[1].outside = 700_001;
    assert_eq!(refused(&bench), "map 65536 ids from 700001: /etc/subuid does not give them to bench");
}

#[test]
fn a_specification_for_another_user_is_refused() {
    let mut bench = Bench::new();
    bench.spec.user.uid += 1;
    bench.spec.uid_map[0].outside += 1;
    let (path, own) = (bench.path("node.json"), bench.uid);
    let expected =
        format!("check {}: it is for uid {}, the supervisor runs as uid {own}", path.display(), own + 1);
    assert_eq!(refused(&bench), expected);
}

#[test]
fn a_taken_port_is_refused_before_anything_is_made() {
    let mut bench = Bench::new();
    // The same port twice: the second is taken by the supervisor itself.
    let forward = Forward { protocol: Protocol::Tcp, address: NODE_IP, port: 16443 };
    bench.spec.forwards = vec![forward, forward];
    let said = refused(&bench);
    assert!(said.starts_with("forward ports: TCP port 16443 of 192.0.2.10 is taken by pid "), "{said}");
}

#[test]
fn missing_controllers_are_named() {
    let mut bench = Bench::new();
    bench.spec.controllers = vec!["nonesuch".into()];
    let expected =
        format!("enable cgroup controllers: nonesuch not delegated to {}", bench.cgroup().display());
    assert_eq!(refused(&bench), expected);
    bench.spec.degraded = vec!["CgroupControllers".into()];
    assert!(bench.start().now().ready);
}

#[test]
fn a_missing_bind_target_names_itself() {
    let mut bench = Bench::new();
    bench.spec.binds[0].target = "/nonexistent/kubelet".into();
    let source = bench.spec.binds[0].source.clone();
    let expected = format!(
        "build the namespaces: bind {} on /nonexistent/kubelet: /nonexistent/kubelet does not exist on the host",
        source.display()
    );
    assert_eq!(refused(&bench), expected);
}

#[test]
fn a_missing_driver_is_named() {
    let mut bench = Bench::new();
    bench.spec.programs.slirp4netns = "/nonexistent/slirp4netns".into();
    let said = refused(&bench);
    assert!(said.contains("/nonexistent/slirp4netns: No such file or directory"), "{said}");
}

#[test]
fn without_capabilities_and_helpers_the_way_out_is_named() {
    let mut bench = Bench::new();
    bench.privileges = "--inh-caps=-all";
    bench.spec.programs.newuidmap = None;
    let expected = "map ids: CAP_SETUID and CAP_SETGID are missing, and the specification names no newuidmap";
    assert_eq!(refused(&bench), expected);
}

#[test]
fn helpers_under_no_new_privs_are_refused_at_once() {
    let mut bench = Bench::new();
    bench.privileges = "--inh-caps=-all --no-new-privs";
    let expected = "map ids: CAP_SETUID and CAP_SETGID are missing, and no_new_privs keeps /usr/bin/newuidmap from working";
    assert_eq!(refused(&bench), expected);
}
