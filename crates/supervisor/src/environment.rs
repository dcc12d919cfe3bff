//! The command line of a component: its arguments, and those that kubeadm left in environment files.

use std::collections::BTreeMap;

use u7s_plan::node::Component;

/// Why a variable gave no arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: a quote is not closed")]
pub(crate) struct OpenQuote {
    variable: String,
}

/// Arguments and environment of a start, given the texts of the component's environment files in their order.
///
/// # Errors
/// [`OpenQuote`] names the variable.
pub(crate) fn command_line(
    component: &Component,
    files: &[String],
) -> Result<(Vec<String>, BTreeMap<String, String>), OpenQuote> {
    let mut env = component.env.clone();
    for text in files {
        env.extend(text.lines().filter_map(assignment));
    }
    let mut argv = component.argv.clone();
    for variable in &component.arg_vars {
        let value = env.get(variable).map(String::as_str).unwrap_or_default();
        argv.extend(words(value).ok_or_else(|| OpenQuote { variable: variable.clone() })?);
    }
    Ok((argv, env))
}

/// One line of an environment file; comments and what is no assignment are skipped, as systemd does.
///
/// Source: systemd.exec(5), `EnvironmentFile=`.
fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let key = key.trim_end();
    let named = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && key.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    named.then(|| (key.to_owned(), unquote(value.trim())))
}

fn unquote(value: &str) -> String {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(text) = inner('\'') {
        return text.to_owned();
    }
    let Some(text) = inner('"') else { return value.to_owned() };
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(escaped @ ('"' | '\\' | '`' | '$')) => plain.push(escaped),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
            _ => plain.push(letter),
        }
    }
    plain
}

/// Splits at blanks; quotes and backslashes as in a shell. `None`: a quote is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(letters.next()?),
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Environment files of a component, divided by NULs: names are names, and what comes in front stays in front.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let files: Vec<String> =
        data.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let component = Component {
        name: u7s_plan::node::ComponentName::Kubelet,
        description: String::new(),
        argv: vec!["/usr/bin/kubelet".into(), "--v=2".into()],
        env: BTreeMap::new(),
        env_files: Vec::new(),
        arg_vars: vec!["KUBELET_KUBEADM_ARGS".into(), "A".into()],
        needs_file: None,
        always: false,
    };
    let Ok((argv, env)) = command_line(&component, &files) else { return };
    assert!(argv.starts_with(&component.argv) && argv.len() <= data.len() + 2);
    let named = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    assert!(env.keys().all(|name| !name.is_empty() && named(name)), "{env:?}");
}

#[cfg(test)]
mod tests {
    use u7s_plan::node::ComponentName;

    use super::*;

    fn kubelet() -> Component {
        Component {
            name: ComponentName::Kubelet,
            description: String::new(),
            argv: vec!["/usr/bin/kubelet".into(), "--v=2".into()],
            env: BTreeMap::from([("PATH".into(), "/usr/bin".into())]),
            env_files: Vec::new(),
            arg_vars: vec!["KUBELET_KUBEADM_ARGS".into(), "KUBELET_EXTRA_ARGS".into()],
            needs_file: None,
            always: false,
        }
    }

    #[test]
    fn kubeadm_flags_become_arguments_and_later_files_win() {
        let files = [
            "# made by kubeadm\nKUBELET_KUBEADM_ARGS=\"--a=1 --b='x y'\"\nbad line\n9X=1\n".to_owned(),
            "KUBELET_EXTRA_ARGS=--c\n; comment\nPATH=/bin\n".to_owned(),
        ];
        let (argv, env) = command_line(&kubelet(), &files).unwrap();
        assert_eq!(argv, ["/usr/bin/kubelet", "--v=2", "--a=1", "--b=x y", "--c"]);
        assert_eq!(env["PATH"], "/bin");
        assert!(!env.contains_key("9X"));
    }

    #[test]
    fn words_are_split_as_in_a_shell() {
        let table = [
            ("", Some(vec![])),
            ("  a  b ", Some(vec!["a", "b"])),
            ("a\\ b \"c 'd\" '' $(x)", Some(vec!["a b", "c 'd", "", "$(x)"])),
            ("'open", None),
            ("end\\", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect());
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn an_open_quote_names_its_variable() {
        let error = command_line(&kubelet(), &["KUBELET_EXTRA_ARGS=a\"b".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "KUBELET_EXTRA_ARGS: a quote is not closed");
    }
}
