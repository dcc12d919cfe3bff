//! Who runs as whom: seen from the host's /proc and from inside pods.

use std::time::Duration;

use u7s_harness::{Process, until};

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

fn s16_only_declared_ports_listen(world: &World) -> Check {
    let cluster = world.cluster()?;
    let ip = cluster.node().ip();
    // slirp4netns' unconnected UDP sockets are flows out of the node, with kernel-chosen ports; nothing else may have one.
    let script = "ss -Hlntup | grep -v '^udp.*users:((\"slirp4netns\"' | awk '{print $1, $5}' | sort -u";
    let declared =
        [("tcp", 6443), ("tcp", 10_250), ("udp", 8472)].map(|(kind, port)| format!("{kind} {ip}:{port}"));
    // A flow that ends while ss looks has lost its owner already: only what stays counts.
    let listening = until(Duration::from_secs(10), "no listener but the declared ones", || {
        let listening = cluster.node().sh(script).map_err(|error| error.to_string())?;
        let foreign = listening.lines().any(|line| !declared.iter().any(|port| port == line));
        if foreign { Err(format!("listening and not declared: {listening}")) } else { Ok(listening) }
    })?;
    note(&listening);
    for port in declared {
        holds(listening.lines().any(|line| line == port), format!("{port} does not listen"))?;
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
