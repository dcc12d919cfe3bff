//! Which images there are, and what is in each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::golang::FLANNEL;
use crate::oci::{Entry, Files, Layout};
use crate::run::answer;
use crate::store::{Job, Store};
use crate::{Error, debian};

const PAUSE: &str = include_str!("../recipes/pause.c");
/// Raise it when the content of an image changes in this file.
const REVISION: &str = "images 3";
/// Programs for tests, without anything of Kubernetes.
const TOOLS: &str = "test.local/tools:1";

/// What kube-proxy and flanneld run, in both of their modes, and what init containers might.
const NETWORK_PROGRAMS: &[&str] =
    &["usr/sbin/xtables-nft-multi", "usr/sbin/nft", "usr/sbin/conntrack", "usr/sbin/ipset", "usr/bin/ip"];
const XTABLES_NAMES: &[&str] =
    &["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];
const TEST_PROGRAMS: &[&str] =
    &["usr/bin/curl", "usr/bin/ping", "usr/bin/ip", "usr/bin/id", "usr/bin/busybox"];

/// Gives the layout's directory and the names in it, after it was written if the cache did not have it.
///
/// `name` is the entry's in the cache, `keys` are those of the parts that go in.
pub(crate) fn ensure(
    store: &Store<'_>,
    name: &str,
    keys: &[String],
    contents: &Contents<'_>,
) -> Result<(PathBuf, Vec<String>), Error> {
    let parts = keys.join(" ");
    let inputs = [REVISION.as_bytes(), PAUSE.as_bytes(), parts.as_bytes()];
    let entry = store.entry(name, &inputs, |job| build(job, contents))?;
    let names = entry.join("NAMES");
    let text = fs::read_to_string(&names).map_err(Error::file("reading", names))?;
    Ok((entry.join("layout"), text.lines().map(String::from).collect()))
}

/// Where the files of images come from.
pub(crate) struct Contents<'a> {
    /// The version of Kubernetes among them.
    pub(crate) kubernetes: &'a str,
    pub(crate) binaries: &'a BTreeMap<String, PathBuf>,
    pub(crate) tree: &'a Path,
}

fn build(job: &Job<'_>, contents: &Contents<'_>) -> Result<(), Error> {
    let pause = build_pause(job)?;
    let mut names = wanted(contents.binary("kubeadm")?, contents.kubernetes)?;
    let mut layout = Layout::create(&job.dir.join("layout"))?;
    for name in &names {
        job.log.say(&format!("kit: write image {name}"));
        let (files, entrypoint) = contents.image(name, &pause)?;
        layout.image(name, &files, &[&entrypoint])?;
    }
    let flannel = format!("ghcr.io/flannel-io/flannel:{FLANNEL}");
    job.log.say(&format!("kit: write image {flannel}"));
    layout.image(&flannel, &contents.flannel()?, &["/opt/bin/flanneld"])?;
    layout.image(TOOLS, &contents.tools()?, &["/bin/sh"])?;
    layout.finish()?;
    names.extend([flannel, TOOLS.into()]);
    let list = job.dir.join("NAMES");
    fs::write(&list, names.join("\n") + "\n").map_err(Error::file("writing", list))
}

/// The names that this kubeadm will ask for; with a version given it asks no server.
fn wanted(kubeadm: &Path, version: &str) -> Result<Vec<String>, Error> {
    let mut command = Command::new(kubeadm);
    let list = answer(command.args(["config", "images", "list", "--kubernetes-version", version]))?;
    Ok(list.lines().map(String::from).collect())
}

fn build_pause(job: &Job<'_>) -> Result<PathBuf, Error> {
    debian::require(&["gcc", "libc6-dev"], &|line| job.log.say(line))?;
    let (source, program) = (job.dir.join("pause.c"), job.dir.join("pause"));
    fs::write(&source, PAUSE).map_err(Error::file("writing", &source))?;
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Os", "-s", "-static", "-Wall", "-Werror", "-o"]).arg(&program).arg(&source);
    job.log.run("build pause", Duration::from_secs(60), &mut cc)?;
    Ok(program)
}

impl Contents<'_> {
    /// The files of one of kubeadm's images, and the path of its program.
    fn image(&self, name: &str, pause: &Path) -> Result<(Files, String), Error> {
        let tail = name.rsplit('/').next().unwrap_or(name);
        let program = tail.split(':').next().unwrap_or(tail);
        let mut files = accounts();
        let path = match program {
            "pause" | "coredns" => program.to_string(),
            _ => format!("usr/local/bin/{program}"),
        };
        match program {
            "pause" => drop(files.insert(path.clone(), Entry::File(pause.into(), 0o755))),
            _ => drop(files.insert(path.clone(), Entry::File(self.binary(program)?.into(), 0o755))),
        }
        if program == "etcd" {
            files.insert("usr/local/bin/etcdctl".into(), Entry::File(self.binary("etcdctl")?.into(), 0o755));
        }
        if program == "kube-proxy" {
            files.extend(self.network()?);
        }
        Ok((files, format!("/{path}")))
    }

    fn binary(&self, name: &str) -> Result<&Path, Error> {
        self.binaries.get(name).map(PathBuf::as_path).ok_or_else(|| Error::Missing {
            what: format!("a program for {name}"),
            remedy: "add it to a recipe; kubeadm asks for an image of that name".into(),
        })
    }

    /// As upstream's, with a shell and iptables.
    fn flannel(&self) -> Result<Files, Error> {
        let mut files = accounts();
        files.extend(self.network()?);
        files.insert("opt/bin/flanneld".into(), Entry::File(self.binary("flanneld")?.into(), 0o755));
        Ok(files)
    }

    fn network(&self) -> Result<Files, Error> {
        let mut files = self.shell()?;
        files.extend(self.programs(NETWORK_PROGRAMS)?);
        for name in XTABLES_NAMES {
            files.insert(format!("usr/sbin/{name}"), Entry::Link("xtables-nft-multi".into()));
        }
        Ok(files)
    }

    fn tools(&self) -> Result<Files, Error> {
        let mut files = accounts();
        files.extend(self.shell()?);
        files.extend(self.programs(TEST_PROGRAMS)?);
        let id = self.tree.join("usr/bin/id");
        files.insert("usr/bin/suid-id".into(), Entry::File(id, 0o4755));
        Ok(files)
    }

    /// A merged-usr skeleton and busybox under the names of its applets; real programs replace them.
    fn shell(&self) -> Result<Files, Error> {
        let busybox = self.tree.join("usr/bin/busybox");
        let mut files = Files::from([("usr/bin/busybox".to_string(), Entry::File(busybox.clone(), 0o755))]);
        for name in ["bin", "sbin", "lib", "lib64"] {
            files.insert(name.into(), Entry::Link(format!("usr/{name}")));
        }
        for applet in answer(Command::new(busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
            files.insert(format!("usr/bin/{applet}"), Entry::Link("busybox".into()));
        }
        Ok(files)
    }

    /// Programs of the tree with all libraries that they load, xtables' modules included.
    fn programs(&self, programs: &[&str]) -> Result<Files, Error> {
        let mut paths: Vec<String> = programs.iter().map(ToString::to_string).collect();
        if programs.contains(&"usr/sbin/xtables-nft-multi") {
            paths.extend(self.xtables_modules()?);
        }
        let mut files = Files::new();
        for library in self.libraries(&paths)? {
            files.insert(library.clone(), Entry::File(self.tree.join(library), 0o755));
        }
        for path in paths {
            files.insert(path.clone(), Entry::File(self.tree.join(path), 0o755));
        }
        Ok(files)
    }

    fn xtables_modules(&self) -> Result<Vec<String>, Error> {
        let mut modules = Vec::new();
        for dir in self.library_dirs()? {
            let Ok(entries) = fs::read_dir(self.tree.join(&dir).join("xtables")) else { continue };
            modules.extend(
                entries.flatten().map(|e| format!("{dir}/xtables/{}", e.file_name().to_string_lossy())),
            );
        }
        modules.retain(|path| path.ends_with(".so"));
        modules.sort();
        Ok(modules)
    }

    /// `usr/lib/<triplet>`, whatever the triplet of this machine is.
    fn library_dirs(&self) -> Result<Vec<String>, Error> {
        let lib = self.tree.join("usr/lib");
        let entries = fs::read_dir(&lib).map_err(Error::file("listing", lib))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.ends_with("-linux-gnu")).map(|name| format!("usr/lib/{name}")).collect())
    }

    /// What ldd(1) of the tree says, and libgcc_s, which the C library loads by itself when a thread is cancelled.
    fn libraries(&self, paths: &[String]) -> Result<Vec<String>, Error> {
        let mut ldd = Command::new("chroot");
        ldd.arg(self.tree).arg("ldd").args(paths.iter().map(|path| format!("/{path}")));
        // ldd fails for a static program; its answers for the others count all the same.
        let output = ldd.output().map_err(|source| Error::Start { program: "chroot".into(), source })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut found: Vec<String> = library_lines(&text).collect();
        found.extend(self.library_dirs()?.iter().map(|dir| format!("{dir}/libgcc_s.so.1")));
        found.retain(|path| self.tree.join(path).is_file());
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// The paths in ldd's answer, in the place they have under merged /usr.
fn library_lines(ldd: &str) -> impl Iterator<Item = String> {
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with("/lib") || word.starts_with("/usr/lib"))
            .map(String::from)
    };
    let merge =
        |path: String| if path.starts_with("/usr/") { path[1..].to_string() } else { format!("usr{path}") };
    // Lines that start in the first column are headings with the program's own name.
    ldd.lines().filter(|line| line.starts_with(['\t', ' '])).filter_map(path).map(merge)
}

fn accounts() -> Files {
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    Files::from([
        ("etc/passwd".into(), Entry::Text(passwd.into())),
        ("etc/group".into(), Entry::Text("root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n".into())),
        ("root".into(), Entry::Dir(0o700)),
        ("tmp".into(), Entry::Dir(0o1777)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_from_ldd() {
        let text = "/usr/bin/x:\n\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/a-linux-gnu/libc.so.6 (0x1)\n\t/lib64/ld.so.2 (0x2)\n";
        let found: Vec<String> = library_lines(text).collect();
        assert_eq!(found, ["usr/lib/a-linux-gnu/libc.so.6", "usr/lib64/ld.so.2"]);
    }
}
