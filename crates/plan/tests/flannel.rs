//! The script that writes a node's CNI configuration, run by the shell of this machine.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "the script is a program of its own: it is run here as in its pod"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use u7s_plan::cni;

/// A running script and its files; it is killed with the value.
struct Writer {
    child: Child,
    dir: tempfile::TempDir,
}

impl Writer {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("template"), cni::flannel()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/flannel/cni.sh");
        let mut command = Command::new("sh");
        command.arg(script).args(["template", "subnet.env", "10-flannel.conflist"].map(file));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self { child, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As flanneld does: whole, by rename.
    fn subnet(&self, text: &str) {
        fs::write(self.file("subnet.new"), text).unwrap();
        fs::rename(self.file("subnet.new"), self.file("subnet.env")).unwrap();
    }

    /// The subnet and the MTU in the configuration, once it has this subnet.
    fn written(&self, subnet: &str) -> Value {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let text = fs::read_to_string(self.file("10-flannel.conflist")).unwrap_or_default();
            let list: Value =
                if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
            if list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] == subnet {
                return list;
            }
            assert!(Instant::now() < limit, "no {subnet} in the configuration: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_configuration_follows_the_subnet_file() {
    let writer = Writer::start();
    let half = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=\n";
    writer.subnet(half);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!writer.file("10-flannel.conflist").exists(), "written from half a file");
    let whole = |subnet: &str, mtu| {
        format!(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n"
        )
    };
    writer.subnet(&whole("10.244.3.1/24", 1450));
    let list = writer.written("10.244.3.0/24");
    let bridge = &list["plugins"][0];
    assert_eq!((&bridge["mtu"], &bridge["ipMasq"]), (&1450.into(), &false.into()));
    assert_eq!(list["plugins"][1]["capabilities"]["portMappings"], true);
    writer.subnet(&whole("10.244.7.65/26", 8950));
    assert_eq!(writer.written("10.244.7.64/26")["plugins"][0]["mtu"], 8950);
    fs::remove_file(writer.file("10-flannel.conflist")).unwrap();
    writer.written("10.244.7.64/26");
}

#[test]
fn the_script_ends_when_it_is_told() {
    let mut writer = Writer::start();
    writer.subnet("FLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\n");
    writer.written("10.244.3.0/24");
    let begun = Instant::now();
    let pid = writer.child.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -TERM $0", &pid]).status().unwrap().success());
    assert!(writer.child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(4), "it slept on: {:?}", begun.elapsed());
}
