//! F63: the language of the reader changes words, and nothing that a program reads.

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// nobody.
    const NOBODY: u32 = 65534;

    fn said(program: &str, arguments: &[&str], locale: &str) -> (String, String) {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).env("LC_ALL", locale).env_remove("JOURNAL_STREAM");
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    }

    fn ids(text: &str) -> Vec<String> {
        let id = |line: &str| line.strip_prefix('[')?.split_once("]:").map(|(id, _)| id.to_owned());
        text.lines().filter_map(id).collect()
    }

    /// The first arguments that make a program of ours complain about needs, as nobody on any machine.
    const REFUSED: (&str, &[&str]) = (env!("CARGO_BIN_EXE_kubeadm"), &["init"]);

    #[test]
    fn f63_ids_are_the_same_and_russian_is_said_only_in_utf_8() {
        let (_, english) = said(REFUSED.0, REFUSED.1, "C");
        assert!(english.contains("[ERROR IsPrivilegedUser]: user is not running as root"), "{english}");
        for locale in ["C.UTF-8", "ru_RU.KOI8-R", "ru_RU", "tr_TR.UTF-8", "tr_TR.ISO8859-9"] {
            assert_eq!(said(REFUSED.0, REFUSED.1, locale).1, english, "{locale}");
        }
        assert!(english.is_ascii());
        let (_, russian) = said(REFUSED.0, REFUSED.1, "ru_RU.UTF-8");
        println!("{russian}");
        assert_eq!(ids(&russian), ids(&english));
        assert!(
            russian.contains("[ERROR IsPrivilegedUser]: программа запущена не от имени root"),
            "{russian}"
        );
        assert!(russian.contains("подсказка: sudo kubeadm init"), "{russian}");
    }

    /// Rows of `u7s check`: result and id; and the ids of its complaints.
    fn rows(text: &str) -> Vec<String> {
        let row = |line: &str| {
            let mut words = line.split_whitespace();
            let result = words.next().filter(|word| ["pass", "WARN", "FAIL", "n/a"].contains(word))?;
            Some(format!("{result} {}", words.next()?))
        };
        text.lines().filter_map(row).chain(ids(text)).collect()
    }

    #[test]
    fn f63_check_has_the_same_rows_in_every_language() {
        let program = env!("CARGO_BIN_EXE_u7s");
        let [english, russian] = ["C", "ru_RU.UTF-8"].map(|locale| said(program, &["check"], locale).0);
        println!("{russian}");
        assert_eq!(rows(&english), rows(&russian));
        assert!(rows(&english).len() > 20 && english.is_ascii(), "{english}");
        let cyrillic = |line: &&str| line.chars().any(|c| ('\u{430}'..='\u{44f}').contains(&c));
        let wants = russian.lines().filter(|line| rows(line).len() == 1 && !line.starts_with('['));
        let plain: Vec<&str> = wants.filter(|line| !cyrillic(line)).collect();
        assert!(plain.is_empty(), "rows without Russian: {plain:?}");
    }

    #[test]
    fn f63_what_programs_read_is_english_in_every_locale() {
        let program = env!("CARGO_BIN_EXE_kubeadm");
        let (english, _) = said(program, &["init", "--output=json"], "C");
        let (russian, _) = said(program, &["init", "--output=json"], "ru_RU.UTF-8");
        let texts = |lines: &str| -> Vec<String> {
            let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
            lines
                .lines()
                .map(parse)
                .map(|event| format!("{} {} {}", event["event"], event["exit"], event["why"]))
                .collect()
        };
        assert_eq!(texts(&english), texts(&russian));
        assert!(english.is_ascii() && russian.is_ascii() && !english.is_empty(), "{english}");
    }
}
