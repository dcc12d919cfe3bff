//! Runs a command in a guest as if it ran here: `vm-exec SOCKET COMMAND...`, SOCKET being the relay's.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use u7s_vm::frame::{Frame, Kind, MOST};

/// As ssh's: it was not the command that failed.
const LOST: u8 = 255;

#[expect(clippy::print_stderr, reason = "a command-line tool")]
fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(socket) = words.next() else {
        eprintln!("usage: vm-exec SOCKET COMMAND...");
        return ExitCode::from(3);
    };
    match run(&socket, &words.collect::<Vec<_>>()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vm-exec: {socket}: {error}");
            ExitCode::from(LOST)
        }
    }
}

fn run(socket: &str, argv: &[String]) -> io::Result<u8> {
    let mut stream = UnixStream::connect(socket)?;
    Frame::new(0, Kind::Run, serde_json::to_vec(argv)?).write(&mut stream)?;
    let mut input = stream.try_clone()?;
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; MOST];
        loop {
            let count = io::stdin().lock().read(&mut buffer)?;
            Frame::new(0, Kind::Input, buffer.get(..count).unwrap_or_default()).write(&mut input)?;
            if count == 0 {
                return Ok(());
            }
        }
    });
    while let Some(frame) = Frame::read(&mut stream)? {
        match frame.kind {
            Kind::Output => print(&mut io::stdout().lock(), &frame.payload)?,
            Kind::Error => print(&mut io::stderr().lock(), &frame.payload)?,
            Kind::Exit => return Ok(String::from_utf8_lossy(&frame.payload).parse().unwrap_or(LOST)),
            _ => {}
        }
    }
    Err(io::Error::other("the machine is gone"))
}

fn print(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
