//! The supervisor's life after the namespaces exist: one loop that hears everything and decides.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use u7s_net::forward::Acceptor;
use u7s_plan::control::{ActiveState, Answer, Request, Runtime, Timings};
use u7s_plan::node::{ComponentName, NodeSpec};

use crate::control::{self, Asked, refuse};
use crate::journal::Journal;
use crate::link::Attachment;
use crate::message::{Event, Exit};
use crate::notify::Notifier;
use crate::pid_one::PidOne;
use crate::ports::Ports;
use crate::probe::{Echo, Probed};
use crate::rules::Rules;
use crate::service::{Due, Service};
use crate::services::Following;
use crate::tree::Tree;
use crate::{Error, Prepared, cgroup, probe, rules, start};

/// News of every kind that may be on its way.
const NEWS: usize = 256;

/// How long pid 1 may take to build what is inside, mounts above all.
const BUILD: Duration = Duration::from_secs(30);

/// What the tasks tell the loop.
#[derive(Debug)]
pub(crate) enum Happened {
    /// Pid 1 said something on its own.
    Inside(Event, Vec<OwnedFd>),
    /// Pid 1 says nothing any more.
    InitGone(Option<Error>),
    /// The driver's process of this pid is ready.
    DriverReady(i32),
    /// The driver's process of this pid has ended.
    DriverEnded(i32),
    /// The driver's process of this pid was asked for its health.
    DriverProbed(i32, Result<Echo, String>),
    /// Whether all forwarded ports were found to lead inside.
    Forwarded(bool),
    /// The forwarder's rules are loaded inside, or why not.
    RulesLoaded(Option<String>),
    /// A component was asked for its health.
    Probed(Probed),
}

/// The running node.
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) tree: Tree,
    pub(crate) cgroup: cgroup::Node,
    pub(crate) namespace: crate::namespace::Namespace,
    pub(crate) pid_one: PidOne,
    pub(crate) link: Attachment,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) ports: Ports,
    pub(crate) services: Vec<Service>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) runtime: Option<Runtime>,
    pub(crate) timings: Timings,
    pub(crate) notifier: Notifier,
    pub(crate) began: Instant,
    /// When pid 1 must have built everything; none once it has.
    pub(crate) build_until: Option<Instant>,
    /// A connection to each forwarded port got through, or cannot be waited for.
    pub(crate) forwarded: bool,
    /// Services from outside.
    pub(crate) following: Following,
    /// The forwarder's rules inside.
    pub(crate) rules: Rules,
    /// The node's /run, once it is built.
    pub(crate) run: Option<OwnedFd>,
    happened: mpsc::Sender<Happened>,
    /// Kept for its name on disk.
    _control: control::Socket,
}

/// Serves until SIGTERM or SIGINT; then everything is ended in reverse order.
///
/// # Errors
/// Why the node could not go on; all of it has been ended then, too.
pub(crate) async fn serve(prepared: Prepared) -> Result<(), Error> {
    let (sender, mut happened) = mpsc::channel(NEWS);
    let (asked, mut requests) = mpsc::channel(NEWS);
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("catch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("catch SIGINT"))?;
    let mut node = Node::new(prepared, sender, asked)?;
    let outcome = loop {
        node.publish();
        let due = tokio::time::Instant::from_std(node.next_due());
        let turn = tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            Some(news) = happened.recv() => node.hear(news).await,
            Some((request, caller)) = requests.recv() => { node.answer(request, caller); Ok(()) }
            () = sleep_until(due) => Ok(()),
        };
        let done = match turn {
            Ok(()) => node.act().await,
            failed => failed,
        };
        if let Err(error) = done {
            break Err(error);
        }
    };
    crate::stop::stop(node, happened, outcome).await
}

impl Node {
    fn new(
        prepared: Prepared,
        happened: mpsc::Sender<Happened>,
        asked: mpsc::Sender<Asked>,
    ) -> Result<Self, Error> {
        let Prepared { spec, tree, cgroup, namespace, channel, .. } = prepared;
        let Prepared { output, link, listeners, control, timings, began, .. } = prepared;
        control::serve(&control, spec.user.uid, asked)?;
        let network = |source| Error::Network { what: "serve the forwarded ports", source };
        let acceptor = Arc::new(Acceptor::new(listeners).map_err(network)?);
        acceptor.refuse(&u7s_plan::forwarding::inside(&spec.network));
        let served = Arc::clone(&acceptor);
        tokio::spawn(async move { served.run().await });
        let ports = Ports::new(&spec, tree.clone(), Arc::clone(&acceptor));
        let journal = Arc::new(Journal::open());
        crate::output::watch(&journal, "u7s-init", output)?;
        link.watch(&journal, &happened)?;
        let enabled = tree.enabled();
        let services = spec
            .components
            .iter()
            .map(|component| {
                let enabled = component.always || enabled.get(&component.name).copied().unwrap_or(false);
                Service::new(component.clone(), enabled)
            })
            .collect();
        let pid_one = PidOne::new(channel, happened.clone())?;
        Ok(Self {
            following: Following::begin(&spec, &pid_one, &ports),
            pid_one,
            runtime: None,
            notifier: Notifier::new(),
            build_until: Some(Instant::now() + crate::patience::of(BUILD)),
            forwarded: !spec.forwards.iter().any(probe::can_be_asked),
            rules: Rules::default(),
            run: None,
            _control: control,
            spec,
            tree,
            cgroup,
            namespace,
            link,
            acceptor,
            ports,
            services,
            journal,
            timings,
            began,
            happened,
        })
    }

    /// Whether READY=1 may be said: packets flow both ways and CRI answers.
    pub(crate) fn is_up(&self) -> bool {
        let crio = self.services.iter().find(|service| service.name() == ComponentName::Crio);
        self.build_until.is_none()
            && self.link.is_ready()
            && self.forwarded
            && self.rules.is_tried()
            && crio.is_none_or(|crio| crio.active() == ActiveState::Active)
    }

    fn publish(&mut self) {
        let state = self.state();
        let up = self.is_up();
        self.notifier.publish(&state, up);
    }

    fn next_due(&self) -> Instant {
        let services = self.services.iter().filter_map(Service::next_due);
        let pings = Some(self.notifier.next_ping());
        let others = [self.link.next_due(), self.build_until, self.rules.next_due(), pings];
        // There is always the next ping.
        services.chain(others.into_iter().flatten()).min().unwrap_or_else(Instant::now)
    }

    async fn hear(&mut self, news: Happened) -> Result<(), Error> {
        match news {
            Happened::Inside(event, descriptors) => self.hear_inside(event, descriptors)?,
            Happened::InitGone(Some(error)) => return Err(error),
            Happened::InitGone(None) => return Err(self.how_init_ended().await),
            Happened::DriverReady(pid) => {
                self.link.became_ready(pid);
                self.note_time(|timings| &mut timings.network_us);
            }
            Happened::DriverEnded(pid) => self.link.ended(pid),
            Happened::DriverProbed(pid, answer) => self.link.probed(pid, answer),
            Happened::Forwarded(answered) => {
                self.forwarded = true;
                if !answered {
                    // Waiting longer would help nobody: a packet filter of the host may be all that is in the way.
                    tracing::warn!("no connection to the forwarded ports got through from this host");
                }
            }
            Happened::RulesLoaded(problem) => self.rules.heard(problem),
            Happened::Probed(probed) => self.hear_probed(probed),
        }
        Ok(())
    }

    fn hear_inside(&mut self, event: Event, mut descriptors: Vec<OwnedFd>) -> Result<(), Error> {
        match event {
            // Said again, by whoever took pid 1 over, it means nothing.
            Event::Built { .. } if self.build_until.is_none() => {}
            Event::Built { warnings } => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                self.build_until = None;
                self.run = descriptors.pop();
                self.note_time(|timings| &mut timings.mounts_us);
                self.start_enabled();
                self.link.begin();
                self.rules.begin();
            }
            Event::Failed { reason } => return Err(Error::Inside { reason }),
            Event::Forwarder => {
                if let Some(channel) = descriptors.pop() {
                    self.acceptor
                        .attach(channel)
                        .map_err(|source| Error::Network { what: "attach the forwarder", source })?;
                    if !self.forwarded {
                        probe::ask_forwards(self.spec.forwards.clone(), self.happened.clone());
                    }
                }
            }
            Event::Exited { pid, exit } => self.hear_exit(pid, exit),
            Event::Terminated => return Err(Error::InitTerminated),
            // Answers are handed out by `pid_one`, tap0 was there before the runtime.
            Event::Tap | Event::Answer { .. } => {}
        }
        Ok(())
    }

    /// crio first; what is enabled follows when it answers, or at once where there is no crio.
    fn start_enabled(&mut self) {
        let has_crio = self.services.iter().any(|service| service.name() == ComponentName::Crio);
        for service in self.services.iter_mut().filter(|service| service.enabled) {
            if service.name() == ComponentName::Crio || !has_crio {
                service.order_start(None);
            }
        }
    }

    fn hear_exit(&mut self, pid: i32, exit: Exit) {
        let of_it = |service: &&mut Service| service.process().is_some_and(|process| process.inside == pid);
        if let Some(service) = self.services.iter_mut().find(of_it) {
            tracing::warn!(component = service.name().as_str(), %exit, "ended");
            service.ended(exit);
        }
    }

    fn hear_probed(&mut self, probed: Probed) {
        let Probed { name, pid, answer } = probed;
        let of_it = |service: &&mut Service| {
            service.name() == name && service.process().is_some_and(|process| process.inside == pid)
        };
        // The answer of a former process is no news.
        let Some(service) = self.services.iter_mut().find(of_it) else { return };
        let was_starting = service.active() == ActiveState::Activating;
        match answer {
            Ok(runtime) => {
                service.healthy();
                self.runtime = runtime.or_else(|| self.runtime.take());
            }
            Err(reason) => {
                let killed = service.unhealthy();
                if !was_starting {
                    tracing::warn!(component = name.as_str(), reason, killed, "does not answer");
                }
                return;
            }
        }
        if was_starting && name == ComponentName::Crio {
            self.note_time(|timings| &mut timings.cri_us);
            self.start_followers();
        }
    }

    /// What was enabled and waited for crio; what runs already was not touched by crio's restart.
    fn start_followers(&mut self) {
        for service in self.services.iter_mut().filter(|service| service.enabled && service.waits()) {
            service.order_start(None);
        }
    }

    fn note_time(&mut self, field: impl FnOnce(&mut Timings) -> &mut u64) {
        let passed = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let field = field(&mut self.timings);
        if *field == 0 {
            *field = passed;
        }
    }

    async fn how_init_ended(&self) -> Error {
        /// The channel closes a moment before the process has ended.
        const MOMENT: Duration = Duration::from_secs(2);
        let until = Instant::now() + MOMENT;
        loop {
            match self.namespace.exit() {
                Some(exit) => return Error::InitEnded { how: exit.to_string() },
                None if Instant::now() >= until => {
                    return Error::InitEnded { how: "it closed its channel".into() };
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    fn answer(&mut self, request: Request, caller: oneshot::Sender<Answer>) {
        let component = match request {
            Request::Status => {
                let _ = caller.send(Answer::Status(Box::new(self.status())));
                return;
            }
            Request::PortsList => {
                let _ = caller.send(Answer::Ports { ports: self.ports.list() });
                return;
            }
            Request::PortsAdd { port } => return drop(caller.send(self.ports.add(port))),
            Request::PortsRemove { port } => return drop(caller.send(self.ports.remove(port))),
            Request::Start { component }
            | Request::Stop { component }
            | Request::Restart { component }
            | Request::Enable { component }
            | Request::Disable { component } => component,
        };
        let Some(service) = self.services.iter_mut().find(|service| service.name() == component) else {
            let _ = caller.send(refuse(format!("this node has no {}", component.as_str())));
            return;
        };
        match request {
            Request::Start { .. } => service.order_start(Some(caller)),
            Request::Stop { .. } => service.order_stop(Some(caller)),
            Request::Restart { .. } => service.order_restart(Some(caller)),
            Request::Enable { .. } => drop(caller.send(self.enable(component, true))),
            Request::Disable { .. } => drop(caller.send(self.enable(component, false))),
            // Answered above.
            Request::Status | Request::PortsList | Request::PortsAdd { .. } | Request::PortsRemove { .. } => {
            }
        }
    }

    fn enable(&mut self, name: ComponentName, enabled: bool) -> Answer {
        let mut all = self.tree.enabled();
        all.insert(name, enabled);
        match self.tree.enable(&all) {
            Ok(()) => {
                for service in self.services.iter_mut().filter(|service| service.name() == name) {
                    service.enabled = enabled || service.spec.always;
                }
                Answer::Done
            }
            Err(error) => refuse(crate::error::chain(&error)),
        }
    }

    /// Does everything that is due by now.
    async fn act(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.notifier.ping_if_due(now);
        if self.build_until.is_some_and(|until| until <= now) {
            return Err(Error::Deadline {
                what: "the mounts inside",
                seconds: crate::patience::of(BUILD).as_secs(),
            });
        }
        for index in 0..self.services.len() {
            while let Some(due) = self.services[index].take_due(now) {
                self.do_due(index, due).await?;
            }
        }
        // While the node is only starting, systemd's TimeoutStartSec= ends what cannot succeed.
        if self.notifier.is_ready() {
            self.services.iter_mut().for_each(Service::keep_trying);
        }
        // After the components: nothing of theirs waits for it.
        if self.rules.take_due(Instant::now()) {
            rules::load(&self.spec, self.pid_one.clone(), self.happened.clone());
        }
        if self.link.act(Instant::now())
            && let Err(error) = self.link.watch(&self.journal, &self.happened)
        {
            let error = crate::error::chain(&error);
            tracing::error!(error, "the network driver cannot be watched, it is started again later");
            self.link.give_up();
        }
        if let Some(pid) = self.link.take_probe(now) {
            let gateway = self.spec.network.gateway;
            probe::ask_driver(pid, self.pid_one.clone(), gateway, self.happened.clone());
        }
        Ok(())
    }

    async fn do_due(&mut self, index: usize, due: Due) -> Result<(), Error> {
        let service = &mut self.services[index];
        match due {
            Due::Kill => {
                tracing::warn!(
                    component = service.name().as_str(),
                    "is killed: it neither ended nor answered in time"
                );
                service.signal(Signal::SIGKILL);
            }
            Due::Probe => {
                if let Some(process) = service.process() {
                    let asked = (service.name(), process.inside);
                    probe::ask(
                        asked,
                        self.pid_one.clone(),
                        self.spec.cri_socket.clone(),
                        self.happened.clone(),
                    );
                }
            }
            Due::Start => start::start(service, &self.pid_one, &self.journal).await?,
        }
        Ok(())
    }
}
