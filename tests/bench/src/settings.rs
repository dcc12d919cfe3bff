//! How a run is made.

use std::path::PathBuf;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A run that shows that everything works: few rounds, short waits, no meaning in the numbers.
    pub quick: bool,
    /// Sections to run; none means all.
    pub only: Vec<String>,
    /// Directory of the page: `benchmarks.md`, and `benchmarks/` with results and plots.
    pub out: PathBuf,
    /// Directory with the release build of u7s.
    pub programs: PathBuf,
}

impl Settings {
    /// Whether a section was asked for.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// `full` rounds, or two in a quick run.
    #[must_use]
    pub fn rounds(&self, full: usize) -> usize {
        if self.quick { 2 } else { full }
    }

    /// Tells the person who waits.
    #[expect(clippy::print_stderr, reason = "progress of a command-line tool")]
    pub fn say(&self, line: &str) {
        eprintln!("bench: {line}");
    }
}
