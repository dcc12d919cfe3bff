//! Switches of the host against user namespaces.

use crate::facts::Facts;
use crate::need::Unmet;

use super::error;

/// Key, the value that forbids them, the value that allows them.
///
/// Source: kernel.unprivileged_userns_clone is Debian's, kernel.userns_restrict ALT's, the AppArmor one Ubuntu's.
const SWITCHES: [(&str, &str, &str); 4] = [
    ("user/max_user_namespaces", "0", "65536"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/userns_restrict", "1", "0"),
    (APPARMOR, "1", "0"),
];

const APPARMOR: &str = "kernel/apparmor_restrict_unprivileged_userns";

/// Profile by which AppArmor lets our programs make user namespaces where it keeps others from it.
pub const PROFILE: &str = "/etc/apparmor.d/u7s";

/// What it holds, for printf(1).
///
/// Source: apparmor.d(5), "userns rules".
const PROFILE_TEXT: &str =
    r"abi <abi/4.0>,\nprofile u7s /usr/{bin/u7s,libexec/u7s/u7s-supervisor} flags=(unconfined) { userns, }\n";

/// What may be looked at where nothing that we know forbids them.
pub const ALLOW: &str = "sysctl user.max_user_namespaces kernel.unprivileged_userns_clone; in a container, its seccomp profile must allow unshare";

/// The switches that are set against user namespaces: as in the table.
pub fn forbidding(facts: &Facts) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    SWITCHES.into_iter().filter(|(key, forbids, _)| {
        let value = facts.sysctls.get(*key).and_then(Option::as_deref);
        let profiled = *key == APPARMOR && facts.apparmor_profile;
        value.is_some_and(|value| value.trim() == *forbids) && !profiled
    })
}

/// One for each switch.
pub(super) fn needs(facts: &Facts) -> Vec<Unmet> {
    let need = |(key, forbids, allows): (&str, &str, &str)| {
        let name = key.replace('/', ".");
        let remedy = if key == APPARMOR {
            format!("printf '{PROFILE_TEXT}' >{PROFILE} && apparmor_parser -r {PROFILE}")
        } else {
            format!(
                "echo '{name} = {allows}' >>/etc/sysctl.d/90-u7s.conf && sysctl -p /etc/sysctl.d/90-u7s.conf"
            )
        };
        error("UserNamespaces", format!("user namespaces are forbidden: {name} is {forbids}"), remedy)
    };
    forbidding(facts).map(need).collect()
}
