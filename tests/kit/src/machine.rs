//! What a virtual machine is made of: a Debian tree with udev, and Debian's cloud kernels, which are not installed in it.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::kernels::{self, Kernel};
use crate::store::{Job, Store};
use crate::tree::{self, PACKAGES, SUITE};

/// What a machine has more than a nested node: without libpam-systemd no manager of a user starts; polkit lets users
/// linger, cron and at run what they left behind.
const MORE: &[&str] = &["udev", "systemd-resolved", "libpam-systemd", "polkitd", "cron", "at"];
/// Raise it when this file makes something else of the same inputs.
const REVISION: &str = "machine 2";

/// The parts of a virtual machine, in the cache: read-only.
#[derive(Debug, Clone)]
pub struct Machine {
    dir: PathBuf,
    kernels: [Kernel; 2],
}

impl Machine {
    /// Its Debian tree; neither kernel nor modules are in it.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.dir
    }

    /// Its kernels, the stable one first.
    #[must_use]
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// Changes with the content.
    #[must_use]
    pub fn key(&self) -> String {
        let releases: Vec<&str> = self.kernels.iter().map(|kernel| kernel.release.as_str()).collect();
        format!("{} {}", crate::store::key_of(&self.dir), releases.join(" "))
    }
}

/// Gives the machine, after it was made if the cache did not have it.
pub(crate) fn ensure(store: &Store<'_>) -> Result<Machine, Error> {
    let (packages, more) = (PACKAGES.join(" "), MORE.join(" "));
    let inputs = [REVISION, SUITE, &packages, &more].map(str::as_bytes);
    let dir = store.entry("machine", &inputs, build)?;
    let kernel = |name| kernels::ensure(store, name, &dir);
    let kernels = [kernel("stable")?, kernel("backports")?];
    Ok(Machine { dir, kernels })
}

fn build(job: &Job<'_>) -> Result<(), Error> {
    tree::bootstrap(job, &job.dir, MORE)?;
    tree::settle(&job.dir)
}
