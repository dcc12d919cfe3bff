//! Text that others chose, before it reaches a terminal or a log: the one place that says what such text may hold.
//!
//! Whoever owns the node writes what the supervisor, kubeadm and pods say. A terminal obeys control characters in it, and shows
//! text with bidirectional controls in another order than it has (S39).

use std::fmt::Write as _;

/// Whether a character has no place in a line of text: control characters of C0 and C1, DEL, separators of lines and paragraphs,
/// controls of the writing direction.
///
/// Line feed and tab are text.
///
/// Source: ECMA-48; Unicode 16, UAX #9, "Directional Formatting Characters"; CVE-2021-42574.
#[must_use]
pub fn is_control(char: char) -> bool {
    match char {
        '\n' | '\t' => false,
        '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => true,
        char => char.is_control(),
    }
}

/// `text` with every control character escaped as Rust writes it: `\u{1b}`. Line feeds and tabs stay.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|char| push(&mut out, char));
    out
}

/// As [`printable`], in one line: line feeds and tabs are escaped too; at most `most` characters of `text`.
#[must_use]
pub fn line(text: &str, most: usize) -> String {
    let mut out = String::new();
    for char in text.chars().take(most) {
        match char {
            '\n' | '\t' => out.extend(char.escape_default()),
            char => push(&mut out, char),
        }
    }
    out
}

/// A text of JSON with the same meaning, in which control characters stand as `\u009b`; `serde_json` escapes those of C0 alone.
#[must_use]
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if is_control(char) {
            // Outside of strings there are none, and none of them is beyond the basic plane.
            let _ = write!(out, "\\u{:04x}", u32::from(char));
        } else {
            out.push(char);
        }
    }
    out
}

fn push(out: &mut String, char: char) {
    if is_control(char) { out.extend(char.escape_default()) } else { out.push(char) }
}

/// A stream of bytes on its way to a terminal, made printable piece by piece.
///
/// Carriage return and backspace pass: a terminal's own line discipline writes them (`\r\n`, and to erase what was typed), and they
/// do not leave the line. Bytes that are no UTF-8 become `\x9b`.
#[derive(Debug, Default)]
pub struct Stream {
    /// The beginning of a character whose end has not come yet: at most three bytes.
    held: Vec<u8>,
}

impl Stream {
    /// What of `bytes` may be shown now.
    pub fn take(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let (text, rest) = decode(&self.held, shown);
        self.held.drain(..self.held.len() - rest);
        text
    }

    /// The stream is over.
    pub fn end(&mut self) -> String {
        std::mem::take(&mut self.held).iter().fold(String::new(), |text, byte| text + &escape(*byte))
    }
}

fn shown(out: &mut String, char: char) {
    if matches!(char, '\r' | '\u{8}') { out.push(char) } else { push(out, char) }
}

/// Text of bytes, each character by `push`, and how many bytes at the end are the beginning of a character.
fn decode(bytes: &[u8], push: fn(&mut String, char)) -> (String, usize) {
    let mut text = String::with_capacity(bytes.len());
    let mut seen = 0;
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|char| push(&mut text, char));
        seen += chunk.valid().len() + chunk.invalid().len();
        let unfinished = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
        if unfinished && seen == bytes.len() {
            return (text, chunk.invalid().len());
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&escape(*byte)));
    }
    (text, 0)
}

fn escape(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

/// A stream of bytes cut into lines, of which only those are passed on that `shows` wants; all of them printable, wherever they go.
#[derive(Debug, Default)]
pub struct LineFilter {
    line: Vec<u8>,
}

impl LineFilter {
    /// What of a line is kept, bytes: the rest of a longer one is lost, since in pieces it would be judged in pieces.
    const LONGEST: usize = 16 * 1024;

    /// What is passed on after `bytes` have come.
    pub fn take(&mut self, bytes: &[u8], shows: &mut dyn FnMut(&str) -> bool) -> String {
        let mut out = String::new();
        for byte in bytes {
            if *byte == b'\n' || self.line.len() < Self::LONGEST {
                self.line.push(*byte);
            }
            if *byte == b'\n' {
                out.push_str(&self.end(shows));
            }
        }
        out
    }

    /// The stream is over, or the line is.
    pub fn end(&mut self, shows: &mut dyn FnMut(&str) -> bool) -> String {
        let line = std::mem::take(&mut self.line);
        let ends: [&[u8]; 2] = [b"\r\n", b"\n"];
        let end = ends.into_iter().find(|end| line.ends_with(end)).unwrap_or_default();
        let (mut text, rest) = decode(&line[..line.len() - end.len()], push);
        let text_end = line.len() - end.len();
        line[text_end - rest..text_end].iter().for_each(|byte| text.push_str(&escape(*byte)));
        if line.is_empty() || !shows(&text) {
            return String::new();
        }
        text + if end.is_empty() { "" } else { std::str::from_utf8(end).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind: OSC, CSI of C0 and C1, DEL, override and isolate of the direction, marks, separators.
    const HOSTILE: &str = "\u{1b}]0;OWNED\u{7}\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2066}\u{200e}\u{200f}\u{61c}\u{2028}\u{2029}\0";

    #[test]
    fn s39_no_control_character_of_any_kind_is_left_in_a_text() {
        for made in [
            printable(HOSTILE),
            line(HOSTILE, 400),
            json(HOSTILE),
            Stream::default().take(HOSTILE.as_bytes()),
        ] {
            assert!(!made.chars().any(is_control), "{made:?}");
            assert!(made.contains("]0;OWNED"), "{made:?}");
        }
        assert_eq!(printable("a\u{1b}[31mb\r\n\tc \u{44f}"), "a\\u{1b}[31mb\\r\n\tc \u{44f}");
        assert_eq!(line("a\nb\tc", 4), "a\\nb\\t");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "text": HOSTILE, "plain": "\u{44f}\n" });
        let text = json(&format!("{value:#}\n"));
        assert!(!text.chars().any(is_control));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let bytes =
            [HOSTILE.as_bytes(), "\u{44f}\u{20ac}\r\n\u{8} \u{8}".as_bytes(), b"\x9b31m\xd0"].concat();
        let whole = {
            let mut stream = Stream::default();
            stream.take(&bytes) + &stream.end()
        };
        assert!(whole.ends_with("\u{44f}\u{20ac}\r\n\u{8} \u{8}\\x9b31m\\xd0"), "{whole:?}");
        for size in 1..7 {
            let mut stream = Stream::default();
            let mut text: String = bytes.chunks(size).map(|piece| stream.take(piece)).collect();
            text.push_str(&stream.end());
            assert_eq!(text, whole, "pieces of {size}");
        }
    }

    #[test]
    fn lines_are_left_out_whole_and_keep_their_ends() {
        let bytes = "one\r\ntwo\u{1b}[2J\rx\nthree\nl\u{44f}st".as_bytes();
        for size in 1..9 {
            let mut filter = LineFilter::default();
            let mut shows = |line: &str| line != "three";
            let mut text: String = bytes.chunks(size).map(|piece| filter.take(piece, &mut shows)).collect();
            text.push_str(&filter.end(&mut shows));
            assert_eq!(text, "one\r\ntwo\\u{1b}[2J\\rx\nl\u{44f}st", "pieces of {size}");
        }
        let mut filter = LineFilter::default();
        let long = vec![b'x'; LineFilter::LONGEST * 2 + 1];
        assert_eq!(filter.take(&long, &mut |_| true), "");
        assert_eq!(filter.take(b"\n", &mut |_| true).len(), LineFilter::LONGEST + 1);
    }
}
