//! What the real kubeadm prints for others to use or to type as root: a kubeconfig, a join command.
//!
//! The node's user decides what a program inside prints. `kubeadm kubeconfig user >FILE` would let him choose what kubectl runs as
//! whoever gets the file, and `$(kubeadm token create --print-join-command)` what root runs on another host.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use u7s_host::enter::{Entry, Output};
use u7s_plan::closing;
use u7s_plan::kubeconfig::{self, Wrong};
use u7s_shim::kubeadm::words;

use crate::{End, Error, report};

/// The most that either has, bytes.
const MOST: usize = 256 * 1024;

/// Something of a known form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Kubeconfig,
    JoinCommand,
}

impl Form {
    /// What this command prints to standard output, if it is one of these.
    pub(super) fn of(argv: &[OsString]) -> Option<Self> {
        let words: Vec<&[u8]> = words(argv).into_iter().map(OsStr::as_bytes).collect();
        let given = |flag: &str| {
            argv.iter().take_while(|arg| *arg != "--").any(|arg| {
                arg.as_bytes()
                    .strip_prefix(flag.as_bytes())
                    .is_some_and(|rest| rest.is_empty() || rest == b"=true")
            })
        };
        match words[..] {
            _ if given("--help") || given("-h") => None,
            [b"kubeconfig", b"user", ..] => Some(Self::Kubeconfig),
            [b"token", b"create", ..] if given("--print-join-command") && !given("--dry-run") => {
                Some(Self::JoinCommand)
            }
            _ => None,
        }
    }

    /// Why this text is none.
    fn fault(self, text: &str) -> Option<String> {
        match self {
            Self::JoinCommand => {
                (!closing::is_join_command(text)).then(|| "it is another command".to_owned())
            }
            Self::Kubeconfig => kubeconfig::fault(text).map(|wrong| match wrong {
                Wrong::Settings(settings) => format!("it has {}", settings.join(", ")),
                Wrong::Unreadable(why) => why,
            }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kubeconfig => "a kubeconfig",
            Self::JoinCommand => "a join command",
        }
    }
}

/// Runs the program to its end; what it printed goes on if it is of the form.
///
/// # Errors
/// `NotOfItsForm`; those of running it.
pub(super) fn run(entry: Entry<'_>, form: Form) -> Result<End, Error> {
    let ended = entry.output(Output::Capture(MOST)).run()?;
    let [stdout, stderr] = [&ended.stdout, &ended.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    if !ended.status.success() {
        report::relay(&stdout, &stderr);
        return Ok(ended.status.into());
    }
    report::relay("", &stderr);
    let fault = if ended.truncated { Some("it is too long".to_owned()) } else { form.fault(&stdout) };
    match fault {
        Some(why) => Err(Error::NotOfItsForm { what: form.name(), why }),
        None => report::result(&stdout).map(|()| ended.status.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(line: &str) -> Option<Form> {
        Form::of(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_others_use_or_type_as_root_has_its_form() {
        assert_eq!(form("kubeconfig user --client-name bob"), Some(Form::Kubeconfig));
        assert_eq!(form("--v=5 token create --print-join-command --ttl 5m"), Some(Form::JoinCommand));
        for line in [
            "kubeconfig user --help",
            "token create -h --print-join-command",
            "token create",
            "token create --print-join-command=false",
            "token list",
            "kubeconfig",
        ] {
            assert_eq!(form(line), None, "{line}");
        }
        let hash = "0".repeat(64);
        let join = format!(
            "kubeadm join h:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:{hash} \n"
        );
        assert_eq!(Form::JoinCommand.fault(&join), None);
        for bad in ["", "id\n", &format!("{join}id\n"), &join.replace("h:6443", "h:6443;id")] {
            assert!(Form::JoinCommand.fault(bad).is_some(), "{bad}");
        }
        let clean = r#"{"users": [{"name": "a", "user": {"token": "x"}}]}"#;
        assert_eq!(Form::Kubeconfig.fault(clean), None);
        let exec = clean.replace("token", "exec");
        assert_eq!(Form::Kubeconfig.fault(&exec).unwrap(), "it has users[].user.exec");
    }
}
