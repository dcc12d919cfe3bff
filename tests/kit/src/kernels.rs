//! Debian's cloud kernels, unpacked and not installed anywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::store::{Job, Store};
use crate::tree::SUITE;
use crate::unstable::{apt, apt_with};
use crate::{Error, run};

const PACKAGE: &str = "linux-image-cloud-amd64";
/// Raise it when this file makes something else of the same inputs.
const REVISION: &str = "kernels 2";
const LIMIT: Duration = Duration::from_secs(600);

/// One kernel: `vmlinuz`, `config`, and `lib/modules/RELEASE` with the modules' index.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// "stable", "backports".
    pub name: &'static str,
    /// "6.12.57+deb13-cloud-amd64".
    pub release: String,
    dir: PathBuf,
}

impl Kernel {
    /// The compressed kernel.
    #[must_use]
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// How it was built; belongs to `/boot/config-RELEASE`, where kubeadm looks for it.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// The directory that belongs to `/usr/lib/modules/RELEASE`; modules are compressed by xz.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }
}

/// Gives the kernel of stable or backports, after it was fetched if the cache did not have it.
///
/// It is what Debian had when the cache entry was made: remove the entry to have today's.
pub(crate) fn ensure(store: &Store<'_>, name: &'static str, tree: &Path) -> Result<Kernel, Error> {
    let suite = if name == "stable" { SUITE.to_owned() } else { format!("{SUITE}-{name}") };
    let inputs = [REVISION.as_bytes(), suite.as_bytes(), PACKAGE.as_bytes()];
    let dir = store.entry(&format!("kernel-{name}"), &inputs, |job| build(job, &suite, tree))?;
    let modules = dir.join("lib/modules");
    let mut entries = fs::read_dir(&modules).map_err(Error::file("listing", &modules))?.flatten();
    let release = entries.next().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let release = release.ok_or_else(|| Error::Missing {
        what: format!("a kernel in {}", modules.display()),
        remedy: "remove this entry of the cache".into(),
    })?;
    Ok(Kernel { name, release, dir })
}

fn build(job: &Job<'_>, suite: &str, tree: &Path) -> Result<(), Error> {
    let own = job.dir.join("apt");
    apt_with(job, &own, suite)?;
    let mut cache = apt(&own, "apt-cache");
    cache.args(["depends", "--recurse", "--important", "--no-recommends", "--no-suggests", PACKAGE]);
    let names = run::answer(&mut cache)?;
    let is_kernel = |name: &&str| name.starts_with("linux-") && name.ends_with("-cloud-amd64");
    let names: Vec<&str> = names.lines().filter(is_kernel).collect();
    job.log.run(
        &format!("download the kernel of {suite}"),
        LIMIT,
        apt(&own, "apt-get").arg("download").args(names),
    )?;
    let script = r#"
        cd "$0"
        for package in apt/*.deb; do dpkg-deb -x "$package" deb; done
        find deb -name "vmlinuz*" -type f -exec mv {} vmlinuz \;
        find deb \( -name "config-*" -o -path "*/modules/*/config" \) -type f -exec mv {} config \;
        test -f vmlinuz -a -f config
        mkdir lib
        find deb -path "*lib/modules" -type d -prune -exec mv {} lib/modules \;
        rm -r deb apt
        # The tree's depmod: this machine may have none.
        mount -t tmpfs tmpfs "$1/media"
        mkdir -p "$1/media/lib"
        mount --bind "$PWD/lib" "$1/media/lib"
        chroot "$1" depmod -b /media "$(ls lib/modules)""#;
    let mut unpack = Command::new("unshare");
    unpack.args(["--mount", "--propagation", "private", "sh", "-euc", script]).args([&job.dir, tree]);
    unpack.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    job.log.run("unpack the kernel", LIMIT, &mut unpack)
}
