//! `u7s host-apply`: what a reboot loses on the host is set again.

use u7s_host::apply::{Applier, Event};
use u7s_host::probe;
use u7s_plan::host;
use u7s_plan::request::Form;

use crate::doors::machine;
use crate::doors::progress::Progress;
use crate::{End, Error};

/// Applies the volatile part of the plan, from root's files alone.
///
/// # Errors
/// Not root; the steps'.
pub(super) fn run() -> Result<End, Error> {
    if machine::effective_uid() != 0 {
        return Err(machine::not_privileged("u7s host-apply"));
    }
    let plan = u7s_plan::init::volatile(&machine::config()?, &probe::machine(), probe::node()?.as_ref());
    let mut progress = Progress::begin("host-apply", Form::Text)?;
    let mut tell = |event: Event<'_>| progress.hear(&event);
    Applier::new(host::USER, &mut tell)?.run(&plan.phases)?;
    progress.end();
    Ok(End::OK)
}
