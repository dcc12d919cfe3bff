//! systemd's units and the supervisor's components.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use u7s_plan::control::Request;
use u7s_plan::host;
use u7s_plan::node::ComponentName;

use super::{Applier, Ended, Event};
use crate::control::Client;
use crate::error::Error;
use crate::files;
use crate::stop;
use crate::systemd::{Start, Systemd};

impl Applier<'_> {
    pub(super) fn start_unit(
        &mut self,
        unit: &str,
        follows: &[PathBuf],
        seconds: u64,
    ) -> Result<Ended, Error> {
        let systemd = Systemd::connect()?;
        let mut state = systemd.unit(unit)?;
        if state.needs_reload {
            systemd.reload()?;
            state = systemd.unit(unit)?;
        }
        let runs = matches!(state.fact.active.as_str(), "active" | "activating" | "reloading");
        let stale = follows.iter().any(|path| younger(path, state.started_us));
        if state.fact.active == "active" && !stale {
            return Ok(Ended::Held);
        }
        if state.fact.active == "failed" {
            systemd.reset_failed(unit)?;
        }
        let method = if runs && stale { Start::Again } else { Start::Fresh };
        let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
        systemd.start(unit, method, limit, &mut |status| {
            let what =
                if status.is_empty() { format!("waiting for {unit}") } else { format!("{unit}: {status}") };
            self.waiting(&what, began, limit);
        })?;
        // What it took is good to know, and no reason to fail.
        if unit == host::UNIT
            && let Ok(status) = Client::new(self.user()?.uid).status()
        {
            (self.tell)(Event::Started(status.timings));
        }
        Ok(Ended::Done)
    }

    pub(super) fn stop_unit(&mut self, unit: &str, seconds: u64) -> Result<Ended, Error> {
        let systemd = Systemd::connect()?;
        let state = systemd.unit(unit)?;
        if matches!(state.fact.active.as_str(), "inactive" | "") {
            return Ok(Ended::Held);
        }
        let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
        let what = format!("waiting for {unit} to end");
        let ids = self.ids();
        stop::stop(&systemd, (unit, limit), ids.as_ref(), &mut |_| self.waiting(&what, began, limit))?;
        Ok(Ended::Done)
    }

    pub(super) fn enable_component(
        &mut self,
        component: ComponentName,
        enabled: bool,
    ) -> Result<Ended, Error> {
        let client = Client::new(self.user()?.uid);
        let status = client.status()?;
        if status.components.iter().any(|seen| seen.name == component && seen.enabled == enabled) {
            return Ok(Ended::Held);
        }
        let request = if enabled { Request::Enable { component } } else { Request::Disable { component } };
        client.done(&request)?;
        Ok(Ended::Done)
    }
}

pub(super) fn enable(unit: &str) -> Result<Ended, Error> {
    let systemd = Systemd::connect()?;
    if systemd.unit(unit)?.fact.file == "enabled" {
        return Ok(Ended::Held);
    }
    // systemd leaves its links to the file system's next commit; also the directory may be new.
    for directory in systemd.enable(unit)?.iter().flat_map(|link| link.ancestors().skip(1).take(2)) {
        files::settle(directory)?;
    }
    Ok(Ended::Done)
}

pub(super) fn disable(unit: &str) -> Result<Ended, Error> {
    let systemd = Systemd::connect()?;
    match systemd.unit(unit)?.fact.file.as_str() {
        "enabled" | "enabled-runtime" => systemd.disable(unit)?,
        _ => return Ok(Ended::Held),
    }
    Ok(Ended::Done)
}

/// Changed after a process started at this time, in microseconds since the epoch.
fn younger(path: &Path, started_us: u64) -> bool {
    let Ok(file) = std::fs::metadata(path) else { return false };
    let changed = file.mtime().saturating_mul(1_000_000).saturating_add(file.mtime_nsec() / 1000);
    u64::try_from(changed).is_ok_and(|changed| changed > started_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_younger_than_a_start_before_it_and_a_missing_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let changed = u64::try_from(file.as_file().metadata().unwrap().mtime()).unwrap() * 1_000_000;
        assert!(younger(file.path(), changed - 1));
        assert!(!younger(file.path(), changed + 2_000_000));
        assert!(!younger(Path::new("/none"), 0));
    }
}
