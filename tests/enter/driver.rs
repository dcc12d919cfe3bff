//! The entering program, as a door would be.

use std::ffi::{CStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use u7s::{End, Error, report};
use u7s_host::enter::{Entry, Target, as_user, within};
use u7s_host::lock::Lock;
use u7s_plan::facts::UserFact;
use u7s_sys::keyring;

use crate::node::UID;

/// `PID UID` of the node.
pub(crate) const NODE: &str = "U7S_ENTER";
/// Index of the argument that is a file's name.
pub(crate) const FILE: &str = "U7S_ENTER_FILE";
/// As [`FILE`], of a directory.
pub(crate) const DIRECTORY: &str = "U7S_ENTER_DIRECTORY";
/// Seconds that the program may run.
pub(crate) const SECONDS: &str = "U7S_ENTER_SECONDS";
/// Not inside, but dropped on the host.
pub(crate) const HOST: &str = "U7S_ENTER_HOST";

/// A key in the session keyring of the entering program.
pub(crate) const KEY: &str = "U7S_ENTER_KEY";
/// The lock of init and reset is held meanwhile.
pub(crate) const LOCK: &str = "U7S_ENTER_LOCK";
/// Nothing is entered: what is to be done by a copy of this process, as the user or with all rights, and the file that it
/// reads.
pub(crate) const WORK: &str = "U7S_ENTER_WORK";

/// The name of that key.
pub(crate) const NAME: &CStr = c"u7s-test-secret";

/// Enters if this process was started to; the arguments are the program's.
pub(crate) fn run() -> Option<ExitCode> {
    if let Ok(work) = std::env::var(WORK) {
        return Some(report::finish("enter", copy(&work)));
    }
    let node = std::env::var(NODE).ok()?;
    Some(report::finish("enter", enter(&node)))
}

/// The argument whose index is in a variable.
fn named<'a>(argv: &'a [OsString], variable: &str) -> Result<Option<(usize, &'a Path)>, Error> {
    let Ok(index) = std::env::var(variable) else { return Ok(None) };
    let index = index.parse::<usize>().map_err(|error| Error::Usage(error.to_string()))?;
    Ok(argv.get(index).map(|path| (index, Path::new(path))))
}

/// Reads a file in a copy of this process.
fn copy(work: &str) -> Result<End, Error> {
    let path = std::env::args_os().nth(1).unwrap_or_default();
    let read = || std::fs::read(&path).is_ok();
    let deadline = Duration::from_secs(1);
    let user = UserFact { uid: UID, gid: UID, ..UserFact::default() };
    let done =
        if work == "as_user" { as_user(&user, deadline, read) } else { within("reading", deadline, read) };
    Ok(End::Code(u8::from(!done?)))
}

fn enter(node: &str) -> Result<End, Error> {
    let _lock = std::env::var_os(LOCK).map(|_| Lock::take()).transpose()?;
    if std::env::var_os(KEY).is_some() {
        let failed = |error: String| Error::Usage(error);
        keyring::join_empty().map_err(|errno| failed(errno.to_string()))?;
        keyring::add(NAME, b"TOPSECRET").map_err(|error| failed(error.to_string()))?;
    }
    let (pid, uid) = node.split_once(' ').ok_or_else(|| Error::Usage("PID UID".into()))?;
    let number = |text: &str| text.parse::<u32>().map_err(|error| Error::Usage(error.to_string()));
    let (pid, uid) = (number(pid)?, number(uid)?);
    let user = UserFact { uid, gid: uid, ..UserFact::default() };
    let argv: Vec<OsString> = std::env::args_os().skip(1).collect();
    let target = Target::verified(i32::try_from(pid).unwrap_or(0), &user)?;
    let mut entry = if std::env::var_os(HOST).is_some() {
        Entry::on_host(uid, uid, argv.clone())
    } else {
        Entry::inside(&target, argv.clone())
    };
    if let Ok(seconds) = std::env::var(SECONDS) {
        entry = entry.deadline(Duration::from_secs(number(&seconds)?.into()));
    }
    if let Some((index, path)) = named(&argv, FILE)? {
        entry.file(index, "", path)?;
    }
    if let Some((index, path)) = named(&argv, DIRECTORY)? {
        entry.directory_argument(index, "", path)?;
    }
    Ok(entry.run()?.status.into())
}
