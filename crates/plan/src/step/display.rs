//! What a step says of its action: in the dry run, in the log, in tests.

use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::Action;
use crate::firewall;

impl fmt::Display for Action {
    #[expect(clippy::too_many_lines, reason = "a flat match, one sentence for each action")]
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateUser { name, home } => {
                write!(out, "create the user {name} with the home {}", shown(home))
            }
            Self::AddSubids { user, count } => write!(out, "give {user} {count} subordinate uids and gids"),
            Self::LoadModule { name } => write!(out, "load the module {name}"),
            Self::SetSysctl { key, value } => {
                write!(out, "set the sysctl {} to {value:?}", key.replace('/', "."))
            }
            Self::SetDeviceMode { path, mode } => {
                write!(out, "set the mode of {} to {mode:04o}", shown(path))
            }
            Self::LoadFirewall { table } => {
                write!(out, "load the nft table {} ({} rules)", firewall::TABLE.join(" "), table.len())
            }
            Self::RemoveFirewall => write!(out, "remove the nft table {}", firewall::TABLE.join(" ")),
            Self::MakeDir { path, mode, owner, fit } => {
                let verb = if *fit { "make or fit" } else { "make" };
                write!(out, "{verb} {} ({mode:04o} {owner})", shown(path))
            }
            Self::WriteFile { path, mode, owner, text } => {
                write!(out, "write {} ({mode:04o} {owner}, {} bytes)", shown(path), text.len())
            }
            Self::Keep { path, .. } => write!(out, "compare {}, as the node runs with it", shown(path)),
            Self::RemoveFile { path } => write!(out, "remove {}", shown(path)),
            Self::RemoveTree { path, keep_root: false } => {
                write!(out, "remove {} with all it holds", shown(path))
            }
            Self::RemoveTree { path, keep_root: true } => {
                write!(out, "remove all that {} holds", shown(path))
            }
            Self::Sync { paths, seconds } => write!(out, "bring {} to disk within {seconds} s", all(paths)),
            Self::StartUnit { unit, seconds, .. } => write!(out, "start {unit} within {seconds} s"),
            Self::StopUnit { unit, seconds } => write!(out, "stop {unit} within {seconds} s"),
            Self::EndSessions { user, seconds } => {
                write!(out, "end lingering and sessions of {user} within {seconds} s")
            }
            Self::RemoveOwned { user, dirs } => {
                write!(out, "remove what {user} and its subordinate ids own in {}", listed(dirs))
            }
            Self::EndProcesses { user, seconds } => {
                write!(out, "end all processes of {user} and its subordinate ids within {seconds} s")
            }
            Self::Unmount { user, path } => {
                write!(out, "unmount and remove {}, and unmount what {user} mounted by FUSE", shown(path))
            }
            Self::ClearDir { path, names } if names.is_empty() => {
                write!(out, "remove what is not root's from {}", shown(path))
            }
            Self::ClearDir { path, names } => {
                write!(out, "remove {}, and what is not root's, from {}", names.join(", "), shown(path))
            }
            Self::EnableUnit { unit } => write!(out, "enable {unit}"),
            Self::DisableUnit { unit } => write!(out, "disable {unit}"),
            Self::LoadImages { source } => write!(out, "load the images of {}", shown(source)),
            Self::Run { argv, config, seconds, .. } => {
                write!(out, "run {} within {seconds} s", line(argv))?;
                match config {
                    Some(text) => write!(out, " ({{config}}: {} bytes)", text.expose_secret().len()),
                    None => Ok(()),
                }
            }
            Self::LeaveEtcd => {
                write!(out, "leave the etcd cluster if the API does not know the whole node")
            }
            Self::EnableComponent { component, enabled } => {
                let verb = if *enabled { "enable" } else { "disable" };
                write!(out, "{verb} {}", component.as_str())
            }
            Self::PublishKubeconfig { source, path, owner } => {
                write!(out, "write {} (0600 {owner}) from the data of {}", shown(path), shown(source))
            }
            Self::UnpublishKubeconfig { path, .. } => {
                write!(out, "remove the kubeconfig {} or put the former one back", shown(path))
            }
            Self::RestoreHost => write!(out, "put back what undo.json holds"),
        }
    }
}

fn all(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| shown(path).to_string()).collect::<Vec<_>>().join(" and ")
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", ")
}

/// An argument vector as it would be typed: words with anything unusual in them are quoted and escaped.
#[must_use]
pub fn line(argv: &[String]) -> String {
    let mut text = String::new();
    for (index, word) in argv.iter().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,+@%{}".contains(&byte);
        if !word.is_empty() && word.bytes().all(plain) {
            text.push_str(word);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "{word:?}");
        }
    }
    text
}

/// A path for people, control characters escaped.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().any(char::is_control) { format!("{text:?}") } else { text }
}
