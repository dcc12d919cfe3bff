//! Command lines and what becomes of them; where `U7S_KUBEADM` names a kubeadm, it is the judge.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use u7s_plan::need::Ignored;

use super::flags::{Flag, Takes};
use super::*;

fn argv(line: &str) -> Vec<OsString> {
    line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
}

fn init(line: &str) -> request::Init {
    match parse(&argv(line)) {
        Call::Init(request) => request,
        other => panic!("{line}: {other:?}"),
    }
}

fn pairs(request: &request::Init) -> Vec<(&str, &str)> {
    request.config_flags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table")]
fn commands_go_where_they_belong() {
    let cases = [
        ("", "Info"),
        ("-h", "Info"),
        ("--help init", "Info"),
        ("-h init", "Info"),
        ("help init", "Info"),
        ("version -o short", "Info"),
        ("-v5 version", "Info"),
        ("completion bash", "Info"),
        ("__complete in", "Info"),
        ("frobnicate", "Info"),
        ("--dry-run init", "Info"),
        ("init", "Init"),
        ("--v 5 init", "Init"),
        ("-v 5 init", "Init"),
        ("-v=5 init", "Init"),
        ("--token x init", "Init"),
        ("--rootfs / init", "Init"),
        ("init --help", "Info"),
        ("init -h", "Info"),
        ("init -h phase", "Info"),
        ("init --help=false", "Init"),
        ("init --help --bogus", "Unknown"),
        ("init --bogus", "Unknown"),
        ("init --dry_run", "Unknown"),
        ("init extra", "Unknown"),
        ("init -- extra", "Unknown"),
        ("init --", "Init"),
        ("init --token", "Unknown"),
        ("init --=x", "Unknown"),
        ("init ---x", "Unknown"),
        ("init -x", "Unknown"),
        ("init -", "Unknown"),
        ("init -vh", "Unknown"),
        ("init -hv5", "Info"),
        ("init --apiserver-bind-port abc", "Unknown"),
        ("init --dry-run=maybe", "Unknown"),
        ("init --dry-run maybe", "Unknown"),
        ("init --token-ttl 5", "Unknown"),
        ("init --skip-phases a\"b", "Unknown"),
        ("init phase", "Info"),
        ("init phase --help", "Info"),
        ("init phase preflight", "Phase"),
        ("init --dry-run phase certs all", "Phase"),
        ("init --token x phase certs all", "Phase"),
        ("init phase certs all --help", "Info"),
        ("init --config phase", "Init"),
        ("join 10.0.0.1:6443 --token x", "Join"),
        ("join", "Join"),
        ("join --help", "Info"),
        ("join -- --help", "Join"),
        ("join --config x", "Join"),
        ("join --control-plane 10.0.0.1:6443 --apiserver-bind-port 7443", "Join"),
        ("join a:1 b:2", "Unknown"),
        ("join --bogus", "Unknown"),
        ("join --control-plane=maybe", "Unknown"),
        ("join phase", "Info"),
        ("join phase preflight", "Phase"),
        ("join --control-plane phase kubelet-start", "Phase"),
        ("reset", "Reset"),
        ("reset -f", "Reset"),
        ("reset --bogus", "Unknown"),
        ("reset extra", "Reset"),
        ("reset phase cleanup-node", "Phase"),
        ("reset -f phase cleanup-node", "Phase"),
        ("reset phase", "Info"),
        ("upgrade", "Info"),
        ("upgrade plan", "Upgrade"),
        ("upgrade apply v1.35.0 -y", "Upgrade"),
        ("upgrade -f apply v1.35.0", "Upgrade"),
        ("upgrade node phase kubelet-config", "Phase"),
        ("upgrade apply --help", "Info"),
        ("config", "Info"),
        ("config print init-defaults", "Info"),
        ("config validate --config x", "Info"),
        ("config migrate --old-config x", "Info"),
        ("config images list", "Info"),
        ("config images pull", "Pass"),
        ("config images", "Info"),
        ("token", "Info"),
        ("token generate", "Info"),
        ("token create --print-join-command", "Pass"),
        ("token --kubeconfig /k list", "Pass"),
        ("token delete abcdef", "Pass"),
        ("certs certificate-key", "Info"),
        ("certs renew all", "Pass"),
        ("certificates renew all", "Pass"),
        ("certs check-expiration -o json", "Pass"),
        ("kubeconfig user --client-name x", "Pass"),
        ("kubeconfig", "Info"),
        ("alpha", "Info"),
    ];
    for (line, expected) in cases {
        let call = format!("{:?}", parse(&argv(line)));
        let name = call.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        assert_eq!(name, expected, "kubeadm {line}: {call}");
    }
}

#[test]
fn every_flag_of_join_arrives() {
    let call = parse(&argv(
        "join 10.0.0.1:6443 --token t --discovery-token d --discovery-token-ca-cert-hash sha256:a,sha256:b \
         --discovery-token-unsafe-skip-ca-verification --discovery-file /f --tls-bootstrap-token b --control-plane \
         --certificate-key k --apiserver-advertise-address 10.0.0.2 --apiserver-bind-port 7443 --node-name n \
         --cri-socket unix:///run/crio/crio.sock --patches /p --skip-phases a --ignore-preflight-errors Swap -v5 \
         --dry-run --config c",
    ));
    let Call::Join(join) = call else { panic!("{call:?}") };
    assert_eq!(join.endpoint.as_deref(), Some("10.0.0.1:6443"));
    let pairs = pairs(&join.given);
    let expected = [
        ("token", "t"),
        ("discovery-token", "d"),
        ("discovery-token-ca-cert-hash", "sha256:a"),
        ("discovery-token-ca-cert-hash", "sha256:b"),
        ("discovery-token-unsafe-skip-ca-verification", "true"),
        ("discovery-file", "/f"),
        ("tls-bootstrap-token", "b"),
        ("control-plane", "true"),
        ("certificate-key", "k"),
        ("apiserver-advertise-address", "10.0.0.2"),
        ("apiserver-bind-port", "7443"),
        ("node-name", "n"),
        ("cri-socket", "unix:///run/crio/crio.sock"),
        ("patches", "/p"),
    ];
    assert_eq!(pairs, expected);
    assert_eq!(join.given.pass_flags, ["--skip-phases=a", "--v=5"]);
    assert!(join.given.dry_run && join.given.ignored.contains("Swap"));
}

#[test]
fn every_flag_of_init_arrives() {
    let request = init(
        "-v5 init --apiserver-advertise-address 10.0.0.1 --apiserver-bind-port=0x192B \
         --apiserver-cert-extra-sans a,b --apiserver-cert-extra-sans=c --cert-dir /etc/kubernetes/pki \
         --certificate-key k --control-plane-endpoint e:6443 --cri-socket unix:///run/crio/crio.sock \
         --feature-gates A=true,B=false --image-repository r --kubernetes-version v1.34.4 --node-name n \
         --patches /p --pod-network-cidr 10.1.0.0/16 --service-cidr 10.2.0.0/16 --service-dns-domain d \
         --token t --token-ttl 1h --dry-run --ignore-preflight-errors Swap,Mem --ignore-preflight-errors=CRI \
         --skip-phases a,b --skip-phases=c --skip-token-print --skip-certificate-key-print=true --upload-certs=f \
         --vmodule a=1 --rootfs / --config /c",
    );
    let expected = [
        ("apiserver-advertise-address", "10.0.0.1"),
        ("apiserver-bind-port", "6443"),
        ("apiserver-cert-extra-sans", "a"),
        ("apiserver-cert-extra-sans", "b"),
        ("apiserver-cert-extra-sans", "c"),
        ("cert-dir", "/etc/kubernetes/pki"),
        ("certificate-key", "k"),
        ("control-plane-endpoint", "e:6443"),
        ("cri-socket", "unix:///run/crio/crio.sock"),
        ("feature-gates", "A=true,B=false"),
        ("image-repository", "r"),
        ("kubernetes-version", "v1.34.4"),
        ("node-name", "n"),
        ("patches", "/p"),
        ("pod-network-cidr", "10.1.0.0/16"),
        ("service-cidr", "10.2.0.0/16"),
        ("service-dns-domain", "d"),
        ("token", "t"),
        ("token-ttl", "1h"),
    ];
    assert_eq!(pairs(&request), expected);
    let pass = [
        "--v=5",
        "--skip-phases=a,b",
        "--skip-phases=c",
        "--skip-token-print=true",
        "--skip-certificate-key-print=true",
        "--upload-certs=f",
        "--vmodule=a=1",
        "--rootfs=/",
    ];
    assert_eq!(request.pass_flags, pass);
    assert_eq!(request.skip_phases, ["a", "b", "c"]);
    assert_eq!(request.ignored, Ignored::new(["swap", "mem", "cri"]));
    assert_eq!(request.config.as_deref(), Some(std::path::Path::new("/c")));
    assert!(request.dry_run);
}

#[test]
fn the_last_of_two_wins_and_an_empty_value_is_a_value() {
    let request = init("init --node-name a --node-name= --dry-run --dry-run=false --config a --config=");
    assert_eq!((request.value("node-name"), request.dry_run), (Some(""), false));
    assert!(request.config.is_some() && request.config_file().is_none());
}

#[test]
fn reset_keeps_its_flags_for_kubeadm() {
    let Call::Reset(request) =
        parse(&argv("reset -fv 5 --cert-dir /p --config c --dry-run --ignore-preflight-errors=x"))
    else {
        panic!("no reset");
    };
    assert_eq!(request.pass_flags, ["--force=true", "--v=5", "--cert-dir=/p", "--ignore-preflight-errors=x"]);
    assert!(request.force && request.dry_run && request.ignored.contains("X"));
    assert_eq!(request.config.as_deref(), Some(std::path::Path::new("c")));
}

#[test]
fn f45_arguments_survive_blanks_quotes_globs_and_newlines() {
    for odd in ["a b", "'\"$(x)`", "a\nb", "*", "-dash", "--", "=", "ä", "a=b=c"] {
        for form in [vec!["--node-name".into(), odd.to_owned()], vec![format!("--node-name={odd}")]] {
            let line: Vec<OsString> = ["init".into()].into_iter().chain(form).map(OsString::from).collect();
            let Call::Init(request) = parse(&line) else { panic!("{line:?}") };
            assert_eq!(request.value("node-name"), Some(odd), "{line:?}");
        }
    }
}

#[test]
fn f45_bytes_that_are_no_text_are_refused_by_name_or_kept_in_a_path() {
    let bytes = OsString::from_vec(vec![b'/', 0xff, b'x']);
    let with = |flag: &str| parse(&["init".into(), flag.into(), bytes.clone()]);
    assert_eq!(with("--node-name"), Call::NotUtf8 { flag: "node-name".into() });
    assert_eq!(with("--apiserver-bind-port"), Call::Unknown { flag: bytes.clone() });
    assert!(
        matches!(with("--config"), Call::Init(request) if request.config.as_deref() == Some(bytes.as_ref()))
    );
    assert!(matches!(with("--\u{fffd}"), Call::Unknown { .. }));
    assert_eq!(parse(&["token".into(), "create".into(), bytes]), Call::Pass);
}

#[test]
fn f45_long_command_lines_are_read_in_time() {
    let long = "x".repeat(128 << 10);
    let start = std::time::Instant::now();
    assert!(matches!(parse(&["init".into(), format!("--node-name={long}").into()]), Call::Init(_)));
    let many: Vec<OsString> = ["init".to_owned()]
        .into_iter()
        .chain((0..20_000).map(|n| format!("--v={n}")))
        .map(Into::into)
        .collect();
    assert!(matches!(parse(&many), Call::Init(request) if request.pass_flags.len() == 20_000));
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn s13_a_token_never_stands_in_the_debug_text_of_a_call() {
    let shown =
        format!("{:?}", parse(&argv("init --token abcdef.0123456789abcdef --certificate-key=c0ffee")));
    assert!(!shown.contains("0123456789") && !shown.contains("c0ffee"), "{shown}");
}

/// What the real kubeadm says to stderr and stdout; only for command lines that it answers without doing anything.
fn kubeadm(args: &[OsString]) -> Option<String> {
    let program = std::env::var_os("U7S_KUBEADM")?;
    let output = Command::new(program).args(args).output().unwrap();
    Some([output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

#[test]
fn the_form_of_our_words_is_a_flag_of_ours_and_never_kubeadms() {
    for (line, json) in [("-o json", true), ("--output=json -o text", false), ("--output json -v5", true)] {
        let form = if json { request::Form::Json } else { request::Form::Text };
        match parse(&argv(&format!("init {line}"))) {
            Call::Init(request) => assert_eq!(request.output, form, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
        match parse(&argv(&format!("join 192.0.2.1:6443 {line}"))) {
            Call::Join(request) => {
                assert_eq!(request.given.output, form, "{line}");
                assert!(!request.given.pass_flags.iter().any(|flag| flag.contains("output")));
            }
            other => panic!("{line}: {other:?}"),
        }
        match parse(&argv(&format!("reset {line}"))) {
            Call::Reset(request) => {
                assert_eq!(request.output, form, "{line}");
                assert!(!request.pass_flags.iter().any(|flag| flag.contains("output")));
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    assert_eq!(parse(&argv("init -o yaml")), Call::NoForm { value: "yaml".into() });
    assert_eq!(parse(&argv("init phase certs all -o json")), Call::Phase);
    assert_eq!(parse(&argv("token list -o json")), Call::Pass);
}

#[test]
fn the_flag_tables_are_those_of_the_real_kubeadm() {
    for (command, table) in [("init", flags::INIT), ("reset", flags::RESET)] {
        let Some(help) = kubeadm(&argv(&format!("{command} --help"))) else {
            println!("U7S_KUBEADM is not set: tables not compared");
            return;
        };
        let theirs = table.iter().filter(|flag| **flag != flags::OUTPUT);
        let ours: BTreeMap<_, _> = theirs.map(|flag| (flag.name.to_owned(), shape(flag))).collect();
        assert_eq!(help_flags(&help), ours, "{command}");
    }
}

/// A flag as `--help` shows it: its letter and the name of its type.
fn shape(flag: &Flag) -> (Option<char>, String) {
    let takes = match (flag.name, flag.takes) {
        ("vmodule", _) => "moduleSpec",
        (_, Takes::Text) => "string",
        (_, Takes::Int) => "int32",
        (_, Takes::Level) => "Level",
        (_, Takes::Duration) => "duration",
        (_, Takes::List) => "strings",
        (_, Takes::Bool | Takes::Help | Takes::Form) => "",
    };
    (flag.short.map(char::from), takes.to_owned())
}

fn help_flags(help: &str) -> BTreeMap<String, (Option<char>, String)> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    lines
        .map(|line| {
            let (short, long) = match line.strip_prefix("--") {
                Some(long) => (None, long),
                None => (line.chars().nth(1), line.split_once("--").unwrap().1),
            };
            let words = long.split("   ").next().unwrap();
            let (name, takes) = words.split_once(' ').unwrap_or((words, ""));
            (name.to_owned(), (short, takes.trim().to_owned()))
        })
        .collect()
}

/// Help, asked for first, keeps the real kubeadm from doing anything; it complains of bad flags all the same.
#[test]
fn the_real_kubeadm_takes_and_refuses_the_same_command_lines() {
    for (command, table) in [("init", flags::INIT), ("reset", flags::RESET)] {
        for form in FORMS {
            let line = argv(&format!("{command} --help {form}"));
            let Some(said) = kubeadm(&line) else {
                println!("U7S_KUBEADM is not set: nothing compared");
                return;
            };
            let words: Vec<_> = line.iter().skip(2).map(OsString::as_os_str).collect();
            let build = if command == "init" { flags::init } else { flags::reset };
            let ours = read::flags(&words, table)
                .map_err(flags::Refused::ByKubeadm)
                .and_then(|read| build(read.given));
            assert_eq!(
                ours.is_ok(),
                !said.starts_with("error:"),
                "kubeadm {command} {form}: {said}\nours: {ours:?}"
            );
        }
    }
}

const FORMS: &[&str] = &[
    "--v=5",
    "-v5",
    "-v=5",
    "-v 5",
    "-v",
    "-vv",
    "-v=",
    "-v 0x5",
    "--v=+5",
    "--dry-run",
    "--dry-run=T",
    "--dry-run=yes",
    "--dry-run=",
    "--token",
    "--token=",
    "--token -- --",
    "--token --token",
    "--token-ttl=1h30m",
    "--token-ttl=1d",
    "--token-ttl=.5s",
    "--token-ttl=0",
    "--token-ttl=-1s",
    "--token-ttl=1h -v",
    "--apiserver-bind-port=0b101",
    "--apiserver-bind-port=1_0",
    "--apiserver-bind-port=0_1",
    "--apiserver-bind-port=08",
    "--apiserver-bind-port=0x_f",
    "--apiserver-bind-port=1__0",
    "--apiserver-bind-port=99999999999",
    "--apiserver-bind-port 6443",
    "--skip-phases=a,\"b",
    "--skip-phases=\"a\"b",
    "--skip-phases=\"a\",b",
    "--skip-phases=",
    "--skip-phases=,",
    "--",
    "-",
    "-f",
    "-vf",
    "-fv5",
    "-fv",
    "-f=true",
    "-f=",
    "-f=x",
    "-x5",
    "--force=false",
    "--rootfs= --rootfs",
    "--Node-Name=x",
    "--node_name=x",
    "--node-name",
    "--node-name=a --node-name",
    "--upload-certs false",
    "--no-such",
    "--no-such=1",
    "---x",
    "--=x",
    "--config= --token=x",
    "--kubeconfig=x",
    "--kubeconfig-dir=x",
    "--control-plane",
    "--print-manifest",
    "-v 5 -v=6 -v7",
    "--cleanup-tmp-dir",
    "--cri-socket",
    "--cert-dir=x",
    "--skip-token-print=1",
    "--help=x",
    "--help=T",
    "extra",
    "a b c",
];

fn phase(line: &str) -> Option<(String, Vec<(String, String)>)> {
    let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    let found = init_phase(&argv)?;
    let argv = found.argv.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    Some((argv, found.request.config_flags))
}

#[test]
fn a_phase_of_init_without_a_configuration_is_read_so_that_it_can_have_the_clusters() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(phase("init phase addon kube-proxy"), Some(("init phase addon kube-proxy".into(), vec![])));
    assert_eq!(
        phase("init --v=5 phase addon all --pod-network-cidr 10.5.0.0/16 --print-manifest --config="),
        Some((
            "init phase addon all --v=5 --print-manifest=true".into(),
            vec![pair("pod-network-cidr", "10.5.0.0/16")]
        ))
    );
    assert_eq!(
        phase("init phase upload-config kubeadm --dry-run --kubeconfig k"),
        Some(("init phase upload-config kubeadm --dry-run=true --kubeconfig=k".into(), vec![]))
    );
    for line in [
        "init phase addon all --config c",
        "init phase certs all --cert-dir d",
        "init phase control-plane apiserver --apiserver-extra-args a=b",
        "init phase upload-certs --upload-certs",
        "init phase mark-control-plane",
        "init phase addon all --nonsense",
        "join phase kubelet-start",
        "init",
    ] {
        assert_eq!(phase(line), None, "{line}");
    }
}
