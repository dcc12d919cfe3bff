//! F18: a run that is killed at the border of a phase is completed by the same run.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use libtest_mimic::{Arguments, Failed, Trial};
use u7s_host::apply::{Applier, Event, Tally};
use u7s_plan::step::{Action, Owner, Phase, PhaseSteps, Step};

/// The directory that a copy of this program works in.
const PLACE: &str = "U7S_TEST_PLACE";

fn main() {
    if let Some(place) = std::env::var_os(PLACE) {
        run(place.as_ref());
        return;
    }
    let trial = |phase: Phase| {
        Trial::test(format!("f18_killed_around_phase_{}", phase.as_str()), move || killed_around(phase))
    };
    let trials = Phase::ALL.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn run(place: &Path) -> Tally {
    let phase = |phase: Phase| {
        let path = place.join("host").join(phase.as_str());
        let action = Action::WriteFile { path, mode: 0o600, owner: Owner::Root, text: "done".into() };
        PhaseSteps { phase, steps: vec![Step::root(action, "a test")] }
    };
    let mut tell = |_: Event<'_>| {};
    let applier = Applier::new("nobody", &mut tell).unwrap();
    applier.keeping(&place.join("undo.json")).unwrap().run(&Phase::ALL.map(phase)).unwrap()
}

fn copy(place: &Path, failpoint: &str) -> ExitStatus {
    let own = std::env::current_exe().unwrap();
    Command::new(own).env(PLACE, place).env("U7S_FAILPOINT", failpoint).status().unwrap()
}

fn killed_around(phase: Phase) -> Result<(), Failed> {
    for (failpoint, own) in [(format!("before:{}", phase.as_str()), 0), (phase.as_str().to_owned(), 1)] {
        let place = tempfile::tempdir()?;
        std::fs::create_dir(place.path().join("host"))?;
        let status = copy(place.path(), &failpoint);
        let before = Phase::ALL.iter().filter(|earlier| **earlier < phase).count() + own;
        let seen = std::fs::read_dir(place.path().join("host"))?.count();
        if status.signal() != Some(9) || seen != before {
            return Err(format!("{failpoint}: {status}, {seen} of {before} files").into());
        }
        if !copy(place.path(), "none").success() {
            return Err(format!("{failpoint}: not completed").into());
        }
        if run(place.path()) != (Tally { done: 0, held: 7, skipped: 0 }) {
            return Err(format!("{failpoint}: not at rest").into());
        }
    }
    Ok(())
}
