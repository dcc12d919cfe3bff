//! A throw-away node: all seven namespaces, made by a uid that nobody has, below a cgroup of the unit's name. And the
//! tests about who may be entered, as whom.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use u7s_host::enter::{Entry, Target};
use u7s_host::enter::{Output as Keep, Status, as_user};
use u7s_plan::facts::UserFact;

use crate::{Check, Listed, driver, holds};

/// Nobody's uid, the node's user.
pub(crate) const UID: u32 = 64_123;

/// First of its subordinate ids.
const SUBIDS: u32 = 700_000;

/// How long anything here may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const TESTS: &[Listed] = &[
    ("s46_f30_only_the_nodes_pid_1_is_entered", only_the_nodes_pid_1_is_entered),
    ("s47_a_node_of_somebody_else_is_refused", a_node_of_somebody_else_is_refused),
    ("s42_root_is_gone_for_good_inside", root_is_gone_for_good_inside),
    ("s42_a_program_on_the_host_has_no_right", a_program_on_the_host_has_no_right),
    ("s8_the_environment_is_an_allow_list", the_environment_is_an_allow_list),
    ("every_namespace_and_the_cgroup_are_the_nodes", every_namespace_and_the_cgroup_are_the_nodes),
    ("work_as_the_user_is_done_with_his_rights_alone", work_as_the_user_is_done_with_his_rights_alone),
    ("work_as_the_user_ends_at_its_deadline", work_as_the_user_ends_at_its_deadline),
    ("captured_output_is_bounded", captured_output_is_bounded),
    ("the_nodes_own_user_may_enter", the_nodes_own_user_may_enter),
    ("files_that_root_alone_may_read_are_handed_over", files_that_root_alone_may_read_are_handed_over),
    ("directories_that_root_alone_may_read_are_copied", directories_that_root_alone_may_read_are_copied),
    ("a_link_that_the_user_may_change_is_not_followed", a_link_that_the_user_may_change_is_not_followed),
    (
        "what_a_document_of_the_users_names_is_not_read_as_root",
        what_a_document_of_the_users_names_is_not_read_as_root,
    ),
];

/// The node; removed when dropped.
pub(crate) struct Node {
    parent: Child,
    pub(crate) pid: i32,
    cgroup: PathBuf,
}

impl Node {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let ids = UID.to_string();
        let mut parent = Command::new("setpriv")
            .args(["--reuid", &ids, "--regid", &ids, "--clear-groups"])
            .args([
                "unshare",
                "-U",
                "-m",
                "-p",
                "-n",
                "-i",
                "-u",
                "-C",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", "echo ready; read x; echo mapped; exec sleep 100000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(parent.stdout.take().ok_or("no output")?);
        expect(&mut said, "ready")?;
        let outer = parent.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        let pid: i32 = children.trim().parse()?;
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{map}"), format!("0 {UID} 1\n1 {SUBIDS} 65536\n"))?;
        }
        let mut node = Self { pid, cgroup: cgroup(pid)?, parent };
        node.parent.stdin.take().ok_or("no input")?.write_all(b"go\n")?;
        expect(&mut said, "mapped")?;
        Ok(node)
    }

    pub(crate) fn user() -> UserFact {
        UserFact { uid: UID, gid: UID, ..UserFact::default() }
    }

    /// The driver, to be started with any streams.
    pub(crate) fn driver(&self, argv: &[&str]) -> Result<Command, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(argv).env(driver::NODE, format!("{} {UID}", self.pid)).current_dir("/");
        Ok(command)
    }

    /// Runs a program inside, with nothing to read, and keeps what it writes.
    pub(crate) fn run(&self, argv: &[&str]) -> Result<Output, Box<dyn Error>> {
        Ok(self.driver(argv)?.stdin(Stdio::null()).output()?)
    }

    /// As [`Node::run`], standard output of a success as text.
    pub(crate) fn text(&self, argv: &[&str]) -> Result<String, Box<dyn Error>> {
        let output = self.run(argv)?;
        holds(output.status.success(), format!("{argv:?}: {output:?}"))?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // All that ever was in the node, also what a failed test left there.
        if let Some(top) = self.cgroup.ancestors().nth(3) {
            let _ = fs::write(top.join("cgroup.kill"), "1");
        }
        let _ = self.parent.kill();
        let _ = self.parent.wait();
        let until = Instant::now() + SOON;
        let mut paths: Vec<PathBuf> = self.cgroup.ancestors().take(4).map(PathBuf::from).collect();
        while Instant::now() < until && !paths.is_empty() {
            paths.retain(|path| fs::remove_dir(path).is_err() && path.exists());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Moves the process below a cgroup of the unit's name.
fn cgroup(pid: i32) -> Result<PathBuf, Box<dyn Error>> {
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists()).ok_or("no cgroup2")?;
    let path = root.join(format!("u7s-test-{}/u7s.service/node/init", std::process::id()));
    fs::create_dir_all(&path)?;
    fs::write(path.join("cgroup.procs"), pid.to_string())?;
    Ok(path)
}

fn expect(said: &mut impl BufRead, word: &str) -> Check {
    let mut line = String::new();
    said.read_line(&mut line)?;
    holds(line.trim() == word, format!("the node said {line:?}, not {word}"))
}

/// Waits until it holds.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) -> Check {
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        if condition() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("{what}: not within {} s", SOON.as_secs()).into())
}

fn refusal(pid: u32, user: &UserFact) -> Result<String, Box<dyn Error>> {
    match Target::verified(i32::try_from(pid)?, user) {
        Err(error) => Ok(error.to_string()),
        Ok(_) => Err(format!("process {pid} was believed to be the node").into()),
    }
}

fn only_the_nodes_pid_1_is_entered(node: &Node) -> Check {
    Target::verified(node.pid, &Node::user())?;
    let cases = [
        (1, "a node's pid 1 has another number outside"),
        (std::process::id(), "it is not pid 1 of a pid namespace below this one"),
        (node.parent.id(), "it is not pid 1 of a pid namespace below this one"),
    ];
    for (pid, reason) in cases {
        let said = refusal(pid, &Node::user())?;
        println!("{said}");
        holds(said.ends_with(reason), said)?;
    }
    // The number is another process' by now: one of the node's own user even.
    let mut stranger = Command::new("setpriv")
        .args(["--reuid", &UID.to_string(), "--regid", &UID.to_string(), "--clear-groups", "sleep", "60"])
        .spawn()?;
    let said = refusal(stranger.id(), &Node::user());
    let alive = stranger.try_wait()?.is_none();
    stranger.kill()?;
    stranger.wait()?;
    println!("{}", said?);
    holds(alive, "a stranger was ended")
}

fn a_node_of_somebody_else_is_refused(node: &Node) -> Check {
    let stranger = UserFact { uid: UID + 1, gid: UID + 1, ..UserFact::default() };
    let said = refusal(node.pid.unsigned_abs(), &stranger)?;
    println!("{said}");
    holds(said.contains("it does not run as uid 64124"), said)?;
    // A namespace that root made, whose pid 1 runs as the user, in the right cgroup.
    let mut other = Command::new("unshare")
        .args(["-U", "-p", "--fork", "--kill-child", "sh", "-c", "read x; exec sleep 1000"])
        .stdin(Stdio::piped())
        .spawn()?;
    let outer = other.id();
    let children = || fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
    let result = until("the other node", || !children().trim().is_empty()).and_then(|()| {
        let pid: u32 = children().trim().parse()?;
        fs::write(node.cgroup.join("cgroup.procs"), pid.to_string())?;
        let root = UserFact::default();
        // Whose it is: root's. As the node's user's, it fails at the uid; as root's, nothing else is wrong with it.
        Target::verified(i32::try_from(pid)?, &root)?;
        let said = refusal(pid, &Node::user())?;
        println!("{said}");
        holds(said.contains("it does not run as uid 64123"), said)
    });
    other.kill()?;
    other.wait()?;
    result
}

/// Seen from the host, where the kernel tells the truth about ids.
fn root_is_gone_for_good_inside(node: &Node) -> Check {
    let mut child = node.driver(&["sleep", "1000"])?.spawn()?;
    let found = || sleeper(node, child.id());
    let result = until("the program", || found().is_some()).and_then(|()| {
        let pid = found().ok_or("gone")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned()
        };
        println!("host view: Uid {} Gid {} Groups {:?}", line("Uid:"), line("Gid:"), line("Groups:"));
        let all = [UID; 4].map(|uid| uid.to_string()).join("\t");
        holds(line("Uid:") == all && line("Gid:") == all && line("Groups:").is_empty(), status.clone())?;
        // Full inside, and worth nothing outside: it may not even signal a process of root's.
        let outside = node.run(&["sh", "-c", "id -u; cat /etc/shadow"])?;
        holds(outside.stdout == b"0\n" && !outside.status.success(), format!("{outside:?}"))
    });
    child.kill()?;
    child.wait()?;
    result
}

/// The program that the driver `parent` started.
pub(crate) fn sleeper(_node: &Node, parent: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let pid = children.split_whitespace().next()?.parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (command.trim() == "sleep").then_some(pid)
}

fn a_program_on_the_host_has_no_right(node: &Node) -> Check {
    let argv = [
        "sh",
        "-c",
        "id -u; id -g; id -G; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status; cat /etc/shadow",
    ];
    let output = node.driver(&argv)?.env(driver::HOST, "1").stdin(Stdio::null()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let zero = "0000000000000000";
    let wanted =
        format!("{UID}\n{UID}\n{UID}\nCapInh:\t{zero}\nCapPrm:\t{zero}\nCapEff:\t{zero}\nCapAmb:\t{zero}\n");
    println!("{text}");
    holds(text == wanted && output.status.code() == Some(1), format!("{text} {:?}", output.status))
}

fn the_environment_is_an_allow_list(node: &Node) -> Check {
    let mut command = node.driver(&["env"])?;
    for name in
        ["LD_LIBRARY_PATH", "BASH_ENV", "ENV", "TMPDIR", "KUBECONFIG", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET"]
    {
        command.env(name, "/hostile");
    }
    let output =
        command.env("LC_ALL", "C").env("https_proxy", "http://proxy:3128").stdin(Stdio::null()).output()?;
    let text = String::from_utf8(output.stdout)?;
    println!("{text}");
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    let allowed =
        ["PATH", "HOME", "TERM", "LANG", "LC_ALL", "https_proxy", "PWD", "NO_COLOR", "TZ", "COLORTERM"];
    let foreign: Vec<&&str> = names.iter().filter(|name| !allowed.contains(*name)).collect();
    holds(foreign.is_empty(), format!("handed on: {foreign:?}"))?;
    holds(text.contains("HOME=/root\n") && text.contains("https_proxy=http://proxy:3128\n"), text.clone())
}

fn every_namespace_and_the_cgroup_are_the_nodes(node: &Node) -> Check {
    let mut child = node.driver(&["sleep", "1000"])?.spawn()?;
    let found = || sleeper(node, child.id());
    let result = until("the program", || found().is_some()).and_then(|()| {
        let pid = found().ok_or("gone")?;
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            holds(of(pid)? == of(node.pid)?, format!("another {kind} namespace"))?;
        }
        let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup"));
        let line = |text: String| text.lines().find(|line| line.starts_with("0::")).map(str::to_owned);
        println!("{:?}", line(cgroup(pid)?));
        holds(line(cgroup(pid)?) == line(cgroup(node.pid)?), "another cgroup")?;
        let session = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let session: i32 = session.split(' ').nth(5).ok_or("no session")?.parse()?;
        holds(session == pid, format!("session {session} of process {pid}"))
    });
    child.kill()?;
    child.wait()?;
    result
}

fn work_as_the_user_is_done_with_his_rights_alone(_node: &Node) -> Check {
    let user = Node::user();
    let (uid, shadow): (u32, bool) =
        as_user(&user, SOON, || (nix::unistd::getuid().as_raw(), fs::read("/etc/shadow").is_ok()))?;
    println!("as uid {uid}, /etc/shadow readable: {shadow}");
    holds(uid == UID && !shadow, "root was kept")?;
    let back: bool = as_user(&user, SOON, || nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_ok())?;
    holds(!back, "the way back was open")
}

fn work_as_the_user_ends_at_its_deadline(_node: &Node) -> Check {
    let begun = Instant::now();
    let late =
        as_user(&Node::user(), Duration::from_millis(300), || std::thread::sleep(Duration::from_secs(60)));
    holds(late.is_err() && begun.elapsed() < SOON, format!("{late:?} after {:?}", begun.elapsed()))
}

fn captured_output_is_bounded(node: &Node) -> Check {
    let target = Target::verified(node.pid, &Node::user())?;
    let argv = ["sh", "-c", "yes | head -c 3000000; echo bad >&2; exit 3"];
    let ended = Entry::inside(&target, argv).output(Keep::Capture(1000)).run()?;
    println!("kept {} bytes, truncated {}, {}", ended.stdout.len(), ended.truncated, ended.status);
    holds(
        ended.stdout.len() == 1000 && ended.truncated && ended.stderr == b"bad\n",
        "not what was asked for",
    )?;
    holds(ended.status == Status::Exited(3), ended.status.to_string())
}

fn the_nodes_own_user_may_enter(node: &Node) -> Check {
    let ids = UID.to_string();
    let program = std::env::current_exe()?;
    let copy = std::env::temp_dir().join(format!("u7s-enter-{}", std::process::id()));
    fs::copy(&program, &copy)?;
    let output = Command::new("setpriv")
        .args(["--reuid", &ids, "--regid", &ids, "--clear-groups"])
        .arg(&copy)
        .args(["sh", "-c", "id -u; exit 5"])
        .env(driver::NODE, format!("{} {UID}", node.pid))
        .current_dir("/")
        .stdin(Stdio::null())
        .output();
    fs::remove_file(&copy)?;
    let output = output?;
    holds(output.stdout == b"0\n" && output.status.code() == Some(5), format!("{output:?}"))
}

fn files_that_root_alone_may_read_are_handed_over(node: &Node) -> Check {
    let dir = tempfile::tempdir()?;
    let secret = dir.path().join("join.yaml");
    fs::write(&secret, "kind: Secret\n")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let path = secret.display().to_string();
    let refused = node.run(&["cat", &path])?;
    holds(!refused.status.success(), "the user could read it anyway")?;
    let handed =
        node.driver(&["sh", "-c", "cat \"$1\"; echo $1", "sh", &path])?.env(driver::FILE, "4").output()?;
    println!("{}", String::from_utf8_lossy(&handed.stdout));
    holds(handed.stdout == b"kind: Secret\n/proc/self/fd/3\n", format!("{handed:?}"))?;
    // A name that leads to the same file inside stays, and nothing is left open.
    let known = node
        .driver(&["sh", "-c", "echo $1; ls /proc/$$/fd", "sh", "/etc/passwd"])?
        .env(driver::FILE, "4")
        .output()?;
    holds(known.stdout == b"/etc/passwd\n0\n1\n2\n", format!("{known:?}"))
}

/// The unit's runtime directory stands in for itself: the node was made before it, and sees it all the same.
fn directories_that_root_alone_may_read_are_copied(node: &Node) -> Check {
    let shared = std::path::Path::new("/run/u7s");
    holds(!shared.exists(), "/run/u7s is there: a node runs on this machine")?;
    fs::create_dir(shared)?;
    std::os::unix::fs::chown(shared, Some(UID), Some(UID))?;
    let result = copied(node);
    let left: Vec<_> = fs::read_dir(shared)?.flatten().map(|entry| entry.file_name()).collect();
    fs::remove_dir_all(shared)?;
    result?;
    holds(left.is_empty(), format!("left behind: {left:?}"))
}

fn copied(node: &Node) -> Check {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("etcd0+merge.json"), "{}\n")?;
    fs::write(dir.path().join("kubeletconfiguration.json"), "[]\n")?;
    std::os::unix::fs::symlink("/etc/shadow", dir.path().join("link"))?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700))?;
    let path = dir.path().display().to_string();
    let script = "ls \"$1\"; cat \"$1\"/*; stat -c '%a %u' \"$1\"";
    let output = node.driver(&["sh", "-c", script, "sh", &path])?.env(driver::DIRECTORY, "4").output()?;
    let text = String::from_utf8(output.stdout)?;
    println!("{text}");
    holds(text == "etcd0+merge.json\nkubeletconfiguration.json\n{}\n[]\n700 0\n", text.clone())
}

/// Else the user could have root hand him any file, by a link in a directory that root was told to read from.
fn a_link_that_the_user_may_change_is_not_followed(node: &Node) -> Check {
    let dir = tempfile::tempdir()?;
    let link = dir.path().join("join.yaml");
    std::os::unix::fs::symlink("/etc/shadow", &link)?;
    std::os::unix::fs::chown(dir.path(), Some(UID), Some(UID))?;
    let path = link.display().to_string();
    let output = node.driver(&["sh", "-c", "cat \"$1\"", "sh", &path])?.env(driver::FILE, "4").output()?;
    let said = String::from_utf8(output.stderr)?;
    println!("{said}");
    holds(said.contains("leads through a link that others than root may change"), said.clone())?;
    holds(output.stdout.is_empty(), "something was handed over")
}

/// `--config` that the user wrote, and in it the name of what root alone may read: seen through the doors.
fn what_a_document_of_the_users_names_is_not_read_as_root(_node: &Node) -> Check {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let (document, kept) = (dir.path().join("kubeadm.yaml"), dir.path().join("kept"));
    fs::create_dir(&kept)?;
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o700))?;
    fs::write(kept.join("etcd0.json"), "the secret\n")?;
    let cases = [
        (
            "init",
            kept.clone(),
            format!("kind: InitConfiguration\npatches: {{directory: {}}}\n", kept.display()),
        ),
        (
            "join",
            kept.join("etcd0.json"),
            format!(
                "kind: JoinConfiguration\ndiscovery: {{file: {{kubeConfigPath: {}/etcd0.json}}}}\n",
                kept.display()
            ),
        ),
    ];
    for (command, named, text) in cases {
        fs::write(&document, format!("apiVersion: kubeadm.k8s.io/v1beta4\n{text}"))?;
        std::os::unix::fs::chown(&document, Some(UID), Some(UID))?;
        let output = Command::new(env!("CARGO_BIN_EXE_kubeadm"))
            .args([command, "--dry-run", "--config"])
            .arg(&document)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8(output.stderr)?;
        println!("{said}");
        let refused = format!("{} is named in a document that others than root may write", named.display());
        holds(said.contains(&refused) && output.status.code() == Some(3), said)?;
    }
    Ok(())
}
