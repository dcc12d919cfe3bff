//! Runs a program as the node's user: inside the node's namespaces, or on the host without any right.
//!
//! The caller is root, or the node's user. Root is gone before anything is looked up in a mount namespace that the
//! user controls (S48); the terminal of the caller is never shared, a new one stands in for it (S11); no descriptor but
//! those meant is there (S10); the environment is an allow-list (S8).

mod clock;
mod environment;
mod error;
mod files;
mod outputs;
mod relay;
mod shown;
mod signals;
mod target;
mod terminal;
mod user;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use u7s_plan::printable::Stream;
use u7s_sys::enter::{self as way, Ids, Program, Substitute, Way, drop_for_good};

pub use self::environment::{Environment, PATH};
pub use self::error::Error;
pub use self::files::{MAX_FILE, read_argument};
pub use self::outputs::Kept;
use self::relay::{Listener, Relay, Streams};
pub use self::shown::{Lines, Shown};
pub use self::target::{Target, inside};
pub(crate) use self::user::as_author;
pub use self::user::{as_user, within};
#[cfg(feature = "fuzzing")]
pub use self::{
    environment::fuzz as fuzz_variable, outputs::fuzz as fuzz_name, target::fuzz as fuzz_process,
};
pub use crate::files::{Author, is_own_descriptor};

/// A program to run.
///
/// Standard input, output and error are the caller's unless said otherwise. Descriptors that are terminals are
/// replaced by one new terminal; pipes and files are passed as they are.
#[derive(Debug)]
pub struct Entry<'a> {
    place: Place<'a>,
    argv: Vec<OsString>,
    environment: Environment,
    directory: PathBuf,
    input: Input,
    output: Output,
    shown: Shown,
    carried: Vec<OwnedFd>,
    substitutes: Vec<Substitute>,
    copies: Vec<files::Copied>,
    documents: Vec<outputs::Document>,
    trees: Vec<outputs::Tree>,
    deadline: Option<Duration>,
}

#[derive(Debug)]
enum Place<'a> {
    Inside(&'a Target),
    Host(Ids),
}

/// Standard input of an entered program.
#[derive(Debug)]
pub enum Input {
    /// The caller's.
    Inherit,
    /// Nothing.
    Null,
    /// This file.
    File(OwnedFd),
}

/// Standard output and error of an entered program.
#[derive(Debug, Clone, Copy)]
pub enum Output {
    /// The caller's.
    Inherit,
    /// Nowhere.
    Null,
    /// Each kept up to so many bytes; what comes after is read and thrown away.
    Capture(usize),
}

/// How a program ended and what was captured of it.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: Status,
    /// Captured standard output.
    pub stdout: Vec<u8>,
    /// Captured standard error.
    pub stderr: Vec<u8>,
    /// It wrote more than was kept.
    pub truncated: bool,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this status, 0 to 255.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl Status {
    /// Status 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(out, "exit status {code}"),
            Self::Signaled(signal) => write!(out, "signal {signal}"),
        }
    }
}

impl<'a> Entry<'a> {
    /// A program inside the node. `argv[0]` is absolute there, or looked for in [`PATH`] there.
    pub fn inside<S: Into<OsString>>(target: &'a Target, argv: impl IntoIterator<Item = S>) -> Self {
        Self::new(Place::Inside(target), argv, Environment::inside(std::env::vars_os()))
    }

    /// A program on the host, as a user without rights.
    pub fn on_host<S: Into<OsString>>(uid: u32, gid: u32, argv: impl IntoIterator<Item = S>) -> Self {
        Self::new(Place::Host(Ids { uid, gid }), argv, Environment::unprivileged(std::env::vars_os()))
    }

    fn new<S: Into<OsString>>(
        place: Place<'a>,
        argv: impl IntoIterator<Item = S>,
        environment: Environment,
    ) -> Self {
        Self {
            place,
            argv: argv.into_iter().map(Into::into).collect(),
            environment,
            directory: std::env::current_dir().unwrap_or_else(|_| "/".into()),
            input: Input::Inherit,
            output: Output::Inherit,
            shown: Shown::default(),
            carried: Vec::new(),
            substitutes: Vec::new(),
            copies: Vec::new(),
            documents: Vec::new(),
            trees: Vec::new(),
            deadline: None,
        }
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment = self.environment.with(name, value);
        self
    }

    /// The working directory, in place of the caller's; `/` where it cannot be entered.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Standard input.
    #[must_use]
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Standard output and error.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// How what it writes is shown to the caller.
    #[must_use]
    pub fn shown(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }

    /// After this time the program is killed with its group; the way to its execution has as much at most, and
    /// [`u7s_sys::enter::PATIENCE`].
    ///
    /// It makes the program a part of what the caller does: a signal that asks the caller to end ends both.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Hands a document to the program in a sealed memory file and returns the path that means it there.
    ///
    /// # Errors
    /// `Sys`: no memory file.
    pub fn carry(&mut self, name: &str, document: &[u8]) -> Result<PathBuf, Error> {
        let Ids { uid, gid } = self.ids();
        let reader = u7s_sys::memfd::Reader { uid, gid };
        self.carried.push(u7s_sys::memfd::sealed(name, document, reader)?);
        Ok(format!("/proc/self/fd/{}", self.last_descriptor()).into())
    }

    /// Says that `argv[index]` is `prefix` and then the name of a file to read, relative to the caller's directory.
    ///
    /// # Errors
    /// `File`, `TooLarge`, `Silent`, `Link`: it is there and cannot be carried.
    pub fn file(&mut self, index: usize, prefix: &str, path: &Path) -> Result<(), Error> {
        let Some(carried) = files::carry(path, self.ids())? else { return Ok(()) };
        self.carried.push(carried.content);
        let descriptor = self.last_descriptor();
        self.substitutes.push(Substitute {
            index,
            path: text(path.as_os_str())?,
            identity: carried.identity,
            instead: text(OsStr::new(&format!("{prefix}/proc/self/fd/{descriptor}")))?,
            descriptor: Some(descriptor),
        });
        Ok(())
    }

    /// Says that `argv[index]` is `prefix` and then the name of a directory whose files are read.
    ///
    /// # Errors
    /// As [`Entry::file`], and `Child`: the user could not be given a copy.
    pub fn directory_argument(&mut self, index: usize, prefix: &str, path: &Path) -> Result<(), Error> {
        let Some(copied) = files::copy(path, Author::Root, &[], self.ids())? else { return Ok(()) };
        let instead: OsString = [OsStr::new(prefix), copied.path.as_os_str()].into_iter().collect();
        let (path, instead) = (text(path.as_os_str())?, text(&instead)?);
        self.substitutes.push(Substitute {
            index,
            path,
            identity: copied.identity,
            instead,
            descriptor: None,
        });
        self.copies.push(copied);
        Ok(())
    }

    /// Copies the directory that `path` names here, and of `others` the files of ours, to where the program reads them.
    ///
    /// The copy goes with this value. `None`: `path` is no directory here. `author` is whose word `path` is.
    ///
    /// # Errors
    /// As [`Entry::directory_argument`]; `Foreign`: `path` is read as the user, who cannot.
    pub fn copied(&mut self, path: &Path, author: Author, others: &Path) -> Result<Option<PathBuf>, Error> {
        let copied = files::copy(path, author, &[others], self.ids())?;
        let place = copied.as_ref().map(|copied| copied.path.clone());
        self.copies.extend(copied);
        Ok(place)
    }

    /// Puts another text in the place of `argv[index]`.
    pub fn argument(&mut self, index: usize, text: impl Into<OsString>) {
        if let Some(argument) = self.argv.get_mut(index) {
            *argument = text.into();
        }
    }

    /// Says that `argv[index]` is `prefix` and then the name of a file to write.
    ///
    /// The program writes into a memory file. Once it has ended, whatever its status, that goes to `path`, relative to the
    /// caller's directory, with the caller's rights; a file into which nothing was written is not made.
    ///
    /// # Errors
    /// `Sys`: no memory file. `File`: there is no current directory.
    pub fn output_file(&mut self, index: usize, prefix: &str, path: &Path) -> Result<(), Error> {
        let (document, descriptor) = outputs::Document::new(path, self.ids())?;
        self.carried.push(descriptor);
        self.documents.push(document);
        let instead = format!("{prefix}/proc/self/fd/{}", self.last_descriptor());
        self.replace(index, path, OsStr::new(&instead), Some(self.last_descriptor()))
    }

    /// Says that `argv[index]` is `prefix` and then the name of a directory in which files of kubeadm's names are read and
    /// written; those that the program makes or changes there go to `path` once it has ended.
    ///
    /// # Errors
    /// `File`, `Link`: it cannot be read; `Child`: the user could not be given a copy.
    pub fn output_directory(
        &mut self,
        index: usize,
        prefix: &str,
        (path, kept): (&Path, Kept),
    ) -> Result<(), Error> {
        let Some(tree) = outputs::Tree::new(path, kept, self.ids())? else { return Ok(()) };
        let instead: OsString = [OsStr::new(prefix), tree.staged.as_os_str()].into_iter().collect();
        self.trees.push(tree);
        self.replace(index, path, &instead, None)
    }

    /// Whatever the name means inside, `instead` takes its place.
    fn replace(
        &mut self,
        index: usize,
        path: &Path,
        instead: &OsStr,
        descriptor: Option<RawFd>,
    ) -> Result<(), Error> {
        let (path, instead) = (text(path.as_os_str())?, text(instead)?);
        let identity = (u64::MAX, u64::MAX);
        self.substitutes.push(Substitute { index, path, identity, instead, descriptor });
        Ok(())
    }

    /// Runs it to its end.
    ///
    /// INT, TERM, HUP, QUIT, USR1 and USR2 that reach this process meanwhile go on to the program. On its way to
    /// execution they end it. One that asks this process to end is obeyed: a program without deadline that shows its
    /// output to the caller may understand it in its own way, but has 30 s to obey SIGTERM, and no time after a second
    /// one; of any other the caller gets `Interrupted`, or this process ends by the signal where the output was kept.
    ///
    /// # Errors
    /// `Start`: it could not be executed, the stage says where. `Deadline`, `Watch`, `Cgroup`, `Argument`.
    /// `Interrupted`: see above. `LeftBehind`: it waits for a file that does not answer, and cannot be killed.
    /// `Deliver`: it has ended, and what it wrote for the caller cannot be put in place.
    pub fn run(self) -> Result<Ended, Error> {
        self.followed(None)
    }

    /// As [`Entry::run`]; `heard` gets what the program writes to its standard output, as it passes by or is kept.
    ///
    /// Bytes go on in order, and unchanged unless [`Entry::shown`] says otherwise. A reader that goes away is gone for the program too.
    ///
    /// # Errors
    /// As [`Entry::run`].
    pub fn run_heard(self, heard: &mut dyn FnMut(&[u8])) -> Result<Ended, Error> {
        self.followed(Some(heard))
    }

    fn followed(mut self, heard: Option<Listener<'_>>) -> Result<Ended, Error> {
        let name = self.name();
        let patience = self.deadline.map_or(way::PATIENCE, |deadline| deadline.min(way::PATIENCE));
        let (cgroup, way) = self.way()?;
        let way = Way { cgroup: cgroup.as_ref().map(AsFd::as_fd), ..way };
        let mut streams = Streams::new(&self.input, self.output, self.reader())?;
        streams.show(self.shown.clone());
        if heard.is_some() {
            streams.pass_by_us()?;
        }
        let relay = Relay::begin(streams, self.output, name)?;
        let argv = texts(&self.argv)?;
        let env = self.variables()?;
        let directory = text(self.directory.as_os_str())?;
        let mut descriptors: Vec<BorrowedFd<'_>> = relay.descriptors().to_vec();
        descriptors.extend(self.carried.iter().map(AsFd::as_fd));
        let program = Program {
            candidates: &self.candidates()?,
            argv: &argv,
            env: &env,
            directory: &directory,
            descriptors: &descriptors,
            substitutes: &self.substitutes,
            terminal: relay.controlling(),
            mask: relay.former_mask(),
            patience,
            interrupt: Some(relay.interrupt()),
        };
        let started = match way::start(&program, &way) {
            Ok(started) => started,
            Err(failure) => return Err(relay.give_up(failure)),
        };
        drop(descriptors);
        let ended = relay.follow(&started, self.deadline, heard)?;
        std::mem::take(&mut self.documents).into_iter().try_for_each(outputs::Document::deliver)?;
        self.trees.iter().try_for_each(outputs::Tree::deliver)?;
        Ok(ended)
    }

    /// Where the child goes. Only root can put it into a cgroup, and only root has something to drop.
    fn way(&self) -> Result<(Option<OwnedFd>, Way<'_>), Error> {
        let privileged = geteuid().is_root();
        let user = (privileged || geteuid().as_raw() != self.ids().uid).then_some(self.ids());
        match self.place {
            Place::Inside(target) => {
                let cgroup = if privileged { Some(target.procs()?) } else { None };
                // Anybody else has no limits but the node's own.
                let limits = if privileged { target.limits() } else { &[] };
                Ok((cgroup, Way { cgroup: None, user, namespaces: Some(target.process()), limits }))
            }
            Place::Host(_) => Ok((None, Way { user, ..Way::default() })),
        }
    }

    fn ids(&self) -> Ids {
        match self.place {
            Place::Inside(target) => target.ids(),
            Place::Host(ids) => ids,
        }
    }

    /// Who must be able to open the new terminal by its path.
    fn reader(&self) -> u32 {
        self.ids().uid
    }

    fn last_descriptor(&self) -> RawFd {
        RawFd::try_from(2 + self.carried.len()).unwrap_or(RawFd::MAX)
    }

    fn name(&self) -> String {
        self.argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn candidates(&self) -> Result<Vec<CString>, Error> {
        let search =
            self.environment.iter().find(|(name, _)| *name == "PATH").map(|(_, value)| value.to_owned());
        candidates(self.argv.first().map(OsString::as_os_str), &search.unwrap_or_default())
    }

    fn variables(&self) -> Result<Vec<CString>, Error> {
        self.environment.iter().map(|(name, value)| joined(&[name, OsStr::new("="), value])).collect()
    }
}

/// The effective uid of this process.
#[must_use]
pub fn effective_uid() -> u32 {
    geteuid().as_raw()
}

/// Becomes a program right here, with the caller's rights and the allow-listed environment: for a caller who is already
/// inside, or who has no rights that could be dropped. Returns only if it failed.
pub fn exec_here<S: Into<OsString>>(
    program: &Path,
    argv: impl IntoIterator<Item = S>,
    environment: &Environment,
) -> Error {
    let mut command = std::process::Command::new(program);
    command.args(argv.into_iter().map(Into::into)).env_clear().envs(environment.iter());
    let source = command.exec();
    Error::Watch { program: program.display().to_string(), source }
}

/// Runs a program right here, as [`exec_here`], and shows what it writes to standard output as text ([`Shown::Text`] of a terminal).
///
/// # Errors
/// `Watch`: it could not be started or followed.
pub fn run_here<S: Into<OsString>>(
    program: &Path,
    argv: impl IntoIterator<Item = S>,
    environment: &Environment,
) -> Result<Status, Error> {
    let failed = |source| Error::Watch { program: program.display().to_string(), source };
    let mut command = std::process::Command::new(program);
    command.args(argv.into_iter().map(Into::into)).env_clear().envs(environment.iter());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut from) = child.stdout.take() {
        // A reader that is gone is gone for the program too.
        let _ = copy_text(&mut from, &mut std::io::stdout().lock());
    }
    let status = child.wait().map_err(failed)?;
    let signal = || Status::Signaled(status.signal().unwrap_or_default());
    Ok(status.code().map_or_else(signal, Status::Exited))
}

fn copy_text(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut stream = Stream::default();
    let mut chunk = [0; 8192];
    loop {
        let count = match from.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let text =
            if count == 0 { stream.end() } else { stream.take(chunk.get(..count).unwrap_or_default()) };
        to.write_all(text.as_bytes()).and_then(|()| to.flush())?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// Gives up all rights for good, then as [`exec_here`]; no descriptor but standard input, output and error goes along.
///
/// For programs of the host that only print. They share the caller's terminal, so they must not be the node's user's.
pub fn exec_as<S: Into<OsString>>(
    uid: u32,
    gid: u32,
    program: &Path,
    argv: impl IntoIterator<Item = S>,
    environment: &Environment,
) -> Error {
    if let Err(error) = u7s_sys::fork::close_all_on_exec() {
        return error.into();
    }
    let renounced = drop_for_good(Ids { uid, gid }).map_err(|(_, errno)| errno);
    if let Err(errno) = renounced.and_then(|()| nix::sys::prctl::set_no_new_privs()) {
        return Error::Watch { program: program.display().to_string(), source: errno.into() };
    }
    exec_here(program, argv, environment)
}

/// A name without slash is looked for in each directory of `search`.
fn candidates(name: Option<&OsStr>, search: &OsStr) -> Result<Vec<CString>, Error> {
    let name =
        name.filter(|name| !name.is_empty()).ok_or(Error::Argument { what: "an empty program name" })?;
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![text(name)?]);
    }
    std::env::split_paths(search).map(|dir| text(dir.join(name).as_os_str())).collect()
}

fn texts(list: &[OsString]) -> Result<Vec<CString>, Error> {
    list.iter().map(|one| text(one)).collect()
}

fn text(one: &OsStr) -> Result<CString, Error> {
    joined(&[one])
}

fn joined(parts: &[&OsStr]) -> Result<CString, Error> {
    let whole: OsString = parts.iter().copied().collect();
    CString::new(whole.into_vec()).map_err(|_| Error::Argument { what: "a text with a NUL byte" })
}

/// `/dev/null`, both ways.
fn nothing() -> Result<OwnedFd, Error> {
    let open = File::options().read(true).write(true).open("/dev/null");
    open.map(Into::into).map_err(|source| Error::Watch { program: "/dev/null".into(), source })
}
