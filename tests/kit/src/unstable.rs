//! Debian unstable's slirp4netns, beside the one of the node tree: it takes a tap by descriptor, the tree's does not yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::store::{Job, Store};
use crate::{Error, debian};

const SUITE: &str = "unstable";

/// The program, and the library that the tree has in an older version.
const PACKAGES: [&str; 2] = ["slirp4netns", "libslirp0"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const LIMIT: Duration = Duration::from_secs(600);

/// Gives a directory with `bin/slirp4netns` and `lib/`, which the program finds wherever both are put.
///
/// It is what unstable had when the cache entry was made: remove the entry to have today's.
pub(crate) fn ensure(store: &Store<'_>) -> Result<PathBuf, Error> {
    let names = PACKAGES.join(" ");
    store.entry("unstable", &[SUITE.as_bytes(), names.as_bytes()], build)
}

/// Must not: touch the machine's own apt, its sources, lists or packages.
fn build(job: &Job<'_>) -> Result<(), Error> {
    debian::require(&["patchelf"], &|line| job.log.say(line))?;
    let (own, bin) = (job.dir.join("apt"), job.dir.join("bin"));
    fs::create_dir_all(&bin).map_err(Error::file("making", bin))?;
    apt_with(job, &own, SUITE)?;
    let mut download = apt(&own, "apt-get");
    job.log.run("download unstable's slirp4netns", LIMIT, download.arg("download").args(PACKAGES))?;
    unpack(job, &own)?;
    fs::remove_dir_all(&own).map_err(Error::file("removing", own))
}

/// Fills a directory for [`apt`] with the package list of a suite.
pub(crate) fn apt_with(job: &Job<'_>, own: &Path, suite: &str) -> Result<(), Error> {
    debian::require(&["apt", "debian-archive-keyring"], &|line| job.log.say(line))?;
    for path in [own.join("lists/partial"), own.join("cache/archives/partial"), own.join("state")] {
        fs::create_dir_all(&path).map_err(Error::file("making", path))?;
    }
    let sources = own.join("sources.list");
    let line = format!("deb [signed-by={KEYRING}] {} {suite} main\n", debian::mirror()?);
    for (path, text) in [(&sources, line.as_str()), (&own.join("status"), "")] {
        fs::write(path, text).map_err(Error::file("writing", path))?;
    }
    job.log.run(&format!("read the package list of {suite}"), LIMIT, apt(own, "apt-get").arg("update"))
}

/// apt-get or apt-cache with sources, lists, cache and status of its own, in a directory where downloads land.
pub(crate) fn apt(own: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    let place = |name: &str, value: &str| format!("{name}={}", own.join(value).display());
    let options = [
        place("Dir::Etc::sourcelist", "sources.list"),
        "Dir::Etc::sourceparts=-".into(),
        place("Dir::State::lists", "lists"),
        place("Dir::State::status", "status"),
        place("Dir::State", "state"),
        place("Dir::Cache", "cache"),
        // Nothing of the machine's is touched.
        "Debug::NoLocking=1".into(),
        // The directory is root's.
        "APT::Sandbox::User=root".into(),
    ];
    command.current_dir(own).arg("-q").args(options.iter().flat_map(|option| ["-o", option]));
    command
}

fn unpack(job: &Job<'_>, own: &Path) -> Result<(), Error> {
    let minute = Duration::from_secs(60);
    let tree = own.join("tree");
    for entry in fs::read_dir(own).map_err(Error::file("listing", own))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            let mut dpkg = Command::new("dpkg-deb");
            job.log.run("unpack a package", minute, dpkg.arg("-x").arg(entry.path()).arg(&tree))?;
        }
    }
    let program = job.dir.join("bin/slirp4netns");
    let mut collect = Command::new("sh");
    let script =
        "cp \"$0/usr/bin/slirp4netns\" \"$1\" && mkdir \"$2\" && cp -a \"$0\"/usr/lib/*/libslirp.so.* \"$2\"";
    collect.args(["-euc", script]).args([&tree, &program, &job.dir.join("lib")]);
    job.log.run("collect program and library", minute, &mut collect)?;
    let mut patchelf = Command::new("patchelf");
    patchelf.args(["--set-rpath", "$ORIGIN/../lib"]).arg(&program);
    job.log.run("let the program find its library", minute, &mut patchelf)
}
