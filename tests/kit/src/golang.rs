//! The Go recipes: which programs come from which pinned module, and how each is built.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::run::answer;
use crate::store::{Job, Store};
use crate::{Error, debian, hash};

/// The version that kubeadm and the images' names carry.
pub(crate) const KUBERNETES: &str = "v1.34.4";

/// The patch release before it, which clusters are upgraded from.
pub(crate) const EARLIER: &str = "v1.34.3";

/// The version of flannel that its image's name carries.
pub(crate) const FLANNEL: &str = "v0.26.7";

/// A cold build of the largest recipe took 8 minutes on two cores.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// Without these kubeadm reports v0.0.0 and asks for images of that name.
macro_rules! kubernetes_ldflags {
    ($version:literal) => {
        concat!(
            "-s -w -X k8s.io/component-base/version.gitVersion=",
            $version,
            " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34",
            " -X k8s.io/component-base/version.gitTreeState=clean",
            " -X k8s.io/component-base/version.gitCommit=0000000"
        )
    };
}

/// Static, as in upstream's image.
const FLANNEL_LDFLAGS: &str = "-s -w -X github.com/flannel-io/flannel/pkg/version.Version=v0.26.7 \
    -linkmode external -extldflags -static";

/// One small Go module whose `tool` lines pin programs of other modules.
pub(crate) struct Recipe {
    /// The folder under `recipes/`.
    pub(crate) name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    cgo: bool,
    tags: &'static str,
    ldflags: &'static str,
    /// Packages to build; each gives the program named by its last part, or by the text before `=`.
    packages: &'static [&'static str],
    /// Debian packages that the build needs beyond Go itself.
    debian: &'static [&'static str],
}

macro_rules! module {
    ($name:literal, $rest:expr) => {
        Recipe {
            name: $name,
            go_mod: include_str!(concat!("../recipes/", $name, "/go.mod")),
            go_sum: include_str!(concat!("../recipes/", $name, "/go.sum")),
            ..$rest
        }
    };
}

const PLAIN: Recipe = Recipe {
    name: "",
    go_mod: "",
    go_sum: "",
    cgo: false,
    tags: "",
    ldflags: "-s -w",
    packages: &[],
    debian: &[],
};

/// All recipes, the longest first.
pub(crate) fn recipes() -> [Recipe; 6] {
    [
        module!(
            "k8s",
            Recipe { ldflags: kubernetes_ldflags!("v1.34.4"), packages: KUBERNETES_PACKAGES, ..PLAIN }
        ),
        module!(
            "crio",
            Recipe {
                cgo: true,
                tags: "libsqlite3 containers_image_openpgp exclude_graphdriver_btrfs exclude_graphdriver_devicemapper seccomp",
                packages: &["github.com/cri-o/cri-o/cmd/crio"],
                debian: &["gcc", "libc6-dev", "pkg-config", "libseccomp-dev", "libsqlite3-dev"],
                ..PLAIN
            }
        ),
        module!(
            "etcd",
            Recipe {
                packages: &["etcd=go.etcd.io/etcd/server/v3", "etcdctl=go.etcd.io/etcd/etcdctl/v3"],
                ..PLAIN
            }
        ),
        module!("coredns", Recipe { packages: &["github.com/coredns/coredns"], ..PLAIN }),
        module!(
            "flannel",
            Recipe {
                cgo: true,
                tags: "netgo,osusergo",
                ldflags: FLANNEL_LDFLAGS,
                packages: &["flanneld=github.com/flannel-io/flannel"],
                debian: &["gcc", "libc6-dev"],
                ..PLAIN
            }
        ),
        module!("cni", Recipe { packages: CNI_PACKAGES, ..PLAIN }),
    ]
}

/// Kubernetes of [`EARLIER`], in place of the first of [`recipes`].
pub(crate) fn earlier() -> Recipe {
    let ldflags = kubernetes_ldflags!("v1.34.3");
    module!("k8s-earlier", Recipe { ldflags, packages: KUBERNETES_PACKAGES, ..PLAIN })
}

/// The version of a module in the first recipe that pins it.
///
/// Source: go.mod reference, "require": a line of module and version.
pub(crate) fn version_of(module: &str) -> Option<&'static str> {
    let in_line = |line: &'static str| {
        let mut words = line.trim().trim_start_matches("require ").split(' ');
        (words.next()? == module).then(|| words.next()).flatten()
    };
    recipes().iter().chain([&rootlesskit()]).find_map(|recipe| recipe.go_mod.lines().find_map(in_line))
}

/// What the benchmarks compare with; no node needs it.
pub(crate) fn rootlesskit() -> Recipe {
    module!(
        "rootlesskit",
        Recipe { packages: &["github.com/rootless-containers/rootlesskit/v3/cmd/rootlesskit"], ..PLAIN }
    )
}

const KUBERNETES_PACKAGES: &[&str] = &[
    "k8s.io/kubernetes/cmd/kubeadm",
    "k8s.io/kubernetes/cmd/kubelet",
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "k8s.io/kubernetes/cmd/kube-proxy",
    "k8s.io/kubernetes/cmd/kubectl",
];

const CNI_PACKAGES: &[&str] = &[
    "github.com/containernetworking/plugins/plugins/main/bridge",
    "github.com/containernetworking/plugins/plugins/main/loopback",
    "github.com/containernetworking/plugins/plugins/ipam/host-local",
    "github.com/containernetworking/plugins/plugins/meta/portmap",
];

/// Builds a recipe unless the cache has it; gives the directory with `bin/` and `SHA256SUMS`.
pub(crate) fn ensure(store: &Store<'_>, recipe: &Recipe) -> Result<PathBuf, Error> {
    let packages = recipe.packages.join(" ");
    let flags = format!("{} {} {} {packages}", recipe.cgo, recipe.tags, recipe.ldflags);
    let inputs = [recipe.go_mod.as_bytes(), recipe.go_sum.as_bytes(), flags.as_bytes()];
    store.entry(recipe.name, &inputs, |job| build(job, recipe))
}

/// **Should**: `bin/` holds every program of the recipe.
/// **Must not**: change `go.mod` or `go.sum`; what they do not pin is an error.
fn build(job: &Job<'_>, recipe: &Recipe) -> Result<(), Error> {
    debian::require(&[&["ca-certificates"], recipe.debian].concat(), &|line| job.log.say(line))?;
    let go = go(job)?;
    let module = tempfile::tempdir().map_err(Error::file("making", "a temporary directory"))?;
    for (name, text) in [("go.mod", recipe.go_mod), ("go.sum", recipe.go_sum)] {
        let path = module.path().join(name);
        fs::write(&path, text).map_err(Error::file("writing", path))?;
    }
    let bin = job.dir.join("bin");
    fs::create_dir(&bin).map_err(Error::file("making", &bin))?;
    for (output, packages) in outputs(recipe, &bin) {
        let mut command = Command::new(&go);
        environment(&mut command, recipe, module.path());
        command.args(["build", "-trimpath", "-ldflags", recipe.ldflags]);
        if !recipe.tags.is_empty() {
            command.args(["-tags", recipe.tags]);
        }
        command.arg("-o").arg(output).args(packages);
        job.log.run(&format!("build {}", recipe.name), LIMIT, &mut command)?;
    }
    if recipe.name == "crio" {
        build_pinns(job, &go, recipe, module.path())?;
    }
    hash::write_sums(&job.dir)
}

/// Packages without a name of their own go into one call (its parts are built in parallel), the others each into one.
fn outputs(recipe: &Recipe, bin: &Path) -> Vec<(PathBuf, Vec<&'static str>)> {
    let (named, plain): (Vec<&str>, Vec<&str>) = recipe.packages.iter().partition(|text| text.contains('='));
    let mut calls = Vec::new();
    if !plain.is_empty() {
        // The trailing slash makes it a directory for go, also for a single package.
        calls.push((bin.join(""), plain));
    }
    calls.extend(
        named
            .iter()
            .filter_map(|text| text.split_once('='))
            .map(|(name, package)| (bin.join(name), vec![package])),
    );
    calls
}

fn environment(command: &mut Command, recipe: &Recipe, module: &Path) {
    command
        .current_dir(module)
        .env("CGO_ENABLED", if recipe.cgo { "1" } else { "0" })
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off")
        // Distributions set this to "local"; the module's `go` line may ask for a newer one.
        .env("GOTOOLCHAIN", "auto");
}

/// CRI-O's C helper that pins namespaces lies beside its Go code.
fn build_pinns(job: &Job<'_>, go: &Path, recipe: &Recipe, module: &Path) -> Result<(), Error> {
    let mut list = Command::new(go);
    environment(&mut list, recipe, module);
    let folder = answer(list.args(["list", "-m", "-f", "{{.Dir}}", "github.com/cri-o/cri-o"]))?;
    let folder = Path::new(folder.trim()).join("pinns/src");
    let mut sources = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::file("listing", &folder))? {
        let path = entry.map_err(Error::file("listing", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    sources.sort();
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Os", "-s", "-static", "-o"]).arg(job.dir.join("bin/pinns")).args(sources);
    job.log.run("build pinns", Duration::from_secs(120), &mut cc)
}

/// A Go that can fetch the toolchain which `go.mod` names (1.21 or later), installed if there is none.
fn go(job: &Job<'_>) -> Result<PathBuf, Error> {
    if let Some(go) = find_go() {
        return Ok(go);
    }
    debian::require(&["golang-go"], &|line| job.log.say(line))?;
    find_go().ok_or_else(|| Error::Missing {
        what: "Go 1.21 or later".into(),
        remedy: "install it, by the distribution's backports or Go's own archive, so that it is in PATH"
            .into(),
    })
}

fn find_go() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    places.push("/usr/local/go/bin".into());
    places.into_iter().map(|place| place.join("go")).find(|go| is_recent(go))
}

/// `go version` says "go version go1.26.8 linux/amd64".
fn is_recent(go: &Path) -> bool {
    let Ok(text) = answer(Command::new(go).arg("version").env("GOTOOLCHAIN", "local")) else { return false };
    minor_version(&text).is_some_and(|minor| minor >= 21)
}

fn minor_version(text: &str) -> Option<u32> {
    let digits = text.split("go1.").nth(1)?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go() {
        assert_eq!(minor_version("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(minor_version("go version go1.19 linux/amd64"), Some(19));
        assert_eq!(minor_version("command not found"), None);
    }

    #[test]
    fn every_package_is_a_tool_of_its_module() {
        for recipe in recipes().into_iter().chain([rootlesskit(), earlier()]) {
            for package in recipe.packages {
                let path = package.split_once('=').map_or(*package, |(_, path)| path);
                assert!(recipe.go_mod.contains(path), "{} lacks {path}", recipe.name);
            }
        }
    }

    #[test]
    fn versions_of_modules() {
        assert_eq!(version_of("github.com/flannel-io/flannel"), Some(FLANNEL));
        assert_eq!(version_of("k8s.io/kubernetes"), Some(KUBERNETES));
        assert_eq!(version_of("no.such/module"), None);
    }

    #[test]
    fn the_flannel_version_is_the_pinned_one() {
        let recipes = recipes();
        let flannel = recipes.iter().find(|recipe| recipe.name == "flannel").unwrap();
        assert!(flannel.go_mod.contains(&format!("github.com/flannel-io/flannel {FLANNEL}")));
        assert!(flannel.ldflags.contains(FLANNEL));
    }

    #[test]
    fn the_kubernetes_version_is_the_pinned_one() {
        let [k8s, ..] = recipes();
        for (recipe, version) in [(k8s, KUBERNETES), (earlier(), EARLIER)] {
            assert!(recipe.go_mod.contains(&format!("k8s.io/kubernetes {version}")));
            assert!(recipe.ldflags.contains(&format!("gitVersion={version} ")));
        }
    }
}
