//! What a user may have running, waiting or lying about on the host beside its unit.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{FileStat, SFlag};

use super::{Applier, Ended};
use crate::error::Error;
use crate::files;
use crate::probe::{self, LINGER};
use crate::processes::{self, Ids};
use crate::stop;
use crate::systemd::Systemd;

/// Below it, a file with a user's name is that user's crontab.
const SPOOL: &str = "/var/spool";

/// Pause between two looks at processes that were killed.
const LOOK: Duration = Duration::from_millis(50);

impl Applier<'_> {
    /// The ids of the node, if its user is there.
    pub(super) fn ids(&self) -> Option<Ids> {
        probe::user(&self.user).map(|user| Ids::of(&user, &self.user))
    }

    pub(super) fn end_sessions(&mut self, user: &str, seconds: u64) -> Result<Ended, Error> {
        let Some(found) = probe::user(user).filter(|user| user.uid != 0) else { return Ok(Ended::Held) };
        let systemd = Systemd::connect()?;
        let mut ended = Ended::Held;
        let linger = Path::new(LINGER).join(user);
        if files::stat(&linger)?.is_some() {
            // logind, where there is one, forgets it; the file is what counts at the next boot.
            let _ = systemd.stop_lingering(found.uid);
            files::remove(&linger)?;
            ended = Ended::Done;
        }
        let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
        for unit in units(found.uid) {
            let state = systemd.unit(&unit)?;
            let group = systemd.control_group(&unit).unwrap_or_default();
            if state.rests() && (group.is_empty() || processes::in_cgroup(&group).is_empty()) {
                continue;
            }
            let ids = Ids::of(&found, user);
            let what = format!("waiting for {unit} to end");
            let mut waiting = |_: &str| self.waiting(&what, began, limit);
            stop::stop(&systemd, (&unit, limit), Some(&ids), &mut waiting)?;
            ended = Ended::Done;
        }
        Ok(ended)
    }

    pub(super) fn end_processes(&mut self, user: &str, seconds: u64) -> Result<Ended, Error> {
        let Some(found) = probe::user(user).filter(|user| user.uid != 0) else { return Ok(Ended::Held) };
        let ids = Ids::of(&found, user);
        let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
        let linger = Path::new(LINGER).join(user);
        let mut ended = Ended::Held;
        loop {
            let living = ids.processes();
            let lingers = files::stat(&linger)?.is_some();
            if living.is_empty() && !lingers {
                return Ok(ended);
            }
            if began.elapsed() >= limit {
                let processes = processes::list(&living);
                return Err(Error::Alive { what: user.to_owned(), processes });
            }
            if lingers {
                self.end_sessions(user, seconds)?;
            }
            ids.kill(&living);
            let _ = stop::abort_fuse(&ids);
            ended = Ended::Done;
            self.waiting("waiting for processes that were killed to end", began, limit);
            std::thread::sleep(LOOK);
        }
    }

    /// Goes on after errors.
    pub(super) fn remove_owned(&mut self, user: &str, dirs: &[PathBuf]) -> Result<Ended, Error> {
        let Some(found) = probe::user(user) else { return Ok(Ended::Held) };
        let ids = Ids::of(&found, user);
        let (mut removed, mut errors) = (0, Vec::new());
        for dir in dirs {
            // A distribution's link to where it keeps them; the directories above are root's.
            let Ok(dir) = std::fs::canonicalize(dir) else { continue };
            let named = dir.starts_with(SPOOL);
            let seen = |name: &OsStr| files::stat(&dir.join(name)).ok().flatten();
            let ours = |name: &OsStr| {
                let called = |file: &FileStat| named && name == OsStr::new(user) && !is_dir(file);
                seen(name).is_some_and(|file| ids.contains(file.st_uid) || called(&file))
            };
            let (names, whole) = files::some(&dir, files::MOST_NAMES, &ours)?;
            if !whole {
                errors.push(Error::TooManyFiles { path: dir.clone(), limit: files::MOST_NAMES });
            }
            for name in names {
                let Some(file) = seen(&name) else { continue };
                let path = dir.join(&name);
                let gone =
                    if is_dir(&file) { files::remove_tree(&path, false) } else { files::remove(&path) };
                match gone {
                    Ok(()) => removed += 1,
                    Err(error) => errors.push(error),
                }
            }
        }
        ended(removed, errors)
    }

    /// Goes on after errors.
    pub(super) fn unmount(&mut self, user: &str, path: &Path) -> Result<Ended, Error> {
        let ids = probe::user(user).map(|found| Ids::of(&found, user));
        let text = files::read_named(Path::new("/proc/self/mountinfo"), 64 << 20)?;
        let mut points = mounted(&String::from_utf8_lossy(&text), path, |uid| {
            ids.as_ref().is_some_and(|ids| ids.contains(uid))
        });
        // The last one lies on top.
        points.reverse();
        let mut errors = Vec::new();
        for point in &points {
            match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => errors.push(Error::Unmount { path: point.clone(), source: errno.into() }),
            }
        }
        let there = files::stat(path)?.is_some();
        if there && let Err(error) = files::remove_tree(path, false) {
            errors.push(error);
        }
        ended(points.len() + usize::from(there), errors)
    }
}

fn is_dir(stat: &FileStat) -> bool {
    files::is(stat, SFlag::S_IFDIR)
}

fn ended(count: usize, mut errors: Vec<Error>) -> Result<Ended, Error> {
    match errors.pop() {
        None => Ok(if count == 0 { Ended::Held } else { Ended::Done }),
        Some(only) if errors.is_empty() => Err(only),
        Some(last) => {
            errors.push(last);
            Err(Error::Several { errors })
        }
    }
}

/// The user's manager, everything else in its slice, its runtime directory.
///
/// Source: systemd, units/user@.service.in, user-runtime-dir@.service.in; src/login/logind-user.c.
fn units(uid: u32) -> [String; 3] {
    [format!("user@{uid}.service"), format!("user-{uid}.slice"), format!("user-runtime-dir@{uid}.service")]
}

/// Mount points at or below `path`, and of FUSE mounts whose `user_id` is wanted, in the order of the text.
///
/// Source: proc_pid_mountinfo(5): the mount point is field 5, the type follows ` - `, the options come last; fuse(4).
fn mounted(mountinfo: &str, path: &Path, wanted: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = unescaped(left.split(' ').nth(4)?);
        let mut right = right.splitn(3, ' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let id = options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
        let fuse = kind.starts_with("fuse") && id.is_some_and(&wanted);
        (fuse || point.starts_with(path)).then_some(point)
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// Blank, tab, line end and backslash are octal there.
fn unescaped(text: &str) -> PathBuf {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(text.to_owned(), |text, (escape, char)| text.replace(escape, char)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_path_and_fuse_mounts_of_the_node_are_found() {
        let text = "30 1 0:40 / /run rw - tmpfs tmpfs rw\n\
            31 30 0:41 / /run/u7s rw,nosuid - tmpfs u7s rw,size=1024k\n\
            32 30 0:42 / /run/u7s-other rw - tmpfs x rw\n\
            33 1 0:43 / /srv/a\\040b rw - fuse.evil x rw,user_id=996,group_id=996\n\
            34 1 0:44 / /srv/sshfs rw - fuse.sshfs x rw,user_id=1000,group_id=1000\n\
            35 1 0:45 / /srv/odd rw - tmpfs user_id=996 rw\n";
        let points = mounted(text, Path::new("/run/u7s"), |uid| uid == 996);
        assert_eq!(points, [PathBuf::from("/run/u7s"), PathBuf::from("/srv/a b")]);
        assert!(mounted("", Path::new("/run/u7s"), |_| true).is_empty());
    }
}
