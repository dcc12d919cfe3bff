//! Who runs as whom: seen from the host's /proc and from inside pods.

use std::time::Duration;

use u7s_harness::Process;

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Check, World, holds, wants};

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
    println!("{} processes in u7s.service", processes.len());
    holds(processes.len() > 10, "too few processes to be a control plane")?;
    let root: Vec<&Process> = processes.iter().filter(|process| process.uids.contains(&0)).collect();
    holds(root.is_empty(), format!("processes with host uid 0: {root:?}"))?;
    for name in ["etcd", "kube-apiserver", "kubelet", "crio", "coredns"] {
        holds(processes.iter().any(|process| process.comm == name), format!("{name} is not among them"))?;
    }
    Ok(())
}

fn s2_supervisor_and_driver_hold_nothing(world: &World) -> Check {
    let cluster = world.cluster()?;
    for name in ["u7s-supervisor", "slirp4netns"] {
        let matching: Vec<Process> = of_unit(&cluster)
            .into_iter()
            .filter(|process| process.cgroup.ends_with("/supervisor") && process.comm.starts_with(name))
            .collect();
        holds(!matching.is_empty(), format!("{name} does not run"))?;
        for process in matching {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid))?;
            let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or("?");
            println!("{name} {}: CapEff {} CapPrm {} NoNewPrivs {}", process.pid, line("CapEff:"), line("CapPrm:"), line("NoNewPrivs:"));
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                holds(line(set) == "0000000000000000", format!("{name}: {set} {}", line(set)))?;
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
        let flag = cluster.in_pod(pod, &["sh", "-c", "sed -n 's/^NoNewPrivs:[^0-9]*//p' /proc/self/status"])?;
        Ok((id.stdout.trim().to_owned(), flag.stdout.trim().to_owned()))
    };
    let (may, may_not) = (euid("may")?, euid("may-not")?);
    println!("a setuid program: allowed {may:?}, not allowed {may_not:?} (euid, NoNewPrivs)");
    holds(may == ("0".into(), "0".into()), format!("with allowPrivilegeEscalation: {may:?}"))?;
    holds(may_not == ("1000".into(), "1".into()), format!("without: {may_not:?}"))
}

fn s16_only_declared_ports_listen(world: &World) -> Check {
    let cluster = world.cluster()?;
    let ip = cluster.node().ip();
    let listening = cluster.node().sh("ss -Hlntu | awk '{print $1, $5}' | sort -u")?;
    println!("{listening}");
    for port in [6443, 10250] {
        holds(listening.contains(&format!("tcp {ip}:{port}")), format!("{port} does not listen on {ip}"))?;
    }
    let foreign: Vec<&str> = listening.lines().filter(|line| !line.contains(&format!("{ip}:6443")) && !line.contains(&format!("{ip}:10250"))).collect();
    holds(foreign.is_empty(), format!("listening and not declared: {foreign:?}"))
}

fn s15_other_users_do_not_reach_the_sockets(world: &World) -> Check {
    let cluster = world.cluster()?;
    let other = cluster.node().command(&["socat", "-", "UNIX-CONNECT:/run/u7s/control.sock"]).user("nobody").run()?;
    wants(&other, "Permission denied")?;
    let modes = cluster.node().ok(&["stat", "-c", "%a %U", "/run/u7s", "/run/u7s/control.sock"])?;
    holds(modes == "700 u7s-admin\n600 u7s-admin", modes)
}
