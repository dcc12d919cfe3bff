//! The user's own tree: directories to bind, files that the node sees instead of the host's, and what is enabled.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use u7s_plan::node::{ComponentName, HostPort, NodeSpec};

use crate::Error;

/// The longest units.json that is read, bytes.
const UNITS_BYTES: u64 = 4096;

/// The longest ports.json that is read, bytes.
const PORTS_BYTES: u64 = 64 * 1024;

/// Room that is made before a file is read, bytes.
const READ: usize = 1024;

/// The node's directory below the user's home.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the sources of binds that lie in the user's home and a fresh /var/tmp, and writes resolv.conf and hosts.
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
        tree.renew_var_tmp()?;
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

    /// The directory that is /var/tmp inside.
    pub(crate) fn var_tmp(&self) -> PathBuf {
        self.root.join("var-tmp")
    }

    /// What an earlier run left in its /var/tmp: pid 1 removes it, since it may belong to any id of the node.
    pub(crate) fn old_var_tmp(&self) -> PathBuf {
        self.root.join("var-tmp.old")
    }

    /// Puts the former /var/tmp aside, unless an older one is still being removed, and makes an empty one.
    ///
    /// What was in it is of no use: whoever wrote it has ended. Half-copied images would fill the disk.
    fn renew_var_tmp(&self) -> Result<(), Error> {
        let (path, old) = (self.var_tmp(), self.old_var_tmp());
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir()) {
            fs::remove_file(&path).map_err(Error::write(&path))?;
        }
        if path.is_dir() && fs::symlink_metadata(&old).is_err() {
            fs::rename(&path, &old).map_err(Error::write(&old))?;
        }
        make_dir(&path, 0o700)?;
        // Whatever the umask is; the directories above it are the user's alone.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).map_err(Error::write(&path))
    }

    /// Which components are started with the node; none if nothing was ever enabled.
    ///
    /// A file that cannot be understood counts as empty: refusing to start the node would be worse, and `enable`
    /// writes it anew.
    pub(crate) fn enabled(&self) -> BTreeMap<ComponentName, bool> {
        let text = read_plain(&self.units(), UNITS_BYTES);
        text.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Remembers which components are started with the node.
    ///
    /// # Errors
    /// [`Error::WriteFile`].
    pub(crate) fn enable(&self, enabled: &BTreeMap<ComponentName, bool>) -> Result<(), Error> {
        let text = serde_json::to_vec(enabled).map_err(|source| Error::Message { source })?;
        replace(&self.units(), &text, 0o600)?;
        self.settle()
    }

    /// Brings the names to disk: what was asked for and answered outlives a power cut.
    fn settle(&self) -> Result<(), Error> {
        fs::File::open(&self.root)
            .and_then(|directory| directory.sync_all())
            .map_err(Error::write(&self.root))
    }

    /// Ports that an administrator added; none if there is no list, or none that can be understood.
    pub(crate) fn ports(&self) -> Vec<HostPort> {
        let text = read_plain(&self.port_list(), PORTS_BYTES);
        text.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Remembers the administrator's ports.
    ///
    /// # Errors
    /// [`Error::WriteFile`].
    pub(crate) fn keep_ports(&self, ports: &[HostPort]) -> Result<(), Error> {
        let text = serde_json::to_vec(ports).map_err(|source| Error::Message { source })?;
        replace(&self.port_list(), &text, 0o600)?;
        self.settle()
    }

    fn port_list(&self) -> PathBuf {
        self.root.join("ports.json")
    }

    fn units(&self) -> PathBuf {
        self.root.join("units.json")
    }
}

/// Makes a directory and its missing parents; one that is there keeps its mode.
fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or_else(|| Path::new("/"));
            make_dir(parent, 0o700)?;
            DirBuilder::new().mode(mode).create(path).map_err(Error::write(path))
        }
        other => other.map_err(Error::write(path)),
    }
}

/// Writes a file by temporary sibling and rename; equal text is left alone.
///
/// Whoever broke out of a pod writes here too: what stands in the place of the file or its sibling, such as a FIFO, a
/// link or a directory, is neither followed nor waited for, but put aside.
fn replace(path: &Path, text: &[u8], mode: u32) -> Result<(), Error> {
    if read_plain(path, text.len() as u64 + 1).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let sibling = path.with_extension("new");
    let write = || {
        clear(&sibling)?;
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            clear(path)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&sibling)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&sibling, path)
    };
    write().map_err(Error::write(path))
}

/// Reads at most `limit` bytes of a regular file; anything else that has its name is refused at once.
fn read_plain(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::with_capacity(READ);
    file.take(limit).read_to_end(&mut text)?;
    Ok(text)
}

/// Frees a name. A directory is only renamed: how much is in it was decided by somebody else.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.is_dir() => fs::remove_file(path),
        Ok(_) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            fs::rename(path, path.with_extension(format!("aside-{}", since.as_nanos())))
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn var_tmp_is_empty_at_each_start_whatever_was_put_there() {
        let home = tempfile::tempdir().unwrap();
        let tree = Tree { root: home.path().to_owned() };
        tree.renew_var_tmp().unwrap();
        fs::write(tree.var_tmp().join("half-an-image"), "x").unwrap();
        tree.renew_var_tmp().unwrap();
        assert_eq!(fs::read_dir(tree.var_tmp()).unwrap().count(), 0);
        assert_eq!(fs::metadata(tree.var_tmp()).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert!(tree.old_var_tmp().join("half-an-image").exists());
        // Nobody removed it: what is newer stays until somebody did.
        fs::write(tree.var_tmp().join("other"), "x").unwrap();
        tree.renew_var_tmp().unwrap();
        assert!(tree.var_tmp().join("other").exists());
        fs::remove_dir_all(tree.var_tmp()).unwrap();
        std::os::unix::fs::symlink("/", tree.var_tmp()).unwrap();
        tree.renew_var_tmp().unwrap();
        assert!(fs::symlink_metadata(tree.var_tmp()).unwrap().is_dir());
    }

    /// Puts something hostile in the place of a file.
    fn plant(kind: &str, path: &Path) {
        match kind {
            "fifo" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "endless" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
            "loop" => std::os::unix::fs::symlink(path, path).unwrap(),
            "directory" => fs::create_dir_all(path.join("full/of/things")).unwrap(),
            _ => fs::write(path, vec![b'x'; 1 << 24]).unwrap(),
        }
    }

    #[test]
    fn what_a_pod_that_broke_out_plants_in_the_tree_hangs_nobody() {
        for kind in ["fifo", "endless", "loop", "directory", "huge"] {
            let home = tempfile::tempdir().unwrap();
            let tree = Tree { root: home.path().to_owned() };
            for name in ["units.json", "units.new", "hosts", "hosts.new"] {
                plant(kind, &home.path().join(name));
            }
            assert_eq!(tree.enabled(), BTreeMap::new(), "{kind}");
            let enabled = BTreeMap::from([(ComponentName::Kubelet, true)]);
            tree.enable(&enabled).unwrap();
            assert_eq!(tree.enabled(), enabled, "{kind}");
            replace(&tree.hosts(), b"127.0.0.1 localhost\n", 0o644).unwrap();
            assert_eq!(fs::read(tree.hosts()).unwrap(), b"127.0.0.1 localhost\n", "{kind}");
            assert!(fs::symlink_metadata(tree.hosts()).unwrap().is_file(), "{kind}");
        }
    }
}
