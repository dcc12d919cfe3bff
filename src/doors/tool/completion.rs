//! `u7s completion`: what a shell needs to complete our command lines, made of the grammar.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::{End, Error, report};

/// Below the help.
pub(super) const HELP: &str = "\
A package installs all three. In a shell of your own:
  bash   source <(u7s completion bash)
  zsh    u7s completion zsh >~/.zfunc/_u7s       a directory of fpath
  fish   u7s completion fish | source";

#[derive(Debug, Args)]
pub(super) struct Completion {
    /// The shell.
    #[arg(value_enum)]
    shell: For,
}

/// Shells that we complete for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum For {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// Prints it.
///
/// # Errors
/// `Output`.
pub(super) fn run(completion: &Completion) -> Result<End, Error> {
    let shell = match completion.shell {
        For::Bash => Shell::Bash,
        For::Zsh => Shell::Zsh,
        For::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "u7s", &mut text);
    report::result(&String::from_utf8_lossy(&text)).map(|()| End::OK)
}
