//! How fast u7s is, beside what it is compared with.
//!
//! Each section measures one thing, in turn with its peers, and gives a [`Section`]. What it found is kept as JSON, so that a run
//! of one section replaces that part only; the page and its plots are rendered from all of it.
#![forbid(unsafe_code)]

mod error;
mod forwarder;
mod node;
mod numbers;
mod origin;
mod page;
mod section;
mod series;
mod settings;
mod store;
mod svg;

use std::time::Instant;

pub use error::Error;
pub use numbers::short;
pub use origin::Origin;
pub use section::{Bar, Chart, Section, Table};
pub use series::{Series, Summary, ratio};
pub use settings::Settings;
pub use store::Kept;

/// What measures one section.
type Measure = fn(&Settings) -> Result<Section, Error>;

/// All sections in the order of the page: name on the command line, what measures it.
const SECTIONS: &[(&str, Measure)] = &[("forwarder", forwarder::run), ("node", node::run)];

/// The names that `--only` takes.
#[must_use]
pub fn names() -> Vec<&'static str> {
    SECTIONS.iter().map(|(name, _)| *name).collect()
}

/// Runs what the settings ask for, keeps each section when it is done, and renders the page.
///
/// # Errors
/// The first section that failed: those before it are kept, those after it are not run.
pub fn run(settings: &Settings) -> Result<(), Error> {
    let wanted: Vec<_> = SECTIONS.iter().filter(|(name, _)| settings.wants(name)).collect();
    for (place, (name, measure)) in wanted.iter().enumerate() {
        settings.say(&format!("section {name} ({} of {})", place + 1, wanted.len()));
        let began = Instant::now();
        let origin = Origin::begin(settings)?;
        let section = measure(settings)?;
        let kept = Kept { origin: origin.end()?, section };
        store::write(&settings.out, name, &kept)?;
        settings.say(&format!("section {name} took {} s", began.elapsed().as_secs()));
    }
    page::render(&settings.out, &names())
}
