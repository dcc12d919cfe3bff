//! Stops a unit whose processes do not want to end.
//!
//! A main process may put systemd off for ever (`EXTEND_TIMEOUT_USEC=`), and a process that waits for a FUSE server of its own
//! does not hear SIGKILL. So root keeps a deadline of its own; after it comes SIGKILL by systemd, then by the unit's cgroup, and
//! the node's FUSE connections are aborted.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use u7s_plan::host;
use u7s_sys::mount;

use crate::error::Error;
use crate::files;
use crate::probe;
use crate::processes::{self, Ids, Process};
use crate::systemd::Systemd;

/// What is added to the unit's own `TimeoutStopSec=` before its processes are killed.
const MARGIN: Duration = Duration::from_secs(10);

/// How long a unit may take to rest once all its processes were killed.
///
/// With processes that nothing ends systemd itself waits for `TimeoutStopSec=` twice, then calls the unit failed.
const KILLED: Duration = Duration::from_secs(20);

/// How often processes that were killed are killed again: one may have been on its way into the cgroup.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a job may take to begin before a unit that is not stopping is left alone.
const BEGIN: Duration = Duration::from_secs(3);

/// What `TimeoutStopSec=infinity` counts as.
const ENDLESS: Duration = Duration::from_secs(90);

/// Stops a unit, and ends what is left of it `limit` later; then nothing of it lives.
///
/// # Errors
/// `Alive` names the processes that are left `KILLED` after they were killed; `Systemd`.
pub(crate) fn stop(
    systemd: &Systemd,
    (unit, limit): (&str, Duration),
    ids: Option<&Ids>,
    waiting: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let group = systemd.control_group(unit)?;
    match systemd.stop(unit, limit, waiting) {
        Ok(()) if left(&group).is_empty() => return Ok(()),
        Ok(()) | Err(Error::Deadline { .. }) => {}
        Err(error) => return Err(error),
    }
    end(systemd, (unit, &group), ids, waiting)
}

/// Ends what a stop of the node's unit that somebody asked for does not end in time. Without such a stop there is nothing to do.
///
/// The time is the unit's `TimeoutStopSec=` and ten seconds, times `factor`.
///
/// # Errors
/// As `stop`.
pub fn bound(user: &str, factor: u32) -> Result<(), Error> {
    let systemd = Systemd::connect()?;
    let group = systemd.control_group(host::UNIT)?;
    let own = systemd.stop_timeout(host::UNIT)?.unwrap_or(ENDLESS);
    let (began, limit) = (Instant::now(), (own + MARGIN) * factor.max(1));
    loop {
        let state = systemd.unit(host::UNIT)?;
        let begins = state.has_job() && began.elapsed() < BEGIN && !state.rests();
        if state.fact.active != "deactivating" && !begins {
            return Ok(());
        }
        if began.elapsed() >= limit {
            break;
        }
        systemd.pause();
    }
    let ids = probe::user(user).map(|found| Ids::of(&found, user));
    end(&systemd, (host::UNIT, &group), ids.as_ref(), &mut |_| {})
}

/// Kills until the unit rests and its cgroup is empty.
fn end(
    systemd: &Systemd,
    (unit, group): (&str, &str),
    ids: Option<&Ids>,
    waiting: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let end = Instant::now() + KILLED;
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            // Each of the three may have nothing to do: a slice takes no signals, a cgroup may be gone already.
            let _ = systemd.kill(unit);
            let _ = kill_cgroup(group);
            if let Some(ids) = ids {
                let _ = abort_fuse(ids);
            }
            next = Instant::now() + AGAIN;
        }
        let state = systemd.unit(unit)?;
        let living = left(group);
        if state.rests() && living.is_empty() {
            return if state.fact.active == "failed" { systemd.reset_failed(unit) } else { Ok(()) };
        }
        waiting(&state.status);
        if Instant::now() >= end {
            return Err(Error::Alive { what: unit.to_owned(), processes: processes::list(&living) });
        }
        systemd.pause();
    }
}

/// What lives in a cgroup; without one nothing.
fn left(group: &str) -> Vec<Process> {
    if group.is_empty() || group == "/" { Vec::new() } else { processes::in_cgroup(group) }
}

/// Kills all processes of a cgroup and of those below it at once.
///
/// The way leads through cgroups alone, none of which can be renamed or replaced while it has processes.
///
/// Source: linux, Documentation/admin-guide/cgroup-v2.rst, `cgroup.kill` (5.14).
fn kill_cgroup(group: &str) -> nix::Result<()> {
    let below = group.strip_prefix('/').filter(|below| !below.is_empty()).ok_or(Errno::EINVAL)?;
    let root =
        files::open(Path::new("/sys/fs/cgroup"), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)?;
    let file = files::open_below(&root, &Path::new(below).join("cgroup.kill"), OFlag::O_WRONLY)?;
    write(file)
}

/// Aborts the FUSE connections of mounts that were made with one of these ids: who waits for them gets an error.
///
/// Source: linux, Documentation/filesystems/fuse.rst, "Control filesystem"; fs/fuse/control.c: the files' owner is the mount's `user_id`.
pub(crate) fn abort_fuse(ids: &Ids) -> Result<usize, u7s_sys::Error> {
    let control = match mount::unattached(c"fusectl") {
        Ok(control) => control,
        // Nobody can have mounted anything by FUSE.
        Err(error) if error.errno() == Some(Errno::ENODEV) => return Ok(0),
        Err(error) => return Err(error),
    };
    let names = files::names(&control).unwrap_or_default();
    let ours = |name: &&std::ffi::OsString| {
        let stat = files::stat_in(&control, name).ok().flatten();
        stat.is_some_and(|stat| ids.contains(stat.st_uid))
    };
    Ok(names.iter().filter(ours).filter(|name| abort(&control, name).is_ok()).count())
}

fn abort(control: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    write(files::open_below(control, &Path::new(name).join("abort"), OFlag::O_WRONLY)?)
}

fn write(file: OwnedFd) -> nix::Result<()> {
    let written = File::from(file).write_all(b"1");
    written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cgroup_and_the_root_of_all_are_never_killed() {
        assert_eq!(kill_cgroup(""), Err(Errno::EINVAL));
        assert_eq!(kill_cgroup("/"), Err(Errno::EINVAL));
        assert!(left("").is_empty() && left("/").is_empty());
    }

    #[test]
    fn a_path_that_leads_out_of_the_cgroups_is_refused() {
        assert!(kill_cgroup("/../../etc").is_err());
    }
}
