//! One component: its process, its state in systemd's terms, and what happens to it next.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use u7s_plan::control::{ActiveState, Answer, ComponentStatus};
use u7s_plan::node::{Component, ComponentName};

use crate::backoff::{self, Backoff};
use crate::control::refuse;
use crate::message::Exit;
use crate::tick;

/// How long a component may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(10);

/// How long crio may take until CRI answers; a slow one is killed and counts as dead.
const START: Duration = Duration::from_secs(60);

/// How soon it is asked again after a miss: three of five seconds each are over within the watchdog's 30 s.
const AGAIN: Duration = Duration::from_secs(2);

/// Unanswered questions in a row after which it is killed.
const MISSES: u32 = 3;

/// The first and the longest pause between questions to a component that is starting.
const STARTING: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// A running component.
#[derive(Debug)]
pub(crate) struct Process {
    /// Pid inside.
    pub(crate) inside: i32,
    /// Pid on the host.
    pub(crate) host: i32,
    /// The same, held.
    pub(crate) pidfd: OwnedFd,
    /// When it was started.
    pub(crate) since: Instant,
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Started,
    Stopped,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Start it (again).
    Start,
    /// It did not end, or did not begin to answer: kill it.
    Kill,
    /// Ask whether it answers.
    Probe,
}

/// A component of the node.
#[derive(Debug)]
pub(crate) struct Service {
    /// What it is.
    pub(crate) spec: Component,
    /// Started with the node.
    pub(crate) enabled: bool,
    /// Its state; changed by [`Service::enter`] only.
    active: ActiveState,
    since: u64,
    process: Option<Process>,
    backoff: Backoff,
    restarts: u32,
    last_exit: Option<String>,
    start_at: Option<Instant>,
    kill_at: Option<Instant>,
    probe_at: Option<Instant>,
    probe_pause: Duration,
    misses: u32,
    start_again: bool,
    waiting: Vec<(Goal, oneshot::Sender<Answer>)>,
}

impl Service {
    /// A component that was never started.
    pub(crate) fn new(spec: Component, enabled: bool) -> Self {
        Self {
            spec,
            enabled,
            active: ActiveState::Inactive,
            since: now(),
            process: None,
            backoff: Backoff::default(),
            restarts: 0,
            last_exit: None,
            start_at: None,
            kill_at: None,
            probe_at: None,
            probe_pause: STARTING[0],
            misses: 0,
            start_again: false,
            waiting: Vec::new(),
        }
    }

    /// Which one it is.
    pub(crate) fn name(&self) -> ComponentName {
        self.spec.name
    }

    /// Its state.
    pub(crate) fn active(&self) -> ActiveState {
        self.active
    }

    /// Its process, while it runs.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// How it ended last.
    pub(crate) fn last_exit(&self) -> Option<&str> {
        self.last_exit.as_deref()
    }

    /// Whether it has to start now that crio answers: it never ran, or it died, perhaps too often, since crio did not answer.
    pub(crate) fn waits(&self) -> bool {
        match self.active {
            ActiveState::Inactive => self.last_exit.is_none(),
            ActiveState::Activating | ActiveState::Failed => self.process.is_none(),
            ActiveState::Active | ActiveState::Deactivating => false,
        }
    }

    /// Orders a start by hand: the past is forgotten. `caller` is answered when it runs.
    pub(crate) fn order_start(&mut self, caller: Option<oneshot::Sender<Answer>>) {
        match self.active {
            ActiveState::Active => return tell(caller, Answer::Done),
            ActiveState::Deactivating => self.start_again = true,
            ActiveState::Activating if self.process.is_some() => {}
            ActiveState::Inactive | ActiveState::Failed | ActiveState::Activating => {
                self.backoff = Backoff::default();
                self.enter(ActiveState::Activating);
                self.start_at = Some(Instant::now());
            }
        }
        self.waiting.extend(caller.map(|caller| (Goal::Started, caller)));
    }

    /// Orders the end. `caller` is answered when it is gone.
    pub(crate) fn order_stop(&mut self, caller: Option<oneshot::Sender<Answer>>) {
        self.start_again = false;
        self.start_at = None;
        self.answer(Goal::Started, || refuse("it was stopped meanwhile"));
        if self.process.is_none() {
            self.enter(ActiveState::Inactive);
            return tell(caller, Answer::Done);
        }
        self.waiting.extend(caller.map(|caller| (Goal::Stopped, caller)));
        if self.active != ActiveState::Deactivating {
            self.enter(ActiveState::Deactivating);
            self.probe_at = None;
            self.kill_at = Some(Instant::now() + STOP);
            self.signal(Signal::SIGTERM);
        }
    }

    /// Orders the end and a start afterwards.
    pub(crate) fn order_restart(&mut self, caller: Option<oneshot::Sender<Answer>>) {
        if self.process.is_some() {
            self.order_stop(None);
        }
        self.order_start(caller);
    }

    /// Its program runs. Components that are asked for their health are active when they answer, others at once.
    pub(crate) fn started(&mut self, process: Process) {
        self.start_at = None;
        self.misses = 0;
        self.probe_pause = STARTING[0];
        self.process = Some(process);
        if self.name() == ComponentName::Crio {
            // It may have failed before.
            self.enter(ActiveState::Activating);
            self.kill_at = Some(Instant::now() + crate::patience::of(START));
            self.probe_at = Some(Instant::now() + self.probe_pause);
        } else {
            self.probe_at = Some(tick::next());
            self.enter(ActiveState::Active);
            self.answer(Goal::Started, || Answer::Done);
        }
    }

    /// Its program could not be started: as if it had died at once.
    pub(crate) fn not_started(&mut self, reason: String) {
        self.start_at = None;
        self.last_exit = Some(reason.clone());
        self.answer(Goal::Started, || refuse(reason.clone()));
        self.schedule(Duration::ZERO);
    }

    /// It must not start: there is nothing to repeat.
    pub(crate) fn not_startable(&mut self, reason: &str) {
        self.start_at = None;
        self.enter(ActiveState::Inactive);
        self.answer(Goal::Started, || refuse(reason));
    }

    /// Its process has ended.
    pub(crate) fn ended(&mut self, exit: Exit) {
        let lived = self.process.take().map_or(Duration::ZERO, |process| process.since.elapsed());
        self.kill_at = None;
        self.probe_at = None;
        self.last_exit = Some(exit.to_string());
        if self.active == ActiveState::Deactivating {
            self.enter(ActiveState::Inactive);
            self.answer(Goal::Stopped, || Answer::Done);
            if std::mem::take(&mut self.start_again) {
                self.backoff = Backoff::default();
                self.enter(ActiveState::Activating);
                self.start_at = Some(Instant::now());
            }
            return;
        }
        let name = self.name().as_str();
        self.answer(Goal::Started, || refuse(format!("{name} ended: {exit}")));
        self.schedule(lived);
    }

    fn schedule(&mut self, lived: Duration) {
        match self.backoff.after(lived) {
            Some(pause) => {
                self.restarts += 1;
                self.enter(ActiveState::Activating);
                self.start_at = Some(Instant::now() + pause);
            }
            None => self.enter(ActiveState::Failed),
        }
    }

    /// The node is up, and what died too often in it is tried again, seldom: a disk that was full may have room by now.
    pub(crate) fn keep_trying(&mut self) {
        if self.active == ActiveState::Failed && self.process.is_none() && self.start_at.is_none() {
            self.restarts += 1;
            self.start_at = Some(Instant::now() + backoff::LONGEST);
        }
    }

    /// Whether it is tried again though it has failed.
    pub(crate) fn is_kept_trying(&self) -> bool {
        self.active == ActiveState::Failed && self.start_at.is_some()
    }

    /// It answered a question.
    pub(crate) fn healthy(&mut self) {
        self.misses = 0;
        if self.process.is_none() || self.active == ActiveState::Deactivating {
            return;
        }
        self.probe_at = Some(tick::next());
        if self.active == ActiveState::Activating {
            self.kill_at = None;
            self.enter(ActiveState::Active);
            self.answer(Goal::Started, || Answer::Done);
        }
    }

    /// It did not answer; returns whether that was once too often, so that it was killed.
    pub(crate) fn unhealthy(&mut self) -> bool {
        if self.process.is_none() || self.active == ActiveState::Deactivating {
            return false;
        }
        if self.active == ActiveState::Activating {
            self.probe_pause = (self.probe_pause * 2).min(STARTING[1]);
            self.probe_at = Some(Instant::now() + self.probe_pause);
            return false;
        }
        self.misses += 1;
        self.probe_at = Some(Instant::now() + AGAIN);
        let hung = self.misses >= MISSES;
        if hung {
            self.signal(Signal::SIGKILL);
        }
        hung
    }

    /// How many questions in a row it left unanswered, and how many it may.
    pub(crate) fn misses(&self) -> (u32, u32) {
        (self.misses, MISSES)
    }

    /// When something is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        [self.start_at, self.kill_at, self.probe_at].into_iter().flatten().min()
    }

    /// What is due at `now`; it is taken off the list.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if due(&mut self.kill_at) {
            Some(Due::Kill)
        } else if due(&mut self.start_at) {
            Some(Due::Start)
        } else if due(&mut self.probe_at) {
            Some(Due::Probe)
        } else {
            None
        }
    }

    /// Signals its process, if there is one.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            // ESRCH: it has just ended, which is reported by itself.
            let _ = u7s_sys::pidfd::signal(process.pidfd.as_fd(), Some(signal));
        }
    }

    /// What `status` tells.
    pub(crate) fn status(&self) -> ComponentStatus {
        ComponentStatus {
            name: self.name(),
            description: self.spec.description.clone(),
            active: self.active,
            enabled: self.enabled,
            pid: self.process.as_ref().map(|process| process.host),
            pid_inside: self.process.as_ref().map(|process| process.inside),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            since: self.since,
        }
    }

    fn enter(&mut self, active: ActiveState) {
        if self.active != active {
            tracing::info!(component = self.name().as_str(), state = ?active, last_exit = self.last_exit(), "component");
            self.active = active;
            self.since = now();
        }
    }

    fn answer(&mut self, goal: Goal, answer: impl Fn() -> Answer) {
        for (_, caller) in self.waiting.extract_if(.., |(wanted, _)| *wanted == goal) {
            tell(Some(caller), answer());
        }
    }
}

/// A caller that went away needs no answer.
fn tell(caller: Option<oneshot::Sender<Answer>>, answer: Answer) {
    let _ = caller.map(|caller| caller.send(answer));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn service(name: ComponentName) -> Service {
        let spec = Component {
            name,
            description: String::new(),
            argv: vec!["/bin/x".into()],
            env: BTreeMap::new(),
            env_files: Vec::new(),
            arg_vars: Vec::new(),
            needs_file: None,
            always: false,
        };
        Service::new(spec, true)
    }

    /// A process of the test's own that ignores nothing: signals to it are real.
    fn process() -> (Process, std::process::Child) {
        let child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = u7s_sys::pidfd::open(pid).unwrap();
        (Process { inside: pid, host: pid, pidfd, since: Instant::now() }, child)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_kubelet_is_active_when_it_runs_and_crio_when_it_answers() {
        for (name, at_once) in [(ComponentName::Kubelet, true), (ComponentName::Crio, false)] {
            let (mut service, (process, mut child)) = (service(name), process());
            let (sender, mut receiver) = oneshot::channel();
            service.order_start(Some(sender));
            assert_eq!(service.take_due(later()), Some(Due::Start));
            service.started(process);
            assert_eq!(receiver.try_recv().is_ok(), at_once);
            service.healthy();
            assert_eq!(service.active(), ActiveState::Active);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_kubelet_that_died_too_often_while_crio_did_not_answer_starts_when_it_does() {
        let mut service = service(ComponentName::Kubelet);
        service.order_start(None);
        while service.active() != ActiveState::Failed {
            assert_eq!(service.take_due(later()), Some(Due::Start));
            service.not_started("no crio".into());
            assert!(service.waits());
        }
        assert_eq!(service.next_due(), None);
        service.order_start(None);
        assert!(service.next_due().is_some());
    }

    #[test]
    fn a_stopped_component_is_told_to_end_and_is_not_started_again() {
        let (mut service, (process, mut child)) = (service(ComponentName::Kubelet), process());
        service.order_start(None);
        service.started(process);
        let (sender, mut receiver) = oneshot::channel();
        service.order_stop(Some(sender));
        assert!(!child.wait().unwrap().success());
        assert_eq!(service.active(), ActiveState::Deactivating);
        service.ended(Exit::Signal(15));
        assert_eq!(receiver.try_recv().unwrap(), Answer::Done);
        assert_eq!((service.active(), service.next_due()), (ActiveState::Inactive, None));
        assert!(!service.waits());
        assert_eq!(service.last_exit(), Some("signal, status=15/TERM"));
    }

    #[test]
    fn a_crash_loop_ends_as_failed_and_a_start_by_hand_forgives_it() {
        let mut service = service(ComponentName::Kubelet);
        service.order_start(None);
        for _ in 0..9 {
            assert_eq!(service.take_due(later()), Some(Due::Start));
            service.ended(Exit::Code(1));
            assert_eq!(service.active(), ActiveState::Activating);
        }
        assert_eq!(service.take_due(later()), Some(Due::Start));
        service.ended(Exit::Code(1));
        assert_eq!(
            (service.active(), service.next_due(), service.status().restarts),
            (ActiveState::Failed, None, 9)
        );
        service.order_start(None);
        assert_eq!(
            (service.active(), service.take_due(later())),
            (ActiveState::Activating, Some(Due::Start))
        );
    }

    /// A disk that was full for three minutes left the node without kubelet or crio until somebody restarted the unit.
    #[test]
    fn what_failed_is_tried_again_every_30_s_once_the_node_is_up_and_may_recover() {
        for name in [ComponentName::Kubelet, ComponentName::Crio] {
            let mut service = service(name);
            service.order_start(None);
            // Not failed yet: its pauses are its own.
            service.keep_trying();
            while service.active() != ActiveState::Failed {
                assert_eq!(service.take_due(later()), Some(Due::Start));
                service.not_started("no space left on device".into());
            }
            for round in 0..20 {
                assert!(!service.is_kept_trying());
                let before = Instant::now();
                service.keep_trying();
                let due = service.next_due().unwrap();
                service.keep_trying();
                assert_eq!(service.next_due(), Some(due), "it is put off");
                assert!(due >= before + Duration::from_secs(30), "it does not wait");
                assert_eq!((service.active(), service.is_kept_trying()), (ActiveState::Failed, true));
                assert_eq!(service.status().restarts, 10 + round);
                assert_eq!(service.take_due(later()), Some(Due::Start));
                service.not_started("no space left on device".into());
                assert_eq!(service.active(), ActiveState::Failed);
            }
            service.keep_trying();
            service.take_due(later());
            let (process, mut child) = process();
            service.started(process);
            assert_ne!(service.active(), ActiveState::Failed);
            service.healthy();
            assert_eq!(service.active(), ActiveState::Active);
            service.order_stop(None);
            child.wait().unwrap();
            service.ended(Exit::Signal(15));
            service.keep_trying();
            assert_eq!((service.active(), service.next_due()), (ActiveState::Inactive, None));
        }
    }

    #[test]
    fn a_component_that_does_not_answer_three_times_is_killed() {
        let (mut service, (process, mut child)) = (service(ComponentName::Crio), process());
        service.order_start(None);
        service.started(process);
        assert!(!service.unhealthy(), "it is only starting");
        service.healthy();
        assert_eq!([service.unhealthy(), service.unhealthy(), service.unhealthy()], [false, false, true]);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }

    #[test]
    fn a_restart_waits_for_the_end_and_then_starts() {
        let (mut service, (process, mut child)) = (service(ComponentName::Kubelet), process());
        service.order_start(None);
        service.take_due(later());
        service.started(process);
        let (sender, mut receiver) = oneshot::channel();
        service.order_restart(Some(sender));
        child.wait().unwrap();
        assert!(receiver.try_recv().is_err());
        service.ended(Exit::Signal(15));
        assert_eq!(
            (service.active(), service.take_due(later())),
            (ActiveState::Activating, Some(Due::Start))
        );
    }

    #[test]
    fn a_start_that_fails_tells_the_caller_why() {
        let mut service = service(ComponentName::Crio);
        let (sender, mut receiver) = oneshot::channel();
        service.order_start(Some(sender));
        service.not_started("execve /bin/x: ENOENT".into());
        assert_eq!(receiver.try_recv().unwrap(), refuse("execve /bin/x: ENOENT"));
        assert_eq!(service.active(), ActiveState::Activating);
    }
}
