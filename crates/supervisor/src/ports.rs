//! Which ports of the host shall lead inside, and who wants it: the node by its role, the administrator, and Services.
//!
//! [`Ports`] is the one owner of the wanted set. The three parts are united and handed to the acceptor whole, so each
//! part may be said again at any time; what cannot be opened now is tried again. But a port that a program of the host has is
//! the host's, also while that program restarts: it is left alone until somebody asks for it again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::Notify;
use u7s_net::forward::{Acceptor, Listening};
use u7s_plan::control::{Answer, MAX_PROBLEM, MOST_ADDED, Origin, Port, cut, low_port};
use u7s_plan::node::{Forward, HostPort, NodeSpec};

use crate::control::refuse;
use crate::tree::Tree;

/// How often a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What becomes of a port that a program of the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfTaken {
    /// It is the cluster's: it is opened as soon as it is free.
    TryAgain,
    /// It is the host's, also when it is free for a moment.
    Leave,
}

/// The ports of the running node; copies mean the same.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    acceptor: Arc<Acceptor>,
    tree: Tree,
    node_ip: Ipv4Addr,
    wanted: Mutex<Wanted>,
    /// Something is not open: it is tried again.
    troubled: Notify,
}

/// What is wanted, and why some of it is not open.
#[derive(Debug, Default)]
struct Wanted {
    node: BTreeSet<Forward>,
    administrator: BTreeSet<Forward>,
    services: BTreeMap<Forward, IfTaken>,
    problems: BTreeMap<Forward, String>,
    /// What programs of the host have or had: not tried again, and why.
    left: BTreeMap<Forward, String>,
    /// What programs of the host listened on when the node came up.
    hosts: Listening,
}

impl Ports {
    /// Opens the administrator's ports of former runs beside the node's own; must be called inside the runtime.
    ///
    /// One that cannot be opened is said and tried again: an administrator's port is no reason to have no node.
    pub(crate) fn new(spec: &NodeSpec, tree: Tree, acceptor: Arc<Acceptor>) -> Self {
        let node_ip = spec.network.node_ip;
        let administrator = tree.ports().into_iter().take(MOST_ADDED).map(|port| port.on(node_ip)).collect();
        let node = spec.forwards.iter().copied().collect();
        let hosts = u7s_net::forward::listening().without(&acceptor.forwards());
        let wanted = Mutex::new(Wanted { node, administrator, hosts, ..Wanted::default() });
        let ports =
            Self { shared: Arc::new(Shared { acceptor, tree, node_ip, wanted, troubled: Notify::new() }) };
        ports.apply(&mut ports.wanted());
        tokio::spawn(ports.clone().keep_trying());
        ports
    }

    /// Takes nothing any more from clients outside of the host that claim to be in one of these networks.
    pub(crate) fn refuse(&self, inside: &[Ipv4Net]) {
        tracing::info!(?inside, "clients of these networks are refused from now on");
        self.shared.acceptor.refuse(inside);
    }

    /// Makes `services` the ports that Services want, in place of all that was said before; must be called inside the runtime.
    ///
    /// Shape: each port of `services` with why it is not open (`None`: it is). A port that somebody else has is named with its
    /// owner, a low one begins with `LowPort: `. Ports that are no longer in the set are closed at once, unless the node
    /// or the administrator wants them, too; ports with a problem are tried again every five seconds, but for those that are
    /// the host's.
    pub(crate) fn follow(&self, services: BTreeMap<Forward, IfTaken>) -> BTreeMap<Forward, Option<String>> {
        let mut wanted = self.wanted();
        wanted.services = services;
        self.apply(&mut wanted);
        wanted.services.keys().map(|port| (*port, wanted.problems.get(port).cloned())).collect()
    }

    /// All ports that are wanted, sorted by address and port within their protocol.
    pub(crate) fn list(&self) -> Vec<Port> {
        let wanted = self.wanted();
        let port = |forward: Forward| Port {
            forward,
            origin: wanted.origin(&forward),
            problem: wanted.problems.get(&forward).cloned(),
        };
        wanted.all().into_iter().map(port).collect()
    }

    /// Opens a port for the administrator and remembers it; one that cannot be opened is not remembered.
    ///
    /// Also how a port is had that was left to the host.
    pub(crate) fn add(&self, port: HostPort) -> Answer {
        let forward = port.on(self.shared.node_ip);
        let mut wanted = self.wanted();
        if wanted.administrator.len() >= MOST_ADDED {
            return refuse(format!("{MOST_ADDED} ports were added, more are not possible"));
        }
        let added = wanted.administrator.insert(forward);
        wanted.left.remove(&forward);
        wanted.hosts.forget(&forward);
        let error = self.apply(&mut wanted).remove(&forward);
        let answer = match error {
            None if added => self.remember(&wanted),
            None => Answer::Done,
            Some(u7s_net::Error::LowPort { forward, first }) => Answer::Unmet(low_port(&forward, first)),
            Some(error) => refuse(crate::error::chain(&error)),
        };
        if added && answer != Answer::Done {
            wanted.administrator.remove(&forward);
            self.apply(&mut wanted);
        }
        answer
    }

    /// Closes a port that an administrator added and forgets it.
    pub(crate) fn remove(&self, port: HostPort) -> Answer {
        let forward = port.on(self.shared.node_ip);
        let mut wanted = self.wanted();
        if !wanted.administrator.remove(&forward) {
            return match wanted.all().contains(&forward) {
                true => refuse(format!(
                    "{forward} belongs to the {}, not to an administrator",
                    wanted.origin(&forward).as_str()
                )),
                false => refuse(format!("{forward} was not added")),
            };
        }
        let answer = self.remember(&wanted);
        if answer != Answer::Done {
            wanted.administrator.insert(forward);
        }
        self.apply(&mut wanted);
        answer
    }

    fn remember(&self, wanted: &Wanted) -> Answer {
        let port = |forward: &Forward| HostPort {
            address: (forward.address != self.shared.node_ip).then_some(forward.address),
            port: forward.port,
            protocol: forward.protocol,
        };
        match self.shared.tree.keep_ports(&wanted.administrator.iter().map(port).collect::<Vec<_>>()) {
            Ok(()) => Answer::Done,
            Err(error) => refuse(crate::error::chain(&error)),
        }
    }

    /// Hands the whole set to the acceptor, but for what is the host's; a new problem is said once, its end, too.
    fn apply(&self, wanted: &mut Wanted) -> BTreeMap<Forward, u7s_net::Error> {
        let all = wanted.all();
        wanted.leave_what_the_host_had(&all);
        let tried = all.iter().filter(|forward| !wanted.left.contains_key(forward)).copied().collect();
        let errors = self.shared.acceptor.set_forwards(&tried);
        wanted.leave_what_is_taken(&errors);
        let mut problems: BTreeMap<_, _> =
            errors.iter().map(|(forward, error)| (*forward, describe(error))).collect();
        problems.extend(wanted.left.clone());
        let before = std::mem::replace(&mut wanted.problems, problems);
        for (forward, problem) in &wanted.problems {
            if before.get(forward) != Some(problem) {
                tracing::warn!(port = %forward, "cannot be opened: {problem}");
            }
        }
        if wanted.problems.len() > wanted.left.len() {
            self.shared.troubled.notify_one();
        }
        for forward in before.keys().filter(|forward| !wanted.problems.contains_key(forward)) {
            if all.contains(forward) {
                tracing::info!(port = %forward, "is open now");
            }
        }
        errors
    }

    async fn keep_trying(self) {
        loop {
            self.shared.troubled.notified().await;
            tokio::time::sleep(RETRY).await;
            self.apply(&mut self.wanted());
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn all(&self) -> BTreeSet<Forward> {
        let others = self.administrator.iter().chain(self.services.keys());
        self.node.iter().chain(others).copied().collect()
    }

    /// Ports that the host had when the node came up stay its own; what nobody wants any more is forgotten.
    fn leave_what_the_host_had(&mut self, all: &BTreeSet<Forward>) {
        let mut left = std::mem::take(&mut self.left);
        left.retain(|forward, _| all.contains(forward) && self.yields(forward));
        self.left = left;
        let yields = |forward: &&Forward| self.yields(forward) && !self.left.contains_key(forward);
        let had: Vec<(Forward, u32)> = all
            .iter()
            .filter(yields)
            .filter_map(|forward| Some((*forward, self.hosts.holder(forward)?)))
            .collect();
        for (forward, uid) in had {
            let (name, port) = (forward.protocol.as_str().to_uppercase(), forward.port);
            let why = format!("{name} port {port} was a process of uid {uid}'s when the node came up");
            self.left.insert(forward, left_to_host(&forward, why));
        }
    }

    /// A listening program has these, and shall have them also while it restarts.
    fn leave_what_is_taken(&mut self, errors: &BTreeMap<Forward, u7s_net::Error>) {
        for (forward, error) in errors {
            if let u7s_net::Error::PortTaken { owner, .. } = error
                && owner.uid.is_some()
                && self.yields(forward)
            {
                self.left.insert(*forward, left_to_host(forward, crate::error::chain(error)));
            }
        }
    }

    /// Whether it is left to a program of the host that has it.
    fn yields(&self, forward: &Forward) -> bool {
        let cluster = self.services.get(forward) == Some(&IfTaken::TryAgain);
        !self.node.contains(forward) && !cluster
    }

    fn origin(&self, forward: &Forward) -> Origin {
        if self.node.contains(forward) {
            Origin::Node
        } else if self.administrator.contains(forward) {
            Origin::Administrator
        } else {
            Origin::Service
        }
    }
}

/// Why a port is left to the host, and what helps.
fn left_to_host(forward: &Forward, why: String) -> String {
    let again = HostPort { address: Some(forward.address), port: forward.port, protocol: forward.protocol };
    cut(
        format!("{why}; it is left to the host. When it is free for good: u7s ports add {again}"),
        MAX_PROBLEM,
    )
}

fn describe(error: &u7s_net::Error) -> String {
    let id = if matches!(error, u7s_net::Error::LowPort { .. }) { "LowPort: " } else { "" };
    cut(format!("{id}{}", crate::error::chain(error)), MAX_PROBLEM)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use u7s_net::forward::Listeners;
    use u7s_plan::node::Protocol;

    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// A node at the loopback address; its directory goes with the first.
    fn ports() -> (tempfile::TempDir, Ports) {
        let home = tempfile::tempdir().unwrap();
        let mut spec = crate::spec::tests::sample();
        spec["user"]["home"] = home.path().display().to_string().into();
        spec["network"]["node_ip"] = HOST.to_string().into();
        spec["forwards"] = serde_json::json!([]);
        let spec: NodeSpec = serde_json::from_value(spec).unwrap();
        let tree = Tree::prepare(&spec).unwrap();
        let acceptor = Arc::new(Acceptor::new(Listeners::default()).unwrap());
        (home, Ports::new(&spec, tree, acceptor))
    }

    /// A program of the host, and its port.
    fn program(port: u16) -> (TcpListener, Forward) {
        let program = TcpListener::bind((HOST, port)).unwrap();
        let port = program.local_addr().unwrap().port();
        (program, Forward { protocol: Protocol::Tcp, address: HOST, port })
    }

    fn problem(ports: &Ports, forward: Forward, if_taken: IfTaken) -> Option<String> {
        ports.follow(BTreeMap::from([(forward, if_taken)])).remove(&forward).unwrap()
    }

    /// A database that restarted found a pod at its port, which got the passwords of its clients.
    #[tokio::test]
    async fn f12_a_port_of_the_host_is_not_snatched_while_its_program_restarts() {
        let (_home, ports) = ports();
        let (program, forward) = program(0);
        for _ in 0..20 {
            let said = problem(&ports, forward, IfTaken::Leave).unwrap();
            assert!(said.contains("is taken by pid"), "{said}");
            assert!(said.ends_with(&format!("u7s ports add {forward}")), "{said}");
        }
        drop(program);
        for _ in 0..20 {
            assert!(problem(&ports, forward, IfTaken::Leave).is_some());
            ports.apply(&mut ports.wanted());
        }
        assert!(TcpStream::connect((HOST, forward.port)).is_err(), "the node has it");
        drop(self::program(forward.port));
        // Who asks for it by name gets it, and so does a Service that is made anew.
        let port = HostPort { address: None, port: forward.port, protocol: Protocol::Tcp };
        assert_eq!(ports.add(port), Answer::Done);
        TcpStream::connect((HOST, forward.port)).unwrap();
        assert_eq!(ports.remove(port), Answer::Done);
        TcpStream::connect((HOST, forward.port)).unwrap();
        assert_eq!(problem(&ports, forward, IfTaken::Leave), None);
    }

    #[tokio::test]
    async fn f12_a_service_that_is_made_anew_is_tried_again() {
        let (_home, ports) = ports();
        let (program, forward) = program(0);
        assert!(problem(&ports, forward, IfTaken::Leave).is_some());
        drop(program);
        ports.follow(BTreeMap::new());
        assert_eq!(problem(&ports, forward, IfTaken::Leave), None);
        TcpStream::connect((HOST, forward.port)).unwrap();
    }

    #[tokio::test]
    async fn f12_what_the_host_listened_on_when_the_node_came_up_stays_its_own() {
        let (program, forward) = program(0);
        let (_home, ports) = ports();
        drop(program);
        let said = problem(&ports, forward, IfTaken::Leave).unwrap();
        assert!(said.contains("when the node came up"), "{said}");
        ports.follow(BTreeMap::new());
        assert!(problem(&ports, forward, IfTaken::Leave).is_some(), "also for another Service");
        drop(self::program(forward.port));
        assert_eq!(problem(&ports, forward, IfTaken::TryAgain), None, "NodePorts are the cluster's");
    }

    #[tokio::test]
    async fn a_node_port_is_opened_as_soon_as_it_is_free() {
        let (_home, ports) = ports();
        let (program, forward) = program(0);
        let said = problem(&ports, forward, IfTaken::TryAgain).unwrap();
        assert!(said.contains("is taken by pid") && !said.contains("ports add"), "{said}");
        drop(program);
        assert_eq!(problem(&ports, forward, IfTaken::TryAgain), None);
    }
}
