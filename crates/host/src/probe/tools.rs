//! Programs of the host, their versions, and the CNI plugins.
//!
//! A program is asked for its version by a child without any privilege: the answer is only read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use u7s_plan::host;

use super::{executable, names};
use crate::child::Job;
use crate::programs::{self, Found};

/// Programs with their versions.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    pub(crate) programs: BTreeMap<String, Option<PathBuf>>,
    /// Programs that root may not start, and why.
    pub(crate) refused: BTreeMap<String, String>,
    pub(crate) versions: BTreeMap<String, Option<String>>,
    pub(crate) pause_image: Option<String>,
    pub(crate) cni_plugins: BTreeMap<PathBuf, Vec<String>>,
}

/// How each program is asked. crio is not: it makes a directory in /tmp even when it only prints its version.
const QUESTIONS: [(&str, &[&str]); 4] = [
    ("kubeadm", &["version", "-o", "short"]),
    ("kubelet", &["--version"]),
    ("crun", &["--version"]),
    ("slirp4netns", &["--version"]),
];

/// uid and gid of nobody: what a program that only prints its version needs.
const NOBODY: u32 = 65534;

/// Looks for all programs and asks them at the same time.
pub(crate) fn tools(deadline: Duration) -> Tools {
    let (mut programs, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for name in host::PROGRAMS {
        let path = match programs::find(name) {
            Found::At(path) => Some(path),
            Found::Missing => None,
            Found::Refused(reason) => {
                refused.insert(name.to_owned(), reason);
                None
            }
        };
        programs.insert(name.to_owned(), path);
    }
    let ask = |(name, args): (&str, &[&str])| {
        let path = programs.get(name).cloned().flatten();
        (name.to_owned(), path.and_then(|path| version(&said(&path, args, deadline)?)))
    };
    let versions: BTreeMap<_, _> = std::thread::scope(|scope| {
        let asked = QUESTIONS.map(|question| scope.spawn(move || ask(question)));
        asked.into_iter().filter_map(|answer| answer.join().ok()).collect()
    });
    let pause_image = pause_image(&programs, &versions, deadline);
    let plugins = |dir: &str| {
        let dir = PathBuf::from(dir);
        let listed: Vec<_> = names(&dir).into_iter().filter(|name| executable(&dir.join(name))).collect();
        dir.is_dir().then_some((dir, listed))
    };
    let cni_plugins = host::CNI_DIRS.iter().filter_map(|dir| plugins(dir)).collect();
    Tools { programs, refused, versions, pause_image, cni_plugins }
}

/// kubeadm knows the pause image of its version. The version is given, else it would ask the internet.
fn pause_image(
    programs: &BTreeMap<String, Option<PathBuf>>,
    versions: &BTreeMap<String, Option<String>>,
    deadline: Duration,
) -> Option<String> {
    let kubeadm = programs.get("kubeadm")?.as_ref()?;
    let version = format!("--kubernetes-version=v{}", versions.get("kubeadm")?.as_ref()?);
    let listed = said(kubeadm, &["config", "images", "list", &version], deadline)?;
    listed.lines().map(str::trim).find(|image| image.contains("/pause:")).map(str::to_owned)
}

fn said(program: &Path, args: &[&str], deadline: Duration) -> Option<String> {
    let user = nix::unistd::geteuid().is_root().then_some((NOBODY, NOBODY));
    let job = Job { user, deadline, ..Job::new(program, args) };
    let output = job.check().ok()?;
    String::from_utf8(output).ok()
}

/// The first word that is a version: `v1.34.4`, `Kubernetes v1.34.4`, `crio version 1.34.0`.
fn version(text: &str) -> Option<String> {
    let words = text.split_ascii_whitespace().map(|word| word.trim_start_matches('v').trim_end_matches(','));
    words.filter(|word| word.starts_with(|first: char| first.is_ascii_digit())).find_map(semver)
}

/// crun leaves out a patch number of zero.
fn semver(word: &str) -> Option<String> {
    let full = if word.matches('.').count() == 1 { format!("{word}.0") } else { word.to_owned() };
    semver::Version::parse(&full).ok().map(|version| version.to_string())
}

/// What programs print of their version.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(text: &str) {
    assert!(version(text).is_none_or(|version| semver::Version::parse(&version).is_ok()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_programs_print() {
        for (text, expected) in [
            ("v1.34.4\n", "1.34.4"),
            ("Kubernetes v1.36.0-rc.1\n", "1.36.0-rc.1"),
            ("crio version 1.34.0\nVersion:        1.34.0\n   GitCommit: abc\n", "1.34.0"),
            ("crun version 1.21\ncommit: 10269840\n", "1.21.0"),
            ("slirp4netns version 1.2.1\ncommit: 09e31e92\nlibslirp: 4.8.0\n", "1.2.1"),
        ] {
            assert_eq!(version(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(version("no version here 1\n"), None);
    }
}
