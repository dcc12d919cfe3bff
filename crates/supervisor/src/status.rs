//! The node's state in words and as a document.

use std::os::fd::OwnedFd;

use nix::sys::statfs::fstatfs;
use u7s_plan::control::{ActiveState, Status};
use u7s_plan::facts::Space;
use u7s_plan::node::ComponentName;

use crate::link;
use crate::serve::Node;
use crate::service::Service;

impl Node {
    /// Where the node stands: what it waits for and how long at most, or what is wrong with a ready one.
    pub(crate) fn state(&self) -> String {
        if self.build_until.is_some() {
            return "waiting until the namespaces are built, at most 30 s".to_owned();
        }
        let mut said: Vec<String> = self.services.iter().filter_map(complaint).collect();
        if !self.link.is_ready() {
            let deaths = self.link.deaths();
            let times = if deaths == 0 { String::new() } else { format!(" (died {deaths} times)") };
            said.insert(
                0,
                format!(
                    "waiting for slirp4netns to be ready, at most {} s{times}",
                    crate::patience::of(link::READY).as_secs()
                ),
            );
        }
        if !self.forwarded {
            said.push("waiting for a connection through the forwarded ports, at most 10 s".to_owned());
        }
        if let Some(problem) = self.rules.problem() {
            said.push(format!(
                "the forwarder's rules are not loaded, ports of Services and datagrams do not work: {problem}"
            ));
        } else if !self.rules.is_tried() {
            said.push("waiting for nft to load the forwarder's rules, at most 10 s".to_owned());
        }
        match (said.is_empty(), self.notifier.is_ready()) {
            (true, _) => "ready".to_owned(),
            (false, true) => format!("ready, but {}", said.join("; ")),
            (false, false) => said.join("; "),
        }
    }

    /// The answer to a status request.
    pub(crate) fn status(&self) -> Status {
        Status {
            version: 1,
            supervisor_pid: nix::unistd::getpid().as_raw(),
            init_pid: self.namespace.pid,
            driver_pid: self.link.pid(),
            cgroup: self.cgroup.name.clone(),
            state: self.state(),
            ready: self.notifier.is_ready(),
            runtime: self.runtime.clone(),
            components: self.services.iter().map(Service::status).collect(),
            forwards: self.acceptor.forwards().into_iter().collect(),
            connections: self.acceptor.connections(),
            timings: self.timings,
            degraded: self.spec.degraded.clone(),
            services: self.following.followed(),
            rules: self.rules.problem().map(str::to_owned),
            run: self.run.as_ref().and_then(room),
        }
    }
}

/// Room of the file system that a descriptor belongs to.
fn room(directory: &OwnedFd) -> Option<Space> {
    let seen = fstatfs(directory).ok()?;
    let unit = u64::try_from(seen.block_size()).ok()?;
    Some(Space {
        total: seen.blocks().saturating_mul(unit),
        free: seen.blocks_available().saturating_mul(unit),
        files: seen.files(),
        free_files: seen.files_free(),
    })
}

fn complaint(service: &Service) -> Option<String> {
    let name = service.name().as_str();
    let last = service.last_exit().map(|exit| format!(" ({exit})")).unwrap_or_default();
    match (service.active(), service.process()) {
        (ActiveState::Failed, _) if service.is_kept_trying() => {
            Some(format!("{name} failed: it died too often{last}, and is tried again every 30 s"))
        }
        (ActiveState::Failed, _) => Some(format!("{name} failed: it died too often{last}")),
        (ActiveState::Activating, None) if service.last_exit().is_some() => {
            Some(format!("{name} waits for its next start{last}"))
        }
        (ActiveState::Activating, _) if service.name() == ComponentName::Crio => {
            Some("waiting for crio to answer CRI's Version call, at most 60 s".to_owned())
        }
        (ActiveState::Activating, _) => Some(format!("{name} is starting")),
        (ActiveState::Deactivating, _) => Some(format!("{name} is stopping, at most 10 s")),
        (ActiveState::Active, _) => match service.misses() {
            (0, _) => None,
            (misses, limit) => Some(format!("{name} does not answer, {misses} of {limit} times")),
        },
        (ActiveState::Inactive, _) => None,
    }
}
