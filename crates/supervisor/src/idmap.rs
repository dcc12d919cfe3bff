//! Id maps of the node: checked against what the host gives the user, then written.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use u7s_plan::node::{Extent, NodeSpec};
use u7s_plan::subid::{self, Range};

use crate::{Error, small};

/// How long newuidmap and newgidmap may take together.
const HELPER_DEADLINE: Duration = Duration::from_secs(10);

/// The most of a helper's complaint that is kept, bytes.
const COMPLAINT: u64 = 4096;

/// How the maps will be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By this process, which holds CAP_SETUID and CAP_SETGID.
    Direct,
    /// By newuidmap and newgidmap at the same time.
    Helpers,
}

/// Checks that each mapped id is the user's own or from its ranges in /etc/subuid and /etc/subgid.
///
/// # Errors
/// [`Error::ReadFile`], [`Error::Subids`], [`Error::ForeignIds`].
pub(crate) fn check(spec: &NodeSpec) -> Result<(), Error> {
    let user = &spec.user;
    for (path, map) in [("/etc/subuid", &spec.uid_map), ("/etc/subgid", &spec.gid_map)] {
        let text = small::read(Path::new(path)).map_err(Error::read(path))?;
        let ranges =
            subid::parse(&text, &user.name, user.uid).map_err(|source| Error::Subids { path, source })?;
        if let Some(extent) = foreign(map, &ranges) {
            return Err(Error::ForeignIds { path, user: user.name.clone(), extent });
        }
    }
    Ok(())
}

/// The first line that is not covered; the very first maps the user itself, as `spec::read` has checked.
fn foreign(map: &[Extent], ranges: &[Range]) -> Option<Extent> {
    let covered = |extent: &&Extent| {
        let last = extent.outside.saturating_add(extent.count - 1);
        ranges.iter().any(|range| range.contains(extent.outside) && range.contains(last))
    };
    map.iter().skip(1).find(|extent| !covered(extent)).copied()
}

/// Chooses the way before anything is made, so that a hopeless one fails early.
///
/// # Errors
/// [`Error::NoMapHelper`]; [`Error::MapHelperPowerless`]: this process has `no_new_privs`.
pub(crate) fn choose(spec: &NodeSpec) -> Result<Way, Error> {
    if u7s_sys::capability::can_map_ids() {
        return Ok(Way::Direct);
    }
    let newuidmap = spec.programs.newuidmap.as_ref().ok_or(Error::NoMapHelper { program: "newuidmap" })?;
    spec.programs.newgidmap.as_ref().ok_or(Error::NoMapHelper { program: "newgidmap" })?;
    if nix::sys::prctl::get_no_new_privs().unwrap_or(false) {
        return Err(Error::MapHelperPowerless { program: newuidmap.clone() });
    }
    Ok(Way::Helpers)
}

/// Writes both maps of the process `pid`, which waits; the kernel takes a map once.
///
/// # Errors
/// [`Error::WriteFile`]: EPERM, a line is not ours to give. [`Error::StartMapHelper`], [`Error::MapHelper`].
///
/// Source: user_namespaces(7), newuidmap(1).
pub(crate) fn write(way: Way, pid: i32, spec: &NodeSpec) -> Result<(), Error> {
    match way {
        Way::Direct => {
            write_map(format!("/proc/{pid}/uid_map"), &spec.uid_map)?;
            write_map(format!("/proc/{pid}/gid_map"), &spec.gid_map)
        }
        Way::Helpers => run_helpers(pid, spec),
    }
}

fn write_map(path: String, map: &[Extent]) -> Result<(), Error> {
    let text: String =
        map.iter().map(|extent| format!("{} {} {}\n", extent.inside, extent.outside, extent.count)).collect();
    fs::write(&path, text).map_err(Error::write(path))
}

fn run_helpers(pid: i32, spec: &NodeSpec) -> Result<(), Error> {
    let deadline = Instant::now() + HELPER_DEADLINE;
    let programs = [(&spec.programs.newuidmap, &spec.uid_map), (&spec.programs.newgidmap, &spec.gid_map)];
    let mut running = Vec::new();
    for (program, map) in programs {
        let program = program.as_deref().ok_or(Error::NoMapHelper { program: "newuidmap" })?;
        running.push((program, start_helper(program, pid, map)?));
    }
    let outcomes: Vec<_> =
        running.into_iter().map(|(program, child)| finish(program, child, deadline)).collect();
    outcomes.into_iter().collect()
}

fn start_helper(program: &Path, pid: i32, map: &[Extent]) -> Result<Child, Error> {
    let ids = map.iter().flat_map(|extent| [extent.inside, extent.outside, extent.count]);
    Command::new(program)
        .arg(pid.to_string())
        .args(ids.map(|id| id.to_string()))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::StartMapHelper { program: program.to_owned(), source })
}

fn finish(program: &Path, mut child: Child, deadline: Instant) -> Result<(), Error> {
    let failed = |outcome: String| Error::MapHelper { program: program.to_owned(), outcome };
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    let held = u7s_sys::pidfd::open(pid).map_err(Error::system("hold a helper"))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    let ended = poll(&mut [PollFd::new(held.as_fd(), PollFlags::POLLIN)], timeout).unwrap_or(0);
    if ended == 0 {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(format!("no end within {} s", HELPER_DEADLINE.as_secs())));
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(COMPLAINT).read_to_string(&mut said);
    }
    Err(failed(format!("{status}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(inside: u32, outside: u32, count: u32) -> Extent {
        Extent { inside, outside, count }
    }

    #[test]
    fn lines_outside_the_ranges_are_found() {
        let ranges = [Range { start: 524_288, count: 65_536 }, Range { start: 800_000, count: 10 }];
        let own = extent(0, 1000, 1);
        let table = [
            (vec![own, extent(1, 524_288, 65_536)], None),
            (vec![own, extent(1, 524_288, 65_537)], Some(extent(1, 524_288, 65_537))),
            (vec![own, extent(1, 524_287, 2)], Some(extent(1, 524_287, 2))),
            (vec![own, extent(1, 800_009, 1), extent(2, 800_010, 1)], Some(extent(2, 800_010, 1))),
        ];
        for (map, expected) in table {
            assert_eq!(foreign(&map, &ranges), expected, "{map:?}");
        }
    }
}
