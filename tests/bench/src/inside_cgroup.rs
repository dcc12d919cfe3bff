//! A cgroup for each run, delegated as systemd does; making and removing it is no part of the time.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Error;

/// How long the processes of a run may take to vanish once they were killed.
const REMOVAL: Duration = Duration::from_secs(10);

/// Dropped without [`remove`](Self::remove) it stays.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Source: cgroups(7), "Cgroups delegation".
    pub(crate) fn make(uid: u32) -> Result<Self, Error> {
        let path = PathBuf::from("/sys/fs/cgroup/u7s-bench");
        if path.exists() {
            Self(path.clone()).remove()?;
        }
        fs::create_dir(&path).map_err(Error::file("making", &path))?;
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(path.join(file), Some(uid), Some(uid)).map_err(Error::file("delegating", &path))?;
        }
        Ok(Self(path))
    }

    /// The file to write a pid into.
    pub(crate) fn procs(&self) -> String {
        self.0.join("cgroup.procs").display().to_string()
    }

    /// Ends everything in it.
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }

    /// Ends everything in it and removes it.
    pub(crate) fn remove(self) -> Result<(), Error> {
        self.kill();
        let until = Instant::now() + REMOVAL;
        while let Err(source) = remove_tree(&self.0) {
            if Instant::now() > until {
                return Err(Error::file("removing", self.0)(source));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(path)
}
