//! A supervisor that does its worst, and what broke out with it: the executable of the tests itself, started as `u7s-double ROLE`.
//!
//! * `supervisor`: asks systemd for more time without end, ignores every signal that can be ignored, begins the others.
//! * `comet`: leaves its session, and again and again starts itself anew and ends, so that no pid of it stays.
//! * `trap DIR`: a FUSE server of root's that never answers.
//! * `knot DIR`: two FUSE servers in a user namespace that wait for each other. SIGKILL does not end them.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;

/// What the executable is called when it plays one of these.
pub(crate) const NAME: &str = "u7s-double";

/// Plays the role that the command line names, if the executable has the name for it.
pub(crate) fn play() -> Option<ExitCode> {
    let mut arguments = std::env::args();
    let own = PathBuf::from(arguments.next()?);
    if own.file_name()? != NAME {
        return None;
    }
    let role = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let ended = match (role.as_str(), rest.as_slice()) {
        ("supervisor", _) => supervisor(&own),
        ("comet", _) => comet(&own),
        ("knot", [dir]) => knot(&own, Path::new(dir)),
        ("trap", [dir]) => trap(Path::new(dir)),
        ("server", [mine, other]) => server(Path::new(mine), Path::new(other)),
        _ => Err(std::io::Error::other("no such role")),
    };
    Some(if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn supervisor(own: &Path) -> std::io::Result<()> {
    deaf();
    start(own, &["comet"])?;
    if let Some(dir) = std::env::var_os("DOUBLE_KNOT") {
        Command::new(own).arg("knot").arg(dir).stdin(Stdio::null()).spawn()?;
    }
    let name = std::env::var("NOTIFY_SOCKET").map_err(std::io::Error::other)?;
    let address = match name.strip_prefix('@') {
        Some(abstracted) => SocketAddr::from_abstract_name(abstracted)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    loop {
        for text in ["READY=1", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=1000000000000000"] {
            let _ = socket.send_to_addr(text.as_bytes(), &address);
        }
        sleep(Duration::from_millis(100));
    }
}

/// One generation of it.
fn comet(own: &Path) -> std::io::Result<()> {
    deaf();
    let _ = nix::unistd::setsid();
    sleep(Duration::from_millis(20));
    start(own, &["comet"])
}

fn start(own: &Path, arguments: &[&str]) -> std::io::Result<()> {
    let mut command = Command::new(own);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop)
}

/// Every signal waits for ever but SIGKILL and SIGSTOP. A new program begins with none blocked.
fn deaf() {
    let _ = SigSet::all().thread_block();
}

fn knot(own: &Path, dir: &Path) -> std::io::Result<()> {
    deaf();
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let [one, other] = ["one", "other"].map(|name| dir.join(name));
    for point in [&one, &other] {
        std::fs::create_dir_all(point)?;
    }
    // Each must see the other's mount: a mount namespace of both.
    let mut first = Command::new(own).arg("server").args([&one, &other]).spawn()?;
    let error = Command::new(own).arg("server").args([&other, &one]).exec();
    let _ = first.wait();
    Err(error)
}

/// Mounts `mine`, answers the first question only, and asks the other one, which does the same.
fn server(mine: &Path, other: &Path) -> std::io::Result<()> {
    deaf();
    let device = mounted(mine)?;
    std::thread::spawn(move || answer_first(device));
    let text = other.display().to_string();
    while !std::fs::read_to_string("/proc/self/mountinfo")?.contains(&text) {
        sleep(Duration::from_millis(20));
    }
    // The kernel asks only when the other has answered its first question.
    sleep(Duration::from_millis(500));
    let name = CString::new(other.join("never").display().to_string())?;
    let _ = nix::sys::stat::stat(name.as_c_str());
    Ok(())
}

/// Whoever asks this one waits, in state D, until it ends.
fn trap(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    answer_first(mounted(dir)?);
    Ok(())
}

fn mounted(dir: &Path) -> std::io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    mount(Some("double"), dir, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(device)
}

/// Source: linux/fuse.h: FUSE_INIT is 26, version 7.31 answers with 64 bytes.
fn answer_first(mut device: File) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = device.read(&mut request) {
        let word = |at: usize| request.get(at..at + 4).map(|bytes| bytes.to_vec()).unwrap_or_default();
        if length < 56 || word(4) != 26_u32.to_ne_bytes() {
            continue;
        }
        let mut answer = Vec::new();
        answer.extend(80_u32.to_ne_bytes());
        answer.extend(0_i32.to_ne_bytes());
        answer.extend(request.get(8..16).unwrap_or_default());
        answer.extend(7_u32.to_ne_bytes());
        answer.extend(31_u32.to_ne_bytes());
        answer.extend(word(48));
        answer.extend(0_u32.to_ne_bytes());
        answer.extend(12_u16.to_ne_bytes());
        answer.extend(9_u16.to_ne_bytes());
        answer.extend(65_536_u32.to_ne_bytes());
        answer.extend(1_u32.to_ne_bytes());
        answer.resize(80, 0);
        let _ = device.write_all(&answer);
    }
}
