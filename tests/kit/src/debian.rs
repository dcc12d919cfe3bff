//! Debian packages of the machine that builds: ask, install what is missing, find the mirror.

use std::process::Command;
use std::time::Duration;

use crate::run::{Log, answer};
use crate::{Error, Say};

/// Makes sure that Debian packages are installed on this machine.
///
/// Nothing is asked of the network when all are there.
///
/// # Errors
/// [`Error::Missing`] names all packages that are not there when we are not root; else what apt-get said.
pub fn require(packages: &[&str], say: Say<'_>) -> Result<(), Error> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        let remedy = format!("sudo apt-get install --no-install-recommends {names}");
        return Err(Error::Missing { what: names, remedy });
    }
    say(&format!("kit: install {names}"));
    let path = std::env::temp_dir().join(format!("u7s-kit-apt-{}.log", std::process::id()));
    let log = Log::create(path.clone(), say)?;
    let limit = Duration::from_secs(900);
    log.run("refresh the package lists", limit, apt_get().args(["-q", "update"]))?;
    log.run(
        "install packages",
        limit,
        apt_get().args(["-q", "-y", "install", "--no-install-recommends"]).args(missing),
    )?;
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn is_installed(package: &str) -> bool {
    let status = answer(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]));
    status.is_ok_and(|status| status == "installed")
}

/// The archive that this machine takes its own packages from, or `U7S_DEBIAN_MIRROR`.
///
/// # Errors
/// [`Error::Missing`]: apt knows no Debian archive.
pub(crate) fn mirror() -> Result<String, Error> {
    if let Ok(mirror) = std::env::var("U7S_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let format = "$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let targets =
        answer(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    pick_mirror(&targets).ok_or_else(|| Error::Missing {
        what: "a Debian archive in apt's sources".into(),
        remedy: "run apt-get update, or set U7S_DEBIAN_MIRROR to the address of one".into(),
    })
}

/// Security archives carry the label Debian-Security and have no complete suite.
fn pick_mirror(targets: &str) -> Option<String> {
    let address = |line: &str| line.strip_prefix("Debian|main|").map(String::from);
    targets.lines().find_map(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_main_archive() {
        let targets = "Other|main|http://other.test/\nDebian-Security|main|http://s.test/\nDebian|main|http://d.test/debian/\n";
        assert_eq!(pick_mirror(targets).as_deref(), Some("http://d.test/debian/"));
        assert_eq!(pick_mirror("Debian-Security|main|http://s.test/\n"), None);
    }

    #[test]
    fn a_package_that_is_not_there() {
        assert!(!is_installed("no-such-package-as-this"));
    }
}
