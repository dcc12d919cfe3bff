//! Markdown of a manual page to roff, macros man(7).
//!
//! What a manual page needs is understood: headings, paragraphs, definition lists, bullets, code, emphasis, links. All else is
//! refused, so nothing gets lost unseen.

use std::fmt::Write as _;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A page in roff.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// `u7s`.
    pub(crate) name: String,
    /// `8`.
    pub(crate) section: String,
    /// The whole file.
    pub(crate) text: String,
}

/// Translates a page; its first heading is `# name(section)`.
///
/// # Errors
/// In words: what has no counterpart here, a heading that names no page.
pub(crate) fn page(markdown: &str, version: &str) -> Result<Page, String> {
    let mut writer = Writer::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_DEFINITION_LIST) {
        writer.take(event)?;
    }
    let title = writer.title.ok_or("it begins with no heading `# name(section)`")?;
    let (name, section) = title
        .strip_suffix(')')
        .and_then(|text| text.split_once('('))
        .ok_or_else(|| format!("the heading {title:?} is not name(section)"))?;
    let head = format!(".TH \"{}\" \"{section}\" \"\" \"u7s {version}\"\n", name.to_uppercase());
    // A command that is cut by a hyphen, or text that is stretched, cannot be read or copied.
    let text = format!("{head}.nh\n.ad l\n{}", writer.out);
    Ok(Page { name: name.into(), section: section.into(), text })
}

#[derive(Default)]
struct Writer {
    out: String,
    /// Inline text since the last block began.
    line: String,
    title: Option<String>,
    /// Lists that are open: the number of the next item, or bullets.
    lists: Vec<Option<u64>>,
    /// The next paragraph stands behind the tag of its item.
    tagged: bool,
    code_block: bool,
    /// Where a link leads, and its text's begin in `line`.
    link: Option<(String, usize)>,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Start(tag) => return self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code_block => self.out.push_str(&guarded(&escaped(&text, true))),
            Event::Text(text) => self.line.push_str(&escaped(&text, false)),
            Event::Code(text) => {
                let _ = write!(self.line, "\\fB{}\\fR", escaped(&text, true));
            }
            Event::SoftBreak => self.line.push('\n'),
            Event::HardBreak => self.line.push_str("\n.br\n"),
            other => return Err(format!("{other:?} has no counterpart in a manual page")),
        }
        Ok(())
    }

    fn start(&mut self, tag: Tag<'_>) -> Result<(), String> {
        match tag {
            Tag::Heading { .. } | Tag::DefinitionList => self.flush(),
            Tag::Paragraph => {
                self.flush();
                if !std::mem::take(&mut self.tagged) {
                    self.out.push_str(if self.lists.is_empty() { ".PP\n" } else { ".IP\n" });
                }
            }
            Tag::DefinitionListTitle => {
                self.flush();
                self.out.push_str(".TP\n");
            }
            Tag::DefinitionListDefinition => {
                self.lists.push(None);
                self.tagged = true;
            }
            Tag::List(first) => {
                self.flush();
                if !self.lists.is_empty() {
                    self.out.push_str(".RS\n");
                }
                self.lists.push(first);
            }
            Tag::Item => self.item(),
            Tag::CodeBlock(CodeBlockKind::Fenced(_)) => {
                self.flush();
                self.out.push_str(if self.lists.is_empty() { ".PP\n.RS 4\n.EX\n" } else { ".IP\n.EX\n" });
                self.code_block = true;
            }
            Tag::Strong => self.line.push_str("\\fB"),
            Tag::Emphasis => self.line.push_str("\\fI"),
            Tag::Link { dest_url, .. } => self.link = Some((dest_url.to_string(), self.line.len())),
            other => return Err(format!("{other:?} has no counterpart in a manual page")),
        }
        Ok(())
    }

    fn item(&mut self) {
        self.flush();
        match self.lists.last_mut() {
            Some(Some(number)) => {
                let _ = writeln!(self.out, ".IP {number}. 4");
                *number += 1;
            }
            _ => self.out.push_str(".IP \\(bu 2\n"),
        }
        self.tagged = true;
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph | TagEnd::DefinitionListTitle | TagEnd::Item => self.flush(),
            TagEnd::DefinitionListDefinition => {
                self.flush();
                self.lists.pop();
                self.tagged = false;
            }
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
                self.tagged = false;
                if !self.lists.is_empty() {
                    self.out.push_str(".RE\n");
                }
            }
            TagEnd::CodeBlock => {
                self.out.push_str(if self.lists.is_empty() { ".EE\n.RE\n" } else { ".EE\n" });
                self.code_block = false;
            }
            TagEnd::Strong | TagEnd::Emphasis => self.line.push_str("\\fR"),
            TagEnd::Link => self.leads(),
            _ => {}
        }
    }

    /// The address of a link, unless its text is that already.
    fn leads(&mut self) {
        let Some((address, begin)) = self.link.take() else { return };
        let address = escaped(&address, true);
        if self.line.get(begin..) != Some(&address) {
            let _ = write!(self.line, " <{address}>");
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text = std::mem::take(&mut self.line);
        match level {
            HeadingLevel::H1 => self.title = Some(text.replace("\\-", "-")),
            HeadingLevel::H2 => drop(writeln!(self.out, ".SH {text}")),
            _ => drop(writeln!(self.out, ".SS {text}")),
        }
        self.tagged = false;
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.tagged = false;
            let text = std::mem::take(&mut self.line);
            self.out.push_str(&guarded(&text));
            self.out.push('\n');
        }
    }
}

/// Characters that roff takes for something else; in code also those that it would make prettier.
fn escaped(text: &str, code: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '\'' if code => out.push_str("\\(aq"),
            '`' if code => out.push_str("\\(ga"),
            other => out.push(other),
        }
    }
    out
}

/// A line that begins as a request does is none.
fn guarded(text: &str) -> String {
    let line = |line: &str| match line.chars().next() {
        Some('.' | '\'') if line != ".br" => format!("\\&{line}"),
        _ => line.to_owned(),
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".TH \"A-B\" \"8\" \"\" \"u7s 1\"\n.nh\n.ad l\n";

    fn roff(markdown: &str) -> String {
        let page = page(&format!("# a-b(8)\n\n{markdown}"), "1").unwrap();
        page.text.strip_prefix(HEAD).expect(HEAD).to_owned()
    }

    #[test]
    fn blocks() {
        let cases = [
            ("## NAME\n\na - b", ".SH NAME\n.PP\na \\- b\n"),
            ("one\ntwo\n\nthree", ".PP\none\ntwo\n.PP\nthree\n"),
            ("`-x` *N*\n: says\n\nend", ".TP\n\\fB\\-x\\fR \\fIN\\fR\nsays\n.PP\nend\n"),
            ("t\n: one\n\n  two\n", ".TP\nt\none\n.IP\ntwo\n"),
            ("t\n: one\n\nu\n: two\n", ".TP\nt\none\n.TP\nu\ntwo\n"),
            ("- a\n- b\n\nend", ".IP \\(bu 2\na\n.IP \\(bu 2\nb\n.PP\nend\n"),
            ("1. a\n2. b", ".IP 1. 4\na\n.IP 2. 4\nb\n"),
            ("```\n.a 'b'\n  c\n```\nd", ".PP\n.RS 4\n.EX\n\\&.a \\(aqb\\(aq\n  c\n.EE\n.RE\n.PP\nd\n"),
            ("t\n: one\n\n  ```\n  x\n  ```\n", ".TP\nt\none\n.IP\n.EX\nx\n.EE\n"),
        ];
        for (markdown, expected) in cases {
            assert_eq!(roff(markdown), expected, "{markdown}");
        }
    }

    #[test]
    fn what_roff_would_obey_is_shown() {
        assert_eq!(roff("a\\\\b\n.so /etc/passwd\n'x"), ".PP\na\\eb\n\\&.so /etc/passwd\n\\&'x\n");
        assert_eq!(roff("[text](https://x.y/~z)"), ".PP\ntext <https://x.y/\\(tiz>\n");
    }

    #[test]
    fn what_has_no_counterpart_is_refused() {
        assert!(page("# a(8)\n\n![x](y)", "1").unwrap_err().contains("no counterpart"));
        assert!(page("# a(8)\n\n<b>x</b>", "1").unwrap_err().contains("no counterpart"));
        assert!(page("text", "1").unwrap_err().contains("no heading"));
        assert!(page("# text", "1").unwrap_err().contains("not name(section)"));
    }
}
