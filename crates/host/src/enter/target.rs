//! The node's pid 1: found by asking, believed only after looking (S46, S47).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use u7s_plan::facts::UserFact;
use u7s_sys::enter::{Ids, Limit};
use u7s_sys::{pidfd, userns};

use super::error::Error;
use crate::control::Client;

/// The unit whose cgroup the node must be below.
const UNIT: &str = "u7s.service";

/// Where cgroup2 may be mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The verified pid 1 of the running node, held by descriptor.
#[derive(Debug)]
pub struct Target {
    process: OwnedFd,
    cgroup: PathBuf,
    ids: Ids,
    limits: Vec<Limit>,
}

impl Target {
    /// Asks the supervisor for the node's pid 1 and verifies what it names.
    ///
    /// # Errors
    /// `Control(NotRunning)`: u7s.service does not run. `NotOurs`, `Look` as [`Target::verified`].
    pub fn find(user: &UserFact) -> Result<Self, Error> {
        let status = Client::new(user.uid).status()?;
        Self::verified(status.init_pid, user)
    }

    /// Holds process `pid` and proves that it is the pid 1 of namespaces that `user` made in ours, below u7s.service.
    ///
    /// A number alone is never believed: the process is held first, looked at, and must still be alive afterwards.
    ///
    /// # Errors
    /// `NotOurs` says which proof failed; `Look`: it is gone, or the caller may not look at it.
    pub fn verified(pid: i32, user: &UserFact) -> Result<Self, Error> {
        let look = |source| Error::Look { pid, source };
        if pid <= 1 {
            return Err(Error::NotOurs { pid, reason: "a node's pid 1 has another number outside".into() });
        }
        let process = pidfd::open(pid)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(look)?;
        let namespace = File::open(format!("/proc/{pid}/ns/user")).map_err(look)?;
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(look)?;
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).map_err(look)?;
        let cgroup = judge(&status, &cgroups, user.uid)
            .and_then(|cgroup| judge_namespace(&namespace, user.uid).map(|()| cgroup))
            .map_err(|reason| Error::NotOurs { pid, reason })?;
        // Alive now, so all the while: what was read above was about this very process.
        pidfd::signal(process.as_fd(), None)?;
        Ok(Self { process, cgroup, ids: Ids { uid: user.uid, gid: user.gid }, limits: limits_of(&limits) })
    }

    /// The held process.
    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Whose it is.
    pub(crate) fn ids(&self) -> Ids {
        self.ids
    }

    /// The limits of the held process, none above those of this one.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// `cgroup.procs` of the cgroup that pid 1 itself is in, open for writing.
    ///
    /// # Errors
    /// `Cgroup`: it is no cgroup2 file, or may not be written.
    pub(crate) fn procs(&self) -> Result<OwnedFd, Error> {
        let below = self.cgroup.strip_prefix("/").unwrap_or(&self.cgroup);
        let mount = MOUNTS.into_iter().find(|mount| Path::new(mount).join("cgroup.controllers").exists());
        let path = Path::new(mount.unwrap_or(MOUNTS[0])).join(below).join("cgroup.procs");
        let open = || -> io::Result<OwnedFd> {
            let file = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path)?;
            if fstatfs(&file)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
                return Err(io::Error::other("this is no cgroup2 file system"));
            }
            Ok(file.into())
        };
        open().map_err(|source| Error::Cgroup { path: path.clone(), source })
    }
}

/// What /proc tells about a node's pid 1; its cgroup if everything fits.
fn judge(status: &str, cgroups: &str, uid: u32) -> Result<PathBuf, String> {
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let pids = numbers("NSpid:");
    if pids.len() < 2 || pids.last() != Some(&1) {
        return Err("it is not pid 1 of a pid namespace below this one".into());
    }
    if numbers("Uid:").iter().any(|seen| *seen != uid) {
        return Err(format!("it does not run as uid {uid}"));
    }
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let mut parts = cgroup.split('/').skip(1);
    // Below user.slice anybody may make a cgroup of any name.
    let safe = !cgroup.split('/').any(|part| part == ".." || part == "user.slice");
    if !safe || !parts.any(|part| part == UNIT) {
        return Err(format!("its cgroup {cgroup} is not below {UNIT}"));
    }
    Ok(cgroup.into())
}

/// Resources by their names in /proc/PID/limits.
///
/// Source: fs/proc/base.c, `lnames`.
const RESOURCES: [(&str, Resource); 16] = [
    ("Max cpu time", Resource::RLIMIT_CPU),
    ("Max file size", Resource::RLIMIT_FSIZE),
    ("Max data size", Resource::RLIMIT_DATA),
    ("Max stack size", Resource::RLIMIT_STACK),
    ("Max core file size", Resource::RLIMIT_CORE),
    ("Max resident set", Resource::RLIMIT_RSS),
    ("Max processes", Resource::RLIMIT_NPROC),
    ("Max open files", Resource::RLIMIT_NOFILE),
    ("Max locked memory", Resource::RLIMIT_MEMLOCK),
    ("Max address space", Resource::RLIMIT_AS),
    ("Max file locks", Resource::RLIMIT_LOCKS),
    ("Max pending signals", Resource::RLIMIT_SIGPENDING),
    ("Max msgqueue size", Resource::RLIMIT_MSGQUEUE),
    ("Max nice priority", Resource::RLIMIT_NICE),
    ("Max realtime priority", Resource::RLIMIT_RTPRIO),
    ("Max realtime timeout", Resource::RLIMIT_RTTIME),
];

/// The limits of a process, none above those of this one.
fn limits_of(text: &str) -> Vec<Limit> {
    let limit = |(name, resource): (&str, Resource)| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut numbers = line.split_ascii_whitespace().map(|word| match word {
            "unlimited" => Some(RLIM_INFINITY),
            number => number.parse().ok(),
        });
        let (soft, hard) = (numbers.next()??, numbers.next()??);
        let (_, own) = getrlimit(resource).ok()?;
        let hard = own.min(hard);
        Some((resource, soft.min(hard), hard))
    };
    RESOURCES.into_iter().filter_map(limit).collect()
}

/// The kernel's own word on who made the user namespace, and where.
fn judge_namespace(namespace: &File, uid: u32) -> Result<(), String> {
    let owner = userns::owner(namespace).map_err(|error| error.to_string())?;
    if owner != uid {
        return Err(format!("its user namespace belongs to uid {owner}, not to {uid}"));
    }
    let parent =
        userns::parent(namespace).map_err(|_| "its user namespace was not made in this one".to_owned())?;
    let identity = |file: io::Result<fs::Metadata>| file.map(|seen| (seen.dev(), seen.ino())).ok();
    let own = identity(fs::metadata("/proc/self/ns/user"));
    if own.is_none() || identity(File::from(parent).metadata()) != own {
        return Err("its user namespace was not made in this one".into());
    }
    Ok(())
}

/// Whether this process is itself inside a node's namespaces: in a user namespace that is not the first one, whose pid
/// 1 is our supervisor's copy.
#[must_use]
pub fn inside() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let Ok(program) = fs::read_link("/proc/1/exe") else { return false };
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    !initial && name.strip_suffix(" (deleted)").unwrap_or(&name) == "u7s-supervisor"
}

/// Status and cgroup of a process, divided by a NUL: what is believed is below our unit, and nowhere else.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (status, cgroups) = text.split_once('\0').unwrap_or((&text, &text));
    let Ok(cgroup) = judge(status, cgroups, 990) else { return };
    let mut parts = cgroup.components();
    assert!(!cgroup.components().any(|part| part == std::path::Component::ParentDir), "{cgroup:?}");
    assert!(parts.any(|part| part.as_os_str() == UNIT), "{cgroup:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tu7s-supervisor\nUid:\t900\t900\t900\t900\nNSpid:\t4321\t1\n";
    const CGROUP: &str = "1:cpu:/\n0::/system.slice/u7s.service/node/init\n";

    #[test]
    fn the_cgroup_of_a_fitting_process_is_the_kernels_word() {
        let found = judge(STATUS, CGROUP, 900).unwrap();
        assert_eq!(found, Path::new("/system.slice/u7s.service/node/init"));
    }

    #[test]
    fn s46_each_missing_proof_is_named() {
        let cases = [
            (
                STATUS.replace("4321\t1", "4321"),
                CGROUP,
                900,
                "it is not pid 1 of a pid namespace below this one",
            ),
            (
                STATUS.replace("4321\t1", "4321\t7"),
                CGROUP,
                900,
                "it is not pid 1 of a pid namespace below this one",
            ),
            (STATUS.into(), CGROUP, 901, "it does not run as uid 901"),
            (STATUS.replace("900\t900\n", "900\t0\n"), CGROUP, 900, "it does not run as uid 900"),
            (String::new(), CGROUP, 900, "it is not pid 1 of a pid namespace below this one"),
        ];
        for (status, cgroup, uid, reason) in cases {
            assert_eq!(judge(&status, cgroup, uid).unwrap_err(), reason);
        }
    }

    #[test]
    fn s47_a_cgroup_that_a_user_may_have_named_is_not_ours() {
        for cgroup in ["0::/user.slice/user-900.slice/u7s.service/node", "0::/x", "", "0::/../u7s.service"] {
            assert!(
                judge(STATUS, cgroup, 900).unwrap_err().ends_with("is not below u7s.service"),
                "{cgroup}"
            );
        }
    }

    #[test]
    fn the_limits_of_a_process_are_read_and_none_is_above_our_own() {
        let own = fs::read_to_string("/proc/self/limits").unwrap();
        let all = limits_of(&own);
        assert_eq!(all.len(), RESOURCES.len(), "{own}");
        for (resource, soft, hard) in all {
            assert_eq!((soft, hard), getrlimit(resource).unwrap(), "{resource:?}");
        }
        let text = "Max open files            unlimited            unlimited            files     \n";
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(limits_of(text), [(Resource::RLIMIT_NOFILE, hard, hard)]);
        assert_eq!(limits_of("Max open files x y\n"), []);
    }

    #[test]
    fn s46_an_ordinary_process_is_not_a_node() {
        let user = UserFact { uid: nix::unistd::geteuid().as_raw(), ..UserFact::default() };
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let found = Target::verified(child.id().try_into().unwrap(), &user);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(found, Err(Error::NotOurs { .. })), "{found:?}");
    }

    #[test]
    fn s46_a_pid_that_is_gone_is_refused() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = child.id().try_into().unwrap();
        child.wait().unwrap();
        assert!(matches!(Target::verified(pid, &UserFact::default()), Err(Error::Sys(_))));
    }
}
