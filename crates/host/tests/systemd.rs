//! Root's hands on a whole machine: users, subordinate ids, sysctls and units of a real systemd. Changes the machine it runs on.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use u7s_host::apply::{Applier, Event, Tally};
use u7s_host::{Error, probe};
use u7s_plan::config::Config;
use u7s_plan::step::{Action, Phase, PhaseSteps, Step};

const USER: &str = "u7s-test";
const UNIT: &str = "u7s-test.service";
const UNIT_FILE: &str = "/etc/systemd/system/u7s-test.service";

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let trials = vec![
        Trial::test("a_user_with_subordinate_ids_is_made_once_and_taken_away_by_reset", user),
        Trial::test("a_sysctl_is_set_once_and_put_back_by_reset", sysctl),
        Trial::test("a_unit_is_started_once_restarted_when_its_files_change_and_stopped", unit),
        Trial::test(
            "a_unit_that_fails_is_named_with_its_result_and_status_and_does_not_go_on_failing",
            failing,
        ),
        Trial::test("a_unit_that_hangs_is_named_after_the_deadline_with_its_status", hanging),
        Trial::test("a_unit_whose_main_process_puts_its_stop_off_is_killed_after_the_deadline", put_off),
        Trial::test("what_a_user_runs_and_has_waiting_beside_its_units_is_ended", beside),
        Trial::test("a_unit_is_enabled_and_disabled_once", enabled),
        Trial::test("facts_tell_version_and_units_of_systemd", facts),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn apply(actions: impl IntoIterator<Item = Action>) -> Result<Tally, Error> {
    apply_heard(actions, &mut |_| {})
}

fn apply_heard(
    actions: impl IntoIterator<Item = Action>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Tally, Error> {
    let steps = actions.into_iter().map(|action| Step::root(action, "a test")).collect();
    let outcome = Applier::new(USER, tell)?.run(&[PhaseSteps { phase: Phase::Host, steps }]);
    let mut cause = outcome.as_ref().err().map(|error| error as &dyn std::error::Error);
    while let Some(error) = cause {
        println!("  {error}");
        cause = error.source();
    }
    outcome
}

fn check(holds: bool, what: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

fn user() -> Result<(), Failed> {
    let before =
        ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/subuid", "/etc/subgid"].map(fs::read_to_string);
    let steps = || {
        [
            Action::CreateUser { name: USER.into(), home: "/var/lib/u7s-test".into() },
            Action::AddSubids { user: USER.into(), count: 65536 },
        ]
    };
    check(apply(steps())?.done == 2, "made")?;
    check(apply(steps())?.held == 2, "made once")?;
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.starts_with("u7s-test:")).unwrap_or_default().to_owned();
    check(line.ends_with(":/var/lib/u7s-test:/usr/sbin/nologin"), &line)?;
    let shadow = fs::read_to_string("/etc/shadow")?;
    check(shadow.lines().any(|line| line.starts_with("u7s-test:!")), "locked")?;
    for path in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(path)?;
        check(text.lines().any(|line| line.starts_with("u7s-test:") && line.ends_with(":65536")), path)?;
    }
    check(apply([Action::RestoreHost])?.done == 1, "undone")?;
    let after =
        ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/subuid", "/etc/subgid"].map(fs::read_to_string);
    for (before, after) in before.into_iter().zip(after) {
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        check(before == after, format!("{before} became {after}"))?;
    }
    check(!Path::new("/var/lib/u7s-test").exists(), "no home")?;
    check(!Path::new("/var/lib/u7s/undo.json").exists(), "no book")
}

fn sysctl() -> Result<(), Failed> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    fs::write(path, "0")?;
    let set = || [Action::SetSysctl { key: "net/ipv4/ip_forward".into(), value: "1".into() }];
    check(apply(set())?.done == 1, "set")?;
    check(apply(set())?.held == 1, "set once")?;
    check(fs::read_to_string(path)?.trim() == "1", "is set")?;
    check(probe::machine().kernel == probe::facts(&Config::default())?.kernel, "machine facts")?;
    apply([Action::RestoreHost])?;
    check(fs::read_to_string(path)?.trim() == "0", "put back")
}

fn install(service: &str) -> Result<(), Failed> {
    fs::write(UNIT_FILE, format!("[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n"))?;
    Ok(())
}

fn start(seconds: u64) -> Action {
    Action::StartUnit { unit: UNIT.into(), follows: vec!["/run/u7s-test.conf".into()], seconds }
}

fn stop() -> Action {
    Action::StopUnit { unit: UNIT.into(), seconds: 20 }
}

fn main_pid() -> Result<String, Failed> {
    let shown =
        std::process::Command::new("/usr/bin/systemctl").args(["show", "-P", "MainPID", UNIT]).output()?;
    Ok(String::from_utf8(shown.stdout)?.trim().to_owned())
}

fn unit() -> Result<(), Failed> {
    install("ExecStart=/bin/sleep 1000")?;
    fs::write("/run/u7s-test.conf", "1")?;
    check(apply([start(20)])?.done == 1, "started")?;
    check(apply([start(20)])?.held == 1, "started once")?;
    let first = main_pid()?;
    fs::write("/run/u7s-test.conf", "2")?;
    check(apply([start(20)])?.done == 1, "started anew")?;
    check(apply([start(20)])?.held == 1, "started anew once")?;
    check(main_pid()? != first, "another process")?;
    check(apply([stop()])?.done == 1, "stopped")?;
    check(apply([stop()])?.held == 1, "stopped once")?;
    check(main_pid()? == "0", "no process")
}

fn failing() -> Result<(), Failed> {
    let fail = "/bin/sh -c 'systemd-notify --status \"port 6443 is taken\"; exit 7'";
    install(&format!("Type=notify\nNotifyAccess=all\nRestart=always\nRestartSec=1\nExecStart={fail}"))?;
    let error = apply([start(20)]).map(drop).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    println!("{error}: {cause}");
    check(cause.starts_with("u7s-test.service did not start: result exit-code"), &cause)?;
    check(cause.ends_with("see: journalctl -xeu u7s-test.service"), &cause)?;
    let state = probe_state()?;
    check(state == "inactive" || state == "failed" || state == "deactivating", format!("is {state}"))?;
    apply([stop()])?;
    Ok(())
}

fn probe_state() -> Result<String, Failed> {
    let shown = std::process::Command::new("/usr/bin/systemctl").args(["is-active", UNIT]).output()?;
    Ok(String::from_utf8(shown.stdout)?.trim().to_owned())
}

fn hanging() -> Result<(), Failed> {
    let hang = "/bin/sh -c 'systemd-notify --status \"waiting for tap0\"; exec sleep 1000'";
    install(&format!("Type=notify\nNotifyAccess=all\nExecStart={hang}"))?;
    let mut heard = Vec::new();
    let began = Instant::now();
    let outcome = apply_heard([start(2)], &mut |event| {
        if let Event::Waiting(what, ..) = event {
            heard.push(what.to_owned());
        }
    });
    let error = outcome.map(drop).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    check(cause == "the start of u7s-test.service (waiting for tap0) took longer than 2 s", &cause)?;
    check(began.elapsed() < Duration::from_secs(30), "in time")?;
    check(heard.iter().any(|what| what == "u7s-test.service: waiting for tap0"), format!("{heard:?}"))?;
    apply([stop()])?;
    Ok(())
}

/// One that asks systemd for more time without end, and a child that left its session; neither hears SIGTERM.
fn put_off() -> Result<(), Failed> {
    let child = "setsid sh -c \"trap '' TERM; while :; do sleep 1; done\" & ";
    let ask = "while :; do systemd-notify --ready EXTEND_TIMEOUT_USEC=1000000000000000; sleep 0.1; done";
    fs::write("/usr/local/bin/u7s-test-evil", format!("#!/bin/sh\ntrap '' TERM\n{child}\n{ask}\n"))?;
    install(
        "Type=notify\nNotifyAccess=all\nTimeoutStopSec=1\nExecStart=/bin/sh /usr/local/bin/u7s-test-evil",
    )?;
    apply([start(20)])?;
    let began = Instant::now();
    check(apply([Action::StopUnit { unit: UNIT.into(), seconds: 3 }])?.done == 1, "stopped")?;
    println!("stopped in {:?}", began.elapsed());
    check(began.elapsed() >= Duration::from_secs(3), "systemd itself did not end it")?;
    check(began.elapsed() < Duration::from_secs(40), "in time")?;
    check(probe_state()? == "inactive", probe_state()?)?;
    let left = fs::read_to_string("/sys/fs/cgroup/system.slice/u7s-test.service/cgroup.procs");
    check(left.is_err(), "its cgroup is gone")?;
    fs::remove_file("/usr/local/bin/u7s-test-evil")?;
    check(apply([stop()])?.held == 1, "stopped once")
}

fn beside() -> Result<(), Failed> {
    let steps = [
        Action::CreateUser { name: USER.into(), home: "/var/lib/u7s-test".into() },
        Action::AddSubids { user: USER.into(), count: 65536 },
    ];
    apply(steps)?;
    let subuid = fs::read_to_string("/etc/subuid")?;
    let range = subuid.lines().find_map(|line| line.strip_prefix("u7s-test:")).unwrap_or_default();
    let first: u32 = range.split(':').next().unwrap_or_default().parse()?;
    let own: u32 = id("-u")?.parse()?;
    let files =
        ["/var/lib/systemd/linger/u7s-test", "/var/spool/cron/crontabs/u7s-test", "/tmp/u7s-test-left"];
    for file in files {
        fs::create_dir_all(Path::new(file).parent().unwrap_or_else(|| Path::new("/")))?;
        fs::write(file, "x")?;
    }
    std::os::unix::fs::chown(files[2], Some(first), None)?;
    let mut children: Vec<std::process::Child> = Vec::new();
    for uid in [own, first] {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "trap '' TERM; setsid sleep 1000 & sleep 1000"]);
        children.push(std::os::unix::process::CommandExt::uid(&mut command, uid).spawn()?);
    }
    let user = || USER.to_owned();
    let end = || {
        [
            Action::RemoveOwned {
                user: user(),
                dirs: ["/var/spool/cron/crontabs", "/tmp", "/none"].map(Into::into).into(),
            },
            Action::EndSessions { user: user(), seconds: 10 },
            Action::EndProcesses { user: user(), seconds: 20 },
        ]
    };
    check(apply(end())?.done == 3, "ended")?;
    for child in &mut children {
        check(!child.wait()?.success(), "killed")?;
    }
    check(apply(end())?.held == 3, "ended once")?;
    check(files.iter().all(|file| !Path::new(file).exists()), "no linger, no crontab, no file")?;
    check(apply([Action::RestoreHost])?.done == 1, "undone: userdel finds nobody busy")
}

fn id(flag: &str) -> Result<String, Failed> {
    let shown = std::process::Command::new("/usr/bin/id").args([flag, USER]).output()?;
    Ok(String::from_utf8(shown.stdout)?.trim().to_owned())
}

fn enabled() -> Result<(), Failed> {
    install("ExecStart=/bin/sleep 1000")?;
    let link = Path::new("/etc/systemd/system/multi-user.target.wants/u7s-test.service");
    let enable = || [Action::EnableUnit { unit: UNIT.into() }];
    let disable = || [Action::DisableUnit { unit: UNIT.into() }];
    check(apply(enable())?.done == 1 && link.is_symlink(), "enabled")?;
    check(apply(enable())?.held == 1, "enabled once")?;
    check(apply(disable())?.done == 1 && !link.is_symlink(), "disabled")?;
    check(apply(disable())?.held == 1, "disabled once")?;
    fs::remove_file(UNIT_FILE)?;
    check(apply([stop()])?.held == 1, "a unit that is not known rests")?;
    Ok(())
}

fn facts() -> Result<(), Failed> {
    let began = Instant::now();
    let facts = probe::facts(&Config::default())?;
    println!(
        "facts in {:?}: systemd {}, unit {:?}, uplink {:?}",
        began.elapsed(),
        facts.systemd,
        facts.unit,
        facts.uplink
    );
    check(facts.systemd >= 250, "version")?;
    check(!facts.unit.load.is_empty(), "our unit")?;
    check(facts.rootful.is_empty(), "no rootful units")
}
