//! `u7s-node`: nested nodes by hand, for `scripts/try` and for looking around.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use u7s_harness::{Error, Lan, Node, close_kept, kept, open_kept};

const HELP: &str = "\
u7s-node: throw-away nodes beside this system, with real Kubernetes from the kit

usage: u7s-node up NAME [--u7s DIR]     make and boot a node; with --u7s, install u7s from the programs in DIR
       u7s-node up NAME --rootful DIR   with CRI-O and kubelet as root and a bridge network; DIR holds u7s-crun
       u7s-node exec NAME [-- COMMAND]  run a command in it, by default a shell
       u7s-node down NAME               kill and remove it
       u7s-node list                    names of the nodes that there are

Nodes are on a network of their own (10.77.0.0/24, no way out) and see each other.
Needs root. Nothing outside the nodes is changed; their trees are in the cache ($XDG_CACHE_HOME/u7s/nodes).
";
const BOOT: Duration = Duration::from_secs(120);

enum Request {
    Help,
    Up { name: String, kind: Kind },
    Exec { name: String, argv: Vec<String> },
    Down { name: String },
    List,
}

/// What is installed in a new node.
enum Kind {
    Plain,
    Rootless(PathBuf),
    Rootful(PathBuf),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(request) = parse(&args) else {
        say("u7s-node: this is not understood; see u7s-node --help");
        return ExitCode::from(3);
    };
    match act(request) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("u7s-node: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Option<Request> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let owned = |name: &&str| (*name).to_string();
    match &words[..] {
        ["--help" | "-h"] | [] => Some(Request::Help),
        ["up", name] => Some(Request::Up { name: owned(name), kind: Kind::Plain }),
        ["up", name, "--u7s", dir] => {
            Some(Request::Up { name: owned(name), kind: Kind::Rootless(dir.into()) })
        }
        ["up", name, "--rootful", dir] => {
            Some(Request::Up { name: owned(name), kind: Kind::Rootful(dir.into()) })
        }
        ["exec", name] | ["exec", name, "--"] => {
            Some(Request::Exec { name: owned(name), argv: vec!["bash".into(), "-l".into()] })
        }
        ["exec", name, "--", argv @ ..] => {
            Some(Request::Exec { name: owned(name), argv: argv.iter().map(owned).collect() })
        }
        ["down", name] => Some(Request::Down { name: owned(name) }),
        ["list"] => Some(Request::List),
        _ => None,
    }
}

fn act(request: Request) -> Result<(), Error> {
    match request {
        Request::Help => print(HELP),
        Request::Up { name, kind } => up(&name, &kind)?,
        Request::Exec { name, argv } => enter(&name, &argv)?,
        Request::Down { name } => close_kept(&name)?,
        Request::List => kept()?.iter().for_each(|name| print(&format!("{name}\n"))),
    }
    Ok(())
}

fn up(name: &str, kind: &Kind) -> Result<(), Error> {
    let lan = Lan::kept()?;
    let mut node = lan.node(name)?;
    let done = start(&mut node, kind);
    // Others may use the lan from here on.
    drop(lan);
    if done.is_err() {
        // A node that is half made is of no use to anybody; the first error is the one to show.
        let _ = close_kept(name);
    }
    done
}

fn start(node: &mut Node, kind: &Kind) -> Result<(), Error> {
    node.install_kit(&[])?;
    let state = node.boot(BOOT)?;
    match kind {
        Kind::Plain => {}
        Kind::Rootless(dir) => node.install_u7s(dir)?,
        Kind::Rootful(dir) => {
            node.install_rootful(dir)?;
            // A range by the last byte of the address: nodes of one cluster do not clash.
            node.bridge_network(&format!("10.244.{}.0/24", node.ip().octets()[3]))?;
            let init = node.rootful_init("")?.command_line();
            let from = init.iter().position(|word| word == "kubeadm").unwrap_or_default();
            say(&format!("to make a cluster of it: {}", init[from..].join(" ")));
        }
    }
    say(&format!("node {} at {} is {state}", node.name(), node.ip()));
    Ok(())
}

/// Becomes the command: its terminal, streams and status are its own.
fn enter(name: &str, argv: &[String]) -> Result<(), Error> {
    let node = open_kept(name)?;
    let mut words = node.command(argv).command_line().into_iter();
    let program = words.next().unwrap_or_default();
    let source = Command::new(&program).args(words).exec();
    Err(Error::Start { program, source })
}

#[expect(clippy::print_stdout, reason = "results of a command-line tool")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "messages of a command-line tool")]
fn say(line: &str) {
    eprintln!("{line}");
}
