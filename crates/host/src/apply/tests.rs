use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;

/// A throw-away host: a directory, and its book of former values.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("host").join(path)
    }

    fn book(&self) -> PathBuf {
        self.dir.path().join("state/undo.json")
    }

    /// A new applier each time, as a new process would be.
    fn apply(&self, phases: &[PhaseSteps]) -> Result<Tally, Error> {
        let mut tell = |_: Event<'_>| {};
        self.applier(&mut tell).run(phases)
    }

    fn reset(&self, phases: &[PhaseSteps]) -> (Tally, Vec<Error>) {
        let mut tell = |_: Event<'_>| {};
        self.applier(&mut tell).run_on(phases)
    }

    fn applier<'a>(&self, tell: &'a mut dyn FnMut(Event<'_>)) -> Applier<'a> {
        Applier {
            user: "u7s-no-such-user".into(),
            undo: Undo::open_at(&self.book()).unwrap(),
            tell,
            fresh: false,
            resets: false,
            join_commands: Vec::new(),
        }
    }

    /// Every path below the host with its mode and text, as a picture to compare.
    fn picture(&self) -> Vec<String> {
        let mut seen = Vec::new();
        let mut left = vec![self.at("")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let meta = entry.metadata().unwrap();
                let text = fs::read(entry.path()).unwrap_or_default();
                let path = entry.path().strip_prefix(self.at("")).unwrap().display().to_string();
                seen.push(format!("{path} {:o} {}", meta.mode(), String::from_utf8_lossy(&text)));
                if meta.is_dir() {
                    left.push(entry.path());
                }
            }
        }
        seen.sort();
        seen
    }
}

fn make(path: PathBuf, mode: u32, fit: bool) -> Action {
    Action::MakeDir { path, mode, owner: Owner::Root, fit }
}

fn write(path: PathBuf, text: &str) -> Action {
    Action::WriteFile { path, mode: 0o640, owner: Owner::Root, text: text.into() }
}

fn phase(actions: impl IntoIterator<Item = Action>) -> [PhaseSteps; 1] {
    let steps = actions.into_iter().map(|action| Step::root(action, "a test")).collect();
    [PhaseSteps { phase: Phase::Configure, steps }]
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A host with a foreign directory of another mode and a foreign file.
fn host_before(place: &Place) {
    fs::create_dir_all(place.at("etc/kubernetes")).unwrap();
    set_mode(&place.at("etc/kubernetes"), 0o775);
    fs::write(place.at("etc/foreign.conf"), "theirs").unwrap();
    set_mode(&place.at("etc/foreign.conf"), 0o604);
}

fn init(place: &Place) -> [PhaseSteps; 1] {
    phase([
        make(place.at("var/lib/kubelet"), 0o755, false),
        make(place.at("etc/kubernetes"), 0o700, true),
        make(place.at("etc/u7s/patches"), 0o750, true),
        write(place.at("etc/u7s/node.json"), "{}\n"),
        write(place.at("etc/foreign.conf"), "ours"),
    ])
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    let place = Place::new();
    host_before(&place);
    assert_eq!(place.apply(&init(&place)).unwrap(), Tally { done: 5, held: 0, skipped: 0 });
    let (picture, book) = (place.picture(), fs::read(place.book()).unwrap());
    let inode = fs::metadata(place.at("etc/u7s/node.json")).unwrap().ino();
    assert_eq!(place.apply(&init(&place)).unwrap(), Tally { done: 0, held: 5, skipped: 0 });
    assert_eq!(place.picture(), picture);
    assert_eq!(fs::read(place.book()).unwrap(), book);
    assert_eq!(fs::metadata(place.at("etc/u7s/node.json")).unwrap().ino(), inode);
}

#[test]
fn after_reset_the_host_is_as_it_was_and_the_book_is_gone() {
    let place = Place::new();
    host_before(&place);
    let before = place.picture();
    place.apply(&init(&place)).unwrap();
    // What the first run did must not become the former state of a second one.
    fs::write(place.at("etc/u7s/node.json"), "older").unwrap();
    place.apply(&init(&place)).unwrap();
    let reset = phase([
        Action::RemoveFile { path: place.at("etc/u7s/node.json") },
        Action::RemoveTree { path: place.at("etc/u7s/patches"), keep_root: true },
        Action::RestoreHost,
    ]);
    let (_, errors) = place.reset(&reset);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(place.picture(), before);
    assert!(!place.book().exists());
    let (tally, errors) = place.reset(&reset);
    assert_eq!((tally, errors.len()), (Tally { done: 0, held: 3, skipped: 0 }, 0));
}

#[test]
fn a_directory_that_somebody_else_filled_stays_and_so_does_what_is_in_it() {
    let place = Place::new();
    fs::create_dir(place.at("")).unwrap();
    place.apply(&phase([make(place.at("opt/cni/bin"), 0o755, false)])).unwrap();
    fs::write(place.at("opt/cni/plugin"), "theirs").unwrap();
    let (_, errors) = place.reset(&phase([Action::RestoreHost]));
    assert!(errors.is_empty());
    assert!(!place.at("opt/cni/bin").exists());
    assert_eq!(fs::read(place.at("opt/cni/plugin")).unwrap(), b"theirs");
}

/// The sibling of a new file is made before the file: a run killed in between left it, and reset left it too.
#[test]
fn f18_reset_takes_half_written_files_of_a_killed_run_with_it() {
    let place = Place::new();
    fs::create_dir_all(place.at("etc")).unwrap();
    let before = place.picture();
    place.apply(&phase([make(place.at("etc/u7s"), 0o755, true)])).unwrap();
    let mut undo = Undo::open_at(&place.book()).unwrap();
    undo.file(&place.at("etc/u7s/policy.json"), None).unwrap();
    for name in ["node.json", "policy.json"] {
        fs::write(place.at(&format!("etc/u7s/.{name}.u7s-new")), "ha").unwrap();
    }
    let reset = phase([Action::RemoveFile { path: place.at("etc/u7s/node.json") }, Action::RestoreHost]);
    let (_, errors) = place.reset(&reset);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(place.picture(), before);
    let begun = place.book().with_file_name(".undo.json.u7s-new");
    fs::write(&begun, "{").unwrap();
    assert_eq!(place.reset(&reset).0, Tally { done: 1, held: 1, skipped: 0 });
    assert!(!begun.exists());
}

#[test]
fn a_finished_node_that_runs_keeps_its_files_and_the_difference_is_told() {
    let place = Place::new();
    fs::create_dir_all(place.at("etc")).unwrap();
    let keep = |name: &str, text: Option<&str>| Action::Keep {
        path: place.at(name),
        mode: 0o640,
        owner: Owner::Root,
        text: text.map(str::to_owned),
    };
    let spec = |hosts: &str| format!("{{\n  \"version\": 1,\n  \"hosts\": \"{hosts}\"\n}}\n");
    fs::write(place.at("etc/node.json"), spec("a")).unwrap();
    fs::write(place.at("etc/cni"), "x").unwrap();
    let mut told = Vec::new();
    let mut tell = |event: Event<'_>| {
        if let Event::Skipped(_, _, why) = event {
            told.push(why);
        }
    };
    let steps = phase([
        keep("etc/node.json", Some(&spec("b\u{1b}"))),
        keep("etc/cni", None),
        keep("etc/none", None),
        keep("etc/missing", Some("new")),
        keep("etc/missing", Some("new")),
    ]);
    let tally = place.applier(&mut tell).run(&steps).unwrap();
    assert_eq!(tally, Tally { done: 1, held: 2, skipped: 2 });
    let apply = "; the running node is left alone. To apply it, which restarts all pods of the node: \
                 systemctl stop u7s.service, then the same kubeadm init again";
    let expected =
        ["this init would change hosts", "this init would remove it"].map(|what| format!("{what}{apply}"));
    assert_eq!(told, expected);
    assert_eq!(fs::read_to_string(place.at("etc/node.json")).unwrap(), spec("a"));
    assert_eq!(fs::read(place.at("etc/cni")).unwrap(), b"x");
    assert_eq!(fs::read(place.at("etc/missing")).unwrap(), b"new");
}

#[test]
fn f51_a_link_device_or_directory_in_place_of_our_file_is_refused() {
    let place = Place::new();
    fs::create_dir_all(place.at("dir")).unwrap();
    fs::write(place.at("victim"), "precious").unwrap();
    symlink(place.at("victim"), place.at("link")).unwrap();
    symlink(place.at("dir"), place.at("above")).unwrap();
    let cause = |action| match place.apply(&phase([action])).unwrap_err() {
        Error::Step { source, .. } => *source,
        other => other,
    };
    assert!(matches!(cause(write(place.at("link"), "x")), Error::Link { .. }));
    assert!(matches!(cause(write(place.at("above/new"), "x")), Error::Link { .. }));
    assert!(matches!(cause(write(place.at("dir"), "x")), Error::NotRegular { .. }));
    assert!(matches!(cause(write("/dev/null".into(), "x")), Error::NotRegular { .. }));
    assert!(matches!(cause(make(place.at("victim"), 0o700, true)), Error::NotDirectory { .. }));
    assert!(matches!(cause(make(place.at("above"), 0o700, true)), Error::Link { .. }));
    assert!(matches!(
        cause(Action::RemoveTree { path: place.at("above"), keep_root: false }),
        Error::Link { .. }
    ));
    assert_eq!(fs::read(place.at("victim")).unwrap(), b"precious");
    assert!(!place.book().exists());
}

#[test]
fn a_needed_directory_may_be_a_link_that_only_we_could_make() {
    let place = Place::new();
    fs::create_dir_all(place.at("data")).unwrap();
    symlink(place.at("data"), place.at("kubelet")).unwrap();
    let tally = place.apply(&phase([make(place.at("kubelet"), 0o755, false)])).unwrap();
    assert_eq!(tally.held, 1);
    set_mode(&place.at(""), 0o777);
    assert!(place.apply(&phase([make(place.at("kubelet"), 0o755, false)])).is_err());
}

#[test]
fn init_ends_at_the_first_failure_and_reset_goes_on() {
    let place = Place::new();
    fs::create_dir_all(place.at("dir")).unwrap();
    let steps = phase([
        write(place.at("none/file"), "x"),
        Action::SetSysctl { key: "../etc/passwd".into(), value: "x".into() },
        write(place.at("dir/file"), "x"),
    ]);
    let error = place.apply(&steps).unwrap_err();
    assert!(error.to_string().starts_with("[configure] root: write "), "{error}");
    assert!(!place.at("dir/file").exists());
    let (tally, errors) = place.reset(&steps);
    assert_eq!((tally.done, errors.len()), (1, 2));
    assert!(place.at("dir/file").exists());
}

#[test]
fn every_step_is_told_once_and_phases_come_first() {
    let place = Place::new();
    fs::create_dir(place.at("")).unwrap();
    let mut told = Vec::new();
    let mut tell = |event: Event<'_>| {
        told.push(match event {
            Event::Phase(phase) => format!("phase {}", phase.as_str()),
            Event::Done(..) => "done".to_owned(),
            Event::Held(..) => "held".to_owned(),
            other => format!("{other:?}"),
        });
    };
    let steps = phase([make(place.at("a"), 0o700, true), make(place.at("a"), 0o700, true)]);
    place.applier(&mut tell).run(&steps).unwrap();
    assert_eq!(told, ["phase configure", "done", "held"]);
}

#[test]
fn secrets_that_stay_do_not_hide_the_error_of_the_run_nor_each_other() {
    let run = || Err(Error::Deadline { what: "kubeadm".into(), seconds: 7 });
    let left = |name: &str| Error::Link { path: name.into() };
    assert_eq!(both(run(), vec![]).unwrap_err().to_string(), "kubeadm took longer than 7 s");
    let text = whole(&both(run(), vec![left("/a"), left("/b")]).unwrap_err());
    assert!(["/a", "/b", "kubeadm took longer than 7 s"].iter().all(|part| text.contains(part)), "{text}");
    assert!(both(Ok(Ended::Done), vec![left("/a")]).unwrap_err().to_string().contains("/a"));
    let text = both(Ok(Ended::Done), vec![left("/a"), left("/b")]).unwrap_err().to_string();
    assert!(text.contains("/a") && text.contains("/b"), "{text}");
    assert_eq!(both(Ok(Ended::Held), vec![]).unwrap(), Ended::Held);
}

#[test]
fn an_unknown_user_is_named() {
    let place = Place::new();
    fs::create_dir(place.at("")).unwrap();
    let action = Action::MakeDir { path: place.at("a"), mode: 0o700, owner: Owner::Node, fit: true };
    let Error::Step { source, .. } = place.apply(&phase([action])).unwrap_err() else { panic!("no step") };
    assert_eq!(source.to_string(), "there is no user u7s-no-such-user");
}

mod kubeconfigs {
    use super::*;

    fn admin_conf(server: &str, extra: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: k\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: LS0tLS1CRUdJTiBY\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n\
             current-context: c\nusers:\n- name: u\n  user:\n    client-certificate-data: LS0tLS1CRUdJTiBY\n    \
             client-key-data: LS0tLS1CRUdJTiBY\n{extra}"
        )
    }

    fn publish(place: &Place) -> [PhaseSteps; 1] {
        let (source, path) = (place.at("admin.conf"), place.at("root/.kube/config"));
        phase([Action::PublishKubeconfig { source, path, owner: Owner::Root }])
    }

    fn unpublish(place: &Place) -> [PhaseSteps; 1] {
        phase([Action::UnpublishKubeconfig { path: place.at("root/.kube/config"), owner: Owner::Root }])
    }

    #[test]
    fn a_foreign_kubeconfig_comes_back_and_ours_is_0600() {
        let place = Place::new();
        fs::create_dir_all(place.at("root/.kube")).unwrap();
        fs::write(place.at("root/.kube/config"), "theirs").unwrap();
        fs::write(place.at("admin.conf"), admin_conf("https://192.0.2.7:6443", "")).unwrap();
        assert_eq!(place.apply(&publish(&place)).unwrap().done, 1);
        assert_eq!(place.apply(&publish(&place)).unwrap().held, 1);
        let ours = place.at("root/.kube/config");
        assert!(fs::read_to_string(&ours).unwrap().contains("https://192.0.2.7:6443"));
        assert_eq!(fs::metadata(&ours).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(place.book()).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(place.apply(&unpublish(&place)).unwrap().done, 1);
        assert_eq!(fs::read(&ours).unwrap(), b"theirs");
    }

    /// Every further init overwrote a namespace that was chosen and other clusters that were added.
    #[test]
    fn what_the_administrator_added_to_a_published_kubeconfig_stays() {
        let place = Place::new();
        fs::create_dir_all(place.at("root")).unwrap();
        fs::write(place.at("admin.conf"), admin_conf("https://192.0.2.7:6443", "")).unwrap();
        place.apply(&publish(&place)).unwrap();
        let ours = place.at("root/.kube/config");
        let more = fs::read_to_string(&ours).unwrap().replace(
            "\"user\": \"kubernetes-admin\"\n",
            "\"user\": \"kubernetes-admin\", \"namespace\": \"shop\"\n",
        );
        assert!(more.contains("shop"), "{more}");
        fs::write(&ours, &more).unwrap();
        assert_eq!(place.apply(&publish(&place)).unwrap().held, 1);
        assert_eq!(fs::read_to_string(&ours).unwrap(), more);
        fs::write(place.at("admin.conf"), admin_conf("https://192.0.2.8:6443", "")).unwrap();
        assert_eq!(place.apply(&publish(&place)).unwrap().done, 1);
        assert!(!fs::read_to_string(&ours).unwrap().contains("shop"));
    }

    #[test]
    fn ours_is_removed_where_there_was_none_and_a_foreign_one_is_never_touched() {
        let place = Place::new();
        fs::create_dir_all(place.at("root")).unwrap();
        fs::write(place.at("admin.conf"), admin_conf("https://192.0.2.7:6443", "")).unwrap();
        place.apply(&publish(&place)).unwrap();
        place.apply(&unpublish(&place)).unwrap();
        assert!(!place.at("root/.kube/config").exists());
        fs::create_dir_all(place.at("root/.kube")).unwrap();
        fs::write(place.at("root/.kube/config"), "later").unwrap();
        assert_eq!(place.apply(&unpublish(&place)).unwrap().held, 1);
        assert_eq!(fs::read(place.at("root/.kube/config")).unwrap(), b"later");
    }

    #[test]
    fn s6_a_hostile_admin_conf_is_refused_and_no_word_of_it_is_repeated() {
        let place = Place::new();
        fs::create_dir_all(place.at("root")).unwrap();
        let refused = || {
            let error = place.apply(&publish(&place)).unwrap_err();
            assert!(!place.at("root/.kube/config").exists());
            whole(&error)
        };
        assert!(refused().contains("it does not exist"));
        let exec = "    exec: {command: /tmp/canary, apiVersion: client.authentication.k8s.io/v1}\n";
        for text in [
            admin_conf("https://192.0.2.7:6443", exec),
            admin_conf("http://canary.example", ""),
            "a: canary\n---\nb: canary\n".to_owned(),
            "canary: [".to_owned(),
        ] {
            fs::write(place.at("admin.conf"), text).unwrap();
            let said = refused();
            assert!(!said.contains("canary"), "{said}");
        }
        fs::remove_file(place.at("admin.conf")).unwrap();
        symlink("/etc/shadow", place.at("admin.conf")).unwrap();
        assert!(refused().contains("symbolic link"));
        fs::remove_file(place.at("admin.conf")).unwrap();
        nix::unistd::mkfifo(&place.at("admin.conf"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(refused().contains("not a regular file"));
        fs::remove_file(place.at("admin.conf")).unwrap();
        fs::File::create(place.at("admin.conf")).unwrap().set_len(2 << 20).unwrap();
        assert!(refused().contains("larger than"));
    }
}

#[test]
fn while_something_of_the_node_may_live_nothing_later_of_a_reset_is_done() {
    let place = Place::new();
    fs::create_dir_all(place.at("")).unwrap();
    // No systemd knows such a name, and where there is none it cannot be asked.
    let barrier = Action::StopUnit { unit: "no unit".into(), seconds: 1 };
    let refused = Action::RemoveTree { path: "relative".into(), keep_root: false };
    let [first] = phase([refused, write(place.at("before"), ""), barrier, write(place.at("behind"), "")]);
    let [second] = phase([write(place.at("later"), "")]);
    let (tally, errors) = place.reset(&[first, second]);
    assert_eq!((tally.done, errors.len()), (1, 2), "{errors:?}");
    assert!(place.at("before").exists() && !place.at("behind").exists() && !place.at("later").exists());
}
