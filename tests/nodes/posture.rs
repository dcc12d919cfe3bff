//! Who runs as whom: seen from the host's /proc and from inside pods.

use std::time::Duration;

use u7s_harness::Process;

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Check, World, holds, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("posture::s1_no_process_has_host_uid_0", s1_no_process_has_host_uid_0),
    ("posture::s2_supervisor_and_driver_hold_nothing", s2_supervisor_and_driver_hold_nothing),
    ("posture::allow_privilege_escalation_means_what_it_says", allow_privilege_escalation_means_what_it_says),
    ("posture::s16_only_declared_ports_listen", s16_only_declared_ports_listen),
    ("posture::s15_other_users_do_not_reach_the_sockets", s15_other_users_do_not_reach_the_sockets),
];

fn of_unit(cluster: &Cluster) -> Vec<Process> {
    let all = cluster.node().processes();
    all.into_iter().filter(|process| process.cgroup.contains("/u7s.service")).collect()
}

fn s1_no_process_has_host_uid_0(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let processes = of_unit(&cluster);
    note(format!("{} processes in u7s.service", processes.len()));
    holds(processes.len() > 10, "too few processes to be a control plane")?;
    let root: Vec<&Process> = processes.iter().filter(|process| process.uids.contains(&0)).collect();
    holds(root.is_empty(), format!("processes with host uid 0: {root:?}"))?;
    for name in ["etcd", "kube-apiserver", "kubelet", "crio", "coredns"] {
        holds(processes.iter().any(|process| process.comm == name), format!("{name} is not among them"))?;
    }
    Ok(())
}

/// The supervisor holds nothing at all. slirp4netns' sandbox joins the node's user namespace and keeps one capability
/// *of that namespace*, CAP_NET_BIND_SERVICE: hard-coded in its sandbox.c, worth nothing on the host. So what is asserted
/// of it is the host's view: it is not in the host's user namespace, and holds that one bit at most.
fn s2_supervisor_and_driver_hold_nothing(world: &World) -> Check {
    let cluster = world.cluster()?;
    let host = std::fs::read_link("/proc/self/ns/user")?;
    for (name, allowed) in [("u7s-supervisor", 0), ("slirp4netns", 1_u64 << 10)] {
        let matching: Vec<Process> = of_unit(&cluster)
            .into_iter()
            .filter(|process| process.cgroup.ends_with("/supervisor") && process.comm.starts_with(name))
            .collect();
        holds(!matching.is_empty(), format!("{name} does not run"))?;
        for process in matching {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid))?;
            let line = |key: &str| {
                status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or("?")
            };
            let in_host_userns = std::fs::read_link(format!("/proc/{}/ns/user", process.pid))? == host;
            note(format!(
                "{name} {}: CapEff {} CapPrm {} NoNewPrivs {} host's user namespace: {in_host_userns}",
                process.pid,
                line("CapEff:"),
                line("CapPrm:"),
                line("NoNewPrivs:")
            ));
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                let bits = u64::from_str_radix(line(set), 16)?;
                let fine = if in_host_userns { bits == 0 } else { bits & !allowed == 0 };
                holds(fine, format!("{name}: {set} {}", line(set)))?;
            }
            holds(line("NoNewPrivs:") == "1", format!("{name}: NoNewPrivs {}", line("NoNewPrivs:")))?;
        }
    }
    Ok(())
}

fn allow_privilege_escalation_means_what_it_says(world: &World) -> Check {
    let cluster = world.cluster()?;
    let user = r#""runAsUser":1000,"runAsGroup":1000"#;
    cluster.pod("may", &format!(r#"{{{user},"allowPrivilegeEscalation":true}}"#))?;
    cluster.pod("may-not", &format!(r#"{{{user},"allowPrivilegeEscalation":false}}"#))?;
    let euid = |pod: &str| -> Result<(String, String), Box<dyn std::error::Error>> {
        let id = cluster.in_pod(pod, &["suid-id", "-u"])?;
        let flag =
            cluster.in_pod(pod, &["sh", "-c", "sed -n 's/^NoNewPrivs:[^0-9]*//p' /proc/self/status"])?;
        Ok((id.stdout.trim().to_owned(), flag.stdout.trim().to_owned()))
    };
    let (may, may_not) = (euid("may")?, euid("may-not")?);
    note(format!("a setuid program: allowed {may:?}, not allowed {may_not:?} (euid, NoNewPrivs)"));
    holds(may == ("0".into(), "0".into()), format!("with allowPrivilegeEscalation: {may:?}"))?;
    holds(may_not == ("1000".into(), "1".into()), format!("without: {may_not:?}"))
}

/// A socket that ss shows.
#[derive(Debug)]
struct Socket {
    kind: String,
    address: String,
    inode: String,
    owner: Option<String>,
}

/// All that listens, or takes datagrams from anybody.
fn listening(cluster: &Cluster) -> Result<Vec<Socket>, Box<dyn std::error::Error>> {
    let text = cluster.node().sh("ss -Hlntupe")?;
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| words.get(at).map(|word| (*word).to_owned());
        let after = |head: &str| words.iter().find_map(|word| word.strip_prefix(head)).map(str::to_owned);
        let owner = after("users:((\"").and_then(|rest| rest.split('"').next().map(str::to_owned));
        Some(Socket { kind: word(0)?, address: word(4)?, inode: after("ino:")?, owner })
    };
    let sockets: Vec<Socket> = text.lines().filter_map(socket).collect();
    holds(sockets.len() == text.lines().count(), format!("ss was not understood: {text}"))?;
    Ok(sockets)
}

/// slirp4netns' unconnected UDP sockets are flows out of the node, with ports that the kernel chose; nothing else may have one.
///
/// A flow that begins or ends while ss looks has no owner: it has one when ss looks again, or is gone. All else counts at once.
fn s16_only_declared_ports_listen(world: &World) -> Check {
    let cluster = world.cluster()?;
    let ip = cluster.node().ip();
    let declared =
        [("tcp", 6443), ("tcp", 10_250), ("udp", 8472)].map(|(kind, port)| (kind, format!("{ip}:{port}")));
    let is_declared = |socket: &Socket| {
        declared.iter().any(|(kind, address)| socket.kind == *kind && socket.address == *address)
    };
    let is_flow = |socket: &Socket| socket.kind == "udp" && socket.owner.as_deref() == Some("slirp4netns");
    let first = listening(&cluster)?;
    let foreign: Vec<&Socket> =
        first.iter().filter(|socket| !is_declared(socket) && !is_flow(socket)).collect();
    let (doubtful, certain): (Vec<&Socket>, Vec<&Socket>) =
        foreign.into_iter().partition(|socket| socket.kind == "udp" && socket.owner.is_none());
    holds(certain.is_empty(), format!("listening and not declared: {certain:?}"))?;
    let second = listening(&cluster)?;
    let stays: Vec<&Socket> = second
        .iter()
        .filter(|socket| !is_flow(socket) && doubtful.iter().any(|before| before.inode == socket.inode))
        .collect();
    holds(stays.is_empty(), format!("taking datagrams, not declared, and nobody's flow: {stays:?}"))?;
    let flows = first.iter().filter(|socket| is_flow(socket)).count();
    note(format!(
        "{} sockets, {flows} of them flows, {} without an owner for a moment",
        first.len(),
        doubtful.len()
    ));
    for (kind, address) in &declared {
        let there = first.iter().any(|socket| socket.kind == *kind && socket.address == *address);
        holds(there, format!("{kind} {address} does not listen"))?;
    }
    Ok(())
}

fn s15_other_users_do_not_reach_the_sockets(world: &World) -> Check {
    let cluster = world.cluster()?;
    let other =
        cluster.node().command(&["socat", "-", "UNIX-CONNECT:/run/u7s/control.sock"]).user("daemon").run()?;
    wants(&other, "Permission denied")?;
    let modes = cluster.node().ok(&["stat", "-c", "%a %U", "/run/u7s", "/run/u7s/control.sock"])?;
    holds(modes == "700 u7s-admin\n600 u7s-admin", modes)
}
