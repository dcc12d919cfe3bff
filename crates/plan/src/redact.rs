//! Texts for strangers: what may be a secret is taken out of logs, documents and command output (S13).
//!
//! In doubt it goes: a bundle that says too little can be made again, a secret that was sent cannot be called back.

use serde_json::Value;

/// What stands in the place of a secret.
pub const MASK: &str = "[redacted]";

/// Names, or parts of names without case, whose value is a secret.
const NAMES: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "bearer",
    "api-key",
    "api_key",
    "apikey",
    "private-key",
    "client-key-data",
    "certificate-key",
    "certificatekey",
];

/// Environment variables whose value may be seen; all others' go.
const VARIABLES: [&str; 5] = ["PATH", "HOME", "LANG", "NO_PROXY", "no_proxy"];

/// How many digits of a long hexadecimal number stay: enough to tell containers apart, too few for a key.
const HEX_KEPT: usize = 12;

/// A text without what may be a secret: private keys, values behind telling names, bootstrap tokens, JSON Web Tokens,
/// passwords in URLs, keys of 64 hexadecimal digits, long base64 blobs.
#[must_use]
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY") {
            // What was put together without a line feed ends one thing and begins the next in one line.
            in_key = line.rfind("-----BEGIN ") > line.rfind("-----END ");
            out.push_str(MASK);
            out.push('\n');
        } else if in_key {
            in_key = line.rfind("-----END ") <= line.rfind("-----BEGIN ");
        } else {
            out.push_str(&self::line(line));
        }
    }
    out
}

/// A document without what may be a secret: values of telling names, of every variable of an environment, and as [`text`].
pub fn document(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(held) if is_secret(name) && !held.is_empty() => MASK.clone_into(held),
                    Value::Object(variables) if name == "env" => environment(variables),
                    other => document(other),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(document),
        Value::String(held) => *held = text(held),
        _ => {}
    }
}

fn environment(variables: &mut serde_json::Map<String, Value>) {
    for (name, value) in variables {
        if !VARIABLES.contains(&name.as_str()) {
            *value = MASK.into();
        }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    NAMES.iter().any(|part| name.contains(part))
}

/// Values first, since a name tells more than a shape; then every word by its shape.
fn line(line: &str) -> String {
    // Of ASCII letters alone, so that a place in it is one in the line.
    let lower = line.to_ascii_lowercase();
    let variables = lower.trim_start().trim_start_matches("export ");
    if variables.starts_with("environment=") || variables.starts_with("passenvironment=") {
        return format!("{}={MASK}\n", line.split('=').next().unwrap_or_default());
    }
    words(&values(line, &lower))
}

/// Masks what follows a telling name and `=`, `:` or a blank behind `Bearer`, up to the end of the word or of its quotes.
fn values(line: &str, lower: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    let mut names = Names::new(lower);
    while let Some((start, name)) = names.next(at) {
        let after = start + name.len();
        out.push_str(line.get(at..after).unwrap_or_default());
        at = after;
        let mut blank = name == "bearer";
        while let Some(from) = names.value_start(at, blank) {
            out.push_str(line.get(at..from).unwrap_or_default());
            at = from + value_length(line.get(from..).unwrap_or_default());
            if at > from {
                out.push_str(MASK);
            }
            // `token: password=VALUE`: a value that is a name itself has one.
            let value = lower.get(from..at).unwrap_or_default();
            blank = value.ends_with("bearer");
            if !NAMES.iter().any(|name| value.contains(name)) {
                break;
            }
        }
    }
    out + line.get(at..).unwrap_or_default()
}

/// The telling names in a line, from its beginning to its end; no part of the line is looked at for each of them anew, since a line
/// may have a megabyte of names.
struct Names<'a> {
    /// In lower case.
    line: &'a str,
    /// Where each name comes next.
    places: [Option<usize>; NAMES.len()],
    /// The word that was begun last: where it begins, and up to where blanks were looked for.
    word: (usize, usize),
    /// The run of letters that was left last.
    run: Option<Run>,
}

/// What stands behind a run of letters, digits and `-_.`, which a telling name is a part of.
#[derive(Clone, Copy)]
struct Run {
    /// Its end.
    end: usize,
    /// Where a value begins behind `=` or `:`.
    signed: Option<usize>,
    /// Where one begins behind a blank alone.
    spaced: Option<usize>,
}

impl<'a> Names<'a> {
    fn new(line: &'a str) -> Self {
        Self { line, places: NAMES.map(|name| line.find(name)), word: (0, 0), run: None }
    }

    /// The first name that begins at `from` or behind it, of several the longest.
    fn next(&mut self, from: usize) -> Option<(usize, &'static str)> {
        for (place, name) in self.places.iter_mut().zip(NAMES) {
            if place.is_some_and(|place| place < from) {
                *place = self.line.get(from..).and_then(|rest| rest.find(name)).map(|found| from + found);
            }
        }
        let found = self.places.iter().zip(NAMES).filter_map(|(place, name)| Some(((*place)?, name)));
        found.min_by_key(|(start, name)| (*start, usize::MAX - name.len()))
    }

    /// Where the value begins: behind the rest of the name, quotes, `=` or `:`, blanks and an opening quote.
    fn value_start(&mut self, after: usize, blank: bool) -> Option<usize> {
        let flag = self.is_flag(after);
        let run = match self.run.filter(|run| after <= run.end) {
            Some(run) => run,
            None => Run::of(self.line, after)?,
        };
        self.run = Some(run);
        run.signed.or_else(|| run.spaced.filter(|_| blank || flag))
    }

    /// `--token VALUE`: a flag's value may follow a blank.
    fn is_flag(&mut self, after: usize) -> bool {
        let (begin, seen) = self.word;
        let blank = self.line.get(seen..after).and_then(|part| part.rfind(' '));
        self.word = (blank.map_or(begin, |blank| seen + blank + 1), after);
        self.line.get(self.word.0..).is_some_and(|word| word.starts_with("--"))
    }
}

impl Run {
    fn of(line: &str, after: usize) -> Option<Self> {
        let rest = line.get(after..)?;
        let of_name = |char: char| char.is_alphanumeric() || "-_.".contains(char);
        let rest = rest.trim_start_matches(of_name);
        let quote = rest.trim_start_matches(['"', '\'', '\\']);
        let spaced = quote.trim_start_matches(' ');
        // `Authorization: Bearer VALUE` has the value behind the scheme.
        let place = |value: &str| {
            let value = value.trim_start_matches(['"', '\'', '\\']);
            let value =
                ["bearer ", "basic "].iter().find_map(|scheme| value.strip_prefix(scheme)).unwrap_or(value);
            line.len() - value.len()
        };
        let sign = spaced.strip_prefix(['=', ':']).map(|value| value.trim_start_matches(['=', ' ', '\t']));
        Some(Self {
            end: line.len() - rest.len(),
            signed: sign.map(place),
            spaced: (spaced.len() < quote.len()).then(|| place(spaced)),
        })
    }
}

fn value_length(text: &str) -> usize {
    text.find(|char: char| char.is_whitespace() || "\"',;})]\\&".contains(char)).unwrap_or(text.len())
}

/// Masks words that look like secrets.
fn words(line: &str) -> String {
    let of_word = |char: char| char.is_ascii_alphanumeric() || "+/_.-=".contains(char);
    let mut out = String::new();
    let mut rest = &*credentials(line);
    while let Some(start) = rest.find(of_word) {
        let (before, from) = rest.split_at(start);
        let length = from.find(|char: char| !of_word(char)).unwrap_or(from.len());
        let (word, after) = from.split_at(length);
        out.push_str(before);
        let digest = out.ends_with("sha256:");
        out.push_str(&masked(word, digest));
        rest = after;
    }
    out + rest
}

fn masked(word: &str, digest: bool) -> String {
    let plain = word.trim_matches(['.', '=', '-', '/']);
    if plain.starts_with("eyJ") && plain.matches('.').count() == 2 {
        return MASK.into();
    }
    // Parts of paths and names are judged each: a key may stand between slashes.
    let mut out = String::new();
    let mut part = String::new();
    for char in word.chars().chain([' ']) {
        if char.is_ascii_alphanumeric() || "+=.".contains(char) || (char == '/' && word.len() > 200) {
            part.push(char);
            continue;
        }
        out.push_str(&masked_part(&part, digest));
        part.clear();
        if char != ' ' {
            out.push(char);
        }
    }
    out
}

fn masked_part(part: &str, digest: bool) -> String {
    if is_bootstrap_token(part.trim_matches('.')) {
        return MASK.into();
    }
    let hex = part.len() >= 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex && !digest {
        return format!("{}…", part.get(..HEX_KEPT).unwrap_or_default());
    }
    let mixed = |test: fn(&u8) -> bool| part.bytes().any(|byte| test(&byte));
    let blob = part.len() >= 40
        && !hex
        && mixed(u8::is_ascii_digit)
        && mixed(u8::is_ascii_lowercase)
        && mixed(u8::is_ascii_uppercase)
        && !part.contains('.');
    if blob { MASK.into() } else { part.into() }
}

/// Source: kubernetes, cluster-bootstrap/token/api, `BootstrapTokenPattern`.
fn is_bootstrap_token(word: &str) -> bool {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    word.split_once('.')
        .is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret))
}

/// Masks `user:password` in URLs.
fn credentials(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find("://") {
        let (before, from) = rest.split_at(start + 3);
        out.push_str(before);
        let end = from.find(|char: char| char.is_whitespace() || "\"'/".contains(char)).unwrap_or(from.len());
        let host = from.get(..end).unwrap_or_default().rfind('@');
        if host.is_some() {
            out.push_str(MASK);
        }
        rest = from.get(host.unwrap_or(0)..).unwrap_or_default();
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn s13_secrets_of_every_shape_are_taken_out() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        for (before, after) in [
            (
                "kubeadm join h:6443 --token abcdef.0123456789abcdef --v=5\n",
                "kubeadm join h:6443 --token [redacted] --v=5\n".to_owned(),
            ),
            ("the token abcdef.0123456789abcdef is new", "the token [redacted] is new".into()),
            ("token: CANARY\n", "token: [redacted]\n".into()),
            ("MY_TOKEN=CANARY next", "MY_TOKEN=[redacted] next".into()),
            ("{\"password\": \"CANARY\", \"x\": 1}", "{\"password\": \"[redacted]\", \"x\": 1}".into()),
            ("Authorization: Bearer CANARY", "Authorization: Bearer [redacted]".into()),
            ("--certificate-key=CANARY", "--certificate-key=[redacted]".into()),
            ("proxy http://me:CANARY@proxy:3128/ used", "proxy http://[redacted]@proxy:3128/ used".into()),
            (&format!("key {HEX} of"), "key 0123456789ab… of".into()),
            (&format!("image@sha256:{HEX}"), format!("image@sha256:{HEX}")),
            (jwt, "[redacted]".into()),
            ("token: \"password\": \"CANARY\"", "token: \"[redacted]\": \"[redacted]\"".into()),
            ("Environment=A=CANARY B=2\n", "Environment=[redacted]\n".into()),
            (
                "client-key-data: TFMwdExTMUNSVWRKVGlCU1UwRWdVRkpKVmtGVVJTQkxSVmt0TFMwdExRcE5TVWxGYjNkSg==\n",
                "client-key-data: [redacted]\n".into(),
            ),
        ] {
            assert_eq!(text(before), after);
        }
    }

    #[test]
    fn s13_private_keys_go_whole() {
        let pem = "a\n-----BEGIN RSA PRIVATE KEY-----\nCANARY\nCANARY\n-----END RSA PRIVATE KEY-----\nb\n";
        assert_eq!(text(pem), "a\n[redacted]\nb\n");
        assert!(!text("x -----BEGIN PRIVATE KEY-----\nCANARY").contains("CANARY"));
        let joined = "-----END CERTIFICATE----------BEGIN EC PRIVATE KEY-----\nCANARY\n-----END EC PRIVATE KEY-----\nb\n";
        assert_eq!(text(joined), "[redacted]\nb\n");
    }

    #[test]
    fn ordinary_lines_stay_as_they_are() {
        for line in [
            "kubelet[1]: I1122 07:00:00.1 1 kubelet.go:123] \"Started\" pod=\"kube-system/coredns-7d764666f9-abcde\"\n",
            "/etc/kubernetes/pki/apiserver-kubelet-client.crt expires in 364 days\n",
            "node: ready, 10.96.0.0/12, 192.0.2.10:6443/tcp, /var/lib/u7s-admin/node/kubelet\n",
            "secrets are not listed\n",
        ] {
            assert_eq!(text(line), line);
        }
    }

    #[test]
    fn s14_documents_lose_values_of_telling_names_and_whole_environments() {
        let mut value = json!({"env": {"PATH": "/bin", "MY": "CANARY"}, "deep": [{"bootstrapToken": "CANARY"}],
            "text": "password=CANARY", "port": 1});
        document(&mut value);
        let wanted = json!({"env": {"PATH": "/bin", "MY": MASK}, "deep": [{"bootstrapToken": MASK}],
            "text": "password=[redacted]", "port": 1});
        assert_eq!(value, wanted);
    }

    #[test]
    fn nothing_that_anybody_writes_breaks_it() {
        for evil in [
            "token=",
            "token",
            "--token ",
            "bearer",
            "İtoken=x",
            "://@",
            "://",
            "é://ü@ö token:é",
            "eyJ..",
            "=token=\"",
            "a\u{1b}[31mtoken=x",
        ] {
            let _ = text(evil);
            let _ = text(&format!("{evil}{evil}\n{evil}"));
        }
        assert!(!text("İ token=CANARY").contains("CANARY"));
    }

    /// Both letters have another length in lower case, and together the same: places in it were no places in the line.
    #[test]
    fn letters_that_are_longer_or_shorter_in_lower_case_move_no_mask() {
        assert_eq!(text("İ token=\u{212b}"), "İ token=[redacted]");
        assert_eq!(
            text("İİİİİİ token=CANARY \u{212b}\u{212b}\u{212b}\u{212b}\u{212b}\u{212b}"),
            "İİİİİİ token=[redacted] \u{212b}\u{212b}\u{212b}\u{212b}\u{212b}\u{212b}"
        );
    }

    /// Each name is looked for once: a journal's line of a megabyte would take hours otherwise.
    #[test]
    fn a_long_line_of_names_is_read_once() {
        for piece in ["token", "bearer ", "token\"", "--token", "token=", "://"] {
            let long = piece.repeat((1 << 18) / piece.len());
            assert!(text(&long).len() <= 3 * long.len(), "{piece}");
        }
    }
}
