//! One line for monitoring: state, the worst problem, performance data; exit statuses 0 to 3.
//!
//! Source: Monitoring Plugins Development Guidelines, "Plugin Output", "Plugin Return Codes", "Performance data".

use crate::health::{Seen, Verdict};
use crate::need::{Ignored, Level, Unmet};
use crate::printable;

/// The line, without its end, and the exit status: 0 OK, 1 WARNING, 2 CRITICAL.
///
/// `days` are those of warning and critical: a certificate that lasts fewer than so many.
#[must_use]
pub fn line(seen: &Seen, problems: &[Unmet], ignored: &Ignored, days: (u64, u64)) -> (String, u8) {
    // Certificates are judged by the caller's own days.
    let others: Vec<&Unmet> = problems
        .iter()
        .filter(|problem| problem.id != "Certificate" && !ignored.contains(&problem.id))
        .collect();
    let least = seen.certificates.iter().min_by_key(|certificate| certificate.days);
    let below = |days: u64| least.is_some_and(|least| least.days < i64::try_from(days).unwrap_or(i64::MAX));
    let not_yet = seen.certificates.iter().any(|certificate| certificate.begins > seen.now);
    let (warning, critical) = days;
    let worst = others.iter().map(|problem| problem.level).max();
    let status = match worst {
        Some(Level::Error) => 2,
        _ if below(critical) || not_yet => 2,
        Some(Level::Warning) => 1,
        None => u8::from(below(warning)),
    };
    let word = ["OK", "WARNING", "CRITICAL"].get(usize::from(status)).copied().unwrap_or("UNKNOWN");
    let mut said: Vec<String> = Vec::new();
    let mut sorted = others.clone();
    sorted.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    said.extend(sorted.iter().map(|problem| format!("{}: {}", problem.id, problem.message)));
    if let Some(least) = least {
        said.push(format!("{} lasts {} days", least.name, least.days));
    }
    if said.is_empty() {
        said.push("the node stands".into());
    }
    let text: String = said.join(", ").chars().map(plain).collect();
    (format!("U7S {word} - {text} | {}", performance(seen, problems, days)), status)
}

/// A bar would begin the performance data, and a line's end would end the output.
fn plain(char: char) -> char {
    if matches!(char, '|' | '\n' | '\t') || printable::is_control(char) { ' ' } else { char }
}

fn performance(seen: &Seen, problems: &[Unmet], (warning, critical): (u64, u64)) -> String {
    let mut data = vec![format!("problems={};;;0", problems.len())];
    if let Some(days) = seen.certificates.iter().map(|certificate| certificate.days).min() {
        data.push(format!("certificate_days={days};{warning}:;{critical}:"));
    }
    if let Some(space) = seen.facts.space.filter(|space| space.total > 0) {
        data.push(format!("disk_free={}%;15:;;0;100", space.free.saturating_mul(100) / space.total));
    }
    if let Some(status) = &seen.status {
        let restarts: u64 = status.components.iter().map(|component| u64::from(component.restarts)).sum();
        data.push(format!("connections={};;;0;{}", status.connections.open, status.connections.limit));
        data.push(format!("restarts={restarts}c"));
    }
    data.join(" ")
}

/// Nothing is known.
#[must_use]
pub fn unknown(why: &str) -> String {
    let text: String = why.chars().map(plain).collect();
    format!("U7S UNKNOWN - {text}")
}

/// Exit status of `u7s status` without `--nagios`.
#[must_use]
pub fn exit(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Ok => 0,
        Verdict::Failed => 1,
        Verdict::Degraded => 5,
    }
}

#[cfg(test)]
mod tests {
    use crate::certificate::Validity;
    use crate::facts::{Facts, Space};
    use crate::health::Certificate;

    use super::*;

    fn seen(days: u64) -> Seen {
        let now = 1_800_000_000;
        let validity = Validity { begins: now - 1, ends: now + days * 86_400 };
        let space = Some(Space { total: 200, free: 50, ..Space::default() });
        Seen {
            now,
            facts: Facts { space, ..Facts::default() },
            certificates: vec![Certificate::new("apiserver", "/x", validity, now)],
            ..Seen::default()
        }
    }

    fn problem(id: &str, level: Level) -> Unmet {
        Unmet { id: id.into(), message: "a|b\nc".into(), remedy: "r".into(), level }
    }

    #[test]
    fn statuses_are_those_of_the_guidelines_and_the_line_is_one() {
        let all = Ignored::default();
        let of = |days, problems: &[Unmet]| line(&seen(days), problems, &all, (30, 7));
        assert_eq!(of(300, &[]), ("U7S OK - apiserver lasts 300 days | problems=0;;;0 certificate_days=300;30:;7: disk_free=25%;15:;;0;100".into(), 0));
        assert_eq!(of(29, &[]).1, 1);
        assert_eq!(of(6, &[]).1, 2);
        let (text, status) =
            of(300, &[problem("DiskSpace", Level::Warning), problem("Kubelet", Level::Error)]);
        assert_eq!(status, 2);
        assert!(
            text.starts_with(
                "U7S CRITICAL - Kubelet: a b c, DiskSpace: a b c, apiserver lasts 300 days | problems=2"
            ),
            "{text}"
        );
        assert_eq!(of(300, &[problem("DiskSpace", Level::Warning)]).1, 1);
        let ignored = Ignored::new(["diskspace"]);
        assert_eq!(line(&seen(300), &[problem("DiskSpace", Level::Warning)], &ignored, (30, 7)).1, 0);
        assert_eq!(unknown("a\nb"), "U7S UNKNOWN - a b");
    }
}
