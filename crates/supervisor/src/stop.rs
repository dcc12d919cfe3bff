//! The end, in reverse order of the start, whatever the reason; it goes on after errors.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use u7s_plan::node::ComponentName;

use crate::Error;
use crate::notify::Notifier;
use crate::pid_one::PidOne;
use crate::serve::{Happened, Node};
use crate::service::Service;
use crate::watch::watch;

/// How long a component may take after SIGTERM.
const COMPONENT: Duration = Duration::from_secs(10);

/// How long all pods together may take after SIGTERM.
const PODS: Duration = Duration::from_secs(10);

/// How long what was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(5);

/// How long pid 1 may take to end what is left: above its own last deadline.
const INIT: Duration = Duration::from_secs(5);

/// How often the pods are counted.
const COUNT: Duration = Duration::from_millis(50);

/// Ends components, pods, pid 1, driver and cgroup, and returns why: `reason`, or what could not be removed.
///
/// All deadlines together stay below 60 s. With a pid 1 that is gone, or does not answer, the first ones are skipped.
///
/// # Errors
/// `reason`; else [`Error::RemoveCgroup`].
pub(crate) async fn stop(
    mut node: Node,
    mut happened: mpsc::Receiver<Happened>,
    reason: Result<(), Error>,
) -> Result<(), Error> {
    if let Err(error) = &reason {
        tracing::error!("{}", crate::error::chain(error));
    }
    node.following.end();
    // News is no news any more, but its tasks go on: answers of pid 1 come by the same way.
    tokio::spawn(async move { while happened.recv().await.is_some() {} });
    if matches!(reason, Ok(()) | Err(Error::InitTerminated)) {
        end_in_order(&mut node).await;
    }
    node.notifier.stopping("stopping pid 1 of the node");
    end(&node.namespace.pidfd, KILLED).await;
    node.link.reap();
    let Node { namespace, cgroup, .. } = node;
    drop(namespace);
    let removed = cgroup.remove();
    reason.and(removed)
}

/// kubelet, pods, crio, pid 1: crio outlives the pods, it takes note of their ends.
async fn end_in_order(node: &mut Node) {
    let (crio, others): (Vec<&Service>, Vec<&Service>) =
        node.services.iter().rev().partition(|service| service.name() == ComponentName::Crio);
    for service in others {
        end_service(&mut node.notifier, service).await;
    }
    node.notifier.stopping("stopping the pods, at most 10 s");
    end_pods(&node.pid_one).await;
    node.notifier.ping();
    for service in crio {
        end_service(&mut node.notifier, service).await;
    }
    if node.pid_one.shut_down().await.is_ok() {
        wait(&node.namespace.pidfd, INIT).await;
    }
}

async fn end_pods(pid_one: &PidOne) {
    if !matches!(pid_one.signal_pods(Some(Signal::SIGTERM)).await, Ok(1..)) {
        return;
    }
    let until = Instant::now() + PODS;
    while matches!(pid_one.signal_pods(None).await, Ok(1..)) {
        if Instant::now() >= until {
            // What survives this dies with pid 1.
            let _ = pid_one.signal_pods(Some(Signal::SIGKILL)).await;
            return;
        }
        sleep(COUNT).await;
    }
}

async fn end_service(notifier: &mut Notifier, service: &Service) {
    if let Some(process) = service.process() {
        notifier.stopping(&format!(
            "stopping {}, at most {} s",
            service.name().as_str(),
            COMPONENT.as_secs()
        ));
        terminate(&process.pidfd).await;
        notifier.ping();
    }
}

async fn terminate(process: &OwnedFd) {
    let _ = u7s_sys::pidfd::signal(process.as_fd(), Some(Signal::SIGTERM));
    if !wait(process, COMPONENT).await {
        end(process, KILLED).await;
    }
}

async fn end(process: &OwnedFd, within: Duration) {
    let _ = u7s_sys::pidfd::signal(process.as_fd(), Some(Signal::SIGKILL));
    wait(process, within).await;
}

/// Whether the process has ended in time.
async fn wait(process: &OwnedFd, within: Duration) -> bool {
    let Ok(process) = process.try_clone().and_then(watch) else { return false };
    timeout(within, process.readable()).await.is_ok()
}
