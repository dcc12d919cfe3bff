//! Named network namespaces; all links are made inside them, never in the machine's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::command::run;

const DIR: &str = "/run/netns";
const LIMIT: Duration = Duration::from_secs(20);

/// A network namespace by its name; it stays until [`Netns::delete`].
#[derive(Debug, Clone)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn create(name: &str) -> Result<Self, Error> {
        let netns = Self::open(name);
        if !netns.exists() {
            // What a run leaves that is killed between the file and its mount.
            let _ = fs::remove_file(netns.path());
        }
        run(&["ip", "netns", "add", name], LIMIT)?;
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub(crate) fn open(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// True if the namespace is mounted on its file; the file alone is nothing.
    pub(crate) fn exists(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        let own = device(&self.path());
        own.is_some() && own != device(Path::new(DIR))
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(DIR).join(&self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The start of a command line that runs the rest of it inside.
    pub(crate) fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", self.path().display()), "--".into()]
    }

    /// ip(8) inside.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<(), Error> {
        run(&[&["ip", "-n", &self.name], args].concat(), LIMIT).map(drop)
    }

    pub(crate) fn delete(&self) -> Result<(), Error> {
        if self.exists() {
            return run(&["ip", "netns", "delete", &self.name], LIMIT).map(drop);
        }
        let _ = fs::remove_file(self.path());
        Ok(())
    }

    /// The names of all that there are.
    pub(crate) fn all() -> Vec<String> {
        let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}
