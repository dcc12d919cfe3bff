//! `u7s host-stop`: a stop of the node's unit ends, whatever its processes do.

use u7s_host::stop;
use u7s_plan::host;

use crate::doors::machine;
use crate::{End, Error};

/// Waits while the unit is stopped, and kills what is left of it when its time is over.
///
/// # Errors
/// Not root; processes that nothing ends.
pub(super) fn run() -> Result<End, Error> {
    if machine::effective_uid() != 0 {
        return Err(machine::not_privileged("u7s host-stop"));
    }
    // A configuration that cannot be read must not keep a node from being stopped.
    let factor = machine::config_or_default(true).map_or(1, |config| config.timeout_factor);
    stop::bound(host::USER, factor)?;
    Ok(End::OK)
}
