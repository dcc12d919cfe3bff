//! One endpoint before several API servers: what an administrator's load balancer does, by socat in a host of the lan.

use std::error::Error;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use u7s_harness::{Client, Lan, Running};

/// The endpoint; it goes with this value.
pub(crate) struct Balancer {
    client: Client,
    _script: tempfile::TempDir,
    _running: Running,
}

impl Balancer {
    /// Each connection goes to the first of these hosts that takes it.
    pub(crate) fn new(lan: &Lan, hosts: &[Ipv4Addr]) -> Result<Self, Box<dyn Error>> {
        let client = lan.client("endpoint")?;
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("one");
        let mut script = String::from("#!/bin/sh\n");
        for host in hosts {
            writeln!(script, "socat STDIO TCP:{host}:6443,connect-timeout=2 2>/dev/null && exit 0")?;
        }
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        let listen = format!("TCP-LISTEN:6443,fork,reuseaddr,bind={}", client.ip());
        let running = client
            .command(&["socat", &listen, &format!("EXEC:{}", path.display())])
            .within(Duration::from_secs(3600))
            .spawn()?;
        Ok(Self { client, _script: directory, _running: running })
    }

    /// `HOST:PORT` for kubeadm.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}:6443", self.client.ip())
    }
}
