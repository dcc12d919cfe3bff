//! Files and directories.

use std::collections::BTreeSet;
use std::path::Path;

use u7s_plan::step::Realm;

use super::{Applier, Ended, own};
use crate::error::Error;
use crate::files::{self, LIMIT, Rights, Whole};
use crate::undo::FormerFile;

impl Applier<'_> {
    pub(super) fn make_dir(
        &mut self,
        realm: Realm,
        path: &Path,
        rights: Rights,
        fit: bool,
    ) -> Result<Ended, Error> {
        match files::directory(path) {
            Ok(Some(seen)) if !fit || seen == rights => return Ok(Ended::Held),
            // A directory that is only needed may be root's link to one.
            Err(Error::Link { .. }) if !fit && of_root(path) && path.is_dir() => return Ok(Ended::Held),
            Ok(Some(seen)) => self.undo.directory(path, Some(seen))?,
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        let missing = files::missing(path)?;
        for ancestor in &missing {
            self.undo.directory(ancestor, None)?;
        }
        let (uid, gid) = if realm == Realm::Root { own() } else { (rights.uid, rights.gid) };
        let above = Rights { uid, gid, mode: 0o755 };
        self.as_realm(realm, || {
            for ancestor in missing.iter().filter(|ancestor| *ancestor != path) {
                files::make_dir(ancestor, above)?;
            }
            files::make_dir(path, rights)
        })?;
        Ok(Ended::Done)
    }

    pub(super) fn write_file(
        &mut self,
        realm: Realm,
        path: &Path,
        rights: Rights,
        bytes: &[u8],
    ) -> Result<Ended, Error> {
        let seen = files::read(path, LIMIT)?;
        if seen.as_ref().is_some_and(|seen| seen.rights == rights && seen.bytes == bytes) {
            return Ok(Ended::Held);
        }
        self.undo.file(path, seen.as_ref())?;
        self.as_realm(realm, || files::replace(path, bytes, rights))?;
        Ok(Ended::Done)
    }

    /// Tells a difference and leaves it alone; a missing file is written.
    pub(super) fn keep_file(
        &mut self,
        realm: Realm,
        path: &Path,
        rights: Rights,
        text: Option<&str>,
    ) -> Result<Ended, Error> {
        let what = match (files::read(path, LIMIT)?, text) {
            (None, None) => return Ok(Ended::Held),
            (None, Some(text)) => return self.write_file(realm, path, rights, text.as_bytes()),
            (Some(seen), Some(text)) if seen.bytes == text.as_bytes() => return Ok(Ended::Held),
            (Some(seen), Some(text)) => format!("this init would change {}", changes(&seen.bytes, text)),
            (Some(_), None) => "this init would remove it".to_owned(),
        };
        Ok(Ended::Skipped(format!(
            "{what}; the running node is left alone. To apply it, which restarts all pods of the node: \
             systemctl stop u7s.service, then the same kubeadm init again"
        )))
    }

    /// Puts back what was there before we wrote, or removes the file.
    pub(super) fn remove_file(&mut self, realm: Realm, path: &Path) -> Result<Ended, Error> {
        if let Some(former) = self.undo.former().files.get(path).cloned().flatten() {
            return self.put_back(realm, path, &former);
        }
        let there = files::left(path)?;
        if there {
            self.as_realm(realm, || {
                files::remove(path)?;
                path.parent().map_or(Ok(()), files::settle)
            })?;
        }
        self.undo.forget_file(path)?;
        Ok(if there { Ended::Done } else { Ended::Held })
    }

    pub(super) fn put_back(
        &mut self,
        realm: Realm,
        path: &Path,
        former: &FormerFile,
    ) -> Result<Ended, Error> {
        let rights = Rights::from(former.rights);
        let bytes = former.bytes().ok_or_else(|| Error::Damaged { path: path.to_owned() })?;
        let same = files::read(path, LIMIT)? == Some(Whole { rights, bytes: bytes.clone() });
        if !same {
            self.as_realm(realm, || files::replace(path, &bytes, rights))?;
        }
        self.undo.forget_file(path)?;
        Ok(if same { Ended::Held } else { Ended::Done })
    }

    pub(super) fn remove_tree(&mut self, realm: Realm, path: &Path, keep_root: bool) -> Result<Ended, Error> {
        let empty = match files::directory(path)? {
            None => return Ok(Ended::Held),
            Some(_) => files::is_empty(path)?,
        };
        if keep_root && empty {
            return Ok(Ended::Held);
        }
        self.as_realm(realm, || files::remove_tree(path, keep_root))?;
        Ok(Ended::Done)
    }
}

/// The settings whose lines differ, by the first word of each line, at most five.
///
/// The file may be the node's user's: what is no plain word of it is not repeated.
fn changes(seen: &[u8], wanted: &str) -> String {
    let seen = String::from_utf8_lossy(seen);
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (seen.lines().collect(), wanted.lines().collect());
    let word = |line: &&str| {
        let line = line.trim_start_matches(|char: char| !char.is_ascii_alphanumeric());
        let end = line.find(|char: char| !(char.is_ascii_alphanumeric() || "_-.".contains(char)));
        line.get(..end.unwrap_or(line.len()).min(60)).unwrap_or_default().to_owned()
    };
    let words: BTreeSet<String> =
        old.symmetric_difference(&new).map(word).filter(|word| !word.is_empty()).collect();
    let more = if words.len() > 5 { ", …" } else { "" };
    let named: Vec<String> = words.into_iter().take(5).collect();
    if named.is_empty() { "its form".to_owned() } else { format!("{}{more}", named.join(", ")) }
}

/// Whether nobody but root (or this process' user) can have made any part of `path`, itself not followed.
fn of_root(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (uid, _) = own();
    path.ancestors().all(|part| {
        std::fs::symlink_metadata(part).is_ok_and(|seen| {
            let others = seen.mode() & 0o022 != 0 && seen.mode() & 0o1000 == 0 && !seen.is_symlink();
            (seen.uid() == 0 || seen.uid() == uid) && !others
        })
    })
}

/// The user's file beside ours: what is repeated of it are plain words.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let told = changes(data, "nameserver 10.41.0.3\nsearch example.org\n");
    assert!(told.len() <= 400 && !told.contains(char::is_control), "{told:?}");
}
