//! `u7s ports`: which ports of the host lead into the node.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::json;
use u7s_host::control;
use u7s_plan::control::{Port, Request};
use u7s_plan::node::HostPort;

use super::tool::{Format, Output, client};
use crate::{End, Error, report};

/// What is asked about ports.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show all ports, who wants each, and why one is not open.
    List {
        #[command(flatten)]
        output: Format,
    },
    /// Open a port now and at every start of the node.
    #[command(after_help = ADD)]
    Add {
        /// Port of the host, which leads to the same port of the node's address inside.
        #[arg(value_name = PORT)]
        port: HostPort,
    },
    /// Close a port that was added; connections that are open go on.
    Remove {
        /// Port, as it was added.
        #[arg(value_name = PORT)]
        port: HostPort,
    },
}

const PORT: &str = "[ADDRESS:]PORT[/tcp|/udp]";

/// Below the help of the group.
pub(super) const GROUP: &str = "\
Ports that belong to the node by its role (API server, kubelet, flannel) and those of Services are opened and closed by
the node itself. Add a port for what listens inside on the node's address and is none of these, such as a pod with
hostNetwork.

Examples:
  u7s ports list
  u7s ports list -o json
  u7s ports add 8080                       TCP, on the node's address
  u7s ports add 514/udp
  u7s ports add 127.0.0.1:9100             for this host alone
  u7s ports remove 8080";

const ADD: &str = "\
A port that somebody else has is refused with its owner. A port below the host's net.ipv4.ip_unprivileged_port_start is
refused (LowPort), unless network.low_ports in /etc/u7s/config.toml lists it.

Examples:
  u7s ports add 8080
  u7s ports add 127.0.0.1:9100/tcp";

/// Does it.
///
/// # Errors
/// The node does not run, or refuses.
pub(super) fn run(command: Command) -> Result<End, Error> {
    let client = client()?;
    let done = match command {
        Command::List { output } => return list(&client.ports()?, output.output),
        Command::Add { port } => client.done(&Request::PortsAdd { port }),
        Command::Remove { port } => client.done(&Request::PortsRemove { port }),
    };
    match done {
        Ok(()) => Ok(End::OK),
        Err(control::Error::Unmet(need)) => Err(Error::Unmet(vec![*need])),
        Err(error) => Err(error.into()),
    }
}

fn list(ports: &[Port], output: Output) -> Result<End, Error> {
    match output {
        Output::Json => report::json(&format!("{:#}\n", json!({"version": 1, "ports": ports})))?,
        Output::Text => report::result(&table(ports))?,
    }
    Ok(End::OK)
}

fn table(ports: &[Port]) -> String {
    let width = ports.iter().map(|port| port.forward.to_string().len()).max().unwrap_or(0);
    let mut text = String::new();
    for Port { forward, origin, problem } in ports {
        let state = problem.as_ref().map_or_else(|| "open".into(), |problem| format!("not open: {problem}"));
        let _ = writeln!(text, "{:width$}  {:13}  {state}", forward.to_string(), origin.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use u7s_plan::control::Origin;

    use super::*;

    #[test]
    fn the_table_is_aligned_and_says_what_is_not_open() {
        let port = |text: &str, origin, problem: Option<&str>| Port {
            forward: text.parse::<HostPort>().unwrap().on([192, 0, 2, 10].into()),
            origin,
            problem: problem.map(str::to_owned),
        };
        let ports = [
            port("6443", Origin::Node, None),
            port("127.0.0.1:53/udp", Origin::Administrator, Some("LowPort: port 53 is below 1024")),
        ];
        let expected = "\
192.0.2.10:6443/tcp  node           open
127.0.0.1:53/udp     administrator  not open: LowPort: port 53 is below 1024
";
        assert_eq!(table(&ports), expected);
    }
}
