//! Which language the reader wants, and whether his terminal can show it.

use std::os::unix::fs::MetadataExt;

use super::Language;

/// Judges the environment as setlocale(3) would: the first of the variables that is set and not empty counts.
///
/// Russian needs UTF-8: in a locale with another character set, or none, English is what everybody can show. The journal is read
/// on other machines and by programs; it is always English.
pub(super) fn language(variable: impl Fn(&str) -> Option<String>, journal: bool) -> Language {
    let first = |names: [&str; 3]| {
        names
            .into_iter()
            .find_map(|name| variable(name).filter(|value| !value.is_empty()))
            .unwrap_or_default()
    };
    let messages = first(["LC_ALL", "LC_MESSAGES", "LANG"]);
    let characters = first(["LC_ALL", "LC_CTYPE", "LANG"]);
    let russian = messages == "ru" || messages.starts_with("ru_") || messages.starts_with("ru.");
    if russian && is_utf8(&characters) && !journal { Language::Russian } else { Language::English }
}

/// `ru_RU.UTF-8@modifier`; a locale without a character set has an older one.
fn is_utf8(locale: &str) -> bool {
    let set = locale.split_once('.').map(|(_, set)| set.split('@').next().unwrap_or_default());
    set.is_some_and(|set| set.replace('-', "").eq_ignore_ascii_case("utf8"))
}

/// Standard error leads to the journal.
///
/// Source: systemd.exec(5), `$JOURNAL_STREAM`.
pub(super) fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|seen| format!("{}:{}", seen.dev(), seen.ino()) == stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(environment: &[(&str, &str)]) -> Language {
        language(
            |name| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
            false,
        )
    }

    #[test]
    fn f63_russian_only_where_it_is_wanted_and_can_be_shown() {
        let russian: &[&[(&str, &str)]] = &[
            &[("LANG", "ru_RU.UTF-8")],
            &[("LANG", "ru_RU.utf8@x")],
            &[("LANG", "en_US.UTF-8"), ("LC_MESSAGES", "ru_UA.UTF-8")],
            &[("LANG", "C"), ("LC_ALL", "ru_RU.UTF-8"), ("LC_MESSAGES", "C")],
            &[("LC_ALL", ""), ("LANG", "ru_RU.UTF-8")],
        ];
        let english: &[&[(&str, &str)]] = &[
            &[],
            &[("LANG", "C")],
            &[("LANG", "C.UTF-8")],
            &[("LANG", "ru_RU")],
            &[("LANG", "ru_RU.KOI8-R")],
            &[("LANG", "ru_RU.CP1251")],
            &[("LANG", "tr_TR.UTF-8")],
            &[("LANG", "run.UTF-8")],
            &[("LANG", "ru_RU.UTF-8"), ("LC_ALL", "C")],
            &[("LANG", "ru_RU.UTF-8"), ("LC_CTYPE", "ru_RU.KOI8-R")],
            &[("LANG", "ru_RU.KOI8-R"), ("LC_MESSAGES", "ru_RU.UTF-8")],
        ];
        for environment in russian {
            assert_eq!(spoken(environment), Language::Russian, "{environment:?}");
        }
        for environment in english {
            assert_eq!(spoken(environment), Language::English, "{environment:?}");
        }
        assert_eq!(language(|_| Some("ru_RU.UTF-8".into()), true), Language::English);
    }
}
