//! Work on the host as the node's user: a forked child drops for good, does it, and hands its result over a pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::geteuid;
use serde::{Serialize, de::DeserializeOwned};
use u7s_plan::facts::UserFact;
use u7s_sys::enter::{Ids, drop_for_good, fork_copy};
use u7s_sys::fork;
use u7s_sys::pidfd::{Child, KILLED};

use super::error::Error;
use super::files::LOCAL;
use crate::error::chain;
use crate::files::Author;

/// The longest result of a user's child that is read, bytes.
const MAX_RESULT: usize = 1 << 20;

/// Runs `work` in a child that dropped to `user` for good, and returns what it returned.
///
/// The child has no descriptor of ours but the result's pipe: `work` opens what it needs by itself, as the user.
/// It starts in `/` with umask 077 and must not start threads or print.
///
/// Must only be called while this process has one thread (no runtime with blocking tasks): the child is a copy.
///
/// # Errors
/// `Sys`: fork failed, or there are threads. `Child`: it was killed, or its result is larger than a MiB or no result.
/// `Deadline`: it was killed by us. `LeftBehind`: it waits for a file that does not answer, and cannot be killed.
pub fn as_user<T: Serialize + DeserializeOwned>(
    user: &UserFact,
    deadline: Duration,
    work: impl FnOnce() -> T,
) -> Result<T, Error> {
    let copy = Copy { uid: user.uid, what: format!("work as uid {}", user.uid), longest: MAX_RESULT };
    copy.run(deadline, |answer| prepare(user, answer), work)
}

/// Runs `work` in a copy of this process with all its rights, and returns what it returned: within the deadline, whatever
/// becomes of `work`. `what` names it in errors.
///
/// Nothing of the copy stays in the way of whoever waits for the caller's output: it has none of our descriptors.
/// The rest as [`as_user`]; the result may have eight MiB.
///
/// # Errors
/// As [`as_user`].
pub fn within<T: Serialize + DeserializeOwned>(
    what: &str,
    deadline: Duration,
    work: impl FnOnce() -> T,
) -> Result<T, Error> {
    let copy = Copy { uid: geteuid().as_raw(), what: what.to_owned(), longest: MAX_RESULT << 3 };
    copy.run(deadline, detach, work)
}

/// A copy of this process that does some work, and how it is spoken of.
struct Copy {
    uid: u32,
    what: String,
    /// Bytes of its result.
    longest: usize,
}

impl Copy {
    fn run<T: Serialize + DeserializeOwned>(
        self,
        deadline: Duration,
        prepare: impl FnOnce(&File) -> Result<(), String>,
        work: impl FnOnce() -> T,
    ) -> Result<T, Error> {
        let until = Instant::now() + deadline;
        let (reader, writer) = std::io::pipe().map_err(|error| self.failed(error.to_string()))?;
        let answer = File::from(OwnedFd::from(writer));
        let child = Child::of(fork_copy(|| do_work(&answer, prepare, work))?)?;
        drop(answer);
        let heard = self.collect(File::from(OwnedFd::from(reader)), until);
        // Whoever has its uid may stop it between its answer and its end.
        let ended = match heard {
            Ok(_) => child.wait(until.max(Instant::now() + KILLED))?,
            Err(_) => None,
        };
        let pid = child.pid().as_raw();
        let left = ended.is_none() && child.kill().is_none();
        match (heard, ended) {
            _ if left => Err(Error::LeftBehind { program: self.what, pid }),
            (Err(Errno::ETIMEDOUT), _) => {
                Err(Error::Deadline { program: self.what, seconds: deadline.as_secs() })
            }
            (Err(errno), _) => Err(self.failed(errno.to_string())),
            (Ok(bytes), Some(WaitStatus::Exited(_, 0))) => serde_json::from_slice(&bytes)
                .map_err(|error| self.failed(format!("its answer is none: {error}"))),
            (Ok(bytes), _) => Err(self.failed(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }

    fn failed(&self, reason: String) -> Error {
        Error::Child { uid: self.uid, reason }
    }

    /// Reads the answer to its end; ETIMEDOUT: the child is late, EMSGSIZE: it talks too much.
    fn collect(&self, mut answer: File, until: Instant) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Err(Errno::ETIMEDOUT),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            }
            match answer.read(&mut chunk) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
            }
            if bytes.len() > self.longest {
                return Err(Errno::EMSGSIZE);
            }
        }
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
fn do_work<T: Serialize>(
    answer: &File,
    prepare: impl FnOnce(&File) -> Result<(), String>,
    work: impl FnOnce() -> T,
) -> i32 {
    let mut answer = answer;
    let result =
        prepare(answer).and_then(|()| serde_json::to_vec(&work()).map_err(|error| error.to_string()));
    let (bytes, status) = match result {
        Ok(bytes) => (bytes, 0),
        Err(reason) => (reason.into_bytes(), 1),
    };
    if answer.write_all(&bytes).is_ok() { status } else { 1 }
}

fn prepare(user: &UserFact, answer: &File) -> Result<(), String> {
    detach(answer)?;
    if geteuid().as_raw() != user.uid {
        drop_for_good(Ids { uid: user.uid, gid: user.gid })
            .map_err(|(stage, errno)| format!("cannot {stage}: {errno}"))?;
    }
    // The drop has taken it away.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| errno.to_string())?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    nix::unistd::chdir("/").map_err(|errno| errno.to_string())
}

/// Nothing of the caller's is held open, neither his pipes nor a lock: the copy may be left behind.
fn detach(answer: &File) -> Result<(), String> {
    let said = |errno: Errno| errno.to_string();
    fork::close_all_but(&[answer.as_fd()]).map_err(|error| error.to_string())?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(said)?;
    let nothing = File::options().read(true).write(true).open("/dev/null");
    let nothing = nothing.map_err(|error| error.to_string())?;
    nix::unistd::dup2_stdin(&nothing).map_err(said)?;
    nix::unistd::dup2_stdout(&nothing).map_err(said)?;
    nix::unistd::dup2_stderr(&nothing).map_err(said)
}
