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

/// What kubeadm does with the file or directory that a flag names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Reads the file.
    Read,
    /// Reads the files in the directory.
    ReadAll,
    /// Writes the file.
    Write,
    /// Reads and writes certificates, keys and kubeconfigs in the directory.
    Keep,
}

/// Flags whose value is a file or directory of the caller's.
///
/// Source: kubernetes 1.34, cmd/kubeadm/app/cmd.
const FLAGS: [(&str, Use); 8] = [
    ("config", Use::Read),
    ("kubeconfig", Use::Read),
    ("discovery-file", Use::Read),
    ("old-config", Use::Read),
    ("patches", Use::ReadAll),
    ("new-config", Use::Write),
    ("cert-dir", Use::Keep),
    ("kubeconfig-dir", Use::Keep),
];

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
        match named.for_ {
            Use::Read => entry.file(index, &named.prefix, &named.path)?,
            Use::ReadAll => entry.directory_argument(index, &named.prefix, &named.path)?,
            Use::Write => entry.output_file(index, &named.prefix, &named.path)?,
            Use::Keep => entry.output_directory(index, &named.prefix, &named.path)?,
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
    for_: Use,
}

/// Whether what these arguments do to a directory of certificates is done there and then.
///
/// Other commands write the directory's name into manifests, where it must stay what it is.
fn keeps(argv: &[OsString]) -> bool {
    let mut words = argv.iter().filter(|arg| !arg.as_bytes().starts_with(b"-")).map(OsString::as_os_str);
    match words.next().and_then(OsStr::to_str) {
        Some("certs" | "certificates") => true,
        Some("init") => {
            words.next() == Some(OsStr::new("phase"))
                && words.next().is_some_and(|word| word == "certs" || word == "kubeconfig")
        }
        _ => false,
    }
}

/// The names behind [`FLAGS`], as `--flag NAME` or `--flag=NAME`, up to a `--`.
fn names(argv: &[OsString]) -> Vec<Named> {
    let mut names = Vec::new();
    let mut args = argv.iter().enumerate().take_while(|(_, arg)| *arg != "--").peekable();
    while let Some((index, arg)) = args.next() {
        let Some(flag) = arg.as_bytes().strip_prefix(b"--") else { continue };
        let (name, value) = match flag.iter().position(|byte| *byte == b'=') {
            Some(at) => (&flag[..at], flag.get(at + 1..)),
            None => (flag, None),
        };
        let Some((_, for_)) = FLAGS.iter().find(|(known, _)| known.as_bytes() == name) else { continue };
        if *for_ == Use::Keep && !keeps(argv) {
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
            names.push(Named { index, prefix, path: path.into(), for_: *for_ });
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Vec<(usize, String, String, Use)> {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let plain = |named: Named| (named.index, named.prefix, named.path.display().to_string(), named.for_);
        names(&argv).into_iter().map(plain).collect()
    }

    #[test]
    fn files_that_kubeadm_reads_are_found_in_both_forms() {
        assert_eq!(found("join --config join.yaml"), [(2, String::new(), "join.yaml".into(), Use::Read)]);
        assert_eq!(found("join --config=a=b --v=5"), [(1, "--config=".into(), "a=b".into(), Use::Read)]);
        assert_eq!(
            found("upgrade node --patches ./p --kubeconfig /k"),
            [(3, String::new(), "./p".into(), Use::ReadAll), (5, String::new(), "/k".into(), Use::Read)]
        );
    }

    #[test]
    fn files_that_kubeadm_writes_are_found_where_it_writes_them_at_once() {
        assert_eq!(found("config migrate --new-config out"), [(3, String::new(), "out".into(), Use::Write)]);
        assert_eq!(
            found("certs generate-csr --cert-dir=c --kubeconfig-dir k"),
            [(2, "--cert-dir=".into(), "c".into(), Use::Keep), (4, String::new(), "k".into(), Use::Keep)]
        );
        assert_eq!(found("init phase certs all --cert-dir c").len(), 1);
        assert_eq!(found("init phase kubeconfig admin --cert-dir c --kubeconfig-dir=k").len(), 2);
    }

    #[test]
    fn directories_that_stay_in_manifests_values_of_others_and_what_follows_two_dashes_are_not() {
        for line in [
            "init phase etcd local --cert-dir c",
            "init --cert-dir c",
            "join --token --",
            "join -- --config x",
            "join --config",
            "x",
        ] {
            assert_eq!(found(line), [], "{line}");
        }
    }
}
