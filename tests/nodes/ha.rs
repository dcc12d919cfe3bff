//! Three control planes with stacked etcd behind one endpoint: the loss of one, its return, its removal and its way back.

use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::Value;
use u7s_harness::{Invocation, Lan, Node, Output, Signal, until};

use crate::Listed;
use crate::balance::Balancer;
use crate::cluster::{Cluster, SOON};
use crate::join::nowhere;
use crate::kubeconfigs::names_no_kubeconfig;
use crate::pair::{Joined, join, join_words};
use crate::world::{Bare, Check, IGNORED, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("ha::three_control_planes_stand_behind_one_endpoint", three_control_planes_stand_behind_one_endpoint),
    ("ha::the_leader_is_killed_and_writes_go_on", the_leader_is_killed_and_writes_go_on),
    ("ha::one_is_removed_and_joins_again", one_is_removed_and_joins_again),
    ("ha::a_join_killed_after_its_member_was_announced_is_completed", killed_and_completed),
    ("ha::a_reset_after_such_a_kill_leaves_no_dead_member", killed_and_reset),
];

/// Words of `kubectl exec` for etcdctl in a control plane's etcd.
const ETCDCTL: [&str; 7] = [
    "etcdctl",
    "--endpoints=https://127.0.0.1:2379",
    "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
    "--cert=/etc/kubernetes/pki/etcd/server.crt",
    "--key=/etc/kubernetes/pki/etcd/server.key",
    "--write-out=json",
    "--command-timeout=10s",
];

/// Three control planes.
pub(crate) struct Trio {
    first: Cluster,
    others: [Joined; 2],
    _endpoint: Balancer,
}

impl Trio {
    pub(crate) fn new(lan: &Lan) -> Result<Self, Box<dyn Error>> {
        let [one, two, three] = [Bare::new(lan, "c1")?, Bare::new(lan, "c2")?, Bare::new(lan, "c3")?];
        let endpoint = Balancer::new(lan, &[one.node.ip(), two.node.ip(), three.node.ip()])?;
        let flag = format!("--control-plane-endpoint={}", endpoint.endpoint());
        let first = Cluster::on(one, &["init", IGNORED, &flag])?;
        let second = Joined::new(&first, two, &control_plane(&first)?)?;
        let third = Joined::new(&first, three, &control_plane(&first)?)?;
        Ok(Self { first, others: [second, third], _endpoint: endpoint })
    }

    fn nodes(&self) -> [&Node; 3] {
        [self.first.node(), self.others[0].node(), self.others[1].node()]
    }

    /// Names of etcd's members as one of them sees them, and whose leader it is.
    fn members(&self, through: &str) -> Result<(Vec<String>, Option<String>), Box<dyn Error>> {
        let list = self.etcd(through, &["member", "list"])?;
        let status = self.etcd(through, &["endpoint", "status"])?;
        let members = list["members"].as_array().cloned().unwrap_or_default();
        let leader = &status[0]["Status"]["leader"];
        let name = |member: &Value| member["name"].as_str().unwrap_or_default().to_owned();
        let found = members.iter().find(|member| member["ID"] == *leader).map(name);
        let mut names: Vec<String> = members.iter().map(name).collect();
        names.sort();
        Ok((names, found))
    }

    fn etcd(&self, through: &str, words: &[&str]) -> Result<Value, Box<dyn Error>> {
        let pod = format!("etcd-{through}");
        let argv: Vec<&str> = ["exec", "-n", "kube-system", &pod, "--"]
            .into_iter()
            .chain(ETCDCTL)
            .chain(words.iter().copied())
            .collect();
        Ok(serde_json::from_str(&self.first.kubectl(&argv)?)?)
    }

    fn settle(&self, limit: Duration) -> Result<Duration, Box<dyn Error>> {
        let began = Instant::now();
        self.first.all_ready(3, limit)?;
        Ok(began.elapsed())
    }
}

/// Flags of one more control plane: a certificate key that the first one made just now.
fn control_plane(first: &Cluster) -> Result<Vec<String>, Box<dyn Error>> {
    let printed = kubeadm(first.node(), &["init", "phase", "upload-certs", "--upload-certs"]).ok()?;
    let key = printed.lines().map(str::trim).find(|line| line.len() == 64);
    let key = key.ok_or_else(|| format!("no certificate key in {printed}"))?;
    Ok(vec!["--control-plane".into(), format!("--certificate-key={key}")])
}

fn three_control_planes_stand_behind_one_endpoint(world: &World) -> Check {
    let trio = world.trio()?;
    note(format!("init {:.1} s", trio.first.took.as_secs_f64()));
    names_no_kubeconfig(&trio.first.init)?;
    for joined in &trio.others {
        let key = joined.flags.iter().find_map(|flag| flag.strip_prefix("--certificate-key="));
        nowhere(joined.node(), key.ok_or("no certificate key among the flags")?)?;
        names_no_kubeconfig(&joined.output)?;
        wants(&joined.output, "a new control plane instance was created")?;
        wants(&joined.output, "a kubeconfig for somebody else: u7s kubeconfig --file FILE")?;
        note(format!("join of {} as control plane {:.1} s", joined.node().name(), joined.took.as_secs_f64()));
    }
    note(format!("all Ready {:.1} s later", trio.settle(Duration::from_secs(300))?.as_secs_f64()));
    let (members, leader) = trio.members("c1")?;
    note(format!("etcd: {members:?}, leader {leader:?}"));
    holds(members == ["c1", "c2", "c3"], format!("members of etcd: {members:?}"))?;
    for node in trio.nodes() {
        let nodes =
            node.command(&["kubectl", "get", "nodes", "-o", "name"]).env("KUBECACHEDIR", "/dev/shm/kubectl");
        let nodes = nodes.within(SOON).ok()?;
        holds(nodes.lines().count() == 3, format!("kubectl on {}: {nodes}", node.name()))?;
        let ports = node.sh("ss -Hltn | awk '{print $4}'")?;
        let ip = node.ip();
        for port in [6443, 10_250, 2379, 2380] {
            holds(
                ports.contains(&format!("{ip}:{port}")),
                format!("{}: {port} is not bound to the node's address: {ports}", node.name()),
            )?;
        }
    }
    Ok(())
}

fn the_leader_is_killed_and_writes_go_on(world: &World) -> Check {
    let trio = world.trio()?;
    trio.settle(Duration::from_secs(300))?;
    let (_, leader) = trio.members("c1")?;
    let leader = leader.ok_or("etcd has no leader")?;
    let nodes = trio.nodes();
    let lost = *nodes.iter().find(|node| node.name() == leader).ok_or("the leader is none of ours")?;
    let other = *nodes.iter().find(|node| node.name() != leader).ok_or("there is no other node")?;
    let pids = lost.sh(
        "cat $(find /sys/fs/cgroup -path '*u7s.service*' -name cgroup.procs) | sort -un >/dev/shm/killed; xargs kill -9 </dev/shm/killed 2>/dev/null || true; wc -l </dev/shm/killed",
    )?;
    let began = Instant::now();
    note(format!("the leader was {leader}; kill -9 of {pids} processes"));
    let write = || -> Result<Output, Box<dyn Error>> {
        let name = format!("after-{}", began.elapsed().as_millis());
        let command = other.command(&["kubectl", "--request-timeout=5s", "create", "configmap", &name]);
        Ok(command.env("KUBECACHEDIR", "/dev/shm/kubectl").within(Duration::from_secs(20)).run()?)
    };
    until(Duration::from_secs(30), "a write through another control plane", || {
        let output = write().map_err(|error| error.to_string())?;
        if output.ok() { Ok(()) } else { Err(output.to_string()) }
    })?;
    note(format!("a write through {} after {:.1} s", other.name(), began.elapsed().as_secs_f64()));
    until(Duration::from_secs(120), "the node that was killed to serve its API", || {
        let ready = lost.command(&["kubectl", "--request-timeout=5s", "get", "--raw", "/readyz"]).run();
        let ready = ready.map_err(|error| error.to_string())?;
        if ready.stdout.trim() == "ok" { Ok(()) } else { Err(ready.to_string()) }
    })?;
    note(format!("{leader} serves its API again after {:.1} s", began.elapsed().as_secs_f64()));
    trio.settle(Duration::from_secs(300))?;
    let (members, leader) = trio.members("c1")?;
    note(format!("all Ready after {:.1} s, leader {leader:?}", began.elapsed().as_secs_f64()));
    holds(members.len() == 3, format!("members of etcd: {members:?}"))
}

fn one_is_removed_and_joins_again(world: &World) -> Check {
    let trio = world.trio()?;
    trio.remove_third()?;
    trio.third_joins()
}

impl Trio {
    /// The third control plane is as if it had never joined.
    fn remove_third(&self) -> Check {
        self.settle(Duration::from_secs(300))?;
        self.first.kubectl(&["delete", "node", "c3"])?;
        self.reset_third()
    }

    fn reset_third(&self) -> Check {
        let third = &self.others[1];
        let reset = kubeadm(third.node(), &["reset", "--force"]).run()?;
        exits(&reset, 0)?;
        wants(&reset, "the host is as it was")?;
        let changes = third.bare.before.diff(&third.node().snapshot()?);
        holds(changes.is_empty(), format!("left behind: {changes:#?}"))?;
        let (members, _) = self.members("c1")?;
        holds(members == ["c1", "c2"], format!("members of etcd after the reset: {members:?}"))
    }

    fn join_of_third(&self) -> Result<Invocation, Box<dyn Error>> {
        let flags = control_plane(&self.first)?;
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Ok(join(self.others[1].node(), &join_words(&self.first)?, &flags))
    }

    /// It joins, or goes on joining, and is a member like the others.
    fn third_joins(&self) -> Check {
        let began = Instant::now();
        exits(&self.join_of_third()?.run()?, 0)?;
        note(format!("joined again in {:.1} s", began.elapsed().as_secs_f64()));
        self.settle(Duration::from_secs(300))?;
        let (members, _) = self.members("c1")?;
        holds(members == ["c1", "c2", "c3"], format!("members of etcd: {members:?}"))
    }

    /// Its join is killed at the moment when etcd knows of it: kubeadm alone, or all of the node.
    fn kill_join_of_third(&self, whole_node: bool) -> Check {
        let node = self.others[1].node();
        let running = self.join_of_third()?.spawn()?;
        until(Duration::from_secs(200), "the new member to be announced", || {
            let (said, also) = running.so_far();
            if said.contains("Announced new etcd member") { Ok(()) } else { Err(format!("{said}{also}")) }
        })?;
        for process in node.processes() {
            let ours = process.comm == "kubeadm" || whole_node && process.cgroup.contains("/u7s.service");
            if ours {
                // ESRCH: it went with another one.
                let _ = node.signal(&process, Signal::SIGKILL);
            }
        }
        let ended = running.wait(Duration::from_secs(30))?;
        holds(!ended.ok(), format!("it was not killed: {ended}"))?;
        let list = self.etcd("c1", &["member", "list"])?;
        let members = list["members"].as_array().map_or(0, Vec::len);
        note(format!("killed{}; etcd has {members} members", if whole_node { " with its node" } else { "" }));
        holds(members == 3, format!("the member is not there: {list}"))
    }
}

fn killed_and_completed(world: &World) -> Check {
    let trio = world.trio()?;
    trio.remove_third()?;
    trio.kill_join_of_third(false)?;
    trio.third_joins()
}

fn killed_and_reset(world: &World) -> Check {
    let trio = world.trio()?;
    trio.remove_third()?;
    trio.kill_join_of_third(true)?;
    trio.reset_third()?;
    trio.third_joins()
}
