//! Which ports of the host shall lead inside, and who wants it: the node by its role, the administrator, and Services.
//!
//! [`Ports`] is the one owner of the wanted set. The three parts are united and handed to the acceptor whole, so each
//! part may be said again at any time; what cannot be opened now is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use u7s_net::forward::Acceptor;
use u7s_plan::control::{Answer, MAX_PROBLEM, MOST_ADDED, Origin, Port, cut, low_port};
use u7s_plan::node::{Forward, HostPort, NodeSpec};

use crate::control::refuse;
use crate::tree::Tree;

/// How often a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

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
    services: BTreeSet<Forward>,
    problems: BTreeMap<Forward, String>,
}

impl Ports {
    /// Opens the administrator's ports of former runs beside the node's own; must be called inside the runtime.
    ///
    /// One that cannot be opened is said and tried again: an administrator's port is no reason to have no node.
    pub(crate) fn new(spec: &NodeSpec, tree: Tree, acceptor: Arc<Acceptor>) -> Self {
        let node_ip = spec.network.node_ip;
        let administrator = tree.ports().into_iter().take(MOST_ADDED).map(|port| port.on(node_ip)).collect();
        let node = spec.forwards.iter().copied().collect();
        let wanted = Mutex::new(Wanted { node, administrator, ..Wanted::default() });
        let ports =
            Self { shared: Arc::new(Shared { acceptor, tree, node_ip, wanted, troubled: Notify::new() }) };
        ports.apply(&mut ports.wanted());
        tokio::spawn(ports.clone().keep_trying());
        ports
    }

    /// Makes `services` the ports that Services want, in place of all that was said before; must be called inside the runtime.
    ///
    /// Shape: each port of `services` with why it is not open (`None`: it is). A port that somebody else has is named with its
    /// owner, a low one begins with `LowPort: `. Ports that are no longer in the set are closed at once, unless the node
    /// or the administrator wants them, too; ports with a problem are tried again every five seconds.
    pub(crate) fn follow(&self, services: BTreeSet<Forward>) -> BTreeMap<Forward, Option<String>> {
        let mut wanted = self.wanted();
        wanted.services = services;
        self.apply(&mut wanted);
        wanted.services.iter().map(|port| (*port, wanted.problems.get(port).cloned())).collect()
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
    pub(crate) fn add(&self, port: HostPort) -> Answer {
        let forward = port.on(self.shared.node_ip);
        let mut wanted = self.wanted();
        if wanted.administrator.len() >= MOST_ADDED {
            return refuse(format!("{MOST_ADDED} ports were added, more are not possible"));
        }
        let added = wanted.administrator.insert(forward);
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

    /// Hands the whole set to the acceptor; a new problem is said once, its end, too.
    fn apply(&self, wanted: &mut Wanted) -> BTreeMap<Forward, u7s_net::Error> {
        let all = wanted.all();
        let errors = self.shared.acceptor.set_forwards(&all);
        let problems = errors.iter().map(|(forward, error)| (*forward, describe(error))).collect();
        let before = std::mem::replace(&mut wanted.problems, problems);
        for (forward, problem) in &wanted.problems {
            if before.get(forward) != Some(problem) {
                tracing::warn!(port = %forward, "cannot be opened: {problem}");
            }
        }
        if !wanted.problems.is_empty() {
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
        [&self.node, &self.administrator, &self.services].into_iter().flatten().copied().collect()
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

fn describe(error: &u7s_net::Error) -> String {
    let id = if matches!(error, u7s_net::Error::LowPort { .. }) { "LowPort: " } else { "" };
    cut(format!("{id}{}", crate::error::chain(error)), MAX_PROBLEM)
}
