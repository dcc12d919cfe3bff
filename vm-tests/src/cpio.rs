//! An initrd: just enough to find the disk. Debian's own takes as long as all the rest of an emulated boot.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;

use u7s_kit::{Kernel, Machine};

use crate::Error;

/// Modules between the kernel and its root file system, in the order in which they are loaded; one that a kernel has
/// built in is not there. The port is here so that the agent can say how far a boot came.
const MODULES: &[&str] = &[
    "kernel/drivers/block/virtio_blk.ko",
    "kernel/drivers/char/virtio_console.ko",
    "kernel/drivers/char/hw_random/virtio-rng.ko",
];

const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod $module; done
tries=0
until /bin/busybox mount -t ext4 /dev/vda /root; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || exec /bin/busybox sh
    /bin/busybox usleep 100000
done
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /usr/lib/systemd/systemd
";

/// Writes the initrd of a kernel.
///
/// # Errors
/// A file cannot be read or written; xz failed.
pub(crate) fn initrd(machine: &Machine, kernel: &Kernel, target: &Path) -> Result<(), Error> {
    let file = File::create(target).map_err(Error::file("writing", target))?;
    let mut archive = Archive { out: BufWriter::new(file), number: 0 };
    let mut add = |name: &str, mode, bytes: &[u8]| {
        archive.add(name, mode, bytes).map_err(Error::file("writing", target))
    };
    for dir in ["bin", "dev", "modules", "root"] {
        add(dir, 0o40_755, &[])?;
    }
    let busybox = machine.tree().join("usr/bin/busybox");
    add("bin/busybox", 0o100_755, &fs::read(&busybox).map_err(Error::file("reading", busybox))?)?;
    add("init", 0o100_755, INIT.as_bytes())?;
    for (number, module) in MODULES.iter().enumerate() {
        let path = kernel.modules().join(format!("{module}.xz"));
        if path.exists() {
            let output = Command::new("xz").arg("-dc").arg(&path).output();
            let bytes = output.map_err(Error::file("unpacking", &path))?.stdout;
            let name = module.rsplit('/').next().unwrap_or(module);
            add(&format!("modules/{number}-{name}"), 0o100_644, &bytes)?;
        }
    }
    archive.finish().map_err(Error::file("writing", target))
}

/// Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, "newc".
struct Archive {
    out: BufWriter<File>,
    number: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: usize, bytes: &[u8]) -> io::Result<()> {
        self.number += 1;
        let links = 1;
        let (size, name_size) = (bytes.len(), name.len() + 1);
        let fields = [self.number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        let head: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        write!(self.out, "070701{head}{name}\0")?;
        self.pad(110 + name_size)?;
        self.out.write_all(bytes)?;
        self.pad(size)
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let padding = written.next_multiple_of(4) - written;
        self.out.write_all(&[0; 4][..padding])
    }

    fn finish(mut self) -> io::Result<()> {
        self.add("TRAILER!!!", 0, &[])?;
        self.out.flush()
    }
}
