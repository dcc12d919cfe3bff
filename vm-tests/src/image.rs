//! The disk image: Debian with its cloud kernels, the kit's Kubernetes and images, u7s, and the agent of the tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use u7s_harness::Invocation;
use u7s_kit::{Kit, Machine, NODE_BINARIES};

use crate::{Error, cpio};

/// Programs of this machine that the image and the machines are made with, by Debian package.
const PACKAGES: [&str; 3] = ["e2fsprogs", "xz-utils", "util-linux"];
const BAKE: &str = include_str!("bake.sh");
/// A disk that is nearly empty, for the kubelet evicts below 15 % of free space; the file is sparse.
const SIZE: &str = "16G";
/// What of the project goes in beside the programs.
const INSTALLED: [&str; 3] = ["scripts/install", "packaging", "systemd"];
const LIMIT: Duration = Duration::from_secs(600);

/// A disk image and what is needed to boot it; read-only, in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    dir: PathBuf,
    machine: Machine,
    emulator: PathBuf,
    accelerator: &'static str,
}

impl Image {
    /// Makes the image unless the cache has it. `bin_dir` has the programs of u7s, as scripts/build makes them.
    ///
    /// Takes some 40 s, and a cold kit its own time.
    ///
    /// # Errors
    /// No root; the kit cannot be made; a program is not built; a step failed.
    pub fn ensure(bin_dir: &Path, say: u7s_kit::Say<'_>) -> Result<Self, Error> {
        u7s_kit::require_packages(&PACKAGES, say)?;
        let (kit, machine) = (u7s_kit::ensure(say)?, u7s_kit::machine(say)?);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let agent = crate::machine::program("vm-agent");
        let key = key(&kit, &machine, &[bin_dir, &agent], &root)?;
        let cache = cache()?;
        fs::create_dir_all(&cache).map_err(Error::file("making", &cache))?;
        sweep(&machines()?);
        let dir = cache.join(format!("image-{key}"));
        let lock = lock(&cache.join("image.lock"), say)?;
        if !dir.exists() {
            let begin = Instant::now();
            say("vm: make the disk image");
            let part = dir.with_extension("part");
            remove(&part)?;
            build(&part, &kit, &machine, &[&root.join("scripts/install"), bin_dir, &agent])?;
            fs::rename(&part, &dir).map_err(Error::file("renaming", &part))?;
            say(&format!("vm: the disk image is ready after {} s", begin.elapsed().as_secs()));
            drop_old(&cache, &dir);
        }
        drop(lock);
        let emulator = u7s_kit::emulator(say)?;
        let stable = machine.kernels().iter().find(|kernel| kernel.name == "stable");
        let accelerator = accelerator(&emulator, stable.map(|kernel| kernel.vmlinuz()).as_deref());
        Ok(Self { dir, machine, emulator, accelerator })
    }

    /// The disk, a raw file that overlays lie on.
    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// Where things that depend on this image can be kept: they go with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Paths of a kernel and its initrd.
    pub(crate) fn kernel(&self, name: &str) -> (String, String) {
        let found = self.machine.kernels().iter().find(|kernel| kernel.name == name);
        let vmlinuz = found.map(|kernel| kernel.vmlinuz().display().to_string()).unwrap_or_default();
        (vmlinuz, self.dir.join(format!("initrd-{name}")).display().to_string())
    }

    /// The release of a kernel: "6.12.57+deb13-cloud-amd64".
    #[must_use]
    pub fn release(&self, name: &str) -> Option<&str> {
        self.machine.kernels().iter().find(|kernel| kernel.name == name).map(|kernel| kernel.release.as_str())
    }

    /// A program of QEMU.
    pub(crate) fn qemu(&self, name: &str) -> PathBuf {
        self.emulator.join(name)
    }

    /// QEMU's words for how guest code runs.
    pub(crate) fn accelerator(&self) -> &str {
        self.accelerator
    }
}

/// The kernel's hardware virtualisation where a machine runs with it, else emulation.
///
/// A `/dev/kvm` that can be opened proves nothing: some make machines and cannot run an unmodified kernel in them. So
/// one without a disk is booted; it panics for want of a root file system and, told so, ends QEMU.
fn accelerator(emulator: &Path, kernel: Option<&Path>) -> &'static str {
    // Five levels of page tables boot slowly. A start of the control plane alone fills QEMU's own 1 GiB of translated code,
    // and all of it is thrown away then; 2 GiB is the most that its jumps reach.
    const EMULATION: &str = "-accel tcg,thread=multi,tb-size=2047 -cpu max,la57=off,erms=off,fsrm=off";
    const HARDWARE: &str = "-accel kvm -cpu host";
    let (Some(kernel), true) = (kernel, Path::new("/dev/kvm").exists()) else { return EMULATION };
    let [program, kernel] =
        [&emulator.join("qemu-system-x86_64"), kernel].map(|path| path.display().to_string());
    let words =
        format!("-nodefaults -no-user-config -no-reboot -display none -M q35 {HARDWARE} -m 512 -kernel");
    let mut words: Vec<&str> = std::iter::once(&*program).chain(words.split(' ')).collect();
    words.extend([&*kernel, "-append", "panic=-1 root=/dev/none"]);
    let trial = Invocation::new(Vec::new(), &words).within(Duration::from_secs(10)).run();
    if trial.is_ok_and(|output| output.ok()) { HARDWARE } else { EMULATION }
}

fn cache() -> Result<PathBuf, Error> {
    Ok(u7s_kit::cache_dir()?.join("vm"))
}

/// Where machines have their directories.
pub(crate) fn machines() -> Result<PathBuf, Error> {
    Ok(cache()?.join("machines"))
}

/// The start of a directory's name: whose it is, for [`sweep`].
pub(crate) fn run_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Removes directories of machines whose process is gone, unless QEMU still holds their disk.
///
/// Tolerant: another run may do the same.
fn sweep(machines: &Path) {
    for entry in fs::read_dir(machines).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let alive = |pid: &str| Path::new("/proc").join(pid).exists();
        let owned = name.split('-').next().is_some_and(alive);
        if !owned && !is_running(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A kept machine answers on its control socket.
fn is_running(dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(dir.join("qmp")).is_ok()
}

fn remove(dir: &Path) -> Result<(), Error> {
    if dir.exists() { fs::remove_dir_all(dir).map_err(Error::file("removing", dir)) } else { Ok(()) }
}

fn lock(path: &Path, say: u7s_kit::Say<'_>) -> Result<Flock<File>, Error> {
    let file = File::create(path).map_err(Error::file("opening", path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, _)| {
        say("vm: waiting for another run that makes the disk image");
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::file("locking", path)(errno.into()))
    })
}

/// The last image but one stays: another branch of the project may use it.
fn drop_old(cache: &Path, newest: &Path) {
    let age = |path: &PathBuf| {
        fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let is_old = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        path != newest && path.is_dir() && name.starts_with("image-")
    };
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut old: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_old).collect();
    old.sort_by_key(age);
    old.pop();
    for path in old {
        let _ = fs::remove_dir_all(path);
    }
}

/// Hashes everything that decides what is on the disk.
fn key(kit: &Kit, machine: &Machine, built: &[&Path; 2], root: &Path) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for text in [BAKE, SIZE, &machine.key(), include_str!("image.rs"), include_str!("cpio.rs")] {
        hash.update(text);
    }
    hash.update(kit.layout().display().to_string());
    hash.update(kit.cni_dir().display().to_string());
    NODE_BINARIES.iter().filter_map(|name| kit.sha256(name)).for_each(|sum| hash.update(sum));
    let [bin_dir, agent] = built;
    let programs = ["u7s", "kubeadm", "systemctl", "u7s-supervisor", "u7s-crun"];
    let mut files: Vec<PathBuf> = programs.iter().map(|name| bin_dir.join(name)).collect();
    files.push(agent.to_path_buf());
    for name in INSTALLED {
        let path = root.join(name);
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        let mut inside: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        inside.sort();
        files.extend(if path.is_file() { vec![path] } else { inside });
    }
    for file in files {
        hash.update(u7s_kit::sha256_file(&file)?);
    }
    let digest = hash.finalize();
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn run(words: &[&str]) -> Result<(), Error> {
    Ok(Invocation::new(Vec::new(), words).within(LIMIT).ok().map(drop)?)
}

/// `built` are the script that installs u7s, the directory of its programs, and the agent.
fn build(dir: &Path, kit: &Kit, machine: &Machine, built: &[&Path; 3]) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::file("making", dir))?;
    let root = dir.join("root");
    let text = |path: &Path| path.display().to_string();
    let at = |name: &str| text(&root.join(name));
    run(&["cp", "-a", "--reflink=auto", &text(machine.tree()), &text(&root)])?;
    run(&["mkdir", "-p", &at("usr/lib/modules"), &at("opt/cni/bin"), &at("var/lib/u7s/images")])?;
    for kernel in machine.kernels() {
        run(&["cp", "-a", &text(&kernel.modules()), &at("usr/lib/modules")])?;
        let config = at(&format!("boot/config-{}", kernel.release));
        run(&["install", "-D", "-m", "644", &text(&kernel.config()), &config])?;
        cpio::initrd(machine, kernel, &dir.join(format!("initrd-{}", kernel.name)))?;
    }
    for path in NODE_BINARIES.iter().filter_map(|name| kit.binary(name)) {
        run(&["install", "-m", "755", &text(path), &at("usr/bin")])?;
    }
    run(&["cp", "-a", &format!("{}/.", text(kit.cni_dir())), &at("opt/cni/bin")])?;
    run(&["cp", "-a", "--reflink=auto", &text(kit.layout()), &at("var/lib/u7s/images/kit")])?;
    let [install, bin_dir, agent] = built.map(text);
    let bake = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", BAKE, "bake.sh"];
    let root_name = text(&root);
    let words: Vec<&str> = bake.into_iter().chain([&*root_name, &install, &bin_dir, &agent]).collect();
    let baking = Invocation::new(Vec::new(), &words).env("IMAGES", &kit.images().join("\n"));
    baking.within(LIMIT).ok()?;
    let disk = text(&dir.join("disk.raw"));
    run(&[
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "root_owner=0:0",
        "-d",
        &text(&root),
        &disk,
        SIZE,
    ])?;
    remove(&root)
}
