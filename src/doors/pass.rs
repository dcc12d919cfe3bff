//! The real kubeadm with the user's own arguments: inside the node, or on the host without any right.

use std::ffi::OsString;
use std::path::Path;

use u7s_host::enter::{self, Author, Entry, Environment, Shown, Target};
use u7s_plan::facts::UserFact;
use u7s_plan::host::{KUBEADM, PATCHES_DIR};
use u7s_plan::yaml;
use u7s_shim::kubeadm::{InitPhase, init_phase, words};

use super::arguments::{self, Named, Use};
use super::checked::{self, Form};
use super::images;
use super::machine::{self, Caller, NOBODY};
use super::phase;
use crate::{End, Error};

/// A command that needs the node: entered, with kubeadm's own output and exit status.
///
/// Somebody who is neither root nor the node's user gets the real kubeadm's answer to him.
pub(super) fn enter(argv: &[OsString]) -> Result<End, Error> {
    if enter::inside() {
        return Err(here(&arguments::patched(argv)));
    }
    let user = known_user()?;
    match (Caller::this(user.as_ref()), user) {
        (Caller::Other, _) => Err(here(&arguments::patched(argv))),
        (_, Some(user)) => within(argv, &user),
        (_, None) => Err(machine::no_namespace()),
    }
}

/// A command that only speaks: inside where a node runs, since kubeadm finds its CRI socket there, else on the host.
pub(super) fn speak(argv: &[OsString]) -> Result<End, Error> {
    if enter::inside() {
        return Err(here(argv));
    }
    if is_same_everywhere(argv) && machine::effective_uid() == 0 {
        return Err(as_nobody(argv));
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

/// Commands that look at no machine: no need to enter the node for them, which is most of what they would cost.
fn is_same_everywhere(argv: &[OsString]) -> bool {
    argv.first().is_some_and(|word| ["version", "completion", "help"].iter().any(|same| word == same))
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
    let target = machine::target(user)?;
    if init_phase(argv).is_some() || words(argv).first().is_some_and(|word| *word == "upgrade") {
        machine::sound_kubeconfigs()?;
    }
    if let Some(phase) = init_phase(argv)
        && let Some(standing) = phase::Standing::find(user)?
    {
        return in_cluster(&target, &phase, &standing);
    }
    images::before(argv)?;
    let argv = &arguments::patched(argv)[..];
    run(Entry::inside(&target, command(argv)), argv)
}

/// A phase of init with the configuration of the cluster that stands, the flags laid over it.
fn in_cluster(target: &Target, phase: &InitPhase, standing: &phase::Standing) -> Result<End, Error> {
    let placeholder = std::iter::once(OsString::from("--config"));
    let mut entry = Entry::inside(target, command(&phase.argv).chain(placeholder));
    let his = phase.request.value("patches").filter(|path| !path.is_empty());
    let copy = |path| entry.copied(Path::new(path), Author::Root, Path::new(PATCHES_DIR));
    let both = his.map(copy).transpose()?.flatten();
    let text = standing.configuration(&phase.request, both.unwrap_or_else(|| PATCHES_DIR.into()))?;
    let path = entry.carry("u7s-config", text.as_bytes())?;
    entry.argument(phase.argv.len() + 1, format!("--config={}", path.display()));
    run(entry, &phase.argv)
}

/// On the host the real kubeadm may print, and nothing else.
fn on_host(argv: &[OsString]) -> Result<End, Error> {
    machine::real(Path::new(KUBEADM))?;
    run(Entry::on_host(NOBODY, NOBODY, command(argv)), argv)
}

fn run(mut entry: Entry<'_>, argv: &[OsString]) -> Result<End, Error> {
    let patched = arguments::is_patched(argv);
    for named in arguments::names(argv) {
        // The program's own name comes first.
        let index = named.index + 1;
        match named.for_ {
            Use::Read if patched && named.flag == "config" => config(&mut entry, &named)?,
            Use::Read => entry.file(index, &named.prefix, &named.path)?,
            Use::ReadAll if patched => patches(&mut entry, &named)?,
            Use::ReadAll => entry.directory_argument(index, &named.prefix, &named.path)?,
            Use::Write => entry.output_file(index, &named.prefix, &named.path)?,
            Use::Keep(kept) => entry.output_directory(index, &named.prefix, (&named.path, kept))?,
        }
    }
    match Form::of(argv) {
        Some(form) => checked::run(entry, form),
        None => Ok(entry.shown(Shown::Text).run()?.status.into()),
    }
}

/// The caller's patches and the node's, which come last.
fn patches(entry: &mut Entry<'_>, named: &Named) -> Result<(), Error> {
    if let Some(both) = entry.copied(&named.path, Author::Root, Path::new(PATCHES_DIR))? {
        entry.argument(named.index + 1, format!("{}{}", named.prefix, both.display()));
    }
    Ok(())
}

/// The caller's documents, with his patches and the node's; documents that cannot be read are left to kubeadm.
fn config(entry: &mut Entry<'_>, named: &Named) -> Result<(), Error> {
    let (text, author) = machine::authored(&named.path)?;
    let Ok(documents) = yaml::documents(&text, &named.path.display().to_string()) else {
        let path = entry.carry("u7s-argument", text.as_bytes())?;
        entry.argument(named.index + 1, format!("{}{}", named.prefix, path.display()));
        return Ok(());
    };
    let both = match arguments::patches_of(&documents) {
        Some(his) => entry.copied(&his, author, Path::new(PATCHES_DIR))?,
        None => None,
    };
    let directory = both.unwrap_or_else(|| PATCHES_DIR.into());
    let text = arguments::with_patches(documents, &directory.display().to_string()).unwrap_or(text);
    let path = entry.carry("u7s-config", text.as_bytes())?;
    entry.argument(named.index + 1, format!("{}{}", named.prefix, path.display()));
    Ok(())
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

/// The real kubeadm takes our place without any right.
fn as_nobody(argv: &[OsString]) -> Error {
    match machine::real(Path::new(KUBEADM)) {
        Ok(program) => {
            let environment = Environment::unprivileged(std::env::vars_os());
            enter::exec_as(NOBODY, NOBODY, program, argv.iter().cloned(), &environment).into()
        }
        Err(unusable) => unusable,
    }
}

fn command(argv: &[OsString]) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(KUBEADM)).chain(argv.iter().cloned())
}
