//! Feeds the parser that `U7S_FUZZ` names with what libFuzzer thinks of: see docs/fuzzing.md.
#![no_main]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use u7s_fuzz::{TARGETS, Target, named};

/// How long one input may take on a processor (S40).
const LIMIT: Duration = Duration::from_millis(100);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = target();
    let began = Instant::now();
    (target.run)(data);
    if began.elapsed() > LIMIT {
        // Another program may have had the processor: that does not count.
        let began = on_processor();
        (target.run)(data);
        let took = on_processor() - began;
        assert!(took < LIMIT, "{took:?} for {} bytes", data.len());
    }
});

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("U7S_FUZZ").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        named(&name).unwrap_or_else(|| panic!("U7S_FUZZ={name:?} is none of {names:?}"))
    })
}

fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0))
}
