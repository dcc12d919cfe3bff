//! How fast u7s is, beside what it is compared with.
//!
//! Each section measures one thing, in turn with its peers, and gives a [`Section`]. What it found is kept as JSON, so that a run
//! of one section replaces that part only; the page and its plots are rendered from all of it.
#![forbid(unsafe_code)]

mod entering;
mod error;
mod footprint;
mod forwarder;
mod inside;
mod inside_cgroup;
mod inside_tap;
mod namespace;
mod node;
mod numbers;
mod origin;
mod page;
mod section;
mod series;
mod settings;
mod stage;
mod store;
pub mod strace;
mod svg;
mod trial;
mod unit;

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
const SECTIONS: &[(&str, Measure)] = &[
    ("namespace", namespace::run),
    ("entering", entering::run),
    ("footprint", footprint::run),
    ("forwarder", forwarder::run),
    ("node", node::run),
];

/// Those that share the node of [`stage`], in this order: the first one wants nothing of u7s to run there yet.
const ON_STAGE: [&str; 3] = ["namespace", "entering", "footprint"];

/// The names that `--only` takes.
#[must_use]
pub fn names() -> Vec<&'static str> {
    SECTIONS.iter().map(|(name, _)| *name).collect()
}

/// The half that runs in a node: reads a job from standard input and gives its outcome as JSON.
///
/// # Errors
/// What no run can do without.
pub fn run_inside() -> Result<String, Error> {
    let outcome = inside::run(&inside::read_job()?)?;
    serde_json::to_string(&outcome).map_err(Error::json("an outcome"))
}

/// Runs what the settings ask for, keeps each section when it is done, and renders the page.
///
/// # Errors
/// The first section that failed: those before it are kept, those after it are not run.
pub fn run(settings: &Settings) -> Result<(), Error> {
    let measured = measure_all(settings);
    stage::end();
    measured.and_then(|()| page::render(&settings.out, &names()))
}

fn measure_all(settings: &Settings) -> Result<(), Error> {
    let wanted: Vec<_> = SECTIONS.iter().filter(|(name, _)| settings.wants(name)).collect();
    for (place, (name, measure)) in wanted.iter().enumerate() {
        settings.say(&format!("section {name} ({} of {})", place + 1, wanted.len()));
        if !ON_STAGE.contains(name) {
            stage::end();
        }
        let began = Instant::now();
        let origin = Origin::begin(settings)?;
        let section = measure(settings)?;
        let kept = Kept { origin: origin.end()?, section };
        store::write(&settings.out, name, &kept)?;
        settings.say(&format!("section {name} took {} s", began.elapsed().as_secs()));
    }
    Ok(())
}
