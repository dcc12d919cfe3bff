//! Does what a plan says: each step is observed first, and done only where it does not hold.
//!
//! Nothing is remembered between runs but former values ([`crate::undo`]): a run that was killed is completed by running
//! the same plan again.

use std::path::Path;
use std::time::{Duration, Instant};

use u7s_plan::closing::JoinCommand;
use u7s_plan::control::Timings;
use u7s_plan::facts::UserFact;
use u7s_plan::step::{Action, Owner, Phase, PhaseSteps, Realm, Step};

use crate::enter::as_user;
use crate::error::{Error, whole};
use crate::files::Rights;
use crate::probe;
use crate::undo::Undo;

mod clear;
mod etcd;
mod failpoint;
mod firewall;
mod host;
mod images;
mod inside;
mod kubeconfig;
mod leftovers;
mod restore;
mod tree;
mod units;

pub use failpoint::{Border, failpoint};
pub use kubeconfig::clean as clean_kubeconfig;

#[cfg(feature = "fuzzing")]
pub use {
    etcd::fuzz as fuzz_members, images::fuzz as fuzz_images, inside::fuzz as fuzz_lines,
    tree::fuzz as fuzz_changes,
};

/// What happens while a plan is applied; the doors print it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A phase begins.
    Phase(Phase),
    /// A step begins that may take its time: starting a unit, loading images, running kubeadm.
    Begins(Phase, &'a Step),
    /// A step held already: nothing was done.
    Held(Phase, &'a Step),
    /// A step was done.
    Done(Phase, &'a Step, Duration),
    /// A step was left out on purpose, and why: a module that this kernel does not have.
    Skipped(Phase, &'a Step, String),
    /// A step was not done; `Applier::run_on` goes on, `Applier::run` ends.
    Failed(Phase, &'a Step, &'a Error),
    /// A step waits: what for, for how long already, and how long it will at most. Comes several times a second.
    Waiting(&'a str, Duration, Duration),
    /// Something of a step is done: an image was copied, and how long that took.
    Part(&'a str, Duration),
    /// The node's unit was started; when its parts were there.
    Started(Timings),
    /// The program of a step printed that it begins with this part: kubeadm's `certs`.
    Heard(&'a str),
}

/// How many steps did what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps that changed something.
    pub done: usize,
    /// Steps that held.
    pub held: usize,
    /// Steps left out on purpose.
    pub skipped: usize,
}

/// How one step ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Held,
    Done,
    Skipped(String),
}

/// Root's hands.
pub struct Applier<'a> {
    user: String,
    undo: Undo,
    tell: &'a mut dyn FnMut(Event<'_>),
    /// A program that makes or joins the cluster came to its end just now: what follows it is not there yet.
    fresh: bool,
    /// The plan is a reset's: a node that cannot be entered is taken away all the same.
    resets: bool,
    join_commands: Vec<JoinCommand>,
}

impl std::fmt::Debug for Applier<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Applier").field("user", &self.user).finish_non_exhaustive()
    }
}

impl<'a> Applier<'a> {
    /// For the node of `user`; `tell` hears of everything that happens.
    ///
    /// The process must have one thread only when it applies steps of the node's user: they are done by a copy of it.
    ///
    /// # Errors
    /// Those of [`Undo::open`].
    pub fn new(user: &str, tell: &'a mut dyn FnMut(Event<'_>)) -> Result<Self, Error> {
        let user = user.to_owned();
        Ok(Self { user, undo: Undo::open()?, tell, fresh: false, resets: false, join_commands: Vec::new() })
    }

    /// Keeps former values in another book, for tests and for hosts seen from elsewhere.
    ///
    /// # Errors
    /// Those of [`Undo::open`].
    pub fn keeping(self, book: &Path) -> Result<Self, Error> {
        Ok(Self { undo: Undo::open_at(book)?, ..self })
    }

    /// The commands for other nodes that kubeadm printed while plans were applied. They hold a token.
    #[must_use]
    pub fn into_join_commands(self) -> Vec<JoinCommand> {
        self.join_commands
    }

    /// Applies phases in order and ends at the first step that fails.
    ///
    /// # Errors
    /// `Step`, which names the step and holds the cause.
    pub fn run<'p>(&mut self, phases: impl IntoIterator<Item = &'p PhaseSteps>) -> Result<Tally, Error> {
        let mut tally = Tally::default();
        for phase in phases {
            failpoint(Border::Before, phase.phase);
            (self.tell)(Event::Phase(phase.phase));
            for step in &phase.steps {
                self.step(phase.phase, step, &mut tally)?;
            }
            failpoint(Border::After, phase.phase);
        }
        Ok(tally)
    }

    /// Applies phases in order, goes on after errors and collects them: for reset. A signal that asked this process to end
    /// is obeyed.
    ///
    /// Only a barrier ends it ([`Action::is_barrier`]): while something of the node lives, nothing is taken away that holds it.
    ///
    /// Shape: the errors are `Step`, in the order of the steps.
    pub fn run_on<'p>(&mut self, phases: impl IntoIterator<Item = &'p PhaseSteps>) -> (Tally, Vec<Error>) {
        self.resets = true;
        let mut tally = Tally::default();
        let mut errors = Vec::new();
        for phase in phases {
            failpoint(Border::Before, phase.phase);
            (self.tell)(Event::Phase(phase.phase));
            for step in &phase.steps {
                let failed = self.step(phase.phase, step, &mut tally).err();
                let interrupted = failed.as_ref().and_then(Error::interrupted).is_some();
                let stands = failed.is_some() && step.action.is_barrier();
                errors.extend(failed);
                if interrupted || stands {
                    return (tally, errors);
                }
            }
            failpoint(Border::After, phase.phase);
        }
        (tally, errors)
    }

    fn step(&mut self, phase: Phase, step: &Step, tally: &mut Tally) -> Result<(), Error> {
        let began = Instant::now();
        if slow(&step.action) {
            (self.tell)(Event::Begins(phase, step));
        }
        match self.act(step) {
            Ok(Ended::Held) => {
                tally.held += 1;
                (self.tell)(Event::Held(phase, step));
            }
            Ok(Ended::Done) => {
                tally.done += 1;
                (self.tell)(Event::Done(phase, step, began.elapsed()));
            }
            Ok(Ended::Skipped(why)) => {
                tally.skipped += 1;
                (self.tell)(Event::Skipped(phase, step, why));
            }
            Err(error) if self.resets && step.realm == Realm::Inside && is_out_of_reach(&error) => {
                tally.skipped += 1;
                let why = format!(
                    "{}; the cluster does not hear that this node leaves: on another control plane, kubectl delete node, and for etcd \
                     etcdctl member remove",
                    whole(&error)
                );
                (self.tell)(Event::Skipped(phase, step, why));
            }
            Err(error) => {
                (self.tell)(Event::Failed(phase, step, &error));
                let step = format!("{}: {}", step.realm, step.action);
                return Err(Error::Step { phase, step, source: Box::new(error) });
            }
        }
        Ok(())
    }

    fn act(&mut self, step: &Step) -> Result<Ended, Error> {
        let realm = step.realm;
        match &step.action {
            Action::CreateUser { name, home } => self.create_user(name, home),
            Action::AddSubids { user, count } => self.add_subids(user, *count),
            Action::LoadModule { name } => host::load_module(name),
            Action::SetSysctl { key, value } => self.set_sysctl(key, value),
            Action::SetDeviceMode { path, mode } => self.set_device_mode(path, *mode),
            Action::LoadFirewall { table } => firewall::load(table),
            Action::RemoveFirewall => firewall::remove(),
            Action::MakeDir { path, mode, owner, fit } => {
                let rights = self.rights(owner, *mode)?;
                self.make_dir(realm, path, rights, *fit)
            }
            Action::WriteFile { path, mode, owner, text } => {
                let rights = self.rights(owner, *mode)?;
                self.write_file(realm, path, rights, text.as_bytes())
            }
            Action::Keep { path, mode, owner, text } => {
                let rights = self.rights(owner, *mode)?;
                self.keep_file(realm, path, rights, text.as_deref())
            }
            Action::RemoveFile { path } => self.remove_file(realm, path),
            Action::RemoveTree { path, keep_root } => self.remove_tree(realm, path, *keep_root),
            Action::Sync { paths, seconds } => host::sync(paths, Duration::from_secs(*seconds)),
            Action::StartUnit { unit, follows, seconds } => self.start_unit(unit, follows, *seconds),
            Action::StopUnit { unit, seconds } => self.stop_unit(unit, *seconds),
            Action::EndSessions { user, seconds } => self.end_sessions(user, *seconds),
            Action::RemoveOwned { user, dirs } => self.remove_owned(user, dirs),
            Action::EndProcesses { user, seconds } => self.end_processes(user, *seconds),
            Action::Unmount { user, path } => self.unmount(user, path),
            Action::ClearDir { path, names } => self.clear_dir(path, names),
            Action::EnableUnit { unit } => units::enable(unit),
            Action::DisableUnit { unit } => units::disable(unit),
            Action::EnableComponent { component, enabled } => self.enable_component(*component, *enabled),
            Action::LoadImages { source } => self.load_images(source),
            Action::Run { argv, config, documents, secrets, done_when, seconds } => {
                let carried = config.iter().chain(documents).collect();
                let limit = Duration::from_secs(*seconds);
                let ended = self.run_inside(argv, carried, done_when.as_ref(), limit);
                let left =
                    secrets.iter().filter_map(|path| self.remove_file(Realm::User, path).err()).collect();
                both(ended, left)
            }
            Action::LeaveEtcd => self.leave_etcd(),
            Action::PublishKubeconfig { source, path, owner } => self.publish(realm, source, path, owner),
            Action::UnpublishKubeconfig { path, .. } => self.unpublish(realm, path),
            Action::RestoreHost => self.restore_host(),
        }
    }

    /// Ids and mode of something that is to be written.
    fn rights(&self, owner: &Owner, mode: u32) -> Result<Rights, Error> {
        let (uid, gid) = own();
        Ok(match owner {
            Owner::Root => Rights { uid, gid, mode },
            Owner::RootForNode => Rights { uid, gid: self.user()?.gid, mode },
            Owner::Node => self.user().map(|user| Rights { uid: user.uid, gid: user.gid, mode })?,
        })
    }

    fn user(&self) -> Result<UserFact, Error> {
        probe::user(&self.user).ok_or_else(|| Error::NoUser { name: self.user.clone() })
    }

    /// Does `work` with the rights of the realm.
    fn as_realm(&self, realm: Realm, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        match realm {
            Realm::Root => work(),
            Realm::User | Realm::Inside => {
                let user = self.user()?;
                let worked = as_user(&user, AS_USER, || work().map_err(|error| whole(&error)))?;
                worked.map_err(|reason| Error::AsUser { uid: user.uid, reason })
            }
        }
    }

    /// Tells of a wait.
    fn waiting(&mut self, what: &str, began: Instant, limit: Duration) {
        (self.tell)(Event::Waiting(what, began.elapsed(), limit));
    }
}

/// Whether nothing can be run inside: the supervisor does not answer, or what it says leads nowhere.
fn is_out_of_reach(error: &Error) -> bool {
    use crate::enter::Error as Enter;
    matches!(
        error,
        Error::Control(_) | Error::Enter(Enter::Control(_) | Enter::NotOurs { .. } | Enter::Look { .. })
    )
}

/// How a program ended, and what it left behind that could not be removed: neither hides the other.
fn both(ended: Result<Ended, Error>, mut left: Vec<Error>) -> Result<Ended, Error> {
    match ended {
        Err(source) if !left.is_empty() => Err(Error::Left { left, source: Box::new(source) }),
        Ok(_) if left.len() > 1 => Err(Error::Several { errors: left }),
        ended => left.pop().map_or(ended, Err),
    }
}

/// Whether a step is announced before it ends.
fn slow(action: &Action) -> bool {
    matches!(
        action,
        Action::StartUnit { .. }
            | Action::StopUnit { .. }
            | Action::EndSessions { .. }
            | Action::EndProcesses { .. }
            | Action::LoadImages { .. }
            | Action::Run { .. }
            | Action::Sync { .. }
    )
}

/// How long a child that dropped to the node's user may take: the user could stop it.
const AS_USER: Duration = Duration::from_secs(120);

/// uid and gid that stand for root: this process' own.
fn own() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

#[cfg(test)]
mod tests;
