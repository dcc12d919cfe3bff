//! The node's user, the other users and their subordinate ids.

use std::path::{Path, PathBuf};

use nix::unistd::User;
use u7s_plan::facts::{Facts, Space, UserFact};
use u7s_plan::host;

use super::{proc_text, text};
use crate::files;

/// Fills in what concerns users.
pub(crate) fn fill(facts: &mut Facts, name: &str) {
    facts.user = find(name);
    facts.users = users();
    // Large sites list thousands of users in these.
    facts.subuid = proc_text("/etc/subuid");
    facts.subgid = proc_text("/etc/subgid");
    let home = facts.user.as_ref().map_or_else(|| PathBuf::from(host::HOME), |user| user.home.clone());
    facts.home_fs = file_system(&proc_text("/proc/self/mountinfo"), &home);
    facts.space = space(&home);
    facts.lingering = matches!(files::stat(&Path::new(LINGER).join(name)), Ok(Some(_)));
    facts.inside = inside(&text("/proc/self/uid_map"), facts.user.as_ref());
}

/// A file here makes logind start the manager of the user that it is named after, at each boot.
///
/// Source: systemd, src/login/logind-dbus.c, `method_set_user_linger`.
pub(crate) const LINGER: &str = "/var/lib/systemd/linger";

/// The user as the host's databases know it.
#[must_use]
pub fn find(name: &str) -> Option<UserFact> {
    let user = User::from_name(name).ok().flatten()?;
    let home_owner = files::directory(&user.dir).ok().flatten().map(|rights| (rights.uid, rights.mode));
    Some(UserFact { uid: user.uid.as_raw(), gid: user.gid.as_raw(), home: user.dir, home_owner })
}

/// All users of /etc/passwd: name and uid.
pub(crate) fn users() -> Vec<(String, u32)> {
    all(&text("/etc/passwd"))
}

/// Source: passwd(5).
fn all(text: &str) -> Vec<(String, u32)> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(user).collect()
}

/// Space below `path`, or below the nearest directory above it that there is.
fn space(path: &Path) -> Option<Space> {
    let seen = path.ancestors().find_map(|path| nix::sys::statvfs::statvfs(path).ok())?;
    let bytes = |blocks: u64| blocks.saturating_mul(seen.fragment_size());
    Some(Space {
        total: bytes(seen.blocks()),
        free: bytes(seen.blocks_available()),
        files: seen.files(),
        free_files: seen.files_available(),
    })
}

/// In the node's namespaces 0 is the node's user; in those of a container around the whole host it is somebody else.
fn inside(uid_map: &str, user: Option<&UserFact>) -> bool {
    let extents = uid_map.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let outside = extents.into_iter().find(|(inside, _)| *inside == 0).map(|(_, outside)| outside);
    user.is_some_and(|user| user.uid != 0 && outside == Some(user.uid))
}

/// Type of the file system under `path`: that of the longest mount point above it, the last one mounted there.
///
/// Source: proc_pid_mountinfo(5): mount point is field 5, the type follows ` - `.
fn file_system(mountinfo: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = PathBuf::from(left.split(' ').nth(4)?.replace("\\040", " "));
        path.starts_with(&point)
            .then(|| (point.as_os_str().len(), right.split(' ').next().unwrap_or("").to_owned()))
    };
    mountinfo.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// passwd, an id map, a table of mounts.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(text: &str) {
    assert!(all(text).len() <= text.len());
    let user = UserFact { uid: 990, ..UserFact::default() };
    assert!(!inside(text, Some(&UserFact::default())), "root is nobody's user inside");
    let _ = inside(text, Some(&user));
    let kind = file_system(text, Path::new("/var/lib/u7s-admin"));
    assert!(kind.is_none_or(|kind| text.contains(&kind)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_and_lines_that_are_none_are_left_out() {
        let text =
            "root:x:0:0:root:/root:/bin/bash\n+::::::\nbad\nu7s-admin:x:988:987::/var/lib/u7s-admin:/x\n";
        assert_eq!(all(text), [("root".to_owned(), 0), ("u7s-admin".to_owned(), 988)]);
    }

    #[test]
    fn inside_is_told_by_the_user_that_zero_stands_for() {
        let user = UserFact { uid: 988, ..UserFact::default() };
        assert!(inside("         0        988          1\n         1     100000      65536\n", Some(&user)));
        assert!(!inside("         0          0 4294967295\n", Some(&user)));
        assert!(!inside("         0     100000      65536\n", Some(&user)));
        assert!(!inside("0 988 1\n", None));
        assert!(!inside("", Some(&user)));
    }

    #[test]
    fn the_file_system_of_the_nearest_mount_counts() {
        let text = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:40 / /var/lib rw shared:1 - nfs4 srv:/x rw\n\
                    31 22 0:41 / /var/library rw - tmpfs x rw\n32 22 0:42 / /var/lib rw - xfs /dev/sdb rw\n";
        assert_eq!(file_system(text, Path::new("/var/lib/u7s-admin")).unwrap(), "xfs");
        assert_eq!(file_system(text, Path::new("/home/x")).unwrap(), "ext4");
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn root_is_found_and_nobody_else_is_invented() {
        assert_eq!(find("root").unwrap().uid, 0);
        assert_eq!(find("u7s-no-such-user"), None);
    }
}
