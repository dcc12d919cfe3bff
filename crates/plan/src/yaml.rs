//! The one place that reads YAML: the user's kubeadm configuration and patches, untrusted text within limits.
//!
//! Texts are read as kubeadm reads them (sigs.k8s.io/yaml: one JSON value a document), but what two readers of YAML
//! understand differently is refused instead of guessed: `yes` as a boolean, `0755` as a number, duplicate keys.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};

/// The largest text that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// How deep collections may nest.
pub const MAX_DEPTH: usize = 32;

/// Why a text is no YAML that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_BYTES`].
    #[error("{origin}: {bytes} bytes, more than the {MAX_BYTES} that a configuration may have")]
    TooLarge {
        /// File name.
        origin: String,
        /// Size.
        bytes: usize,
    },
    /// Not well formed, ambiguous, or more than the limits allow.
    #[error("{origin}:{line}:{column}: {why}")]
    Syntax {
        /// File name.
        origin: String,
        /// From 1; 0 where the reader cannot tell.
        line: u64,
        /// From 1, in characters; 0 where the reader cannot tell.
        column: u64,
        /// What is wrong.
        why: String,
    },
}

/// The documents of a YAML stream, in order, without empty ones; aliases and merge keys are expanded.
///
/// `origin` is the name that errors carry: a path.
///
/// # Errors
/// [`Error`] names file, line and column; it never quotes a value, which may be a secret.
pub fn documents(text: &str, origin: &str) -> Result<Vec<Value>, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::TooLarge { origin: origin.into(), bytes: text.len() });
    }
    if let Some((offset, what)) = forbidden(text) {
        let (line, column) = place(text, offset);
        return Err(Error::Syntax { origin: origin.into(), line, column, why: what.into() });
    }
    let trees: Vec<Spanned<Tree>> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| syntax(&error, origin))?;
    trees.into_iter().map(|tree| value(tree, text, origin)).collect()
}

/// A document as JSON that every reader of YAML takes for the same: what YAML knows in escapes only, or takes for the end of a line
/// in a quoted text, is escaped.
///
/// Source: YAML 1.2.2, 5.1 "Character Set", and YAML 1.1, 4.2 "Line Breaks".
#[must_use]
pub fn json(document: &Value) -> String {
    let escaped = |char: char| {
        matches!(char, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let text = format!("{document:#}");
    if !text.contains(escaped) {
        return text;
    }
    // Only texts hold such letters.
    let letter = |char: char| if escaped(char) { format!("\\u{:04x}", u32::from(char)) } else { char.into() };
    text.chars().map(letter).collect()
}

/// Limits and policies of the reader.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 64,
            max_nodes: 50_000,
            max_events: 200_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_total_scalar_bytes: 4 * MAX_BYTES,
            max_recorded_anchor_bytes: 4 * MAX_BYTES,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
            max_replay_stack_depth: 16,
        },
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// Bytes that no configuration has, and their offset: the reader would take them, kubeadm's does not everywhere.
fn forbidden(text: &str) -> Option<(usize, &'static str)> {
    if text.starts_with('\u{feff}') {
        return Some((0, "a byte order mark; save the file without one"));
    }
    text.find('\0').map(|offset| (offset, "a NUL byte"))
}

/// Line and column of a byte offset, both from 1; the column in characters.
fn place(text: &str, offset: usize) -> (u64, u64) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    (line as u64, column as u64)
}

/// The reader's error with its place, in one line.
fn syntax(error: &serde_saphyr::Error, origin: &str) -> Error {
    let location = error.location();
    let (line, column) = location.map_or((0, 0), |at| (at.line(), at.column()));
    let rendered = error.without_snippet().to_string();
    let why = rendered.lines().next().unwrap_or("cannot be read");
    // What follows are advice for programmers and places again.
    let end =
        [", set DuplicateKeyPolicy", " at line ", " (defined"].iter().filter_map(|mark| why.find(mark)).min();
    let why = why.get(..end.unwrap_or(why.len())).unwrap_or(why).trim_end_matches([':', ',']);
    let why = why.replace("budget breached: ", "more than a configuration may have: ");
    Error::Syntax { origin: origin.into(), line, column, why }
}

/// A value as the reader gives it, each node with its place in the text.
enum Tree {
    Leaf(Value),
    Seq(Vec<Spanned<Tree>>),
    Map(Vec<(String, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

/// Takes whatever the reader finds.
struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Number(value.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number that JSON does not have"))?;
        Ok(Tree::Leaf(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::String(value.into())))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}

/// The tree as JSON, unless a scalar means different things to different readers.
fn value(tree: Spanned<Tree>, text: &str, origin: &str) -> Result<Value, Error> {
    let defined = tree.defined;
    match tree.value {
        Tree::Leaf(leaf) => {
            let written = written(text, &defined);
            if let Some(why) = ambiguous(&leaf, written) {
                let (line, column) = (defined.line(), defined.column());
                return Err(Error::Syntax { origin: origin.into(), line, column, why });
            }
            Ok(leaf)
        }
        Tree::Seq(items) => items.into_iter().map(|item| value(item, text, origin)).collect(),
        Tree::Map(entries) => {
            let mut map = Map::new();
            for (key, item) in entries {
                map.insert(key, value(item, text, origin)?);
            }
            Ok(Value::Object(map))
        }
    }
}

/// The scalar as it stands in the text, from its place on; empty where the reader does not know the place.
fn written<'text>(text: &'text str, at: &serde_saphyr::Location) -> &'text str {
    let start = at.span().byte_offset().and_then(|offset| usize::try_from(offset).ok());
    let rest = start.and_then(|start| text.get(start..)).unwrap_or_default();
    let end = rest.find(|c: char| c.is_whitespace() || ",]}#".contains(c)).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

/// Why a plain scalar is ambiguous: YAML 1.1 and 1.2 read it differently.
fn ambiguous(leaf: &Value, written: &str) -> Option<String> {
    match leaf {
        Value::Bool(value)
            if !written.is_empty()
                && !written.eq_ignore_ascii_case("true")
                && !written.eq_ignore_ascii_case("false") =>
        {
            Some(format!(
                "{written} is a boolean to some readers and a text to others: write {value} or \"{written}\""
            ))
        }
        Value::Number(_) | Value::String(_) if leading_zero(written) => Some(format!(
            "{written} is octal to some readers and decimal to others: quote it or leave out the leading zero"
        )),
        _ => None,
    }
}

/// `0755`, `-007`: an integer with a leading zero.
fn leading_zero(written: &str) -> bool {
    let digits = written.strip_prefix(['-', '+']).unwrap_or(written);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the bound on time is what is tested")]
    fn refused(text: &str) -> String {
        let start = Instant::now();
        let error = documents(text, "u.yaml").expect_err("must be refused").to_string();
        // F44 asks for 1 s, seen: 0.1 s. A bomb that goes off takes hours, a busy machine only seconds.
        println!("refused after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn what_yaml_knows_in_escapes_only_is_escaped_in_json() {
        let value = json!({ "a\u{7f}": "b\u{85}\u{9f}\u{2028}\u{2029}\u{feff}\u{ffff}ü\u{1}\u{1f600}" });
        let text = json(&value);
        assert!(
            !text.contains(['\u{7f}', '\u{85}', '\u{2028}'])
                && text.contains("\\u2028\\u2029\\ufeff\\uffff\u{fc}"),
            "{text}"
        );
        assert_eq!(documents(&text, "made"), Ok(vec![value]));
    }

    #[test]
    fn documents_are_read_as_kubeadm_reads_them() {
        let text = "# c\na: 1\nb: [x, 'yes', \"0755\", 1.5, true, null, ~]\n---\n---\n{\"c\": {\"d\": \"e\"}}\n...\n---\n\
                    - &x {k: v}\n- *x\n- {<<: *x, l: 0}\n";
        let read = documents(text, "u.yaml").unwrap();
        let b = json!(["x", "yes", "0755", 1.5, true, null, null]);
        let aliased = json!([{"k": "v"}, {"k": "v"}, {"k": "v", "l": 0}]);
        assert_eq!(read, [json!({"a": 1, "b": b}), json!({"c": {"d": "e"}}), aliased]);
        assert!(documents("", "u.yaml").unwrap().is_empty());
        assert!(documents("---\n# nothing\n---\n", "u.yaml").unwrap().is_empty());
        assert_eq!(documents("a: b\r\nc: |\r\n  d\r\n", "u.yaml").unwrap(), [json!({"a": "b", "c": "d\n"})]);
    }

    #[test]
    fn f44_bad_yaml_is_refused_with_its_place() {
        let cases = [
            ("a: 1\nb: 2\na: 3\n", "u.yaml:3:1: duplicate mapping key: a"),
            ("a:\n\t- b\n", "u.yaml:2:2: tabs disallowed within this context (block indentation)"),
            ("\u{feff}a: 1\n", "u.yaml:1:1: a byte order mark; save the file without one"),
            ("a: 1\nb: \"\0\"\n", "u.yaml:2:5: a NUL byte"),
            (
                "a: yes\n",
                "u.yaml:1:4: yes is a boolean to some readers and a text to others: write true or \"yes\"",
            ),
            (
                "ä: [on, b]\n",
                "u.yaml:1:5: on is a boolean to some readers and a text to others: write true or \"on\"",
            ),
            (
                "- &a No\n- *a\n",
                "No is a boolean to some readers and a text to others: write false or \"No\"",
            ),
            ("a: 0755\n", "u.yaml:1:4: 0755 is octal to some readers and decimal to others"),
            ("a: -007\n", "u.yaml:1:4: -007 is octal to some readers and decimal to others"),
            ("a: .nan\n", "u.yaml:1:4: non-finite float"),
            ("a: !!python/object:os.system x\n", "u.yaml:1:30: unsupported tag"),
            ("a: *nowhere\n", "u.yaml:1:4: alias references unknown anchor"),
            ("a: [1, 2\nb: 3\n", "u.yaml:2:"),
            ("a: 'b\n", "u.yaml:2:1: "),
            ("a: b: c\n", "u.yaml:1:5: mapping values are not allowed in this context"),
            ("? {a: b}\n: c\n", "u.yaml:1:3: expected string scalar"),
        ];
        for (text, expected) in cases {
            let error = refused(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn f44_bombs_are_refused_in_time() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let last = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [last.as_str(); 9].join(", "));
        }
        let nested: String = (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth % 90))).collect();
        let cases = [
            bomb,
            "[".repeat(10_000),
            "{a: ".repeat(10_000),
            "- ".repeat(10_000),
            (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
            nested,
            "--- a\n".repeat(1000),
            "- a\n".repeat(200_000),
            format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a, ".repeat(100_000)),
            format!("&a{} x", "y".repeat(500_000)) + &": {".repeat(1000),
        ];
        for text in &cases {
            println!("{}", refused(text));
        }
    }

    #[test]
    fn f44_a_large_text_is_refused_unread() {
        let error = documents(&"a".repeat(100 << 20), "u.yaml").unwrap_err();
        assert_eq!(error, Error::TooLarge { origin: "u.yaml".into(), bytes: 100 << 20 });
    }

    #[test]
    fn an_error_never_quotes_a_value() {
        for text in [
            "token: abcdef.0123456789abcdef: x\n",
            "token: 'abcdef.0123456789abcdef\n",
            "t: [abcdef.0123456789abcdef\n",
        ] {
            let error = refused(text);
            assert!(!error.contains("0123456789"), "{error}");
        }
    }
}
