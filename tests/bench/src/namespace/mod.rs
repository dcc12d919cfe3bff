//! Namespace set-up: from the exec of a tool to the first instruction of its payload, and to its end.

mod phases;
pub(crate) mod spec;
mod traced;
mod variants;

use crate::stage::{self, Stage};
use crate::trial::{Job, Kind, Outcome, Times, Variant};
use crate::{Bar, Chart, Error, Section, Series, Settings, Summary, Table, ratio, short};
use variants::{DRIVER, FLOOR, HANDED, RK_HOST, RK_PODSEC, SLIRP, TAPFD};

/// Rounds of a full run.
const ROUNDS: usize = 60;

/// Rounds before those that count: caches, page tables, modules.
const WARM_UP: usize = 3;

const TEXT: &str = "From nothing to a process that is root of a user namespace with its own mounts, network, processes, host name, IPC and cgroups.\n\
    *ready* is from the exec of the tool to the first instruction of the payload, a static program that says when it began and ends; where\n\
    slirp4netns serves the network by entering the namespace, the later of that and the driver's readiness. *wall* is until the tool was reaped.\n\
    u7s runs the payload as its component crio, with 12 binds, five sysctls, no forwarded port; it is told to end by SIGTERM when the payload\n\
    has spoken. All run in turn on one nested node (Debian trixie, idle systemd), as the same user, each in a fresh cgroup.";

/// Measures the section.
///
/// # Errors
/// What no run can do without.
pub(crate) fn run(settings: &Settings) -> Result<Section, Error> {
    stage::with(settings, |stage| measure(stage, settings))
}

fn measure(stage: &Stage, settings: &Settings) -> Result<Section, Error> {
    let variants = variants::all(stage)?;
    let job = |rounds| Job { rounds, variants: variants.clone() };
    if !settings.quick {
        stage.run(settings, "namespace, warm-up", &job(WARM_UP))?;
    }
    let outcome = stage.run(settings, "namespace", &job(settings.rounds(ROUNDS)))?;
    for (variant, complaint) in variants.iter().zip(&outcome.complaints).filter(|(_, text)| !text.is_empty())
    {
        settings.say(&format!("a run of {} failed: {complaint}", variant.name));
    }
    check(settings, &variants, &outcome)?;
    let ready = series(&variants, &outcome, "ready", |times| times.ready);
    let wall = series(&variants, &outcome, "wall", |times| times.wall);
    let traced = traced::run(stage, settings, &variants)?;
    let mut charts = vec![overview(&variants, &ready, &wall)];
    charts.extend(phases::charts(&traced, &variants, &ready));
    Ok(Section {
        title: "Namespace set-up".into(),
        text: TEXT.into(),
        tables: vec![
            times_table(&variants, &ready, &wall),
            ratios(&variants, &ready, &wall),
            traced::table(&traced),
        ],
        charts,
        series: ready.into_iter().chain(wall).collect(),
    })
}

/// A tool of which no run succeeded is no result; of two short runs of RootlessKit both may fail, see [`variants`].
fn check(settings: &Settings, variants: &[Variant], outcome: &Outcome) -> Result<(), Error> {
    let matters = |variant: &Variant| !settings.quick || !variant.name.starts_with("RootlessKit");
    for (place, variant) in variants.iter().enumerate().filter(|(_, variant)| matters(variant)) {
        if outcome.times[place].iter().all(Option::is_none) {
            let text = outcome.complaints[place].clone();
            return Err(Error::Answer { what: variant.name.clone(), text });
        }
    }
    Ok(())
}

fn series(variants: &[Variant], outcome: &Outcome, what: &str, of: impl Fn(&Times) -> f64) -> Vec<Series> {
    let one = |(variant, times): (&Variant, &Vec<Option<Times>>)| {
        let mut series = Series::new(format!("{}: {what}", variant.name), "ms");
        times.iter().for_each(|times| series.push(times.as_ref().map(&of)));
        series
    };
    variants.iter().zip(&outcome.times).map(one).collect()
}

fn times_table(variants: &[Variant], ready: &[Series], wall: &[Series]) -> Table {
    let mut table = Table::new("Milliseconds", ["", "ready", "wall", "runs", "failed"]);
    for (place, variant) in variants.iter().enumerate() {
        let driver = matches!(variant.kind, Kind::Driver | Kind::Command);
        let count = ready[place].samples.len().to_string();
        let wall = if driver { "–".into() } else { wall[place].summary().text() };
        let failed = ready[place].failed().to_string();
        table.row([variant.name.clone(), ready[place].summary().text(), wall, count, failed]);
    }
    table.note = "The last two rows: exec of slirp4netns to its ready byte, of pasta until it has gone to the background, in namespaces with a\n\
        tap0 that was made before. u7s has no driver for pasta: it could not be ready before pasta is.\n\
        A driver that u7s hands the tap need not be waited for: the kernel keeps what is sent before it reads.".into();
    table
}

fn ratios(variants: &[Variant], ready: &[Series], wall: &[Series]) -> Table {
    let mut table = Table::new("Ratios, pair by pair", ["", "ready", "wall", "wanted"]);
    let place = |name: &str| variants.iter().position(|variant| variant.name == name);
    let pairs = [
        (RK_PODSEC, SLIRP, "≥ 8"),
        (RK_PODSEC, HANDED, "≥ 8"),
        (RK_PODSEC, TAPFD, "≥ 15"),
        (TAPFD, FLOOR, "≤ 3"),
        (RK_HOST, variants::NONE, "≥ 10"),
        (variants::NONE, FLOOR, "≤ 2.5"),
    ];
    for (above, below, wanted) in pairs {
        let (Some(a), Some(b)) = (place(above), place(below)) else { continue };
        let by_wall = if below == FLOOR { "–".into() } else { ratio(&wall[a], &wall[b]).text() };
        table.row([format!("{above} ÷ {below}"), ratio(&ready[a], &ready[b]).text(), by_wall, wanted.into()]);
    }
    for ours in [SLIRP, HANDED] {
        let (Some(a), Some(b)) = (place(ours), place(DRIVER)) else { continue };
        let over = difference(&ready[a], &ready[b]);
        table.row([format!("{ours} − {DRIVER}, ms"), over.text(), "–".into(), "≤ 1.5".into()]);
    }
    table
}

fn difference(above: &Series, below: &Series) -> Summary {
    let pairs = above.samples.iter().zip(&below.samples);
    Summary::of(pairs.filter_map(|(above, below)| Some((*above)? - (*below)?)))
}

fn overview(variants: &[Variant], ready: &[Series], wall: &[Series]) -> Chart {
    let bar = |place: usize| {
        let (ready, wall) = (ready[place].summary().median, wall[place].summary().median);
        let parts = vec![("to ready".to_owned(), ready), ("to gone".to_owned(), (wall - ready).max(0.0))];
        Bar { label: format!("{} ({} ms)", variants[place].name, short(ready)), parts }
    };
    let tools =
        (0..variants.len()).filter(|place| !matches!(variants[*place].kind, Kind::Driver | Kind::Command));
    Chart {
        name: "namespace".into(),
        title: "Namespace set-up: exec to ready, ready to gone (medians)".into(),
        unit: "ms".into(),
        bars: tools.map(bar).collect(),
    }
}
