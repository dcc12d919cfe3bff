//! Former values of what we change on the host: written before each change, used by reset alone.
//!
//! The first value wins: a second init must not take our own value for the former one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use u7s_plan::subid::Range;

use crate::error::Error;
use crate::files::{self, Rights};

/// Where the former values lie: 0600 root.
pub const PATH: &str = "/var/lib/u7s/undo.json";

const VERSION: u32 = 1;

/// The largest document that is read or written, bytes.
const LIMIT: u64 = 16 << 20;

/// The document on disk and in memory, always equal.
#[derive(Debug)]
pub struct Undo {
    path: PathBuf,
    former: Former,
}

/// What the document holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Former {
    version: u32,
    /// Values by key with slashes.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Permission bits by path.
    pub(crate) devices: BTreeMap<PathBuf, u32>,
    /// Directories: owner and mode, or null where there was none.
    pub(crate) directories: BTreeMap<PathBuf, Option<FormerRights>>,
    /// Files that we wrote: what was there, or null.
    pub(crate) files: BTreeMap<PathBuf, Option<FormerFile>>,
    /// A user that we made.
    pub(crate) user: Option<String>,
    /// Subordinate ids that we gave.
    pub(crate) subids: Option<GivenSubids>,
}

/// Ranges of subordinate ids that a user did not have before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenSubids {
    pub(crate) user: String,
    pub(crate) uids: Option<GivenRange>,
    pub(crate) gids: Option<GivenRange>,
}

/// [`Range`] as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenRange {
    start: u32,
    count: u32,
}

impl From<Range> for GivenRange {
    fn from(range: Range) -> Self {
        Self { start: range.start, count: range.count }
    }
}

impl From<GivenRange> for Range {
    fn from(range: GivenRange) -> Self {
        Self { start: range.start, count: range.count }
    }
}

/// [`Rights`] as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FormerRights {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// A whole file as written. Its bytes may be a secret: neither `Debug` nor an error shows them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FormerFile {
    pub(crate) rights: FormerRights,
    /// Lower-case hexadecimal: a former file need not be text.
    pub(crate) hex: String,
}

impl Undo {
    /// Reads the document at [`PATH`]; a missing one is empty.
    ///
    /// # Errors
    /// `Undo`, `UndoVersion` for a document that is not ours: nothing is guessed, since reset would act on it as root.
    /// Those of reading.
    pub fn open() -> Result<Self, Error> {
        Self::open_at(Path::new(PATH))
    }

    pub(crate) fn open_at(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        let Some(file) = files::read(&path, LIMIT)? else {
            return Ok(Self { path, former: Former { version: VERSION, ..Former::default() } });
        };
        let former = parse(&file.bytes)
            .map_err(|source| Error::Undo { path: path.clone(), source: Box::new(source) })?;
        if former.version != VERSION {
            return Err(Error::UndoVersion { path, found: former.version, known: VERSION });
        }
        Ok(Self { path, former })
    }

    /// The values.
    pub(crate) fn former(&self) -> &Former {
        &self.former
    }

    /// Keeps the former value of a sysctl.
    pub(crate) fn sysctl(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.change(|former| first(&mut former.sysctls, key.to_owned(), value.to_owned()))
    }

    /// Keeps the former permission bits of a device.
    pub(crate) fn device(&mut self, path: &Path, mode: u32) -> Result<(), Error> {
        self.change(|former| first(&mut former.devices, path.to_owned(), mode))
    }

    /// Keeps the former owner and mode of a directory, or that it was not there.
    pub(crate) fn directory(&mut self, path: &Path, rights: Option<Rights>) -> Result<(), Error> {
        self.change(|former| first(&mut former.directories, path.to_owned(), rights.map(FormerRights::from)))
    }

    /// Keeps the former file, or that there was none.
    pub(crate) fn file(&mut self, path: &Path, file: Option<&files::Whole>) -> Result<(), Error> {
        self.change(|former| first(&mut former.files, path.to_owned(), file.map(FormerFile::from)))
    }

    /// Keeps that we made a user.
    pub(crate) fn user(&mut self, name: &str) -> Result<(), Error> {
        self.change(|former| former.user.is_none() && former.user.replace(name.to_owned()).is_none())
    }

    /// Keeps which subordinate ids we gave.
    pub(crate) fn subids(
        &mut self,
        user: &str,
        uids: Option<Range>,
        gids: Option<Range>,
    ) -> Result<(), Error> {
        let given =
            GivenSubids { user: user.to_owned(), uids: uids.map(Into::into), gids: gids.map(Into::into) };
        self.change(|former| former.subids.replace(given.clone()) != Some(given))
    }

    /// Takes a file out of the book.
    pub(crate) fn forget_file(&mut self, path: &Path) -> Result<(), Error> {
        self.change(|former| former.files.remove(path).is_some())
    }

    /// Changes the newest state on disk: `u7s host-apply` may have written since, while systemd started the unit for us.
    fn change(&mut self, edit: impl FnOnce(&mut Former) -> bool) -> Result<(), Error> {
        self.former = Self::open_at(&self.path)?.former;
        if edit(&mut self.former) { self.save() } else { Ok(()) }
    }

    /// Nothing was changed, or all is as it was.
    pub(crate) fn is_empty(&self) -> bool {
        self.former == Former { version: VERSION, ..Former::default() }
    }

    /// Removes what a killed run may have left in place of a book; says whether there was something.
    pub(crate) fn sweep(&mut self) -> Result<bool, Error> {
        let left = files::left(&self.path)?;
        files::remove(&self.path).map(|()| left)
    }

    /// Empties the book and removes it.
    pub(crate) fn forget_all(&mut self) -> Result<(), Error> {
        self.former = Former { version: VERSION, ..Former::default() };
        files::remove(&self.path)
    }

    fn save(&self) -> Result<(), Error> {
        let failed = |source| Error::Undo { path: self.path.clone(), source: Box::new(source) };
        let bytes = serde_json::to_vec_pretty(&self.former).map_err(failed)?;
        let own = nix::unistd::geteuid().as_raw();
        let rights = |mode| Rights { uid: own, gid: nix::unistd::getegid().as_raw(), mode };
        if let Some(parent) = self.path.parent() {
            for ancestor in files::missing(parent)? {
                files::make_dir(&ancestor, rights(0o755))?;
            }
        }
        files::replace(&self.path, &bytes, rights(0o600))
    }
}

fn parse(bytes: &[u8]) -> Result<Former, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Enters a value unless there is one; says whether it did.
fn first<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    match map.entry(key) {
        Entry::Occupied(_) => false,
        Entry::Vacant(vacant) => {
            vacant.insert(value);
            true
        }
    }
}

impl FormerFile {
    /// The bytes; `None` if the document was damaged.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        // Signs, and half a byte at the end, are what `from_str_radix` would take.
        if !self.hex.len().is_multiple_of(2) || !self.hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let pairs = self.hex.as_bytes().chunks(2);
        pairs
            .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect()
    }
}

impl From<&files::Whole> for FormerFile {
    fn from(file: &files::Whole) -> Self {
        use std::fmt::Write;
        let mut hex = String::with_capacity(file.bytes.len() * 2);
        for byte in &file.bytes {
            let _ = write!(hex, "{byte:02x}");
        }
        Self { rights: file.rights.into(), hex }
    }
}

impl std::fmt::Debug for FormerFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("FormerFile").field("rights", &self.rights).finish_non_exhaustive()
    }
}

impl From<Rights> for FormerRights {
    fn from(rights: Rights) -> Self {
        Self { uid: rights.uid, gid: rights.gid, mode: rights.mode }
    }
}

impl From<FormerRights> for Rights {
    fn from(rights: FormerRights) -> Self {
        Self { uid: rights.uid, gid: rights.gid, mode: rights.mode }
    }
}

/// The book of former values: what is understood comes back, and so does every file in it.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let Ok(former) = parse(data) else { return };
    let again = serde_json::to_vec(&former).map(|bytes| parse(&bytes));
    assert!(matches!(again, Ok(Ok(again)) if again == former));
    for file in former.files.values().flatten() {
        let Some(bytes) = file.bytes() else { continue };
        let whole = files::Whole { rights: file.rights.into(), bytes };
        assert!(FormerFile::from(&whole).hex == file.hex.to_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHTS: Rights = Rights { uid: 0, gid: 7, mode: 0o640 };

    #[test]
    fn the_first_value_wins_and_survives_a_new_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/undo.json");
        let mut undo = Undo::open_at(&path).unwrap();
        undo.sysctl("net/ipv4/ip_forward", "0").unwrap();
        undo.directory(Path::new("/etc/kubernetes"), Some(RIGHTS)).unwrap();
        undo.directory(Path::new("/etc/crio"), None).unwrap();
        let config = files::Whole { rights: RIGHTS, bytes: vec![0, 255, b'a'] };
        undo.file(Path::new("/root/.kube/config"), Some(&config)).unwrap();
        let mut again = Undo::open_at(&path).unwrap();
        assert_eq!(again.former(), undo.former());
        again.sysctl("net/ipv4/ip_forward", "1").unwrap();
        again.file(Path::new("/root/.kube/config"), None).unwrap();
        let former = Undo::open_at(&path).unwrap().former().clone();
        assert_eq!(former.sysctls["net/ipv4/ip_forward"], "0");
        let file = former.files[Path::new("/root/.kube/config")].as_ref().unwrap();
        assert_eq!(file.bytes().unwrap(), [0, 255, b'a']);
        assert_eq!(Rights::from(file.rights), RIGHTS);
    }

    #[test]
    fn what_another_process_wrote_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.json");
        let (mut one, mut other) = (Undo::open_at(&path).unwrap(), Undo::open_at(&path).unwrap());
        one.sysctl("a/b", "1").unwrap();
        other.device(Path::new("/dev/x"), 0o600).unwrap();
        other.sysctl("a/b", "2").unwrap();
        let former = Undo::open_at(&path).unwrap().former().clone();
        assert_eq!((former.sysctls["a/b"].as_str(), former.devices.len()), ("1", 1));
    }

    #[test]
    fn the_document_is_0600_and_gone_when_it_is_empty() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.json");
        let mut undo = Undo::open_at(&path).unwrap();
        undo.device(Path::new("/dev/net/tun"), 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(!undo.is_empty());
        undo.forget_all().unwrap();
        assert!(undo.is_empty());
        assert!(!path.exists());
    }

    #[test]
    fn a_document_of_another_version_cut_or_with_unknown_fields_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.json");
        let empty = r#"{"version":VERSION,"sysctls":{},"devices":{},"directories":{},"files":{},"user":null,"subids":null EXTRA}"#;
        let document = |version: &str, extra: &str| empty.replace("VERSION", version).replace("EXTRA", extra);
        std::fs::write(&path, document("1", "")).unwrap();
        Undo::open_at(&path).unwrap();
        std::fs::write(&path, document("2", "")).unwrap();
        assert!(matches!(Undo::open_at(&path), Err(Error::UndoVersion { found: 2, .. })));
        for text in [
            document("1", ",\"run\":\"sh\""),
            document("1", "")[..20].to_owned(),
            "\0\0".into(),
            String::new(),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Undo::open_at(&path), Err(Error::Undo { .. })));
        }
    }

    #[test]
    fn debug_does_not_show_a_former_file() {
        let file = FormerFile::from(&files::Whole { rights: RIGHTS, bytes: b"secret".to_vec() });
        assert!(!format!("{file:?}").contains(&file.hex));
    }
}
