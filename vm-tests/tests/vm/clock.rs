//! A machine whose clock is wrong joins.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use u7s_vm::{Output, Vm};

use crate::Listed;
use crate::world::{Check, Cluster, SOON, World, exits, holds, kubeadm, machine, note};

pub(crate) const TESTS: &[Listed] =
    &[("clock::a_join_with_a_clock_two_hours_behind_names_the_clocks", a_join_with_a_clock_two_hours_behind)];

/// What is printed below kubeadm's own words.
const HINT: &str = "hint: the clocks of both hosts must agree: timedatectl";

/// The API server's certificate is not valid yet for who is two hours behind; kubeadm says so in Go's words, which name no clock.
fn a_join_with_a_clock_two_hours_behind(world: &World) -> Check {
    let cluster = world.cluster()?;
    let behind = "s=$(openssl x509 -noout -startdate -in /etc/kubernetes/pki/apiserver.crt | cut -d= -f2); \
        date -u -d \"@$(($(date -d \"$s\" +%s) - 7200))\" +%Y-%m-%dT%H:%M:%S";
    let clock = cluster.vm.sh(behind)?;
    let mut late = machine("late")?;
    late.options.memory = 2048;
    late.options.clock.clone_from(&clock);
    late.boot()?;
    note(format!("it is {} there", late.ok(&["date", "-u"])?));
    let result = join(&cluster, &late);
    if result.is_err() {
        crate::world::evidence(&mut late, "clock.late");
    }
    result
}

fn join(cluster: &Cluster, late: &Vm) -> Check {
    let port = open(&cluster.vm)?;
    late.until(SOON, "a default route", |vm| {
        let routes = vm.ok(&["ip", "route"]).map_err(|error| error.to_string())?;
        if routes.contains("default") { Ok(()) } else { Err(routes) }
    })?;
    let words = cluster.vm.command(&["kubeadm", "token", "create", "--print-join-command"]);
    let words = words.first_in_path(crate::world::SHIMS).within(cluster.vm.speed().scale(SOON)).ok()?;
    let after = |flag: &str| {
        let mut all = words.split_whitespace().skip_while(move |word| *word != flag);
        all.nth(1).unwrap_or_default().to_owned()
    };
    let signature = format!("jws-kubeconfig-{}", after("--token").split('.').next().unwrap_or_default());
    cluster.vm.until(SOON, "the controller manager to sign for the token", |_| {
        let info = cluster.json(&["get", "configmap", "-n", "kube-public", "cluster-info"]);
        let info = info.map_err(|error| error.to_string())?;
        if info["data"][&signature].is_string() { Ok(()) } else { Err(format!("no {signature}")) }
    })?;
    let config = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "JoinConfiguration",
        // kubeadm tries again and again; once is enough.
        "timeouts": {"discovery": "20s"},
        "nodeRegistration": {"name": "late"},
        "discovery": {"bootstrapToken": {
            "token": after("--token"), "apiServerEndpoint": format!("10.0.2.2:{port}"),
            "caCertHashes": [after("--discovery-token-ca-cert-hash")],
        }},
    });
    late.write("/root/join.yaml", config.to_string())?;
    let factor = format!("s/^#timeout_factor = 1/timeout_factor = {}/", late.speed().factor());
    late.ok(&["sed", "-i", &factor, "/etc/u7s/config.toml"])?;
    let limit = late.speed().scale(Duration::from_secs(40));
    let failed = kubeadm(late, &["join", "--config=/root/join.yaml"]).within(limit).run()?;
    judge(&failed)?;
    // The cure that the hint names, and the next failure is another one: this address is not in the certificate.
    let now = cluster.vm.ok(&["date", "-u", "+%Y-%m-%dT%H:%M:%S"])?;
    late.ok(&["date", "-u", "-s", &now])?;
    let again = kubeadm(late, &["join", "--config=/root/join.yaml"]).within(limit).run()?;
    let said = format!("{again}");
    holds(!said.contains("not yet valid"), format!("with the right clock: {said}"))?;
    let reason = said.lines().find(|line| line.contains("x509")).unwrap_or("it joined");
    note(format!("with the right clock: {}", reason.trim()));
    cluster
        .vm
        .command(&["kubeadm", "token", "delete", &after("--token")])
        .first_in_path(crate::world::SHIMS)
        .within(cluster.vm.speed().scale(SOON))
        .ok()?;
    Ok(())
}

fn judge(failed: &Output) -> Check {
    exits(failed, 1)?;
    let text = format!("{failed}");
    for line in text.lines().filter(|line| line.contains("x509") || line.contains("hint:")) {
        note(line.trim());
    }
    holds(
        text.contains("certificate has expired or is not yet valid"),
        format!("another failure: {failed}"),
    )?;
    let [error, hint] = ["not yet valid", HINT].map(|word| text.rfind(word));
    holds(hint.is_some(), format!("no hint: {failed}"))?;
    holds(hint > error, format!("the hint does not follow the failure: {failed}"))
}

/// A port of this machine's loopback, which is 10.0.2.2 to all machines, that leads to the cluster's API server.
fn open(vm: &Vm) -> Result<u16, Box<dyn std::error::Error>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let line = format!("hostfwd_add net tcp:127.0.0.1:{port}-10.0.2.15:6443");
    let said = vm.qmp()?.execute("human-monitor-command", &json!({"command-line": line}))?;
    holds(said == "", format!("QEMU: {said}"))?;
    Ok(port)
}
