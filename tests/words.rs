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
