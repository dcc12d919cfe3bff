//! What the supervisor says of the node, as root reads and prints it: its memory belongs to the node's user.

use u7s_plan::control::{Answer, MAX_PROBLEM, Request, Status, cut};
use u7s_plan::health::{self, Seen};
use u7s_plan::need::Ignored;
use u7s_plan::node::HostPort;
use u7s_plan::timings::{Run, of_unit, phase_of};
use u7s_plan::{fix, nagios};
use u7s_shim::systemctl::{self, Call, Outcome, Place};

use crate::{comes_back, text, texts};

/// Messages of the control socket come back as they were sent, and what is cut keeps to its bound.
pub(super) fn control(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        comes_back(&request);
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(data) {
        comes_back(&answer);
    }
    let text = text(data);
    if let Ok(port) = text.parse::<HostPort>() {
        comes_back(&port);
        assert_eq!(port.to_string().parse(), Ok(port));
    }
    for most in [8, MAX_PROBLEM] {
        let short = cut(text.clone().into_owned(), most);
        let length = serde_json::to_vec(&short).unwrap_or_default().len();
        assert!(length <= most + 2, "{length} bytes for {most}");
        assert!(short == text || short.strip_suffix("...").is_some_and(|start| text.starts_with(start)));
    }
}

/// A status is shown by systemctl's shim, judged for an administrator and told to monitoring: in lines of ours, without escapes.
pub(super) fn status(data: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Answer>(data) else { return };
    shim(&answer);
    let made = Seen { node: Some(texts::node().clone()), facts: texts::facts(), ..Seen::default() };
    let seen = match answer {
        Answer::Status(status) => Seen { status: Some(*status), ..made },
        Answer::Ports { ports } => Seen { ports, ..made },
        _ => return,
    };
    let problems = health::problems(&seen);
    let _ = health::verdict(&problems, &Ignored::default());
    let (line, code) = nagios::line(&seen, &problems, &Ignored::default(), (30, 7));
    assert!(code <= 3 && line.matches('|').count() == 1 && !line.chars().any(char::is_control), "{line:?}");
    let block = fix::block(&problems);
    assert!(block.chars().all(|char| char == '\n' || !char.is_control()), "{block:?}");
    u7s::fuzzing::status(&seen, &problems);
}

/// Every answer in systemctl's words.
fn shim(answer: &Answer) {
    let status: Option<&Status> = match answer {
        Answer::Status(status) => Some(status),
        _ => None,
    };
    for line in
        ["status kubelet crio x", "show kubelet", "is-active kubelet", "is-enabled crio", "restart kubelet"]
    {
        let argv: Vec<_> = line.split(' ').map(Into::into).collect();
        let Call::Ours(ours) = systemctl::parse(&argv, Place::Inside) else { continue };
        let rendered = if ours.is_question() {
            systemctl::render(&ours, status, 1_800_000_000, true)
        } else {
            let answers: Vec<_> = ours
                .requests(|_| true)
                .into_iter()
                .map(|request| (request, Outcome::Answered(answer.clone())))
                .collect();
            systemctl::act(&ours, &answers)
        };
        for text in [rendered.stdout, rendered.stderr] {
            assert!(text.chars().all(|char| char == '\n' || !char.is_control()), "{line}: {text:?}");
        }
    }
}

/// The book of durations, and kubeadm's own lines, which name its parts.
pub(super) fn timings(data: &[u8]) {
    if let Ok(run) = serde_json::from_slice::<Run>(data) {
        comes_back(&run);
        let _ = run.to_string();
    }
    if let Ok(timings) = serde_json::from_slice(data) {
        for (end, took) in [(0, 0), (u64::MAX, 1), (1, u64::MAX), (1_000_000, 300_000)] {
            assert_eq!(of_unit(&timings, end, took).len(), 5);
        }
    }
    if let Some(name) = phase_of(&text(data)) {
        assert!(name.len() <= 32 && name.is_ascii());
    }
}
