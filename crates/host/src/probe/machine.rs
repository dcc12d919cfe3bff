//! Kernel, cgroups, devices, limits and texts of the machine.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::sys::utsname::uname;
use u7s_plan::facts::{CgroupFact, Facts, ResolvConf, UnitCgroup};
use u7s_plan::host;

use super::{proc_text, text};
use crate::files;

/// CAP_SYS_RESOURCE. Source: linux/capability.h.
const SYS_RESOURCE: u32 = 24;

/// Where systemd mounts the unified hierarchy, and nft(8) looks for it.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Slices in slices that are looked into.
const DEPTH: usize = 8;

/// Fills in what needs nobody's help.
pub(crate) fn fill(facts: &mut Facts) {
    if let Ok(name) = uname() {
        facts.kernel = name.release().to_string_lossy().into_owned();
        facts.hostname = name.nodename().to_string_lossy().into_owned();
    }
    facts.cgroup = cgroup(Path::new(CGROUPS));
    facts.unit_cgroup = unit_cgroup(Path::new(CGROUPS), host::UNIT).filter(|_| facts.cgroup.unified);
    facts.oom_floor = has_capability(&text("/proc/1/status"), SYS_RESOURCE);
    let mode = |path: PathBuf| (files::device_mode(&path).ok().flatten(), path);
    facts.devices = host::DEVICES.map(PathBuf::from).map(mode).map(|(mode, path)| (path, mode)).into();
    facts.read_only = host::SYSCTLS.into_iter().filter(|key| read_only(key)).map(str::to_owned).collect();
    facts.sysctls = host::SYSCTLS.map(|key| (key.to_owned(), sysctl(key))).into();
    let modules = Modules::of(&facts.kernel);
    facts.modules = host::MODULES.map(|name| (name.to_owned(), modules.has(name))).into();
    facts.absent_modules =
        host::MODULES.into_iter().filter(|name| modules.lacks(name)).map(str::to_owned).collect();
    facts.apparmor_profile = Path::new(u7s_plan::preflight::APPARMOR_PROFILE).is_file();
    facts.memory = memory(&text("/proc/meminfo"));
    facts.cpus =
        std::thread::available_parallelism().map_or(0, |count| count.get().try_into().unwrap_or(u32::MAX));
    facts.online_cpus = listed(&text("/sys/devices/system/cpu/online"));
    facts.os = os(&text("/etc/os-release"));
    facts.resolv_conf = text("/etc/resolv.conf");
    facts.resolver = resolver(Path::new("/etc/resolv.conf"));
    facts.hosts = text("/etc/hosts");
    facts.boot_id = text("/proc/sys/kernel/random/boot_id").trim_end().to_owned();
}

/// Links are followed, however the file behind them is.
fn resolver(path: &Path) -> ResolvConf {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => ResolvConf::Directory,
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => ResolvConf::Loop,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            end_of_links(path).map_or(ResolvConf::Missing, |target| ResolvConf::Dangling { target })
        }
        _ => ResolvConf::File { target: fs::canonicalize(path).ok() },
    }
}

/// Where a link leads whose end is not there; `None` if `path` is no link.
fn end_of_links(path: &Path) -> Option<PathBuf> {
    /// Source: path_resolution(7).
    const LINKS: usize = 40;
    let mut target = None;
    let mut next = path.to_owned();
    for _ in 0..LINKS {
        let Ok(link) = fs::read_link(&next) else { break };
        let directory = next.parent().unwrap_or_else(|| Path::new("/"));
        let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        next = normal(&directory.join(link));
        target = Some(next.clone());
    }
    target
}

/// Without `..`, which is read as the directory above in the name.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |mut whole, part| {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::Normal(name) => whole.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        whole
    })
}

fn cgroup(root: &Path) -> CgroupFact {
    let unified = statfs(root).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let words = if unified { text(root.join("cgroup.controllers")) } else { String::new() };
    CgroupFact { unified, controllers: words.split_ascii_whitespace().map(str::to_owned).collect() }
}

/// The cgroup of a unit: its directory in one of the slices, which are systemd's own, whereas below a service it may be anybody's.
fn unit_cgroup(root: &Path, unit: &str) -> Option<UnitCgroup> {
    let mut slices = vec![(root.to_owned(), 0)];
    while let Some((slice, depth)) = slices.pop() {
        let path = slice.join(unit);
        if let Ok(seen) = fs::symlink_metadata(&path)
            && seen.is_dir()
        {
            let below = path.strip_prefix(root).ok()?.to_str()?.to_owned();
            return Some(UnitCgroup { path: below, id: seen.ino() });
        }
        if depth < DEPTH {
            let names = super::names(&slice).into_iter().filter(|name| name.ends_with(".slice"));
            slices.extend(names.map(|name| (slice.join(name), depth + 1)));
        }
    }
    None
}

/// Source: proc_pid_status(5), `CapBnd`, hexadecimal.
fn has_capability(status: &str, number: u32) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> number & 1 == 1)
}

/// The value of a sysctl, trimmed; `None` where the key does not exist or may not be read.
pub(crate) fn sysctl(key: &str) -> Option<String> {
    let bytes = files::read_named(&Path::new("/proc/sys").join(key), files::LIMIT).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Its mode lets nobody write it: root is refused, too.
///
/// Source: linux, net/sysctl_net.c, `net_ctl_permissions`.
pub(crate) fn read_only(key: &str) -> bool {
    let path = Path::new("/proc/sys").join(key);
    files::stat(&path).ok().flatten().is_some_and(|file| file.st_mode & 0o222 == 0)
}

/// How many numbers a list of the kernel's has: `0-3,7`; 0 if it is none.
fn listed(text: &str) -> u32 {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        last.trim().parse::<u32>().ok()?.checked_sub(first.trim().parse().ok()?)?.checked_add(1)
    };
    text.split(',').map(count).try_fold(0_u32, |sum, count| sum.checked_add(count?)).unwrap_or(0)
}

/// Which kernel modules there are.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    loaded: String,
    built_in: Option<String>,
    /// modules.dep: what could be loaded.
    loadable: Option<String>,
}

impl Modules {
    /// Of the running kernel.
    pub(crate) fn of(release: &str) -> Self {
        let listing = |name: &str| {
            let read =
                |root: &&str| files::read_named(&Path::new(root).join(release).join(name), 8 << 20).ok();
            let bytes = ["/lib/modules", "/usr/lib/modules"].iter().find_map(read);
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let (built_in, loadable) = (listing("modules.builtin"), listing("modules.dep"));
        Self { loaded: proc_text("/proc/modules"), built_in, loadable }
    }

    /// Neither there nor to be had from this kernel's package; false if that cannot be told.
    fn lacks(&self, name: &str) -> bool {
        let plain_name = plain(name);
        let file = |line: &str| {
            let path = line.split(':').next().unwrap_or_default();
            plain(path.rsplit('/').next().unwrap_or_default().split('.').next().unwrap_or_default())
        };
        let loadable = |listing: &String| listing.lines().any(|line| file(line) == plain_name);
        self.has(name) == Some(false) && self.loadable.as_ref().is_some_and(|listing| !loadable(listing))
    }

    /// Loaded or built in; `None` if that cannot be told: nothing lists what is built in.
    pub(crate) fn has(&self, name: &str) -> Option<bool> {
        let name = plain(name);
        let is_loaded =
            self.loaded.lines().any(|line| line.split(' ').next().is_some_and(|first| plain(first) == name));
        // Built-in modules with parameters show up here too.
        if is_loaded || Path::new("/sys/module").join(&name).is_dir() {
            return Some(true);
        }
        let file =
            |line: &str| line.rsplit('/').next().map(|file| plain(file.split('.').next().unwrap_or(file)));
        self.built_in.as_ref().map(|listing| listing.lines().any(|line| file(line).as_deref() == Some(&name)))
    }
}

/// Dash and underscore are one in module names.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Source: proc_meminfo(5), kB.
fn memory(text: &str) -> u64 {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.map_or(0, |count| count.saturating_mul(1024))
}

/// Source: os-release(5).
fn os(text: &str) -> Vec<String> {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    format!("{} {}", value("ID"), value("ID_LIKE")).split_ascii_whitespace().map(str::to_owned).collect()
}

/// Texts of the kernel and of the distribution about the machine.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(text: &str) {
    let _ = (has_capability(text, SYS_RESOURCE), listed(text), memory(text), os(text));
    let modules = Modules { loaded: text.into(), built_in: Some(text.into()), loadable: Some(text.into()) };
    let _ = (modules.has("overlay"), modules.lacks("tun"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_told_from_what_only_has_its_name() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        let path = root.join("resolv.conf");
        assert_eq!(resolver(&path), ResolvConf::Missing);
        symlink("../run/none/resolv.conf", &path).unwrap();
        let target = root.parent().unwrap().join("run/none/resolv.conf");
        assert_eq!(resolver(&path), ResolvConf::Dangling { target });
        fs::remove_file(&path).unwrap();
        symlink("resolv.conf", &path).unwrap();
        assert_eq!(resolver(&path), ResolvConf::Loop);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(resolver(&path), ResolvConf::Directory);
        fs::remove_dir(&path).unwrap();
        fs::write(root.join("real"), "").unwrap();
        symlink("real", &path).unwrap();
        assert_eq!(resolver(&path), ResolvConf::File { target: Some(root.join("real")) });
    }

    #[test]
    fn the_bounding_set_tells_whether_systemd_can_lower_oom_scores() {
        assert!(has_capability("Name:\tx\nCapBnd:\t000001ffffffffff\n", SYS_RESOURCE));
        assert!(!has_capability("CapBnd:\t000001fffeffffff\n", SYS_RESOURCE));
        assert!(!has_capability("", SYS_RESOURCE));
    }

    #[test]
    fn the_cgroup_of_the_unit_is_the_one_in_a_slice_and_not_one_that_somebody_made_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let made = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
        let found = || unit_cgroup(root.path(), "u7s.service").map(|cgroup| cgroup.path);
        made("user.slice/user-1000.slice/user@1000.service/app.slice/u7s.service");
        made("system.slice/other.service/u7s.service");
        assert_eq!(found(), None);
        made("system.slice/system-a.slice/u7s.service/node");
        assert_eq!(found().as_deref(), Some("system.slice/system-a.slice/u7s.service"));
        assert!(unit_cgroup(root.path(), "u7s.service").unwrap().id > 0);
    }

    #[test]
    fn a_module_is_loaded_built_in_absent_or_unknown() {
        let mut modules =
            Modules { loaded: "br_netfilter 32768 0 - Live 0x0\n".into(), ..Modules::default() };
        assert_eq!(modules.has("br-netfilter"), Some(true));
        assert_eq!(modules.has("u7s_none"), None);
        modules.built_in = Some("kernel/fs/u7s-some.ko\nkernel/drivers/net/u7s_other.ko\n".into());
        assert_eq!(modules.has("u7s_some"), Some(true));
        assert_eq!(modules.has("u7s_none"), Some(false));
        assert!(!modules.lacks("u7s_none"), "without modules.dep nobody knows");
        modules.loadable = Some("kernel/net/u7s-far.ko.zst: kernel/net/u7s-other.ko.zst\n".into());
        assert!(modules.lacks("u7s_none") && !modules.lacks("u7s_far") && !modules.lacks("u7s_some"));
    }

    #[test]
    fn cpus_online_are_counted_whoever_may_use_them() {
        assert_eq!(listed("0-3,7\n"), 5);
        assert_eq!(listed("0\n"), 1);
        for bad in ["", "x", "3-1", "0-4294967295", "0-"] {
            assert_eq!(listed(bad), 0, "{bad:?}");
        }
    }

    #[test]
    fn memory_and_os_are_read_and_garbage_is_nothing() {
        assert_eq!(memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2048 * 1024);
        assert_eq!(memory("MemTotal: many\n"), 0);
        assert_eq!(os("NAME=\"A\"\nID=altlinux\nID_LIKE=\"fedora rhel\"\n"), ["altlinux", "fedora", "rhel"]);
        assert!(os("").is_empty());
    }
}
