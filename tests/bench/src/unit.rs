//! The node of the stage with u7s.service running: a whole cluster, or in a quick run only the namespaces.

use std::time::Duration;

use u7s_harness::until;
use u7s_plan::node::{Component, ComponentName, PATH};

use crate::namespace::spec;
use crate::stage::Stage;
use crate::trial::{Kind, Variant};
use crate::{Error, Settings};

/// How long init may take on a busy machine.
const INIT: Duration = Duration::from_secs(400);

/// Needs that a nested node cannot meet where the machine keeps controllers in cgroup v1.
const IGNORED: &str = "--ignore-preflight-errors=CgroupControllers,OomScore,SystemVerification";

pub(crate) const SHIMS: &str = "/usr/libexec/u7s/bin";

/// Brings u7s up unless it is.
pub(crate) fn up(stage: &mut Stage, settings: &Settings) -> Result<(), Error> {
    if stage.is_up {
        return Ok(());
    }
    if settings.quick {
        start_bare(stage)?;
    } else {
        settings.say("kubeadm init");
        stage.node.command(&["kubeadm", "init", IGNORED]).first_in_path(SHIMS).within(INIT).ok()?;
        settings.say("wait until all pods are ready");
        wait_for_pods(stage)?;
    }
    stage.is_up = true;
    Ok(())
}

/// u7s.service with a kubelet that is not enabled and no crio.
fn start_bare(stage: &Stage) -> Result<(), Error> {
    let mut node = spec::specification(stage)?;
    let kubelet = Component { name: ComponentName::Kubelet, always: false, ..node.components.remove(0) };
    node.components = vec![kubelet];
    stage.node.write(PATH, serde_json::to_vec(&node).map_err(Error::json("a specification"))?)?;
    let script = "mkdir -p /opt/bench/targets && for i in 0 1 2 3 4 5 6 7 8 9 10 11; do mkdir -p /opt/bench/targets/$i; done; \
        chown root:u7s-admin \"$0\" && chmod 640 \"$0\" && systemctl start u7s";
    stage.node.ok(&["sh", "-euc", script, PATH]).map(drop).map_err(Error::from)
}

fn wait_for_pods(stage: &Stage) -> Result<(), Error> {
    until(Duration::from_secs(240), "all pods to be ready", || {
        let output = stage.node.exec(&["kubectl", "get", "pods", "-A", "--no-headers"]);
        let text = output.map_err(|error| error.to_string())?.stdout;
        // NAMESPACE NAME READY: "2/2".
        let is_ready = |line: &str| {
            let count = line.split_whitespace().nth(2).and_then(|ready| ready.split_once('/'));
            count.is_some_and(|(ready, all)| ready == all)
        };
        if text.lines().count() >= 6 && text.lines().all(is_ready) { Ok(()) } else { Err(text) }
    })?;
    Ok(())
}

/// A command of root's in the node, or of u7s-admin's.
pub(crate) fn command(stage: &Stage, name: &str, argv: &[&str], is_root: bool) -> Variant {
    let path = format!("{SHIMS}:/usr/sbin:/usr/bin:/sbin:/bin");
    Variant {
        name: name.into(),
        argv: argv.iter().map(ToString::to_string).collect(),
        env: vec![("PATH".into(), path), ("HOME".into(), "/root".into())],
        uid: if is_root { 0 } else { stage.user.id },
        capabilities: 0,
        kind: Kind::Command,
        trace: None,
    }
}
