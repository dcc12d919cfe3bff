//! Really does, in throw-away namespaces of a child, what a node will do. Nothing of it outlives the child.
//!
//! The child is the node's user (nobody, where he does not exist yet), since that is whom switches and security modules
//! judge; its maps are written by the caller. Modules are not loaded for a trial: what needs an absent one is not tried.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid};
use u7s_plan::facts::Facts;
use u7s_plan::node::Extent;
use u7s_plan::subid;
use u7s_plan::trial::{Outcome, Trial};
use u7s_sys::enter::{Ids, drop_for_good, fork_copy};
use u7s_sys::pidfd::Child;
use u7s_sys::{fork, tap};

use crate::child::printable;

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where the child mounts in its own mount namespace: there on every host, and empty for it afterwards.
const PLACE: &str = "/run";

/// nobody, where the node's user is not there yet.
const NOBODY: u32 = 65534;

/// Tries it all. This process must have one thread.
#[must_use]
pub fn trial(facts: &Facts) -> Trial {
    let plan = Plan::of(facts);
    match attempt(&plan) {
        Ok(trial) => trial,
        Err(why) => Trial { namespaces: Outcome::Fails(printable(&why)), ..Trial::default() },
    }
}

/// What is tried, and as whom.
struct Plan {
    ids: Ids,
    uid_map: Vec<Extent>,
    gid_map: Vec<Extent>,
    overlay: bool,
    tap: bool,
    cgroup: Option<PathBuf>,
}

impl Plan {
    fn of(facts: &Facts) -> Self {
        let root = geteuid().is_root();
        let own = Ids { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        let node = facts
            .user
            .as_ref()
            .map_or(Ids { uid: NOBODY, gid: NOBODY }, |user| Ids { uid: user.uid, gid: user.gid });
        let ids = if root { node } else { own };
        let map = |text: &str, own: u32| {
            let user = facts.user.as_ref().filter(|_| root);
            let ranges = user.and_then(|user| subid::parse(text, u7s_plan::host::USER, user.uid).ok());
            subid::id_map(own, &ranges.unwrap_or_default())
        };
        let loaded = |name: &str| facts.modules.get(name).copied().flatten() == Some(true);
        let opens = facts
            .devices
            .get(Path::new(u7s_plan::host::TUN))
            .copied()
            .flatten()
            .is_some_and(|mode| mode & 0o006 == 0o006);
        Self {
            ids,
            uid_map: map(&facts.subuid, ids.uid),
            gid_map: map(&facts.subgid, ids.gid),
            overlay: loaded("overlay") || super::text("/proc/filesystems").contains("\toverlay\n"),
            // Phase Host gives the device its mode.
            tap: opens && (loaded("tun") || Path::new("/sys/class/misc/tun").exists()),
            cgroup: own_cgroup().filter(|_| root && facts.cgroup.unified),
        }
    }
}

/// Directory of this process' cgroup v2.
fn own_cgroup() -> Option<PathBuf> {
    let text = super::text("/proc/self/cgroup");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new("/sys/fs/cgroup").join(path);
    path.join("cgroup.procs").exists().then_some(path)
}

/// Both ends of both ways.
struct Ends {
    to_child: (OwnedFd, OwnedFd),
    to_parent: (OwnedFd, OwnedFd),
}

fn attempt(plan: &Plan) -> Result<Trial, String> {
    let pipe = || std::io::pipe().map(|(read, write)| (OwnedFd::from(read), OwnedFd::from(write)));
    let said = |error: std::io::Error| error.to_string();
    let ends = Ends { to_child: pipe().map_err(said)?, to_parent: pipe().map_err(said)? };
    let until = Instant::now() + DEADLINE;
    let child = fork_copy(|| child(plan, &ends)).and_then(Child::of).map_err(|error| error.to_string())?;
    drop(ends.to_child.0);
    drop(ends.to_parent.1);
    let result = lead(plan, child.pid(), (File::from(ends.to_child.1), File::from(ends.to_parent.0)), until);
    // It has ended, or hangs; one that not even this ends has said nothing, which is an error already.
    let _ = child.kill();
    if let Some(cgroup) = &plan.cgroup {
        let own = throw_away(cgroup);
        for path in [own.join("below"), own] {
            let _ = fs::remove_dir(path);
        }
    }
    result
}

/// The parent's part: maps and cgroup of the child, when it says that it has its namespaces.
fn lead(
    plan: &Plan,
    child: Pid,
    (mut go, mut answer): (File, File),
    until: Instant,
) -> Result<Trial, String> {
    let begun = hear(&mut answer, 1, until)?;
    if begun != b"+" {
        let rest = hear(&mut answer, 400, until).unwrap_or_default();
        return Err(String::from_utf8_lossy(&rest).into_owned());
    }
    let id_maps = match write_maps(plan, child) {
        Ok(()) => Outcome::Works,
        Err(why) => {
            return Ok(Trial {
                namespaces: Outcome::Works,
                id_maps: Outcome::Fails(printable(&why)),
                ..Trial::default()
            });
        }
    };
    let handed = plan.cgroup.as_deref().map(|cgroup| hand_over(cgroup, child, plan.ids));
    go.write_all(b"+").map_err(|error| format!("the child went away: {error}"))?;
    let answer = hear(&mut answer, 16 << 10, until)?;
    let mut trial: Trial =
        serde_json::from_slice(&answer).map_err(|error| format!("the child's answer is none: {error}"))?;
    if trial.id_maps == Outcome::Untried {
        trial.id_maps = id_maps;
    }
    if let Some(Err(why)) = handed {
        trial.cgroup = Outcome::Fails(printable(&why));
    }
    Ok(trial)
}

/// Reads up to `most` bytes, to the end unless it is one byte.
fn hear(from: &mut File, most: usize, until: Instant) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; most];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(format!("the trial took longer than {} s", DEADLINE.as_secs())),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.to_string()),
        }
        let count = from.read(&mut chunk).map_err(|error| error.to_string())?;
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if count == 0 || bytes.len() >= most {
            return Ok(bytes);
        }
    }
}

fn write_maps(plan: &Plan, child: Pid) -> Result<(), String> {
    let write = |name: &str, text: &str| {
        fs::write(format!("/proc/{child}/{name}"), text).map_err(|error| format!("write {name}: {error}"))
    };
    let lines = |map: &[Extent]| -> String {
        map.iter().map(|extent| format!("{} {} {}\n", extent.inside, extent.outside, extent.count)).collect()
    };
    if !geteuid().is_root() {
        // Without a right over groups the kernel wants this first. Source: user_namespaces(7).
        write("setgroups", "deny")?;
    }
    write("uid_map", &lines(&plan.uid_map))?;
    write("gid_map", &lines(&plan.gid_map))
}

fn throw_away(cgroup: &Path) -> PathBuf {
    cgroup.join(format!("u7s-check-{}", std::process::id()))
}

/// A cgroup of the child's own, as systemd's `Delegate=` hands one over.
fn hand_over(cgroup: &Path, child: Pid, ids: Ids) -> Result<(), String> {
    let own = throw_away(cgroup);
    let said = |call: &'static str| move |error: std::io::Error| format!("{call}: {error}");
    fs::create_dir(&own).map_err(said("mkdir"))?;
    for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(own.join(name), Some(ids.uid), Some(ids.gid)).map_err(said("chown"))?;
    }
    fs::write(own.join("cgroup.procs"), child.to_string()).map_err(said("write cgroup.procs"))
}

/// The child's part.
fn child(plan: &Plan, ends: &Ends) -> i32 {
    let (go, answer) = (&ends.to_child.0, &ends.to_parent.1);
    let Ok(mut said) = answer.try_clone().map(File::from) else { return 1 };
    if let Err(why) = part(plan, go, &said) {
        return i32::from(said.write_all(format!("-{why}").as_bytes()).is_err());
    }
    let Ok(mut heard) = go.try_clone().map(File::from) else { return 1 };
    let mut byte = [0];
    if said.write_all(b"+").is_err() || !heard.read(&mut byte).is_ok_and(|count| count == 1) {
        return 1;
    }
    let trial = inside(plan);
    let bytes = serde_json::to_vec(&trial).unwrap_or_default();
    i32::from(said.write_all(&bytes).is_err())
}

/// Drops the caller's rights and makes the namespaces.
fn part(plan: &Plan, go: &OwnedFd, answer: &File) -> Result<(), String> {
    fork::close_all_but(&[go.as_fd(), answer.as_fd()]).map_err(|error| error.to_string())?;
    if geteuid().is_root() {
        drop_for_good(plan.ids).map_err(|(stage, errno)| format!("cannot {stage}: {errno}"))?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| errno.to_string())?;
    nix::unistd::chdir("/").map_err(|errno| errno.to_string())?;
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(all).map_err(|errno| format!("unshare: {errno}"))
}

/// As root of the namespaces.
fn inside(plan: &Plan) -> Trial {
    let become_root = || {
        nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
        nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
    };
    let mut trial = Trial { namespaces: Outcome::Works, ..Trial::default() };
    if let Err(errno) = become_root() {
        trial.id_maps = Outcome::Fails(format!("become root inside: {errno}"));
        return trial;
    }
    if plan.tap {
        trial.tap =
            outcome(tap::create("u7s-check", tap::Kind::Tap).map(drop).map_err(|error| cause(&error)));
    }
    if let Err(why) = disk() {
        trial.namespaces = Outcome::Fails(why);
        return trial;
    }
    let last = plan.uid_map.last().map_or(0, |extent| extent.inside + (extent.count - 1));
    let last_group = plan.gid_map.last().map_or(0, |extent| extent.inside + (extent.count - 1));
    trial.id_maps = outcome(give(last, last_group));
    if plan.overlay {
        trial.overlay = outcome(overlay());
    }
    if plan.cgroup.is_some() {
        trial.cgroup = outcome(cgroup());
    }
    trial
}

fn outcome(result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome::Works,
        Err(why) => Outcome::Fails(printable(&why)),
    }
}

fn cause(error: &u7s_sys::Error) -> String {
    error.errno().map_or_else(|| error.to_string(), |errno| format!("{error}: {errno}"))
}

fn mounted(source: &str, target: &Path, kind: &str, data: &str) -> Result<(), String> {
    mount(Some(source), target, Some(kind), MsFlags::empty(), Some(data))
        .map_err(|errno| format!("mount {kind}: {errno}"))
}

/// A tmpfs of our own to work in.
fn disk() -> Result<(), String> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|errno| format!("make mounts private: {errno}"))?;
    mounted("u7s-check", Path::new(PLACE), "tmpfs", "size=1m,mode=0755")
}

/// A file of the last id that is mapped.
fn give(uid: u32, gid: u32) -> Result<(), String> {
    let path = Path::new(PLACE).join("given");
    fs::write(&path, "").map_err(|error| format!("write: {error}"))?;
    std::os::unix::fs::chown(&path, Some(uid), Some(gid))
        .map_err(|error| format!("chown to {uid}:{gid}: {error}"))
}

fn overlay() -> Result<(), String> {
    let place = Path::new(PLACE);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(place.join(name)).map_err(|error| format!("mkdir: {error}"))?;
    }
    let merged = place.join("merged");
    mounted(
        "overlay",
        &merged,
        "overlay",
        "lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work,userxattr",
    )?;
    fs::write(merged.join("file"), "x").map_err(|error| format!("write through the overlay: {error}"))
}

/// The root of a cgroup namespace moves itself below it, as the node's pid 1 does.
fn cgroup() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|errno| format!("unshare the cgroup namespace: {errno}"))?;
    let place = Path::new(PLACE).join("cgroup");
    fs::create_dir(&place).map_err(|error| format!("mkdir: {error}"))?;
    mounted("cgroup2", &place, "cgroup2", "")?;
    let below = place.join("below");
    fs::create_dir(&below).map_err(|error| format!("mkdir in the cgroup: {error}"))?;
    fs::write(below.join("cgroup.procs"), "0").map_err(|error| format!("write cgroup.procs: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_the_machine_as_it_was() {
        let facts = Facts::default();
        let plan = Plan::of(&facts);
        assert!(!plan.overlay || Path::new("/proc/filesystems").exists());
        assert_eq!(plan.uid_map.len(), 1, "without a user only one id is mapped");
    }
}
