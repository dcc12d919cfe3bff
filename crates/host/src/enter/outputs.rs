//! Files and directories that a program writes for its caller.
//!
//! Their names mean another place inside, or one that the node's user may not write. So the program writes into a
//! memory file, or into a directory of the node's user, and what it left there is written to the caller's name with
//! the caller's rights: where the caller looks for it, and his.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use serde::{Deserialize, Serialize};
use u7s_plan::facts::UserFact;
use u7s_sys::enter::Ids;
use u7s_sys::memfd::{Reader, writable};

use super::error::Error;
use super::files::{LOCAL, MAX_FILE, SHARED, open_directory};
use super::user::as_user;
use crate::files::{is_own_descriptor, proc_path};

/// The same directory inside and outside, and the node's user's: names in it need nothing.
const SAME: &str = "/etc/kubernetes";

/// What a directory is for that the program reads and writes.
///
/// Nothing but files of kubeadm's own names comes out of it, with kubeadm's modes, whatever the program leaves there: many
/// programs of a host read all of a directory, by a kind of name.
///
/// Source: kubernetes 1.34, cmd/kubeadm/app/constants; phases/certs, `GetDefaultCertList`; phases/kubeconfig,
/// `CreateKubeConfigFile`; util/pkiutil, for the modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Certificates, keys and signing requests: `--cert-dir`.
    Certificates,
    /// Kubeconfigs, and the signing requests of their credentials: `--kubeconfig-dir`.
    Kubeconfigs,
}

/// Certificates by their names without ending; each has a key, and may have a signing request.
const CERTIFICATES: [&str; 10] = [
    "ca",
    "apiserver",
    "apiserver-kubelet-client",
    "apiserver-etcd-client",
    "front-proxy-ca",
    "front-proxy-client",
    "etcd/ca",
    "etcd/server",
    "etcd/peer",
    "etcd/healthcheck-client",
];

/// The key pair that signs tokens of service accounts.
const SIGNERS: [&str; 2] = ["sa.key", "sa.pub"];

const KUBECONFIGS: [&str; 6] = [
    "admin.conf",
    "super-admin.conf",
    "kubelet.conf",
    "bootstrap-kubelet.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

impl Kept {
    /// The mode of a file of this name, as kubeadm makes it; `None`: kubeadm writes none.
    fn mode(self, name: &[u8]) -> Option<u32> {
        let name = std::str::from_utf8(name).ok()?;
        let (base, kind) = name.rsplit_once('.')?;
        match self {
            Self::Certificates if CERTIFICATES.contains(&base) => match kind {
                "crt" => Some(0o644),
                "key" | "csr" => Some(0o600),
                _ => None,
            },
            Self::Certificates => SIGNERS.contains(&name).then_some(0o600),
            Self::Kubeconfigs => {
                let known = KUBECONFIGS.contains(&name) || (kind == "csr" && KUBECONFIGS.contains(&base));
                known.then_some(0o600)
            }
        }
    }
}

/// The one directory below a directory of certificates.
const BELOW: &str = "etcd";

/// The longest file that is carried, bytes: certificates and keys.
const LONGEST: u64 = 64 << 10;

/// A file that the program writes.
#[derive(Debug)]
pub(crate) struct Document {
    path: PathBuf,
    content: File,
    user: UserFact,
}

impl Document {
    /// A memory file in place of `path`, and the descriptor that the program gets.
    ///
    /// # Errors
    /// `File`: there is no current directory. `Sys`: no memory file.
    pub(crate) fn new(path: &Path, writer: Ids) -> Result<(Self, OwnedFd), Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let content = writable("u7s-output", Reader { uid: writer.uid, gid: writer.gid })?;
        let file = File::from(content.try_clone().map_err(failed)?);
        let path = std::path::absolute(path).map_err(failed)?;
        Ok((Self { path, content: file, user: user(writer) }, content))
    }

    /// Writes what the program left in it, if anything, to where the caller wanted it.
    ///
    /// # Errors
    /// `Deliver`, `Link`, `TooLarge`.
    pub(crate) fn deliver(mut self) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let read =
            self.content.rewind().and_then(|()| self.content.take(MAX_FILE + 1).read_to_end(&mut bytes));
        read.map_err(|source| Error::Deliver { path: self.path.clone(), source })?;
        if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_FILE) {
            return Err(Error::TooLarge { path: self.path, limit: MAX_FILE });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if is_stream(&self.path) {
            let written =
                OpenOptions::new().append(true).open(&self.path).and_then(|mut to| to.write_all(&bytes));
            return written.map_err(|source| Error::Deliver { path: self.path, source });
        }
        let name = self.path.file_name().unwrap_or_default().to_owned();
        let directory = self.path.parent().unwrap_or(&self.path);
        place(directory, &[Item { name: name.as_bytes().to_vec(), mode: 0o644, bytes }], &self.user, false)
    }
}

/// A directory of certificates or kubeconfigs that the program reads and writes.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The copy, the same path inside and outside.
    pub(crate) staged: PathBuf,
    path: PathBuf,
    kept: Kept,
    before: Vec<Item>,
    user: UserFact,
}

/// A file of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Item {
    /// `ca.crt`, `etcd/ca.crt`.
    name: Vec<u8>,
    /// Fixed by the name.
    mode: u32,
    bytes: Vec<u8>,
}

impl Tree {
    /// A copy of the directory that `path` names here, in a directory of the node's user; empty if there is none yet.
    ///
    /// `None`: the name leads to the same directory inside.
    ///
    /// # Errors
    /// `File`, `Link`: it cannot be read. `Child`: the copy could not be made.
    pub(crate) fn new(path: &Path, kept: Kept, writer: Ids) -> Result<Option<Self>, Error> {
        let path =
            std::path::absolute(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        if path.starts_with(SAME) && !climbs(&path) {
            return Ok(None);
        }
        let before = match open_directory(&path)? {
            Some(directory) => {
                items(&directory, kept).map_err(|source| Error::File { path: path.clone(), source })?
            }
            None => Vec::new(),
        };
        let staged = Path::new(SHARED).join(format!("output-{}-{}", std::process::id(), before_it(&path)));
        let tree = Self { staged, path, kept, before, user: user(writer) };
        let made = as_user(&tree.user, LOCAL, || {
            fs::create_dir(&tree.staged)
                .and_then(|()| write_items(&tree.staged, &tree.before))
                .map_err(|error| error.to_string())
        })?;
        made.map_err(|reason| Error::Child { uid: writer.uid, reason })?;
        Ok(Some(tree))
    }

    /// Writes what the program made or changed to where the caller wanted it.
    ///
    /// # Errors
    /// `Deliver`, `Link`; `Child`: the copy cannot be read.
    pub(crate) fn deliver(&self) -> Result<(), Error> {
        let after = as_user(&self.user, LOCAL, || {
            File::open(&self.staged)
                .and_then(|staged| items(&staged, self.kept))
                .map_err(|error| error.to_string())
        })?;
        let after = after.map_err(|reason| Error::Child { uid: self.user.uid, reason })?;
        // The node's user wrote this list: names and modes are judged again.
        let fitting = |mut item: Item| {
            item.mode = self.kept.mode(&item.name)?;
            (!self.before.contains(&item)).then_some(item)
        };
        let made: Vec<Item> = after.into_iter().filter_map(fitting).collect();
        if made.is_empty() { Ok(()) } else { place(&self.path, &made, &self.user, true) }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let staged = self.staged.clone();
        // Keys may lie in it. What stays behind all the same ends with the unit's runtime directory.
        let _ = as_user(&self.user, LOCAL, || fs::remove_dir_all(staged).is_ok());
    }
}

/// Tells two directories of one command apart.
fn before_it(path: &Path) -> usize {
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}

fn climbs(path: &Path) -> bool {
    path.components().any(|part| part == std::path::Component::ParentDir)
}

fn user(ids: Ids) -> UserFact {
    UserFact { uid: ids.uid, gid: ids.gid, ..UserFact::default() }
}

fn is_stream(path: &Path) -> bool {
    is_own_descriptor(path) || path == Path::new("/dev/stdout") || path == Path::new("/dev/stderr")
}

/// The files of names that are [`Kept`] in a directory and in the one below it; links are left out.
///
/// All is opened from the descriptor: its owner may put a link in the place of the one below at any time.
fn items(directory: &File, kept: Kept) -> io::Result<Vec<Item>> {
    let mut items = Vec::new();
    items_in(directory, "", kept, &mut items)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if let Ok(below) = openat(directory, BELOW, flags, Mode::empty()) {
        items_in(&below.into(), "etcd/", kept, &mut items)?;
    }
    Ok(items)
}

/// What is no plain file once it is open is an error: its owner may have put a pipe there since its name was read.
fn items_in(directory: &File, below: &str, kept: Kept, items: &mut Vec<Item>) -> io::Result<()> {
    for entry in fs::read_dir(proc_path(directory))? {
        let entry = entry?;
        let name = [below.as_bytes(), entry.file_name().as_bytes()].concat();
        let Some(mode) = kept.mode(&name).filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file()))
        else {
            continue;
        };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(directory, entry.file_name().as_os_str(), flags, Mode::empty())?);
        let named = |what: String| io::Error::other(format!("{} {what}", String::from_utf8_lossy(&name)));
        if !file.metadata()?.is_file() {
            return Err(named("is no plain file".into()));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LONGEST {
            return Err(named(format!("is larger than {LONGEST} bytes")));
        }
        items.push(Item { name, mode, bytes });
    }
    Ok(())
}

fn write_items(directory: &Path, items: &[Item]) -> io::Result<()> {
    for item in items {
        let path = directory.join(OsStr::from_bytes(&item.name));
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(&path, &item.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(item.mode))?;
    }
    Ok(())
}

/// Writes files into a directory with the caller's rights, or as the node's user where the directory is his.
fn place(directory: &Path, items: &[Item], user: &UserFact, make: bool) -> Result<(), Error> {
    let failed = |source| Error::Deliver { path: directory.to_owned(), source };
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let his = fs::symlink_metadata(existing).is_ok_and(|seen| seen.uid() == user.uid);
    if his && nix::unistd::geteuid().is_root() {
        let written = as_user(user, LOCAL, || {
            let made = if make { fs::create_dir_all(directory) } else { Ok(()) };
            made.and_then(|()| write_items(directory, items)).map_err(|error| error.to_string())
        })?;
        return written.map_err(|reason| failed(io::Error::other(reason)));
    }
    let target = if make { made_directory(directory)? } else { open_directory(directory)? };
    let target = target.ok_or_else(|| failed(Errno::ENOENT.into()))?;
    items.iter().try_for_each(|item| {
        write_at(&target, item)
            .map_err(|source| Error::Deliver { path: directory.join(OsStr::from_bytes(&item.name)), source })
    })
}

/// Opens a directory, after it was made with its missing parents (0700, as kubeadm does).
fn made_directory(path: &Path) -> Result<Option<File>, Error> {
    if let Some(directory) = open_directory(path)? {
        return Ok(Some(directory));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let Some(parent) = made_directory(parent)? else { return Ok(None) };
    let failed = |source| Error::Deliver { path: path.to_owned(), source };
    directory_at(&parent, name).map(Some).map_err(failed)
}

/// A directory in a directory, made if it is missing; never through a link.
fn directory_at(parent: &File, name: &OsStr) -> io::Result<File> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?.into())
}

/// Writes one file in place, as kubeadm does: an existing one keeps owner and mode; never through a link.
fn write_at(directory: &File, item: &Item) -> io::Result<()> {
    let path = Path::new(OsStr::from_bytes(&item.name));
    let below = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => Some(directory_at(directory, parent.as_os_str())?),
        None => None,
    };
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let name = path.file_name().unwrap_or_default();
    let mode = Mode::from_bits_truncate(item.mode);
    let mut file = File::from(openat(below.as_ref().unwrap_or(directory), name, flags, mode)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("this is no plain file"));
    }
    file.set_len(0)?;
    file.write_all(&item.bytes)?;
    file.sync_all()
}

/// A name of a file that kubeadm may have written: what is carried to the host lies in the directory, or in the one below it.
#[cfg(feature = "fuzzing")]
pub fn fuzz(name: &[u8]) {
    if [Kept::Certificates, Kept::Kubeconfigs].iter().all(|kept| kept.mode(name).is_none()) {
        return;
    }
    let path = Path::new(OsStr::from_bytes(name));
    let below = path.strip_prefix(BELOW).unwrap_or(path);
    assert!(!climbs(path) && path.is_relative() && below.components().count() == 1, "{path:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody_here() -> UserFact {
        UserFact { uid: 4_000_000, ..UserFact::default() }
    }

    fn item(name: &str, text: &str) -> Item {
        Item { name: name.into(), mode: 0o600, bytes: text.into() }
    }

    #[test]
    fn f13_only_files_of_kubeadms_names_come_out_with_its_modes() {
        let of = |kept: Kept, name: &str| kept.mode(name.as_bytes());
        for (kept, name, mode) in [
            (Kept::Certificates, "ca.crt", 0o644),
            (Kept::Certificates, "etcd/healthcheck-client.key", 0o600),
            (Kept::Certificates, "apiserver-etcd-client.csr", 0o600),
            (Kept::Certificates, "sa.pub", 0o600),
            (Kept::Kubeconfigs, "super-admin.conf", 0o600),
            (Kept::Kubeconfigs, "kubelet.conf.csr", 0o600),
        ] {
            assert_eq!(of(kept, name), Some(mode), "{name}");
        }
        for name in [
            "",
            "ca",
            "etcd",
            "00-evil.conf",
            "evil.crt",
            "sa.crt",
            "ca.pub",
            "ca.conf",
            "../ca.crt",
            "/ca.crt",
            "a/ca.crt",
            "etcd/../ca.crt",
            "etcd/etcd/ca.crt",
            "etcd/sa.key",
            "etcd/apiserver.crt",
            "etcd/admin.conf",
            ".crt",
            "ca.sh",
            "ca\n.crt",
            "CA.crt",
        ] {
            assert_eq!((of(Kept::Certificates, name), of(Kept::Kubeconfigs, name)), (None, None), "{name}");
        }
        assert_eq!(of(Kept::Certificates, "admin.conf"), None, "not into a directory of certificates");
        assert_eq!(of(Kept::Kubeconfigs, "ca.crt"), None, "not into a directory of kubeconfigs");
    }

    #[test]
    fn what_else_lies_in_the_directory_stays_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("00-evil.conf"), "load_module").unwrap();
        fs::write(dir.path().join("ca.crt"), "c").unwrap();
        fs::set_permissions(dir.path().join("ca.crt"), fs::Permissions::from_mode(0o6777)).unwrap();
        std::os::unix::fs::symlink("ca.crt", dir.path().join("ca.key")).unwrap();
        let found = items(&File::open(dir.path()).unwrap(), Kept::Certificates).unwrap();
        assert_eq!(found, [Item { name: b"ca.crt".into(), mode: 0o644, bytes: b"c".into() }]);
    }

    #[test]
    fn files_are_made_with_their_mode_and_existing_ones_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new/pki");
        place(&target, &[item("ca.key", "k"), item("etcd/ca.crt", "c")], &nobody_here(), true).unwrap();
        let mode = |name: &str| fs::metadata(target.join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("etcd"), mode(".")), (0o600, 0o700, 0o700));
        fs::set_permissions(target.join("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
        place(&target, &[item("ca.key", "")], &nobody_here(), false).unwrap();
        assert_eq!((mode("ca.key"), fs::read(target.join("ca.key")).unwrap()), (0o640, Vec::new()));
        assert_eq!(items(&File::open(&target).unwrap(), Kept::Certificates).unwrap().len(), 2);
    }

    #[test]
    fn a_planted_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("out.conf"));
        fs::write(&victim, "old").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(matches!(
            place(dir.path(), &[item("out.conf", "new")], &nobody_here(), false),
            Err(Error::Deliver { .. })
        ));
        std::os::unix::fs::symlink(dir.path(), dir.path().join("etcd")).unwrap();
        assert!(place(dir.path(), &[item("etcd/x.crt", "new")], &nobody_here(), false).is_err());
        assert_eq!(fs::read_to_string(victim).unwrap(), "old");
    }

    #[test]
    fn a_file_that_is_no_certificate_by_its_size_is_named() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("ca.crt")).unwrap().set_len(LONGEST + 1).unwrap();
        assert_eq!(
            items(&File::open(dir.path()).unwrap(), Kept::Certificates).unwrap_err().to_string(),
            "ca.crt is larger than 65536 bytes"
        );
    }

    #[test]
    fn a_missing_directory_is_an_error_of_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let error = place(&dir.path().join("none"), &[item("x", "y")], &nobody_here(), false).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
    }
}
