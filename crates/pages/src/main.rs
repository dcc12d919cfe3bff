//! `u7s-pages SOURCE TARGET`: manual pages of SOURCE (`en/u7s.8.md`, `ru/u7s.8.md`) as roff below TARGET, a man directory
//! (`man8/u7s.8`, `ru/man8/u7s.8`). Part of the build, never installed; `scripts/man` calls it.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod roff;

const USAGE: &str =
    "usage: u7s-pages SOURCE TARGET    makes the manual pages of docs/man below TARGET, e.g. /usr/share/man";

fn main() -> ExitCode {
    let argv: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (problem, code) = match &argv[..] {
        [source, target] => match pages(source, target) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(problem) => (problem, 1),
        },
        _ => (USAGE.to_owned(), 3),
    };
    // Nobody is left to tell if this fails too.
    let _ = writeln!(std::io::stderr(), "u7s-pages: {problem}");
    ExitCode::from(code)
}

/// English pages lie directly below a man directory, those of other languages in one of theirs.
fn pages(source: &Path, target: &Path) -> Result<(), String> {
    for (language, below) in [("en", ""), ("ru", "ru")] {
        let directory = source.join(language);
        let named = |error: std::io::Error| format!("{}: {error}", directory.display());
        for entry in std::fs::read_dir(&directory).map_err(named)? {
            let path = entry.map_err(named)?.path();
            if path.extension().is_some_and(|end| end == "md") {
                page(&path, &target.join(below))?;
            }
        }
    }
    Ok(())
}

fn page(source: &Path, target: &Path) -> Result<(), String> {
    let named = |path: &Path, problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let text = std::fs::read_to_string(source).map_err(|error| named(source, &error))?;
    let page = roff::page(&text, env!("CARGO_PKG_VERSION")).map_err(|problem| named(source, &problem))?;
    let name = format!("{}.{}", page.name, page.section);
    if source.file_stem().is_none_or(|stem| *stem != *name) {
        return Err(named(source, &format!("its heading says {name}")));
    }
    let directory = target.join(format!("man{}", page.section));
    std::fs::create_dir_all(&directory).map_err(|error| named(&directory, &error))?;
    let path = directory.join(name);
    std::fs::write(&path, page.text).map_err(|error| named(&path, &error))
}
