//! What the node sees of the file system: the host's root, with targeted mounts over it.
//!
//! Whoever is root inside can take these mounts away. What is below each is harmless: it is nothing, by the unit's own mounts,
//! which are locked since they are older than the user namespace, or what every user of the host sees. docs/architecture.md,
//! "What lies below the node's mounts", has the list; a mount that is added here belongs into it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use u7s_plan::node::{Bind, NodeSpec};

use super::{Blueprint, CGROUPS};
use crate::Error;

/// Where the runtime directory appears inside, whatever it is called on the host.
const RUNTIME: &str = "/run/u7s";

/// Directories of the fresh /run and their modes.
const RUN: [(&str, u32); 6] = [
    ("/run/lock", 0o1777),
    ("/run/crio", 0o755),
    ("/run/containers", 0o755),
    ("/run/flannel", 0o755),
    ("/run/netns", 0o755),
    (RUNTIME, 0o700),
];

/// How much a tmpfs of the node may take of the machine's memory; a file without content takes about 1 KiB.
///
/// Source: systemd, src/shared/mount-setup.h, `TMPFS_LIMITS_RUN`.
const BOUNDS: &str = "size=20%,nr_inodes=100k";

/// How many symbolic links a name may have.
const LINKS: usize = 8;

/// Does what needs capabilities only: the id maps need not be there yet.
///
/// Shape: the runtime directory, taken before /run is covered; as a directory, so that a socket made anew is seen.
pub(super) fn before_maps(runtime_dir: &Path) -> Result<OwnedFd, Error> {
    // The host's later mounts and unmounts come through, ours stay here.
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(failed("propagation", "/"))?;
    let taken = u7s_sys::mount::take(runtime_dir).map_err(Error::system("take the runtime directory"))?;
    let closed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fresh("proc", "/proc", closed, None)?;
    fresh("sysfs", "/sys", closed, None)?;
    fresh("cgroup2", CGROUPS, closed, None)?;
    Ok(taken)
}

/// Does what creates files: before the maps an owner would have no number.
pub(super) fn after_maps(blueprint: Blueprint<'_>, runtime_dir: &OwnedFd) -> Result<(), Error> {
    let spec = blueprint.spec;
    bounded("/run", 0o755)?;
    for (path, mode) in RUN {
        make_dir(Path::new(path), mode)?;
    }
    u7s_sys::mount::attach(runtime_dir.as_fd(), Path::new(RUNTIME))
        .map_err(Error::system("attach the runtime directory"))?;
    for bind in &spec.binds {
        bind_directory(bind)?;
    }
    if !covers(spec, "/root") {
        bounded("/root", 0o700)?;
    }
    if !covers(spec, "/tmp") {
        bounded("/tmp", 0o1777)?;
    }
    // Layers of images are unpacked there: more than memory holds.
    if !covers(spec, "/var/tmp") {
        bind_over(&blueprint.tree.var_tmp(), Path::new("/var/tmp"))?;
    }
    bind_file(&blueprint.tree.resolv_conf(), Path::new("/etc/resolv.conf"))?;
    bind_file(&blueprint.tree.hosts(), Path::new("/etc/hosts"))?;
    hide_unreadable_kmsg()
}

fn covers(spec: &NodeSpec, target: &str) -> bool {
    spec.binds.iter().any(|bind| bind.target == Path::new(target))
}

/// A tmpfs of the node's own, with this mode and [`BOUNDS`].
fn bounded(target: &str, mode: u32) -> Result<(), Error> {
    let data = format!("mode={mode:04o},{BOUNDS}");
    fresh("tmpfs", target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(&data))
}

fn bind_directory(bind: &Bind) -> Result<(), Error> {
    bind_over(&bind.source, &bind.target)?;
    if bind.shared {
        let (none, shared) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED);
        mount(none, &bind.target, none, shared, none).map_err(failed("shared propagation", &bind.target))?;
    }
    Ok(())
}

/// Binds a file of ours over one of the host; where that links into /run, which is empty now, its target is made first.
fn bind_file(source: &Path, target: &Path) -> Result<(), Error> {
    let target = follow(target).map_err(Error::read(target))?;
    if target.starts_with("/run") {
        make_dir(target.parent().unwrap_or_else(|| Path::new("/run")), 0o755)?;
        File::create(&target).map_err(Error::write(&target))?;
    }
    bind_over(source, &target)
}

/// The path at the end of a chain of symbolic links; the last one need not exist.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(link) = fs::read_link(&path) else { return Ok(outside_var_run(&path)) };
        path = resolve(path.parent().unwrap_or_else(|| Path::new("/")), &link);
    }
    Err(io::Error::from_raw_os_error(nix::errno::Errno::ELOOP as i32))
}

fn resolve(directory: &Path, link: &Path) -> PathBuf {
    let mut resolved = PathBuf::from("/");
    for part in directory.join(link).components() {
        match part {
            Component::ParentDir => drop(resolved.pop()),
            Component::Normal(name) => resolved.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    resolved
}

/// /var/run is /run everywhere.
fn outside_var_run(path: &Path) -> PathBuf {
    path.strip_prefix("/var/run").map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest))
}

/// With `dmesg_restrict` the kubelet would fail at /dev/kmsg; /dev/null is empty and readable.
fn hide_unreadable_kmsg() -> Result<(), Error> {
    let kmsg = Path::new("/dev/kmsg");
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(kmsg);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bind_over(Path::new("/dev/null"), kmsg)
        }
        _ => Ok(()),
    }
}

fn bind_over(source: &Path, target: &Path) -> Result<(), Error> {
    let none = None::<&str>;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(|errno| {
        match [source, target].into_iter().find(|place| !place.exists()) {
            Some(missing) => Error::BindPlace {
                source_path: source.into(),
                target: target.into(),
                missing: missing.into(),
            },
            None => failed(source, target)(errno),
        }
    })
}

fn fresh(kind: &'static str, target: &str, flags: MsFlags, data: Option<&str>) -> Result<(), Error> {
    mount(Some(kind), target, Some(kind), flags, data).map_err(failed(kind, target))
}

/// Makes a directory with exactly this mode; missing parents are 0755. The umask is 022, as `settle` has set it.
fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(mode & 0o755).create(path).map_err(Error::write(path))?;
    if mode & 0o755 == mode {
        return Ok(());
    }
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(Error::write(path))
}

fn failed<'a>(
    what: impl AsRef<OsStr> + 'a,
    target: impl AsRef<Path> + 'a,
) -> impl FnOnce(nix::errno::Errno) -> Error + 'a {
    move |source| Error::Mount {
        what: what.as_ref().to_string_lossy().into_owned(),
        target: target.as_ref().to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_without_the_file_behind_them() {
        let table = [
            ("/etc", "../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf"),
            ("/etc", "/run/resolvconf/resolv.conf", "/run/resolvconf/resolv.conf"),
            ("/etc", "./../../x", "/x"),
        ];
        for (directory, link, expected) in table {
            assert_eq!(resolve(Path::new(directory), Path::new(link)), Path::new(expected));
        }
        let place = tempfile::tempdir().unwrap();
        let name = place.path().join("resolv.conf");
        std::os::unix::fs::symlink("/var/run/nowhere/resolv.conf", &name).unwrap();
        assert_eq!(follow(&name).unwrap(), Path::new("/run/nowhere/resolv.conf"));
        fs::remove_file(&name).unwrap();
        std::os::unix::fs::symlink("resolv.conf", &name).unwrap();
        assert!(follow(&name).is_err());
    }
}
