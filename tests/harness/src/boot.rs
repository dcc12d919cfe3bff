//! The life of a node: systemd is started in namespaces of its own, and killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::{Error, Node, Process, keep, names, spawner, until};

const LAUNCH: &str = include_str!("launch.sh");
const BOOT: &str = include_str!("boot.sh");
impl Node {
    /// Starts systemd and waits until it has started everything; gives its state, "running" or "degraded".
    ///
    /// # Errors
    /// [`Error::Deadline`] with the last state and the console's last lines; it is booted already.
    pub fn boot(&mut self, limit: Duration) -> Result<String, Error> {
        self.want_off()?;
        self.cgroup.create()?;
        let mut launcher = self.launch()?;
        let what = format!("pid 1 of node {}", self.name);
        let pid1 = until(limit, &what, || self.find_init(&mut launcher));
        self.launcher = Some(launcher);
        self.pid1 = pid1?;
        self.pid1.ok_or_else(|| self.did_not_start())?;
        if self.stays {
            keep::write_state(self)?;
        }
        let what = format!("node {} to have started its units", self.name);
        until(limit, &what, || self.system_state())
    }

    fn launch(&self) -> Result<Child, Error> {
        let console = self.dir.join("console.log");
        let open = || File::create(&console).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = open().map_err(Error::file("writing", &console))?;
        let netns = self.netns.as_ref().ok_or_else(|| self.wrong("it has no network"))?;
        let mut command = spawner::ending_with_us(!self.stays);
        command.args(netns.enter()).args(["sh", "-c", LAUNCH, "launch.sh"]);
        command
            .arg(self.cgroup.path())
            .arg(BOOT)
            .arg(self.root_dir())
            .arg(&self.name)
            .arg(&console)
            .arg(self.kit.tree());
        command.arg(self.devices.join(" "));
        for (source, target) in self.binds.iter().chain(&machine_binds()) {
            command.arg(source).arg(target);
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let program = format!("node {}", self.name);
        spawner::spawn(command).map_err(|source| Error::Start { program, source })
    }

    /// The child of the launcher that is pid 1 inside and has become systemd; `None` if the launcher has ended.
    fn find_init(&self, launcher: &mut Child) -> Result<Option<i32>, String> {
        if !matches!(launcher.try_wait(), Ok(None)) {
            return Ok(None);
        }
        let parent = i32::try_from(launcher.id()).unwrap_or_default();
        let all = self.cgroup.processes();
        let is_init = |process: &&Process| {
            process.parent == parent && process.pids.get(1) == Some(&1) && process.comm == "systemd"
        };
        all.iter().find(is_init).map(|process| Some(process.pid)).ok_or_else(|| self.console_tail())
    }

    fn did_not_start(&self) -> Error {
        Error::Boot { node: self.name.clone(), console: self.console_tail() }
    }

    fn system_state(&self) -> Result<String, String> {
        let output = self.command(&["systemctl", "is-system-running"]).within(Duration::from_secs(20)).run();
        let state = output.map_err(|error| error.to_string())?.stdout.trim().to_string();
        match state.as_str() {
            "running" | "degraded" => Ok(state),
            _ => Err(format!("{state}\n{}", self.console_tail())),
        }
    }

    fn console_tail(&self) -> String {
        let bytes = fs::read(self.dir.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Kills everything in it at once, as a power cut would; the tree stays and [`Node::boot`] starts it again.
    ///
    /// # Errors
    /// A process did not die within 30 s.
    pub fn power_cut(&mut self) -> Result<(), Error> {
        self.cgroup.destroy()?;
        if let Some(mut launcher) = self.launcher.take() {
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
        // The launcher's own death leaves its child to this machine's pid 1.
        let Some(pid1) = self.pid1.take().and_then(|pid| u32::try_from(pid).ok()) else { return Ok(()) };
        until(Duration::from_secs(10), "pid 1 of the node to be reaped", || names::is_gone(pid1))
    }
}

/// What a node sees of the running kernel's files, where the machine has them.
fn machine_binds() -> Vec<(PathBuf, String)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let config = format!("/boot/config-{}", release.trim());
    let paths = ["/lib/modules".to_string(), config];
    let is_there = |path: &String| Path::new(path).exists();
    paths.into_iter().filter(is_there).map(|path| (PathBuf::from(&path), path)).collect()
}
