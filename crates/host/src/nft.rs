//! nft(8), from root's fixed search path: bounded output, a deadline, its own words where it fails.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::child::{Job, Output, printable};
use crate::error::Error;
use crate::programs;

/// What is read of a ruleset, bytes.
const MOST: usize = 8 << 20;

/// How long changing one table may take; listing is quicker.
const DEADLINE: Duration = Duration::from_secs(30);

/// The program.
pub(crate) struct Nft(PathBuf);

/// What a listing said.
#[derive(Debug)]
pub(crate) enum Listing {
    /// Parsed.
    Read(Value),
    /// nft was not built with JSON, or said more than is read.
    Unknown,
    /// It failed, in its own words.
    Failed(String),
}

impl Nft {
    /// Finds it.
    ///
    /// # Errors
    /// `NoProgram`.
    pub(crate) fn find() -> Result<Self, Error> {
        programs::needed("nft").map(Self)
    }

    /// Runs `nft -j list …`.
    ///
    /// # Errors
    /// Those of [`Job::run`].
    pub(crate) fn list(&self, arguments: &[&str], deadline: Duration) -> Result<Listing, Error> {
        let output = self.run(arguments, None, deadline)?;
        if !output.status.success() {
            let why = said(&output);
            return Ok(if why.contains("JSON") { Listing::Unknown } else { Listing::Failed(why) });
        }
        // Cut off it is no JSON.
        Ok(serde_json::from_slice(&output.stdout).map_or(Listing::Unknown, Listing::Read))
    }

    /// Loads a text, one transaction: all of it or nothing.
    ///
    /// # Errors
    /// `Firewall` with nft's words, and those of [`Job::run`].
    pub(crate) fn load(&self, text: &str, operation: &'static str) -> Result<(), Error> {
        let output = self.run(&["-f", "-"], Some(text), DEADLINE)?;
        let failed = || Error::Firewall { operation, reason: said(&output) };
        if output.status.success() { Ok(()) } else { Err(failed()) }
    }

    fn run(&self, arguments: &[&str], input: Option<&str>, deadline: Duration) -> Result<Output, Error> {
        let input = input.map(|text| text.as_bytes().to_vec());
        Job { input, deadline, kept: MOST, ..Job::new(&self.0, arguments) }.run()
    }
}

/// Its first line: below it nft shows the place in the text.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| output.status.to_string(), printable)
}
