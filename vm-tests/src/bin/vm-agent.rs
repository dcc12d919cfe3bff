//! In the guest: runs what comes by the virtio port, any number of commands at a time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use u7s_vm::frame::{Frame, Kind, MOST};

/// How the names of virtio ports begin; there is one.
const PORT: &str = "vport";

/// The agent itself is not for the OOM killer; what it runs is as anything else.
const ORDINARY: &str = "echo 0 >/proc/self/oom_score_adj; exec \"$@\"";

type Port = Arc<Mutex<File>>;

/// A command that runs.
struct Job {
    group: Pid,
    input: Option<Sender<Vec<u8>>>,
}

fn main() -> io::Result<()> {
    let port = open()?;
    let writer: Port = Arc::new(Mutex::new(port.try_clone()?));
    say(&writer, &Frame::new(0, Kind::Hello, hello()));
    let jobs: Arc<Mutex<HashMap<u32, Job>>> = Arc::default();
    let mut reader = Patient(port);
    while let Some(frame) = Frame::read(&mut reader)? {
        let mut held = jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match (frame.kind, held.get_mut(&frame.id)) {
            (Kind::Run, _) => {
                if let Some(job) = start(&frame, &writer, &jobs) {
                    held.insert(frame.id, job);
                }
            }
            (Kind::Input, Some(job)) if frame.payload.is_empty() => job.input = None,
            (Kind::Input, Some(job)) => {
                if let Some(input) = &job.input {
                    // A command that does not read its input is no error of ours.
                    let _ = input.send(frame.payload);
                }
            }
            (Kind::Kill, Some(job)) => {
                let _ = killpg(job.group, Signal::SIGKILL);
            }
            _ => {}
        }
    }
    Ok(())
}

/// A read gives nothing while nobody holds the other end: that is not the end.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => thread::sleep(Duration::from_millis(50)),
                other => return other,
            }
        }
    }
}

/// The port's driver may come a moment later than this.
fn open() -> io::Result<File> {
    let begin = Instant::now();
    loop {
        let entries = fs::read_dir("/dev")?.flatten();
        let is_port = |name: &OsString| name.to_string_lossy().starts_with(PORT);
        let name = entries.map(|entry| entry.file_name()).find(is_port).unwrap_or_else(|| PORT.into());
        match OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(name)) {
            Err(error) if begin.elapsed() > Duration::from_secs(120) => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
            Ok(port) => return Ok(port),
        }
    }
}

/// Which boot this is, and what this machine needs for work that takes others a known time.
fn hello() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let begin = Instant::now();
    for _ in 0..20 {
        let _ = Command::new("/bin/true").status();
    }
    let spawn = begin.elapsed().as_micros() / 20;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let words = [boot.trim(), release.trim(), uptime.split(' ').next().unwrap_or("")];
    let [boot, release, uptime] = words;
    format!(r#"{{"boot":"{boot}","release":"{release}","uptime":"{uptime}","spawn_us":{spawn}}}"#)
}

fn say(port: &Port, frame: &Frame) {
    let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
    // Nothing can be told to nobody.
    let _ = frame.write(&mut *port);
}

fn start(frame: &Frame, port: &Port, jobs: &Arc<Mutex<HashMap<u32, Job>>>) -> Option<Job> {
    let id = frame.id;
    let argv: Vec<String> = serde_json::from_slice(&frame.payload).unwrap_or_default();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", ORDINARY, "sh"]).args(&argv).process_group(0).current_dir(Path::new("/root"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            say(port, &Frame::new(id, Kind::Error, format!("vm-agent: {error}\n")));
            say(port, &Frame::new(id, Kind::Exit, "127"));
            return None;
        }
    };
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let (sender, input) = mpsc::channel::<Vec<u8>>();
    if let Some(mut stdin) = child.stdin.take() {
        thread::spawn(move || input.into_iter().try_for_each(|bytes| stdin.write_all(&bytes)));
    }
    let (port, jobs) = (Arc::clone(port), Arc::clone(jobs));
    thread::spawn(move || {
        attend(id, child, &port);
        jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    });
    Some(Job { group, input: Some(sender) })
}

/// Tells what a command prints and how it ends.
fn attend(id: u32, mut child: Child, port: &Port) {
    let pump = |kind, stream: Option<Box<dyn Read + Send>>| {
        let port = Arc::clone(port);
        thread::spawn(move || {
            let Some(mut stream) = stream else { return };
            let mut buffer = vec![0; MOST];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                say(&port, &Frame::new(id, kind, buffer.get(..count).unwrap_or_default()));
            }
        })
    };
    let output = pump(Kind::Output, child.stdout.take().map(|stream| Box::new(stream) as _));
    let errors = pump(Kind::Error, child.stderr.take().map(|stream| Box::new(stream) as _));
    let status = child.wait();
    // What it left behind may hold the pipes open: its words are not the command's.
    let grace = Instant::now() + Duration::from_secs(2);
    while !(output.is_finished() && errors.is_finished()) && Instant::now() < grace {
        thread::sleep(Duration::from_millis(2));
    }
    let code =
        status.map_or(127, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
    say(port, &Frame::new(id, Kind::Exit, code.to_string()));
}
