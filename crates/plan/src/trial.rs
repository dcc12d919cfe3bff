//! What the kernel really let us do, tried in throw-away namespaces: the eyes of `u7s check` that look for effects.

use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::host;
use crate::need::{Level, Unmet};
use crate::preflight::{ALLOW_USER_NAMESPACES, forbidding};

/// The results of one trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trial {
    /// A user namespace with the others was made as the node's user.
    pub namespaces: Outcome,
    /// Both id maps were written, and a file was given to the last id.
    pub id_maps: Outcome,
    /// An overlay was mounted, and a file written through it.
    pub overlay: Outcome,
    /// A tap device was opened.
    pub tap: Outcome,
    /// A cgroup was handed over, and the namespace's root moved itself below it.
    pub cgroup: Outcome,
}

/// How one of them went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It could not be tried, for a reason that is no fault: a module that is not loaded yet, a caller who is not root.
    #[default]
    Untried,
    /// It works.
    Works,
    /// It does not: the call and the error.
    Fails(String),
}

impl Outcome {
    fn why(&self) -> Option<&str> {
        match self {
            Self::Fails(why) => Some(why),
            Self::Untried | Self::Works => None,
        }
    }
}

/// Ids of what could not be tried.
#[must_use]
pub fn untried(trial: &Trial) -> Vec<&'static str> {
    let all = [
        ("UserNamespaces", &trial.namespaces),
        ("IdMap", &trial.id_maps),
        ("Overlay", &trial.overlay),
        ("Tun", &trial.tap),
        ("CgroupWrite", &trial.cgroup),
    ];
    all.into_iter().filter(|(_, outcome)| **outcome == Outcome::Untried).map(|(id, _)| id).collect()
}

/// Needs that only show when it is tried; what a switch of the host explains already is left to that one.
#[must_use]
pub fn needs(facts: &Facts, trial: &Trial) -> Vec<Unmet> {
    let need = |id: &str, message: String, remedy: String| Unmet {
        id: id.into(),
        message: format!("tried: {message}"),
        remedy,
        level: Level::Error,
    };
    if let Some(why) = trial.namespaces.why() {
        let unknown = || {
            need(
                "UserNamespaces",
                format!("a user namespace cannot be made: {why}"),
                ALLOW_USER_NAMESPACES.into(),
            )
        };
        return if forbidding(facts).next().is_some() { Vec::new() } else { vec![unknown()] };
    }
    let mut unmet = Vec::new();
    if let Some(why) = trial.id_maps.why() {
        let remedy = format!("getsubids {0}; getsubids -g {0}; ls -l /etc/subuid /etc/subgid", host::USER);
        unmet.push(need("IdMap", format!("the subordinate ids cannot be mapped: {why}"), remedy));
    }
    if let Some(why) = trial.overlay.why() {
        unmet.push(need(
            "Overlay",
            format!("an overlay cannot be mounted in a user namespace: {why}"),
            "modprobe overlay; dmesg | tail".into(),
        ));
    }
    if let Some(why) = trial.tap.why() {
        unmet.push(need(
            "Tun",
            format!("a tap device cannot be made in a network namespace: {why}"),
            "modprobe tun; in a container, pass /dev/net/tun in".into(),
        ));
    }
    if let Some(why) = trial.cgroup.why() {
        unmet.push(need(
            "CgroupWrite",
            format!("a cgroup cannot be handed to the node's user: {why}"),
            "mount -o remount,rw /sys/fs/cgroup; in a container, give it a cgroup namespace of its own"
                .into(),
        ));
    }
    unmet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_an_error_with_its_call_and_what_was_not_tried_is_none() {
        assert_eq!(needs(&Facts::default(), &Trial::default()), []);
        let fails = || Outcome::Fails("mount: EPERM".into());
        let trial = Trial {
            namespaces: Outcome::Works,
            id_maps: fails(),
            overlay: fails(),
            tap: fails(),
            cgroup: fails(),
        };
        let unmet = needs(&Facts::default(), &trial);
        let ids: Vec<&str> = unmet.iter().map(|need| need.id.as_str()).collect();
        assert_eq!(ids, ["IdMap", "Overlay", "Tun", "CgroupWrite"]);
        assert!(
            unmet
                .iter()
                .all(|need| need.message.starts_with("tried: ") && need.message.ends_with("mount: EPERM"))
        );
    }

    #[test]
    fn a_switch_explains_why_no_user_namespace_can_be_made() {
        let trial = Trial { namespaces: Outcome::Fails("unshare: EPERM".into()), ..Trial::default() };
        let mut facts = Facts::default();
        assert_eq!(needs(&facts, &trial)[0].id, "UserNamespaces");
        facts.sysctls.insert("user/max_user_namespaces".into(), Some("0".into()));
        assert_eq!(needs(&facts, &trial), []);
    }
}
