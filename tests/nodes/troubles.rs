//! A person breaks a Ready node in five ways, and is told each time what is wrong and what to type; and what the tools
//! for that say of a node that stands.
//!
//! What is typed is what was told: the hint's own words, run by a shell.

use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use u7s_harness::{Lan, Node, Output, Signal, until};
use u7s_plan::audit::LOG_PATH as AUDIT_LOG;

use crate::Listed;
use crate::cluster::Cluster;
use crate::schema;
use crate::world::{Bare, Check, IGNORED, SHIMS, World, exits, holds, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("troubles::a_check_changes_nothing_and_is_quick", a_check_changes_nothing),
    ("troubles::the_status_of_a_sound_node", the_status_of_a_sound_node),
    ("troubles::one_line_for_monitoring", one_line_for_monitoring),
    ("troubles::s11_a_shell_has_a_terminal_of_its_own_size_and_status", a_shell_has_a_terminal),
    ("troubles::the_logs_of_each_part", the_logs_of_each_part),
    ("troubles::s13_an_archive_without_secrets", an_archive_without_secrets),
    ("troubles::slirp4netns_is_stopped", slirp4netns_is_stopped),
    ("troubles::f21_the_disk_is_filled", the_disk_is_filled),
    ("troubles::f29_a_port_is_taken", a_port_is_taken),
    ("troubles::f33_the_subordinate_ids_are_removed", the_subids_are_removed),
    ("troubles::f57_a_certificate_expires", a_certificate_expires),
];

/// How long a node may take to be told broken, or sound again.
const SOON: Duration = Duration::from_secs(120);

/// A check takes 0.3 s. A busy machine takes seconds, one that waits for something its deadline.
const QUICK: Duration = Duration::from_secs(20);

/// Where the node's tree lies.
const HOME: &str = "/var/lib/u7s-admin";

/// Where there are any.
const MODULES: &str = "cat /proc/modules 2>/dev/null || true";

/// A node whose tree is on a disk of its own, which a test can fill.
pub(crate) fn make(lan: &Lan) -> Result<Cluster, Box<dyn Error>> {
    let bare = Bare::new(lan, "t")?;
    bare.node.sh(&format!(
        "mount -t tmpfs -o size=8g,mode=0700 disk {HOME} && chown u7s-admin: {HOME} && touch /root/canary"
    ))?;
    let cluster = Cluster::on(bare, &["init", IGNORED])?;
    cluster.converge(SOON)?;
    Ok(cluster)
}

/// A command of the tool's, whatever its exit status.
fn u7s(node: &Node, arguments: &[&str]) -> Result<Output, Box<dyn Error>> {
    let argv: Vec<&str> = std::iter::once("u7s").chain(arguments.iter().copied()).collect();
    Ok(node.exec(&argv)?)
}

/// Somebody without any right, whose group has another name.
fn as_user(name: &str) -> &'static [&'static str] {
    if name == "root" { &[] } else { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] }
}

/// The status without the needs that a nested node must ignore, as a document.
fn status(node: &Node) -> Result<(Option<i32>, Value), Box<dyn Error>> {
    let output = u7s(node, &["status", "--ignore=Degraded", "-o", "json"])?;
    let value = serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output}"))?;
    Ok((output.code(), value))
}

/// The problem of this id: message and hint.
fn problem(value: &Value, id: &str) -> Option<(String, String)> {
    let problems = value["problems"].as_array()?;
    let found = problems.iter().find(|problem| problem["id"] == id)?;
    Some((found["message"].as_str()?.to_owned(), found["remedy"].as_str()?.to_owned()))
}

/// Waits until the status tells a problem of this id and exits with `code`.
fn told(node: &Node, id: &str, code: i32) -> Result<(String, String), Box<dyn Error>> {
    let begun = Instant::now();
    let (message, remedy) = until(SOON, &format!("a word about {id}, exit status {code}"), || {
        let (seen, value) = status(node).map_err(|error| error.to_string())?;
        let found = problem(&value, id).filter(|_| seen == Some(code));
        found.ok_or_else(|| format!("exit status {seen:?}: {:#}", value["problems"]))
    })?;
    note(format!("{id}: {message}\ntype: {remedy}\ntold after {:.1} s", begun.elapsed().as_secs_f64()));
    Ok((message, remedy))
}

/// Waits until nothing is wrong any more.
fn sound(cluster: &Cluster) -> Check {
    let begun = Instant::now();
    until(SOON * 2, "a status without problems", || {
        let (code, value) = status(cluster.node()).map_err(|error| error.to_string())?;
        if code == Some(0) { Ok(()) } else { Err(format!("{code:?}: {:#}", value["problems"])) }
    })?;
    note(format!("sound again after {:.1} s", begun.elapsed().as_secs_f64()));
    cluster.converge(SOON).map(drop)
}

/// What a person pastes.
fn types(node: &Node, line: &str) -> Result<Output, Box<dyn Error>> {
    Ok(node.command(&["sh", "-c", line]).within(Duration::from_secs(300)).run()?)
}

fn a_check_changes_nothing(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let before = (node.snapshot()?, node.sh(MODULES)?);
    for user in ["root", "nobody"] {
        let begun = Instant::now();
        let output = node.exec(&[as_user(user), &["u7s", "check", "-o", "json"]].concat())?;
        let took = begun.elapsed();
        let value: Value = serde_json::from_str(&output.stdout)?;
        let unmet: Vec<&Value> =
            value["unmet"].as_array().into_iter().flatten().map(|need| &need["id"]).collect();
        note(format!("{user}: {took:.2?}, unmet {unmet:?}"));
        holds(took < QUICK, format!("{took:?}"))?;
        let ignored = ["CgroupControllers", "OomScore"];
        let others = unmet.iter().filter(|id| !ignored.contains(&id.as_str().unwrap_or_default())).count();
        holds(others == 0, format!("a node that runs lacks something, says {user}: {unmet:?}"))?;
        let faults = schema::faults(&schema_of("check")?, &value, "");
        holds(faults.is_empty(), format!("{faults:?}"))?;
        let result = |id: &str| {
            value["checks"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|check| check["id"] == id)
                .map(|check| check["result"].clone())
        };
        for id in ["UserNamespaces", "IdMap", "Overlay", "Tun"] {
            holds(result(id) == Some(json!("pass")), format!("{user}, {id}: {:?}", result(id)))?;
        }
        let cgroup = if user == "root" { "pass" } else { "unseen" };
        holds(result("CgroupWrite") == Some(json!(cgroup)), format!("{user}: {:?}", result("CgroupWrite")))?;
    }
    let after = (node.snapshot()?, node.sh(MODULES)?);
    let changes = before.0.diff(&after.0);
    note(format!("{} entries compared, changed meanwhile by others: {changes:?}", after.0.len()));
    // The audit log is the API server's; a pod's own /etc lies deeper.
    let ours =
        |change: &&String| ["u7s-check", " file /etc/", " file /usr/"].iter().any(|at| change.contains(at));
    let made: Vec<&String> =
        changes.iter().filter(ours).filter(|change| !change.contains(AUDIT_LOG)).collect();
    holds(made.is_empty(), format!("made or changed: {made:?}"))?;
    holds(before.1 == after.1, "modules were loaded")?;
    holds(!node.sh("find /sys/fs/cgroup -name 'u7s-check*'")?.contains("u7s-check"), "a cgroup is left")
}

fn schema_of(name: &str) -> Result<Value, Box<dyn Error>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("packaging/schema/{name}.json"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

fn the_status_of_a_sound_node(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    sound(&cluster)?;
    let output = u7s(node, &["status"])?;
    note(&output.stdout);
    // Needs were ignored, as a nested node must.
    exits(&output, 5)?;
    for text in [
        "unit: u7s.service active",
        "API: answers",
        "Ready: yes",
        "[WARNING Degraded]",
        "STATUS: degraded",
        "the first to end is",
    ] {
        wants(&output, text)?;
    }
    let value = cluster.status()?;
    let faults = schema::faults(&schema_of("status")?, &value, "");
    holds(faults.is_empty(), format!("{faults:?}"))?;
    let certificates = value["certificates"].as_array().cloned().unwrap_or_default();
    let days = certificates.iter().filter_map(|certificate| certificate["days"].as_i64()).min();
    note(format!("{} certificates, at least {days:?} days", certificates.len()));
    holds(certificates.len() == 14 && days.is_some_and(|days| days > 300), format!("{certificates:?}"))?;
    let own = node.command(&["u7s", "status", "--ignore=Degraded"]).user("u7s-admin").run()?;
    exits(&own, 0)?;
    let stranger = node.exec(&[as_user("nobody"), &["u7s", "status"]].concat())?;
    exits(&stranger, 2)?;
    wants(&stranger, "[ERROR IsPrivilegedUser]")?;
    exits(&cluster.inside(&["u7s", "status"])?, 0)
}

fn one_line_for_monitoring(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    for (arguments, code, begin) in [
        (&["--ignore=Degraded"][..], 0, "U7S OK - "),
        (&[], 1, "U7S WARNING - Degraded: "),
        (&["--ignore=Degraded", "-w", "400"], 1, "U7S WARNING - "),
        (&["--ignore=Degraded", "-w", "900", "-c", "400"], 2, "U7S CRITICAL - "),
    ] {
        let all: Vec<&str> = ["status", "--nagios"].into_iter().chain(arguments.iter().copied()).collect();
        let output = u7s(node, &all)?;
        note(output.stdout.trim());
        exits(&output, code)?;
        let one = output.stdout.lines().count() == 1 && output.stdout.starts_with(begin);
        holds(
            one && output.stdout.contains(" | problems=") && output.stdout.contains("certificate_days="),
            output.stdout,
        )?;
    }
    let stranger = node.exec(&[as_user("nobody"), &["u7s", "status", "--nagios"]].concat())?;
    exits(&stranger, 3)?;
    wants(&stranger, "U7S UNKNOWN - ")
}

fn a_shell_has_a_terminal(world: &World) -> Check {
    let cluster = world.troubled()?;
    let line =
        "stty rows 33 cols 99; tty; u7s shell -- sh -c 'stty size; tty; id -u; exit 7'; echo status $?";
    let output = cluster.node().exec(&["script", "-qec", line, "/dev/null"])?;
    note(output.stdout.trim());
    for text in ["33 99", "status 7"] {
        wants(&output, text)?;
    }
    let terminals: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("/dev/")).collect();
    holds(terminals.len() == 2, format!("{terminals:?}"))?;
    // Without a terminal none is made, and bytes stay what they are.
    let piped = cluster.node().command(&["u7s", "shell", "--", "cat"]).input("a\nb").run()?;
    holds(piped.stdout == "a\nb", format!("{piped}"))
}

fn the_logs_of_each_part(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    for (component, word) in [("kubelet", "kubelet["), ("crio", "crio["), ("supervisor", "u7s-supervisor[")] {
        let output = u7s(node, &["logs", component, "-n", "20"])?;
        exits(&output, 0)?;
        let lines = output.stdout.lines().filter(|line| !line.starts_with("--")).count();
        let own = output.stdout.lines().filter(|line| line.contains(word)).count();
        note(format!("{component}: {own} of {lines} lines"));
        holds(own > 0 && own == lines, output.stdout)?;
    }
    holds(u7s(node, &["logs", "--since", "1 hour ago"])?.stdout.lines().count() > 20, "few lines")?;
    exits(&u7s(node, &["logs", "bogus"])?, 3)?;
    let running = node.spawn(&["u7s", "logs", "kubelet", "-f", "-n", "0"])?;
    let token = "u7s-no-such-pod-to-log";
    until(SOON, "a new line of the kubelet", || {
        // Each time the kubelet is told of a pod it cannot make.
        let manifest = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{token}"}},"spec":{{"nodeName":"t","containers":[{{"name":"c","image":"test.local/none:1","imagePullPolicy":"Never"}}]}}}}"#
        );
        let _ = cluster.apply(&manifest);
        if running.so_far().0.contains(token) { Ok(()) } else { Err("not yet".into()) }
    })?;
    running.signal(Signal::SIGTERM);
    cluster.kubectl(&["delete", "pod", token, "--wait=false"]).map(drop)
}

fn an_archive_without_secrets(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let kubelet = format!("{HOME}/node/kubelet");
    let token = node.command(&["kubeadm", "token", "create"]).first_in_path(SHIMS).within(SOON).ok()?;
    node.sh(&format!(
        "set -e
        mkdir -p /etc/u7s/config.d /etc/systemd/system/u7s.service.d
        printf '# token: CANARY-comment\\n[images]\\npause = \"registry.k8s.io/pause:3.10.1\" # {token}\\n' >/etc/u7s/config.d/50-canary.toml
        printf '[Service]\\nEnvironment=MY_VALUE=CANARY-env\\n' >/etc/systemd/system/u7s.service.d/canary.conf
        systemctl daemon-reload
        echo CANARY-key >/etc/kubernetes/pki/canary.key
        echo CANARY-root >/root/canary; chmod 600 /root/canary
        printf '# password: CANARY-kubelet\\n' >>{kubelet}/config.yaml
        cp -p {kubelet}/kubeadm-flags.env {kubelet}/kept
        rm {kubelet}/kubeadm-flags.env
        ln -s /root/canary {kubelet}/kubeadm-flags.env
        u7s shell -- sh -c 'for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = crio ] && echo said token={token} aloud >$p/fd/2; done; true'",
        token = token.trim()
    ))?;
    until(SOON, "the journal to have it", || {
        let log = u7s(node, &["logs", "crio"]).map_err(|error| error.to_string())?;
        if log.stdout.contains(&format!("said token={}", token.trim())) { Ok(()) } else { Err(String::new()) }
    })?;
    node.sh("u7s support --file /root/case.tar")?;
    let listed = node.ok(&["tar", "-tvf", "/root/case.tar"])?;
    note(&listed);
    let texts = node.ok(&["tar", "-xOf", "/root/case.tar"])?;
    let secrets =
        node.sh("cat /etc/kubernetes/pki/*.key /etc/kubernetes/pki/etcd/*.key | grep -v -e ----- -e CANARY
        sed -n 's/.*client-key-data: //p' /etc/kubernetes/*.conf
        PATH=/usr/libexec/u7s/bin:$PATH kubeadm token list -o jsonpath='{.token}{\"\\n\"}'")?;
    let secrets: Vec<&str> =
        secrets.lines().filter(|line| line.len() > 20).chain(["CANARY", token.trim()]).collect();
    note(format!("{} secrets looked for in {} bytes", secrets.len(), texts.len()));
    node.sh(&format!(
        "rm -r /etc/u7s/config.d/50-canary.toml /etc/systemd/system/u7s.service.d /etc/kubernetes/pki/canary.key
        mv {kubelet}/kept {kubelet}/kubeadm-flags.env; sed -i '/CANARY/d' {kubelet}/config.yaml; systemctl daemon-reload"
    ))?;
    for secret in &secrets {
        let at = texts.find(secret);
        let around = at.map(|at| texts.get(at.saturating_sub(200)..at).unwrap_or_default().to_owned());
        holds(at.is_none(), format!("{secret} is in the archive, behind {around:?}"))?;
    }
    holds(
        secrets.len() > 50 && texts.contains("symbolic link, which is not followed"),
        "the link was not told",
    )?;
    holds(node.sh("stat -c %a /root/case.tar")?.trim() == "600", "it is not closed")?;
    for name in [
        "facts.json",
        "plan.txt",
        "status.json",
        "journal.txt",
        "unit.txt",
        "nft-table.txt",
        "mounts-node.txt",
        "config.toml",
    ] {
        holds(listed.contains(name), format!("{name} is missing: {listed}"))?;
    }
    for text in [
        "table inet u7s",
        "ActiveState=active",
        "kubelet[",
        "/var/lib/kubelet",
        "\"verdict\"",
        "said token=[redacted] aloud",
    ] {
        holds(texts.contains(text), format!("{text} is not in the archive"))?;
    }
    sound(&cluster)
}

fn slirp4netns_is_stopped(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let pid = cluster.status()?["driver_pid"].to_string();
    node.ok(&["kill", "-STOP", &pid])?;
    let (message, remedy) = told(node, "NetworkDriver", 1)?;
    holds(message.contains("slirp4netns") && message.contains("stopped"), message)?;
    types(node, &remedy)?;
    sound(&cluster)
}

fn the_disk_is_filled(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let used = node.sh(&format!("df --output=used -B1M {HOME} | tail -1"))?;
    let used: u64 = used.trim().parse()?;
    note(format!("{used} MiB are used; 20 more than that are the disk now"));
    node.sh(&format!("mount -o remount,size={}m {HOME}", used + 20))?;
    let result = told(node, "DiskSpace", 1).and_then(|(message, remedy)| {
        holds(message.contains(HOME) && message.contains("MiB are free"), message)?;
        // It shows who has the space.
        wants(&types(node, &remedy)?, &format!("{HOME}/node"))?;
        let check = u7s(node, &["check"])?;
        exits(&check, 2)?;
        wants(&check, "[ERROR DiskSpace]")
    });
    node.sh(&format!("mount -o remount,size=8g {HOME}"))?;
    result?;
    sound(&cluster)
}

fn a_port_is_taken(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    node.ok(&["systemctl", "stop", "u7s.service"])?;
    let (message, remedy) = told(node, "Namespace", 1)?;
    holds(message.contains("does not run") && remedy == "systemctl start u7s.service", message)?;
    let address = format!("TCP-LISTEN:10250,bind={},fork,reuseaddr", node.ip());
    let thief = node.spawn(&["socat", &address, "STDOUT"])?;
    node.ok(&["systemctl", "start", "--no-block", "u7s.service"])?;
    let (message, remedy) = told(node, "Port-10250", 1)?;
    let pid =
        message.split("(pid ").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default().to_owned();
    holds(message.contains("socat") && !pid.is_empty(), message)?;
    let (_, line) = remedy.split_once(": ").ok_or("no command in the hint")?;
    wants(&types(node, line)?, "socat")?;
    wants(&u7s(node, &["check"])?, "[ERROR Port-10250]")?;
    node.ok(&["kill", &pid])?;
    drop(thief);
    types(node, "systemctl start u7s.service")?;
    sound(&cluster)
}

fn the_subids_are_removed(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    node.sh("cp /etc/subuid /etc/subgid /root/; sed -i '/^u7s-admin:/d' /etc/subuid /etc/subgid")?;
    // The running node is unaffected.
    let (message, _) = told(node, "Subids", 5)?;
    holds(message.contains("would not start again"), message)?;
    wants(&u7s(node, &["check"])?, "[ERROR Subids]")?;
    // The one block, pasted as it is; the node has no sudo.
    let sudo = "mkdir -p /root/b; printf '#!/bin/sh\nexec \"$@\"\n' >/root/b/sudo; chmod 755 /root/b/sudo";
    let pasted =
        types(node, &format!("{sudo}; u7s check --print-fix >/root/fix; PATH=/root/b:$PATH sh /root/fix"))?;
    note(format!("{pasted}"));
    holds(pasted.ok() && pasted.stderr.contains("+ usermod --add-subuids"), format!("{pasted}"))?;
    let back = node
        .sh("for f in subuid subgid; do sort /etc/$f >/root/new; sort /root/$f | diff - /root/new; done")?;
    holds(back.is_empty() && status(node)?.0 == Some(0), back)?;
    node.sh("sed -i '/^u7s-admin:/d' /etc/subuid /etc/subgid")?;
    node.ok(&["systemctl", "restart", "--no-block", "u7s.service"])?;
    let (message, _) = told(node, "Subids", 1)?;
    holds(message.contains("has no range in /etc/subuid"), message)?;
    let (_, value) = status(node)?;
    let lines: Vec<String> = value["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|problem| problem["id"] == "Subids")
        .filter_map(|problem| problem["remedy"].as_str().map(str::to_owned))
        .collect();
    holds(lines.len() == 2, format!("{lines:?}"))?;
    for line in &lines {
        let typed = types(node, line)?;
        holds(typed.ok(), format!("{typed}"))?;
    }
    let same = node
        .sh("for f in subuid subgid; do grep u7s-admin /etc/$f; grep u7s-admin /root/$f; done | sort -u")?;
    holds(same.lines().count() == 1, same)?;
    sound(&cluster)
}

fn a_certificate_expires(world: &World) -> Check {
    let cluster = world.troubled()?;
    let node = cluster.node();
    let configuration = cluster.kubectl(&[
        "get",
        "configmap",
        "kubeadm-config",
        "-n",
        "kube-system",
        "-o",
        "jsonpath={.data.ClusterConfiguration}",
    ])?;
    let lines: Vec<&str> =
        configuration.lines().filter(|line| !line.starts_with("certificateValidityPeriod")).collect();
    node.write("/root/short.yaml", format!("{}\ncertificateValidityPeriod: 20s\n", lines.join("\n")))?;
    let renew = ["kubeadm", "certs", "renew", "apiserver", "--config", "/root/short.yaml"];
    node.command(&renew).first_in_path(SHIMS).within(SOON).ok()?;
    // Until its end it is only a warning, and what the test before left may still be told of.
    let (message, remedy) = until(SOON, "the end of the certificate", || {
        let (message, remedy) = told(node, "Certificate", 1).map_err(|error| error.to_string())?;
        if message.contains("has expired at ") { Ok((message, remedy)) } else { Err(message) }
    })?;
    holds(message.starts_with("apiserver ("), message)?;
    let line = u7s(node, &["status", "--nagios"])?;
    exits(&line, 2)?;
    note(line.stdout.trim());
    // A nested node must ignore what it was made with.
    let typed = types(node, &remedy.replace("kubeadm init", &format!("kubeadm init {IGNORED}")))?;
    holds(typed.ok(), format!("{typed}"))?;
    sound(&cluster)?;
    let days = cluster.status()?["certificates"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["days"].as_i64())
        .min();
    holds(days.is_some_and(|days| days > 300), format!("{days:?}"))
}
