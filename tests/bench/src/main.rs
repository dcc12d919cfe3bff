//! `u7s-bench`: runs the sections that are asked for and writes the page.

use std::path::PathBuf;
use std::process::ExitCode;

use u7s_bench::Settings;

const HELP: &str = "\
u7s-bench: how fast u7s is, beside what it is compared with

usage: u7s-bench [--quick] [--only SECTION]... [--out DIR] [--programs DIR]

  --quick         few rounds: shows that everything works, the numbers mean nothing
  --only SECTION  this part of the page only; may be repeated
  --out DIR       where benchmarks.md and benchmarks/ are (default: docs)
  --programs DIR  release build of u7s (default: the directory of this program)

Needs root; scripts/bench builds what it needs. The machine should be quiet.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["inside"] {
        return finish(u7s_bench::run_inside().map(|answer| print(&answer)));
    }
    let settings = match parse(&args) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print(&format!("{HELP}Sections: {}.\n", u7s_bench::names().join(", ")));
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            complain(&format!("{problem}; see u7s-bench --help"));
            return ExitCode::from(3);
        }
    };
    finish(u7s_bench::run(&settings))
}

fn finish(outcome: Result<(), u7s_bench::Error>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// `None` asks for the help.
fn parse(args: &[String]) -> Result<Option<Settings>, String> {
    let here = std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from));
    let programs = here.unwrap_or_default();
    let mut settings = Settings { quick: false, only: Vec::new(), out: "docs".into(), programs };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--quick" => settings.quick = true,
            "--only" => settings.only.push(known(value()?)?),
            "--out" => settings.out = value()?.into(),
            "--programs" => settings.programs = value()?.into(),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(Some(settings))
}

fn known(name: String) -> Result<String, String> {
    let names = u7s_bench::names();
    if names.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(format!("there is no section {name} ({})", names.join(", ")))
}

#[expect(clippy::print_stdout, reason = "results of a command-line tool")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "messages of a command-line tool")]
fn complain(line: &str) {
    eprintln!("u7s-bench: {line}");
}
