//! One machine: a QEMU over an overlay of the disk image, its agent, its console.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use u7s_harness::{Invocation, Output, Running, until};

use crate::{Error, Image, Qmp, Speed};

/// What can be different about a machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which of Debian's kernels: "stable" or "backports".
    pub kernel: String,
    /// Of the guest, MiB.
    pub memory: u32,
    /// Processors.
    pub processors: u32,
    /// More words for the kernel's command line.
    pub append: String,
    /// What the hardware clock shows at power-on, as `-rtc base=`: "utc" or a date.
    pub clock: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernel: "stable".into(),
            memory: 6144,
            processors: 2,
            append: String::new(),
            clock: "utc".into(),
        }
    }
}

/// A machine; dropped, its QEMU is killed and its directory removed, unless it was told to stay.
#[derive(Debug)]
pub struct Vm {
    name: String,
    dir: PathBuf,
    image: Image,
    relay: Option<Child>,
    speed: Speed,
    stays: bool,
    /// What the next boot is made with.
    pub options: Options,
}

impl Vm {
    /// A machine that is off, its disk an overlay over the image's.
    ///
    /// # Errors
    /// The directory or the overlay cannot be made.
    pub fn new(image: &Image, name: &str) -> Result<Self, Error> {
        Self::over(image, name, &image.disk())
    }

    /// The same over the disk of another machine, see [`save`](Self::save).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn over(image: &Image, name: &str, disk: &Path) -> Result<Self, Error> {
        let dir = crate::image::machines()?.join(format!("{}-{name}", crate::image::run_name()));
        fs::create_dir_all(&dir).map_err(Error::file("making", &dir))?;
        let machine = Self {
            name: name.into(),
            dir,
            image: image.clone(),
            relay: None,
            speed: Speed::default(),
            stays: false,
            options: Options::default(),
        };
        machine.overlay(disk)?;
        Ok(machine)
    }

    fn overlay(&self, below: &Path) -> Result<(), Error> {
        let is_raw = below.extension().is_some_and(|extension| extension == "raw");
        let format = if is_raw { "raw" } else { "qcow2" };
        let [img, below, target] =
            [&self.image.qemu("qemu-img"), below, &self.disk()].map(|path| path.display().to_string());
        let words = [&*img, "create", "-q", "-f", "qcow2", "-F", format, "-b", &below, &target];
        Invocation::new(Vec::new(), &words).ok()?;
        Ok(())
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory with its disk, console and sockets.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How slow it is, as measured at its last boot.
    #[must_use]
    pub fn speed(&self) -> Speed {
        self.speed
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// All that the machine said on its serial line since it was made.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Where [`vm-exec`](Self::command) finds it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("exec")
    }

    /// Starts it and waits until its agent speaks; gives the time that took.
    ///
    /// # Errors
    /// It runs already; QEMU ended; no word within two minutes (times the slowness of emulation).
    pub fn boot(&mut self) -> Result<Duration, Error> {
        self.start()?;
        self.wait_boot()
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.relay.is_some() {
            return Err(self.wrong("it runs already"));
        }
        for name in ["port", "exec", "hello", "qmp"] {
            let path = self.dir.join(name);
            if path.exists() {
                fs::remove_file(&path).map_err(Error::file("removing", path))?;
            }
        }
        let log = self.dir.join("qemu.log");
        let open = || fs::File::options().create(true).append(true).open(&log);
        let output = open().and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) = output.map_err(Error::file("writing", &log))?;
        let relay = program("vm-relay");
        let mut command = Command::new(&relay);
        command.arg(&self.dir).arg(self.image.qemu("qemu-system-x86_64")).args(self.arguments());
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        self.relay = Some(command.spawn().map_err(Error::file("starting", relay))?);
        Ok(())
    }

    /// Waits until the agent of a started machine speaks.
    ///
    /// # Errors
    /// As [`boot`](Self::boot).
    pub fn wait_boot(&mut self) -> Result<Duration, Error> {
        let begin = Instant::now();
        let path = self.dir.join("hello");
        let limit = Speed::default().scale(Duration::from_secs(20));
        while !path.exists() {
            if let Some(status) = self.ended() {
                return Err(self.ended_with(status));
            }
            if begin.elapsed() > limit {
                let what = "no word of its agent within five minutes";
                return Err(Error::State { name: format!("{}; {}", self.name, self.tail()), what });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = fs::read_to_string(&path).map_err(Error::file("reading", &path))?;
        let hello: Value =
            serde_json::from_str(&text).map_err(|_| Error::Answer { what: "the agent", text })?;
        self.speed = Speed::from_hello(&hello);
        Ok(begin.elapsed())
    }

    fn arguments(&self) -> Vec<String> {
        let options = &self.options;
        let path = |name: &str| self.dir.join(name).display().to_string();
        let accelerator = self.image.accelerator();
        let words = [
            format!("-nodefaults -no-user-config -no-reboot -display none -M q35 {accelerator}"),
            format!("-smp {} -m {}M -rtc base={}", options.processors, options.memory, options.clock),
            format!("-drive file={},if=virtio,format=qcow2,cache=unsafe,discard=unmap", path("disk.qcow2")),
            "-netdev user,id=net -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci".into(),
            format!(
                "-chardev file,id=console,path={},append=on -serial chardev:console",
                path("console.log")
            ),
            format!("-chardev socket,id=agent,path={},server=on,wait=off", path("port")),
            "-device virtio-serial-pci -device virtserialport,chardev=agent,nr=1,name=agent".into(),
            format!("-qmp unix:{},server=on,wait=off", path("qmp")),
        ];
        let mut all: Vec<String> = words.iter().flat_map(|line| line.split(' ')).map(String::from).collect();
        let (kernel, initrd) = self.image.kernel(&options.kernel);
        // Each timer that is programmed and each page that is cleared costs an emulated machine dearly.
        let append = format!(
            "console=ttyS0 root=/dev/vda rw quiet panic=5 mitigations=off highres=off nohz=off init_on_alloc=0 systemd.show_status=0 {}",
            options.append
        );
        let boot = ["-kernel".into(), kernel, "-initrd".into(), initrd, "-append".into(), append];
        all.extend(boot);
        all
    }

    /// A command in the guest, as root; see [`Invocation`] for users, input and deadlines.
    ///
    /// Its deadline is a minute times the machine's slowness.
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> Invocation {
        let exec = [program("vm-exec"), self.socket()].map(|path| path.display().to_string());
        Invocation::new(exec.to_vec(), argv).within(self.speed.scale(Duration::from_secs(20)))
    }

    /// Runs a command to its end, whatever its status.
    ///
    /// # Errors
    /// As [`Invocation::run`].
    pub fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output, Error> {
        Ok(self.command(argv).run()?)
    }

    /// Runs a command that must succeed; gives what it printed.
    ///
    /// # Errors
    /// As [`Invocation::ok`].
    pub fn ok<S: AsRef<str>>(&self, argv: &[S]) -> Result<String, Error> {
        Ok(self.command(argv).ok()?)
    }

    /// Runs a script of sh that must succeed; gives what it printed.
    ///
    /// # Errors
    /// As [`Invocation::ok`].
    pub fn sh(&self, script: &str) -> Result<String, Error> {
        self.ok(&["sh", "-euc", script])
    }

    /// Starts a command and does not wait for it.
    ///
    /// # Errors
    /// As [`Invocation::spawn`].
    pub fn spawn<S: AsRef<str>>(&self, argv: &[S]) -> Result<Running, Error> {
        Ok(self.command(argv).spawn()?)
    }

    /// Waits until `look` gives `Ok`, at most `limit` times the machine's slowness. Pauses for twice as long as a look took,
    /// 10 s at most: on an emulated machine, looks alone would keep a processor from what is waited for.
    ///
    /// # Errors
    /// A deadline, with the last `Err` of `look`.
    pub fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> Result<T, Error> {
        let what = format!("{what} (machine {})", self.name);
        let longest = Duration::from_secs(10);
        let patient = || {
            let began = Instant::now();
            look(self).inspect_err(|_| std::thread::sleep((began.elapsed() * 2).min(longest)))
        };
        Ok(until(self.speed.scale(limit), &what, patient)?)
    }

    /// The content of a file of the guest.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        self.ok(&["cat", "--", path])
    }

    /// Writes a file of the guest (0644 if it is new) and makes its parents.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let script = "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"";
        Ok(self.command(&["sh", "-c", script, path]).input(content.as_ref()).ok().map(drop)?)
    }

    /// Copies a file of this machine into the guest, with its mode.
    ///
    /// # Errors
    /// It cannot be read, or not be written.
    pub fn copy_in(&self, source: &Path, target: &str) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let meta = fs::metadata(source).map_err(Error::file("reading", source))?;
        let bytes = fs::read(source).map_err(Error::file("reading", source))?;
        // A running program is replaced, not written to.
        self.write(&format!("{target}.new"), bytes)?;
        let mode = format!("{:o}", meta.permissions().mode() & 0o7777);
        self.sh(&format!("chmod {mode} '{target}.new'; mv '{target}.new' '{target}'")).map(drop)
    }

    /// Copies a file of the guest, which is text, to this machine.
    ///
    /// # Errors
    /// It cannot be read, or not be written.
    pub fn copy_out(&self, source: &str, target: &Path) -> Result<(), Error> {
        fs::write(target, self.read(source)?).map_err(Error::file("writing", target))
    }

    /// QEMU's control socket.
    ///
    /// # Errors
    /// It does not run.
    pub fn qmp(&self) -> Result<Qmp, Error> {
        Qmp::connect(&self.dir.join("qmp"))
    }

    /// Cuts the power: what the guest has not written to its disk is lost.
    ///
    /// # Errors
    /// It does not run.
    pub fn power_cut(&mut self) -> Result<(), Error> {
        // The answer may be lost with QEMU.
        let _ = self.qmp()?.execute("quit", &json!({}));
        self.wait_off(Duration::from_secs(60))
    }

    /// `systemctl reboot`, until the agent speaks again; gives (time to be off, time to be on again).
    ///
    /// # Errors
    /// It does not go down within three minutes (times its slowness, at most a quarter of an hour), or not come up.
    pub fn reboot(&mut self) -> Result<(Duration, Duration), Error> {
        let begin = Instant::now();
        // The agent may be stopped before it can tell how that ended.
        let _ = self.exec(&["systemctl", "reboot"]);
        self.wait_off(self.speed.scale(Duration::from_secs(90)))?;
        let off = begin.elapsed();
        Ok((off, self.boot()?))
    }

    /// Waits until the machine is off.
    ///
    /// # Errors
    /// It is still on at the deadline.
    pub fn wait_off(&mut self, limit: Duration) -> Result<(), Error> {
        let begin = Instant::now();
        while self.relay.is_some() && self.ended().is_none() {
            if begin.elapsed() > limit {
                return Err(self.wrong("it does not go off"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.relay = None;
        Ok(())
    }

    /// How QEMU ended, if it has.
    fn ended(&mut self) -> Option<String> {
        let status = self.relay.as_mut()?.try_wait().ok()??;
        Some(status.to_string())
    }

    /// Copies the disk of a machine that is off to a file over which others can be made; a file there is replaced.
    ///
    /// # Errors
    /// It is on; the copy cannot be made.
    pub fn save(&self, target: &Path) -> Result<(), Error> {
        if self.relay.is_some() {
            return Err(self.wrong("it is on, its disk cannot be saved"));
        }
        fs::copy(self.disk(), target).map(drop).map_err(Error::file("writing", target))
    }

    /// Leaves it as it is when this value and this process are gone; a running one goes on running.
    pub fn keep(&mut self) {
        self.stays = true;
        if let Some(stdin) = self.relay.as_mut().and_then(|relay| relay.stdin.as_mut()) {
            let _ = stdin.write_all(b"keep\n");
        }
    }

    /// What to type to run a command in it.
    #[must_use]
    pub fn exec_line(&self, command: &str) -> String {
        format!("{} {} {command}", program("vm-exec").display(), self.socket().display())
    }

    fn tail(&self) -> String {
        let last = |name: &str| {
            let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        };
        format!("{}\n{}", last("console.log"), last("qemu.log"))
    }

    fn ended_with(&mut self, status: String) -> Error {
        self.relay = None;
        Error::Ended { name: self.name.clone(), status, console: self.console(), tail: self.tail() }
    }

    fn wrong(&self, what: &'static str) -> Error {
        Error::State { name: self.name.clone(), what }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Some(mut relay) = self.relay.take() {
            // The end of its input tells it to kill QEMU.
            drop(relay.stdin.take());
            let _ = relay.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where the programs of this crate are: beside the one that runs, or a level above a test's.
pub(crate) fn program(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap_or_default();
    let dirs = me.ancestors().skip(1).take(2);
    dirs.map(|dir| dir.join(name)).find(|path| path.exists()).unwrap_or_else(|| name.into())
}
