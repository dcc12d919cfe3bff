//! The real kubeadm with the user's own arguments: inside the node, or on the host without any right.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use u7s_host::control;
use u7s_host::enter::{self, Entry, Environment, Target};
use u7s_plan::facts::UserFact;
use u7s_plan::host::KUBEADM;

use super::machine::{self, Caller};
use crate::{End, Error};

/// nobody and nogroup: on the host the real kubeadm may print, and nothing else.
const NOBODY: u32 = 65534;

/// Flags whose value is a file that kubeadm reads.
///
/// Source: kubernetes 1.34, cmd/kubeadm/app/cmd; files that it writes are not among them.
const FILES: [&str; 4] = ["config", "kubeconfig", "discovery-file", "old-config"];

/// Flags whose value is a directory that kubeadm reads.
const DIRECTORIES: [&str; 1] = ["patches"];

/// A command that needs the node: entered, with kubeadm's own output and exit status.
///
/// Somebody who is neither root nor the node's user gets the real kubeadm's answer to him.
pub(super) fn enter(argv: &[OsString]) -> Result<End, Error> {
    if enter::inside() {
        return Err(here(argv));
    }
    let user = known_user()?;
    match (Caller::this(user.as_ref()), user) {
        (Caller::Other, _) => Err(here(argv)),
        (_, Some(user)) => within(argv, &user),
        (_, None) => Err(machine::no_namespace()),
    }
}

/// A command that only speaks: inside where a node runs, since kubeadm finds its CRI socket there, else on the host.
pub(super) fn speak(argv: &[OsString]) -> Result<End, Error> {
    if enter::inside() {
        return Err(here(argv));
    }
    let user = known_user()?;
    match (Caller::this(user.as_ref()), user) {
        (Caller::Other, _) => Err(here(argv)),
        (_, Some(user)) => match Target::find(&user) {
            Ok(target) => run(Entry::inside(&target, command(argv)), argv),
            Err(_) => on_host(argv),
        },
        (_, None) => on_host(argv),
    }
}

/// A command line that kubeadm refuses: said by kubeadm itself, which has no right to do anything if it does not.
pub(super) fn refuse(argv: &[OsString]) -> Result<End, Error> {
    if machine::effective_uid() == 0 && !enter::inside() { on_host(argv) } else { Err(here(argv)) }
}

fn known_user() -> Result<Option<UserFact>, Error> {
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    Ok(machine::user(&config))
}

fn within(argv: &[OsString], user: &UserFact) -> Result<End, Error> {
    machine::real(Path::new(KUBEADM))?;
    let target = match Target::find(user) {
        Err(enter::Error::Control(control::Error::NotRunning { .. })) => return Err(machine::no_namespace()),
        found => found?,
    };
    run(Entry::inside(&target, command(argv)), argv)
}

fn on_host(argv: &[OsString]) -> Result<End, Error> {
    machine::real(Path::new(KUBEADM))?;
    run(Entry::on_host(NOBODY, NOBODY, command(argv)), argv)
}

fn run(mut entry: Entry<'_>, argv: &[OsString]) -> Result<End, Error> {
    for named in names(argv) {
        // The program's own name comes first.
        let index = named.index + 1;
        if named.directory {
            entry.directory_argument(index, &named.prefix, &named.path)?;
        } else {
            entry.file(index, &named.prefix, &named.path)?;
        }
    }
    Ok(entry.run()?.status.into())
}

/// The caller's own rights are what this command may have: it takes our place.
fn here(argv: &[OsString]) -> Error {
    let program = match machine::real(Path::new(KUBEADM)) {
        Ok(program) => program,
        Err(unusable) => return unusable,
    };
    let caller = std::env::vars_os();
    let environment = if enter::inside() {
        Environment::inside(caller)
    } else {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/".into());
        Environment::unprivileged(caller).with("HOME", home)
    };
    enter::exec_here(program, argv.iter().cloned(), &environment).into()
}

fn command(argv: &[OsString]) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(KUBEADM)).chain(argv.iter().cloned())
}

/// A file or directory named on the command line.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    /// Position in argv.
    index: usize,
    /// What stands before the name in that argument: `--config=`, or nothing.
    prefix: String,
    path: PathBuf,
    directory: bool,
}

/// The names behind [`FILES`] and [`DIRECTORIES`], as `--flag NAME` or `--flag=NAME`, up to a `--`.
fn names(argv: &[OsString]) -> Vec<Named> {
    let mut names = Vec::new();
    let mut args = argv.iter().enumerate().take_while(|(_, arg)| *arg != "--").peekable();
    while let Some((index, arg)) = args.next() {
        let Some(flag) = arg.as_bytes().strip_prefix(b"--") else { continue };
        let (name, value) = match flag.iter().position(|byte| *byte == b'=') {
            Some(at) => (&flag[..at], flag.get(at + 1..)),
            None => (flag, None),
        };
        let known = |list: &[&str]| list.iter().any(|known| known.as_bytes() == name);
        let directory = known(&DIRECTORIES);
        if !directory && !known(&FILES) {
            continue;
        }
        let (index, prefix, path) = match (value, args.peek()) {
            (Some(value), _) => {
                (index, format!("--{}=", String::from_utf8_lossy(name)), OsStr::from_bytes(value))
            }
            (None, Some((next, value))) => (*next, String::new(), value.as_os_str()),
            (None, None) => continue,
        };
        if !path.is_empty() {
            names.push(Named { index, prefix, path: path.into(), directory });
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Vec<(usize, String, String, bool)> {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let plain =
            |named: Named| (named.index, named.prefix, named.path.display().to_string(), named.directory);
        names(&argv).into_iter().map(plain).collect()
    }

    #[test]
    fn files_that_kubeadm_reads_are_found_in_both_forms() {
        assert_eq!(found("join --config join.yaml"), [(2, String::new(), "join.yaml".into(), false)]);
        assert_eq!(found("join --config=a=b --v=5"), [(1, "--config=".into(), "a=b".into(), false)]);
        assert_eq!(
            found("upgrade node --patches ./p --kubeconfig /k"),
            [(3, String::new(), "./p".into(), true), (5, String::new(), "/k".into(), false)]
        );
    }

    #[test]
    fn files_that_it_writes_values_of_others_and_what_follows_two_dashes_are_not() {
        for line in
            ["config migrate --new-config out", "join --token --", "join -- --config x", "join --config", "x"]
        {
            assert_eq!(found(line), [], "{line}");
        }
    }
}
