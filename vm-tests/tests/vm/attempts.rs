//! The worst pod's attempts one system call at a time, where a shell cannot make them (S3, S17, S20, S27).

use std::path::{Path, PathBuf};

use u7s_vm::Invocation;

use crate::Listed;
use crate::world::{Check, Cluster, SOON, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[(
    "attempts::s3_s17_s20_s27_every_system_call_of_the_worst_pod_is_refused",
    every_system_call_of_the_worst_pod_is_refused,
)];

const SOURCE: &str = include_str!("attempts.c");

/// Where the host has the program: everybody may read it there.
const PROGRAM: &str = "/var/lib/u7s-attempts";

/// Everything that Kubernetes can give a pod.
const WORST: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"attempts","namespace":"kube-system"},"spec":{
    "terminationGracePeriodSeconds":1,"hostPID":true,"hostNetwork":true,"hostIPC":true,"tolerations":[{"operator":"Exists"}],
    "volumes":[{"name":"host","hostPath":{"path":"/"}}],"containers":[{"name":"c","image":"test.local/tools:1",
    "imagePullPolicy":"Never","command":["/bin/sleep","100000"],"securityContext":{"privileged":true},
    "volumeMounts":[{"name":"host","mountPath":"/host"}]}]}}"#;

/// Listeners of the host that no pod may hear of, and the words that the program takes for where a pod would look.
const LISTENERS: [&str; 2] =
    ["TCP4-LISTEN:7801,bind=127.0.0.1,fork,reuseaddr", "ABSTRACT-LISTEN:u7s-attempts,fork"];
const CANARIES: [&str; 4] =
    ["tcp=127.0.0.1:7801", "tcp=10.41.0.2:7801", "tcp=169.254.169.254:80", "abstract=u7s-attempts"];

/// What none of it may change, as the host sees it. The clock is beside it.
const STATE: &str = "sha256sum /etc/passwd /etc/shadow /etc/u7s/node.json; ls /usr/bin /etc/systemd/system /run | sha256sum; \
    cd /proc/sys; head -1 kernel/core_pattern kernel/sysrq kernel/modprobe kernel/panic kernel/pid_max vm/swappiness vm/overcommit_memory \
    fs/suid_dumpable kernel/ctrl-alt-del user/max_user_namespaces; cat /proc/swaps; \
    find /sys/fs/cgroup -maxdepth 2 -name planted; cat /sys/fs/cgroup/system.slice/u7s.service/memory.max";

fn every_system_call_of_the_worst_pod_is_refused(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.vm.copy_in(&compile()?, PROGRAM)?;
    let mut listeners = Vec::new();
    for listener in LISTENERS {
        listeners.push(cluster.vm.spawn(&["socat", listener, "SYSTEM:echo canary"])?);
    }
    cluster.vm.until(SOON, "the host's own listeners", |vm| {
        let heard = vm.sh("socat -T 5 - TCP4:127.0.0.1:7801 </dev/null; socat -T 5 - ABSTRACT-CONNECT:u7s-attempts </dev/null");
        let heard = heard.map_err(|error| error.to_string())?;
        if heard.lines().count() == LISTENERS.len() { Ok(()) } else { Err(heard) }
    })?;
    ready(&cluster)?;
    let before = cluster.vm.sh(STATE)?;
    let program = format!("/host{PROGRAM}");
    let words = ["exec", "-n", "kube-system", "attempts", "--", &program].into_iter().chain(CANARIES);
    let run = cluster.kubectl_command(&words.collect::<Vec<_>>()).run()?;
    note(&run.stdout);
    judge(&run.stdout).map_err(|why| format!("{why}: {run}"))?;
    let after = cluster.vm.sh(STATE)?;
    holds(after == before, format!("the host before: {before}\nand after: {after}"))?;
    drop(listeners);
    cluster.vm.ok(&["rm", PROGRAM])?;
    cluster.kubectl(&["delete", "pod", "-n", "kube-system", "attempts", "--wait"]).map(drop)
}

/// Each attempt was made, and refused.
fn judge(text: &str) -> Result<(), String> {
    let allowed: Vec<&str> = text.lines().filter(|line| line.ends_with("ALLOWED")).collect();
    let refused = text.lines().filter(|line| line.contains(": refused: ")).count();
    // A call that the kernel does not have, or a path that is not there, proves nothing.
    let void = |line: &&str| line.contains(": refused: Function not implemented");
    let void: Vec<&str> = text.lines().filter(void).collect();
    note(format!("{refused} attempts refused, {} of them for want of the call", void.len()));
    if !allowed.is_empty() {
        return Err(format!("not refused: {allowed:?}"));
    }
    if !text.lines().any(|line| line == "end") || refused < 60 {
        return Err(format!("only {refused} attempts were made"));
    }
    Ok(())
}

fn ready(cluster: &Cluster) -> Check {
    cluster.apply(WORST)?;
    let limit = cluster.vm.speed().scale(SOON);
    let timeout = format!("--timeout={}s", limit.as_secs());
    let words = ["wait", "-n", "kube-system", "--for=condition=Ready", &timeout, "pod/attempts"];
    cluster.kubectl_command(&words).within(limit * 2).ok()?;
    Ok(())
}

/// With this machine's C compiler, static: the pod has another C library, or none.
fn compile() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let [source, program] = ["attempts.c", "attempts"].map(|name| dir.join(name));
    std::fs::write(&source, SOURCE)?;
    let [from, to] = [&source, &program].map(|path| path.display().to_string());
    Invocation::new(Vec::new(), &["cc", "-O1", "-Wall", "-Werror", "-static", "-o", &to, &from]).ok()?;
    Ok(program)
}
