//! `u7s config`: what is set, whether it is right, and what could be set.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use u7s_plan::config::{self, Config};

use crate::doors::machine;
use crate::{End, Error, report};

/// What is asked about the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print what holds now: the defaults, /etc/u7s/config.toml and its drop-ins, key by key.
    Print {
        /// Form of the result.
        #[arg(short, long, value_enum, default_value_t = Form::Toml)]
        output: Form,
    },
    /// Read the configuration, or these files in their order, and say what is wrong with it.
    Validate {
        /// Files, later ones winning; without any those of this host.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print the packaged file: every key with its default and what it means.
    Default,
}

/// Below the help of the group.
pub(super) const HELP: &str = "\
/etc/u7s/config.toml is read first, then /etc/u7s/config.d/*.toml in the order of their names; a later file wins key by
key. A key that is not known is an error, with the one that was meant.

Examples:
  u7s config print
  u7s config print -o json | jq .network
  u7s config default >/etc/u7s/config.toml
  u7s config validate ./new.toml && cp new.toml /etc/u7s/config.d/50-site.toml

Exit status: 3 if the configuration is wrong.";

/// Forms of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// As it is written.
    Toml,
    /// For programs.
    Json,
}

/// The packaged file.
const DEFAULT: &str = include_str!("../../../packaging/config.toml");

/// Does it.
///
/// # Errors
/// `Config`, and those of reading.
pub(super) fn run(command: Command) -> Result<End, Error> {
    match command {
        Command::Print { output } => print(&machine::config()?, output),
        Command::Validate { files } => validate(&files),
        Command::Default => report::result(DEFAULT),
    }?;
    Ok(End::OK)
}

fn print(config: &Config, form: Form) -> Result<(), Error> {
    let failed = |error: String| Error::Output(std::io::Error::other(error));
    match form {
        Form::Toml => report::result(&toml::to_string(config).map_err(|error| failed(error.to_string()))?),
        Form::Json => {
            let text = serde_json::to_string_pretty(config).map_err(|error| failed(error.to_string()))?;
            report::json(&format!("{text}\n"))
        }
    }
}

fn validate(files: &[PathBuf]) -> Result<(), Error> {
    if files.is_empty() {
        machine::config()?;
        return report::text("the configuration is right\n");
    }
    let read = |path: &PathBuf| machine::document(path).map(|text| (path.display().to_string(), text));
    config::read(&files.iter().map(read).collect::<Result<Vec<_>, _>>()?)?;
    let names: Vec<_> =
        files.iter().map(PathBuf::as_path).map(Path::display).map(|name| name.to_string()).collect();
    report::text(&format!("{}: right\n", names.join(", ")))
}
