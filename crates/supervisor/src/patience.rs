//! How much longer than usual this machine may take for everything: the specification's `patience`.
//!
//! One value for the process, as a clock is: it is set before the namespaces are cloned, so pid 1 has it as well.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static FACTOR: AtomicU32 = AtomicU32::new(1);

/// Sets it, once, when the specification was read.
pub(crate) fn set(factor: u32) {
    FACTOR.store(factor.max(1), Ordering::Relaxed);
}

/// The factor.
pub(crate) fn factor() -> u32 {
    FACTOR.load(Ordering::Relaxed)
}

/// A deadline for what an ordinary machine does within this time.
pub(crate) fn of(ordinary: Duration) -> Duration {
    ordinary * factor()
}
