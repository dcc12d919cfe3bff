//! `u7s-vm`: boots a machine of the tests and leaves it running, to look around in.

use std::path::PathBuf;
use std::process::ExitCode;

use u7s_vm::{Error, Image, Vm};

const HELP: &str = "\
u7s-vm: boots a virtual machine with the kit and u7s installed, and leaves it running

usage: u7s-vm [--bin DIR] [--disk FILE]

  --bin DIR    where the programs of u7s are (default: ../target/release of the project, made by scripts/build)
  --disk FILE  a disk that a test or another machine saved, instead of the image

It prints how to run commands in it and how to end it.
";

#[expect(clippy::print_stderr, reason = "progress of a command-line tool")]
fn progress(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "results of a command-line tool")]
fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let mut bin = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    let mut disk = None;
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--bin", Some(dir)) => bin = dir.into(),
            ("--disk", Some(file)) => disk = Some(PathBuf::from(file)),
            ("--help" | "-h", _) => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            _ => {
                progress("u7s-vm: unknown argument; see u7s-vm --help");
                return ExitCode::from(3);
            }
        }
    }
    match up(&bin, disk) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            progress(&format!("u7s-vm: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn up(bin: &std::path::Path, disk: Option<PathBuf>) -> Result<String, Error> {
    let image = Image::ensure(bin, &progress)?;
    let mut machine = match disk {
        Some(disk) => Vm::over(&image, "hand", &disk)?,
        None => Vm::new(&image, "hand")?,
    };
    let took = machine.boot()?;
    machine.keep();
    Ok(format!(
        "up after {:.1} s, {} times slower than an ordinary machine; console: {}\nrun:  {}\nend:  {}",
        took.as_secs_f64(),
        machine.speed().factor(),
        machine.console().display(),
        machine.exec_line("COMMAND..."),
        machine.exec_line("poweroff"),
    ))
}
