//! `u7s check`: is this machine ready for a node?

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::Args;
use serde_json::json;
use u7s_plan::need::Level;
use u7s_shim::kubeadm::{Call, parse};

use super::{Format, Output};
use crate::doors::init;
use crate::{End, Error, report};

/// Flags of the command.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    output: Format,
    /// Needs that shall only be warnings: ids with commas between them, or `all`.
    #[arg(long, value_name = "IDS")]
    ignore_preflight_errors: Vec<OsString>,
    /// Further flags of `kubeadm init`, after `--`.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Prints every unmet need; exit status 2 if an error is among them.
///
/// # Errors
/// Flags and configuration that make no node; facts that cannot be read.
pub(super) fn run(check: Check) -> Result<End, Error> {
    let ignored = check.ignore_preflight_errors.iter().map(|ids| {
        let mut flag = OsString::from("--ignore-preflight-errors=");
        flag.push(ids);
        flag
    });
    let argv: Vec<OsString> = std::iter::once("init".into()).chain(ignored).chain(check.flags).collect();
    let request = match parse(&argv) {
        Call::Init(request) => request,
        Call::NotUtf8 { flag } => return Err(Error::NotUtf8 { flag }),
        _ => return Err(Error::Usage("these are not the flags of a kubeadm init".into())),
    };
    // Whoever only asks need not be root: what root alone can see is then left out.
    let mut needs = init::needs(&request)?;
    needs.retain(|need| need.id != "IsPrivilegedUser");
    let ready = needs.iter().all(|need| need.level == Level::Warning);
    match check.output.output {
        Output::Json => {
            report::result(&format!("{:#}\n", json!({"version": 1, "ready": ready, "unmet": needs})))?;
        }
        Output::Text => {
            let mut text = String::new();
            for need in &needs {
                let _ = writeln!(text, "{need}\nhint: {}", need.remedy);
            }
            text.push_str(if ready { "STATUS: pass\n" } else { "STATUS: fail\n" });
            report::result(&text)?;
        }
    }
    Ok(End::Code(if ready { 0 } else { 2 }))
}
