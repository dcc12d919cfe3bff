//! Programs that run inside the namespaces: kubeadm, and skopeo for images from disk.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use u7s_plan::closing::Closing;
use u7s_plan::control::{ActiveState, Request};
use u7s_plan::crio::STORE;
use u7s_plan::facts::UserFact;
use u7s_plan::host::{KUBERNETES_DIR, tree};
use u7s_plan::kubeconfig;
use u7s_plan::node::ComponentName;
use u7s_plan::step::Done;
use u7s_plan::timings;

use super::{Applier, Ended, Event, images};
use crate::child::last_line;
use crate::control::Client;
use crate::enter::{Entry, Input, Output, Shown, Target};
use crate::error::Error;
use crate::{files, probe, programs};

/// Where a carried document is found by the program: the first descriptor after the standard ones.
const CARRIED: &str = "/proc/self/fd/3";

/// The store's index of images, inside.
///
/// Source: containers/storage, images.go: an array of objects with `names` and `digest`.
const STORE_INDEX: &str = "/var/lib/containers/storage/overlay-images/images.json";

/// What kubeadm writes below [`KUBERNETES_DIR`] for every control plane.
const CONTROL_PLANE: [&str; 6] = [
    "admin.conf",
    "controller-manager.conf",
    "scheduler.conf",
    "manifests/kube-apiserver.yaml",
    "manifests/kube-controller-manager.yaml",
    "manifests/kube-scheduler.yaml",
];

/// How long copying one image may take.
const COPY: Duration = Duration::from_secs(600);

/// The most images that are copied at a time: the store's lock is held for half of each.
const MOST_LANES: usize = 4;

const COPY_SCRIPT: &str = include_str!("copy.sh");

/// Pause between two questions to the API server.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl Applier<'_> {
    pub(super) fn run_inside(
        &mut self,
        argv: &[String],
        carried: Vec<&SecretString>,
        done_when: Option<&Done>,
        limit: Duration,
    ) -> Result<Ended, Error> {
        let user = self.user()?;
        if let Some(done) = done_when.filter(|_| !self.fresh)
            && files::stat(done.file())?.is_some()
            && self.stands(&user, done, limit / 15)?
        {
            return Ok(Ended::Held);
        }
        let target = Target::find(&user)?;
        let argv = argv.iter().map(|word| word.replace("{config}", CARRIED));
        let program = argv.clone().next().unwrap_or_default();
        let mut entry = Entry::inside(&target, argv).deadline(limit);
        for document in carried {
            entry.carry("u7s-config", document.expose_secret().as_bytes())?;
        }
        let mut lines = Lines::default();
        let closing = Rc::new(RefCell::new(Closing::default()));
        let shows = Rc::clone(&closing);
        let entry = entry
            .shown(Shown::Lines(Rc::new(RefCell::new(move |line: &str| shows.borrow_mut().shows(line)))));
        let ended = entry.run_heard(&mut |bytes| {
            lines.take(bytes, |line| {
                if let Some(phase) = timings::phase_of(line) {
                    (self.tell)(Event::Heard(phase));
                }
            });
        })?;
        self.join_commands.extend(closing.borrow().commands());
        if ended.status.success() {
            self.fresh |= done_when.is_some();
            Ok(Ended::Done)
        } else {
            Err(Error::Inside { program, status: ended.status })
        }
    }

    /// Whether the cluster of an earlier run is whole. False: the program runs again and completes what is there.
    ///
    /// A finished one whose API server stays silent is an error: what ails it is not mended by making it anew, and
    /// the administrator may have changed its manifests.
    fn stands(&mut self, user: &UserFact, done: &Done, limit: Duration) -> Result<bool, Error> {
        admin_is_sound()?;
        let client = Client::new(user.uid);
        let status = client.status()?;
        let kubelet = probe::kubelet(&status);
        let finished = kubelet.is_some_and(|kubelet| kubelet.enabled);
        let runs =
            kubelet.is_some_and(|seen| matches!(seen.active, ActiveState::Active | ActiveState::Activating));
        if !runs {
            match client.done(&Request::Start { component: ComponentName::Kubelet }) {
                // Without its configuration it is refused: the earlier run did not come so far.
                Err(crate::control::Error::Refused { .. }) if !finished => return Ok(false),
                started => started?,
            }
        }
        if programs::needed("kubectl").is_err() {
            // Nobody else can ask the API server.
            return Ok(finished);
        }
        match done {
            Done::Begun { objects, .. } => self.begun(user, *objects, finished, limit),
            Done::Joined { node, control_plane, .. } => {
                self.joined(user, (node, *control_plane), finished, limit)
            }
        }
    }

    fn begun(
        &mut self,
        user: &UserFact,
        objects: (&str, &[&str]),
        finished: bool,
        limit: Duration,
    ) -> Result<bool, Error> {
        if !finished && !kubeadm_is_whole(user, true)? {
            return Ok(false);
        }
        if self.comes_up(user, limit) {
            let (namespace, objects) = objects;
            return Ok(finished || probe::api_has(user, namespace, objects, Duration::from_secs(10)));
        }
        if finished { Err(Error::ClusterDown { seconds: limit.as_secs() }) } else { Ok(false) }
    }

    /// A node of the other role has not joined as asked: kubeadm runs, and refuses in its own words.
    ///
    /// While the rest of the control plane is down, a finished node is still one.
    fn joined(
        &mut self,
        user: &UserFact,
        wanted: (&str, bool),
        finished: bool,
        limit: Duration,
    ) -> Result<bool, Error> {
        let (node, control_plane) = wanted;
        let manifest = Path::new(KUBERNETES_DIR).join("manifests/kube-apiserver.yaml");
        if files::stat(&manifest)?.is_some() != control_plane {
            return Ok(false);
        }
        if finished {
            return Ok(true);
        }
        if files::stat(&Path::new(KUBERNETES_DIR).join("bootstrap-kubelet.conf"))?.is_some() {
            return Ok(false);
        }
        if !kubeadm_is_whole(user, control_plane)? || (control_plane && !self.comes_up(user, limit)) {
            return Ok(false);
        }
        Ok(probe::node_known(user, node, control_plane, Duration::from_secs(10)))
    }

    /// The API server comes up by itself once the kubelet runs.
    fn comes_up(&mut self, user: &UserFact, limit: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < limit {
            let asked = Instant::now();
            if probe::api_ready(user, Duration::from_secs(5)) {
                return true;
            }
            self.waiting("waiting for the API server of the existing cluster", began, limit);
            // A slow machine shall not spend itself on questions.
            std::thread::sleep(ASK_AGAIN.max(asked.elapsed()));
        }
        false
    }

    /// Images that the store has under the same name and digest are left alone.
    ///
    /// The source is root's, so no signature is asked of it: the administrator put it there.
    pub(super) fn load_images(&mut self, source: &Path) -> Result<Ended, Error> {
        let wanted = images::list(source)?;
        let target = Target::find(&self.user()?)?;
        let stored = images::stored(&store_index(&target)?);
        let missing: Vec<_> = wanted.images.iter().filter(|image| !stored.has(image)).collect();
        if missing.is_empty() {
            return Ok(Ended::Held);
        }
        self.copy(&target, source, (wanted.transport, &missing))?;
        Ok(Ended::Done)
    }

    /// Several at a time: much of a copy is the work of one core, or waits for the store's lock.
    fn copy(
        &mut self,
        target: &Target,
        source: &Path,
        (transport, images): (&str, &[&images::Image]),
    ) -> Result<(), Error> {
        let skopeo = programs::needed("skopeo")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let lanes = cores.clamp(1, MOST_LANES).min(images.len()).to_string();
        let from = format!("{transport}:{}", source.display());
        let program = skopeo.display().to_string();
        let head = ["/bin/sh", "-c", COPY_SCRIPT, "copy.sh", &lanes, &program, &from, STORE];
        let names = images.iter().flat_map(|image| [image.name.clone(), images::qualified(&image.name)]);
        let argv = head.into_iter().map(str::to_owned).chain(names);
        let deadline = COPY * u32::try_from(images.len()).unwrap_or(u32::MAX);
        let entry = Entry::inside(target, argv).directory("/").input(Input::Null);
        let entry = entry.output(Output::Capture(64 << 10)).deadline(deadline);
        let (mut lines, mut copies) = (Lines::default(), Copies::new(images));
        let ended = entry
            .run_heard(&mut |bytes| lines.take(bytes, |line| copies.hear(line, Instant::now(), self.tell)))?;
        if ended.status.success() {
            return Ok(());
        }
        let status = ended.status.to_string();
        Err(Error::Failed { program: skopeo, status, said: last_line(&ended.stderr) })
    }
}

/// kubectl inside uses admin.conf: with a setting in it that kubeadm does not write it fails, and that looks like a silent API server.
fn admin_is_sound() -> Result<(), Error> {
    let admin = Path::new(KUBERNETES_DIR).join("admin.conf");
    match probe::kubeconfigs().iter().find(|fault| Path::new(&fault.path) == admin) {
        Some(fault) => Err(Error::Kubeconfig { path: admin, reason: kubeconfig::need(fault).message }),
        None => Ok(()),
    }
}

/// Whether all is there that kubeadm writes and pods or the kubelet read: init removes what a power cut left without content,
/// and an API server that answers does not miss another's manifest.
fn kubeadm_is_whole(user: &UserFact, control_plane: bool) -> Result<bool, Error> {
    let there = |path: &Path| files::stat(path).map(|file| file.is_some_and(|file| file.st_size > 0));
    let kubernetes = Path::new(KUBERNETES_DIR);
    let kubelet = tree(&user.home).join("kubelet");
    let mut wanted = vec![kubernetes.join("kubelet.conf")];
    wanted.extend(["config.yaml", "kubeadm-flags.env"].map(|name| kubelet.join(name)));
    if control_plane {
        wanted.extend(CONTROL_PLANE.map(|name| kubernetes.join(name)));
        // kubeadm makes it for an etcd of the node's own only.
        let etcd = there(&kubernetes.join("pki/etcd/server.crt"))?;
        wanted.extend(etcd.then(|| kubernetes.join("manifests/etcd.yaml")));
    }
    for path in wanted {
        if !there(&path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies that go on at the same time.
struct Copies<'a> {
    /// All of them, in order, with the begin of those that have begun.
    images: Vec<(&'a str, Option<Instant>)>,
    begun: usize,
}

impl<'a> Copies<'a> {
    fn new(images: &[&'a images::Image]) -> Self {
        Self { images: images.iter().map(|image| (image.name.as_str(), None)).collect(), begun: 0 }
    }

    /// Tells what a line of the script means; one that names no image of ours means nothing.
    fn hear(&mut self, line: &str, now: Instant, tell: &mut dyn FnMut(Event<'_>)) {
        let mark = line.get(..1).unwrap_or_default();
        let named = line.get(1..).unwrap_or_default();
        let all = self.images.len();
        let Some((name, began)) = self.images.iter_mut().find(|(name, _)| *name == named) else { return };
        match mark {
            "+" => {
                *began = Some(now);
                self.begun += 1;
                let what = format!("copying {name} ({} of {all})", self.begun);
                tell(Event::Waiting(&what, Duration::ZERO, COPY));
            }
            "-" => tell(Event::Part(name, began.map_or(Duration::ZERO, |began| now - began))),
            _ => {}
        }
    }
}

/// Cuts a stream into lines; of a line that is longer than any of kubeadm's headings, the start is enough.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// Bytes of a line that are kept.
    const KEPT: usize = 600;

    fn take(&mut self, bytes: &[u8], mut whole: impl FnMut(&str)) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    whole(&String::from_utf8_lossy(&self.line));
                    self.line.clear();
                }
                _ if self.line.len() < Self::KEPT => self.line.push(*byte),
                _ => {}
            }
        }
    }
}

/// The index is the user's file: it is read by the user, inside, and taken as data. A missing one is an empty store.
fn store_index(target: &Target) -> Result<Vec<u8>, Error> {
    let entry = Entry::inside(target, ["/bin/cat", STORE_INDEX]).directory("/").input(Input::Null);
    let ended = entry.output(Output::Capture(16 << 20)).deadline(Duration::from_secs(20)).run()?;
    Ok(if ended.status.success() { ended.stdout } else { Vec::new() })
}

/// A stream of kubeadm's: however it is cut into pieces, the lines are the same, and each is bounded.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let seen = |size: usize| {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        data.chunks(size).for_each(|piece| lines.take(piece, |line| seen.push(line.to_owned())));
        seen
    };
    let whole = seen(data.len().max(1));
    assert!(whole.iter().all(|line| line.len() <= 3 * Lines::KEPT));
    assert_eq!(whole, seen(7));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_stream_is_cut_and_long_ones_cost_no_memory() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in ["[certs] a", "\n[kubelet-st", "art] b\n\n", &"x".repeat(1 << 20), "\nlast"] {
            lines.take(piece.as_bytes(), |line| seen.push(line.to_owned()));
        }
        let long = "x".repeat(Lines::KEPT);
        assert_eq!(seen, ["[certs] a", "[kubelet-start] b", "", &long]);
        assert_eq!(lines.line, b"last");
    }

    /// The script itself, with a program in the place of skopeo that says what it was called with.
    fn copied(lanes: &str, fail: &str) -> (bool, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let skopeo = dir.path().join("skopeo");
        let script = format!("#!/bin/sh\nshift 3\necho \"$*\"\ncase $* in *{fail}*) exit 1 ;; esac\n");
        std::fs::write(&skopeo, script).unwrap();
        std::fs::set_permissions(&skopeo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let head = ["-c", COPY_SCRIPT, "copy.sh", lanes, skopeo.to_str().unwrap(), "oci:/a b", "store:"];
        let names = ["x/a:1", "x/a:1", "b", "docker.io/library/b", "c", "c"];
        let output = std::process::Command::new("/bin/sh").args(head).args(names).output().unwrap();
        let mut said: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        said.sort();
        (output.status.success(), said)
    }

    #[test]
    fn each_image_is_copied_once_in_however_many_lanes() {
        let all = [
            "+b",
            "+c",
            "+x/a:1",
            "-b",
            "-c",
            "-x/a:1",
            "oci:/a b:b store:docker.io/library/b",
            "oci:/a b:c store:c",
            "oci:/a b:x/a:1 store:x/a:1",
        ];
        for lanes in ["1", "2", "3"] {
            assert_eq!(copied(lanes, "nothing"), (true, all.map(str::to_owned).into()), "{lanes} lanes");
        }
        let (whole, said) = copied("2", "a:1");
        assert!(
            !whole && said.contains(&"-b".to_owned()) && !said.contains(&"-x/a:1".to_owned()),
            "{said:?}"
        );
    }

    #[test]
    fn what_is_said_of_a_copy_is_its_number_and_its_time() {
        let image = |name: &str| images::Image { name: name.into(), digest: None };
        let (a, b) = (image("a"), image("b"));
        let mut copies = Copies::new(&[&a, &b]);
        let mut told = Vec::new();
        let start = Instant::now();
        for (line, ms) in [("+a", 0), ("+b", 5), ("-a", 30), ("+stranger", 40), ("-b", 50), ("", 60)] {
            let now = start + Duration::from_millis(ms);
            copies.hear(line, now, &mut |event| match event {
                Event::Waiting(what, ..) => told.push(what.to_owned()),
                Event::Part(what, took) => told.push(format!("{what} {}", took.as_millis())),
                _ => {}
            });
        }
        assert_eq!(told, ["copying a (1 of 2)", "copying b (2 of 2)", "a 30", "b 45"]);
    }
}
