//! `u7s load-images`, and images that `kubeadm upgrade` asks for: from root's disk into the node's store.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use u7s_host::apply::{Applier, Event, Tally};
use u7s_host::lock::Lock;
use u7s_host::probe;
use u7s_plan::config::Config;
use u7s_plan::init;
use u7s_plan::request::Form;
use u7s_plan::step::Plan;
use u7s_shim::kubeadm::words;

use super::machine;
use super::progress::Progress;
use crate::{End, Error, report};

/// Below the help of the command.
pub(super) const HELP: &str = "\
kubeadm init, join, upgrade apply and upgrade node do this themselves. On a node without a registry, use it where a
cluster's upgrade brings new images before any command runs here: kube-proxy's on a worker.

Examples:
  u7s load-images                          what lies in /var/lib/u7s/images, and is not in the store yet";

/// Loads what root has put into the directory of images.
///
/// # Errors
/// Not root; the node does not run; there are no images; those of loading.
pub(super) fn run() -> Result<End, Error> {
    if machine::effective_uid() != 0 {
        return Err(machine::not_privileged("u7s load-images"));
    }
    let config = machine::config()?;
    let sources = probe::preload(&config);
    if sources.is_empty() {
        let directory = config.images.preload.display();
        let remedy = "put OCI layouts or *.tar archives there that root alone may write".into();
        return Err(machine::need("Images", &format!("there are no images in {directory}"), remedy));
    }
    machine::user(&config).ok_or_else(machine::no_namespace).and_then(|user| machine::target(&user))?;
    let Tally { done, held, .. } = load(&config, &init::images(&sources))?;
    report::text(&format!("images of {done} sources were loaded, those of {held} were there\n"))?;
    Ok(End::OK)
}

/// Before a command of kubeadm's: what it asks for must be in the store, since there may be no registry.
///
/// A dry run says what would be loaded.
pub(super) fn before(argv: &[OsString]) -> Result<(), Error> {
    let words = words(argv);
    let words: Vec<&[u8]> = words.into_iter().map(OsStr::as_bytes).collect();
    if !matches!(words[..], [b"upgrade", b"apply" | b"node", ..]) || machine::effective_uid() != 0 {
        return Ok(());
    }
    let config = machine::config()?;
    let plan = init::images(&probe::preload(&config));
    if argv.iter().any(|arg| arg == "--dry-run" || arg == "--dry-run=true") {
        plan.to_string().lines().for_each(report::line);
        return Ok(());
    }
    load(&config, &plan).map(drop)
}

fn load(config: &Config, plan: &Plan) -> Result<Tally, Error> {
    let _lock = Lock::take()?;
    let mut progress = Progress::begin("load-images", Form::Text)?;
    // The phase is not the command's: that it held already would be said of something else.
    let mut tell = |event: Event<'_>| {
        if !matches!(event, Event::Phase(_)) {
            progress.hear(&event);
        }
    };
    Ok(Applier::new(&config.user, &mut tell)?.run(&plan.phases)?)
}
