//! The tables against each other and against the texts of the sources.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

fn rows() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    TABLES.into_iter().flatten()
}

#[test]
fn both_languages_have_the_same_holes() {
    for (english, russian) in rows() {
        assert_eq!(Template::new(english).names(), Template::new(russian).names(), "{english}");
    }
}

#[test]
fn every_text_is_there_once_and_is_found_again() {
    let mut seen = BTreeSet::new();
    for (english, russian) in rows() {
        assert!(seen.insert(shape(english)), "twice: {english}");
        let filled =
            |text: &'static str| Template::new(text).fill(|hole| format!("<{}>", template::name(hole).0));
        assert_eq!(super::russian(&filled(english)), filled(russian));
    }
    println!("{} texts", seen.len());
}

/// What a supervisor says may have megabytes: `u7s status` tried every template on every part of every rest of it.
#[test]
fn a_text_of_any_number_of_parts_is_looked_at_within_a_bound() {
    for joint in [": ", "; ", " is ", " (", ", "] {
        let text = format!("port{joint}").repeat(100_000);
        let mut left = MOST;
        assert!(said(&text, &mut left).len() >= text.len() / 2, "{joint:?}");
    }
    let mut left = MOST;
    said(&format!("[ERROR Port-53]: {} is not open", "192.0.2.10:53/udp".repeat(20)), &mut left);
    assert!(MOST - left < MOST / 16, "{} bytes for a text of ours", MOST - left);
}

#[test]
fn f63_nothing_that_programs_look_for_is_translated() {
    for (english, russian) in rows() {
        for word in english.split([' ', ';', ',']).filter(|word| is_ours(word)) {
            assert!(russian.contains(word), "{word} of {english:?} is lost");
        }
    }
}

/// Flags, paths, settings, programs with a dot: what is typed or searched for.
fn is_ours(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && !"-/".contains(c));
    (word.starts_with("--") || word.starts_with("/etc/") || word.contains("=1") || word.ends_with(".service"))
        && !word.contains("HOST")
}

#[test]
fn composed_texts_are_said_in_whole() {
    let cases = [
        (
            "[ERROR Port-6443]: port 6443 is in use by etcd (pid 7)",
            "[ERROR Port-6443]: порт 6443 занят: etcd (pid 7)",
        ),
        (
            "hint: kubeadm init    (again: it writes the file anew)",
            "подсказка: kubeadm init    (ещё раз: файл будет записан заново)",
        ),
        (
            "u7s: init: [host] root: load the module tun: modprobe failed, exit status 1",
            "u7s: init: [host] root: загрузить модуль tun: ошибка программы modprobe, exit status 1",
        ),
        (
            "[namespace] u7s.service: waiting for x: 3 s of 180 s",
            "[namespace] u7s.service: ожидание x: 3 с из 180 с",
        ),
        (
            "[namespace] u7s.service: crio is starting; waiting until the namespaces are built, at most 30 s: 3 s of 180 s",
            "[namespace] u7s.service: crio запускается; ожидание создания пространств имён, не больше 30 с: 3 с из 180 с",
        ),
        (
            "[host] done: set the sysctl net.ipv4.ip_forward to \"1\" (2.5 s)",
            "[host] сделано: задать sysctl net.ipv4.ip_forward значение \"1\" (2.5 с)",
        ),
        (
            "[namespace] start u7s.service within 180 s: network, CRI-O and all that is to come run in it",
            "[namespace] запустить u7s.service не дольше чем за 180 с: в ней работают сеть, CRI-O и всё последующее",
        ),
        ("something that nobody wrote down", "something that nobody wrote down"),
    ];
    for (english, expected) in cases {
        assert_eq!(russian(english), expected);
    }
}

/// A template without the names of its holes, as a source or a table has it.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut rest = text;
    while let Some((head, after)) = rest.split_once('{') {
        shape.push_str(head);
        shape.push_str("{}");
        // A brace that stands for itself begins and ends twice.
        let (end, twice) = if after.starts_with('{') { ("}}", true) } else { ("}", false) };
        rest = after.split_once(end).map_or("", |(_, rest)| rest);
        if twice {
            rest = rest.strip_prefix('}').unwrap_or(rest);
        }
    }
    shape + rest
}

/// Sources whose every text is for people.
const SOURCES: [&str; 18] = [
    "crates/plan/src/kubeconfig.rs",
    "crates/plan/src/checks.rs",
    "crates/plan/src/health.rs",
    "crates/plan/src/trial.rs",
    "crates/plan/src/preflight/room.rs",
    "crates/plan/src/preflight/userns.rs",
    "crates/supervisor/src/status.rs",
    "crates/plan/src/preflight.rs",
    "crates/plan/src/preflight/ids.rs",
    "crates/plan/src/preflight/firewall.rs",
    "crates/plan/src/conntrack.rs",
    "crates/plan/src/init/steps.rs",
    "crates/plan/src/reset.rs",
    "crates/host/src/error.rs",
    "crates/host/src/enter/error.rs",
    "crates/host/src/control.rs",
    "src/error.rs",
    "src/report.rs",
];

/// Beginnings of what is a command to type, the same in every language, and parts of texts that stand whole in a table.
const PLAIN: &[&str] = &[
    "u7s check; ",
    "kill -CONT ",
    "u7s ports list",
    "u7s host-apply",
    "ss -",
    "export ",
    "kubectl describe ",
    "getsubids ",
    "modprobe overlay",
    "du -",
    "kernel-modules-",
    "linux-",
    "abi <",
    "printf '",
    "apt-get ",
    "dnf ",
    "sudo ",
    "systemctl ",
    "journalctl -u u7s.service -n 50",
    "u7s logs ",
    "chmod ",
    "usermod ",
    "echo '",
    "iptables -I",
    "nft insert",
    "firewall-cmd ",
    "{}: {}",
    "kubeadm reset --force",
    "u7s --help",
    " ",
    ", ",
    "and ",
    "{} {} {}",
    "{}.{}",
    "[{}]",
    "need",
    "modprobe tun;",
    "/dev/",
    "ip route add default",
    "kubeadm init --pod",
    "kubeadm init --service",
    "{} overlaps",
    "on {}",
    "the pod network",
    "the service network",
    "the node's own range",
    "\\u{",
    "\\r",
    "{}",
    "hint: {}",
    "u7s: {}: {}",
    "kubeadm version",
    "the kernel is",
    "add ",
    "{} {} of the cluster",
    "in /etc/u7s/config.toml, section [network]",
    "port {} is in use{}",
    "[ERROR",
    "{} was not found in {}{}",
    "another init or reset is running{}",
    "waiting for slirp4netns to be ready, at most {} s{}",
    "the host is not ready, {}",
];

#[test]
fn every_text_of_the_sources_is_in_a_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known: BTreeSet<String> = rows().map(|(english, _)| shape(english)).collect();
    let mut missing = Vec::new();
    let mut count = 0;
    for source in SOURCES {
        let text = std::fs::read_to_string(root.join(source)).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for literal in literals(code) {
            let found = shape(&literal);
            let words = found.contains(' ') && found.chars().any(|c| c.is_ascii_lowercase());
            if !words || PLAIN.iter().any(|plain| found.starts_with(plain)) {
                continue;
            }
            count += 1;
            if !known.contains(&found) {
                missing.push(format!("{source}: {literal:?}"));
            }
        }
    }
    println!("{count} texts in {} sources", SOURCES.len());
    assert!(missing.is_empty(), "without Russian, for src/words: {missing:#?}");
}

/// String literals of Rust code, comments left out, escapes resolved as far as these sources have any.
fn literals(code: &str) -> Vec<String> {
    let lines = code.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    let code = lines.collect::<Vec<_>>().join("\n").replace("'\"'", "''").replace("'\\''", "''");
    let mut found = Vec::new();
    let mut chars = code.chars();
    while chars.by_ref().any(|c| c == '"') {
        let mut literal = String::new();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => match chars.next() {
                    Some('n') => literal.push('\n'),
                    Some('\n') => {
                        let rest = chars.as_str();
                        chars = rest.trim_start().chars();
                    }
                    Some(c @ ('"' | '\\')) => literal.push(c),
                    Some(other) => literal.extend(['\\', other]),
                    None => break,
                },
                c => literal.push(c),
            }
        }
        found.push(literal);
    }
    found
}
