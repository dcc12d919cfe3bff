//! Debian's QEMU, the same on every machine: that of bookworm emulates wrongly what a kernel does while it boots.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::Error;
use crate::store::{Job, Store};
use crate::tree::SUITE;
use crate::unstable::{apt, apt_with};

const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];
/// Raise it when this file makes something else of the same inputs.
const REVISION: &str = "emulator 1";
const LIMIT: Duration = Duration::from_secs(600);

/// Gives a directory with `qemu-system-x86_64` and `qemu-img`, which run with libraries and firmware of their own.
///
/// It is what Debian had when the cache entry was made: remove the entry to have today's.
pub(crate) fn ensure(store: &Store<'_>) -> Result<PathBuf, Error> {
    let names = PACKAGES.join(" ");
    Ok(store.entry("qemu", &[REVISION, SUITE, &names].map(str::as_bytes), build)?.join("bin"))
}

fn build(job: &Job<'_>) -> Result<(), Error> {
    let own = job.dir.join("apt");
    apt_with(job, &own, SUITE)?;
    let mut download = apt(&own, "apt-get");
    // An empty status: everything down to the C library.
    download.args(["-y", "--no-install-recommends", "--download-only", "install"]).args(PACKAGES);
    job.log.run("download QEMU", LIMIT, &mut download)?;
    let script = r#"
        cd "$0"
        for package in apt/cache/archives/*.deb; do dpkg-deb -x "$package" root; done
        rm -r apt root/usr/share/doc root/usr/share/man root/usr/share/locale
        mkdir bin
        for name in qemu-system-x86_64 qemu-img; do
            data=
            [ $name = qemu-img ] || data='-L "$root/share/qemu" -L "$root/share/seabios"'
            cat >bin/$name <<END
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../root/usr
export QEMU_MODULE_DIR="\$root/lib/x86_64-linux-gnu/qemu"
exec "\$root/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "\$root/lib/x86_64-linux-gnu" "\$root/bin/$name" $data "\$@"
END
            chmod 755 bin/$name
            bin/$name --version
        done"#;
    let mut unpack = Command::new("sh");
    unpack.args(["-euc", script]).arg(&job.dir);
    job.log.run("unpack QEMU", LIMIT, &mut unpack)
}
