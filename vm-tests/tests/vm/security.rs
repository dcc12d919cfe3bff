//! What the node's processes and its worst pod can do to the machine: nothing (S1, S2, S3, S16, S17, S20, S28, S42, F27).

use crate::Listed;
use crate::world::{Check, Cluster, SOON, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[
    ("security::s1_no_process_has_host_uid_0", s1_no_process_has_host_uid_0),
    ("security::s2_s42_privileges_are_gone_for_good", s2_s42_privileges_are_gone_for_good),
    ("security::s16_only_declared_ports_listen", s16_only_declared_ports_listen),
    ("security::s3_s20_the_worst_pod_is_refused_everything", s3_s20_the_worst_pod_is_refused_everything),
    ("security::s17_pods_do_not_reach_the_host", s17_pods_do_not_reach_the_host),
    (
        "security::s28_an_ordinary_container_cannot_write_cgroups",
        s28_an_ordinary_container_cannot_write_cgroups,
    ),
    ("security::f27_the_hosts_stub_resolver_answers_the_node", f27_the_hosts_stub_resolver_answers_the_node),
];

/// Asks a name server for the address of localhost, which every one knows by itself (RFC 6761, section 6.3).
const QUESTION: &str = r#"
    use IO::Socket::INET;
    my $socket = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 53, Proto => "udp") or die $!;
    $socket->send("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01");
    alarm 60;
    $socket->recv(my $answer, 512);
    print unpack("H*", $answer);"#;

const UNIT: &str = "/sys/fs/cgroup/system.slice/u7s.service";

fn s1_no_process_has_host_uid_0(world: &World) -> Check {
    let cluster = world.cluster()?;
    // Real, effective, saved and file system uid, and the name.
    let text = cluster.vm.sh(&format!(
        "for pid in $(find {UNIT} -name cgroup.procs -exec cat {{}} +); do \
         awk '/^Name:/ {{ name = $2 }} /^Uid:/ {{ print name, $2, $3, $4, $5 }}' /proc/$pid/status; done 2>/dev/null || true"
    ))?;
    note(format!("{} processes in u7s.service", text.lines().count()));
    let root: Vec<&str> = text.lines().filter(|line| line.split(' ').skip(1).any(|uid| uid == "0")).collect();
    holds(root.is_empty(), format!("processes with host uid 0: {root:?}"))?;
    for name in ["etcd", "kube-apiserver", "kubelet", "crio", "coredns", "u7s-supervisor"] {
        holds(text.lines().any(|line| line.starts_with(name)), format!("{name} is not among them: {text}"))?;
    }
    Ok(())
}

/// All four uids and gids are the user's and no capability is left: what could be had back is nowhere. One who has
/// entered is no different, and the kernel refuses what he asks for: no other uid of the host is mapped.
fn s2_s42_privileges_are_gone_for_good(world: &World) -> Check {
    let cluster = world.cluster()?;
    let uid = cluster.vm.ok(&["id", "-u", "u7s-admin"])?;
    let gid = cluster.vm.ok(&["id", "-g", "u7s-admin"])?;
    let entered = cluster.vm.spawn(&["u7s", "shell", "--", "sleep", "4567"])?;
    cluster.vm.until(SOON, "one who has entered", |vm| {
        vm.sh("pgrep -f '^sleep 4567'").map(drop).map_err(|error| error.to_string())
    })?;
    for (name, find, bare) in
        [("u7s-supervisor", "pgrep -o -x u7s-supervisor", true), ("entered", "pgrep -f '^sleep 4567'", false)]
    {
        let status = cluster.vm.sh(&format!("cat /proc/$({find})/status"))?;
        let line = |key: &str| {
            let found = status.lines().find_map(|line| line.strip_prefix(key));
            found.unwrap_or("?").split_whitespace().collect::<Vec<_>>().join(" ")
        };
        note(format!(
            "{name}: Uid {} Groups {} CapPrm {} NoNewPrivs {}",
            line("Uid:"),
            line("Groups:"),
            line("CapPrm:"),
            line("NoNewPrivs:")
        ));
        holds(line("Uid:") == [&*uid; 4].join(" "), format!("{name}: Uid {}", line("Uid:")))?;
        holds(line("Gid:") == [&*gid; 4].join(" "), format!("{name}: Gid {}", line("Gid:")))?;
        holds(
            !line("Groups:").split(' ').any(|group| group == "0"),
            format!("{name}: Groups {}", line("Groups:")),
        )?;
        if bare {
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                holds(line(set) == "0000000000000000", format!("{name}: {set} {}", line(set)))?;
            }
            holds(line("NoNewPrivs:") == "1", format!("{name}: NoNewPrivs {}", line("NoNewPrivs:")))?;
        }
    }
    drop(entered);
    // Host root would be an id beyond the map; so would be anybody else.
    let other = cluster.vm.exec(&["u7s", "shell", "--", "setpriv", "--reuid", "70000", "true"])?;
    note(format!("another uid of the host: {}", other.stderr.trim()));
    holds(!other.ok(), "an unmapped uid was taken")?;
    let own = cluster.vm.exec(&[
        "setpriv",
        "--reuid",
        &uid,
        "--regid",
        &gid,
        "--clear-groups",
        "setpriv",
        "--reuid",
        "0",
        "true",
    ])?;
    holds(!own.ok(), "u7s-admin became root")
}

fn s16_only_declared_ports_listen(world: &World) -> Check {
    let cluster = world.cluster()?;
    let text = cluster.vm.sh("ss -Hlntup | awk '{ print $1, $5, $7 }'")?;
    note(&text);
    let declared = ["tcp 10.0.2.15:6443", "tcp 10.0.2.15:10250", "udp 10.0.2.15:8472"];
    for line in text.lines() {
        let is_declared = declared.iter().any(|port| line.starts_with(&format!("{port} ")));
        // Debian's own; and slirp4netns' unconnected sockets are flows out of the node.
        let is_other = line.contains("systemd-resolve") || line.contains("systemd-network");
        let is_flow = line.starts_with("udp ") && line.contains("\"slirp4netns\"");
        holds(is_declared || is_other || is_flow, format!("listening and not declared: {line}"))?;
    }
    for port in declared {
        holds(text.lines().any(|line| line.starts_with(port)), format!("{port} does not listen"))?;
    }
    Ok(())
}

/// Everything that Kubernetes can give a pod.
const WORST: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"worst","namespace":"kube-system"},"spec":{
    "terminationGracePeriodSeconds":1,"hostPID":true,"hostNetwork":true,"hostIPC":true,"tolerations":[{"operator":"Exists"}],
    "volumes":[{"name":"host","hostPath":{"path":"/"}}],"containers":[{"name":"c","image":"test.local/tools:1",
    "imagePullPolicy":"Never","command":["/bin/sleep","100000"],"securityContext":{"privileged":true},
    "volumeMounts":[{"name":"host","mountPath":"/host"}]}]}}"#;

/// What it tries; each line must fail. `/dev/kmsg` of the node is `/dev/null`: it can be read, and nothing is there. `/root` of
/// the node is a directory of its own: nothing of the host's is in it.
const ATTEMPTS: &str = r#"
cat /host/etc/shadow
echo x >> /host/etc/passwd
touch /host/usr/bin/planted
touch /host/etc/systemd/system/planted.service
echo x >> /host/etc/u7s/config.toml
echo x >> /host/etc/u7s/node.json
cat /host/root/.kube/config
ls /host/root/.ssh
mknod /tmp/disk b 254 0 && cat /tmp/disk
mknod /tmp/mem c 1 1 && cat /tmp/mem
mount -t ext4 /dev/vda /tmp/m || mount -t ext4 /host/dev/vda /tmp/m
chroot /host /usr/sbin/modprobe dummy
grep -lx -e systemd -e vm-agent /proc/[0-9]*/comm
echo '|/tmp/x' > /proc/sys/kernel/core_pattern
echo /tmp/x > /proc/sys/kernel/modprobe
echo 1 > /proc/sys/vm/drop_caches
echo 0 > /proc/sys/kernel/panic
echo h > /proc/sysrq-trigger
date -s 2001-01-01; test $(date +%Y) = 2001
dmesg
grep -q . /dev/kmsg || grep -q . /host/dev/kmsg
ip link show | grep -E 'en[sp]|eth0: .*10.0.2.15'
chroot /host /usr/bin/chrt -f 50 true
mount -t cgroup2 cgroup2 /tmp/m && ls -d /tmp/m/system.slice
echo 1 > /sys/fs/cgroup/../cgroup.procs && test -d /sys/fs/cgroup/../system.slice
"#;

/// Runs each argument; prints its exit status and the first line of what it says of errors.
const TRY: &str = r#"mkdir -p /tmp/m
for attempt; do
    timeout 60 sh -c "$attempt" >/dev/null 2>/tmp/error
    echo "$? $(head -n 1 /tmp/error)"
done"#;

fn s3_s20_the_worst_pod_is_refused_everything(world: &World) -> Check {
    let cluster = world.cluster()?;
    ready(&cluster, "kube-system", "worst", WORST)?;
    let attempts: Vec<&str> = ATTEMPTS.lines().filter(|line| !line.is_empty()).collect();
    let words = ["exec", "-n", "kube-system", "worst", "--", "sh", "-c", TRY, "sh"];
    let words: Vec<&str> = words.into_iter().chain(attempts.iter().copied()).collect();
    let said = cluster.kubectl_command(&words).within(cluster.vm.speed().scale(SOON)).ok()?;
    let mut refused = 0;
    for (attempt, result) in attempts.iter().zip(said.lines()) {
        note(format!("{attempt}: {result}"));
        let (status, error) = result.split_once(' ').unwrap_or((result, ""));
        let status: i32 = status.parse()?;
        holds(status != 0, format!("not refused: {attempt}"))?;
        // Ours, not theirs: the attempt itself must have run.
        holds(![126, 127, 143].contains(&status), format!("not tried: {attempt}: {error}"))?;
        refused += 1;
    }
    holds(refused == attempts.len(), format!("{refused} of {} attempts: {said}", attempts.len()))?;
    note(format!("{refused} attempts refused"));
    holds(refused >= 20, "too few attempts")?;
    cluster.kubectl(&["delete", "pod", "-n", "kube-system", "worst", "--wait"]).map(drop)
}

/// Applies a pod and waits until it is Ready.
fn ready(cluster: &Cluster, namespace: &str, name: &str, manifest: &str) -> Check {
    cluster.apply(manifest)?;
    let limit = cluster.vm.speed().scale(SOON);
    let timeout = format!("--timeout={}s", limit.as_secs());
    let words = ["wait", "-n", namespace, "--for=condition=Ready", &timeout, &format!("pod/{name}")];
    cluster.kubectl_command(&words).within(limit * 2).ok()?;
    Ok(())
}

/// An ordinary pod.
const PLAIN: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"plain","namespace":"default"},"spec":{
    "terminationGracePeriodSeconds":1,"tolerations":[{"operator":"Exists"}],"containers":[{"name":"c",
    "image":"test.local/tools:1","imagePullPolicy":"Never","command":["/bin/sleep","100000"]}]}}"#;

/// Listeners on the host's loopback, on its own address and in its abstract namespace: a pod hears of none.
fn s17_pods_do_not_reach_the_host(world: &World) -> Check {
    let cluster = world.cluster()?;
    ready(&cluster, "default", "plain", PLAIN)?;
    let canaries = [
        "TCP4-LISTEN:7777,bind=127.0.0.1,fork,reuseaddr",
        "TCP4-LISTEN:7778,bind=10.0.2.15,fork,reuseaddr",
        "ABSTRACT-LISTEN:canary,fork",
    ];
    let mut listeners = Vec::new();
    for canary in canaries {
        listeners.push(cluster.vm.spawn(&["socat", canary, "SYSTEM:echo canary"])?);
    }
    cluster.vm.until(SOON, "the canaries' listeners", |vm| {
        let heard = vm.sh("socat -T 5 - TCP4:127.0.0.1:7777 </dev/null; socat -T 5 - TCP4:10.0.2.15:7778 </dev/null; socat -T 5 - ABSTRACT-CONNECT:canary </dev/null");
        let heard = heard.map_err(|error| error.to_string())?;
        if heard.lines().count() == 3 { Ok(()) } else { Err(heard) }
    })?;
    for (host, port) in [
        ("127.0.0.1", "7777"),
        ("10.41.0.2", "7777"),
        ("10.0.2.15", "7777"),
        ("10.0.2.15", "7778"),
        ("10.0.2.2", "7777"),
        ("169.254.169.254", "80"),
    ] {
        let run = cluster.in_pod("plain", &["sh", "-c", &format!("nc -w 5 {host} {port} </dev/null")])?;
        note(format!("{host}:{port}: {:?} {}", run.code(), run.stderr.lines().next().unwrap_or("")));
        holds(!run.stdout.contains("canary") && !run.ok(), format!("{host}:{port} was reached: {run}"))?;
    }
    let names = cluster.in_pod("plain", &["cat", "/proc/net/unix"])?;
    holds(!names.stdout.contains("@canary"), "the host's abstract sockets are seen")
}

fn s28_an_ordinary_container_cannot_write_cgroups(world: &World) -> Check {
    let cluster = world.cluster()?;
    ready(&cluster, "default", "plain", PLAIN)?;
    for attempt in [
        "mkdir /sys/fs/cgroup/x",
        "echo 1 > /sys/fs/cgroup/cgroup.procs",
        "echo max > /sys/fs/cgroup/pids.max",
        "mkdir -p /tmp/m; mount -t cgroup2 cgroup2 /tmp/m",
        "mount -o remount,rw /sys/fs/cgroup",
        "echo x > /proc/sys/kernel/core_pattern",
    ] {
        let run = cluster.in_pod("plain", &["sh", "-c", attempt])?;
        note(format!("{attempt}: {}", run.stderr.lines().next().unwrap_or("")));
        holds(!run.ok(), format!("not refused: {attempt}: {run}"))?;
    }
    cluster.kubectl(&["delete", "pod", "plain", "--wait"]).map(drop)
}

/// systemd-resolved drops what does not come from loopback; slirp4netns asks it with the node's address.
fn f27_the_hosts_stub_resolver_answers_the_node(world: &World) -> Check {
    let cluster = world.cluster()?;
    wants_localhost(&cluster.vm.ok(&["perl", "-e", QUESTION, "127.0.0.53"])?)?;
    wants_localhost(&cluster.vm.ok(&["u7s", "shell", "--", "perl", "-e", QUESTION, "10.41.0.3"])?)
}

fn wants_localhost(answer: &str) -> Check {
    // Our number, and 127.0.0.1 as the record's data.
    holds(answer.starts_with("1234") && answer.contains("00047f000001"), format!("answered: {answer}"))
}
