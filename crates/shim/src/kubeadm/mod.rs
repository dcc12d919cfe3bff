//! The argv grammar of kubeadm: which command is meant, and the flags of the commands that we plan.
//!
//! We only decide who answers. Helps, versions and complaints are always the real kubeadm's: wherever it would refuse
//! the command line itself, the answer is [`Call::Unknown`] and the door lets it do so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use u7s_plan::request;

mod flags;
mod read;
mod values;

/// What a command line of kubeadm asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `kubeadm init`: planned.
    Init(request::Init),
    /// `kubeadm reset`: planned.
    Reset(request::Reset),
    /// `kubeadm join`: planned.
    Join(request::Join),
    /// `kubeadm upgrade apply|diff|node|plan`: into the namespace.
    Upgrade,
    /// `init phase`, `join phase`, `reset phase`, `upgrade … phase`: needs a running namespace.
    Phase,
    /// Needs no node: help, version, completion, printing and checking of configurations, making of tokens and keys;
    /// and commands that kubeadm does not have.
    ///
    /// Runs inside where a namespace runs, else on the host *without privileges*.
    Info,
    /// All else: into the namespace, byte for byte.
    Pass,
    /// A command line of `init`, `join` or `reset` that kubeadm refuses while it reads its flags, or a flag that is not in our
    /// table.
    ///
    /// The caller runs the real kubeadm with the same argv *without privileges*: the text and exit status of the
    /// error are kubeadm's own, and a newer kubeadm that does know the flag stops at its privilege check.
    Unknown {
        /// The argument that we stumbled over.
        flag: OsString,
    },
    /// A value of `init`, `join` or `reset` that is not UTF-8: refused by us, since no configuration can hold it.
    NotUtf8 {
        /// The flag, without dashes.
        flag: String,
    },
    /// `--output` of `init`, `join` or `reset`, which is ours, with a form that there is not.
    NoForm {
        /// The value.
        value: OsString,
    },
}

/// Reads kubeadm's arguments, without the program's name.
///
/// Source: spf13/cobra 1.9, `Command.Find`, `stripFlags`; kubernetes 1.34, cmd/kubeadm/app/cmd.
#[must_use]
pub fn parse(argv: &[OsString]) -> Call {
    let args: Vec<&OsStr> = argv.iter().map(OsString::as_os_str).collect();
    let Some((command, args)) = subcommand(&args, &[]) else { return Call::Info };
    match command.as_bytes() {
        b"init" => workflow(&args, flags::INIT, flags::init),
        b"reset" => workflow(&args, flags::RESET, flags::reset),
        b"join" => workflow(&args, flags::JOIN, flags::join),
        b"upgrade" => unless_help(&args, upgrade(&args)),
        b"config" => unless_help(&args, config(&args)),
        b"token" => unless_help(&args, only(&args, &[b"create", b"delete", b"list"])),
        b"certs" | b"certificates" => {
            unless_help(&args, only(&args, &[b"check-expiration", b"generate-csr", b"renew"]))
        }
        b"kubeconfig" => unless_help(&args, only(&args, &[b"user"])),
        _ => Call::Info,
    }
}

/// `init`, `join` and `reset`: a workflow of kubeadm with phases as subcommands.
fn workflow<'a>(
    args: &[&'a OsStr],
    table: &'static [flags::Flag],
    build: fn(Vec<read::Given<'a>>) -> Result<Call, flags::Refused>,
) -> Call {
    let booleans = flags::booleans(table);
    if let Some((word, rest)) = subcommand(args, &booleans)
        && word == "phase"
    {
        return match subcommand(&rest, &booleans) {
            Some(_) => unless_help(&rest, Call::Phase),
            None => Call::Info,
        };
    }
    let read = match read::flags(args, table) {
        Ok(read) => read,
        Err(flag) => return Call::Unknown { flag },
    };
    if read.help {
        return Call::Info;
    }
    match (read.words.first(), build(read.given)) {
        (_, Err(flags::Refused::ByKubeadm(flag))) => Call::Unknown { flag },
        // reset takes any words and ignores them.
        (Some(word), Ok(Call::Init(_))) => Call::Unknown { flag: (*word).to_owned() },
        (_, Err(flags::Refused::NotUtf8(flag))) => Call::NotUtf8 { flag },
        (_, Err(flags::Refused::Form(value))) => Call::NoForm { value },
        (_, Ok(Call::Join(request))) => endpoint(request, &read.words),
        (_, Ok(call)) => call,
    }
}

/// join takes one word: the endpoint.
fn endpoint(request: request::Join, words: &[&OsStr]) -> Call {
    match words {
        [] => Call::Join(request),
        [word] => match word.to_str() {
            Some(endpoint) => Call::Join(request::Join { endpoint: Some(endpoint.to_owned()), ..request }),
            None => Call::Unknown { flag: (*word).to_owned() },
        },
        [_, word, ..] => Call::Unknown { flag: (*word).to_owned() },
    }
}

fn upgrade(args: &[&OsStr]) -> Call {
    match subcommand(args, flags::BOOLEANS) {
        Some((_, rest)) if nested(&rest, b"phase") => Call::Phase,
        Some(_) => Call::Upgrade,
        None => Call::Info,
    }
}

/// `config images pull` is the only configuration command that needs a node.
fn config(args: &[&OsStr]) -> Call {
    match subcommand(args, flags::BOOLEANS) {
        Some((word, rest)) if word == "images" => only(&rest, &[b"pull"]),
        _ => Call::Info,
    }
}

/// Into the namespace for these subcommands; for others, or none, kubeadm only speaks.
fn only(args: &[&OsStr], subcommands: &[&[u8]]) -> Call {
    match subcommand(args, flags::BOOLEANS) {
        Some((word, _)) if subcommands.contains(&word.as_bytes()) => Call::Pass,
        _ => Call::Info,
    }
}

/// The words of a command line that are neither flags nor their values: `upgrade`, `apply`, `v1.34.4`.
#[must_use]
pub fn words(argv: &[OsString]) -> Vec<&OsStr> {
    let mut rest: Vec<&OsStr> = argv.iter().map(OsString::as_os_str).collect();
    let mut words = Vec::new();
    while let Some((word, others)) = subcommand(&rest, flags::BOOLEANS) {
        words.push(word);
        rest = others;
    }
    words
}

/// A phase of `kubeadm init` that reads the cluster's settings, without a `--config` to have them from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitPhase {
    /// The words, and the flags that kubeadm takes beside a `--config`.
    pub argv: Vec<OsString>,
    /// The flags that have a field in the configuration.
    pub request: request::Init,
}

/// Phases of `kubeadm init` that write what the cluster's settings say.
const SETTING: [&str; 7] =
    ["certs", "kubeconfig", "etcd", "control-plane", "kubelet-start", "upload-config", "addon"];

/// Reads a phase of `kubeadm init`; `None` where its flags are kubeadm's affair: a `--config`, a directory of certificates that is
/// not the cluster's, flags that we do not know.
#[must_use]
pub fn init_phase(argv: &[OsString]) -> Option<InitPhase> {
    let args: Vec<&OsStr> = argv.iter().map(OsString::as_os_str).collect();
    let read = read::flags(&args, flags::INIT_PHASE).ok()?;
    let setting = |word: &OsStr| SETTING.iter().any(|phase| word == *phase);
    match read.words[..] {
        [init, phase, which, ..] if init == "init" && phase == "phase" && setting(which) => {}
        _ => return None,
    }
    let request = flags::init_phase(read.given).ok()?;
    if request.config_file().is_some() {
        return None;
    }
    let words = read.words.iter().map(|word| (*word).to_owned());
    let argv = words.chain(request.pass_flags.iter().map(OsString::from)).collect();
    Some(InitPhase { argv, request: request::Init { config: None, ..request } })
}

/// Whether the next subcommand is `name` and has a subcommand itself.
fn nested(args: &[&OsStr], name: &[u8]) -> bool {
    subcommand(args, flags::BOOLEANS)
        .is_some_and(|(word, rest)| word.as_bytes() == name && subcommand(&rest, flags::BOOLEANS).is_some())
}

/// [`Call::Info`] if help is asked for before a `--`, else `call`.
///
/// A flag's *value* may read `-h` too; both calls then run the same command line at the same place.
fn unless_help(args: &[&OsStr], call: Call) -> Call {
    let mut before = args.iter().take_while(|arg| arg.as_bytes() != b"--");
    let help = before.any(|arg| matches!(arg.as_bytes(), b"-h" | b"--help" | b"--help=true"));
    if help { Call::Info } else { call }
}

/// The first argument that is neither a flag nor a flag's value, and the others.
///
/// `booleans` are the flags that take no value, with dashes; any other flag without `=` swallows the next argument,
/// also if it is unknown: `kubeadm --dry-run init` has no command.
fn subcommand<'a>(args: &[&'a OsStr], booleans: &[&str]) -> Option<(&'a OsStr, Vec<&'a OsStr>)> {
    let mut position = 0;
    while let Some(arg) = args.get(position) {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            return None;
        }
        let flag = bytes.starts_with(b"--") || (bytes.starts_with(b"-") && bytes.len() == 2);
        let valued = flag && !bytes.contains(&b'=') && !booleans.iter().any(|name| name.as_bytes() == bytes);
        if valued {
            position += 1;
        } else if !bytes.is_empty() && !bytes.starts_with(b"-") {
            let rest = args.iter().enumerate().filter(|(at, _)| *at != position).map(|(_, arg)| *arg);
            return Some((arg, rest.collect()));
        }
        position += 1;
    }
    None
}

#[cfg(test)]
mod tests;
