//! Kubeconfigs for root and the node's user.

use std::path::Path;

use serde_json::Value;
use u7s_plan::step::{Owner, Realm};
use u7s_plan::{kubeconfig, yaml};

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
        let failed = |reason: String| Error::Kubeconfig { path: source.to_owned(), reason };
        let text = files::read_text(source, LIMIT)?.ok_or_else(|| failed("it does not exist".into()))?;
        let document = single(&text).map_err(failed)?;
        let rebuilt = kubeconfig::rebuild(&document).map_err(|error| failed(error.to_string()))?;
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

/// Whether what lies at `path` needs nothing of us, though its owner may have added to it since.
///
/// Nobody but its owner may read it: what is looser is written anew.
fn leads_there(path: &Path, rights: Rights, rebuilt: &str) -> Result<bool, Error> {
    let Some(seen) = files::read(path, LIMIT)?.filter(|seen| seen.rights == rights) else { return Ok(false) };
    let document = std::str::from_utf8(&seen.bytes).ok().and_then(|text| single(text).ok());
    Ok(document.is_some_and(|document| kubeconfig::holds(&document, rebuilt)))
}

fn single(text: &str) -> Result<Value, String> {
    // The parser's own words could hold a piece of a key.
    let mut documents = yaml::documents(text, "").map_err(|_| "it is no YAML".to_owned())?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document),
        _ => Err("it is not one document".to_owned()),
    }
}
