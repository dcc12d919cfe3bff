//! The user, its subordinate ids, modules, sysctls, devices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use u7s_plan::subid::{self, Range};

use super::{Applier, Ended};
use crate::child::Job;
use crate::error::Error;
use crate::files::{self, Rights};
use crate::probe::{self, Modules};
use crate::programs;

/// By sync(1): the call that it makes cannot be interrupted, a child can be left behind. No part of a path is the user's to change.
pub(super) fn sync(paths: &[PathBuf], limit: Duration) -> Result<Ended, Error> {
    let args = std::iter::once("--file-system".as_ref()).chain(paths.iter().map(|path| path.as_os_str()));
    Job { deadline: limit, ..Job::new(&programs::needed("sync")?, args) }.check()?;
    Ok(Ended::Done)
}

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

impl Applier<'_> {
    /// By useradd: it knows the distribution's ranges, shadow files and locks. The password is locked, the shell refuses.
    pub(super) fn create_user(&mut self, name: &str, home: &Path) -> Result<Ended, Error> {
        if probe::user(name).is_some() {
            return Ok(Ended::Held);
        }
        let useradd = programs::needed("useradd")?;
        let nologin = programs::needed("nologin")?;
        self.undo.user(name)?;
        let group_exists = nix::unistd::Group::from_name(name).ok().flatten().is_some();
        let mut args: Vec<std::ffi::OsString> = vec!["--system".into()];
        args.extend(if group_exists {
            vec!["--gid".into(), name.into()]
        } else {
            vec!["--user-group".into()]
        });
        args.extend(["--no-create-home".into(), "--home-dir".into(), home.into()]);
        args.extend(["--shell".into(), nologin.into(), "--comment".into(), "rootless Kubernetes".into()]);
        args.extend(["--".into(), name.into()]);
        Job::new(&useradd, args).check()?;
        let user = self.user()?;
        if files::directory(home)?.is_none() {
            for missing in files::missing(home)? {
                self.undo.directory(&missing, None)?;
                let mode = if missing == home { 0o700 } else { 0o755 };
                files::make_dir(&missing, Rights { uid: 0, gid: 0, mode })?;
            }
            files::make_dir(home, Rights { uid: user.uid, gid: user.gid, mode: 0o700 })?;
        }
        Ok(Ended::Done)
    }

    /// By usermod, which takes the locks of the files.
    pub(super) fn add_subids(&mut self, user: &str, count: u32) -> Result<Ended, Error> {
        let (uids, gids) = (text(SUBUID)?, text(SUBGID)?);
        let uid = probe::user(user).ok_or_else(|| Error::NoUser { name: user.to_owned() })?.uid;
        let (has_uids, has_gids) = (has(&uids, user, uid), has(&gids, user, uid));
        if has_uids && has_gids {
            return Ok(Ended::Held);
        }
        let range = subid::allocate(&format!("{uids}\n{gids}"), &probe::users(), count)
            .map_err(|_| Error::NoSubids { count })?;
        let usermod = programs::needed("usermod")?;
        self.undo.subids(user, (!has_uids).then_some(range), (!has_gids).then_some(range))?;
        let mut args = Vec::new();
        if !has_uids {
            args.extend(["--add-subuids".to_owned(), range.to_string()]);
        }
        if !has_gids {
            args.extend(["--add-subgids".to_owned(), range.to_string()]);
        }
        args.extend(["--".to_owned(), user.to_owned()]);
        Job::new(&usermod, args).check()?;
        if has(&text(SUBUID)?, user, uid) && has(&text(SUBGID)?, user, uid) {
            return Ok(Ended::Done);
        }
        Err(Error::SubidsMissing { user: user.to_owned(), count })
    }

    pub(super) fn set_sysctl(&mut self, key: &str, value: &str) -> Result<Ended, Error> {
        let path = sysctl_path(key)?;
        let former = probe::sysctl(key);
        if former.as_deref().is_some_and(|former| same(former, value)) {
            return Ok(Ended::Held);
        }
        if probe::read_only(key) {
            return Ok(Ended::Skipped("in this network namespace nobody may set it".into()));
        }
        if let Some(former) = former {
            self.undo.sysctl(key, &former)?;
        }
        write_sysctl(&path, value)?;
        Ok(Ended::Done)
    }

    pub(super) fn set_device_mode(&mut self, path: &Path, mode: u32) -> Result<Ended, Error> {
        match files::device_mode(path)? {
            Some(former) if former == mode => return Ok(Ended::Held),
            Some(former) => self.undo.device(path, former)?,
            None => return Ok(Ended::Skipped("it is not there".into())),
        }
        files::set_device_mode(path, mode)?;
        Ok(Ended::Done)
    }
}

/// A module that cannot be loaded is no error here: it may be built in under another name, and its effect is judged by
/// preflight and by what needs it.
pub(super) fn load_module(name: &str) -> Result<Ended, Error> {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    if Modules::of(&release.unwrap_or_default()).has(name) == Some(true) {
        return Ok(Ended::Held);
    }
    let modprobe = match programs::needed("modprobe") {
        Ok(modprobe) => modprobe,
        Err(error) => return Ok(Ended::Skipped(error.to_string())),
    };
    match Job::new(&modprobe, ["--", name]).check() {
        Ok(_) => Ok(Ended::Done),
        Err(error @ Error::Failed { .. }) => Ok(Ended::Skipped(error.to_string())),
        Err(error) => Err(error),
    }
}

pub(super) fn sysctl_path(key: &str) -> Result<PathBuf, Error> {
    let plain = !key.is_empty() && key.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if plain { Ok(Path::new("/proc/sys").join(key)) } else { Err(Error::SysctlKey { key: key.to_owned() }) }
}

pub(super) fn write_sysctl(path: &Path, value: &str) -> Result<(), Error> {
    fs::write(path, value).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// The kernel parts several numbers with tabs.
fn same(left: &str, right: &str) -> bool {
    left.split_ascii_whitespace().eq(right.split_ascii_whitespace())
}

fn text(path: &str) -> Result<String, Error> {
    // Large sites list every user here.
    let bytes = files::read(Path::new(path), 64 << 20)?.map(|file| file.bytes).unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The user has subordinate ids in this text, or lines of its own that we must not add to: preflight names those.
fn has(text: &str, user: &str, uid: u32) -> bool {
    !matches!(subid::parse(text, user, uid), Err(subid::Error::Missing { .. } | subid::Error::TooFew { .. }))
}

/// Takes a range away again.
pub(super) fn remove_subids(user: &str, uids: Option<Range>, gids: Option<Range>) -> Result<(), Error> {
    let usermod = programs::needed("usermod")?;
    let mut args = Vec::new();
    if let Some(range) = uids.filter(|range| listed(SUBUID, user, *range)) {
        args.extend(["--del-subuids".to_owned(), range.to_string()]);
    }
    if let Some(range) = gids.filter(|range| listed(SUBGID, user, *range)) {
        args.extend(["--del-subgids".to_owned(), range.to_string()]);
    }
    if args.is_empty() {
        return Ok(());
    }
    args.extend(["--".to_owned(), user.to_owned()]);
    Job::new(&usermod, args).check().map(drop)
}

fn listed(path: &str, user: &str, range: Range) -> bool {
    let line = format!("{user}:{}:{}", range.start, range.count);
    text(path).is_ok_and(|text| text.lines().any(|seen| seen.trim_end() == line))
}

/// Deletes a user that [`Applier::create_user`] made.
pub(super) fn remove_user(name: &str) -> Result<(), Error> {
    if probe::user(name).is_none() {
        return Ok(());
    }
    Job::new(&programs::needed("userdel")?, ["--", name]).check().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_key_cannot_lead_out_of_proc_sys() {
        assert!(sysctl_path("net/ipv4/ip_forward").is_ok());
        for key in ["", "/etc/passwd", "net/../../../etc/x", "net//x", "./x"] {
            assert_eq!(sysctl_path(key).unwrap_err().to_string(), format!("{key} is not a sysctl"));
        }
    }

    #[test]
    fn tabs_and_blanks_between_numbers_are_the_same() {
        assert!(same("0\t2147483647", "0 2147483647"));
        assert!(!same("1\t0", "0 1"));
    }

    #[test]
    fn a_module_that_no_kernel_has_is_skipped_with_a_reason() {
        let ended = load_module("u7s-no-such-module").unwrap();
        assert!(matches!(&ended, Ended::Skipped(why) if why.contains("modprobe")), "{ended:?}");
    }
}
