//! The command line of `u7s-supervisor`: two options, read without a library, since every page of the program that
//! starts before all else is paid for.

use std::ffi::OsString;
use std::path::PathBuf;

use u7s_supervisor::Options;

const HELP: &str = "\
Keeps the rootless Kubernetes node of this machine: started by u7s.service, not by hand.

usage: u7s-supervisor [--spec PATH] [--runtime-dir DIR]

  --spec PATH        specification of the node, written by `kubeadm init` (default: /etc/u7s/node.json)
  --runtime-dir DIR  directory of control.sock, private to the node's user (default: /run/u7s)
  -h, --help         this text
  -V, --version      the version

Exit status: 0 ended by SIGTERM, 1 failed, 3 wrong usage.
To look at the node: u7s status; journalctl -u u7s. To start it: systemctl start u7s.
";

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To serve the node.
    Serve(Options),
    /// To print this and end.
    Print(String),
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// What is wrong with them, in words.
pub fn parse(argv: Vec<OsString>) -> Result<Asked, String> {
    let mut options = Options { spec: u7s_plan::node::PATH.into(), runtime_dir: "/run/u7s".into() };
    let mut words = argv.into_iter();
    while let Some(word) = words.next() {
        let (name, joined) = match word.to_str().and_then(|text| text.split_once('=')) {
            Some((name, value)) => (OsString::from(name), Some(OsString::from(value))),
            None => (word, None),
        };
        let mut value = |name: &str| {
            joined
                .clone()
                .or_else(|| words.next())
                .map(PathBuf::from)
                .ok_or_else(|| format!("{name} needs a value"))
        };
        match name.to_str() {
            Some("--spec") => options.spec = value("--spec")?,
            Some("--runtime-dir") => options.runtime_dir = value("--runtime-dir")?,
            Some("-h" | "--help") => return Ok(Asked::Print(HELP.to_owned())),
            Some("-V" | "--version") => {
                return Ok(Asked::Print(format!("u7s-supervisor {}\n", env!("CARGO_PKG_VERSION"))));
            }
            _ => return Err(format!("unknown argument {}", name.to_string_lossy().escape_debug())),
        }
    }
    Ok(Asked::Serve(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Asked, String> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    fn serve(spec: &str, runtime_dir: &str) -> Result<Asked, String> {
        Ok(Asked::Serve(Options { spec: spec.into(), runtime_dir: runtime_dir.into() }))
    }

    #[test]
    fn options_and_their_defaults() {
        assert_eq!(read(""), serve("/etc/u7s/node.json", "/run/u7s"));
        assert_eq!(read("--spec /a --runtime-dir=/b=c"), serve("/a", "/b=c"));
        assert_eq!(read("--spec"), Err("--spec needs a value".to_owned()));
        assert_eq!(read("--specs /a"), Err("unknown argument --specs".to_owned()));
        assert!(matches!(read("--spec /a -h"), Ok(Asked::Print(text)) if text == HELP));
        assert!(matches!(read("--version"), Ok(Asked::Print(text)) if text.starts_with("u7s-supervisor ")));
    }
}
