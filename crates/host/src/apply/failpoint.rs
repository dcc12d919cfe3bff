//! Borders of phases where a test may end the process, as a power cut would.

use u7s_plan::step::Phase;

/// Which side of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Border {
    /// Before its first step.
    Before,
    /// After its last step.
    After,
}

/// Ends this process with SIGKILL if `U7S_FAILPOINT` names this border: `host` after a phase, `before:host` before it.
///
/// Does nothing unless the crate is built with the feature `failpoints`.
#[cfg(feature = "failpoints")]
pub fn failpoint(border: Border, phase: Phase) {
    use nix::sys::signal::{Signal, kill};
    let Ok(wanted) = std::env::var("U7S_FAILPOINT") else { return };
    let name = match border {
        Border::Before => format!("before:{}", phase.as_str()),
        Border::After => phase.as_str().to_owned(),
    };
    if wanted == name {
        let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
    }
}

/// Ends this process with SIGKILL if `U7S_FAILPOINT` names this border: `host` after a phase, `before:host` before it.
///
/// Does nothing unless the crate is built with the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
pub fn failpoint(_border: Border, _phase: Phase) {}
