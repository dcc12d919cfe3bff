//! The manual pages say all that the programs take: commands and flags of the grammar, keys of the configuration.

#[cfg(test)]
mod tests {
    use std::path::Path;

    const LANGUAGES: [&str; 2] = ["en", "ru"];

    fn source(language: &str, page: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man").join(language).join(page);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Whether a page has the words in code of their own: `u7s check` is not said by `u7s checks`.
    fn says(text: &str, words: &str) -> bool {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        text.match_indices(words).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + words.len()..].chars().next();
            !before.is_some_and(part) && !after.is_some_and(part)
        })
    }

    /// Each command with its flags, those that clap adds included.
    fn walk(command: &clap::Command, path: &str, tell: &mut dyn FnMut(&str, &clap::Command)) {
        tell(path, command);
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            walk(below, &format!("{path} {}", below.get_name()), tell);
        }
    }

    fn flags(command: &clap::Command) -> Vec<String> {
        let flags = command.get_arguments().filter(|argument| !argument.is_hide_set());
        flags.filter_map(|flag| flag.get_long().map(|long| format!("--{long}"))).collect()
    }

    fn values(command: &clap::Command) -> Vec<String> {
        let values = command.get_arguments().flat_map(clap::Arg::get_possible_values);
        values
            .map(|value| value.get_name().to_owned())
            .filter(|name| name != "true" && name != "false")
            .collect()
    }

    #[test]
    fn every_command_flag_and_value_is_in_help_and_in_both_pages() {
        let mut grammar = u7s::doors::tool::command();
        grammar.build();
        let (mut commands, mut all_flags) = (0, 0);
        walk(&grammar, "u7s", &mut |path, command| {
            if path.split(' ').nth(1) == Some("help") || path.split(' ').nth(2) == Some("help") {
                return;
            }
            commands += 1;
            let help = command.clone().render_long_help().to_string();
            for language in LANGUAGES {
                let page = source(language, "u7s.8.md");
                let leaf = command.get_subcommands().next().is_none();
                assert!(!leaf || says(&page, path), "{path} is not in {language}/u7s.8.md");
                for word in flags(command).into_iter().chain(values(command)) {
                    assert!(says(&page, &word), "{word} of {path} is not in {language}/u7s.8.md");
                    assert!(says(&help, &word), "{word} is not in the help of {path}");
                    all_flags += 1;
                }
            }
        });
        println!("{commands} commands, {all_flags} flags and values");
        assert!(commands > 10 && all_flags > 20);
    }

    #[test]
    fn every_key_of_the_configuration_is_in_both_pages_with_its_default() {
        let defaults = serde_json::to_value(u7s_plan::config::Config::default()).unwrap();
        let mut keys = Vec::new();
        for (key, value) in defaults.as_object().unwrap() {
            match value.as_object() {
                Some(table) => {
                    keys.extend(table.iter().map(|(name, value)| (format!("{key}.{name}"), value.clone())))
                }
                None => keys.push((key.clone(), value.clone())),
            }
        }
        for language in LANGUAGES {
            let page = source(language, "u7s.toml.5.md");
            for (key, value) in &keys {
                let line =
                    if value.is_null() { format!("`{key}`\n: ") } else { format!("`{key} = {value}`\n: ") };
                assert!(page.contains(&line), "{line:?} is not in {language}/u7s.toml.5.md");
            }
        }
        println!("{} keys", keys.len());
        assert!(keys.len() > 15);
    }

    #[test]
    fn the_supervisors_and_the_shims_flags_are_in_both_pages() {
        for language in LANGUAGES {
            let page = source(language, "u7s-supervisor.8.md");
            for flag in ["--spec", "--runtime-dir", "--help", "--version"] {
                assert!(says(&page, flag), "{flag} is not in {language}/u7s-supervisor.8.md");
            }
            let page = source(language, "u7s-kubeadm.8.md");
            for word in ["--output", "--dry-run", "--ignore-preflight-errors", "json"] {
                assert!(says(&page, word), "{word} is not in {language}/u7s-kubeadm.8.md");
            }
            for phase in u7s_plan::step::Phase::ALL {
                let line = format!("`{}`\n: ", phase.as_str());
                assert!(page.contains(&line), "{line:?} is not in {language}/u7s-kubeadm.8.md");
            }
        }
    }

    #[test]
    fn both_languages_have_the_same_pages_sections_and_terms() {
        let names = |language: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man").join(language);
            let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names("en"), names("ru"));
        let count = |text: &str, begin: &str| text.lines().filter(|line| line.starts_with(begin)).count();
        for page in names("en") {
            let [english, russian] = LANGUAGES.map(|language| source(language, &page));
            for begin in ["# ", "## ", ": ", "```", "- "] {
                assert_eq!(count(&english, begin), count(&russian, begin), "{begin:?} in {page}");
            }
        }
    }
}
