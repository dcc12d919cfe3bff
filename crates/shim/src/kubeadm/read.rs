//! pflag's way of reading flags.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::flags::{Flag, Takes};
use super::values::boolean;

/// A flag as it was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    /// Which.
    pub(super) flag: &'static Flag,
    /// Its value; `true` for a bare boolean.
    pub(super) value: &'a OsStr,
}

/// Arguments in kinds.
#[derive(Debug, Default)]
pub(super) struct Read<'a> {
    /// Flags in order, help left out.
    pub(super) given: Vec<Given<'a>>,
    /// What is no flag.
    pub(super) words: Vec<&'a OsStr>,
    /// Help was asked for.
    pub(super) help: bool,
}

/// Reads `args` by `table`.
///
/// # Errors
/// The argument that pflag would refuse: an unknown flag, a missing value, bad syntax.
///
/// Source: spf13/pflag 1.0.6, `parseLongArg`, `parseSingleShortArg`.
pub(super) fn flags<'a>(args: &[&'a OsStr], table: &'static [Flag]) -> Result<Read<'a>, OsString> {
    let mut read = Read::default();
    let mut rest = args.iter().copied();
    while let Some(arg) = rest.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            read.words.extend(rest);
            break;
        }
        if let Some(long) = bytes.strip_prefix(b"--") {
            let (name, value) = halves(long);
            let flag = table.iter().find(|flag| flag.name.as_bytes() == name);
            let flag = flag.ok_or_else(|| arg.to_owned())?;
            let value = value.or_else(|| flag.bare()).or_else(|| rest.next());
            take(&mut read, flag, value.ok_or_else(|| arg.to_owned())?)?;
        } else if bytes.len() > 1 && bytes.starts_with(b"-") {
            shorthands(arg, table, &mut rest, &mut read)?;
        } else {
            read.words.push(arg);
        }
    }
    Ok(read)
}

/// `-fv5`: one letter a flag, the rest of the argument or the next one as the value of the first that takes one.
fn shorthands<'a>(
    arg: &'a OsStr,
    table: &'static [Flag],
    rest: &mut impl Iterator<Item = &'a OsStr>,
    read: &mut Read<'a>,
) -> Result<(), OsString> {
    let mut letters = arg.as_bytes().get(1..).unwrap_or_default();
    while let Some((letter, after)) = letters.split_first() {
        let flag = table.iter().find(|flag| flag.short == Some(*letter)).ok_or_else(|| arg.to_owned())?;
        let attached = after.strip_prefix(b"=").filter(|value| !value.is_empty());
        let value = match (attached, flag.bare()) {
            (Some(value), _) => OsStr::from_bytes(value),
            (None, Some(bare)) => {
                take(read, flag, bare)?;
                letters = after;
                continue;
            }
            (None, None) if !after.is_empty() => OsStr::from_bytes(after),
            (None, None) => rest.next().ok_or_else(|| arg.to_owned())?,
        };
        take(read, flag, value)?;
        break;
    }
    Ok(())
}

/// Notes one flag; `--help=false` is none.
fn take<'a>(read: &mut Read<'a>, flag: &'static Flag, value: &'a OsStr) -> Result<(), OsString> {
    if flag.takes == Takes::Help {
        read.help = value.to_str().and_then(boolean).ok_or_else(|| value.to_owned())?;
    } else {
        read.given.push(Given { flag, value });
    }
    Ok(())
}

/// `name=value` at the first `=`.
fn halves(long: &[u8]) -> (&[u8], Option<&OsStr>) {
    let mut halves = long.splitn(2, |byte| *byte == b'=');
    let name = halves.next().unwrap_or_default();
    (name, halves.next().map(OsStr::from_bytes))
}
