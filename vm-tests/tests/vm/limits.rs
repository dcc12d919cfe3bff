//! Limits that a manifest asks for are the kernel's, and hogs hurt nobody else (S27, F11).

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Listed;
use crate::world::{Check, Cluster, SOON, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[
    ("limits::every_pod_has_figures", every_pod_has_figures),
    ("limits::cgroups_hold_what_the_manifest_asks", cgroups_hold_what_the_manifest_asks),
    ("limits::oom_scores_are_in_order", oom_scores_are_in_order),
    ("limits::s27_a_memory_hog_is_killed_alone", s27_a_memory_hog_is_killed_alone),
    ("limits::s27_a_fork_bomb_hits_its_own_limit", s27_a_fork_bomb_hits_its_own_limit),
];

/// What takes minutes under emulation, or the whole machine's memory.
pub(crate) const LONG: &[Listed] = &[
    ("limits::s27_a_fork_bomb_hits_the_kubelets_limit", s27_a_fork_bomb_hits_the_kubelets_limit),
    ("limits::s27_a_cpu_hog_stays_within_its_quota", s27_a_cpu_hog_stays_within_its_quota),
    (
        "limits::f11_under_node_pressure_the_besteffort_pod_dies_and_etcd_lives",
        f11_under_node_pressure_the_besteffort_pod_dies_and_etcd_lives,
    ),
];

/// A pod of two containers with limits; the second one looks on while the first one is made to misbehave.
const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"limits","namespace":"default"},"spec":{
    "terminationGracePeriodSeconds":1,"tolerations":[{"operator":"Exists"}],"containers":[
    {"name":"hog","image":"test.local/tools:1","imagePullPolicy":"Never","command":["/bin/sleep","100000"],
     "resources":{"limits":{"memory":"64Mi","cpu":"200m"},"requests":{"memory":"32Mi","cpu":"100m"}}},
    {"name":"side","image":"test.local/tools:1","imagePullPolicy":"Never","command":["/bin/sleep","100000"],
     "resources":{"limits":{"memory":"64Mi","cpu":"200m"}}}]}}"#;

/// A pod without any request.
const LOOSE: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"loose","namespace":"default"},"spec":{
    "terminationGracePeriodSeconds":1,"tolerations":[{"operator":"Exists"}],"containers":[
    {"name":"c","image":"test.local/tools:1","imagePullPolicy":"Never","command":["/bin/sleep","100000"]}]}}"#;

/// Where the host sees the cgroups of pods.
const KUBEPODS: &str = "/sys/fs/cgroup/system.slice/u7s.service/node/kubepods";

/// What plan gives as the kubelet's podPidsLimit.
const POD_PIDS: u64 = 4096;

/// The pod, its containers, and their cgroups as the host sees them.
struct Limited {
    pod: Value,
    dir: String,
}

impl Limited {
    /// Makes the pod unless it is there, and waits until it is Ready.
    fn new(cluster: &Cluster, name: &str, manifest: &str) -> Result<Self, Box<dyn std::error::Error>> {
        cluster.apply(manifest)?;
        let limit = cluster.vm.speed().scale(SOON).as_secs();
        let timeout = format!("--timeout={limit}s");
        let wait = ["wait", "--for=condition=Ready", &timeout, &format!("pod/{name}")];
        cluster.kubectl_command(&wait).within(Duration::from_secs(limit + 60)).ok()?;
        let pod = cluster.json(&["get", "pod", name])?;
        let uid = pod["metadata"]["uid"].as_str().unwrap_or("no uid").to_owned();
        let dir = cluster.vm.sh(&format!("find {KUBEPODS} -type d -name 'pod{uid}'"))?;
        holds(!dir.is_empty(), format!("no cgroup of pod {uid} below {KUBEPODS}"))?;
        Ok(Self { pod, dir })
    }

    /// The cgroup of a container: crun may put the processes into a leaf below it.
    fn container(&self, name: &str) -> String {
        let statuses = self.pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let id = statuses.iter().find(|status| status["name"] == name);
        let id = id.and_then(|status| status["containerID"].as_str()).and_then(|id| id.rsplit('/').next());
        format!("{}/crio-{}", self.dir, id.unwrap_or("none"))
    }

    /// Restart counts of its containers by name.
    fn restarts(cluster: &Cluster) -> Result<Vec<(String, u64)>, Box<dyn std::error::Error>> {
        let pod = cluster.json(&["get", "pod", "limits"])?;
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let count = |status: &Value| {
            (status["name"].as_str().unwrap_or("").to_owned(), status["restartCount"].as_u64().unwrap_or(0))
        };
        Ok(statuses.iter().map(count).collect())
    }
}

fn every_pod_has_figures(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.json(&["get", "nodes"])?;
    let name = node["items"][0]["metadata"]["name"].as_str().unwrap_or("n1").to_owned();
    let path = format!("/api/v1/nodes/{name}/proxy/metrics/resource");
    let seen = cluster.vm.until(SOON, "figures of every pod", |_| {
        let pods = cluster.json(&["get", "pods", "-A"]).map_err(|error| error.to_string())?;
        let text = cluster.kubectl(&["get", "--raw", &path]).map_err(|error| error.to_string())?;
        let names = pods["items"].as_array().cloned().unwrap_or_default();
        let names: Vec<String> = names
            .iter()
            .filter(|pod| pod["status"]["phase"] == "Running")
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(String::from))
            .collect();
        let has = |name: &String, metric: &str| {
            text.lines().any(|line| line.starts_with(metric) && line.contains(&format!("pod=\"{name}\"")))
        };
        let figures = ["pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes"];
        let without: Vec<&String> =
            names.iter().filter(|name| !figures.iter().all(|metric| has(name, metric))).collect();
        if without.is_empty() { Ok(names.len()) } else { Err(format!("no figures of {without:?}")) }
    })?;
    note(format!("{seen} pods have processor and memory figures"));
    Ok(())
}

fn cgroups_hold_what_the_manifest_asks(world: &World) -> Check {
    let cluster = world.cluster()?;
    let limited = Limited::new(&cluster, "limits", POD)?;
    let mib = 1 << 20;
    let pids = POD_PIDS.to_string();
    let container = limited.container("hog");
    // The kubelet's pod values are the sums of its containers'.
    for (file, want) in [
        (format!("{}/memory.max", limited.dir), (128 * mib).to_string()),
        (format!("{}/cpu.max", limited.dir), "40000 100000".into()),
        (format!("{}/pids.max", limited.dir), pids.clone()),
        (format!("{container}/memory.max"), (64 * mib).to_string()),
        (format!("{container}/cpu.max"), "20000 100000".into()),
    ] {
        let is = cluster.vm.read(&file)?;
        let short = file.trim_start_matches(KUBEPODS);
        note(format!("{short}: {}", is.trim()));
        holds(is.trim() == want, format!("{file} is {is}, wanted {want}"))?;
    }
    let roots =
        cluster.vm.sh(&format!("cd {KUBEPODS}; cat cgroup.controllers; ls -d burstable besteffort"))?;
    for word in ["cpu", "memory", "pids", "burstable", "besteffort"] {
        holds(roots.contains(word), format!("no {word} in {KUBEPODS}: {roots}"))?;
    }
    Ok(())
}

fn oom_scores_are_in_order(world: &World) -> Check {
    let cluster = world.cluster()?;
    Limited::new(&cluster, "loose", LOOSE)?;
    let text =
        cluster.vm.sh("for pid in $(cat /sys/fs/cgroup/system.slice/u7s.service/supervisor/cgroup.procs \
         $(find /sys/fs/cgroup/system.slice/u7s.service/node -name cgroup.procs)); do \
         printf '%s %s %s\\n' \"$(cat /proc/$pid/oom_score_adj)\" \"$(cat /proc/$pid/comm)\" \
         \"$(grep -c . /proc/$pid/cgroup)\"; done 2>/dev/null || true")?;
    let of = |name: &str| -> Vec<i32> {
        let named = text.lines().filter(|line| line.split(' ').nth(1) == Some(name));
        named.filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
    };
    // No pause container: CRI-O drops it where a pod shares no pid namespace.
    for (name, wanted) in [
        ("u7s-supervisor", -999),
        ("crio", -999),
        ("kubelet", -999),
        ("etcd", -997),
        ("kube-apiserver", -997),
        ("kube-scheduler", -997),
        ("sleep", 1000),
    ] {
        let seen = of(name);
        note(format!("{name}: {seen:?}"));
        holds(seen.contains(&wanted), format!("{name} has {seen:?}, wanted {wanted}: {text}"))?;
    }
    Ok(())
}

/// Asks the API server again and again while `during` runs; it must answer each time.
fn api_answers<T>(
    cluster: &Cluster,
    during: impl FnOnce() -> Result<T, Box<dyn std::error::Error>>,
) -> Result<T, Box<dyn std::error::Error>> {
    let script = "n=0; until [ $n -gt 0 ] && [ -e /run/u7s-test-end ]; do \
         kubectl get --raw /readyz >/dev/null || { echo failed; exit 1; }; n=$((n+1)); done; echo $n";
    cluster.vm.sh("rm -f /run/u7s-test-end")?;
    let asking = cluster.vm.command(&["sh", "-uc", script]).spawn()?;
    let result = during();
    cluster.vm.sh("touch /run/u7s-test-end")?;
    let asked = asking.wait(cluster.vm.speed().scale(SOON))?;
    note(format!("meanwhile the API server answered {} times", asked.stdout.trim()));
    holds(asked.ok(), format!("the API server did not answer: {asked}"))?;
    result
}

fn s27_a_memory_hog_is_killed_alone(world: &World) -> Check {
    let cluster = world.cluster()?;
    let limited = Limited::new(&cluster, "limits", POD)?;
    let hog = limited.container("hog");
    let (before, all) = (Limited::restarts(&cluster)?, kills(&cluster, KUBEPODS)?);
    let script = "x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; while :; do x=$x$x; done";
    let run = api_answers(&cluster, || {
        cluster.in_pod("limits", &["/bin/sh", "-c", script]).map_err(|error| error.to_string().into())
    })?;
    note(format!("the hog ended with {:?}", run.code()));
    holds(run.code() == Some(137), format!("not killed: {run}"))?;
    let (own, later) = (kills(&cluster, &hog)?, kills(&cluster, KUBEPODS)?);
    note(format!("oom_kill: {own} in its container, {} in all pods", later - all));
    holds(own >= 1 && later - all == own, format!("{own} kills in its container, {} in all", later - all))?;
    holds(Limited::restarts(&cluster)? == before, "a container was restarted")
}

/// How often the kernel killed for memory in a cgroup and below.
fn kills(cluster: &Cluster, dir: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let text = cluster.vm.read(&format!("{dir}/memory.events"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(line.ok_or("no oom_kill in memory.events")?.parse()?)
}

fn s27_a_fork_bomb_hits_its_own_limit(world: &World) -> Check {
    let cluster = world.cluster()?;
    let limited = Limited::new(&cluster, "limits", POD)?;
    // The kubelet's own value would take emulation minutes to fill, and 64 MiB of memory would be used up first.
    cluster.vm.sh(&format!("echo 60 > {}/pids.max", limited.dir))?;
    let script = "i=0; while [ $i -lt 200 ]; do sleep 600 & i=$((i+1)); done 2>&1";
    let most = hit(&cluster, &limited, &["exec", "limits", "-c", "hog", "--", "/bin/sh", "-c", script])?;
    note(format!("{} processes", most.trim()));
    cluster.delete(&["limits"])
}

/// How often a pod was refused a process.
fn refused(cluster: &Cluster, pod: &Limited) -> Result<u64, Box<dyn std::error::Error>> {
    let text = cluster.vm.read(&format!("{}/pids.events", pod.dir))?;
    let line = text.lines().find_map(|line| line.strip_prefix("max "));
    Ok(line.ok_or("no max in pids.events")?.trim().parse()?)
}

/// How long a pod stays full of processes.
const FULL: Duration = Duration::from_secs(20);

/// Lets kubectl start what fills a pod with processes until one is refused; gives how many there are. What it has started
/// holds the output, so kubectl's end is not waited for.
fn hit(cluster: &Cluster, pod: &Limited, kubectl: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    api_answers(cluster, || {
        let bomb = cluster.kubectl_command(kubectl).spawn()?;
        cluster.vm.until(SOON, "the limit to be hit", |_| match refused(cluster, pod) {
            Ok(0) => Err("it was not hit yet".into()),
            other => other.map_err(|error| error.to_string()),
        })?;
        let most = cluster.vm.read(&format!("{}/pids.current", pod.dir))?;
        // The API server shall answer beside a full pod, too.
        std::thread::sleep(FULL);
        drop(bomb);
        Ok(most)
    })
}

/// The pod without any request, so that its processes are limited by the kubelet's podPidsLimit alone.
fn s27_a_fork_bomb_hits_the_kubelets_limit(world: &World) -> Check {
    let cluster = world.cluster()?;
    let loose = Limited::new(&cluster, "loose", LOOSE)?;
    let limited = Limited::new(&cluster, "limits", POD)?;
    let before = Limited::restarts(&cluster)?;
    // Each waits for somebody who writes; none executes a program, which takes emulation its time.
    let script = "mkfifo /tmp/f && while :; do : </tmp/f & done";
    let most = hit(&cluster, &loose, &["exec", "loose", "--", "/bin/sh", "-c", script])?;
    let (own, other) = (refused(&cluster, &loose)?, refused(&cluster, &limited)?);
    note(format!("{} processes; pids.events max: {own}, of another pod {other}", most.trim()));
    // The shell ends when it cannot fork.
    let all: u64 = most.trim().parse()?;
    holds([POD_PIDS - 1, POD_PIDS].contains(&all), format!("{all} processes, wanted {POD_PIDS}"))?;
    holds(own > 0 && other == 0, format!("its limit was hit {own} times, another pod's {other}"))?;
    holds(Limited::restarts(&cluster)? == before, "a container was restarted")?;
    cluster.delete(&["loose", "limits"])
}

/// More than the machine has: who asked for nothing goes, by the kernel's hand or by the kubelet's.
fn f11_under_node_pressure_the_besteffort_pod_dies_and_etcd_lives(world: &World) -> Check {
    let cluster = world.cluster()?;
    let loose = Limited::new(&cluster, "loose", LOOSE)?;
    let uid = loose.pod["metadata"]["uid"].clone();
    let before = system_containers(&cluster)?;
    let former = killed(&cluster)?.len();
    let begin = Instant::now();
    // Each has a buffer of 1.5 GiB and fills it, again and again; those that are left when there is room for them end.
    let hogs = "for i in 1 2 3 4 5 6; do dd if=/dev/zero of=/dev/null bs=1500M count=4 & done; wait";
    let run = cluster.in_pod("loose", &["/bin/sh", "-c", hogs])?;
    note(format!("the hogs ended with {:?} after {:.0} s", run.code(), begin.elapsed().as_secs_f64()));
    let how = cluster.vm.until(SOON, "an end of the hogs", |_| {
        let pod = cluster.json(&["get", "pod", "loose"]).map_err(|error| error.to_string())?;
        holds(pod["metadata"]["uid"] == uid, "another pod").map_err(|error| error.to_string())?;
        if pod["status"]["reason"] == "Evicted" {
            return Ok(String::from("evicted by the kubelet"));
        }
        match killed(&cluster).map_err(|error| error.to_string())?.len() - former {
            0 => Err(pod["status"].to_string()),
            count => Ok(format!("{count} killed by the kernel")),
        }
    })?;
    note(&how);
    cluster.converge()?;
    for line in &killed(&cluster)?[former..] {
        note(line);
        holds(line.contains("oom_score_adj:1000"), format!("killed without being BestEffort: {line}"))?;
    }
    let now = system_containers(&cluster)?;
    holds(now == before, format!("other containers: {before}, now {now}"))?;
    cluster.delete(&["loose"])
}

/// What the kernel says of each process that it killed for memory, the machine's or that of all pods, since boot.
fn killed(cluster: &Cluster) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let lines = "journalctl -k -b -o cat --no-pager | grep -i 'out of memory: Killed process' || true";
    Ok(cluster.vm.sh(lines)?.lines().map(String::from).collect())
}

/// Containers of the control plane with their numbers of restarts.
fn system_containers(cluster: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
    let path = "jsonpath={range .items[*].status.containerStatuses[*]}{.name} {.containerID} {.restartCount}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "pods", "-n", "kube-system", "-l", "tier=control-plane", "-o", path])
}

fn s27_a_cpu_hog_stays_within_its_quota(world: &World) -> Check {
    let cluster = world.cluster()?;
    let limited = Limited::new(&cluster, "limits", POD)?;
    let hog = limited.container("hog");
    let used = || -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let text = cluster.vm.sh(&format!("cat {hog}/cpu.stat; cat /proc/uptime"))?;
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap_or("0");
        let uptime = text.lines().last().and_then(|line| line.split(' ').next()).unwrap_or("0");
        Ok((usage.parse::<f64>()? / 1e6, uptime.parse()?))
    };
    let busy = ["exec", "limits", "-c", "hog", "--", "/bin/sh", "-c", "while :; do :; done"];
    let running = cluster.kubectl_command(&busy).spawn()?;
    let share = api_answers(&cluster, || {
        cluster.vm.until(SOON, "the hog to be throttled", |vm| {
            let text = vm.read(&format!("{hog}/cpu.stat")).map_err(|error| error.to_string())?;
            let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap_or("0");
            if count.parse().unwrap_or(0) > 20 { Ok(()) } else { Err(text) }
        })?;
        let (first, begin) = (used()?, Instant::now());
        let second = cluster.vm.until(SOON, "30 s of the machine's time", |_| {
            let now = used().map_err(|error| error.to_string())?;
            if now.1 - first.1 >= 30.0 { Ok(now) } else { Err(format!("{now:?}")) }
        })?;
        note(format!("measured for {:.0} s", begin.elapsed().as_secs_f64()));
        Ok((second.0 - first.0) / (second.1 - first.1))
    })?;
    drop(running);
    note(format!("it had {:.1} % of a processor, its quota is 20 %", share * 100.0));
    holds((0.18..=0.22).contains(&share), format!("{share} of a processor, wanted 0.18 to 0.22"))?;
    cluster.delete(&["limits"])
}
