//! The half that runs in the node: starts each tool in turn and takes the times. It has one thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};

use crate::Error;
use crate::inside_cgroup::Cgroup;
use crate::inside_tap::Tap;
use crate::trial::{ERRORS, FIFO, Job, Kind, LAUNCH, NOTIFY, Outcome, Times, Variant};

/// How long a run may take; traced ones are slow.
const LIMIT: Duration = Duration::from_secs(20);

/// Between two runs: what the last one left to the kernel is over.
const GAP: Duration = Duration::from_millis(3);

/// What the supervisor tells systemd while its driver is not ready.
const NOT_READY: &str = "slirp4netns to be ready";

/// Runs a job.
///
/// # Errors
/// What no run can do without; a run that fails is part of the outcome.
pub(crate) fn run(job: &Job) -> Result<Outcome, Error> {
    let bed = Bed::make(job)?;
    let count = job.variants.len();
    let mut outcome = Outcome { times: vec![Vec::new(); count], complaints: vec![String::new(); count] };
    for round in 0..job.rounds {
        for step in 0..count {
            let place = if round % 2 == 0 { step } else { count - 1 - step };
            match bed.run(&job.variants[place])? {
                Ok(times) => outcome.times[place].push(Some(times)),
                Err(complaint) => {
                    outcome.times[place].push(None);
                    outcome.complaints[place] = complaint;
                }
            }
            std::thread::sleep(GAP);
        }
    }
    Ok(outcome)
}

/// What all runs use.
struct Bed {
    fifo: File,
    notify: UnixDatagram,
    tap: Option<Tap>,
}

/// When things happened, nanoseconds of the monotonic clock.
#[derive(Debug, Default)]
struct Seen {
    payload: Option<u64>,
    driver: Option<u64>,
    reaped: u64,
}

impl Bed {
    fn make(job: &Job) -> Result<Self, Error> {
        for path in [FIFO, NOTIFY] {
            let _ = fs::remove_file(path);
        }
        nix::unistd::mkfifo(FIFO, Mode::from_bits_truncate(0o666)).map_err(Error::call("mkfifo"))?;
        // Open for both, so that it never says that the last writer has gone.
        let open =
            OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(FIFO);
        let fifo = open.map_err(Error::file("opening", FIFO))?;
        let notify = UnixDatagram::bind(NOTIFY).map_err(Error::file("binding", NOTIFY))?;
        notify.set_nonblocking(true).map_err(Error::file("opening", NOTIFY))?;
        for path in [FIFO, NOTIFY] {
            let open_to_all = fs::Permissions::from_mode(0o777);
            fs::set_permissions(path, open_to_all).map_err(Error::file("opening", path))?;
        }
        let driver = job.variants.iter().find(|variant| variant.kind == Kind::Driver);
        let tap = driver.map(|driver| Tap::make(driver.uid)).transpose()?;
        Ok(Self { fifo, notify, tap })
    }

    /// The inner error is why this run does not count.
    fn run(&self, variant: &Variant) -> Result<Result<Times, String>, Error> {
        while self.read_stamp().is_some() {}
        while self.read_status().is_some() {}
        let cgroup = Cgroup::make(variant.uid)?;
        let (ready, writer) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(Error::call("pipe2"))?;
        let mut child = self.start(variant, &cgroup, writer)?;
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        let pidfd = u7s_sys::pidfd::open(pid)
            .map_err(|error| Error::Answer { what: "pidfd_open".into(), text: error.to_string() })?;
        let watched = self.watch(variant, &mut child, &[&ready, &pidfd], &cgroup);
        cgroup.remove()?;
        let began = child.stdout.take().and_then(read_stamp);
        Ok(watched.and_then(|seen| times(variant.kind, began, &seen)).map_err(|problem| complain(&problem)))
    }

    fn start(&self, variant: &Variant, cgroup: &Cgroup, ready: OwnedFd) -> Result<Child, Error> {
        let errors = File::create(ERRORS).map_err(Error::file("writing", ERRORS))?;
        let mut words: Vec<String> = Vec::new();
        if let Some(log) = &variant.trace {
            words.extend(["/usr/bin/strace", "-f", "-ttt", "-o", log].map(String::from));
        }
        let (uid, mask) = (variant.uid.to_string(), format!("{:x}", variant.capabilities));
        words.extend([LAUNCH.into(), cgroup.procs(), uid.clone(), uid, mask]);
        let tap = self.tap.as_ref().map_or_else(String::new, Tap::pid);
        words
            .extend(variant.argv.iter().map(|word| if word == "@TAP@" { tap.clone() } else { word.clone() }));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(variant.env.iter().cloned()).current_dir("/");
        command.stdin(if variant.kind == Kind::Driver { ready.into() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(errors);
        command.spawn().map_err(Error::program(words[0].as_str()))
    }

    /// Follows a run to its end.
    fn watch(
        &self,
        variant: &Variant,
        child: &mut Child,
        [ready, pidfd]: &[&OwnedFd; 2],
        cgroup: &Cgroup,
    ) -> Result<Seen, String> {
        let until = Instant::now() + LIMIT;
        let (mut seen, mut told) = (Seen::default(), false);
        loop {
            if !told && seen.is_enough(variant.kind) {
                told = true;
                end(variant, pidfd, cgroup);
            }
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                seen.reaped = now();
                seen.payload = seen.payload.or_else(|| self.read_stamp());
                let is_fine = match variant.kind {
                    Kind::Driver => true,
                    Kind::Command => status.code().is_some_and(|code| code < 4),
                    Kind::Tool | Kind::Supervisor { .. } => status.success() || variant.trace.is_some(),
                };
                return if is_fine { Ok(seen) } else { Err(status.to_string()) };
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                cgroup.kill();
                let _ = child.wait();
                return Err(format!("not done after {} s: {seen:?}", LIMIT.as_secs()));
            }
            let is_driver = variant.kind == Kind::Driver && seen.driver.is_none();
            self.wait(is_driver.then(|| ready.as_fd()), pidfd.as_fd(), left);
            seen.payload = seen.payload.or_else(|| self.read_stamp());
            if seen.driver.is_none() && (said_ready(ready) || self.says_ready()) {
                seen.driver = Some(now());
            }
        }
    }

    fn wait(&self, ready: Option<BorrowedFd<'_>>, pidfd: BorrowedFd<'_>, left: Duration) {
        let descriptors = [Some(self.fifo.as_fd()), Some(self.notify.as_fd()), Some(pidfd), ready];
        let mut watched: Vec<PollFd<'_>> =
            descriptors.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
    }

    fn read_stamp(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        matches!((&self.fifo).read(&mut bytes), Ok(8)).then(|| u64::from_le_bytes(bytes))
    }

    /// The supervisor's next message, if there is one.
    fn read_status(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.notify.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Whether it said a status that does not wait for the driver.
    fn says_ready(&self) -> bool {
        let mut ready = false;
        while let Some(text) = self.read_status() {
            ready |= text.contains("STATUS=") && !text.contains(NOT_READY);
        }
        ready
    }
}

impl Seen {
    fn is_enough(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tool | Kind::Command => false,
            Kind::Supervisor { with_driver } => {
                self.payload.is_some() && (!with_driver || self.driver.is_some())
            }
            Kind::Driver => self.driver.is_some(),
        }
    }
}

fn end(variant: &Variant, pidfd: &OwnedFd, cgroup: &Cgroup) {
    match variant.kind {
        // A traced one is strace's child, and nobody looks at how it ends.
        Kind::Supervisor { .. } if variant.trace.is_none() => {
            let _ = u7s_sys::pidfd::signal(pidfd.as_fd(), Some(Signal::SIGTERM));
        }
        _ => cgroup.kill(),
    }
}

fn times(kind: Kind, began: Option<u64>, seen: &Seen) -> Result<Times, String> {
    let began = began.ok_or("it was not started")?;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
    let since = |at: u64| at.saturating_sub(began) as f64 / 1e6;
    let (payload, driver) = (seen.payload.map(since), seen.driver.map(since));
    let ready = match kind {
        Kind::Tool | Kind::Supervisor { with_driver: false } => payload,
        Kind::Driver => driver,
        Kind::Command => Some(since(seen.reaped)),
        Kind::Supervisor { with_driver: true } => {
            payload.zip(driver).map(|(payload, driver)| payload.max(driver))
        }
    };
    let ready = ready.ok_or("it ended before it was ready")?;
    Ok(Times { ready, payload, driver, wall: since(seen.reaped) })
}

fn said_ready(ready: &OwnedFd) -> bool {
    matches!(nix::unistd::read(ready, &mut [0; 8]), Ok(1..))
}

fn read_stamp(mut output: ChildStdout) -> Option<u64> {
    let mut bytes = [0; 8];
    output.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// The problem and the tool's last words.
fn complain(problem: &str) -> String {
    let text = fs::read(Path::new(ERRORS)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    format!("{problem}: {}", lines[lines.len().saturating_sub(4)..].join(" / "))
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads a job from standard input.
///
/// # Errors
/// It cannot be read, or is none.
pub(crate) fn read_job() -> Result<Job, Error> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(Error::file("reading", "standard input"))?;
    serde_json::from_str(&text).map_err(Error::json("a job"))
}
