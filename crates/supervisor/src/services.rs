//! Follows the cluster's Services and this node's pods: says which ports they want open on the host, and writes the status
//! of LoadBalancer Services where this node may.
//!
//! A task of its own: it tells the node's loop what is wanted, and hears from it what was opened. What is open stays
//! open while nothing is heard of the API server; a new list replaces it only when it is whole.

mod credentials;
mod follow;
mod kubectl;
mod refusals;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use u7s_plan::control::{Followed, low_port};
use u7s_plan::host::KUBERNETES_DIR;
use u7s_plan::node::{Forward, NodeSpec, Protocol};
use u7s_plan::services::{
    CONFIGURATION, Claim, Item, Key, Kind, MOST, Member, Notice, Pod, Port, Rules, Service, Transport, View,
    Wanted, networks,
};

use self::credentials::{ADMIN, Credentials, NODE, Present};
#[cfg(feature = "fuzzing")]
pub(crate) use self::follow::fuzz;
use self::follow::{News, follow};
use self::kubectl::Kubectl;
use self::refusals::Refusals;
use self::write::Writer;
use crate::pid_one::PidOne;
use crate::ports::{IfTaken, Ports};

/// Services that want something of a host. Others do not even come over the wire.
const SERVICES: &str = "/api/v1/services?fieldSelector=spec.type!%3DClusterIP%2Cspec.type!%3DExternalName";

/// All nodes.
const MEMBERS: &str = "/api/v1/nodes?pretty=false";

/// News that may be on their way.
const QUEUE: usize = 64;

/// How often the host is asked again for ports that it did not give.
const RETRY: Duration = Duration::from_secs(5);

/// The most of a cluster's configuration that is read, bytes: what etcd takes.
const CONFIGURATION_BYTES: usize = 2 << 20;

/// How long reading it may take.
const CONFIGURATION_WITHIN: Duration = Duration::from_secs(30);

/// After which pause it is asked for again, at first and in the end.
const CONFIGURATION_AGAIN: Duration = Duration::from_secs(30);
const CONFIGURATION_SELDOM: Duration = Duration::from_secs(600);

/// The task, ended with this.
#[derive(Debug)]
pub(crate) struct Following {
    followed: watch::Receiver<Followed>,
    tasks: JoinSet<()>,
}

impl Following {
    /// Begins, if the node's specification says so; what is wanted goes to `ports`.
    pub(crate) fn begin(spec: &NodeSpec, pid_one: &PidOne, ports: &Ports) -> Self {
        let state = match (&spec.services.kubectl, spec.services.follow) {
            (_, false) => "not followed: services.follow is false",
            (None, true) => {
                tracing::warn!("Services are not followed: kubectl is not installed");
                "not followed: kubectl is not installed; install it and run kubeadm init or join again"
            }
            (Some(_), true) => "waiting for the cluster",
        };
        let now = Followed { state: state.to_owned(), refused: Vec::new() };
        let (said, followed) = watch::channel(now);
        let mut tasks = JoinSet::new();
        if let (Some(program), true) = (&spec.services.kubectl, spec.services.follow) {
            let setup = Setup::of(spec, program, pid_one);
            tasks.spawn(Task { setup, ports: ports.clone(), said, open: BTreeMap::new() }.run());
        }
        Self { followed, tasks }
    }

    /// For `status`.
    pub(crate) fn followed(&self) -> Followed {
        self.followed.borrow().clone()
    }

    /// Ends it: no kubectl is started any more.
    pub(crate) fn end(&mut self) {
        self.tasks.abort_all();
    }
}

#[derive(Debug, Clone)]
struct Setup {
    pid_one: PidOne,
    program: PathBuf,
    node_name: String,
    node_ip: Ipv4Addr,
    own: BTreeSet<Port>,
    load_balancer: bool,
    /// The specification does not say where pods and services have their addresses.
    learns: bool,
}

impl Setup {
    fn of(spec: &NodeSpec, program: &Path, pid_one: &PidOne) -> Self {
        let node_ip = spec.network.node_ip;
        Self {
            pid_one: pid_one.clone(),
            program: program.to_owned(),
            node_name: spec.node_name.clone(),
            node_ip,
            own: spec.forwards.iter().map(|forward| port_of(*forward)).collect(),
            load_balancer: spec.services.load_balancer,
            learns: spec.network.pod_cidr.is_none() || spec.network.service_cidr.is_none(),
        }
    }

    fn kubectl(&self, kubeconfig: &'static str) -> Kubectl {
        Kubectl {
            pid_one: self.pid_one.clone(),
            program: self.program.clone(),
            kubeconfig: Path::new(kubeconfig),
        }
    }
}

/// News of all three collections.
#[derive(Debug)]
enum Heard {
    Services(News<Service>),
    Pods(News<Pod>),
    Members(News<Member>),
}

impl From<News<Service>> for Heard {
    fn from(news: News<Service>) -> Self {
        Self::Services(news)
    }
}

impl From<News<Pod>> for Heard {
    fn from(news: News<Pod>) -> Self {
        Self::Pods(news)
    }
}

impl From<News<Member>> for Heard {
    fn from(news: News<Member>) -> Self {
        Self::Members(news)
    }
}

struct Task {
    setup: Setup,
    ports: Ports,
    said: watch::Sender<Followed>,
    /// What was wanted last, each port with what it is for.
    open: BTreeMap<Port, Claim>,
}

impl Task {
    /// From one set of credentials to the next; without the node's own nothing is wanted.
    async fn run(mut self) {
        let mut credentials = match Credentials::new(Path::new(KUBERNETES_DIR)) {
            Ok(credentials) => credentials,
            Err(error) => {
                let reason = crate::error::chain(&error);
                tracing::error!(reason, "Services are not followed");
                return self.say(format!("not followed: {reason}"), Refusals::default());
            }
        };
        loop {
            let present = credentials.present();
            if present.node {
                self.follow(present, &mut credentials).await;
            } else {
                self.open.clear();
                self.ports.follow(BTreeMap::new());
                self.say(format!("waiting for {NODE}"), Refusals::default());
                credentials.changed().await;
            }
        }
    }

    /// Until the credentials are others.
    async fn follow(&mut self, present: Present, credentials: &mut Credentials) {
        let writes = self.setup.load_balancer && present.admin;
        let (sender, mut heard) = mpsc::channel(QUEUE);
        let _tasks = self.watches(writes, sender);
        let admin = writes.then(|| self.setup.kubectl(ADMIN));
        let mut writer = Writer::new(self.setup.kubectl(NODE), self.setup.node_name.clone(), admin);
        let mut known = Known::default();
        let mut retry = None;
        loop {
            tokio::select! {
                () = credentials.changed() => return,
                Some(news) = heard.recv() => {
                    known.take(news, &mut writer);
                    while let Ok(news) = heard.try_recv() {
                        known.take(news, &mut writer);
                    }
                }
                () = writer.turn() => {}
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
            let complete = self.judge(&known, &mut writer, writes);
            retry = match retry {
                _ if complete => None,
                Some(at) if at > Instant::now() => Some(at),
                _ => Some(Instant::now() + RETRY),
            };
        }
    }

    fn watches(&self, writes: bool, sender: mpsc::Sender<Heard>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let node = self.setup.kubectl(NODE);
        let pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.setup.node_name);
        tasks.spawn(follow::<Service, _>(node.clone(), SERVICES.to_owned(), sender.clone()));
        tasks.spawn(follow::<Pod, _>(node.clone(), pods, sender.clone()));
        if self.setup.learns {
            tasks.spawn(learn_networks(node, self.setup.node_ip, self.ports.clone()));
        }
        if writes {
            tasks.spawn(follow::<Member, _>(self.setup.kubectl(ADMIN), MEMBERS.to_owned(), sender));
        }
        tasks
    }

    /// Does what follows from what is known; whether the host gave every port.
    fn judge(&mut self, known: &Known, writer: &mut Writer, writes: bool) -> bool {
        let Setup { node_ip, own, .. } = &self.setup;
        let rules = Rules { node_ip: *node_ip, own: own.clone(), writes: writes && known.has_members };
        let wanted = Wanted::of(&known.view, &rules);
        let mut open = wanted.open.clone();
        // What is not known again yet stays as it was.
        let room = MOST.saturating_sub(open.len());
        open.extend(
            self.open
                .iter()
                .filter(|(_, claim)| !known.is_whole(claim))
                .take(room)
                .map(|(port, claim)| (*port, claim.clone())),
        );
        let forward =
            |(port, claim): (&Port, &Claim)| Some((forward_of(*port, *node_ip)?, if_taken(claim.kind)));
        let forwards = open.iter().filter_map(forward).collect();
        let mut given = BTreeSet::new();
        let mut refused = Refusals::of(&wanted);
        let mut notices = Vec::new();
        for (forward, problem) in self.ports.follow(forwards) {
            let port = port_of(forward);
            match (problem, open.get(&port)) {
                (None, _) => drop(given.insert(port)),
                (Some(why), claim) => {
                    let remedy = remedy(&forward, &why);
                    if let Some(claim) = claim.filter(|_| !remedy.is_empty()) {
                        notices.extend(self.notice(&known.view, (claim, port), &format!("{why}{remedy}")));
                    }
                    refused.push(|| {
                        let claim = claim.map(Claim::to_string).unwrap_or_default();
                        format!("{port}, {claim}, cannot be opened: {why}{remedy}")
                    });
                }
            }
        }
        let complete = given.len() == open.len();
        self.open = open;
        if known.has_services {
            writer.want(wanted.patches(&known.view, &rules, &given), notices);
        }
        self.say(known.state(), refused);
        complete
    }

    /// For who looks at the Service or pod, not at this host.
    fn notice(&self, view: &View, wanted: (&Claim, Port), why: &str) -> Option<Notice> {
        let (reason, message) = why.split_once(": ").unwrap_or(("LowPort", why));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Notice::of(view, wanted, &self.setup.node_name, (reason, message), now)
    }

    /// What cannot be had is said once, in the journal.
    fn say(&self, state: String, refused: Refusals) {
        let refused = refused.sentences();
        let before = self.said.send_replace(Followed { state, refused: refused.clone() }).refused;
        for refusal in refused.iter().filter(|refusal| !before.contains(refusal)) {
            tracing::warn!("{refusal}");
        }
    }
}

/// Asks the cluster for its networks until it tells them: no client outside has its address there.
///
/// A cluster that kubeadm did not make tells none.
async fn learn_networks(kubectl: Kubectl, node_ip: Ipv4Addr, ports: Ports) {
    let bounds = (CONFIGURATION_BYTES, crate::patience::of(CONFIGURATION_WITHIN));
    let mut pause = CONFIGURATION_AGAIN;
    loop {
        match kubectl.run(&["get", "--raw", CONFIGURATION], bounds).await {
            Ok(text) => return ports.refuse(&networks(&text, node_ip)),
            Err(failure) => tracing::debug!(%failure, "the networks of the cluster are not known yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(CONFIGURATION_SELDOM);
    }
}

/// What helps against a problem, if we know.
fn remedy(forward: &Forward, why: &str) -> String {
    let need = low_port(forward, 0);
    if why.starts_with(&need.id) { format!("; {}", need.remedy) } else { String::new() }
}

/// What is known of the cluster, and which of it is whole.
#[derive(Debug, Default)]
struct Known {
    view: View,
    has_services: bool,
    has_pods: bool,
    has_members: bool,
    silent: Silent,
}

impl Known {
    fn take(&mut self, news: Heard, writer: &mut Writer) {
        let Self { view, silent, .. } = self;
        match news {
            Heard::Services(news) => {
                match &news {
                    News::All(_) => writer.forget_all(),
                    News::Is(service) => writer.forget(&service.key),
                    News::Gone(key) => writer.forget(key),
                    News::Silent(_) => {}
                }
                self.has_services |= hear(news, &mut view.services, (silent, "services"));
            }
            Heard::Pods(news) => self.has_pods |= hear(news, &mut view.pods, (silent, "pods")),
            Heard::Members(news) => self.has_members |= hear(news, &mut view.members, (silent, "nodes")),
        }
    }

    /// Whether all claims of this kind are known.
    fn is_whole(&self, claim: &Claim) -> bool {
        if claim.kind == Kind::HostPort { self.has_pods } else { self.has_services }
    }

    fn state(&self) -> String {
        match self.silent.iter().next() {
            None if self.has_services => "followed".to_owned(),
            None => "waiting for the first list".to_owned(),
            Some((what, why)) => format!("waiting for a list of {what}, what was open stays open: {why}"),
        }
    }
}

/// Collections that nothing is heard of, and why.
type Silent = BTreeMap<&'static str, String>;

/// Takes news of one collection, which has this name; whether it was all of it.
fn hear<T: Item>(
    news: News<T>,
    objects: &mut BTreeMap<Key, T>,
    (silent, what): (&mut Silent, &'static str),
) -> bool {
    let whole = matches!(news, News::All(_));
    match news {
        News::All(all) => {
            *objects = all;
            note(silent, what, None);
        }
        News::Is(object) => drop(objects.insert(object.key().clone(), object)),
        News::Gone(gone) => drop(objects.remove(&gone)),
        News::Silent(why) => note(silent, what, Some(why)),
    }
    whole
}

/// Says once that nothing is heard, and why, and once that it is over.
fn note(silent: &mut Silent, what: &'static str, why: Option<String>) {
    match why {
        Some(why) => {
            if !silent.contains_key(what) {
                tracing::debug!(what, why, "a watch has ended");
            }
            silent.insert(what, why);
        }
        None => drop(silent.remove(what)),
    }
}

/// Ports of the range for NodePorts are the cluster's; any other number may be one that a program of the host is known by.
fn if_taken(kind: Kind) -> IfTaken {
    match kind {
        Kind::NodePort | Kind::HealthCheck => IfTaken::TryAgain,
        Kind::LoadBalancer | Kind::HostPort => IfTaken::Leave,
    }
}

fn port_of(forward: Forward) -> Port {
    let transport = match forward.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    };
    Port { transport, number: forward.port }
}

fn forward_of(port: Port, address: Ipv4Addr) -> Option<Forward> {
    let protocol = match port.transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp => return None,
    };
    Some(Forward { protocol, address, port: port.number })
}

#[cfg(test)]
mod tests;
