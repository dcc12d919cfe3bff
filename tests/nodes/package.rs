//! The package: what is in it, installation by rpm and dpkg, upgrade under a running cluster, and what an erase leaves.
//!
//! The RPM of these tests holds the programs under test, packed by `scripts/rpm --built`; that the source RPM builds
//! without a network is shown by `scripts/rpm` itself.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use u7s_harness::{Lan, Node, Output, Running, Signal, Snapshot, until};

use crate::Listed;
use crate::cluster::{Cluster, SOON};
use crate::packages::{Packages, STAND_INS, entries};
use crate::world::{Bare, Check, IGNORED, World, exits, holds, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("package::s4_all_below_usr_and_etc_is_roots", s4_all_below_usr_and_etc_is_roots),
    ("package::rpm_and_deb_hold_the_same", rpm_and_deb_hold_the_same),
    ("package::rpmlint_finds_no_error", rpmlint_finds_no_error),
    ("package::dependencies_are_those_that_debian_has", dependencies_are_those_that_debian_has),
    ("package::s29_an_installation_takes_free_ids", s29_an_installation_takes_free_ids),
    ("package::s35_exposure_does_not_rise", s35_exposure_does_not_rise),
    ("package::podsec_k8s_is_a_conflict", podsec_k8s_is_a_conflict),
    ("package::init_by_podsecs_names", init_by_podsecs_names),
    ("package::the_sandbox_holds_and_pods_may_raise", the_sandbox_holds),
    ("package::f43_an_upgrade_leaves_the_node_alone", f43_an_upgrade_leaves_the_node_alone),
    ("package::f42_the_next_start_takes_the_new_supervisor", f42_the_next_start_takes_the_new_supervisor),
    ("package::an_erase_without_a_reset_keeps_the_data", an_erase_without_a_reset_keeps_the_data),
    ("package::s34_reset_and_erase_leave_the_account", s34_reset_and_erase_leave_the_account),
    ("package::a_deb_comes_and_goes_as_well", a_deb_comes_and_goes_as_well),
];

/// Where a node sees the packages.
const SHELF: &str = "/packages";

/// What `systemd-analyze security` may say at most; lower it when the unit gets better.
const EXPOSURE: f64 = 6.2;

/// What may differ after an erase: the account with its subordinate ids, as distributions keep the accounts of packages, and
/// the packagers' own databases.
const LEFT: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/subgid",
    "/var/lib/rpm/",
    "/var/lib/dpkg/",
];

/// A node with a cluster whose u7s came as an RPM.
pub(crate) struct Packaged {
    cluster: Option<Cluster>,
    bare: Option<Bare>,
    packages: Packages,
    /// What rpm said where nothing was there that we require.
    lacking: Output,
    _dir: TempDir,
}

impl Packaged {
    /// Packs, and boots a node with nothing of u7s.
    pub(crate) fn new(lan: &Lan) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let packages = Packages::make(dir.path())?;
        let mut node = lan.node("pk")?;
        node.install_kit(&["images"])?;
        node.bind(dir.path(), SHELF)?;
        node.bind(lan.kit().layout(), "/srv/images")?;
        node.boot(SOON)?;
        node.ok(&["rpm", "--initdb"])?;
        let lacking = node.exec(&["rpm", "--install", &shelf(&packages.first)])?;
        rpm(&node, &["--install"], &packages.stand_ins)?;
        // Directories of the distribution that a lean tree lacks.
        node.sh(
            "for dir in lib/modules-load.d share/doc share/man/man5 share/man/man8 share/man/ru/man5 share/man/ru/man8; do
             mkdir -p /usr/$dir; touch /usr/$dir/others; done",
        )?;
        // Ranges of others, one of them written elsewhere, and a user in the midst of what is free.
        node.sh("printf 'alice:524288:65536\\n#x\\nbob:589824:70000\\r\\nbroken:1\\n' >/etc/subuid
             printf 'alice:524288:65536\\n' >/etc/subgid
             echo 'carol:x:700000:700000::/:/bin/false' >>/etc/passwd")?;
        let before = node.snapshot()?;
        let client = lan.client("pk-c")?;
        Ok(Self { cluster: None, bare: Some(Bare { node, client, before }), packages, lacking, _dir: dir })
    }

    fn node(&self) -> Result<&Node, Box<dyn Error>> {
        let bare = self.bare.as_ref().or_else(|| self.cluster.as_ref().map(|cluster| &cluster.bare));
        Ok(&bare.ok_or("the node is gone")?.node)
    }

    fn before(&self) -> Result<&Snapshot, Box<dyn Error>> {
        let bare = self.bare.as_ref().or_else(|| self.cluster.as_ref().map(|cluster| &cluster.bare));
        Ok(&bare.ok_or("the node is gone")?.before)
    }

    /// Installs the RPM unless it is there.
    fn install(&self) -> Check {
        let node = self.node()?;
        if node.exec(&["rpm", "--query", "u7s"])?.ok() {
            return Ok(());
        }
        rpm(node, &["--install"], &self.packages.first)
    }

    /// The cluster; the first test that needs it brings it up, by the names that podsec-k8s has.
    fn cluster(&mut self) -> Result<&Cluster, Box<dyn Error>> {
        self.install()?;
        if let Some(bare) = self.bare.take() {
            // As an administrator puts images there.
            let images = "mkdir /var/lib/u7s/images/kit; mount --bind /srv/images /var/lib/u7s/images/kit";
            bare.node.sh(images)?;
            self.cluster = Some(Cluster::on(bare, &["init", IGNORED])?);
        }
        self.cluster.as_ref().ok_or_else(|| "init failed before".into())
    }
}

fn rpm(node: &Node, options: &[&str], package: &Path) -> Check {
    let place = shelf(package);
    let argv: Vec<&str> = ["rpm"].into_iter().chain(options.iter().copied()).chain([&*place]).collect();
    node.command(&argv).within(SOON).ok().map(note).map_err(Into::into)
}

fn shelf(package: &Path) -> String {
    format!("{SHELF}/{}", package.file_name().unwrap_or_default().to_string_lossy())
}

/// Root's alone and closed to everybody else's writing; the home of the user is the one exception, and not below /usr or /etc.
fn s4_all_below_usr_and_etc_is_roots(world: &World) -> Check {
    let packaged = world.packaged()?;
    for (package, entries) in [
        ("rpm", entries(&["rpm", "-qplv"], &packaged.packages.first)?),
        ("deb", entries(&["dpkg-deb", "--contents"], &packaged.packages.deb)?),
    ] {
        holds(entries.len() > 20, format!("{package}: only {entries:?}"))?;
        for entry in entries.iter().filter(|entry| entry.path != "/var/lib/u7s-admin") {
            holds(entry.is_roots_alone(), format!("{package}: {entry:?}"))?;
        }
        note(format!("{package}: {} entries, all root's", entries.len()));
    }
    // And so it is once it is installed, up to the root directory.
    packaged.install()?;
    let foreign = packaged.node()?.sh(
        "rpm --query --list u7s | while read -r path; do while [ \"$path\" != / ]; do echo \"$path\"; path=$(dirname \"$path\"); done; done |
         sort -u | grep -v '^/var/lib/u7s-admin$' | xargs stat -c '%u:%g %A %n' | grep -v '^0:0 \\(l\\|.....-..-\\)' || true",
    )?;
    holds(foreign.is_empty(), format!("S4: {foreign}"))?;
    packaged.node()?.ok(&["rpm", "--verify", "u7s"]).map(drop).map_err(Into::into)
}

fn rpm_and_deb_hold_the_same(world: &World) -> Check {
    let packaged = world.packaged()?;
    let paths = |entries: Vec<crate::packages::Entry>| -> BTreeSet<String> {
        let files = entries.into_iter().filter(|entry| !entry.mode.starts_with('d')).map(|entry| entry.path);
        files.filter(|path| !path.starts_with("/usr/share/doc/")).collect()
    };
    let rpm = paths(entries(&["rpm", "-qplv"], &packaged.packages.first)?);
    let deb = paths(entries(&["dpkg-deb", "--contents"], &packaged.packages.deb)?);
    note(format!("{} files", rpm.len()));
    holds(rpm == deb, format!("they differ: {:?}", rpm.symmetric_difference(&deb)))
}

fn rpmlint_finds_no_error(world: &World) -> Check {
    let packaged = world.packaged()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let mut rpmlint = Command::new("rpmlint");
    rpmlint.arg("--config").arg(root.join("rpmlint.toml"));
    let output = rpmlint.arg(root.join("u7s.spec")).arg(&packaged.packages.first).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    note(&said);
    holds(said.contains("1 packages and 1 specfiles checked"), String::from_utf8_lossy(&output.stderr))?;
    holds(!said.contains(": E: "), "rpmlint calls something an error")
}

/// rpm refuses what it misses, so the installation below proves the same table.
fn dependencies_are_those_that_debian_has(world: &World) -> Check {
    let packaged = world.packaged()?;
    let node = packaged.node()?;
    for (names, package) in STAND_INS {
        let status = node.exec(&["dpkg-query", "-W", "-f", "${db:Status-Status}", package])?;
        holds(*package == "kit" || status.stdout == "installed", format!("{names:?}: no {package}"))?;
    }
    holds(!packaged.lacking.ok(), "rpm installed a package that lacks what it requires")?;
    wants(&packaged.lacking, "slirp4netns is needed by u7s")?;
    let tags = "%{RELEASE} [%{CONFLICTS} ][%{PROVIDES} ]";
    let seen =
        node.ok(&["rpm", "--query", "--package", "--queryformat", tags, &shelf(&packaged.packages.first)])?;
    note(&seen);
    holds(seen.contains("podsec-k8s"), seen)
}

/// S29, S31: what others have in /etc/subuid, /etc/subgid and /etc/passwd stays, and nothing of it is taken.
fn s29_an_installation_takes_free_ids(world: &World) -> Check {
    let packaged = world.packaged()?;
    let node = packaged.node()?;
    let newuidmap = "stat -c '%a %u:%g' /usr/bin/newuidmap";
    let mode = node.sh(newuidmap)?;
    packaged.install()?;
    holds(node.sh(newuidmap)? == mode, "the mode of newuidmap is the administrator's")?;
    let (uids, gids) = (node.read("/etc/subuid")?, node.read("/etc/subgid")?);
    note(format!("{uids}---\n{gids}"));
    // alice has the first range, bob ends in the third, where carol is, too.
    let ours = "u7s-admin:720896:65536\n";
    holds(uids == format!("alice:524288:65536\n#x\nbob:589824:70000\r\nbroken:1\n{ours}"), uids)?;
    holds(gids == format!("alice:524288:65536\n{ours}"), gids)?;
    let account = node.ok(&["getent", "passwd", "u7s-admin"])?;
    holds(account.ends_with(":/var/lib/u7s-admin:/sbin/nologin"), account)?;
    let shadow = node.ok(&["getent", "shadow", "u7s-admin"])?;
    holds(shadow.starts_with("u7s-admin:!"), "S31: the account is not locked")?;
    let groups = node.ok(&["id", "-nG", "u7s-admin"])?;
    holds(groups == "u7s-admin", groups)?;
    // A second time, as every upgrade does it, nothing changes.
    let accounts = "cat /etc/passwd /etc/group /etc/shadow /etc/subuid /etc/subgid | sha256sum";
    let before = node.sh(accounts)?;
    node.ok(&["/usr/libexec/u7s/postinstall"])?;
    holds(node.sh(accounts)? == before, "a second postinstall changed accounts")?;
    // F33: no range is free.
    let full = "cd /etc; cp subuid subgid /run; echo eve:524288:599575712 | tee subuid >subgid";
    node.sh(full)?;
    let output = node.exec(&["/usr/libexec/u7s/postinstall"])?;
    let untouched = node.sh("cat /etc/subuid /etc/subgid; cd /run; mv subuid subgid /etc")?;
    exits(&output, 1)?;
    wants(&output, "no 65536 subordinate ids are free")?;
    holds(untouched == "eve:524288:599575712\neve:524288:599575712", untouched)
}

fn s35_exposure_does_not_rise(world: &World) -> Check {
    let packaged = world.packaged()?;
    packaged.install()?;
    let node = packaged.node()?;
    let unit = "/usr/lib/systemd/system/u7s.service";
    let mount = "/usr/lib/systemd/system/run-u7s.mount";
    node.ok(&["systemd-analyze", "verify", "--man=no", unit, mount])?;
    let said = node.ok(&["systemd-analyze", "security", "--no-pager", "--offline=true", unit])?;
    let words = said.lines().last().unwrap_or_default().split_whitespace();
    let exposure = words.filter_map(|word| word.parse::<f64>().ok()).next_back().ok_or("no figure")?;
    note(format!("exposure {exposure}, agreed {EXPOSURE}"));
    holds(exposure <= EXPOSURE, format!("the unit is more exposed than agreed: {said}"))
}

fn podsec_k8s_is_a_conflict(world: &World) -> Check {
    let packaged = world.packaged()?;
    packaged.install()?;
    let output = packaged.node()?.exec(&["rpm", "--install", &shelf(&packaged.packages.podsec)])?;
    holds(!output.ok(), "podsec-k8s was installed beside u7s")?;
    wants(&output, "podsec-k8s conflicts with")
}

fn init_by_podsecs_names(world: &World) -> Check {
    let mut packaged = world.packaged()?;
    let cluster = packaged.cluster()?;
    exits(&cluster.init, 0)?;
    let took = cluster.converge(2 * SOON)?;
    note(format!("init {:.1} s, all Ready {:.1} s later", cluster.took.as_secs_f64(), took.as_secs_f64()));
    let node = cluster.node();
    let podsec = "/usr/libexec/podsec/u7s/bin";
    let run = |argv: &[&str]| node.command(argv).first_in_path(podsec).ok();
    let version = run(&["kubeadm", "version", "-o", "short"])?;
    holds(run(&["podsec-u7s-kubeadm", "version", "-o", "short"])? == version, "another kubeadm")?;
    let inside = run(&["nsenter_u7s", "readlink", "/proc/self/ns/user"])?;
    holds(inside != node.ok(&["readlink", "/proc/self/ns/user"])?, "nsenter_u7s stayed outside")?;
    let words = run(&["nsenter_u7s", "sh", "-c", "echo \"$ROOTLESSKIT_STATE_DIR $1\"", "sh", "a  b"])?;
    holds(words == "/run/u7s a  b", words)?;
    // S33: nothing that the package owns was changed by init.
    node.ok(&["rpm", "--verify", "u7s"]).map(drop).map_err(Into::into)
}

/// What the unit's sandbox keeps from whoever broke out of a pod, and what it must not touch.
fn the_sandbox_holds(world: &World) -> Check {
    let mut packaged = world.packaged()?;
    let cluster = packaged.cluster()?;
    let node = cluster.node();
    // Open to everybody on the host.
    node.sh("mkdir -m 1777 /usr/open /home/open /etc/open; mknod -m 666 /dev/other c 10 235; mkdir -m 1777 /srv/open")?;
    node.sh("umask 0; echo x >/tmp/hosts; setpriv --reuid u7s-admin --regid u7s-admin --clear-groups sh -c 'touch /usr/open/a /home/open/a /etc/open/a; : </dev/other'")?;
    for (denied, command) in [
        ("Read-only file system", "touch /usr/open/x"),
        ("Read-only file system", "touch /etc/open/x"),
        ("Permission denied", "ls /home/open"),
        ("Operation not permitted", "dd if=/dev/other count=0"),
        ("No such file", "cat /tmp/hosts"),
    ] {
        let output = cluster.inside(&["sh", "-c", command])?;
        holds(!output.ok(), format!("inside, this was allowed: {command}"))?;
        wants(&output, denied)?;
    }
    cluster.inside(&["touch", "/srv/open/x", "/etc/kubernetes/x"]).and_then(|output| exits(&output, 0))?;
    node.sh("rm -r /usr/open /home/open /etc/open /srv/open /tmp/hosts /dev/other /etc/kubernetes/x")?;
    let flags = cluster.inside(&["grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/1/status"])?.stdout;
    note(flags.replace('\t', " "));
    holds(flags == "NoNewPrivs:\t0\nSeccomp:\t0\n", "pods would inherit a filter or no_new_privs")
}

/// The API server is asked all the while, and every process of the unit is the one that it was.
fn f43_an_upgrade_leaves_the_node_alone(world: &World) -> Check {
    let mut packaged = world.packaged()?;
    let second = packaged.packages.second.clone();
    let cluster = packaged.cluster()?;
    cluster.converge(2 * SOON)?;
    let node = cluster.node();
    let (before, restarts) = (pods(cluster)?, main_pid(node)?);
    let asking = ask(cluster)?;
    rpm(node, &["--upgrade"], &second)?;
    let version = node.ok(&["rpm", "--query", "u7s"])?;
    holds(version.contains("alt2"), format!("installed is {version}"))?;
    node.ok(&["rpm", "--verify", "u7s"])?;
    holds(main_pid(node)? == restarts, "the supervisor was restarted")?;
    let reload = node.ok(&["systemctl", "show", "-P", "NeedDaemonReload", "u7s.service"])?;
    holds(reload == "no", "systemd was not told of the new unit")?;
    holds(pods(cluster)? == before, "pods were restarted")?;
    let old = node.sh("readlink /proc/$(systemctl show -P MainPID u7s.service)/exe")?;
    note(format!("still runs: {old}"));
    holds(old.ends_with("(deleted)"), "the supervisor's file was not replaced")?;
    // The new programs talk to the old supervisor.
    cluster.status()?;
    cluster.inside(&["true"]).and_then(|output| exits(&output, 0))?;
    let (answers, longest) = heard(asking)?;
    note(format!("{answers} answers of the API server, at most {longest:.2} s apart"));
    holds(answers > 10 && longest < 2.0, format!("{answers} answers, {longest:.2} s apart"))
}

/// The documented interruption: a restart of the unit, when the administrator wants it, restarts all pods of the node.
fn f42_the_next_start_takes_the_new_supervisor(world: &World) -> Check {
    let mut packaged = world.packaged()?;
    let cluster = packaged.cluster()?;
    let node = cluster.node();
    let before = pods(cluster)?;
    let asking = ask(cluster)?;
    let began = Instant::now();
    node.command(&["systemctl", "restart", "u7s.service"]).within(SOON).ok()?;
    let active = began.elapsed();
    until(2 * SOON, "other containers in all pods", || {
        let kept = pods(cluster).map_err(|error| error.to_string())?.intersection(&before).count();
        if kept == 0 { Ok(()) } else { Err(format!("{kept} of {} of those before", before.len())) }
    })?;
    cluster.converge(2 * SOON)?;
    let ready = began.elapsed();
    let new = node.sh("readlink /proc/$(systemctl show -P MainPID u7s.service)/exe")?;
    holds(new == "/usr/libexec/u7s/u7s-supervisor", format!("the supervisor is {new}"))?;
    let (_, longest) = heard(asking)?;
    note(format!(
        "u7s.service active after {:.1} s, all Ready after {:.1} s, API server away for {longest:.1} s",
        active.as_secs_f64(),
        ready.as_secs_f64()
    ));
    holds(longest < 60.0, "the API server was away for a minute")
}

/// It stops the node and says what is left; the package installed again resets it, which the next test does.
fn an_erase_without_a_reset_keeps_the_data(world: &World) -> Check {
    let mut packaged = world.packaged()?;
    let second = packaged.packages.second.clone();
    let cluster = packaged.cluster()?;
    let node = cluster.node();
    let erased = node.command(&["rpm", "--erase", "u7s"]).within(2 * SOON).run()?;
    exits(&erased, 0)?;
    note(erased.to_string());
    wants(&erased, "the node was not reset")?;
    let left = node.processes().into_iter().filter(|process| process.cgroup.contains("u7s.service")).count();
    holds(left == 0, format!("{left} processes of the node go on"))?;
    let enabled = node.exec(&["systemctl", "is-enabled", "u7s.service"])?;
    holds(!enabled.ok(), "the unit is enabled still")?;
    node.sh(
        "test -e /etc/u7s/node.json; test -d /var/lib/u7s-admin/node/etcd/member; ! test -e /usr/bin/u7s",
    )?;
    rpm(node, &["--install"], &second)
}

fn s34_reset_and_erase_leave_the_account(world: &World) -> Check {
    let mut packaged = world.packaged()?;
    let cluster = packaged.cluster()?;
    let node = cluster.node();
    exits(&crate::world::kubeadm(node, &["reset", "--force"]).run()?, 0)?;
    node.ok(&["rpm", "--verify", "u7s"])?;
    node.sh("umount /var/lib/u7s/images/kit; rmdir /var/lib/u7s/images/kit")?;
    note(node.command(&["rpm", "--erase", "u7s"]).within(SOON).ok()?);
    nothing_is_left(&packaged)
}

fn a_deb_comes_and_goes_as_well(world: &World) -> Check {
    let packaged = world.packaged()?;
    let node = packaged.node()?;
    if node.exec(&["rpm", "--query", "u7s"])?.ok() {
        node.command(&["rpm", "--erase", "u7s"]).within(SOON).ok()?;
    }
    let install = ["dpkg", "--install", &shelf(&packaged.packages.deb)];
    note(node.command(&install).within(SOON).ok()?);
    node.ok(&["dpkg", "--verify", "u7s"])?;
    node.ok(&["u7s", "version"])?;
    let check = crate::world::kubeadm(node, &["init", "--dry-run", IGNORED]).run()?;
    wants(&check, "/etc/u7s/node.json")?;
    note(node.command(&["dpkg", "--purge", "u7s"]).within(SOON).ok()?);
    nothing_is_left(&packaged)
}

fn nothing_is_left(packaged: &Packaged) -> Check {
    let changes = packaged.before()?.diff(&packaged.node()?.snapshot()?);
    let (known, left): (Vec<&String>, Vec<&String>) = changes.iter().partition(|line| {
        LEFT.iter().any(|path| line.get(2..).is_some_and(|rest| rest.starts_with(&format!("file {path}"))))
    });
    note(format!("{} of {} things differ: accounts and databases", known.len(), packaged.before()?.len()));
    holds(left.is_empty(), format!("S34: left behind: {left:#?}"))
}

/// Containers of all pods, by their ids.
fn pods(cluster: &Cluster) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let path = "jsonpath={.items[*].status.containerStatuses[*].containerID}";
    let ids = cluster.kubectl(&["get", "pods", "-A", "-o", path])?;
    Ok(ids.split_whitespace().map(str::to_owned).collect())
}

fn main_pid(node: &Node) -> Result<String, Box<dyn Error>> {
    Ok(node.ok(&["systemctl", "show", "-p", "MainPID,NRestarts,InvocationID", "u7s.service"])?)
}

/// Asks the API server from another host, several times a second.
fn ask(cluster: &Cluster) -> Result<Running, Box<dyn Error>> {
    let url = format!("https://{}:6443/readyz", cluster.node().ip());
    let script = format!("while :; do echo \"$(curl -sk -m 1 {url}) $(date +%s.%N)\"; sleep 0.1; done");
    let running = cluster.bare.client.command(&["sh", "-c", &script]).spawn()?;
    until(SOON, "the API server to be reached", || match times(&running.so_far().0).len() {
        0 | 1 => Err("no answer".into()),
        _ => Ok(()),
    })?;
    Ok(running)
}

/// How many answers there were, and the longest time between two of them in seconds.
fn heard(asking: Running) -> Result<(usize, f64), Box<dyn Error>> {
    let answers = times(&asking.so_far().0).len();
    until(SOON, "one more answer", || match times(&asking.so_far().0).len() {
        more if more > answers => Ok(()),
        _ => Err("none".into()),
    })?;
    let times = times(&asking.so_far().0);
    asking.signal(Signal::SIGKILL);
    asking.wait(Duration::from_secs(10))?;
    let gaps = times.iter().zip(times.iter().skip(1)).map(|(one, next)| next - one);
    Ok((times.len(), gaps.fold(0.0, f64::max)))
}

fn times(heard: &str) -> Vec<f64> {
    heard.lines().filter_map(|line| line.strip_prefix("ok ")?.parse().ok()).collect()
}
