//! `u7s check`: is this machine ready for a node?

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};
use u7s_host::probe;
use u7s_plan::checks::{self, Line};
use u7s_plan::need::{Level, Unmet};
use u7s_plan::{fix, preflight, request, trial};
use u7s_shim::kubeadm::{Call, parse};

use super::{Format, Output};
use crate::doors::{init, machine};
use crate::{End, Error, report, words};

/// Flags of the command.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    output: Format,
    /// Print one block of commands that mends what a command can mend, instead of the table.
    #[arg(long, conflicts_with = "output")]
    print_fix: bool,
    /// Needs that shall only be warnings: ids with commas between them, or `all`.
    #[arg(long, value_name = "IDS")]
    ignore_preflight_errors: Vec<OsString>,
    /// Further flags of `kubeadm init`, after `--`.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Below the help of the command.
pub(super) const HELP: &str = "\
What can be tried is tried: a child of this program makes namespaces, maps ids, mounts an overlay, opens a tap device and
moves itself between cgroups. All of that is gone when it ends; nothing of this machine is changed. Root sees more: `n/a` is\nwhat could not be looked at.

Every id is explained in /usr/share/doc/u7s/troubleshooting.md, with how to mend it on ALT, Debian, Fedora and Ubuntu.
The schema of -o json is /usr/share/u7s/schema/check.json.

Examples:
  u7s check
  u7s check -- --pod-network-cidr=10.5.0.0/16      for an init with these flags
  u7s check --print-fix                            look at the block, then paste it
  u7s check -o json | jq -r '.unmet[] | [.id, .remedy] | @tsv'

Exit status: 0 ready, 2 an error is unmet.";

/// Prints every unmet need; exit status 2 if an error is among them.
///
/// # Errors
/// Flags and configuration that make no node; facts that cannot be read.
pub(super) fn run(check: Check) -> Result<End, Error> {
    let request = request(check.ignore_preflight_errors, check.flags)?;
    // Whoever only asks need not be root: what root alone can see is then left out.
    let mut needs = init::needs(&request)?;
    needs.retain(|need| need.id != "IsPrivilegedUser");
    let untried = tried(&mut needs, &request)?;
    let ready = needs.iter().all(|need| need.level == Level::Warning);
    let lines = checks::table(&needs, &untried, machine::effective_uid() == 0);
    match check.output.output {
        _ if check.print_fix => report::result(&fix::block(&needs))?,
        Output::Json => report::json(&format!("{:#}\n", document(ready, &lines, &needs)))?,
        Output::Text => report::text(&text(ready, &lines, &needs))?,
    }
    Ok(End::Code(if ready { 0 } else { 2 }))
}

/// The flags as those of `kubeadm init`.
fn request(ignored: Vec<OsString>, flags: Vec<OsString>) -> Result<request::Init, Error> {
    let ignored = ignored.into_iter().map(|ids| {
        let mut flag = OsString::from("--ignore-preflight-errors=");
        flag.push(ids);
        flag
    });
    let argv: Vec<OsString> = std::iter::once("init".into()).chain(ignored).chain(flags).collect();
    match parse(&argv) {
        Call::Init(request) => Ok(request),
        Call::NotUtf8 { flag } => Err(Error::NotUtf8 { flag }),
        _ => Err(Error::Usage("these are not the flags of a kubeadm init".into())),
    }
}

/// Adds what only shows when it is tried; gives the ids of what could not be.
fn tried(needs: &mut Vec<Unmet>, request: &request::Init) -> Result<Vec<&'static str>, Error> {
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    let facts = probe::local(&config);
    // A node that was made wants back what it was made with.
    let standing = probe::node().ok().flatten().map(|node| preflight::standing_needs(&facts, &node));
    for need in needs.iter_mut() {
        let same = standing.iter().flatten().find(|same| same.id == need.id && same.message == need.message);
        same.inspect(|same| need.remedy.clone_from(&same.remedy));
    }
    let trial = probe::trial(&facts);
    for mut need in trial::needs(&facts, &trial) {
        if request.ignored.contains(&need.id) {
            need.level = Level::Warning;
        }
        needs.push(need);
    }
    Ok(trial::untried(&trial))
}

fn document(ready: bool, lines: &[Line], needs: &[Unmet]) -> Value {
    json!({"version": 1, "ready": ready, "checks": lines, "unmet": needs})
}

fn text(ready: bool, lines: &[Line], needs: &[Unmet]) -> String {
    let mut text = String::new();
    let width = lines.iter().map(|line| line.id.len()).max().unwrap_or(0);
    for line in lines {
        let _ = writeln!(text, "{:4}  {:width$}  {}", line.result.as_str(), line.id, words::say(line.wants));
    }
    for need in needs {
        let _ = write!(text, "\n{need}\nhint: {}\n", need.remedy);
    }
    if !needs.is_empty() {
        text.push_str(
            "\nwhat each id means: /usr/share/doc/u7s/troubleshooting.md; one block to paste: u7s check --print-fix\n",
        );
    }
    text + if ready { "STATUS: pass\n" } else { "STATUS: fail\n" }
}
