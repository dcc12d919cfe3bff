//! Room for a node: disk space, and what the kernel's package carries.

use std::path::Path;

use crate::facts::{Facts, Space};
use crate::host;
use crate::need::{Level, Unmet};

use super::{error, install};

/// Without so much free no image can be unpacked: bytes.
const LEAST: u64 = 1 << 30;

/// Below so many percent free the kubelet evicts pods and takes no new ones.
///
/// Source: kubernetes, pkg/kubelet/apis/config, `DefaultEvictionHard`: imagefs.available 15 %.
const EVICTION: u64 = 15;

/// Space of the file system that carries the node's tree.
#[must_use]
pub fn space(facts: &Facts) -> Option<Unmet> {
    let Space { total, free, files, free_files } = facts.space?;
    let home = facts.user.as_ref().map_or_else(|| Path::new(host::HOME), |user| &user.home).display();
    let remedy = format!("du -xhd2 {home} | sort -h | tail; df -h {home}; df -i {home}");
    let percent = (free * 100).checked_div(total).unwrap_or(100);
    let (level, what) = if free < LEAST {
        (Level::Error, format!("{} MiB are free", free >> 20))
    } else if files > 0 && free_files * 100 < files {
        (Level::Error, format!("{free_files} of {files} inodes are free"))
    } else if percent < EVICTION {
        (Level::Warning, format!("{percent} % are free, below {EVICTION} % the kubelet evicts pods"))
    } else {
        return None;
    };
    Some(Unmet { level, ..error("DiskSpace", format!("the disk below {home} is full: {what}"), remedy) })
}

/// Modules without which no node starts: its network device, its images, its pods' devices, its packet filter.
const VITAL: [&str; 4] = ["tun", "overlay", "veth", "nf_tables"];

/// Modules that cannot be had with this kernel. What the others are for shows when it is used; a device file of `tun` is there
/// without the module, too.
pub(super) fn modules(facts: &Facts) -> Option<Unmet> {
    let absent = &facts.absent_modules;
    let is = |name: &str| facts.os.iter().any(|id| id == name);
    let remedy = if is("altlinux") {
        "update-kernel; or, with the modules of this one: apt-get install kernel-image-std-def".to_owned()
    } else if is("fedora") || is("rhel") {
        install(facts, "kernel-modules-extra-$(uname -r)")
    } else if is("ubuntu") {
        install(facts, "linux-modules-extra-$(uname -r)")
    } else {
        install(facts, "linux-image-$(uname -r)")
    };
    let vital = absent.iter().any(|name| VITAL.contains(&name.as_str()));
    (!absent.is_empty()).then(|| Unmet {
        level: if vital { Level::Error } else { Level::Warning },
        ..error(
            "Modules",
            format!("the kernel {} has no modules {}", facts.kernel, absent.join(", ")),
            remedy,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(total: u64, free: u64) -> Option<(Level, String)> {
        let facts = Facts { space: Some(Space { total, free, ..Space::default() }), ..Facts::default() };
        space(&facts).map(|need| (need.level, need.message))
    }

    #[test]
    fn f21_a_full_disk_is_an_error_and_a_nearly_full_one_a_warning() {
        assert_eq!(said(100 << 30, 20 << 30), None);
        let (level, text) = said(100 << 30, 10 << 30).unwrap();
        assert!(level == Level::Warning && text.contains("10 % are free"), "{text}");
        let (level, text) = said(100 << 30, 5 << 20).unwrap();
        assert!(level == Level::Error && text.ends_with("is full: 5 MiB are free"), "{text}");
        let space = Some(Space { total: 100 << 30, free: 90 << 30, files: 1000, free_files: 9 });
        let facts = Facts { space, ..Facts::default() };
        assert!(super::space(&facts).unwrap().message.ends_with("9 of 1000 inodes are free"));
    }

    #[test]
    fn absent_modules_are_named_with_the_distributions_package() {
        for (os, remedy) in [
            ("fedora", "dnf install kernel-modules-extra-$(uname -r)"),
            ("debian", "apt-get install linux-image-$(uname -r)"),
        ] {
            let facts =
                Facts { absent_modules: vec!["vxlan".into()], os: vec![os.into()], ..Facts::default() };
            assert_eq!(modules(&facts).unwrap().remedy, remedy);
            assert_eq!(modules(&facts).unwrap().level, Level::Warning);
            let facts = Facts { absent_modules: vec!["tun".into(), "vxlan".into()], ..facts };
            assert_eq!(modules(&facts).unwrap().level, Level::Error, "no node starts without");
        }
        assert_eq!(modules(&Facts::default()), None);
    }
}
