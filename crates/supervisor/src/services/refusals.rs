//! Ports that are not opened, in words: a few of them, and how many more there are.
//!
//! Users of the cluster choose how many ports they ask for. What is said of them is kept, compared and sent by the one
//! thread that also pings systemd's watchdog.

use u7s_plan::control::{MAX_SENTENCE, MOST_REFUSED, cut};
use u7s_plan::services::{Claim, Port, Reason, Wanted};

/// At most [`MOST_REFUSED`] sentences.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    said: Vec<String>,
    more: usize,
}

impl Refusals {
    /// What is refused whatever the host says.
    pub(super) fn of(wanted: &Wanted) -> Self {
        let mut refusals = Self::default();
        for ((claim, port), reason) in &wanted.refused {
            refusals.push(|| sentence(claim, *port, reason));
        }
        refusals.more += wanted.refused_more;
        refusals
    }

    /// Adds a sentence; one that would not be kept is not made.
    pub(super) fn push(&mut self, sentence: impl FnOnce() -> String) {
        if self.said.len() < MOST_REFUSED {
            self.said.push(cut(sentence(), MAX_SENTENCE));
        } else {
            self.more += 1;
        }
    }

    /// The sentences, the last of which counts what has none.
    pub(super) fn sentences(mut self) -> Vec<String> {
        if self.more > 0 {
            self.said.push(format!("and {} more", self.more));
        }
        self.said
    }
}

fn sentence(claim: &Claim, port: Port, reason: &Reason) -> String {
    format!("{port}, {claim}, is not opened: {reason}")
}
