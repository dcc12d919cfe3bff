//! A file system of the node's user whose server reads every question and answers none but the first.
//!
//! Source: fuse(4); include/uapi/linux/fuse.h.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::node::Node;
use crate::{Check, holds};

/// The word that makes this program the server: `fuse-server DEVICE DIRECTORY`.
const SERVER: &str = "fuse-server";

/// `FUSE_INIT`, and the length of what every question begins with.
const INIT: u32 = 26;
const HEAD: usize = 40;

/// A copy of this program and a device that the node's user may use, in a directory that he may pass.
pub(crate) struct Kit {
    pub(crate) dir: tempfile::TempDir,
}

impl Kit {
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let kit = Self { dir };
        fs::copy(std::env::current_exe()?, kit.program())?;
        // The machine's own may be root's alone.
        let device = makedev(10, 229);
        mknod(&kit.at("fuse"), SFlag::S_IFCHR, Mode::empty(), device)?;
        fs::set_permissions(kit.at("fuse"), Permissions::from_mode(0o666))?;
        fs::create_dir(kit.at("point"))?;
        Ok(kit)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// This program, where the node's user may run it.
    pub(crate) fn program(&self) -> PathBuf {
        self.at("program")
    }

    /// The server over a directory of the node.
    pub(crate) fn serve(&self, node: &Node, point: &Path) -> Result<Server, Box<dyn std::error::Error>> {
        let words = self.words(point);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Server::start(node.driver(&words)?)
    }

    /// The command line of the server.
    pub(crate) fn words(&self, point: &Path) -> [String; 4] {
        let path = |path: &Path| path.display().to_string();
        [path(&self.program()), SERVER.into(), path(&self.at("fuse")), path(point)]
    }
}

/// A server; killed when dropped, which frees whoever waits for it.
pub(crate) struct Server {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Starts it and waits until its file system is mounted.
    pub(crate) fn start(mut command: Command) -> Result<Self, Box<dyn std::error::Error>> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let said = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut server = Self { child, said };
        server.says("mounted")?;
        // The kernel's own first question.
        server.says("asked 26")?;
        Ok(server)
    }

    /// Waits until somebody asks something.
    pub(crate) fn is_asked(&mut self) -> Check {
        self.says("asked")
    }

    fn says(&mut self, word: &str) -> Check {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        holds(line.starts_with(word), format!("the server said {line:?}, not {word}"))
    }

    pub(crate) fn end(mut self) -> Check {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves if this process was started to.
pub(crate) fn run() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    (words.next()? == SERVER).then_some(())?;
    let (device, point) = (words.next()?, words.next()?);
    Some(match serve(Path::new(&device), Path::new(&point)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            u7s::report::line(&format!("fuse: {error}"));
            ExitCode::FAILURE
        }
    })
}

fn serve(device: &Path, point: &Path) -> std::io::Result<()> {
    let mut device = File::options().read(true).write(true).open(device)?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    mount(Some("trap"), point, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
    let mut out = std::io::stdout();
    writeln!(out, "mounted")?;
    let mut question = vec![0; 1 << 20];
    loop {
        let length = device.read(&mut question)?;
        let word = |at: usize| question.get(at..at + 4).and_then(|four| four.try_into().ok());
        let code = word(4).map_or(0, u32::from_ne_bytes);
        if code == INIT && length >= HEAD {
            device.write_all(&answer(question.get(8..16).unwrap_or_default()))?;
        }
        writeln!(out, "asked {code}")?;
    }
}

/// `fuse_out_header` and `fuse_init_out` of version 7.31.
fn answer(unique: &[u8]) -> Vec<u8> {
    const BODY: [u32; 16] = [7, 31, 0, 0, 12 | (9 << 16), 65536, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = Vec::new();
    bytes.extend(80_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(unique);
    BODY.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    bytes
}
