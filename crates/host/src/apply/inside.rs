//! Programs that run inside the namespaces: kubeadm, and skopeo for images from disk.

use std::path::Path;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use u7s_plan::control::{ActiveState, Request};
use u7s_plan::crio::STORE;
use u7s_plan::facts::UserFact;
use u7s_plan::host::KUBERNETES_DIR;
use u7s_plan::node::ComponentName;
use u7s_plan::step::Done;

use super::{Applier, Ended, images};
use crate::child::last_line;
use crate::control::Client;
use crate::enter::{Entry, Input, Output, Target};
use crate::error::Error;
use crate::{files, probe, programs};

/// Where a carried document is found by the program: the first descriptor after the standard ones.
const CARRIED: &str = "/proc/self/fd/3";

/// The store's index of images, inside.
///
/// Source: containers/storage, images.go: an array of objects with `names` and `digest`.
const STORE_INDEX: &str = "/var/lib/containers/storage/overlay-images/images.json";

/// How long copying one image may take.
const COPY: Duration = Duration::from_secs(600);

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
        if let Some(done) = done_when
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
        let ended = entry.run()?;
        if ended.status.success() {
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
        if control_plane && !self.comes_up(user, limit) {
            return Ok(false);
        }
        Ok(probe::node_known(user, node, control_plane, Duration::from_secs(10)))
    }

    /// The API server comes up by itself once the kubelet runs.
    fn comes_up(&mut self, user: &UserFact, limit: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < limit {
            if probe::api_ready(user, Duration::from_secs(5)) {
                return true;
            }
            self.waiting("waiting for the API server of the existing cluster", began, limit);
            std::thread::sleep(ASK_AGAIN);
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
        let skopeo = programs::needed("skopeo")?;
        for (number, image) in missing.iter().enumerate() {
            let began = Instant::now();
            let what = format!("copying {} ({} of {})", image.name, number + 1, missing.len());
            self.waiting(&what, began, COPY);
            let from = format!("{}:{}:{}", wanted.transport, source.display(), image.name);
            let to = format!("{STORE}{}", images::qualified(&image.name));
            let skopeo = skopeo.display().to_string();
            quiet(&target, [&skopeo, "--insecure-policy", "copy", "--quiet", &from, &to], COPY)?;
            (self.tell)(super::Event::Part(&image.name, began.elapsed()));
        }
        Ok(Ended::Done)
    }
}

/// The index is the user's file: it is read by the user, inside, and taken as data. A missing one is an empty store.
fn store_index(target: &Target) -> Result<Vec<u8>, Error> {
    let entry = Entry::inside(target, ["/bin/cat", STORE_INDEX]).directory("/").input(Input::Null);
    let ended = entry.output(Output::Capture(16 << 20)).deadline(Duration::from_secs(20)).run()?;
    Ok(if ended.status.success() { ended.stdout } else { Vec::new() })
}

/// Runs a program whose output matters only if it fails.
fn quiet(target: &Target, argv: [&str; 6], deadline: Duration) -> Result<(), Error> {
    let entry =
        Entry::inside(target, argv).directory("/").input(Input::Null).output(Output::Capture(64 << 10));
    let ended = entry.deadline(deadline).run()?;
    if ended.status.success() {
        return Ok(());
    }
    let (program, status) = (argv.first().copied().unwrap_or_default().into(), ended.status.to_string());
    Err(Error::Failed { program, status, said: last_line(&ended.stderr) })
}
