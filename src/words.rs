//! What people read, in their language: English, in which all texts are written, or Russian.
//!
//! The tables below hold templates of both languages side by side, as `"port {port} is in use"`. A finished English text is looked
//! up when it is printed, so nothing else of u7s knows of languages: needs and errors are passed on, compared, kept and given to
//! programs in English, and the journal is English. A text that no template fits is printed as it is.

use std::borrow::Cow;
use std::sync::OnceLock;

mod doors;
mod errors;
mod health;
mod locale;
mod needs;
mod steps;
mod template;

use template::Template;

/// Languages in which we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    English,
    Russian,
}

/// English and Russian, one template each.
type Table = &'static [(&'static str, &'static str)];

const TABLES: [Table; 5] = [needs::TABLE, errors::TABLE, steps::TABLE, doors::TABLE, health::TABLE];

/// The text in the reader's language.
#[must_use]
pub fn say(english: &str) -> Cow<'_, str> {
    match language() {
        Language::English => Cow::Borrowed(english),
        Language::Russian => Cow::Owned(russian(english)),
    }
}

fn language() -> Language {
    static LANGUAGE: OnceLock<Language> = OnceLock::new();
    *LANGUAGE.get_or_init(|| locale::language(|name| std::env::var(name).ok(), locale::stderr_is_journal()))
}

/// How many bytes of texts are looked at for one that is printed: seen are a hundred thousand for the longest of ours. What others
/// say may be any number of parts, each of which might be ours; then the rest of it stays as it is.
const MOST: usize = 4 << 20;

fn russian(english: &str) -> String {
    let mut left = MOST;
    said(english, &mut left)
}

fn said(english: &str, left: &mut usize) -> String {
    whole(english, left).or_else(|| parts(english, left)).unwrap_or_else(|| english.to_owned())
}

/// By the template that fits best: the one with the most text of its own.
fn whole(english: &str, left: &mut usize) -> Option<String> {
    *left = left.saturating_sub(templates().len());
    if *left == 0 {
        return None;
    }
    let mut best: Option<(&Own, Vec<(&str, &str)>)> = None;
    for (own, template) in templates() {
        if let Some(captures) = template.captures(english, left)
            && best.as_ref().is_none_or(|(best, _)| best.weight <= own.weight)
        {
            best = Some((own, captures));
        }
    }
    let (own, captures) = best?;
    Some(own.russian.fill(|name| {
        let (name, nested) = template::name(name);
        let value =
            captures.iter().find(|(known, _)| template::name(known).0 == name).map_or("", |(_, text)| text);
        if nested { said(value, left) } else { value.to_owned() }
    }))
}

/// Texts that were joined before: causes, what a status waits for. Each part by itself; a name of something stays.
fn parts(english: &str, left: &mut usize) -> Option<String> {
    let known = english.match_indices(": ").find_map(|(at, _)| Some((at, whole(&english[..at], left)?)));
    if let Some((at, text)) = known {
        return Some(format!("{text}: {}", said(&english[at + 2..], left)));
    }
    if *left == 0 {
        return None;
    }
    let joint = ["; ", ": "].into_iter().find(|joint| english.contains(joint))?;
    let (first, rest) = english.split_once(joint)?;
    Some(format!("{}{joint}{}", said(first, left), said(rest, left)))
}

/// The other half of a row.
struct Own {
    russian: Template,
    weight: usize,
}

fn templates() -> &'static [(Own, Template)] {
    static TEMPLATES: OnceLock<Vec<(Own, Template)>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let row = |(english, russian): &(&'static str, &'static str)| {
            let english = Template::new(english);
            (Own { russian: Template::new(russian), weight: english.weight() }, english)
        };
        TABLES.into_iter().flatten().map(row).collect()
    })
}

/// A text that is ours in part only.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) {
    let said = russian(text);
    assert!(!said.is_empty() || text.is_empty());
}

#[cfg(test)]
mod tests;
