//! The user's own tree: directories to bind, files that the node sees instead of the host's, and what is enabled.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use u7s_plan::node::{ComponentName, NodeSpec};

use crate::Error;

/// The longest units.json that is read, bytes.
const UNITS_BYTES: u64 = 4096;

/// The node's directory below the user's home.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the sources of binds that lie in the user's home, and writes resolv.conf and hosts.
    ///
    /// Sources elsewhere, such as a directory of the host, must exist: making them is root's part.
    ///
    /// # Errors
    /// [`Error::WriteFile`].
    pub(crate) fn prepare(spec: &NodeSpec) -> Result<Self, Error> {
        let tree = Self { root: spec.user.home.join("node") };
        make_dir(&tree.root, 0o700)?;
        for bind in &spec.binds {
            if bind.source.starts_with(&spec.user.home) {
                make_dir(&bind.source, bind.mode)?;
            }
        }
        replace(&tree.resolv_conf(), spec.resolv_conf.as_bytes(), 0o644)?;
        replace(&tree.hosts(), spec.hosts.as_bytes(), 0o644)?;
        Ok(tree)
    }

    /// The file that is /etc/resolv.conf inside.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.root.join("resolv.conf")
    }

    /// The file that is /etc/hosts inside.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.root.join("hosts")
    }

    /// Which components are started with the node; none if nothing was ever enabled.
    ///
    /// A file that cannot be understood counts as empty: refusing to start the node would be worse, and `enable`
    /// writes it anew.
    pub(crate) fn enabled(&self) -> BTreeMap<ComponentName, bool> {
        let mut text = Vec::new();
        let read = File::open(self.units()).and_then(|file| file.take(UNITS_BYTES).read_to_end(&mut text));
        read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Remembers which components are started with the node.
    ///
    /// # Errors
    /// [`Error::WriteFile`].
    pub(crate) fn enable(&self, enabled: &BTreeMap<ComponentName, bool>) -> Result<(), Error> {
        let text = serde_json::to_vec(enabled).map_err(|source| Error::Message { source })?;
        replace(&self.units(), &text, 0o600)
    }

    fn units(&self) -> PathBuf {
        self.root.join("units.json")
    }
}

/// Makes a directory and its missing parents; one that is there keeps its mode.
fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or_else(|| Path::new("/"));
            make_dir(parent, 0o700)?;
            DirBuilder::new().mode(mode).create(path).map_err(Error::write(path))
        }
        other => other.map_err(Error::write(path)),
    }
}

/// Writes a file by temporary sibling and rename; equal text is left alone.
fn replace(path: &Path, text: &[u8], mode: u32) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let sibling = path.with_extension("new");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&sibling)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&sibling, path)
    };
    write().map_err(Error::write(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_enabled_is_remembered_and_nonsense_is_nothing() {
        let home = tempfile::tempdir().unwrap();
        let tree = Tree { root: home.path().to_owned() };
        assert_eq!(tree.enabled(), BTreeMap::new());
        let enabled = BTreeMap::from([(ComponentName::Kubelet, true)]);
        tree.enable(&enabled).unwrap();
        assert_eq!(tree.enabled(), enabled);
        assert_eq!(fs::read_to_string(tree.units()).unwrap(), r#"{"kubelet":true}"#);
        fs::write(tree.units(), "{").unwrap();
        assert_eq!(tree.enabled(), BTreeMap::new());
    }

    #[test]
    fn directories_get_their_mode_and_existing_ones_keep_theirs() {
        let home = tempfile::tempdir().unwrap();
        let made = home.path().join("a/b");
        make_dir(&made, 0o750).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o750);
        make_dir(&made, 0o700).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o750);
    }
}
