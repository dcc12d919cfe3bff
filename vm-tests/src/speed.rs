//! How slow a machine is, measured by itself when it boots: deadlines are multiplied by it.

use std::time::Duration;

use serde_json::Value;

/// What starting a program takes on a quiet two-core machine without emulation, µs.
const ORDINARY: u32 = 1_500;
/// However slow the machine says it is.
const MOST: u32 = 40;

/// A factor by which a machine is slower than an ordinary one, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed(u32);

impl Speed {
    /// From the agent's first words.
    pub(crate) fn from_hello(hello: &Value) -> Self {
        let spawn = hello["spawn_us"].as_u64().and_then(|us| u32::try_from(us).ok()).unwrap_or(ORDINARY);
        Self(spawn.div_ceil(ORDINARY).clamp(1, MOST))
    }

    /// The factor.
    #[must_use]
    pub fn factor(self) -> u32 {
        self.0
    }

    /// A deadline for what an ordinary machine does in this time at the latest.
    #[must_use]
    pub fn scale(self, ordinary: Duration) -> Duration {
        ordinary * self.0
    }
}

impl Default for Speed {
    /// Of a machine that has not said anything yet: that of emulation.
    fn default() -> Self {
        Self(15)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn deadlines_grow_with_slowness_and_within_bounds() {
        let factor = |us: u32| Speed::from_hello(&json!({"spawn_us": us})).factor();
        assert_eq!([factor(0), factor(1_500), factor(19_000), factor(9_000_000)], [1, 1, 13, MOST]);
        assert_eq!(Speed(3).scale(Duration::from_secs(2)), Duration::from_secs(6));
        assert_eq!(Speed::from_hello(&json!({})).factor(), 1);
    }
}
