//! The unit's cgroup: where the supervisor lives, where the node lives, and how its remains go away.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::{Dir, Type};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use u7s_plan::node::NodeSpec;

use crate::{Error, small};

/// Name of the supervisor's own leaf, the same as the unit's `DelegateSubgroup=`.
const LEAF: &str = "supervisor";

/// Name of the node's cgroup, beside the leaf; `node-1` and so on while a former one cannot be removed.
const NODE: &str = "node";

/// How many former cgroups of the node may be in the way: each holds processes that SIGKILL does not end.
const FORMER: usize = 1000;

/// How deep the node's cgroups may be: a pod is four deep, what nests in it a few more.
///
/// The kernel's default is no limit: a pod that broke out could make a tree whose names are too long for anybody to
/// remove it, and no node would start in this unit again. Inside the limits cannot be raised (`nsdelegate`).
const DEPTH: &str = "64";

/// How many cgroups the node may have: above what the largest node has, and removed within a second.
const DESCENDANTS: &str = "20000";

/// How long the node's cgroup may stay busy after its processes were killed.
const REMOVAL: Duration = Duration::from_secs(2);

/// The node's place in the cgroup2 hierarchy; dropped, it is emptied and removed.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its directory on the host.
    pub(crate) path: PathBuf,
    /// Its name below the cgroup2 mount: `/system.slice/u7s.service/node`, or `…/node-1`.
    pub(crate) name: String,
    /// The directory itself, for CLONE_INTO_CGROUP.
    pub(crate) directory: File,
}

/// Moves this process into the leaf, makes a fresh node cgroup beside it and enables the controllers for both.
///
/// Former ones that are busy do not hinder: the node gets another name then.
///
/// Should: the unit's cgroup holds no process itself, or enabling controllers would fail with EBUSY.
/// What is missing of `spec.controllers` is an error, unless the node is degraded.
///
/// # Errors
/// [`Error::NoCgroup`], [`Error::WriteFile`], [`Error::Controllers`], [`Error::RemoveCgroup`].
pub(crate) fn prepare(spec: &NodeSpec) -> Result<Node, Error> {
    let own = own()?;
    let unit = leave_inner_node(&own)?;
    enable_controllers(&unit, &spec.controllers, !spec.degraded.is_empty())?;
    remove_former(&unit);
    let path = make_fresh(&unit)?;
    limit(&path);
    let directory = File::open(&path).map_err(Error::read(&path))?;
    let name = name_below(&own.mount, &path);
    Ok(Node { path, name, directory })
}

/// Removes what former nodes left. What cannot be removed stays, with a warning: the kernel has processes that SIGKILL does not
/// end, and whoever broke out of a pod can make some; no node would start in this unit again before a reboot.
fn remove_former(unit: &Path) {
    let former = former(unit);
    for path in &former {
        kill(path);
    }
    let until = Instant::now() + REMOVAL;
    for path in former {
        if let Err(error) = remove_until(&path, until) {
            tracing::warn!(%error, "{} of a former node cannot be removed: its processes do not end", path.display());
        }
    }
}

/// The node's cgroups that are there, [`FORMER`] at most: other names are not the node's.
fn former(unit: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(unit) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name()).filter(|name| is_of_a_node(name));
    names.map(|name| unit.join(name)).collect()
}

fn is_of_a_node(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let number = name.strip_prefix(NODE).and_then(|rest| rest.strip_prefix('-')).map(str::parse::<usize>);
    name == NODE || matches!(number, Some(Ok(number)) if number < FORMER)
}

fn names() -> impl Iterator<Item = String> {
    std::iter::once(NODE.to_owned()).chain((1..FORMER).map(|number| format!("{NODE}-{number}")))
}

/// Makes the first of the node's cgroups whose name is free.
fn make_fresh(unit: &Path) -> Result<PathBuf, Error> {
    for path in names().map(|name| unit.join(name)) {
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::write(path)(error)),
        }
    }
    let source = io::ErrorKind::AlreadyExists.into();
    Err(Error::RemoveCgroup { path: unit.join(NODE), source })
}

/// A kernel or a mount that takes no limits gives the node as it is: nothing legitimate needs them.
fn limit(node: &Path) {
    for (file, value) in [("cgroup.max.depth", DEPTH), ("cgroup.max.descendants", DESCENDANTS)] {
        if let Err(error) = fs::write(node.join(file), value) {
            tracing::warn!(%error, "{file} of the node was not set to {value}");
        }
    }
}

impl Node {
    /// Kills what is left in it and removes it.
    ///
    /// # Errors
    /// [`Error::RemoveCgroup`]: something still holds it after two seconds.
    pub(crate) fn remove(self) -> Result<(), Error> {
        remove(&self.path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // After `remove` it is gone already; on the way out of a failure nothing better can be done.
        let _ = remove(&self.path);
    }
}

/// Kills what is left in a cgroup and removes it with all below; a missing one is fine.
///
/// # Errors
/// [`Error::RemoveCgroup`]: something still holds it after two seconds.
fn remove(path: &Path) -> Result<(), Error> {
    kill(path);
    remove_until(path, Instant::now() + REMOVAL)
        .map_err(|source| Error::RemoveCgroup { path: path.to_owned(), source })
}

/// Sends SIGKILL to all that is in a cgroup or below; where the kernel has no such file (< 5.14), removing it fails.
fn kill(cgroup: &Path) {
    let file = File::options().write(true).open(cgroup.join("cgroup.kill"));
    let _ = file.and_then(|mut file| file.write_all(b"1"));
}

/// Tries until the deadline, once at least; processes that were killed need a moment.
fn remove_until(path: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match remove_tree(path, deadline) {
            Ok(()) => return Ok(()),
            // Or a part of it went meanwhile, by another hand.
            Err(_) if fs::symlink_metadata(path).is_err() => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(source) => return Err(source),
        }
    }
}

/// Removes a cgroup with all below, or, where the deadline comes first, a part of it.
///
/// One descriptor at a time, and no names of whole paths: beside the node's cgroup, in the unit's, [`DEPTH`] does not hold, and
/// whoever broke out of a pod can make a tree as deep as he likes.
fn remove_tree(path: &Path, deadline: Instant) -> io::Result<()> {
    let mut directory = Dir::open(path, DIRECTORY, Mode::empty())?;
    let mut names: Vec<CString> = Vec::new();
    loop {
        if let Some(child) = first_child(&mut directory)? {
            directory = Dir::openat(&directory, child.as_c_str(), DIRECTORY, Mode::empty())?;
            names.push(child);
            continue;
        }
        let Some(name) = names.pop() else { break };
        directory = Dir::openat(&directory, c"..", DIRECTORY, Mode::empty())?;
        unlinkat(&directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    fs::remove_dir(path)
}

/// How directories are opened here: never by a link.
const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn first_child(directory: &mut Dir) -> nix::Result<Option<CString>> {
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == Some(Type::Directory) && !matches!(name.to_bytes(), b"." | b"..") {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// The cgroup2 mount and this process' directory below it.
#[derive(Debug)]
struct Own {
    mount: PathBuf,
    path: PathBuf,
}

fn own() -> Result<Own, Error> {
    let read = |path: &'static str| small::read(Path::new(path)).map_err(Error::read(path));
    let name = find_name(&read("/proc/self/cgroup")?).ok_or(Error::NoCgroup)?;
    let (mount, root) = find_mount(&read("/proc/self/mountinfo")?, &name).ok_or(Error::NoCgroup)?;
    let below = Path::new(&name).strip_prefix(&root).map_err(|_| Error::NoCgroup)?;
    let path = mount.join(below);
    if path.is_dir() { Ok(Own { mount, path }) } else { Err(Error::NoCgroup) }
}

/// Mount point and root of the first cgroup2 mount that shows the cgroup `name`; others may be binds of parts.
///
/// Source: proc_pid_mountinfo(5): fields 4 and 5, then the type after the separator ` - `.
fn find_mount(mountinfo: &str, name: &str) -> Option<(PathBuf, String)> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let shows = kind.starts_with("cgroup2 ") && Path::new(name).starts_with(root);
        shows.then(|| (PathBuf::from(mount), root.to_owned()))
    })
}

/// The name behind `0::`.
///
/// Source: cgroups(7), "/proc files".
fn find_name(cgroup: &str) -> Option<String> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Returns the unit's cgroup; makes the leaf and moves there unless systemd has started this process in it.
fn leave_inner_node(own: &Own) -> Result<PathBuf, Error> {
    if own.path.file_name().is_some_and(|name| name == LEAF) {
        return Ok(own.path.parent().unwrap_or(&own.mount).to_owned());
    }
    let leaf = own.path.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Error::write(leaf)(error)),
        _ => {}
    }
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, "0").map_err(Error::write(&procs))?;
    Ok(own.path.clone())
}

fn enable_controllers(unit: &Path, wanted: &[String], degraded: bool) -> Result<(), Error> {
    let available = unit.join("cgroup.controllers");
    let available = small::read(&available).map_err(Error::read(available))?;
    let available: Vec<&str> = available.split_whitespace().collect();
    let missing: Vec<String> =
        wanted.iter().filter(|name| !available.contains(&name.as_str())).cloned().collect();
    if !missing.is_empty() && !degraded {
        return Err(Error::Controllers { missing, unit: unit.to_owned() });
    }
    let needed = if degraded { &[] } else { wanted };
    let refused = enable(unit, &available, needed)?;
    refused.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(())
}

/// Enables controllers one by one for the children of a cgroup; what was refused and is not needed is a warning each.
///
/// One alone may be refused for reasons of its own: cpu where real-time processes run, cpuset with another partition.
///
/// # Errors
/// [`Error::WriteFile`]: a controller of `needed` was refused.
pub(crate) fn enable(cgroup: &Path, available: &[&str], needed: &[String]) -> Result<Vec<String>, Error> {
    let control = cgroup.join("cgroup.subtree_control");
    let mut warnings = Vec::new();
    for name in available {
        match fs::write(&control, format!("+{name}")) {
            Ok(()) => {}
            Err(error) if needed.iter().any(|needed| needed == name) => {
                return Err(Error::write(control)(error));
            }
            Err(error) => warnings.push(format!("cgroup controller {name} was not enabled: {error}")),
        }
    }
    Ok(warnings)
}

fn name_below(mount: &Path, path: &Path) -> String {
    path.strip_prefix(mount)
        .map_or_else(|_| path.display().to_string(), |name| format!("/{}", name.display()))
}

/// A table of mounts, and the cgroup of a process.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) {
    let name = find_name(text).unwrap_or_else(|| "/system.slice/u7s.service".into());
    if let Some((mount, root)) = find_mount(text, &name) {
        assert!(Path::new(&name).strip_prefix(&root).is_ok() && text.contains(&*mount.to_string_lossy()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_unified_and_hybrid_hosts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      39 30 0:35 /init.scope /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let name = "/init.scope/u7s.service";
        assert_eq!(find_mount(unified, name), Some(("/sys/fs/cgroup".into(), "/".into())));
        assert_eq!(find_mount(hybrid, name), Some(("/sys/fs/cgroup/unified".into(), "/init.scope".into())));
        assert_eq!(find_mount("31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", name), None);
        let bound = format!("29 23 0:26 /machine.slice/x /mnt rw - cgroup2 cgroup2 rw\n{unified}");
        assert_eq!(find_mount(&bound, name), Some(("/sys/fs/cgroup".into(), "/".into())));
    }

    #[test]
    fn the_own_cgroup_is_the_line_without_controllers() {
        let text = "4:memory:/user\n0::/system.slice/u7s.service/supervisor\n";
        assert_eq!(find_name(text).as_deref(), Some("/system.slice/u7s.service/supervisor"));
        assert_eq!(find_name("4:memory:/user\n"), None);
    }

    #[test]
    fn missing_controllers_are_named_unless_the_node_is_degraded() {
        let unit = tempfile::tempdir().unwrap();
        fs::write(unit.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let wanted = ["cpu".to_owned(), "pids".to_owned(), "io".to_owned()];
        let error = enable_controllers(unit.path(), &wanted, false).unwrap_err().to_string();
        let expected =
            format!("enable cgroup controllers: pids, io not delegated to {}", unit.path().display());
        assert_eq!(error, expected);
        enable_controllers(unit.path(), &wanted, true).unwrap();
    }

    #[test]
    fn a_refused_controller_is_fatal_only_where_it_is_needed() {
        let cgroup = tempfile::tempdir().unwrap();
        // Every write to a directory is refused.
        fs::create_dir(cgroup.path().join("cgroup.subtree_control")).unwrap();
        let warnings = enable(cgroup.path(), &["misc", "io"], &["cpu".to_owned()]).unwrap();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("cgroup controller misc was not enabled: "), "{warnings:?}");
        enable(cgroup.path(), &["misc", "io"], &["io".to_owned()]).unwrap_err();
    }

    #[test]
    fn a_busy_former_cgroup_costs_the_node_its_name_only() {
        let unit = tempfile::tempdir().unwrap();
        assert_eq!(make_fresh(unit.path()).unwrap(), unit.path().join("node"));
        // A file in it: what cannot be removed, for any reason.
        fs::write(unit.path().join("node/held"), "").unwrap();
        remove_former(unit.path());
        assert_eq!(make_fresh(unit.path()).unwrap(), unit.path().join("node-1"));
        fs::remove_file(unit.path().join("node/held")).unwrap();
        remove_former(unit.path());
        assert_eq!(former(unit.path()), Vec::<PathBuf>::new());
        assert_eq!(make_fresh(unit.path()).unwrap(), unit.path().join("node"));
        for name in names() {
            let _ = fs::create_dir(unit.path().join(name));
        }
        assert!(matches!(make_fresh(unit.path()), Err(Error::RemoveCgroup { .. })));
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("node");
        fs::create_dir(&root).unwrap();
        let mut directory = Dir::open(&root, DIRECTORY, Mode::empty()).unwrap();
        let name = "x".repeat(255);
        for _ in 0..2000 {
            nix::sys::stat::mkdirat(&directory, name.as_str(), Mode::S_IRWXU).unwrap();
            directory = Dir::openat(&directory, name.as_str(), DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&root, Instant::now() + REMOVAL).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn a_removal_that_takes_too_long_ends_and_has_done_a_part() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("node");
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("d")).unwrap();
        let error = remove_tree(&root, Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(root.exists() && !root.join("a/b/c").exists() | !root.join("d").exists());
    }
}
