//! The unit's cgroup: where the supervisor lives, where the node lives, and how its remains go away.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use u7s_plan::node::NodeSpec;

use crate::Error;

/// Name of the supervisor's own leaf, the same as the unit's `DelegateSubgroup=`.
const LEAF: &str = "supervisor";

/// Name of the node's cgroup, beside the leaf.
const NODE: &str = "node";

/// How long the node's cgroup may stay busy after its processes were killed.
const REMOVAL: Duration = Duration::from_secs(2);

/// The node's place in the cgroup2 hierarchy; dropped, it is emptied and removed.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its directory on the host.
    pub(crate) path: PathBuf,
    /// Its name below the cgroup2 mount: `/system.slice/u7s.service/node`.
    pub(crate) name: String,
    /// The directory itself, for CLONE_INTO_CGROUP.
    pub(crate) directory: File,
}

/// Moves this process into the leaf, makes a fresh node cgroup beside it and enables the controllers for both.
///
/// Should: the unit's cgroup holds no process itself, or enabling controllers would fail with EBUSY.
/// What is missing of `spec.controllers` is an error, unless the node is degraded.
///
/// # Errors
/// [`Error::NoCgroup`], [`Error::WriteFile`], [`Error::Controllers`], [`Error::RemoveCgroup`].
pub(crate) fn prepare(spec: &NodeSpec) -> Result<Node, Error> {
    let own = own()?;
    let unit = leave_inner_node(&own)?;
    let path = unit.join(NODE);
    remove(&path)?;
    enable_controllers(&unit, &spec.controllers, !spec.degraded.is_empty())?;
    fs::create_dir(&path).map_err(Error::write(&path))?;
    let directory = File::open(&path).map_err(Error::read(&path))?;
    let name = name_below(&own.mount, &path);
    Ok(Node { path, name, directory })
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
    let deadline = Instant::now() + REMOVAL;
    let _ = fs::write(path.join("cgroup.kill"), "1");
    loop {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(source) => return Err(Error::RemoveCgroup { path: path.to_owned(), source }),
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The cgroup2 mount and this process' directory below it.
#[derive(Debug)]
struct Own {
    mount: PathBuf,
    path: PathBuf,
}

fn own() -> Result<Own, Error> {
    let read = |path: &'static str| fs::read_to_string(path).map_err(Error::read(path));
    let (mount, root) = find_mount(&read("/proc/self/mountinfo")?).ok_or(Error::NoCgroup)?;
    let name = find_name(&read("/proc/self/cgroup")?).ok_or(Error::NoCgroup)?;
    let below = Path::new(&name).strip_prefix(&root).map_err(|_| Error::NoCgroup)?;
    let path = mount.join(below);
    if path.is_dir() { Ok(Own { mount, path }) } else { Err(Error::NoCgroup) }
}

/// Mount point and root of the first cgroup2 mount.
///
/// Source: proc_pid_mountinfo(5): fields 4 and 5, then the type after the separator ` - `.
fn find_mount(mountinfo: &str) -> Option<(PathBuf, String)> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then(|| (PathBuf::from(mount), root.to_owned()))
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
    let available = fs::read_to_string(&available).map_err(Error::read(available))?;
    let available: Vec<&str> = available.split_whitespace().collect();
    let missing: Vec<String> =
        wanted.iter().filter(|name| !available.contains(&name.as_str())).cloned().collect();
    if !missing.is_empty() && !degraded {
        return Err(Error::Controllers { missing, unit: unit.to_owned() });
    }
    let control = unit.join("cgroup.subtree_control");
    for name in available {
        fs::write(&control, format!("+{name}")).map_err(Error::write(&control))?;
    }
    Ok(())
}

fn name_below(mount: &Path, path: &Path) -> String {
    path.strip_prefix(mount)
        .map_or_else(|_| path.display().to_string(), |name| format!("/{}", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_unified_and_hybrid_hosts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      39 30 0:35 /init.scope /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(unified), Some(("/sys/fs/cgroup".into(), "/".into())));
        assert_eq!(find_mount(hybrid), Some(("/sys/fs/cgroup/unified".into(), "/init.scope".into())));
        assert_eq!(find_mount("31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
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
}
