//! A child that may drop to another user, join the namespaces of a process, and becomes a program.
//!
//! The order is the point: put into its cgroup while it may; every stray descriptor closed; ids dropped and the drop
//! verified; namespaces joined in one call; a second fork, since only children enter a pid namespace; session,
//! terminal, working directory; exec. Nothing is resolved inside the joined mount namespace before the drop.
//!
//! After the first fork only async-signal-safe calls are made and nothing is allocated, so threads do no harm.
//!
//! The last stretch walks paths that the user controls. A file system of his may never answer, and a process that waits
//! for one is not ended by SIGKILL: so the child says where it stands, and is left behind there when its time is over.

mod attributes;
mod child;
mod ids;
mod meet;

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{ForkResult, Pid};

pub use self::attributes::Limit;
use self::child::{Lines, Pointers};
pub use self::ids::{Ids, drop_for_good};
pub use self::meet::Fate;
use self::meet::meet;
use crate::Error;

/// What to start, and as what.
pub struct Program<'a> {
    /// Absolute paths tried in order until one can be executed; resolved after everything else.
    pub candidates: &'a [CString],
    /// Arguments, the program's name first.
    pub argv: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub env: &'a [CString],
    /// Working directory; `/` where it cannot be entered.
    pub directory: &'a CStr,
    /// Descriptors that become 0, 1, 2, …; at least three. All others are closed.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Arguments that are replaced unless they name the file that the caller meant.
    pub substitutes: &'a [Substitute],
    /// The new descriptor that becomes the controlling terminal of the child's session.
    pub terminal: Option<RawFd>,
    /// Signals blocked in the program.
    pub mask: SigSet,
    /// How long the child may take to become the program; see [`PATIENCE`].
    pub patience: Duration,
    /// Becomes readable when the program is not wanted any more.
    pub interrupt: Option<BorrowedFd<'a>>,
}

/// An argument that is a file's name, and what stands for it where that name means another file or none.
#[derive(Debug)]
pub struct Substitute {
    /// Index into `argv`.
    pub index: usize,
    /// The name alone, as it would be opened.
    pub path: CString,
    /// Device and inode of the file that is meant.
    pub identity: (u64, u64),
    /// The argument with another name in it.
    pub instead: CString,
    /// The new descriptor that carries the content, if one does; closed at exec when it is not needed.
    pub descriptor: Option<RawFd>,
}

/// Where the child goes before it becomes the program.
#[derive(Debug, Default)]
pub struct Way<'a> {
    /// An open `cgroup.procs` that the child writes itself into, with the rights it was opened with.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The user that it drops to for good; `None` where it already is that user.
    pub user: Option<Ids>,
    /// A process whose user, mount, pid, net, ipc, uts and cgroup namespaces it joins, becoming uid 0 in there.
    pub namespaces: Option<BorrowedFd<'a>>,
    /// Limits of the program; none may be higher than the caller's own. The caller's, where there are none.
    pub limits: &'a [Limit],
}

/// A started program. It dies (SIGKILL) with the thread that started it; reaping it is the caller's part.
#[derive(Debug)]
pub struct Started {
    /// As seen by the caller. It leads a session and a process group of its own.
    pub pid: Pid,
    /// The same process.
    pub pidfd: OwnedFd,
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Before there was a child.
    #[error(transparent)]
    Before(#[from] Error),
    /// In the child.
    #[error("{stage}")]
    Stage {
        /// Where.
        stage: Stage,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// The child went away without a word.
    #[error("the child was killed or stopped before it could become the program")]
    Lost,
    /// The child did not become the program in time.
    #[error("{stage}")]
    Late {
        /// Where it stood.
        stage: Stage,
        /// For how long it was waited, and what became of it.
        #[source]
        fate: Fate,
    },
    /// [`Program::interrupt`] became readable first.
    #[error("{stage}")]
    Interrupted {
        /// Where it stood.
        stage: Stage,
        /// What became of it.
        #[source]
        fate: Fate,
    },
}

/// How long a child may take to become its program: a file system may hang, and the user may stop a child that has
/// dropped to it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where a child stands on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Stage {
    /// Arranging descriptors.
    Descriptors = 1,
    /// Writing itself into the cgroup.
    Cgroup,
    /// Giving up root's keyring, priorities and login.
    Attributes,
    /// setgroups, setresgid, setresuid.
    Drop,
    /// Proving that the drop is for good.
    Verify,
    /// setns.
    Join,
    /// Becoming uid and gid 0 inside.
    Root,
    /// The second fork.
    Fork,
    /// Session, terminal, signals, limits.
    Session,
    /// chdir.
    Directory,
    /// Opening files that arguments name.
    Arguments,
    /// execve.
    Exec,
}

impl Stage {
    const ALL: [Self; 12] = [
        Self::Descriptors,
        Self::Cgroup,
        Self::Attributes,
        Self::Drop,
        Self::Verify,
        Self::Join,
        Self::Root,
        Self::Fork,
        Self::Session,
        Self::Directory,
        Self::Arguments,
        Self::Exec,
    ];

    fn of(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as i32 == number)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Descriptors => "arrange the descriptors of the child",
            Self::Cgroup => "put the child into its cgroup",
            Self::Attributes => "give up the caller's keyring and priority",
            Self::Drop => "drop to the user",
            Self::Verify => "prove that the privileges are gone for good",
            Self::Join => "join the namespaces",
            Self::Root => "become uid 0 inside",
            Self::Fork => "fork inside",
            Self::Session => "begin a session",
            Self::Directory => "enter the working directory",
            Self::Arguments => "look at the files that arguments name",
            Self::Exec => "execute the program",
        })
    }
}

/// Starts a program on the given way, and returns when it was executed.
///
/// # Errors
/// [`Failure::Stage`] names the stage; [`Stage::Exec`] with ENOENT: no candidate exists inside. [`Failure::Late`] after
/// the program's patience and [`Failure::Interrupted`] say whether the child is left behind.
pub fn start(program: &Program<'_>, way: &Way<'_>) -> Result<Started, Failure> {
    let pointers = Pointers::of(program);
    let (report, report_end) = pipe()?;
    let (go_end, go) = pipe()?;
    let lines = Lines { report: report_end.as_raw_fd(), go: go_end.as_raw_fd() };
    // SAFETY: until it exits or executes, the child makes only async-signal-safe calls and allocates nothing
    // (see the module's head), as fork(2) demands of a process that may have threads.
    match unsafe { nix::unistd::fork() }.map_err(Error::call("fork"))? {
        ForkResult::Child => child::run(program, way, pointers, lines),
        ForkResult::Parent { child } => {
            drop((report_end, go_end));
            meet(child, &report, go, program)
        }
    }
}

/// Ends this process by a signal as if nobody had caught it, without a core dump; returns if the signal is not deadly.
///
/// What ran a program on somebody's behalf ends as the program did, so that a shell sees the same.
pub fn end_by(signal: i32) {
    use nix::sys::resource::{Resource, setrlimit};
    let Ok(known) = Signal::try_from(signal) else { return };
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: SIG_DFL is a valid disposition of every signal; for KILL the kernel refuses it, which is no matter.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    let set: SigSet = [known].into_iter().collect();
    let _ = set.thread_unblock();
    let _ = kill(Pid::this(), known);
}

/// Whether this process ignores a signal: nohup(1), and background jobs of a shell.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: sigaction is a plain structure of numbers and pointers for which all zeroes is a valid value.
    let mut known: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action sigaction only stores the known one, into a structure of ours.
    let asked = unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut known) };
    asked == 0 && known.sa_sigaction == libc::SIG_IGN
}

/// Forks a copy of this process that runs `child` and exits with what it returns.
///
/// # Errors
/// [`Error::Answer`] where this process has more than one thread: the copy could then wait for ever on a lock that
/// a thread of the original held. [`Error::Call`]: fork failed.
pub fn fork_copy(child: impl FnOnce() -> i32) -> Result<Pid, Error> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Error::Answer { call: "fork", expected: "a process with one thread" });
    }
    // SAFETY: fork(2) restricts the child of a process with several threads only, and there is one.
    match unsafe { nix::unistd::fork() }.map_err(Error::call("fork"))? {
        ForkResult::Child => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: _exit never returns and runs no handler of the original process.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => Ok(child),
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(Error::call("pipe2"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    /// Starts `argv` without any way, standard output into a pipe, and returns how it ended and what it wrote.
    fn run(
        argv: &[&CStr],
        directory: &CStr,
        substitutes: &[Substitute],
    ) -> (Result<WaitStatus, Failure>, String) {
        let null = File::open("/dev/null").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let argv: Vec<CString> = argv.iter().map(|argument| CString::from(*argument)).collect();
        let program = Program {
            candidates: &[c"/nonexistent/program".into(), argv[0].clone()],
            argv: &argv,
            env: &[c"A=1".into()],
            directory,
            descriptors: &[null.as_fd(), writer.as_fd(), writer.as_fd()],
            substitutes,
            terminal: None,
            mask: SigSet::empty(),
            patience: Duration::from_secs(60),
            interrupt: None,
        };
        let ended = start(&program, &Way::default()).map(|started| waitpid(started.pid, None).unwrap());
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (ended, text)
    }

    fn exited(ended: Result<WaitStatus, Failure>) -> i32 {
        match ended {
            Ok(WaitStatus::Exited(_, code)) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_exit_status_is_the_programs_own() {
        assert_eq!(exited(run(&[c"/bin/sh", c"-c", c"exit 137"], c"/", &[]).0), 137);
    }

    #[test]
    fn a_fatal_signal_is_seen_as_such() {
        let (ended, _) = run(&[c"/bin/sh", c"-c", c"kill -TERM $$"], c"/", &[]);
        assert!(matches!(ended, Ok(WaitStatus::Signaled(_, Signal::SIGTERM, _))), "{ended:?}");
    }

    #[test]
    fn s10_only_the_given_descriptors_are_open() {
        let (ended, text) = run(&[c"/bin/sh", c"-c", c"ls /proc/$$/fd; env; pwd"], c"/usr", &[]);
        assert_eq!(exited(ended), 0);
        assert!(
            text.starts_with("0\n1\n2\n") && text.contains("\nA=1\n") && text.ends_with("/usr\n"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_directory_becomes_the_root() {
        assert_eq!(run(&[c"/bin/sh", c"-c", c"pwd"], c"/nonexistent", &[]).1, "/\n");
    }

    #[test]
    fn a_missing_program_names_the_stage() {
        match run(&[c"/nonexistent/too"], c"/", &[]).0 {
            Err(Failure::Stage { stage: Stage::Exec, source: Errno::ENOENT }) => {}
            other => panic!("{other:?}"),
        }
    }

    /// A directory of PATH over which a dead mount lies, one that is a link to itself, a name that is too long.
    #[test]
    fn whatever_ails_a_candidate_the_next_one_is_tried() {
        let dir = tempfile_dir();
        std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
        let long = format!("/{}", "x".repeat(300));
        let bad = [dir.join("loop/sh"), dir.join("file/sh"), long.into(), dir.join("file")];
        let bad = bad.map(|path| CString::new(path.into_os_string().into_encoded_bytes()).unwrap());
        let null = File::open("/dev/null").unwrap();
        let argv = [c"sh".into(), c"-c".into(), c"exit 5".into()];
        let tried = |candidates: &[CString]| {
            let program = Program {
                candidates,
                argv: &argv,
                env: &[],
                directory: c"/",
                descriptors: &[null.as_fd(), null.as_fd(), null.as_fd()],
                substitutes: &[],
                terminal: None,
                mask: SigSet::empty(),
                patience: Duration::from_secs(60),
                interrupt: None,
            };
            start(&program, &Way::default()).map(|started| waitpid(started.pid, None).unwrap())
        };
        for one in &bad {
            assert_eq!(exited(tried(&[one.clone(), c"/bin/sh".into()])), 5, "{one:?}");
        }
        let refused = |list: &[CString]| match tried(list) {
            Err(Failure::Stage { stage: Stage::Exec, source }) => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&[c"/none/sh".into(), bad[0].clone(), c"/none/sh".into()]), Errno::ELOOP);
        assert_eq!(refused(&bad), Errno::EACCES);
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn tempfile_dir() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("u7s-sys-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "reaped by what is tested")]
    fn a_child_that_stands_still_is_killed_and_its_stage_is_named() {
        let (reader, writer) = std::io::pipe().unwrap();
        let program = |patience, interrupt| Program {
            candidates: &[],
            argv: &[],
            env: &[],
            directory: c"/",
            descriptors: &[],
            substitutes: &[],
            terminal: None,
            mask: SigSet::empty(),
            patience,
            interrupt,
        };
        // Nobody says a word: both ends are ours.
        let silent = |program: &Program<'_>| {
            let (report, _kept) = pipe().unwrap();
            let child = std::process::Command::new("/bin/sleep").arg("600").spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            meet(pid, &report, pipe().unwrap().1, program).unwrap_err()
        };
        match silent(&program(Duration::from_millis(50), Some(reader.as_fd()))) {
            Failure::Late { stage: Stage::Descriptors, fate: Fate { left: false, .. } } => {}
            other => panic!("{other:?}"),
        }
        drop(writer);
        match silent(&program(Duration::from_secs(600), Some(reader.as_fd()))) {
            Failure::Interrupted { fate: Fate { left: false, .. }, .. } => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_signal_that_rust_ignores_is_not_ignored_by_the_program() {
        let ended = run(&[c"/bin/sh", c"-c", c"kill -PIPE $$"], c"/", &[]).0;
        assert!(matches!(ended, Ok(WaitStatus::Signaled(_, Signal::SIGPIPE, _))), "{ended:?}");
    }

    #[test]
    fn an_argument_is_replaced_only_where_it_names_another_file() {
        let found = std::fs::metadata("/etc/passwd").unwrap();
        let substitute = |inode| Substitute {
            index: 1,
            path: c"/etc/passwd".into(),
            identity: (found.dev(), inode),
            instead: c"replaced".into(),
            descriptor: None,
        };
        let argv = [c"/bin/echo", c"/etc/passwd"];
        assert_eq!(run(&argv, c"/", &[substitute(found.ino())]).1, "/etc/passwd\n");
        assert_eq!(run(&argv, c"/", &[substitute(found.ino() + 1)]).1, "replaced\n");
    }

    #[test]
    fn a_process_with_threads_is_not_copied() {
        let (done, hold) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || hold.recv());
        assert!(matches!(fork_copy(|| 0), Err(Error::Answer { call: "fork", .. })));
        drop(done);
        let _ = thread.join();
    }
}
