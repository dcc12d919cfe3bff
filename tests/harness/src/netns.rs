//! Named network namespaces; all links are made inside them, never in the machine's own.

use std::fs;
use std::path::PathBuf;
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
        run(&["ip", "netns", "add", name], LIMIT)?;
        let netns = Self::open(name);
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub(crate) fn open(name: &str) -> Self {
        Self { name: name.into() }
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
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
            run(&["ip", "netns", "delete", &self.name], LIMIT)?;
        }
        Ok(())
    }

    /// The names of all that there are.
    pub(crate) fn all() -> Vec<String> {
        let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}
