//! QEMU's own control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Error;

const LIMIT: Duration = Duration::from_secs(30);

/// A connection to a QEMU's control socket. Source: QEMU, docs/interop/qmp-spec.
#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves the negotiation behind.
    ///
    /// # Errors
    /// Nobody answers there, or not as QEMU does.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path).map_err(Error::file("connecting to", path))?;
        stream.set_read_timeout(Some(LIMIT)).map_err(Error::file("setting a deadline of", path))?;
        let mut qmp = Self { lines: BufReader::new(stream) };
        qmp.read()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command of the protocol; gives what it returned.
    ///
    /// # Errors
    /// QEMU refuses, or is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        let sent = self.lines.get_mut().write_all(line.as_bytes());
        sent.map_err(Error::file("writing to", "QMP"))?;
        loop {
            let answer = self.read()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if answer.get("error").is_some() {
                return Err(Error::Answer { what: "QMP", text: answer.to_string() });
            }
            // Events come in between.
        }
    }

    fn read(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).map_err(Error::file("reading from", "QMP"))?;
        let value = serde_json::from_str(&line).ok().filter(|_| count > 0);
        value.ok_or(Error::Answer { what: "QMP", text: line })
    }
}
