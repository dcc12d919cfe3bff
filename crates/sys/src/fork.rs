//! Starts programs with exactly the environment, descriptors and signals that are meant.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::Error;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Program, absolute, and arguments.
    pub argv: &'a [String],
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// Starts a program in a session of its own and returns its pid; reaping it is the caller's part.
///
/// The program gets standard input from /dev/null, no other descriptor, no blocked and no ignored signal.
///
/// # Errors
/// [`Error::Path`] names the program: ENOENT, it is missing; EACCES, it may not be executed.
pub fn start(program: Program<'_>) -> Result<i32, Error> {
    let missing = Error::Answer { call: "execve", expected: "a program" };
    let (name, arguments) = program.argv.split_first().ok_or(missing)?;
    let mut command = Command::new(name);
    command.args(arguments).env_clear().envs(program.env).current_dir("/");
    command.stdin(Stdio::null()).stdout(program.stdout).stderr(program.stderr);
    // SAFETY: between fork and exec a closure may only call async-signal-safe functions:
    // setsid, sigprocmask, signal and close_range are such, and none of them allocates.
    unsafe { command.pre_exec(detach) };
    let child = command.spawn().map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        Error::path("execve", name)(errno)
    })?;
    Ok(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Closes every descriptor of this process but standard input, output, error and `kept`.
///
/// Must only be called where no owner of another descriptor will ever be dropped: in a fresh copy of a process.
///
/// # Errors
/// [`Error::Call`]: close_range is missing (Linux < 5.9).
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX, 0)
}

fn detach() -> std::io::Result<()> {
    nix::unistd::setsid()?;
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition; the kernel refuses it for KILL and STOP, which is no matter.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
        .map_err(|error| error.errno().map_or_else(std::io::Error::last_os_error, Into::into))
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Error> {
    // SAFETY: close_range takes plain numbers; what it closes has no owner left, as `close_all_but` demands,
    // and with CLOSE_RANGE_CLOEXEC it closes nothing before exec.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(answer).map(drop).map_err(Error::call("close_range"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn output_of(argv: &[&str], env: &[(&str, &str)]) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
        let env = env.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let stderr = writer.try_clone().unwrap().into();
        start(Program { argv: &argv, env: &env, stdout: writer.into(), stderr }).unwrap();
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
            nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
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
        let stderr = writer.try_clone().unwrap().into();
        let argv = ["/nonexistent/crio".to_owned()];
        let program = Program { argv: &argv, env: &BTreeMap::new(), stdout: writer.into(), stderr };
        let error = start(program).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.errno()),
            ("execve /nonexistent/crio", Some(Errno::ENOENT))
        );
    }
}
