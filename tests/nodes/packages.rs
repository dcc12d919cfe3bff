//! Packages for the tests: ours, packed from the programs under test, and those that stand in for what Debian names otherwise.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::programs;

/// What our RPM requires, by ALT's names, and the Debian package of the node that has it; "kit" is built by the kit.
pub(crate) const STAND_INS: &[(&[&str], &str)] = &[
    (&["systemd"], "systemd"),
    (&["dbus"], "dbus"),
    (&["kmod"], "kmod"),
    (&["coreutils"], "coreutils"),
    (&["findutils"], "findutils"),
    (&["shadow-utils"], "passwd"),
    (&["shadow-submap"], "uidmap"),
    (&["slirp4netns"], "slirp4netns"),
    (&["crun"], "crun"),
    (&["conmon"], "conmon"),
    (&["skopeo"], "skopeo"),
    (&["cni-plugins"], "kit"),
    (&["iptables"], "iptables"),
    (&["nftables"], "nftables"),
    (&["conntrack-tools"], "conntrack"),
    (&["/bin/sh"], "dash"),
    (&["libc.so.6", "ld-linux-", "libm.so.6", "rtld("], "libc6"),
    (&["libgcc_s.so.1"], "libgcc-s1"),
];

/// Where the packages of one run lie.
pub(crate) struct Packages {
    /// Our RPM, and the same with a higher release.
    pub(crate) first: PathBuf,
    pub(crate) second: PathBuf,
    pub(crate) deb: PathBuf,
    /// Provides what ours requires.
    pub(crate) stand_ins: PathBuf,
    /// An empty podsec-k8s.
    pub(crate) podsec: PathBuf,
}

impl Packages {
    /// Packs all of them into a directory.
    pub(crate) fn make(dir: &Path) -> Result<Self, Box<dyn Error>> {
        let built = stripped(dir)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rpm");
        for release in ["alt1", "alt2"] {
            let mut pack = Command::new(&script);
            pack.arg("--built").arg(&built).arg("--out").arg(dir).args(["--release", release]);
            said(&mut pack)?;
        }
        fs::remove_dir_all(&built)?;
        let first = found(dir, "-alt1.", ".rpm")?;
        let needs = said(Command::new("rpm").args(["-qp", "--requires"]).arg(&first))?;
        Ok(Self {
            second: found(dir, "-alt2.", ".rpm")?,
            deb: found(dir, "-alt1_", ".deb")?,
            stand_ins: empty(dir, "debian-stand-ins", &known(&needs)?)?,
            podsec: empty(dir, "podsec-k8s", &[])?,
            first,
        })
    }
}

/// One line of a package's list.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) mode: String,
    pub(crate) owner: String,
    pub(crate) path: String,
}

impl Entry {
    /// Owned by root, and a directory or file that neither group nor others write, without setuid or setgid; or a link.
    pub(crate) fn is_roots_alone(&self) -> bool {
        let bit = |at: usize| self.mode.chars().nth(at);
        let closed = bit(5) == Some('-') && bit(8) == Some('-') && !self.mode.contains(['s', 'S', 't', 'T']);
        self.owner == "root/root" && (closed || self.mode.starts_with('l'))
    }
}

/// What `rpm -qplv` (mode, links, user, group, size, date of three words, path) or `dpkg-deb --contents` (mode, user/group,
/// size, date of two words, path) says.
pub(crate) fn entries(command: &[&str], package: &Path) -> Result<Vec<Entry>, Box<dyn Error>> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let text = said(Command::new(program).args(arguments).arg(package))?;
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (mode, owner, path) = match words[..] {
            [mode, _, user, group, _, _, _, _, path, ..] if !user.contains('/') && *program == "rpm" => {
                (mode, format!("{user}/{group}"), path)
            }
            [mode, owner, _, _, _, path, ..] => (mode, owner.to_owned(), path),
            _ => return Err(format!("not understood: {line}").into()),
        };
        let path = format!("/{}", path.trim_start_matches('.').trim_matches('/'));
        Ok(Entry { mode: mode.into(), owner, path })
    };
    text.lines().map(entry).collect()
}

/// Debug information is nine tenths of the programs under test. u7s-pages is there once the workspace is built.
fn stripped(dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let built = dir.join("built");
    fs::create_dir(&built)?;
    for name in ["u7s", "kubeadm", "systemctl", "u7s-supervisor", "u7s-crun", "u7s-pages"] {
        said(Command::new("strip").arg("-o").arg(built.join(name)).arg(programs().join(name)))?;
    }
    Ok(built)
}

/// Requirements that the table above knows, without rpm's own; one that is not in it is an error.
fn known(needs: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let mut provides = Vec::new();
    for need in needs.lines().filter(|need| !need.starts_with("rpmlib(") && !need.starts_with("config(")) {
        let same = |name: &&str| need == *name || (name.contains(['.', '-', '(']) && need.starts_with(*name));
        if !STAND_INS.iter().any(|(names, _)| names.iter().any(&same)) {
            return Err(format!("the package requires {need}, which STAND_INS does not know").into());
        }
        provides.push(need.to_owned());
    }
    Ok(provides)
}

/// A package without files.
fn empty(dir: &Path, name: &str, provides: &[String]) -> Result<PathBuf, Box<dyn Error>> {
    let spec = dir.join(format!("{name}.spec"));
    let provides: String = provides.iter().map(|what| format!("Provides: {what}\n")).collect();
    fs::write(
        &spec,
        format!(
            "Name: {name}\nVersion: 1.1.20\nRelease: alt1\nSummary: for a test\nLicense: none\nGroup: Other\nBuildArch: noarch\n\
             {provides}%description\nfor a test\n%files\n"
        ),
    )?;
    let top = dir.join("top");
    let top = format!("_topdir {}", top.display());
    said(Command::new("rpmbuild").args(["-bb", "--quiet", "--define", &top]).arg(&spec))?;
    let built = dir.join(format!("top/RPMS/noarch/{name}-1.1.20-alt1.noarch.rpm"));
    let place = dir.join(format!("{name}.rpm"));
    fs::rename(built, &place)?;
    fs::remove_dir_all(dir.join("top"))?;
    Ok(place)
}

fn found(dir: &Path, part: &str, end: &str) -> Result<PathBuf, Box<dyn Error>> {
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("u7s") && name.contains(part) && name.ends_with(end)
    };
    let mut all = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    all.find(fits).ok_or_else(|| format!("scripts/rpm made no {part}*{end}").into())
}

fn said(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{command:?}: {}: {}{}", output.status, text(&output.stdout), text(&output.stderr)).into())
}
