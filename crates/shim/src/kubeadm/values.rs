//! Values of flags as Go reads them: what kubeadm would refuse is `None`.

/// strconv.ParseBool.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// strconv.ParseInt with base 0 (`0x`, `0o`, `0b` and `0` prefixes, `_` between digits) and 32 bits.
pub(super) fn int32(text: &str) -> Option<i32> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..)?),
        [b'0', b'o', ..] => (8, lower.get(2..)?),
        [b'0', b'b', ..] => (2, lower.get(2..)?),
        [b'0', _, ..] => (8, lower.get(1..)?),
        _ => (10, lower.as_str()),
    };
    let prefixed = digits.len() < lower.len();
    let digits = if prefixed { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let parted: Vec<&str> = digits.split('_').collect();
    if !parted.iter().all(|part| part.starts_with(|first: char| first.is_digit(radix))) {
        return None;
    }
    i32::from_str_radix(&format!("{sign}{}", parted.concat()), radix).ok()
}

/// strconv.ParseInt with base 10 and 32 bits: klog's level.
pub(super) fn level(text: &str) -> Option<i32> {
    text.parse().ok()
}

/// time.ParseDuration: `1h30m`, `1.5s`, `0`.
pub(super) fn duration(text: &str) -> Option<()> {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(());
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let whole = digits.bytes().filter(|byte| *byte == b'.').count() <= 1;
        if !whole || !digits.bytes().any(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if !["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&unit) {
            return None;
        }
        rest = after;
    }
    Some(())
}

/// encoding/csv's first record: the items of a list flag.
pub(super) fn list(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let mut text = text.trim_start_matches('\n');
    if text.is_empty() {
        return None;
    }
    let mut items = Vec::new();
    loop {
        let (item, after) =
            if let Some(quoted) = text.strip_prefix('"') { quoted_item(quoted)? } else { bare_item(text)? };
        items.push(item);
        match after.strip_prefix(',') {
            Some(next) => text = next,
            None => return (after.is_empty() || after.starts_with('\n')).then_some(items),
        }
    }
}

/// An item up to a comma or the end of the line; a quote inside is an error.
fn bare_item(text: &str) -> Option<(String, &str)> {
    let end = text.find([',', '\n']).unwrap_or(text.len());
    let (item, after) = text.split_at(end);
    (!item.contains('"')).then(|| (item.to_owned(), after))
}

/// An item up to its closing quote; `""` is a quote.
fn quoted_item(mut text: &str) -> Option<(String, &str)> {
    let mut item = String::new();
    loop {
        let (before, after) = text.split_once('"')?;
        item.push_str(before);
        let Some(next) = after.strip_prefix('"') else { return Some((item, after)) };
        item.push('"');
        text = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_go_reads_them() {
        let cases = [
            ("6443", Some(6443)),
            ("0x192B", Some(6443)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("0b11", Some(3)),
            ("-1", Some(-1)),
            ("+5", Some(5)),
            ("0", Some(0)),
            ("", None),
            ("5x", None),
            ("+-5", None),
            ("0x", None),
            ("09", None),
            ("2147483648", None),
            (" 5", None),
            ("1_000", Some(1000)),
            ("0_1", Some(1)),
            ("0x_f", Some(15)),
            ("_1", None),
            ("1__0", None),
            ("1_", None),
        ];
        for (text, expected) in cases {
            assert_eq!(int32(text), expected, "{text:?}");
        }
        assert_eq!((level("5"), level("0x5"), level("5x"), level("")), (Some(5), None, None, None));
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for good in ["0", "1s", "24h0m0s", "1.5h", "-3m", "+2ms", "1h2m3.5s", ".5s", "5.s", "3µs"] {
            assert!(duration(good).is_some(), "{good}");
        }
        for bad in ["", "5", "s", "1d", "1h 2m", ".s", "1..2s", "--1s", "1S"] {
            assert!(duration(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn lists_are_read_as_csv() {
        let owned = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
        assert_eq!(list("a,b"), owned(&["a", "b"]));
        assert_eq!(list(""), owned(&[]));
        assert_eq!(list("a,"), owned(&["a", ""]));
        assert_eq!(list("\"a,b\",\"c\"\"d\""), owned(&["a,b", "c\"d"]));
        assert_eq!(list(" a, b"), owned(&[" a", " b"]));
        assert_eq!(list("a\nb"), owned(&["a"]));
        assert_eq!((list("a\"b"), list("\"a"), list("\"a\"b"), list("\n")), (None, None, None, None));
    }
}
