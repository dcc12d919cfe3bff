//! Kubeconfigs for root and the node's user.

use std::path::Path;

use u7s_plan::kubeconfig;
use u7s_plan::step::{Owner, Realm};

use super::{Applier, Ended};
use crate::error::Error;
use crate::files::{self, LIMIT, Rights};

impl Applier<'_> {
    /// The source belongs to the node's user: it is read as data, and only checked parts of it are written.
    pub(super) fn publish(
        &mut self,
        realm: Realm,
        source: &Path,
        path: &Path,
        owner: &Owner,
    ) -> Result<Ended, Error> {
        let rebuilt = clean(source)?;
        if let Some(dir) = path.parent() {
            let rights = self.rights(owner, 0o700)?;
            self.make_dir(realm, dir, rights, false)?;
        }
        let rights = self.rights(owner, 0o600)?;
        if leads_there(path, rights, &rebuilt)? {
            return Ok(Ended::Held);
        }
        self.write_file(realm, path, rights, rebuilt.as_bytes())
    }

    /// Only what we wrote is taken away; a kubeconfig that was there before comes back.
    pub(super) fn unpublish(&mut self, realm: Realm, path: &Path) -> Result<Ended, Error> {
        if self.undo.former().files.contains_key(path) {
            self.remove_file(realm, path)
        } else {
            Ok(Ended::Held)
        }
    }
}

/// A kubeconfig made of the checked parts of `source`, which belongs to the node's user and is read as data.
///
/// # Errors
/// `Kubeconfig`: it does not exist, is no kubeconfig, or holds more than an address and certificates. Those of reading.
pub fn clean(source: &Path) -> Result<String, Error> {
    let failed = |reason: String| Error::Kubeconfig { path: source.to_owned(), reason };
    let text = files::read_text(source, LIMIT)?.ok_or_else(|| failed("it does not exist".into()))?;
    let document = kubeconfig::parse(&text).map_err(|why| failed(why.to_owned()))?;
    kubeconfig::rebuild(&document).map_err(|error| failed(error.to_string()))
}

/// Whether what lies at `path` needs nothing of us, though its owner may have added to it since.
///
/// Nobody but its owner may read it: what is looser is written anew.
fn leads_there(path: &Path, rights: Rights, rebuilt: &str) -> Result<bool, Error> {
    let Some(seen) = files::read(path, LIMIT)?.filter(|seen| seen.rights == rights) else { return Ok(false) };
    let document = std::str::from_utf8(&seen.bytes).ok().and_then(|text| kubeconfig::parse(text).ok());
    Ok(document.is_some_and(|document| kubeconfig::holds(&document, rebuilt)))
}
