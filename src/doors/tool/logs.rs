//! `u7s logs`: what the node's parts have written to the journal.

use std::ffi::OsString;
use std::path::Path;

use clap::{Args, ValueEnum};
use u7s_host::enter::{self, Environment};

use crate::doors::machine;
use crate::{End, Error, report};

/// Reads the journal; root-owned, as everything below /usr/bin.
const JOURNALCTL: &str = "/usr/bin/journalctl";

/// Flags of the command.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Whose lines; without it all of u7s.service.
    #[arg(value_enum)]
    component: Option<Component>,
    /// Go on with what is written from now on.
    #[arg(short, long)]
    follow: bool,
    /// From when on, as journalctl(1) has it: "10 min ago", "2026-11-22 07:00", yesterday.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// So many lines of the end, or `all`; by default 200 without --since, all with it.
    #[arg(short = 'n', long, value_name = "LINES", value_parser = count)]
    lines: Option<String>,
}

/// Below the help of the command.
pub(super) const HELP: &str = "\
Root, the node's user and members of the group systemd-journal may read it. Pods' own logs: kubectl logs. Whoever owns the
node writes what he likes; the lines of host-apply alone are root's.

Examples:
  u7s logs                                 the end of everything
  u7s logs kubelet -f
  u7s logs crio --since '10 min ago'";

/// Parts of the node that write to the journal, by what they are called there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Component {
    /// The supervisor.
    Supervisor,
    /// Pid 1 of the namespaces.
    Init,
    /// CRI-O.
    Crio,
    /// The kubelet.
    Kubelet,
    /// The network driver.
    Slirp4netns,
    /// `u7s host-apply`, before each start.
    HostApply,
}

impl Component {
    /// systemd calls a command's lines by the program that it starts: for host-apply that is nsenter.
    fn identifiers(self) -> &'static [&'static str] {
        match self {
            Self::Supervisor => &["u7s-supervisor"],
            Self::Init => &["u7s-init"],
            Self::Crio => &["crio"],
            Self::Kubelet => &["kubelet"],
            Self::Slirp4netns => &["slirp4netns"],
            Self::HostApply => &["u7s", "nsenter"],
        }
    }
}

fn count(text: &str) -> Result<String, String> {
    let known = text == "all" || text.parse::<u32>().is_ok();
    known.then(|| text.to_owned()).ok_or_else(|| "a number or `all` is needed".to_owned())
}

/// Becomes journalctl; where it writes to a terminal, what it writes comes by us.
///
/// journalctl leaves out what a terminal would obey, but not what changes the direction of writing.
///
/// # Errors
/// It is not there, or cannot be started; the caller is inside.
pub(super) fn run(arguments: &Arguments) -> Result<End, Error> {
    if enter::inside() {
        return Err(Error::Inside);
    }
    let program = machine::real(Path::new(JOURNALCTL))?;
    let environment = Environment::unprivileged(std::env::vars_os());
    if !report::to_terminal() {
        return Err(enter::exec_here(program, argv(arguments), &environment).into());
    }
    Ok(enter::run_here(program, argv(arguments), &environment)?.into())
}

/// One word for each of our own: nothing of the caller's can become another option.
fn argv(arguments: &Arguments) -> Vec<OsString> {
    let mut argv = vec!["--no-pager".to_owned(), "--unit=u7s.service".to_owned()];
    let identifiers = arguments.component.map_or(&[][..], Component::identifiers);
    argv.extend(identifiers.iter().map(|identifier| format!("--identifier={identifier}")));
    // The lines of the unit are the node's user's, who may call himself as he likes: root's are told by who wrote them.
    let of_root = arguments.component == Some(Component::HostApply);
    argv.extend(of_root.then(|| "_UID=0".to_owned()));
    argv.extend(arguments.since.as_ref().map(|since| format!("--since={since}")));
    let lines = arguments.lines.as_deref().or_else(|| arguments.since.is_none().then_some("200"));
    argv.extend(lines.map(|lines| format!("--lines={lines}")));
    argv.extend(arguments.follow.then(|| "--follow".to_owned()));
    argv.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_says_stays_one_word_of_ours() {
        let arguments = Arguments {
            component: Some(Component::Kubelet),
            follow: true,
            since: Some("--file=/etc/shadow".into()),
            lines: None,
        };
        let wanted = [
            "--no-pager",
            "--unit=u7s.service",
            "--identifier=kubelet",
            "--since=--file=/etc/shadow",
            "--follow",
        ];
        assert_eq!(argv(&arguments), wanted);
        let of_root =
            Arguments { component: Some(Component::HostApply), follow: false, since: None, lines: None };
        assert_eq!(
            argv(&of_root),
            [
                "--no-pager",
                "--unit=u7s.service",
                "--identifier=u7s",
                "--identifier=nsenter",
                "_UID=0",
                "--lines=200"
            ]
        );
        let none = Arguments { component: None, follow: false, since: None, lines: None };
        assert_eq!(argv(&none), ["--no-pager", "--unit=u7s.service", "--lines=200"]);
        assert!(count("all").is_ok() && count("12").is_ok() && count("-1").is_err() && count("x").is_err());
    }
}
