//! The host's /etc/resolv.conf: the node's own is mounted over it, and slirp4netns asks the name servers in it.

use std::path::Path;

use crate::facts::{Facts, ResolvConf};
use crate::need::{Level, Unmet};

use super::error;

/// Directories of /run that the unit's processes see for the sake of /etc/resolv.conf: `BindReadOnlyPaths=` in u7s.service.
const SHOWN: [&str; 5] =
    ["/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/connman", "/run/netconfig"];

/// An error where no node starts, a warning where one resolves no names.
#[must_use]
pub fn resolver(facts: &Facts) -> Option<Unmet> {
    let no_node = |why: &str| {
        let message = format!("/etc/resolv.conf {why}: the node's own cannot be mounted over it");
        let remedy =
            "ls -l /etc/resolv.conf; make it a file with the name servers of this host: resolv.conf(5)";
        Some(error("ResolvConf", message, remedy))
    };
    match &facts.resolver {
        ResolvConf::Missing => no_node("is missing"),
        ResolvConf::Loop => no_node("is a loop of symbolic links"),
        ResolvConf::Directory => no_node("is a directory"),
        ResolvConf::Dangling { target } if !target.starts_with("/run") => no_node("leads to nothing"),
        ResolvConf::Dangling { target } => Some(no_names(
            format!("/etc/resolv.conf leads to {}, which is not there", target.display()),
            "start what makes it, e.g.: systemctl enable --now systemd-resolved".into(),
        )),
        ResolvConf::File { target: Some(target) } if is_hidden(target) => {
            let directory = target.parent().unwrap_or_else(|| Path::new("/run")).display();
            Some(no_names(
                format!("/etc/resolv.conf leads to {}, which u7s.service does not see", target.display()),
                format!("systemctl edit u7s.service, below [Service]: BindReadOnlyPaths={directory}"),
            ))
        }
        ResolvConf::File { .. } => None,
    }
}

fn is_hidden(target: &Path) -> bool {
    target.starts_with("/run") && !SHOWN.iter().any(|shown| target.starts_with(shown))
}

fn no_names(message: String, remedy: String) -> Unmet {
    let message = format!("{message}: pods resolve no names of the world outside");
    Unmet { level: Level::Warning, ..error("ResolvConf", message, remedy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_that_keeps_the_node_from_starting_or_from_names_is_named() {
        let dangling = |target: &str| ResolvConf::Dangling { target: target.into() };
        let file = |target: &str| ResolvConf::File { target: Some(target.into()) };
        let cases = [
            (ResolvConf::Missing, Some((Level::Error, "is missing"))),
            (ResolvConf::Loop, Some((Level::Error, "a loop"))),
            (ResolvConf::Directory, Some((Level::Error, "a directory"))),
            (dangling("/etc/none"), Some((Level::Error, "leads to nothing"))),
            (dangling("/run/resolvconf/resolv.conf"), Some((Level::Warning, "which is not there"))),
            (file("/run/other/resolv.conf"), Some((Level::Warning, "u7s.service does not see"))),
            (file("/run/systemd/resolve/stub-resolv.conf"), None),
            (file("/etc/resolv.conf"), None),
            (ResolvConf::default(), None),
        ];
        for (seen, expected) in cases {
            let found = resolver(&Facts { resolver: seen.clone(), ..Facts::default() });
            let level = found.as_ref().map(|need| need.level);
            assert_eq!(level, expected.map(|(level, _)| level), "{seen:?}");
            let text = found.map(|need| need.message).unwrap_or_default();
            assert!(text.contains(expected.map_or("", |(_, word)| word)), "{text}");
        }
    }

    #[test]
    fn the_unit_shows_what_is_taken_for_shown() {
        let unit = include_str!("../../../../systemd/u7s.service");
        for shown in SHOWN {
            assert!(unit.contains(&format!(" -{shown}")) || unit.contains(&format!("=-{shown}")), "{shown}");
        }
    }
}
