//! Real Kubernetes to test with.
//!
//! [`ensure`] builds kubeadm, kubelet, the control plane, CRI-O, etcd, CoreDNS, flannel and CNI plugins from pinned
//! Go modules (`recipes/`), puts the images into one OCI layout, and bootstraps a Debian tree for nested nodes.
//! Each part is built once and kept in the user's cache under a key of its recipe's content, so a second run, or a
//! fresh clone on the same machine, builds nothing.

#![forbid(unsafe_code)]

mod debian;
mod emulator;
mod error;
mod golang;
mod hash;
mod images;
mod kernels;
mod machine;
mod oci;
mod run;
mod store;
mod tree;
mod unstable;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use debian::require as require_packages;
pub use error::Error;
pub use hash::sha256_file;
pub use kernels::Kernel;
pub use machine::Machine;
pub use store::cache_dir;

use store::Store;

/// Where progress lines go: one call a line, without the newline.
pub type Say<'a> = &'a dyn Fn(&str);

/// The version of Kubernetes that the recipes build.
pub const KUBERNETES: &str = golang::KUBERNETES;

/// The patch release before it.
pub const EARLIER: &str = golang::EARLIER;

/// The version of a Go module that the recipes pin: "v1.34.0".
#[must_use]
pub fn version_of(module: &str) -> Option<&'static str> {
    golang::version_of(module)
}

/// The binaries that a node has in `/usr/bin`, apart from the distribution's own.
pub const NODE_BINARIES: [&str; 5] = ["kubeadm", "kubelet", "kubectl", "crio", "pinns"];

/// A finished kit; all paths lie in the cache and must be treated as read-only.
#[derive(Debug, Clone)]
pub struct Kit {
    binaries: BTreeMap<String, PathBuf>,
    sha256: BTreeMap<String, String>,
    cni: PathBuf,
    layout: PathBuf,
    images: Vec<String>,
    tree: PathBuf,
}

/// Builds what the cache lacks and gives the whole kit.
///
/// A cold cache takes about 15 minutes on two cores, a warm one a few milliseconds.
/// Two runs at the same time do not build the same part twice: the second waits, and says so.
///
/// # Errors
/// A missing ability (no root, no Go), or the step that failed with the log file that tells why.
pub fn ensure(say: Say<'_>) -> Result<Kit, Error> {
    assemble(say, golang::recipes(), "images", KUBERNETES)
}

/// The same kit with Kubernetes of [`EARLIER`], for tests that upgrade it. A cold cache takes about 10 minutes more.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_earlier(say: Say<'_>) -> Result<Kit, Error> {
    let [_, others @ ..] = golang::recipes();
    assemble(say, std::iter::once(golang::earlier()).chain(others), "images-earlier", EARLIER)
}

fn assemble(
    say: Say<'_>,
    recipes: impl IntoIterator<Item = golang::Recipe>,
    images: &str,
    kubernetes: &str,
) -> Result<Kit, Error> {
    let store = Store::open(say)?;
    let tree = tree::ensure(&store)?;
    let mut binaries = BTreeMap::new();
    let mut sha256 = BTreeMap::new();
    let mut keys = vec![store::key_of(&tree)];
    let mut cni = PathBuf::new();
    for recipe in recipes {
        let dir = golang::ensure(&store, &recipe)?;
        keys.push(store::key_of(&dir));
        if recipe.name == "cni" {
            cni = dir.join("bin");
            continue;
        }
        for (name, sum) in hash::read_sums(&dir)? {
            binaries.insert(name.clone(), dir.join("bin").join(&name));
            sha256.insert(name, sum);
        }
    }
    let contents = images::Contents { kubernetes, binaries: &binaries, tree: &tree };
    let (layout, images) = images::ensure(&store, images, &keys, &contents)?;
    Ok(Kit { binaries, sha256, cni, layout, images, tree })
}

/// Builds RootlessKit, which only benchmarks want, unless the cache has it; gives the program's path.
///
/// # Errors
/// As [`ensure`].
pub fn rootlesskit(say: Say<'_>) -> Result<PathBuf, Error> {
    let dir = golang::ensure(&Store::open(say)?, &golang::rootlesskit())?;
    Ok(dir.join("bin/rootlesskit"))
}

/// Debian unstable's slirp4netns (1.3 or newer), which not every run wants; gives a directory with `bin/` and `lib/`.
///
/// The program runs in the node tree, wherever the two directories are put beside each other.
///
/// # Errors
/// As [`ensure`].
pub fn unstable_driver(say: Say<'_>) -> Result<PathBuf, Error> {
    unstable::ensure(&Store::open(say)?)
}

/// The parts of a virtual machine: a Debian tree with udev, and kernels. Needs root; a cold cache takes two minutes.
///
/// # Errors
/// As [`ensure`].
pub fn machine(say: Say<'_>) -> Result<Machine, Error> {
    machine::ensure(&Store::open(say)?)
}

/// A directory with `qemu-system-x86_64` and `qemu-img` of Debian stable, whatever this machine has.
///
/// # Errors
/// As [`ensure`].
pub fn emulator(say: Say<'_>) -> Result<PathBuf, Error> {
    emulator::ensure(&Store::open(say)?)
}

impl Kit {
    /// The host path of a binary: kubeadm, kubelet, kubectl, kube-*, crio, pinns, etcd, etcdctl, coredns,
    /// flanneld.
    #[must_use]
    pub fn binary(&self, name: &str) -> Option<&Path> {
        self.binaries.get(name).map(PathBuf::as_path)
    }

    /// The sha256 (lower-case hexadecimal) of a binary, as recorded when it was built.
    #[must_use]
    pub fn sha256(&self, name: &str) -> Option<&str> {
        self.sha256.get(name).map(String::as_str)
    }

    /// The directory with the CNI plugins bridge, host-local, loopback and portmap.
    #[must_use]
    pub fn cni_dir(&self) -> &Path {
        &self.cni
    }

    /// The OCI layout with every image that kubeadm asks for, flannel's, and `test.local/tools:1`.
    #[must_use]
    pub fn layout(&self) -> &Path {
        &self.layout
    }

    /// The names of the images in the layout.
    #[must_use]
    pub fn images(&self) -> &[String] {
        &self.images
    }

    /// The version of a Debian package in the tree: "1.2.1-1.1".
    #[must_use]
    pub fn package(&self, name: &str) -> Option<String> {
        tree::version_of(&self.tree, name)
    }

    /// The Debian tree that nested nodes are copied from.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.tree
    }
}
