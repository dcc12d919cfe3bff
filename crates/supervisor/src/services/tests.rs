use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;
use tokio::time::timeout;
use u7s_sys::spawn::{self, Program};

use super::*;
use crate::message::{self, Answer, Command, Event, Order};

/// A directory with a kubectl that plays what was recorded, and a pid 1 that starts it.
struct Bed {
    place: TempDir,
    kubectl: Kubectl,
}

impl Bed {
    /// `script` is the body of a shell script with the API's path in `$path`.
    fn new(script: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("kubectl");
        let here = place.path().display();
        fs::write(
            &program,
            format!("#!/bin/sh\ncd {here}\n[ \"$2\" = get ] && path=$4\necho \"$*\" >> calls\n{script}\n"),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (ours, theirs) = u7s_sys::channel::pair().unwrap();
        std::thread::spawn(move || play_init(&theirs));
        let pid_one = PidOne::new(ours, mpsc::channel(1).0).unwrap();
        let kubectl = Kubectl { pid_one, program, kubeconfig: Path::new("/nowhere") };
        Self { place, kubectl }
    }

    fn follow(&self) -> mpsc::Receiver<Heard> {
        let (sender, heard) = mpsc::channel(QUEUE);
        tokio::spawn(follow::<Service, _>(self.kubectl.clone(), SERVICES.to_owned(), sender));
        heard
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.path().join("calls")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn keep(&self, name: &str, text: &[u8]) {
        fs::write(self.place.path().join(name), text).unwrap();
    }
}

/// Starts what it is told to, until the other side is gone.
fn play_init(channel: &OwnedFd) {
    loop {
        poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        let Ok(Some((Order { id, command }, descriptors))) = message::receive::<Order>(channel.as_fd())
        else {
            return;
        };
        let (answer, descriptors) = match command {
            Command::Start { argv, env } => {
                let [stdout, stderr] = <[OwnedFd; 2]>::try_from(descriptors).unwrap();
                let (stdout, stderr) = (stdout.as_fd(), stderr.as_fd());
                let (argv, env) = (&argv, &env);
                let program = Program { argv, env, stdout, stderr, inherited: &[], user_namespace: None };
                let (pid, pidfd) = spawn::start(&program).unwrap();
                (Answer::Started { pid }, vec![pidfd])
            }
            _ => (Answer::Alive, Vec::new()),
        };
        let answered = message::send(channel.as_fd(), &Event::Answer { id, answer }, &descriptors);
        if answered.is_err() {
            return;
        }
    }
}

async fn next(heard: &mut mpsc::Receiver<Heard>) -> News<Service> {
    match timeout(Duration::from_secs(20), heard.recv()).await {
        Ok(Some(Heard::Services(news))) => news,
        other => panic!("{other:?}"),
    }
}

fn names<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<String> {
    keys.map(Key::to_string).collect()
}

const LISTED: &[u8] = include_bytes!("../../../plan/tests/services/list.json");
const WATCHED: &[u8] = include_bytes!("../../../plan/tests/services/watch.jsonl");

/// Lists, then plays the watch once, and then is silent.
const PLAY: &str = r#"case $path in
*watch=true*) [ -e played ] && exec sleep 60; : > played; cat watch; echo "connection lost" >&2;;
*) cat list;;
esac"#;

#[tokio::test]
async fn a_recorded_stream_is_followed_and_begun_anew_when_it_ends() {
    let bed = Bed::new(PLAY);
    bed.keep("list", LISTED);
    bed.keep("watch", WATCHED);
    let mut heard = bed.follow();
    assert!(matches!(next(&mut heard).await, News::All(all) if names(all.keys()) == ["default/dns"]));
    for _ in 0..3 {
        assert!(matches!(next(&mut heard).await, News::Is(service) if service.key.name == "web"));
    }
    for name in ["default/dns", "default/web"] {
        assert!(matches!(next(&mut heard).await, News::Gone(key) if key.to_string() == name));
    }
    assert!(matches!(next(&mut heard).await, News::Silent(why) if why == "kubectl: connection lost"));
    assert!(matches!(next(&mut heard).await, News::All(_)));
    let calls = bed.calls();
    let base = format!("--kubeconfig=/nowhere get --raw {SERVICES}");
    assert_eq!(calls[0], format!("{base}&limit=500&continue="));
    assert_eq!(calls[1], format!("{base}&watch=true&resourceVersion=732&timeoutSeconds=1800"));
    assert_eq!(calls[2], calls[0]);
}

#[tokio::test]
async fn nothing_is_known_from_half_a_list() {
    let bed = Bed::new(r#"[ -e failed ] || { : > failed; head -c 500 list; exit 1; }; cat list"#);
    bed.keep("list", LISTED);
    let mut heard = bed.follow();
    assert!(
        matches!(next(&mut heard).await, News::Silent(why) if why.starts_with("a list is not understood"))
    );
    assert!(matches!(next(&mut heard).await, News::All(_)));
}

#[tokio::test]
async fn a_page_that_is_too_long_is_asked_for_in_halves() {
    let bed = Bed::new(
        r#"case $path in *limit=500*|*limit=250*) exec cat /dev/zero;; *watch=true*) exec sleep 60;; esac; cat list"#,
    );
    bed.keep("list", LISTED);
    let mut heard = bed.follow();
    assert!(matches!(next(&mut heard).await, News::All(_)));
    let limits: Vec<String> =
        bed.calls().iter().filter_map(|call| Some(call.split_once("limit=")?.1.to_owned())).collect();
    assert_eq!(limits, ["500&continue=", "250&continue=", "125&continue="]);
}

#[tokio::test]
async fn nonsense_and_endless_lines_end_a_watch() {
    for (bytes, expected) in [
        ("echo nonsense; exec sleep 60", "an event is not understood"),
        ("exec cat /dev/zero", "kubectl printed more than is read"),
        (
            r#"echo '{"type":"ERROR","object":{"kind":"Status","message":"too old","code":410}}'; exec sleep 60"#,
            "too old",
        ),
        ("kill -9 $$", "kubectl ended without a word"),
    ] {
        let bed = Bed::new(&format!("case $path in *watch=true*) {bytes};; esac; cat list"));
        bed.keep("list", LISTED);
        let mut heard = bed.follow();
        assert!(matches!(next(&mut heard).await, News::All(_)));
        let news = next(&mut heard).await;
        assert!(matches!(&news, News::Silent(why) if why.starts_with(expected)), "{bytes}: {news:?}");
    }
}

#[tokio::test]
async fn a_kubectl_that_is_not_needed_any_more_is_killed() {
    let bed = Bed::new("echo $$ > pid; exec sleep 60");
    let running = bed.kubectl.start(&["get", "--raw", "/"]).await.unwrap();
    let pid = loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Ok(Ok(pid)) = fs::read_to_string(bed.place.path().join("pid")).map(|text| text.trim().parse())
        {
            break nix::unistd::Pid::from_raw(pid);
        }
    };
    drop(running);
    let ended = tokio::task::spawn_blocking(move || nix::sys::wait::waitpid(pid, None)).await.unwrap();
    assert_eq!(
        ended,
        Ok(nix::sys::wait::WaitStatus::Signaled(pid, nix::sys::signal::Signal::SIGKILL, false))
    );
}

#[tokio::test]
async fn a_patch_is_written_once_and_again_when_it_fails() {
    let bed = Bed::new(r#"[ -e failed ] || { : > failed; echo "no such node" >&2; exit 1; }; echo done"#);
    let mut writer = Writer::new(bed.kubectl.clone(), "n1".into(), Some(bed.kubectl.clone()));
    let service = Key { namespace: "default".into(), name: "web".into() };
    let patch = u7s_plan::services::Patch { service: service.clone(), text: "{}".into() };
    for _ in 0..3 {
        writer.want(vec![patch.clone()], Vec::new());
        timeout(Duration::from_secs(20), writer.turn()).await.unwrap();
    }
    writer.want(vec![patch.clone()], Vec::new());
    timeout(Duration::from_millis(50), writer.turn()).await.unwrap_err();
    writer.forget(&service);
    writer.want(vec![patch], Vec::new());
    timeout(Duration::from_secs(20), writer.turn()).await.unwrap();
    let label = "patch node n1 --field-manager=u7s --type=merge \
                 --patch={\"metadata\":{\"labels\":{\"u7s/services\":\"yes\"}}} --output=name";
    let status = "patch service web --field-manager=u7s --type=merge --patch={} --output=name \
                  --namespace=default --subresource=status";
    let calls: Vec<String> =
        bed.calls().iter().map(|call| call.replace("--kubeconfig=/nowhere ", "")).collect();
    assert_eq!(calls, [label, label, status, status]);
}

/// Beside status and journal; each is made once, also where the API has it already, and given up where it cannot be made.
#[tokio::test]
async fn a_low_port_is_told_by_an_event_once_and_nothing_in_its_text_is_a_command() {
    let bed = Bed::new(
        r#"case "$*" in *create*) cat > "event$(ls | grep -c ^event)";; esac
        [ -e there ] && { echo 'Error from server (AlreadyExists): events "x" already exists' >&2; exit 1; }; echo done"#,
    );
    let mut writer = Writer::new(bed.kubectl.clone(), "n1".into(), None);
    let notice = |name: &str| Notice {
        name: name.into(),
        text: format!("{{\"name\":\"{name}\",\"x\":\"$(touch bad) `touch bad` $HOME \\END\\\"}}\nEND"),
    };
    let turn = async |writer: &mut Writer, names: &[&str]| {
        writer.want(Vec::new(), names.iter().map(|name| notice(name)).collect());
        timeout(Duration::from_secs(20), writer.turn()).await.unwrap();
    };
    turn(&mut writer, &["a"]).await; // the label
    turn(&mut writer, &["a"]).await;
    bed.keep("there", b"");
    turn(&mut writer, &["a", "b"]).await;
    writer.want(Vec::new(), vec![notice("a"), notice("b")]);
    timeout(Duration::from_millis(50), writer.turn()).await.unwrap_err();
    let read = |name: &str| fs::read_to_string(bed.place.path().join(name)).unwrap_or_default();
    assert_eq!(read("event0"), format!("{}\n", notice("a").text));
    assert_eq!(read("event1"), format!("{}\n", notice("b").text));
    assert!(!bed.place.path().join("event2").exists() && !bed.place.path().join("bad").exists());
}

#[test]
fn what_is_not_whole_again_is_known() {
    let claim = |kind| Claim { kind, by: Key::default() };
    let mut known = Known { has_pods: true, ..Known::default() };
    assert!(known.is_whole(&claim(Kind::HostPort)) && !known.is_whole(&claim(Kind::NodePort)));
    assert_eq!(known.state(), "waiting for the first list");
    known.has_services = true;
    assert_eq!(known.state(), "followed");
    known.silent.insert("pods", "kubectl: no".into());
    assert_eq!(known.state(), "waiting for a list of pods, what was open stays open: kubectl: no");
}

/// A task that follows nothing, on a host that gives no port: it has not the node's address.
fn task(home: &Path) -> (Task, Ports) {
    let mut spec = crate::spec::tests::sample();
    spec["user"]["home"] = home.display().to_string().into();
    let spec: NodeSpec = serde_json::from_value(spec).unwrap();
    let tree = crate::tree::Tree::prepare(&spec).unwrap();
    let acceptor = u7s_net::forward::Acceptor::new(u7s_net::forward::Listeners::default()).unwrap();
    let ports = Ports::new(&spec, tree, std::sync::Arc::new(acceptor));
    let pid_one = PidOne::new(u7s_sys::channel::pair().unwrap().0, mpsc::channel(1).0).unwrap();
    let setup = Setup::of(&spec, Path::new("/nowhere"), &pid_one);
    let said = watch::Sender::new(Followed::default());
    (Task { setup, ports: ports.clone(), said, open: BTreeMap::new() }, ports)
}

/// Status became longer than any client reads, and each sentence was compared with all others by the thread that pings
/// the watchdog.
#[tokio::test]
async fn a_pod_that_asks_for_100_000_ports_costs_neither_status_nor_watchdog() {
    use u7s_plan::control::{self, MAX_ANSWER, MAX_SENTENCE, MOST_REFUSED};

    let home = tempfile::tempdir().unwrap();
    let (mut task, ports) = task(home.path());
    let key = Key { namespace: "n".repeat(63), name: "p".repeat(253) };
    let wish = |transport| (1..=50_000).map(move |number| (Port { transport, number }, None));
    let wishes = wish(Transport::Tcp).chain(wish(Transport::Sctp)).collect();
    let pod = Pod { key: key.clone(), uid: "u".into(), ports: wishes };
    let mut known = Known { has_services: true, has_pods: true, ..Known::default() };
    known.view.pods.insert(key, pod);
    let mut writer = Writer::new(Bed::new("").kubectl, "n1".into(), None);
    for _ in 0..2 {
        assert!(!task.judge(&known, &mut writer, false), "a port is open");
    }
    let followed = task.said.borrow().clone();
    // So many sentences are compared with so many, whatever is asked for.
    assert_eq!(followed.refused.len(), MOST_REFUSED + 1);
    assert_eq!(followed.refused.last().unwrap(), "and 99900 more");
    assert!(followed.refused.iter().all(|sentence| sentence.len() <= MAX_SENTENCE));
    let length = |answer: &control::Answer| serde_json::to_vec(answer).unwrap().len();
    let list = ports.list();
    assert_eq!(list.len(), MOST);
    assert!(list.iter().all(|port| port.problem.is_some()));
    assert!(serde_json::to_vec(&followed).unwrap().len() < 128 * 1024);
    assert!(length(&control::Answer::Ports { ports: list }) <= MAX_ANSWER);
}
