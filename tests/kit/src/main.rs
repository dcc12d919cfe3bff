//! `u7s-kit`: builds the kit and says where it is.

use std::process::ExitCode;

const HELP: &str = "\
u7s-kit: real Kubernetes to test with, built once and kept in the cache

usage: u7s-kit            build what the cache lacks, then list the parts
       u7s-kit --earlier  the same with the patch release before, which tests of upgrades begin with
       u7s-kit --machine  make the Debian tree and kernels of virtual machines, and say where they are
       u7s-kit --help

The cache is $XDG_CACHE_HOME/u7s/kit (by default ~/.cache/u7s/kit); remove it to build everything again.
U7S_DEBIAN_MIRROR names the Debian archive for the node tree; by default it is the one in apt's sources.
Needs root for the node tree. A cold cache takes about 15 minutes on two cores.
";

#[expect(clippy::print_stderr, reason = "progress of a command-line tool")]
fn progress(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "results of a command-line tool")]
fn result(text: &str) {
    print!("{text}");
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => build(u7s_kit::ensure(&progress)),
        Some("--earlier") => build(u7s_kit::ensure_earlier(&progress)),
        Some("--machine") => machine(),
        Some("--help" | "-h") => {
            result(HELP);
            ExitCode::SUCCESS
        }
        Some(other) => {
            progress(&format!("u7s-kit: unknown argument {other}; see u7s-kit --help"));
            ExitCode::from(3)
        }
    }
}

fn build(kit: Result<u7s_kit::Kit, u7s_kit::Error>) -> ExitCode {
    match kit {
        Ok(kit) => {
            result(&list(&kit));
            ExitCode::SUCCESS
        }
        Err(error) => {
            progress(&format!("u7s-kit: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn machine() -> ExitCode {
    match u7s_kit::machine(&progress) {
        Ok(machine) => {
            result(&format!("tree    {}\n", machine.tree().display()));
            for kernel in machine.kernels() {
                let (name, release) = (&kernel.name, &kernel.release);
                result(&format!("kernel  {name} {release} {}\n", kernel.vmlinuz().display()));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            progress(&format!("u7s-kit: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn list(kit: &u7s_kit::Kit) -> String {
    let mut text = format!("tree    {}\nlayout  {}\n", kit.tree().display(), kit.layout().display());
    for name in u7s_kit::NODE_BINARIES {
        if let (Some(path), Some(sum)) = (kit.binary(name), kit.sha256(name)) {
            text += &format!("{name:<8}{sum} {}\n", path.display());
        }
    }
    for image in kit.images() {
        text += &format!("image   {image}\n");
    }
    text
}
