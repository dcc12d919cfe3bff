//! Sees from outside how far a node is.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use u7s_harness::{Invocation, Node};

use crate::Error;

/// Pause between two looks at what a command has printed.
const LOOK: Duration = Duration::from_millis(5);

/// Pause between two questions to the API server, each of which costs a core 60 ms.
const ASK: Duration = Duration::from_millis(200);

/// What takes longer has failed.
pub(super) const LIMIT: Duration = Duration::from_secs(240);

/// When kubeadm began to wait for the control plane, when that stood, and when kubeadm ended; from the command's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kubeadm {
    pub(super) waits: Duration,
    pub(super) stands: Duration,
    pub(super) ended: Duration,
}

/// Runs a kubeadm to its end and notes when its output reached these points; it must succeed.
pub(super) fn kubeadm(invocation: Invocation) -> Result<Kubeadm, Error> {
    let start = Instant::now();
    let mut running = invocation.spawn()?;
    let (mut waits, mut stands) = (None, None);
    let status = loop {
        let status = running.try_status()?;
        let (stdout, _) = running.so_far();
        let note = |at: &mut Option<Duration>, heading: &str| {
            if at.is_none() && stdout.contains(heading) {
                *at = Some(start.elapsed());
            }
        };
        note(&mut waits, "\n[wait-control-plane]");
        note(&mut stands, "\n[upload-config]");
        if status.is_some() || start.elapsed() > LIMIT {
            break status;
        }
        sleep(LOOK);
    };
    let ended = start.elapsed();
    let output = running.wait(Duration::from_secs(5))?;
    match (status.is_some_and(|status| status.success()), waits, stands) {
        (true, Some(waits), Some(stands)) => Ok(Kubeadm { waits, stands, ended }),
        _ => Err(Error::Answer { what: "kubeadm init".into(), text: output.to_string() }),
    }
}

/// Waits until the node and CoreDNS are Ready; how long that took from now: (node, CoreDNS).
pub(super) fn ready(node: &Node) -> Result<(Duration, Duration), Error> {
    let start = Instant::now();
    until("a Ready node", || wait_for(node, &["node", "--all"]))?;
    let node_ready = start.elapsed();
    until("CoreDNS", || wait_for(node, &["-n", "kube-system", "pod", "-l", "k8s-app=kube-dns"]))?;
    Ok((node_ready, start.elapsed()))
}

/// By a watch: it returns when it is so, and not at the next question.
fn wait_for(node: &Node, what: &[&str]) -> Result<bool, Error> {
    let wait = ["kubectl", "wait", "--for=condition=Ready", "--timeout=30s"];
    Ok(node.command(&[&wait[..], what].concat()).within(LIMIT).run()?.ok())
}

/// Cuts the power and switches on; how long it took until the kubelet said anew that the node is Ready.
pub(super) fn reboot(node: &mut Node) -> Result<Duration, Error> {
    node.power_cut()?;
    // Times of conditions are whole seconds: nothing that was said before the cut may look newer than the boot.
    sleep(Duration::from_millis(1100));
    let booted = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let start = Instant::now();
    node.boot(LIMIT)?;
    until("the node after its reboot", || {
        let output = node.exec(&["kubectl", "get", "nodes", "-o", "json", "--request-timeout=5s"])?;
        Ok(serde_json::from_str(&output.stdout).is_ok_and(|nodes| is_ready_since(&nodes, booted)))
    })?;
    Ok(start.elapsed())
}

/// Looks again and again until it is so.
fn until(what: &str, mut look: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    let start = Instant::now();
    while !look()? {
        if start.elapsed() > LIMIT {
            return Err(Error::Deadline { what: what.into(), seconds: LIMIT.as_secs() });
        }
        sleep(ASK);
    }
    Ok(())
}

/// All nodes are Ready, as heard after `since`, seconds since the epoch.
fn is_ready_since(nodes: &Value, since: u64) -> bool {
    let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
    let ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| {
            let heard = condition["lastHeartbeatTime"].as_str().and_then(seconds);
            condition["type"] == "Ready"
                && condition["status"] == "True"
                && heard.is_some_and(|at| at >= since)
        })
    };
    !nodes.is_empty() && nodes.iter().all(ready)
}

/// `2026-11-22T07:26:01Z` in seconds since the epoch; days by counting from March, as the Gregorian calendar does.
fn seconds(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let (years, months) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day;
    Some((days.checked_sub(719_469)? * 24 + hour) * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_of_conditions_are_read() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2026-11-22T07:26:01Z"), Some(1_795_332_361));
        assert_eq!(seconds("2024-02-29T23:59:59Z"), Some(1_709_251_199));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn a_node_that_was_ready_before_the_boot_is_not_ready_yet() {
        let node = json!({"items": [{"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "1970-01-01T00:01:40Z"}]}}]});
        assert!(is_ready_since(&node, 100) && !is_ready_since(&node, 101));
        assert!(!is_ready_since(&json!({"items": []}), 0));
    }
}
