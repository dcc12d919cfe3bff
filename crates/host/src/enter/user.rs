//! Work on the host as the node's user: a forked child drops for good, does it, and hands its result over a pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use serde::{Serialize, de::DeserializeOwned};
use u7s_plan::facts::UserFact;
use u7s_sys::enter::{Ids, drop_for_good, fork_copy};
use u7s_sys::{fork, pidfd};

use super::error::Error;
use super::files::LOCAL;
use crate::error::chain;
use crate::files::Author;

/// The longest result that is read, bytes.
const MAX_RESULT: u64 = 1 << 20;

/// Runs `work` in a child that dropped to `user` for good, and returns what it returned.
///
/// The child has no descriptor but 0, 1, 2 and the result's pipe: `work` opens what it needs by itself, as the user.
/// It starts in `/` with umask 077 and must not start threads or print.
///
/// Must only be called while this process has one thread (no runtime with blocking tasks): the child is a copy.
///
/// # Errors
/// `Sys`: fork failed, or there are threads. `Child`: it was killed, or its result is larger than a MiB or no result.
/// `Deadline`: it was killed by us.
pub fn as_user<T: Serialize + DeserializeOwned>(
    user: &UserFact,
    deadline: Duration,
    work: impl FnOnce() -> T,
) -> Result<T, Error> {
    let failed = |reason: String| Error::Child { uid: user.uid, reason };
    let (reader, writer) = std::io::pipe().map_err(|error| failed(error.to_string()))?;
    let child = fork_copy(|| work_dropped(user, &File::from(std::os::fd::OwnedFd::from(writer)), work))?;
    let (answer, until) =
        (collect(child, File::from(std::os::fd::OwnedFd::from(reader)), deadline), deadline);
    match (answer, ended(child, deadline)) {
        (Err(Errno::ETIMEDOUT), _) => {
            Err(Error::Deadline { program: format!("work as uid {}", user.uid), seconds: until.as_secs() })
        }
        (Err(errno), _) => Err(failed(errno.to_string())),
        (Ok(bytes), Ok(WaitStatus::Exited(_, 0))) => {
            serde_json::from_slice(&bytes).map_err(|error| failed(format!("its answer is none: {error}")))
        }
        (Ok(bytes), _) => Err(failed(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

/// Does `work`, which reads what `path` names, with the rights that whoever named it has.
///
/// A name of somebody else's is followed as the node's `user`: else he could have root read any file and hand it to him.
/// A relative name means the caller's directory in both cases. What `work` gives may have at most a MiB then, as JSON.
///
/// # Errors
/// Those of `work`; `Foreign`: the user cannot read it.
pub(crate) fn as_author<T: Serialize + DeserializeOwned, E: std::error::Error + From<Error>>(
    author: Author,
    user: &UserFact,
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    if author == Author::Root || !geteuid().is_root() {
        return work(path);
    }
    let foreign = |reason| Error::Foreign { path: path.to_owned(), uid: user.uid, reason };
    let whole = std::path::absolute(path).map_err(|error| foreign(error.to_string()))?;
    let done = as_user(user, LOCAL, || work(&whole).map_err(|error| chain(&error)))?;
    done.map_err(|reason| foreign(reason).into())
}

/// The child's part: exit status 0 and a result, or another status and a sentence.
fn work_dropped<T: Serialize>(user: &UserFact, answer: &File, work: impl FnOnce() -> T) -> i32 {
    let mut answer = answer;
    let result =
        prepare(user, answer).and_then(|()| serde_json::to_vec(&work()).map_err(|error| error.to_string()));
    let (bytes, status) = match result {
        Ok(bytes) => (bytes, 0),
        Err(reason) => (reason.into_bytes(), 1),
    };
    if answer.write_all(&bytes).is_ok() { status } else { 1 }
}

fn prepare(user: &UserFact, answer: &File) -> Result<(), String> {
    fork::close_all_but(&[answer.as_fd()]).map_err(|error| error.to_string())?;
    if geteuid().as_raw() != user.uid {
        drop_for_good(Ids { uid: user.uid, gid: user.gid })
            .map_err(|(stage, errno)| format!("cannot {stage}: {errno}"))?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| errno.to_string())?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    nix::unistd::chdir("/").map_err(|errno| errno.to_string())
}

/// Reads the answer to its end; kills the child when it is late or talks too much.
fn collect(child: Pid, mut answer: File, deadline: Duration) -> Result<Vec<u8>, Errno> {
    let until = Instant::now() + deadline;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let outcome = match poll(&mut ready, timeout) {
            Ok(0) => Err(Errno::ETIMEDOUT),
            Ok(_) => {
                answer.read(&mut chunk).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
            }
            Err(errno) => Err(errno),
        };
        match outcome {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(Errno::EINTR) => {}
            Err(errno) => return kill(child, errno),
        }
        if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_RESULT) {
            return kill(child, Errno::EMSGSIZE);
        }
    }
}

/// Waits for its end, but not for ever: whoever has its uid may stop it between its answer and its end.
fn ended(child: Pid, patience: Duration) -> nix::Result<WaitStatus> {
    let until = Instant::now() + patience;
    while let Ok(held) = pidfd::open(child.as_raw()) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(held.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(count) if count > 0 => break,
            _ => {
                let _ = pidfd::signal(held.as_fd(), Some(Signal::SIGKILL));
                break;
            }
        }
    }
    waitpid(child, None)
}

/// The child is unreaped, so its number is still its own.
fn kill(child: Pid, errno: Errno) -> Result<Vec<u8>, Errno> {
    if let Ok(held) = pidfd::open(child.as_raw()) {
        let _ = pidfd::signal(held.as_fd(), Some(Signal::SIGKILL));
    }
    Err(errno)
}
