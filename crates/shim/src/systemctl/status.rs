//! A component in systemd's terms.

use u7s_plan::control::{ActiveState, ComponentStatus, Status};
use u7s_plan::node::ComponentName;

use super::time;

/// The unit file that stands for both components.
pub(super) const FRAGMENT: &str = "/usr/lib/systemd/system/u7s.service";

/// One of our units as systemd would describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) id: String,
    pub(super) description: String,
    pub(super) active: &'static str,
    pub(super) sub: &'static str,
    pub(super) result: &'static str,
    pub(super) enabled: bool,
    pub(super) pid: i32,
    pub(super) restarts: u32,
    pub(super) since: u64,
    pub(super) group: String,
    /// Name of the main process.
    pub(super) program: &'static str,
    /// How it ended last, while it does not run: `code=exited, status=1`.
    pub(super) exit: Option<String>,
}

impl View {
    /// Without a supervisor, or one that does not know the component, it does not run.
    pub(super) fn of(name: ComponentName, status: Option<&Status>, inside: bool) -> Self {
        let component =
            status.and_then(|status| status.components.iter().find(|component| component.name == name));
        let blank = Self {
            id: format!("{}.service", name.as_str()),
            description: format!("{} of the rootless node", name.as_str()),
            active: "inactive",
            sub: "dead",
            result: "success",
            enabled: false,
            pid: 0,
            restarts: 0,
            since: 0,
            group: String::new(),
            program: name.as_str(),
            exit: None,
        };
        let (Some(component), Some(status)) = (component, status) else { return blank };
        let (active, sub) = states(component);
        let pid = if inside { component.pid_inside } else { component.pid };
        Self {
            description: printable(&component.description),
            active,
            sub,
            result: result(component),
            enabled: component.enabled,
            pid: pid.unwrap_or(0),
            restarts: component.restarts,
            since: component.since,
            group: printable(&format!("{}/init", status.cgroup)),
            exit: component.last_exit.as_deref().filter(|_| pid.is_none()).map(exit),
            ..blank
        }
    }

    pub(super) fn file_state(&self) -> &'static str {
        if self.enabled { "enabled" } else { "disabled" }
    }

    /// The text of `systemctl status` in the C locale.
    pub(super) fn block(&self, now: u64) -> String {
        let glyph = match self.active {
            "failed" => 'x',
            _ => '*',
        };
        let sub = if self.sub == self.active { String::new() } else { format!(" ({})", self.sub) };
        let result =
            if self.result == "success" { String::new() } else { format!(" (Result: {})", self.result) };
        let since = if self.since == 0 {
            String::new()
        } else {
            format!(" since {}; {}", time::absolute(self.since), time::relative(self.since, now))
        };
        let mut text = format!(
            "{glyph} {id} - {description}\n     Loaded: loaded ({FRAGMENT}; {state}; preset: disabled)\n     Active: {active}{sub}{result}{since}\n",
            id = self.id,
            description = self.description,
            state = self.file_state(),
            active = self.active,
        );
        if self.pid > 0 {
            text.push_str(&format!("   Main PID: {} ({})\n", self.pid, self.program));
            text.push_str(&format!("     CGroup: {}\n", self.group));
            text.push_str(&format!("             `-{} {}\n", self.pid, self.program));
        }
        // systemd names the pid that was, which nobody knows here any more.
        if let (Some(exit), "failed" | "activating") = (&self.exit, self.active) {
            text.push_str(&format!("    Process: {} ({exit})\n", self.program));
        }
        text
    }

    /// Name and value of every property that we know.
    pub(super) fn properties(&self) -> Vec<(&'static str, String)> {
        let stamp = if self.since == 0 { String::new() } else { time::absolute(self.since) };
        let entered = if self.active == "active" { stamp.clone() } else { String::new() };
        vec![
            ("Type", "notify".into()),
            ("Restart", "always".into()),
            ("MainPID", self.pid.to_string()),
            ("Result", self.result.into()),
            ("NRestarts", self.restarts.to_string()),
            ("ExecMainPID", self.pid.to_string()),
            ("ControlGroup", if self.pid > 0 { self.group.clone() } else { String::new() }),
            ("Id", self.id.clone()),
            ("Names", self.id.clone()),
            ("Description", self.description.clone()),
            ("LoadState", "loaded".into()),
            ("ActiveState", self.active.into()),
            ("FreezerState", "running".into()),
            ("SubState", self.sub.into()),
            ("FragmentPath", FRAGMENT.into()),
            ("UnitFileState", self.file_state().into()),
            ("UnitFilePreset", "disabled".into()),
            ("StateChangeTimestamp", stamp),
            ("ActiveEnterTimestamp", entered),
            ("CanStart", "yes".into()),
            ("CanStop", "yes".into()),
            ("CanReload", "no".into()),
            ("NeedDaemonReload", "no".into()),
        ]
    }
}

/// systemd's active and sub state. Without a process a component that is activating waits for its restart.
fn states(component: &ComponentStatus) -> (&'static str, &'static str) {
    match component.active {
        ActiveState::Active => ("active", "running"),
        ActiveState::Activating if component.pid.is_some() => ("activating", "start"),
        ActiveState::Activating => ("activating", "auto-restart"),
        ActiveState::Deactivating => ("deactivating", "stop-sigterm"),
        ActiveState::Inactive => ("inactive", "dead"),
        ActiveState::Failed => ("failed", "failed"),
    }
}

/// What the node's user wrote, in one line and without what a terminal would obey.
fn printable(text: &str) -> String {
    u7s_plan::printable::line(text, 400)
}

/// `code=exited, status=1`, `code=killed, signal=KILL`, from the supervisor's words.
///
/// Source: systemctl 257, the line `Main PID` of a unit that ended.
fn exit(last: &str) -> String {
    match last.strip_prefix("signal, status=").and_then(|status| status.split_once('/')) {
        Some((_, name)) => printable(&format!("code=killed, signal={name}")),
        None => printable(&format!("code={last}")),
    }
}

/// `Result=`: success while it runs and after a stop that was asked for.
fn result(component: &ComponentStatus) -> &'static str {
    let waits = component.active == ActiveState::Activating && component.pid.is_none();
    if component.active != ActiveState::Failed && !waits {
        return "success";
    }
    match component.last_exit.as_deref() {
        Some(text) if text.starts_with("signal") => "signal",
        Some(text) if text.starts_with("exited") && text.ends_with("status=0") => "success",
        Some(_) => "exit-code",
        None => "resources",
    }
}
