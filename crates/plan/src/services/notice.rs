//! What users of the cluster are told where they look: an Event at the Service or pod whose port a node does not open.

use serde_json::json;

use super::{Claim, FIELD_MANAGER, Kind, Port, View};
use crate::calendar::rfc3339;

/// The longest message, characters.
const MESSAGE: usize = 1000;

/// The longest part of a name that somebody else chose: with the rest it stays a name (253).
const NAME: usize = 120;

/// An Event of the cluster to be made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its name, the same whenever the same is to be told, so that the API has it once.
    pub name: String,
    /// The object as JSON.
    pub text: String,
}

impl Notice {
    /// That a node does not open a port, and why; `None` if who wants it is gone.
    ///
    /// `reason` is the need's id, `now` in seconds since the epoch.
    #[must_use]
    pub fn of(view: &View, wanted: (&Claim, Port), node: &str, told: (&str, &str), now: u64) -> Option<Self> {
        let ((claim, port), (reason, message)) = (wanted, told);
        let (kind, uid) = match claim.kind {
            Kind::HostPort => ("Pod", &view.pods.get(&claim.by)?.uid),
            _ => ("Service", &view.services.get(&claim.by)?.uid),
        };
        let (whose, identity) = (cut(&claim.by.name, NAME), cut(uid, 8));
        let transport = port.to_string().replace('/', "-");
        let name = format!("{whose}.{identity}.{transport}.{}", cut(node, 63)).to_lowercase();
        let message: String = format!("{port} on node {node}: {message}").chars().take(MESSAGE).collect();
        let time = rfc3339(now);
        let text = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": claim.by.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": kind, "namespace": claim.by.namespace,
                               "name": claim.by.name, "uid": uid},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": FIELD_MANAGER, "host": node},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": node,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        });
        Some(Self { name, text: text.to_string() })
    }
}

/// The beginning of a name that is a name itself.
fn cut(text: &str, most: usize) -> String {
    let cut: String = text.chars().take(most).collect();
    cut.trim_end_matches(['.', '-']).to_owned()
}
