//! A namespace prepared for a network driver: what the driver alone takes is measured in it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::Error;

/// The same as what a node prepares: a persistent tap0 that is up, with address and route.
const SCRIPT: &str = "ip link set lo up && ip tuntap add dev tap0 mode tap && ip link set tap0 up mtu 65520 && \
    ip addr add 10.41.0.100/24 dev tap0 && ip route add default via 10.41.0.2 && echo made && exec sleep infinity";

/// The process that holds the namespaces; killed when this is dropped.
pub(crate) struct Tap(Child);

impl Tap {
    pub(crate) fn make(uid: u32) -> Result<Self, Error> {
        let uid = uid.to_string();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--clear-groups",
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
        ]);
        command.args(["sh", "-c", SCRIPT]).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().map_err(Error::program("unshare"))?;
        let mut tap = Self(child);
        let mut line = String::new();
        if let Some(output) = tap.0.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(Error::program("unshare"))?;
        }
        if line == "made\n" {
            return Ok(tap);
        }
        Err(Error::Answer { what: "preparing a tap".into(), text: line })
    }

    /// A pid in the namespaces.
    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
