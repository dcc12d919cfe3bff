//! What is written to the cluster, one kubectl at a time: the node's own label, the status of LoadBalancer Services, and an Event
//! for each port that the host does not give.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use u7s_plan::services::{FIELD_MANAGER, Key, LABEL, Notice, Patch};

use super::kubectl::Kubectl;
use crate::backoff::Backoff;

/// The longest answer, bytes: a name.
const ANSWER: usize = 4096;

/// How long one patch may take.
const PATCH: Duration = Duration::from_secs(20);

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    /// The node's label.
    Label,
    /// The status of a Service.
    Status(Patch),
    /// An Event.
    Tell(Notice),
}

/// Writes what is wanted, again after a pause where that fails.
#[derive(Debug)]
pub(crate) struct Writer {
    node: Kubectl,
    node_name: String,
    /// Absent where this node does not write status.
    admin: Option<Kubectl>,
    wanted: VecDeque<Job>,
    /// What was written for a Service and has not come back by the watch yet.
    written: BTreeMap<Key, String>,
    /// Names of the Events that need not be made any more.
    told: BTreeSet<String>,
    labelled: bool,
    running: Option<(Job, JoinHandle<Result<(), String>>)>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some((_, running)) = self.running.take() {
            running.abort();
        }
    }
}

impl Writer {
    /// With the node's own credentials, and the administrator's where it may have them.
    pub(crate) fn new(node: Kubectl, node_name: String, admin: Option<Kubectl>) -> Self {
        Self {
            node,
            node_name,
            admin,
            wanted: VecDeque::new(),
            written: BTreeMap::new(),
            told: BTreeSet::new(),
            labelled: false,
            running: None,
            backoff: Backoff::default(),
            not_before: None,
        }
    }

    /// A Service has changed: what was written for it may have to be written again.
    pub(crate) fn forget(&mut self, service: &Key) {
        self.written.remove(service);
    }

    /// All was listed anew. So the API server answers: the node's label is looked after as well.
    pub(crate) fn forget_all(&mut self) {
        self.written.clear();
        self.labelled = false;
    }

    /// What is to be written now; what was wanted before is not any more. A notice is told once while it is wanted.
    pub(crate) fn want(&mut self, patches: Vec<Patch>, notices: Vec<Notice>) {
        self.wanted.clear();
        if !self.labelled {
            self.wanted.push_back(Job::Label);
        }
        let fresh = |patch: &Patch| self.written.get(&patch.service) != Some(&patch.text);
        self.wanted.extend(patches.into_iter().filter(fresh).map(Job::Status));
        let names: BTreeSet<&str> = notices.iter().map(|notice| notice.name.as_str()).collect();
        self.told.retain(|name| names.contains(name.as_str()));
        let news = notices.into_iter().filter(|notice| !self.told.contains(&notice.name));
        self.wanted.extend(news.map(Job::Tell));
    }

    /// Waits until something was written or could not be. May be cancelled; without wishes it never ends.
    pub(crate) async fn turn(&mut self) {
        if self.running.is_none() {
            if self.wanted.is_empty() {
                return std::future::pending().await;
            }
            if let Some(not_before) = self.not_before {
                sleep_until(not_before).await;
                self.not_before = None;
            }
            let Some(job) = self.wanted.pop_front() else { return };
            let running = match &job {
                Job::Tell(notice) => tokio::spawn(tell(self.node.clone(), notice.text.clone())),
                _ => tokio::spawn(self.patch(&job)),
            };
            self.running = Some((job, running));
        }
        let Some((_, running)) = &mut self.running else { return };
        let outcome = running.await.unwrap_or_else(|error| Err(error.to_string()));
        let Some((job, _)) = self.running.take() else { return };
        self.take(job, outcome);
    }

    fn take(&mut self, job: Job, outcome: Result<(), String>) {
        match (outcome, job) {
            (Ok(()), Job::Label) => {
                self.labelled = true;
                self.backoff = Backoff::default();
            }
            (Ok(()), Job::Status(patch)) => {
                tracing::info!(service = %patch.service, "wrote the status of a LoadBalancer Service");
                self.written.insert(patch.service, patch.text);
                self.backoff = Backoff::default();
            }
            (Ok(()), Job::Tell(notice)) => {
                self.told.insert(notice.name);
                self.backoff = Backoff::default();
            }
            (Err(reason), job) => {
                let pause = self.backoff.endless(Duration::ZERO);
                // A node that is only joining is not registered yet.
                if self.backoff.deaths() == 4 {
                    tracing::warn!(?job, reason, "cannot be written, it is tried again");
                }
                // Status and journal tell, too.
                if let Job::Tell(notice) = job
                    && self.backoff.deaths() >= 4
                {
                    self.told.insert(notice.name);
                }
                self.not_before = Some(Instant::now() + pause);
            }
        }
    }

    fn patch(&self, job: &Job) -> impl Future<Output = Result<(), String>> + use<> {
        let label = format!("{{\"metadata\":{{\"labels\":{{\"{LABEL}\":\"yes\"}}}}}}");
        let (kubectl, kind, namespace, name, text) = match job {
            Job::Tell(_) => (None, "event", String::new(), String::new(), String::new()),
            Job::Label => (Some(self.node.clone()), "node", String::new(), self.node_name.clone(), label),
            Job::Status(Patch { service, text }) => {
                let Key { namespace, name } = service.clone();
                (self.admin.clone(), "service", namespace, name, text.clone())
            }
        };
        async move {
            let Some(kubectl) = kubectl else { return Ok(()) };
            let manager = format!("--field-manager={FIELD_MANAGER}");
            let namespace = format!("--namespace={namespace}");
            let (patch, subresource) = (format!("--patch={text}"), "--subresource=status");
            let mut arguments = vec!["patch", kind, &name, &manager, "--type=merge", &patch, "--output=name"];
            if kind == "service" {
                arguments.extend([namespace.as_str(), subresource]);
            }
            let answer = kubectl.run(&arguments, (ANSWER, crate::patience::of(PATCH))).await;
            answer.map(drop).map_err(|failure| failure.to_string())
        }
    }
}

/// Makes an Event; one that is there already has told the same.
///
/// A node may make Events. Source: kubernetes, plugin/pkg/auth/authorizer/rbac/bootstrappolicy, `NodeRules`.
async fn tell(kubectl: Kubectl, text: String) -> Result<(), String> {
    // Without validation no schemas are fetched.
    let arguments = ["create", "--filename=-", "--validate=false", "--output=name"];
    match kubectl.feed(&arguments, &text, (ANSWER, crate::patience::of(PATCH))).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.to_string().contains("(AlreadyExists)") => Ok(()),
        Err(failure) => Err(failure.to_string()),
    }
}
