//! `u7s timings`: what the last init or join spent its time on.

use u7s_host::timings;

use super::Output;
use crate::{End, Error, report};

/// Below the help of the command.
pub(super) const HELP: &str = "\
Each phase of u7s has a line, below it its longer steps, below these what they consist of: the parts of the start of
u7s.service, each image that was copied, kubeadm's own phases. The share is of the whole run; the time of a line that is
in none of the lines below it was spent in between. Parts that ran side by side add up to more than their whole.

kubeadm shows the same table at its end when it runs with -v=1 or more. A run that changed nothing is not kept.
With -o json: began in seconds since the epoch, at_us and took_us in microseconds, at_us from the run's begin.

Examples:
  u7s timings
  u7s timings -o json | jq '.parts[] | {name, took_us}'";

/// Prints the last run that was kept.
///
/// # Errors
/// `NoRun`; a file that is not ours.
pub(super) fn run(output: Output) -> Result<End, Error> {
    let Some(run) = timings::last()? else { return Err(Error::NoRun) };
    match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&run).map_err(|error| Error::Output(error.into()))?;
            report::json(&format!("{text}\n"))?;
        }
        Output::Text => {
            let failed = run.failed.as_ref().map_or_else(String::new, |step| format!(", failed at: {step}"));
            report::result(&format!("{}{failed}\n{run}", run.command))?;
        }
    }
    Ok(End::OK)
}
