//! What a start costs in system calls: these numbers do not depend on how busy the machine is.

use u7s_bench::strace::{between, calls, count};
use u7s_plan::node::ComponentName;

use crate::bench::{Bench, component};

/// Stands for crio.
const PAYLOAD: &str = "/bin/sleep";

/// Programs started after the supervisor itself: the driver and the payload.
const EXECS: usize = 2;

/// Calls of supervisor and pid 1 together, from the exec of the supervisor to that of the payload.
const CALLS: usize = 450;

#[test]
fn birth_takes_two_execs_and_at_most_450_syscalls() {
    let mut bench = Bench::new();
    bench.spec.components = vec![component(ComponentName::Crio, &[PAYLOAD, "60"])];
    let log = bench.traced(&format!("execve(\"{PAYLOAD}\""));
    let all = calls(&log);
    let birth = between(&all, env!("CARGO_BIN_EXE_u7s-supervisor"), PAYLOAD);
    let supervisor = birth.first().expect("the log begins with the supervisor").pid;
    let init = birth.iter().find(|call| call.name == "sethostname").expect("pid 1 gives itself a name").pid;
    let execs: Vec<&str> =
        birth.iter().skip(1).filter(|call| call.name == "execve").map(|call| call.line).collect();
    let own = count(birth, |call| call.pid == supervisor || call.pid == init);
    let total: usize = own.values().sum();
    let mut most: Vec<_> = own.into_iter().collect();
    most.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    println!("{total} calls, {} execs; {most:?}\n{execs:#?}", execs.len());
    assert!(execs.len() <= EXECS, "{execs:#?}");
    assert!(total <= CALLS, "{total} calls: {most:?}");
}
