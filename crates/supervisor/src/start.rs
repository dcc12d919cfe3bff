//! Starts a component: its files are read inside, its output goes to the journal.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use crate::journal::Journal;
use crate::pid_one::PidOne;
use crate::service::{Process, Service};
use crate::{Error, environment, output};

/// The longest environment file that is read, bytes.
const FILE: u64 = 64 * 1024;

/// Starts the component's program; why it did not start is told to the service.
///
/// # Errors
/// [`Error::Deadline`]: pid 1 does not answer, and so the node is lost.
pub(crate) async fn start(
    service: &mut Service,
    pid_one: &PidOne,
    journal: &Arc<Journal>,
) -> Result<(), Error> {
    if let Some(needed) = &service.spec.needs_file
        && let Err(error) = pid_one.open(needed).await
    {
        let reason = format!("{} is not there yet", needed.display());
        service.not_startable(&reason);
        return if is_fatal(&error) { Err(error) } else { Ok(()) };
    }
    match try_start(service, pid_one, journal).await {
        Ok(process) => service.started(process),
        Err(error) if is_fatal(&error) => return Err(error),
        Err(error) => {
            let reason = crate::error::chain(&error);
            tracing::error!(component = service.name().as_str(), reason, "cannot be started");
            service.not_started(reason);
        }
    }
    Ok(())
}

/// Whether pid 1 is lost. What could merely not be sent to it, for its length or for want of room, is not of that kind:
/// environment files are written inside, and a node that dies of them would die again at each start.
fn is_fatal(error: &Error) -> bool {
    match error {
        Error::System { source, .. } => {
            !matches!(source.errno(), Some(Errno::EMSGSIZE | Errno::ETOOMANYREFS | Errno::ENOBUFS))
        }
        Error::Deadline { .. } | Error::Message { .. } => true,
        _ => false,
    }
}

async fn try_start(service: &Service, pid_one: &PidOne, journal: &Arc<Journal>) -> Result<Process, Error> {
    let mut texts = Vec::new();
    for path in &service.spec.env_files {
        texts.extend(read_inside(pid_one, path).await?);
    }
    let quotes = |error| Error::Io { what: "read environment files", source: io::Error::other(error) };
    let (argv, env) = environment::command_line(&service.spec, &texts).map_err(quotes)?;
    let stdout = output::pipe_to(journal, service.name().as_str())?;
    let stderr = stdout.try_clone().map_err(Error::io("make a pipe"))?;
    let (inside, pidfd) = pid_one.start(argv, env, [stdout, stderr]).await?;
    let host = pid_of(&pidfd, inside)?;
    Ok(Process { inside, host, pidfd, since: Instant::now() })
}

/// Text of a file inside; `None` if there is none.
pub(crate) async fn read_inside(pid_one: &PidOne, path: &Path) -> Result<Option<String>, Error> {
    let file = match pid_one.open(path).await {
        Ok(descriptor) => File::from(descriptor),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let read = || {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut text = String::new();
        (&file).take(FILE).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map(Some).map_err(Error::read(path))
}

/// Pid on the host of a process that is held by descriptor and has the pid `inside` in a pid namespace below ours.
///
/// Pid 1 may be in hostile hands and lend us ourselves, by a pidfd of the control socket's other end (SO_PEERPIDFD).
///
/// # Errors
/// [`Error::ReadFile`]: it is no process of the node.
///
/// Source: pidfd_open(2); kernel/fork.c, `pidfd_show_fdinfo`: `NSpid:` begins in the reader's pid namespace.
pub(crate) fn pid_of(process: &OwnedFd, inside: i32) -> Result<i32, Error> {
    let path = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let text = fs::read_to_string(&path).map_err(Error::read(&path))?;
    host_pid(&text, inside).ok_or_else(|| Error::read(path)(io::ErrorKind::InvalidData.into()))
}

fn host_pid(fdinfo: &str, inside: i32) -> Option<i32> {
    let pids = fdinfo.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let pids: Vec<i32> = pids.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    match pids[..] {
        [host, .., last] if host > 0 && last == inside => Some(host),
        _ => None,
    }
}

/// The fdinfo of a pidfd.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) {
    assert!(host_pid(text, 1).is_none_or(|pid| pid > 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_the_node_is_taken_for_one() {
        let own = i32::try_from(std::process::id()).unwrap();
        let held = u7s_sys::pidfd::open(own).unwrap();
        pid_of(&held, own).unwrap_err();
        let table = [
            ("Pid:\t700\nNSpid:\t700\t12\n", Some(700)),
            ("Pid:\t700\nNSpid:\t700\t13\n", None),
            ("Pid:\t12\nNSpid:\t12\n", None),
            ("Pid:\t0\nNSpid:\t0\n", None),
            ("Pid:\t-1\nNSpid:\t-1\t12\n", None),
            ("pos:\t0\n", None),
        ];
        for (fdinfo, expected) in table {
            assert_eq!(host_pid(fdinfo, 12), expected, "{fdinfo}");
        }
    }
}
