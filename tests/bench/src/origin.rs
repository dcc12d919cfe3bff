//! Where and when something was measured, with what, and how quiet the machine was.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Error, Settings, Summary};

/// How often a program that does nothing is started before and after a section.
const PROBES: usize = 100;

/// Origin of one section's numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// Date and time of the beginning, UTC.
    pub date: String,
    /// The numbers mean nothing.
    pub quick: bool,
    /// Name and value: machine, kernel, versions of what is compared.
    pub facts: Vec<(String, String)>,
    /// Load average over a minute, before and after.
    pub load: Vec<String>,
    /// How long it took to start and reap a program that does nothing, ms.
    pub probes: Vec<f64>,
    /// How many processors were busy during a second in which the benchmark did nothing, before and after.
    #[serde(default)]
    pub busy: Vec<f64>,
    /// Part of all processors' time in which the section wanted one and the hypervisor ran somebody else.
    #[serde(default)]
    pub stolen: Option<f64>,
    #[serde(skip)]
    pub(crate) began: Ticks,
}

impl Origin {
    pub(crate) fn begin(settings: &Settings) -> Result<Self, Error> {
        let mut origin = Self {
            date: said("date", &["-u", "+%F %H:%M"]),
            quick: settings.quick,
            facts: facts()?,
            ..Self::default()
        };
        origin.look()?;
        origin.began = Ticks::now();
        Ok(origin)
    }

    pub(crate) fn end(mut self) -> Result<Self, Error> {
        self.stolen = Some(Ticks::now().since(self.began).stolen());
        self.look()?;
        Ok(self)
    }

    fn look(&mut self) -> Result<(), Error> {
        self.load.push(first_word("/proc/loadavg"));
        self.busy.push(busy(Duration::from_millis(if self.quick { 100 } else { 1000 })));
        for _ in 0..if self.quick { PROBES / 10 } else { PROBES } {
            let began = Instant::now();
            let mut probe = Command::new("/bin/true");
            probe.stdin(Stdio::null()).status().map_err(Error::program("/bin/true"))?;
            self.probes.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(())
    }

    /// Time of a program that does nothing, ms.
    #[must_use]
    pub fn noise(&self) -> Summary {
        Summary::of(self.probes.iter().copied())
    }
}

fn facts() -> Result<Vec<(String, String)>, Error> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = field(&cpuinfo, "model name").unwrap_or_default();
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory =
        field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal").unwrap_or_default();
    let kibibytes: u64 = memory.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).display().to_string();
    let mut facts = vec![
        ("CPU".to_owned(), format!("{cores} × {cpu}")),
        ("memory".to_owned(), format!("{} MiB", kibibytes / 1024)),
        ("kernel".to_owned(), said("uname", &["-sr"])),
        ("u7s".to_owned(), said("git", &["-C", &source, "describe", "--always", "--dirty", "--abbrev=10"])),
    ];
    let kit = u7s_kit::ensure(&|_| ())?;
    for (name, module) in [
        ("kubeadm, kubelet", "k8s.io/kubernetes"),
        ("CRI-O", "github.com/cri-o/cri-o"),
        ("RootlessKit", ROOTLESSKIT),
    ] {
        facts.extend(u7s_kit::version_of(module).map(|version| (name.to_owned(), version.to_owned())));
    }
    for package in ["slirp4netns", "crun", "systemd"] {
        facts.extend(kit.package(package).map(|version| (format!("{package} (Debian)"), version)));
    }
    Ok(facts)
}

const ROOTLESSKIT: &str = "github.com/rootless-containers/rootlesskit/v3";

/// Source: proc_cpuinfo(5), proc_meminfo(5): name, colon, value.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Processors that others keep busy: 1.0 is one of them.
fn busy(time: Duration) -> f64 {
    let (began, before) = (Instant::now(), Ticks::now());
    std::thread::sleep(time);
    Ticks::now().since(before).busy as f64 / Ticks::A_SECOND / began.elapsed().as_secs_f64()
}

/// Times of all processors together since boot.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Ticks {
    /// Not idle.
    busy: u64,
    /// Of these: wanted, but the hypervisor ran somebody else.
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// USER_HZ.
    const A_SECOND: f64 = 100.0;

    fn now() -> Self {
        Self::of(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// Source: proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; what guests of this machine used is in user.
    fn of(stat: &str) -> Self {
        let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
        let times: Vec<u64> = times.map(|word| word.parse().unwrap_or(0)).collect();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        let all: u64 = times.iter().sum();
        Self { busy: all - idle, stolen: times.get(7).copied().unwrap_or(0), all }
    }

    fn since(self, before: Self) -> Self {
        let of = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            busy: of(self.busy, before.busy),
            stolen: of(self.stolen, before.stolen),
            all: of(self.all, before.all),
        }
    }

    fn stolen(self) -> f64 {
        self.stolen as f64 / self.all.max(1) as f64
    }
}

fn first_word(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What a program says; nothing if it cannot: a fact that is not known does not stop a run.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_processors_are_not_busy() {
        let ticks = Ticks::of("cpu  10 1 20 5000 300 0 4 2 7 7\ncpu0 1 1 1 1");
        assert_eq!(ticks, Ticks { busy: 37, stolen: 2, all: 5337 });
    }

    #[test]
    fn fields_of_proc() {
        assert_eq!(field("a\t: 1\nmodel name\t: X 2\n", "model name").as_deref(), Some("X 2"));
        assert_eq!(field("MemTotal:  9 kB\n", "MemTotal").as_deref(), Some("9 kB"));
    }
}
