//! Starts programs with exactly the environment, descriptors and signals that are meant.
//!
//! Until its exec the child works in the caller's memory (vfork): no page table is copied, and a failure is told by a
//! write. Between clone and exec only this file runs there; it calls the kernel and allocates nothing.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;

use crate::Error;
use crate::fork::close_range;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Program, absolute, and arguments.
    pub argv: &'a [String],
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// Its standard output.
    pub stdout: BorrowedFd<'a>,
    /// Its standard error.
    pub stderr: BorrowedFd<'a>,
    /// Further descriptors that it gets, under the numbers that they have here: nothing is moved onto a low one.
    pub inherited: &'a [BorrowedFd<'a>],
    /// A process (pidfd) in whose user namespace it shall live; none: in the caller's.
    pub user_namespace: Option<BorrowedFd<'a>>,
}

/// Starts a program in a session of its own; returns its pid and a pidfd. Reaping it is the caller's part.
///
/// The program gets standard input from /dev/null, no descriptor but the given ones, no blocked and no ignored signal.
///
/// # Errors
/// [`Error::Path`] names the program: ENOENT, it is missing; EACCES, it may not be executed.
/// [`Error::Call`]: what failed before. [`Error::Nul`]: an argument holds a NUL byte.
pub fn start(program: &Program<'_>) -> Result<(i32, OwnedFd), Error> {
    let name = program.argv.first().ok_or(Error::Answer { call: "execve", expected: "a program" })?;
    let argv = strings(program.argv.iter().cloned())?;
    let env = strings(program.env.iter().map(|(key, value)| format!("{key}={value}")))?;
    let (argv, env) = (pointers(&argv), pointers(&env));
    let mut launch = Launch { program, argv: &argv, env: &env, failure: None };
    let mut before = SigSet::empty();
    // A handler of ours must not run in the child, which has our memory.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .map_err(Error::call("sigprocmask"))?;
    let cloned = clone_sharing_memory(&mut launch);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(Error::call("sigprocmask"))?;
    let (pid, pidfd) = cloned?;
    match launch.failure.take() {
        None => Ok((pid, pidfd)),
        Some((call, errno)) => {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            Err(if call == EXEC { Error::path(call, name)(errno) } else { Error::call(call)(errno) })
        }
    }
}

const EXEC: &str = "execve";

/// Room for the child's frames, bytes; only touched pages cost.
const STACK: usize = 64 * 1024;

type Failure = (&'static str, Errno);

/// What the child finds in our memory.
struct Launch<'a> {
    program: &'a Program<'a>,
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    failure: Option<Failure>,
}

/// Returns once the child has called exec or ended.
fn clone_sharing_memory(launch: &mut Launch<'_>) -> Result<(i32, OwnedFd), Error> {
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let flags = (CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK).bits() | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: the child runs `enter` on `stack`, which grows down from `top` (aligned as u128 is), while CLONE_VFORK
    // holds this thread; `launch`, `stack` and `pidfd` outlive that. All signals are blocked, so nothing else of this
    // program runs in the child. Other threads may run: the child takes no lock and does not allocate.
    let answer = unsafe {
        libc::clone(
            enter,
            top.cast(),
            flags,
            std::ptr::from_mut(launch).cast(),
            std::ptr::from_mut(&mut pidfd),
        )
    };
    let pid = Errno::result(answer).map_err(Error::call("clone"))?;
    // SAFETY: with CLONE_PIDFD a successful clone stored a new descriptor that nobody else owns.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

extern "C" fn enter(launch: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `clone_sharing_memory` passed a pointer to its Launch, which nobody else uses until this process is gone.
    let launch = unsafe { &mut *launch.cast::<Launch<'_>>() };
    launch.failure = Some(become_program(launch));
    // SAFETY: _exit has no condition; it runs nothing of the memory that is shared.
    unsafe { libc::_exit(127) }
}

/// Comes back only if it failed.
fn become_program(launch: &Launch<'_>) -> Failure {
    if let Err(failure) = prepare(launch.program) {
        return failure;
    }
    // SAFETY: both lists end with a null and hold pointers to C strings of the caller, who waits for us.
    unsafe { libc::execve(launch.argv[0], launch.argv.as_ptr(), launch.env.as_ptr()) };
    (EXEC, Errno::last())
}

fn prepare(program: &Program<'_>) -> Result<(), Failure> {
    if let Some(process) = program.user_namespace {
        nix::sched::setns(process, CloneFlags::CLONE_NEWUSER).map_err(at("setns"))?;
    }
    nix::unistd::setsid().map_err(at("setsid"))?;
    nix::unistd::chdir(c"/").map_err(at("chdir"))?;
    let null = nix::fcntl::open(c"/dev/null", OFlag::O_RDONLY, Mode::empty()).map_err(at("open"))?;
    nix::unistd::dup2_stdin(&null).map_err(at("dup2"))?;
    nix::unistd::dup2_stdout(program.stdout).map_err(at("dup2"))?;
    nix::unistd::dup2_stderr(program.stderr).map_err(at("dup2"))?;
    // Marked, not closed: they are the caller's, who has them in values.
    close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
        .map_err(|error| ("close_range", error.errno().unwrap_or(Errno::UnknownErrno)))?;
    for descriptor in program.inherited {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map_err(at("fcntl"))?;
    }
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition; the kernel refuses it for KILL and STOP, which is no matter.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(at("sigprocmask"))
}

fn at(call: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| (call, errno)
}

fn strings(texts: impl Iterator<Item = String>) -> Result<Vec<CString>, Error> {
    texts.map(|text| CString::new(text).map_err(|_| Error::Nul { what: "an argument" })).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;

    fn run(
        argv: &[String],
        env: &BTreeMap<String, String>,
        output: std::io::PipeWriter,
        inherited: &[BorrowedFd<'_>],
    ) -> Result<(i32, OwnedFd), Error> {
        let (stdout, stderr) = (output.as_fd(), output.as_fd());
        start(&Program { argv, env, stdout, stderr, inherited, user_namespace: None })
    }

    fn output_of(argv: &[&str], env: &[(&str, &str)]) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
        let env = env.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        run(&argv, &env, writer, &[]).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_program_sees_only_the_given_environment() {
        assert_eq!(output_of(&["/usr/bin/env"], &[("A", "1")]), "A=1\n");
    }

    #[test]
    fn a_program_has_no_other_descriptor_and_a_session_of_its_own() {
        let _inheritable = {
            let file = std::fs::File::open("/dev/null").unwrap();
            fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            file
        };
        // The fourth one is ls's own, on the directory that it lists: the lowest number was free.
        assert_eq!(output_of(&["/bin/ls", "/proc/self/fd"], &[]), "0\n1\n2\n3\n");
        let stat = output_of(&["/bin/cat", "/proc/self/stat"], &[]);
        let fields: Vec<&str> = stat.split(' ').collect();
        assert_eq!(fields[0], fields[5], "pid and session: {stat}");
    }

    #[test]
    fn a_program_has_no_signal_blocked_or_ignored() {
        let text = output_of(&["/bin/grep", "-E", "SigBlk|SigIgn", "/proc/self/status"], &[]);
        for line in text.lines() {
            let (_, mask) = line.split_once('\t').unwrap();
            // 32 and 33 belong to the C library, which lets nobody set them.
            let mask = u64::from_str_radix(mask, 16).unwrap() & !(0b11 << 31);
            assert_eq!(mask, 0, "{line}");
        }
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn a_missing_program_is_named() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let error = run(&["/nonexistent/crio".to_owned()], &BTreeMap::new(), writer, &[]).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.errno()),
            ("execve /nonexistent/crio", Some(Errno::ENOENT))
        );
    }

    #[test]
    fn a_program_has_the_descriptors_that_it_shall_inherit_under_their_numbers() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let given = std::fs::File::open("/etc/passwd").unwrap();
        let argv = ["/bin/readlink".to_owned(), format!("/proc/self/fd/{}", given.as_raw_fd())];
        run(&argv, &BTreeMap::new(), writer, &[given.as_fd()]).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "/etc/passwd\n");
    }

    #[test]
    fn the_pidfd_is_that_of_the_program_and_our_signal_mask_is_as_before() {
        let mask = SigSet::thread_get_mask().unwrap();
        let (_reader, writer) = std::io::pipe().unwrap();
        let argv = ["/bin/sleep".to_owned(), "60".to_owned()];
        let (pid, pidfd) = run(&argv, &BTreeMap::new(), writer, &[]).unwrap();
        // We go on when exec has taken the child's memory away, a moment before it has its new name.
        let name = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while name() != "sleep\n" && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(name(), "sleep\n");
        crate::pidfd::signal(pidfd.as_fd(), Some(nix::sys::signal::Signal::SIGKILL)).unwrap();
        let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
        assert!(matches!(ended, nix::sys::wait::WaitStatus::Signaled(..)), "{ended:?}");
        assert_eq!(SigSet::thread_get_mask().unwrap(), mask);
    }
}
