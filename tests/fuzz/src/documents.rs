//! Documents: YAML, kubeconfigs, certificates, the administrator's configuration, a bundle's config.json.

use serde_json::{Value, json};
use u7s_plan::certificate::{of_kubeconfig, validity};
use u7s_plan::oci::{NodeLimits, fit};
use u7s_plan::{calendar, kubeconfig as rebuilt, yaml as reader};

use crate::{parts, text};

/// How many values a text of YAML may become: `max_nodes` and what aliases may repeat.
const MOST_VALUES: usize = 70_000;

/// A text that is taken is bounded in its values and its depth, and means the same when it is written as JSON.
pub(super) fn yaml(data: &[u8]) {
    let Ok(documents) = reader::documents(&text(data), "u.yaml") else { return };
    let count: usize = documents.iter().map(values).sum();
    assert!(count <= MOST_VALUES, "{count} values of {} bytes", data.len());
    for document in &documents {
        assert!(depth(document) <= reader::MAX_DEPTH + 1);
        // What aliases made large would be read twice within the time of once.
        if count > 1000 {
            continue;
        }
        // What JSON reads as no text of YAML's is refused there, not taken as something else.
        if let Ok(again) = reader::documents(&document.to_string(), "again.json") {
            let same = if document.is_null() { again.is_empty() } else { again == [document.clone()] };
            assert!(same || again == [document.clone()], "{document} came back as {again:?}");
        }
    }
}

fn values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(fields) => fields.values().map(values).sum(),
        _ => 0,
    }
}

fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What is rebuilt of anybody's kubeconfig names an address and three blobs, and nothing that kubectl would run, read or trust.
pub(super) fn kubeconfig(data: &[u8]) {
    let text = text(data);
    if let Some(pem) = of_kubeconfig(&text) {
        let _ = validity(&pem);
    }
    let documents = reader::documents(&text, "admin.conf").unwrap_or_default();
    let Some(document) = documents.first() else { return };
    let Ok(made) = rebuilt::rebuild(document) else { return };
    let value: Value = serde_json::from_str(&made).unwrap_or_default();
    let (cluster, user) = (&value["clusters"][0]["cluster"], &value["users"][0]["user"]);
    let server = cluster["server"].as_str().unwrap_or_default();
    assert!(server.starts_with("https://") && !server.contains(['@', '?', '#', ' ', '\n']), "{server}");
    let expected = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": {
            "server": server, "certificate-authority-data": blob(cluster, "certificate-authority-data"),
        }}],
        "users": [{"name": "kubernetes-admin", "user": {
            "client-certificate-data": blob(user, "client-certificate-data"), "client-key-data": blob(user, "client-key-data"),
        }}],
        "contexts": [{"name": "kubernetes-admin@kubernetes", "context": {"cluster": "kubernetes", "user": "kubernetes-admin"}}],
        "current-context": "kubernetes-admin@kubernetes",
    });
    assert_eq!(value, expected, "something else came along");
    assert!(rebuilt::holds(&value, &made));
    assert!(reader::documents(&made, "rebuilt").is_ok_and(|again| again == [value]));
}

/// A blob of a rebuilt kubeconfig, which is base64 and nothing else.
fn blob<'a>(object: &'a Value, key: &str) -> &'a str {
    let text = object[key].as_str().unwrap_or_default();
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    assert!(!text.is_empty() && text.len() <= rebuilt::MAX_BLOB && text.bytes().all(base64), "{text}");
    text
}

/// A PEM text, and the same bytes as what stands in one, with whatever calendar they tell.
pub(super) fn certificate(data: &[u8]) {
    let wrapped = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(data));
    for pem in [&*text(data), &wrapped] {
        let Some(seen) = validity(pem) else { continue };
        for second in [seen.begins, seen.ends] {
            // Four digits of a year, and a clock of three times two digits.
            assert!(calendar::rfc3339(second).len() <= 21, "{second}");
        }
    }
}

/// Source: RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let sum =
            chunk.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS.get((sum >> (18 - 6 * place) & 63) as usize).copied().unwrap_or(b'A');
            out.push(if place <= chunk.len() { letter.into() } else { '=' });
        }
    }
    out
}

/// Files of the configuration, each a part: what they mean together reads back from what is printed of it.
pub(super) fn config(data: &[u8]) {
    let texts: Vec<_> = parts(data).into_iter().map(text).collect();
    let files: Vec<(&str, &str)> = texts.iter().map(|text| ("u7s.toml", &**text)).collect();
    let Ok(config) = u7s_plan::config::read(&files) else { return };
    let printed = toml::to_string(&config).unwrap_or_default();
    let again = u7s_plan::config::read(&[("printed.toml", &printed)]);
    assert!(again.as_ref() == Ok(&config), "{config:?} came back as {again:?}");
}

/// What was fitted once fits, and nothing that the node may do was changed.
pub(super) fn oci(data: &[u8]) {
    let Ok(config) = serde_json::from_slice::<Value>(data) else { return };
    let node = NodeLimits { oom_score_adj: -500, controllers: vec!["cpu".into(), "pids".into()] };
    let (fitted, changes) = fit(config.clone(), &node);
    assert!(!changes.is_empty() || values(&fitted) <= values(&config));
    let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
    let (again, more) = fit(fitted.clone(), &node);
    assert!(more.is_empty() && again == fitted, "{more:?}");
    let able = NodeLimits {
        oom_score_adj: -1000,
        controllers: ["memory", "cpu", "cpuset", "pids", "io", "hugetlb", "rdma"].map(str::to_owned).into(),
    };
    let score = config.pointer("/process/oomScoreAdj").and_then(Value::as_i64);
    let unified = config.pointer("/linux/resources/unified").is_some();
    let cpu = config.pointer("/linux/resources/cpu").and_then(Value::as_object);
    if score.is_none_or(|score| score >= -1000) && !unified && cpu.is_none_or(|cpu| !cpu.is_empty()) {
        assert_eq!(fit(config.clone(), &able).0, config);
    }
}
