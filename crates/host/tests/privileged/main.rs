//! What root does in trees that another user controls: one process, one thread, since the work is done by a copy of it.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test")]

mod told;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use libtest_mimic::{Arguments, Failed, Trial};
use u7s_host::Error;
use u7s_host::apply::{Applier, Event, Tally};
use u7s_plan::step::{Action, Owner, Phase, PhaseSteps, Realm, Step};

/// A user that every machine has and that owns nothing.
const USER: &str = "nobody";
const ID: u32 = 65534;

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let own = vec![
        Trial::test("s7_a_step_of_the_user_is_done_as_the_user_and_undone", as_the_user),
        Trial::test("s7_a_link_planted_by_the_user_leads_nobody_out", planted),
        Trial::test("s7_a_racing_user_cannot_lead_root_out_of_its_tree", raced),
        Trial::test("a_directory_that_is_given_back_holds_nothing_that_others_than_root_made", given_back),
        Trial::test("a_directory_of_roots_loses_only_what_is_the_nodes", of_root),
        Trial::test("a_directory_that_cannot_be_cleared_is_put_aside_and_named", put_aside),
        Trial::test("a_tree_of_several_owners_is_removed_by_root", several_owners),
    ];
    let trials = own.into_iter().chain(told::trials()).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

struct Place(tempfile::TempDir);

impl Place {
    /// `tree` belongs to the user, all else to root.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.at("tree")).unwrap();
        chown(place.at("tree"), Some(ID), Some(ID)).unwrap();
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn apply(&self, realm: Realm, action: Action) -> Result<Tally, Error> {
        let mut tell = |_: Event<'_>| {};
        let steps =
            [PhaseSteps { phase: Phase::Configure, steps: vec![Step { realm, action, why: "a test" }] }];
        Applier::new(USER, &mut tell)?.keeping(&self.at("undo.json"))?.run(&steps)
    }
}

fn check(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn write(path: PathBuf) -> Action {
    Action::WriteFile { path, mode: 0o600, owner: Owner::Node, text: "ours".into() }
}

fn as_the_user() -> Result<(), Failed> {
    let place = Place::new();
    let dir = Action::MakeDir { path: place.at("tree/a/b"), mode: 0o700, owner: Owner::Node, fit: false };
    check(place.apply(Realm::User, dir.clone())?.done == 1, "made")?;
    check(place.apply(Realm::User, dir)?.held == 1, "made once")?;
    check(place.apply(Realm::User, write(place.at("tree/a/b/f")))?.done == 1, "written")?;
    check(place.apply(Realm::User, write(place.at("tree/a/b/f")))?.held == 1, "written once")?;
    for path in ["tree/a", "tree/a/b", "tree/a/b/f"] {
        let seen = fs::metadata(place.at(path))?;
        check((seen.uid(), seen.gid()) == (ID, ID), path)?;
    }
    // Root's place is closed to the user: that the step fails shows who did it.
    let refused = place.apply(Realm::User, write(place.at("root-owned"))).map(drop).unwrap_err();
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    check(cause.starts_with("as uid 65534: ") && cause.ends_with("Permission denied (os error 13)"), &cause)?;
    place.apply(Realm::Root, Action::RestoreHost)?;
    check(fs::read_dir(place.at("tree"))?.next().is_none(), "nothing is left")?;
    check(!place.at("undo.json").exists(), "the book is gone")
}

fn planted() -> Result<(), Failed> {
    let place = Place::new();
    fs::write(place.at("victim"), "precious")?;
    symlink(place.at("victim"), place.at("tree/link"))?;
    symlink(place.0.path(), place.at("tree/above"))?;
    for realm in [Realm::Root, Realm::User] {
        for path in ["tree/link", "tree/above/victim"] {
            check(place.apply(realm, write(place.at(path))).is_err(), path)?;
        }
        let tree = Action::RemoveTree { path: place.at("tree/above"), keep_root: false };
        check(place.apply(realm, tree).is_err(), "a tree behind a link")?;
    }
    let seen = fs::metadata(place.at("victim"))?;
    check((seen.uid(), fs::read(place.at("victim"))?) == (0, b"precious".to_vec()), "the victim is untouched")
}

/// A process of the user that turns `dir` into a link to root's directory and back, as fast as it can.
struct Racer(Child);

impl Racer {
    fn start(tree: &Path, target: &Path) -> Self {
        let script = "while :; do mkdir -p dir/x; mv -T dir old; ln -s \"$0\" dir; rm -f dir; rm -rf old; done 2>/dev/null";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).arg(target).current_dir(tree).uid(ID).gid(ID).process_group(0);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn raced() -> Result<(), Failed> {
    let place = Place::new();
    fs::create_dir(place.at("target"))?;
    fs::write(place.at("target/precious"), "precious")?;
    let racer = Racer::start(&place.at("tree"), &place.at("target"));
    let (mut rounds, mut done) = (0, 0);
    while rounds < 100_000 {
        let path = place.at("tree/dir");
        let tree = place.apply(Realm::Root, Action::RemoveTree { path, keep_root: false });
        let file = place.apply(Realm::Root, write(place.at("tree/dir/precious")));
        done += usize::from(tree.is_ok()) + usize::from(file.is_ok());
        rounds += 1;
    }
    drop(racer);
    let seen = fs::read_dir(place.at("target"))?.count();
    println!("{rounds} rounds, {done} of {} steps met a directory", rounds * 2);
    check(seen == 1 && fs::read(place.at("target/precious"))? == b"precious", "root's directory is untouched")
}

/// An id that no account has: one of the node's subordinate ids is like that.
const SUBORDINATE: u32 = 524_289;

impl Place {
    /// A directory of root's that was made fit for the user, as init does.
    fn fitted(&self, path: &str) -> Result<(), Failed> {
        let fit = Action::MakeDir { path: self.at(path), mode: 0o700, owner: Owner::Node, fit: true };
        self.apply(Realm::Root, fit)?;
        Ok(())
    }

    fn owned(&self, path: &str, id: u32, mode: u32) -> Result<(), Failed> {
        fs::write(self.at(path), "LD_PRELOAD=/evil.so")?;
        chown(self.at(path), Some(id), Some(id))?;
        Ok(fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode))?)
    }
}

/// A static pod that the node left in /etc/kubernetes/manifests would be run by the next rootful kubelet.
fn given_back() -> Result<(), Failed> {
    let place = Place::new();
    fs::create_dir_all(place.at("etc/manifests"))?;
    fs::create_dir_all(place.at("etc/gone"))?;
    place.fitted("etc/manifests")?;
    place.fitted("etc/gone")?;
    place.fitted("etc")?;
    fs::create_dir_all(place.at("etc/deep/er"))?;
    place.owned("etc/kubelet", SUBORDINATE, 0o644)?;
    place.owned("etc/manifests/pod.yaml", ID, 0o644)?;
    place.owned("etc/deep/er/evil", SUBORDINATE, 0o600)?;
    place.owned("etc/deep/er/roots", 0, 0o600)?;
    place.owned("etc/roots", 0, 0o644)?;
    place.owned("etc/open", 0, 0o666)?;
    symlink("/etc", place.at("etc/pki"))?;
    std::os::unix::fs::lchown(place.at("etc/pki"), Some(ID), Some(ID))?;
    for path in ["etc/deep/er", "etc/deep"] {
        chown(place.at(path), Some(SUBORDINATE), Some(SUBORDINATE))?;
    }
    fs::remove_dir(place.at("etc/gone"))?;
    place.apply(Realm::Root, Action::ClearDir { path: place.at("etc"), names: vec!["pki".into()] })?;
    place.apply(Realm::Root, Action::RestoreHost)?;
    let found =
        Command::new("/usr/bin/find").arg(place.at("etc")).args(["-printf", "%P %U %m\n"]).output()?;
    let mut found: Vec<String> = String::from_utf8(found.stdout)?.lines().map(str::to_owned).collect();
    found.sort();
    let wanted = [
        " 0 755",
        "deep 0 755",
        "deep/er 0 755",
        "deep/er/roots 0 600",
        "gone 0 755",
        "manifests 0 755",
        "roots 0 644",
    ];
    check(found == wanted, &format!("{found:?}"))?;
    check(!place.at("undo.json").exists(), "the book is gone")
}

/// A rootful cluster's, say.
fn of_root() -> Result<(), Failed> {
    let place = Place::new();
    fs::create_dir_all(place.at("etc/pki"))?;
    place.owned("etc/pki/ca.key", 0, 0o600)?;
    place.owned("etc/pki/of-a-service", 7, 0o600)?;
    place.owned("etc/evil", ID, 0o600)?;
    place.apply(Realm::Root, Action::ClearDir { path: place.at("etc"), names: vec!["pki".into()] })?;
    check(!place.at("etc/evil").exists(), "what is the node's goes")?;
    check(place.at("etc/pki/ca.key").exists() && place.at("etc/pki/of-a-service").exists(), "the rest stays")
}

fn put_aside() -> Result<(), Failed> {
    let place = Place::new();
    fs::create_dir(place.at("etc"))?;
    place.fitted("etc")?;
    fs::create_dir(place.at("etc/mounted"))?;
    let mount = |argv: &[&str]| Command::new(argv[0]).args(&argv[1..]).arg(place.at("etc/mounted")).status();
    check(mount(&["/usr/bin/mount", "-t", "tmpfs", "-o", "uid=65534", "none"])?.success(), "a tmpfs")?;
    let refused = place.apply(Realm::Root, Action::RestoreHost).map(drop);
    let aside = place.at("etc.u7s-left");
    check(Command::new("/usr/bin/umount").arg(aside.join("mounted")).status()?.success(), "unmounted")?;
    let refused = refused.unwrap_err();
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    check(cause.contains("etc.u7s-left now") && cause.contains("umount it"), &cause)?;
    check(fs::read_dir(place.at("etc"))?.next().is_none(), "an empty one is in its place")?;
    let seen = fs::metadata(&aside)?;
    check((seen.uid(), seen.mode() & 0o7777) == (0, 0o700), "root alone may enter")?;
    check(place.apply(Realm::Root, Action::RestoreHost).is_err(), "it is told until it is gone")?;
    fs::remove_dir_all(aside)?;
    place.apply(Realm::Root, Action::RestoreHost)?;
    let seen = fs::metadata(place.at("etc"))?;
    check((seen.uid(), seen.mode() & 0o7777) == (0, 0o755), "as it was")
}

fn several_owners() -> Result<(), Failed> {
    let place = Place::new();
    fs::create_dir_all(place.at("tree/storage/overlay"))?;
    fs::write(place.at("tree/storage/overlay/file"), "")?;
    for (path, id) in
        [("tree/storage", ID), ("tree/storage/overlay", 524_288), ("tree/storage/overlay/file", 589_000)]
    {
        chown(place.at(path), Some(id), Some(id))?;
        fs::set_permissions(place.at(path), fs::Permissions::from_mode(0o700))?;
    }
    let path = place.at("tree/storage");
    check(
        place.apply(Realm::User, Action::RemoveTree { path: path.clone(), keep_root: false }).is_err(),
        "not by the user",
    )?;
    place.apply(Realm::Root, Action::RemoveTree { path: path.clone(), keep_root: false })?;
    check(!path.exists(), "by root")
}
