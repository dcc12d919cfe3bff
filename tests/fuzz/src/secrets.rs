//! Texts for strangers: a secret that stands where secrets stand is not in them.

use serde_json::{Value, json};
use u7s_plan::redact::{document, text as redacted};

use crate::{parts, text};

/// What nobody may see, in forms of secrets that are known by their shape, or by what stands in front of them.
const TOKEN: &str = "canary.0123456789canary";
const WORD: &str = "Canary7Word";

/// Whatever others write before and behind a secret, it does not come through; nor in a document, under whatever name stands around.
pub(super) fn redact(data: &[u8]) {
    let (before, after) = match parts(data)[..] {
        [before, after, ..] => (text(before), text(after)),
        _ => (text(data), text(&[])),
    };
    let _ = redacted(&before);
    if text(data).contains(WORD) || text(data).contains(TOKEN) {
        return;
    }
    for secret in [
        format!("token={WORD}"),
        format!("\"password\": \"{WORD}\""),
        format!("--certificate-key {WORD}"),
        format!("Authorization: Bearer {WORD}"),
        format!("https://me:{WORD}@proxy:3128/"),
        format!("-----BEGIN EC PRIVATE KEY-----\n{WORD}\n-----END EC PRIVATE KEY-----"),
        TOKEN.to_owned(),
    ] {
        for border in ["\n", " "] {
            let seen = redacted(&format!("{before}{border}{secret}{border}{after}"));
            assert!(!seen.contains(WORD) && !seen.contains(TOKEN), "{secret:?} in {seen:?}");
        }
    }
    let held = serde_json::from_slice::<Value>(data).unwrap_or_else(|_| json!({ &*before: &*after }));
    let mut whole = json!({ "held": held, "env": { &*before: WORD, "MY_VAR": WORD }, "list": [{ "bootstrapToken": WORD }],
        "text": format!("{before}\ntoken: {WORD}\n{after}") });
    if ["PATH", "HOME", "LANG", "NO_PROXY", "no_proxy"].contains(&&*before) {
        whole["env"] = Value::Null;
    }
    document(&mut whole);
    assert!(!whole.to_string().contains(WORD), "{whole}");
}
