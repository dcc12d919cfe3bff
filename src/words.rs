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

fn russian(english: &str) -> String {
    whole(english).or_else(|| parts(english)).unwrap_or_else(|| english.to_owned())
}

/// By the template that fits best: the one with the most text of its own.
fn whole(english: &str) -> Option<String> {
    let fits = templates().iter().filter_map(|(own, template)| Some((own, template.captures(english)?)));
    let (own, captures) = fits.max_by_key(|(own, _)| own.weight)?;
    Some(own.russian.fill(|name| {
        let (name, nested) = template::name(name);
        let value =
            captures.iter().find(|(known, _)| template::name(known).0 == name).map_or("", |(_, text)| text);
        if nested { russian(value) } else { value.to_owned() }
    }))
}

/// Texts that were joined before: causes, what a status waits for. Each part by itself; a name of something stays.
fn parts(english: &str) -> Option<String> {
    let known = english.match_indices(": ").find_map(|(at, _)| Some((at, whole(&english[..at])?)));
    if let Some((at, text)) = known {
        return Some(format!("{text}: {}", russian(&english[at + 2..])));
    }
    let joint = ["; ", ": "].into_iter().find(|joint| english.contains(joint))?;
    let (first, rest) = english.split_once(joint)?;
    Some(format!("{}{joint}{}", russian(first), russian(rest)))
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
