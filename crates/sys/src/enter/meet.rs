//! The parent's part: what it hears of the child until that has become the program.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::{Failure, Program, Stage, Started};
use crate::Error;
use crate::pidfd::Child;

/// What became of a child that did not become the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// As seen by the caller.
    pub pid: i32,
    /// For how long it was waited.
    pub waited: Duration,
    /// It could not be killed: it waits in the kernel, and is left behind.
    pub left: bool,
}

impl std::error::Error for Fate {}

impl fmt::Display for Fate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, waited, left } = self;
        let seconds = waited.as_secs();
        if *left {
            write!(out, "not done after {seconds} s; process {pid} cannot be killed and is left behind")
        } else {
            write!(out, "not done after {seconds} s; process {pid} was killed")
        }
    }
}

/// Learns the program's pid, says go, and waits until it was executed.
pub(super) fn meet(
    first: Pid,
    report: &OwnedFd,
    go: OwnedFd,
    program: &Program<'_>,
) -> Result<Started, Failure> {
    let first = Child::of(first)?;
    let mut ear = Ear::new(report, program);
    let (first_pid, heard) = (first.pid(), ear.hear());
    // It has nothing left to do, and may be stopped; what it forked does not live on without our go.
    let left = first.kill().is_none();
    let pid = match heard? {
        Heard::Message(0, pid) => Pid::from_raw(pid),
        heard => return Err(ear.failure(&heard, (first_pid, left))),
    };
    let child = Child::of(pid)?;
    nix::unistd::write(&go, b"g").map_err(Error::call("write to the child"))?;
    match ear.hear() {
        Ok(Heard::End) => Ok(Started { pid, pidfd: child.into_pidfd() }),
        heard => {
            let left = child.kill().is_none();
            Err(ear.failure(&heard?, (pid, left)))
        }
    }
}

enum Heard {
    /// A stage and an errno, or 0 and a pid.
    Message(i32, i32),
    /// The child closed its end, by exec or by dying.
    End,
    /// Its time is over.
    Late,
    /// The program is not wanted any more.
    Interrupted,
}

/// Our end of the pipe that the child reports to.
struct Ear<'a> {
    report: &'a OwnedFd,
    interrupt: Option<BorrowedFd<'a>>,
    began: Instant,
    until: Instant,
    /// The last stage that the child said it begins.
    stage: Stage,
}

impl<'a> Ear<'a> {
    fn new(report: &'a OwnedFd, program: &Program<'a>) -> Self {
        let began = Instant::now();
        Self {
            report,
            interrupt: program.interrupt,
            began,
            until: began + program.patience,
            stage: Stage::Descriptors,
        }
    }

    /// The next message that is more than the beginning of a stage.
    fn hear(&mut self) -> Result<Heard, Error> {
        loop {
            match self.next()? {
                Heard::Message(number, _) if number < 0 => {
                    self.stage = Stage::of(-number).unwrap_or(self.stage);
                }
                heard => return Ok(heard),
            }
        }
    }

    fn next(&self) -> Result<Heard, Error> {
        let mut message = [0; 8];
        loop {
            if let Some(end) = self.wait()? {
                return Ok(end);
            }
            match nix::unistd::read(self.report, &mut message) {
                Ok(0) => return Ok(Heard::End),
                Ok(8) => break,
                Err(Errno::EINTR) => {}
                Ok(_) => return Err(Error::Answer { call: "read from the child", expected: "eight bytes" }),
                Err(errno) => return Err(Error::Call { call: "read from the child", source: errno }),
            }
        }
        let [a, b, c, d, e, f, g, h] = message;
        Ok(Heard::Message(i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])))
    }

    /// `None`: the child has said something.
    fn wait(&self) -> Result<Option<Heard>, Error> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut ready: Vec<_> =
            std::iter::once(self.report.as_fd()).chain(self.interrupt).map(readable).collect();
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            match poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Ok(Some(Heard::Late)),
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Call { call: "poll of the child", source: errno }),
            }
        }
        // What the child has said already counts first: it may be the program by now.
        let said = ready.first().and_then(PollFd::any).unwrap_or(false);
        Ok((!said).then_some(Heard::Interrupted))
    }

    /// What it means that this was heard of the child, which is gone or left.
    fn failure(&self, heard: &Heard, (pid, left): (Pid, bool)) -> Failure {
        let fate = Fate { pid: pid.as_raw(), waited: self.began.elapsed(), left };
        match heard {
            Heard::Message(number, errno) => match Stage::of(*number) {
                Some(stage) => Failure::Stage { stage, source: Errno::from_raw(*errno) },
                None => Failure::Lost,
            },
            Heard::End => Failure::Lost,
            Heard::Late => Failure::Late { stage: self.stage, fate },
            Heard::Interrupted => Failure::Interrupted { stage: self.stage, fate },
        }
    }
}
