//! Between a guest's agent and those who have commands for it: `vm-relay DIRECTORY QEMU ARGUMENT...`
//!
//! Starts QEMU, which must make `DIRECTORY/port`, serves `DIRECTORY/exec`, writes the agent's first words to
//! `DIRECTORY/hello`, and ends with QEMU. QEMU is killed when standard input ends, unless "keep" was read before.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_vm::frame::{Frame, Kind};

type Clients = Arc<Mutex<HashMap<u32, UnixStream>>>;

#[expect(clippy::print_stderr, reason = "a command-line tool")]
fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(dir), Some(program)) = (words.next(), words.next()) else {
        eprintln!("usage: vm-relay DIRECTORY QEMU ARGUMENT...");
        return ExitCode::from(3);
    };
    match run(&PathBuf::from(dir), &program, &words.collect::<Vec<_>>()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vm-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, program: &str, arguments: &[String]) -> io::Result<u8> {
    // Bound to this thread, which lives as long as the process.
    let mut qemu = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", program])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()?;
    let pid = Pid::from_raw(i32::try_from(qemu.id()).unwrap_or(i32::MAX));
    thread::spawn(move || {
        let kept = io::stdin().lock().lines().map_while(Result::ok).any(|line| line == "keep");
        if !kept {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let dir = dir.to_path_buf();
    thread::spawn(move || relay(&dir));
    let status = qemu.wait()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
}

#[expect(clippy::print_stderr, reason = "a command-line tool")]
fn relay(dir: &Path) {
    if let Err(error) = serve(dir) {
        eprintln!("vm-relay: {error}");
    }
}

fn serve(dir: &Path) -> io::Result<()> {
    let port = connect(&dir.join("port"))?;
    let listener = UnixListener::bind(dir.join("exec"))?;
    let clients: Clients = Arc::default();
    let to_guest = Arc::new(Mutex::new(port.try_clone()?));
    let (dir, known) = (dir.to_path_buf(), Arc::clone(&clients));
    thread::spawn(move || {
        let end = from_guest(port, &dir, &known);
        lock(&known).clear();
        end
    });
    for (id, client) in (1..).zip(listener.incoming()) {
        let (client, guest, known) = (client?, Arc::clone(&to_guest), Arc::clone(&clients));
        lock(&known).insert(id, client.try_clone()?);
        thread::spawn(move || from_client(id, client, &guest, &known));
    }
    Ok(())
}

/// QEMU makes its socket soon after its start.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Err(error) if begin.elapsed() > Duration::from_secs(30) => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
            Ok(stream) => return Ok(stream),
        }
    }
}

fn from_guest(mut port: UnixStream, dir: &Path, clients: &Clients) -> io::Result<()> {
    while let Some(frame) = Frame::read(&mut port)? {
        if frame.kind == Kind::Hello {
            // What an agent before this one has run has lost its teller.
            lock(clients).clear();
            fs::write(dir.join("hello.new"), &frame.payload)?;
            fs::rename(dir.join("hello.new"), dir.join("hello"))?;
            continue;
        }
        let client = lock(clients).get(&frame.id).map(UnixStream::try_clone);
        if let Some(Ok(mut client)) = client {
            // Who has gone away is noticed by his own thread.
            let _ = frame.write(&mut client);
        }
    }
    Ok(())
}

fn from_client(id: u32, mut client: UnixStream, guest: &Mutex<UnixStream>, clients: &Clients) {
    while let Ok(Some(frame)) = Frame::read(&mut client) {
        if (Frame { id, ..frame }).write(&mut *lock(guest)).is_err() {
            break;
        }
    }
    // Whoever goes away before the end takes the command along.
    let _ = Frame::new(id, Kind::Kill, "").write(&mut *lock(guest));
    lock(clients).remove(&id);
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
