//! The environment of entered programs: a fixed base, and from the caller only what a program needs to talk to people
//! and proxies (S8).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Where programs are looked for inside: our `systemctl` first, since the kubeadm inside calls it by name.
pub const PATH: &str = "/usr/libexec/u7s/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where programs are looked for on the host: never our own.
pub(crate) const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names that are handed on as they are.
const ALLOWED: [&str; 12] = [
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "TZ",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// A whole environment, in order.
#[derive(Debug, Clone)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// The base of a program inside, and what the allow-list leaves of `caller`.
    ///
    /// Must not: hand on anything that changes what a program loads, reads or writes: LD_*, BASH_ENV, KUBECONFIG, …
    pub fn inside(caller: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self::based(PATH, "/root", caller)
    }

    /// As [`Environment::inside`], for a program on the host that has no rights.
    pub fn unprivileged(caller: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self::based(HOST_PATH, "/", caller)
    }

    fn based(path: &str, home: &str, caller: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let base = [("PATH", path), ("HOME", home)].map(|(name, value)| (name.into(), value.into()));
        Self(
            base.into_iter().chain(caller.into_iter().filter(|(name, value)| allowed(name, value))).collect(),
        )
    }

    /// Sets a variable, in place of one of that name.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let name = name.into();
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value.into()));
        self
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

/// Locale names are no paths: a slash in one would make the C library read a file of the caller's choice.
fn allowed(name: &OsStr, value: &OsStr) -> bool {
    let locale = name == "LANG" || name == "LANGUAGE" || name.as_bytes().starts_with(b"LC_");
    if locale || name == "TZ" {
        return !value.as_bytes().contains(&b'/') || (name == "TZ" && zone(value));
    }
    ALLOWED.iter().any(|known| name == *known)
}

/// `Europe/Moscow`, but no absolute path, none that climbs, and no `:file`.
fn zone(value: &OsStr) -> bool {
    let bytes = value.as_bytes();
    !bytes.starts_with(b"/") && !bytes.starts_with(b":") && !bytes.windows(2).any(|pair| pair == b"..")
}

/// A variable of the caller's, `NAME=VALUE`: no name of a locale is a path.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let mut halves = data.splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
    let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    if allowed(name, value) {
        let locale = name == "LANG" || name == "LANGUAGE" || name.as_bytes().starts_with(b"LC_");
        assert!(!locale || !value.as_bytes().contains(&b'/'), "{name:?}={value:?}");
        assert!(!name.as_bytes().starts_with(b"LD_"), "{name:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn left(list: &[(&str, &str)]) -> Vec<String> {
        let whole = Environment::inside(pairs(list));
        whole.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect()
    }

    #[test]
    fn s8_what_changes_a_programs_behaviour_is_not_handed_on() {
        let hostile = [
            ("LD_PRELOAD", "x"),
            ("LD_LIBRARY_PATH", "x"),
            ("BASH_ENV", "x"),
            ("ENV", "x"),
            ("IFS", "x"),
            ("GCONV_PATH", "x"),
            ("LOCPATH", "x"),
            ("NLSPATH", "x"),
            ("TMPDIR", "x"),
            ("PYTHONPATH", "x"),
            ("SSL_CERT_FILE", "x"),
            ("GODEBUG", "x"),
            ("KUBECONFIG", "x"),
            ("KUBERC", "x"),
            ("XDG_RUNTIME_DIR", "x"),
            ("DBUS_SESSION_BUS_ADDRESS", "x"),
            ("NOTIFY_SOCKET", "x"),
            ("PATH", "/tmp"),
            ("HOME", "/tmp"),
            ("LANG", "../../tmp/x"),
            ("TZ", ":/tmp/x"),
            ("TZ", "/tmp/x"),
        ];
        assert_eq!(left(&hostile), [format!("PATH={PATH}"), "HOME=/root".into()]);
    }

    #[test]
    fn terminal_locale_and_proxies_are_handed_on() {
        let wanted =
            [("TERM", "xterm"), ("LC_ALL", "C.UTF-8"), ("NO_PROXY", "10.0.0.0/8"), ("TZ", "Europe/Moscow")];
        assert_eq!(
            left(&wanted)[2..],
            ["TERM=xterm", "LC_ALL=C.UTF-8", "NO_PROXY=10.0.0.0/8", "TZ=Europe/Moscow"]
        );
    }

    #[test]
    fn a_set_variable_takes_the_place_of_the_base() {
        let whole = Environment::inside(pairs(&[])).with("HOME", "/x");
        assert_eq!(whole.iter().filter(|(name, _)| *name == "HOME").count(), 1);
    }
}
