//! The node on which tools are compared: the same Debian, the same idle systemd, the same user for all of them.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use u7s_harness::{Lan, Node};

use crate::trial::{FIFO, Job, Outcome, PLACE, STAMP};
use crate::{Error, Settings};

/// How long the node may take to boot.
const BOOT: Duration = Duration::from_secs(120);

/// How long a part of a job may take.
const PART: Duration = Duration::from_secs(300);

/// Rounds of a part: as often a person hears how far it is.
const ROUNDS: usize = 10;

/// The programs of this crate that are not Rust, for what they cost must be next to nothing.
const PROGRAMS: [(&str, &str); 3] = [
    ("stamp", include_str!("../programs/stamp.c")),
    ("launch", include_str!("../programs/launch.c")),
    ("floor", include_str!("../programs/floor.c")),
];

thread_local! {
    /// Sections that compare tools share one node.
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Lends the node, made at the first call.
pub(crate) fn with<T>(
    settings: &Settings,
    measure: impl FnOnce(&mut Stage) -> Result<T, Error>,
) -> Result<T, Error> {
    STAGE.with_borrow_mut(|slot| {
        let stage = match slot.take() {
            Some(stage) => stage,
            None => Stage::new(settings)?,
        };
        measure(slot.insert(stage))
    })
}

/// Removes the node, if there is one: others shall not be measured beside it.
pub(crate) fn end() {
    STAGE.with_borrow_mut(|slot| drop(slot.take()));
}

/// A booted node with u7s, RootlessKit and unstable's slirp4netns installed, and nothing started.
pub(crate) struct Stage {
    pub(crate) node: Node,
    /// u7s-admin.
    pub(crate) user: User,
    /// u7s.service runs.
    pub(crate) is_up: bool,
    /// Must outlive the node.
    _lan: Lan,
    _programs: tempfile::TempDir,
}

/// The user that every tool runs as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    /// Its uid, and gid.
    pub(crate) id: u32,
    /// First of its 65536 subordinate ids.
    pub(crate) subordinate: u32,
}

impl Stage {
    fn new(settings: &Settings) -> Result<Self, Error> {
        let say = |line: &str| settings.say(line);
        let rootlesskit = u7s_kit::rootlesskit(&say)?;
        let programs = compile()?;
        let lan = Lan::new()?;
        let mut node = lan.node("bench")?;
        node.install_kit(&[])?;
        let own = std::env::current_exe().map_err(Error::file("finding", "u7s-bench"))?;
        u7s_kit::require_packages(&["passt"], &say)?;
        let binds = [("u7s-bench", own), ("rootlesskit", rootlesskit), ("pasta", "/usr/bin/pasta".into())];
        let built = PROGRAMS.map(|(name, _)| (name, programs.path().join(name)));
        for (name, path) in binds.iter().chain(&built) {
            node.bind(path, &format!("{PLACE}/{name}"))?;
        }
        settings.say("boot a node");
        node.boot(BOOT)?;
        node.install_u7s(&settings.programs)?;
        node.install_unstable_driver()?;
        let user = user_of(&node)?;
        let script = "mkdir -p $0/run $0/runtime $0/targets && chmod 755 $0 $0/run $0/targets && chown $1:$1 $0/run $0/runtime && chmod 700 $0/runtime";
        node.ok(&["sh", "-euc", script, PLACE, &user.id.to_string()])?;
        Ok(Self { node, user, is_up: false, _lan: lan, _programs: programs })
    }

    /// Runs a job in parts, and says how far it is.
    pub(crate) fn run(&self, settings: &Settings, what: &str, job: &Job) -> Result<Outcome, Error> {
        let (mut done, mut outcome) = (0, Outcome::default());
        while done < job.rounds {
            let part = Job { rounds: ROUNDS.min(job.rounds - done), variants: job.variants.clone() };
            let text = serde_json::to_string(&part).map_err(Error::json("a job"))?;
            let command = self.node.command(&[&format!("{PLACE}/u7s-bench"), "inside"]);
            let answer = command.input(text).within(PART).ok()?;
            outcome.extend(serde_json::from_str(&answer).map_err(Error::json("the outcome of a job"))?);
            done += part.rounds;
            settings.say(&format!("{what}: {done} of {} rounds", job.rounds));
        }
        Ok(outcome)
    }

    /// A file of the node as this machine sees it.
    pub(crate) fn file(&self, path: &str) -> Result<PathBuf, Error> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.node.pid1()?)))
    }
}

fn user_of(node: &Node) -> Result<User, Error> {
    let text = node.sh("id -u u7s-admin; sed -n 's/^u7s-admin:\\([0-9]*\\):65536$/\\1/p' /etc/subuid")?;
    let numbers: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    match numbers[..] {
        [id, subordinate, ..] => Ok(User { id, subordinate }),
        _ => Err(Error::Answer { what: "u7s-admin's ids".into(), text }),
    }
}

/// Static, so that what they cost is the kernel's.
fn compile() -> Result<tempfile::TempDir, Error> {
    u7s_kit::require_packages(&["gcc", "libc6-dev"], &|_| ())?;
    let dir = tempfile::tempdir().map_err(Error::file("making", "a temporary directory"))?;
    for (name, text) in PROGRAMS {
        let source = dir.path().join(format!("{name}.c"));
        fs::write(&source, text).map_err(Error::file("writing", &source))?;
        cc(&source, &dir.path().join(name))?;
    }
    Ok(dir)
}

fn cc(source: &Path, program: &Path) -> Result<(), Error> {
    let mut command = Command::new("cc");
    command
        .args(["-std=gnu11", "-Os", "-s", "-static", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([program, source]);
    let output = command.output().map_err(Error::program("cc"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Answer { what: "cc".into(), text: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// The words that every variant's payload is.
pub(crate) fn payload() -> [String; 2] {
    [STAMP.to_owned(), FIFO.to_owned()]
}

/// A path below [`PLACE`].
pub(crate) fn place(name: &str) -> String {
    format!("{PLACE}/{name}")
}
