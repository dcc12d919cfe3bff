//! Whoever owns the node answers on its control socket, stands in for kubeadm and writes to the journal: none of that moves an
//! administrator's terminal, or leads him to processes and lines that are not what they are called.

use std::error::Error;
use std::time::Duration;

use u7s_harness::{Node, Output, Running, until};

use crate::Listed;
use crate::cluster::{Cluster, SOON};
use crate::world::{Check, IGNORED, SHIMS, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("lies::s39_nothing_on_the_control_socket_is_obeyed_by_a_terminal", nothing_on_the_socket_is_obeyed),
    ("lies::f13e_no_hint_leads_to_a_process_of_somebody_else", no_hint_leads_elsewhere),
    ("lies::s39_what_kubeadm_inside_prints_is_obeyed_by_no_terminal", nothing_of_kubeadm_is_obeyed),
    ("lies::f13h_lines_of_host_apply_are_roots", lines_of_host_apply_are_roots),
];

/// Window title, clear screen, CSI of C1, direction: as JSON and as a shell's printf writes them.
const EVIL: &str = r"\u001b]0;OWNED\u0007\u001b[2J\u009b31m\u202e";

/// In the place of the supervisor: asks it, and changes its answer by the Perl statement. Ends when its file is removed.
fn liar(statement: &str) -> String {
    format!(
        r#"use strict; use IO::Socket::UNIX; $| = 1;
my ($path, $lie) = ("/run/u7s/control.sock", "/run/u7s/lie");
open my $f, ">", $lie or die; close $f; rename $path, "$path.honest" or die;
my $l = IO::Socket::UNIX->new(Local => $path, Listen => 8) or die; chmod 0600, $path;
my $left = 120;
$SIG{{ALRM}} = sub {{ alarm 1; return if -e $lie and $left-- > 0; rename "$path.honest", $path; unlink $lie; exit 0 }}; alarm 1;
print "lying\n";
for (;;) {{
  my $c = $l->accept or next; my $q = <$c>;
  my $s = IO::Socket::UNIX->new(Peer => "$path.honest") or next; print $s $q; my $a = <$s>;
  my $E = '{EVIL}'; {statement}
  print $c $a; close $c;
}}"#
    )
}

/// Lies from now on, until [`honest`].
fn lie(node: &Node, statement: &str) -> Result<Running, Box<dyn Error>> {
    let running = node.spawn(&["u7s", "shell", "--", "perl", "-e", &liar(statement)])?;
    until(SOON, "the liar", || {
        let (stdout, stderr) = running.so_far();
        if stdout.contains("lying") { Ok(()) } else { Err(stderr) }
    })?;
    Ok(running)
}

fn honest(node: &Node, liar: Running) -> Check {
    node.sh("rm -f /run/u7s/lie")?;
    liar.wait(SOON)?;
    Ok(())
}

/// Fails for every character that a terminal would obey, and wants the lie to have been told.
fn is_text(printed: &Output) -> Check {
    for text in [&printed.stdout, &printed.stderr] {
        let odd =
            |c: char| (c.is_control() && !"\n\t\r".contains(c)) || ('\u{202a}'..='\u{202e}').contains(&c);
        holds(!text.contains(odd), format!("{text:?}"))?;
    }
    wants(printed, "OWNED")
}

fn nothing_on_the_socket_is_obeyed(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    let poison = r#"$a =~ s/("runtime":\{"name":"[^"]*)/$1$E/; $a =~ s/"state":"/"state":"$E/g; $a =~ s/"description":"/"description":"$E/g;
        $a =~ s/"refused":\[[^\]]*\]/"refused":["$E"]/; $a =~ s/"degraded":\[[^\]]*\]/"degraded":["$E"]/;
        $a =~ s/"problem":(null|"[^"]*")/"problem":"$E"/g; $a =~ s/"last_exit":(null|"[^"]*")/"last_exit":"$E"/g;"#;
    let liar = lie(node, poison)?;
    let said = || -> Check {
        for argv in [
            &["u7s", "status"][..],
            &["u7s", "status", "-o", "json"],
            &["u7s", "status", "--nagios"],
            &["u7s", "ports", "list"],
            &["u7s", "ports", "list", "-o", "json"],
        ] {
            is_text(&node.exec(argv)?)?;
        }
        let systemctl = node.command(&["systemctl", "status", "kubelet", "crio"]).first_in_path(SHIMS);
        is_text(&systemctl.run()?)
    };
    let result = said();
    honest(node, liar)?;
    result
}

fn no_hint_leads_elsewhere(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    // In a session of its own: a group that loses its session's last shell gets SIGHUP when one of it is stopped.
    let sleep = "setsid setpriv --reuid=65534 --regid=65534 --clear-groups sleep 300";
    let pid = node.sh(&format!("{sleep} >/dev/null 2>&1 & p=$!; until grep -qx sleep /proc/$p/comm; do :; done; kill -STOP $p; echo $p"))?;
    let liar = lie(node, &format!(r#"$a =~ s/"init_pid":\d+/"init_pid":{pid}/;"#))?;
    let status = node.exec(&["u7s", "status"]);
    honest(node, liar)?;
    node.sh(&format!("kill -KILL {pid}"))?;
    let status = status?;
    holds(!status.stdout.contains(&format!("kill -CONT {pid}")), format!("{status}"))?;
    wants(&status, "the supervisor names a process of another user as the node's pid 1")
}

/// In the place of kubeadm inside.
const FAKE: &str = r#"cat >/run/fake <<'X'
#!/bin/sh
printf '\033]0;OWNED\007\033[2J\302\23331mfrom kubeadm inside\n'
X
chmod 755 /run/fake; mount --bind /run/fake /usr/bin/kubeadm"#;

fn nothing_of_kubeadm_is_obeyed(world: &World) -> Check {
    let cluster = world.cluster()?;
    exits(&cluster.inside(&["sh", "-ec", FAKE])?, 0)?;
    let result = fake_kubeadm(&cluster);
    exits(&cluster.inside(&["sh", "-ec", "umount /usr/bin/kubeadm; rm /run/fake"])?, 0)?;
    result?;
    exits(&kubeadm(cluster.node(), &["init", IGNORED]).run()?, 0)
}

fn fake_kubeadm(cluster: &Cluster) -> Check {
    let node = cluster.node();
    let on_a_terminal = |line: &str| {
        let line = format!("PATH={SHIMS}:$PATH {line}");
        node.command(&["script", "-qec", &line, "/dev/null"]).within(Duration::from_secs(120)).run()
    };
    let shown = on_a_terminal("kubeadm token list")?;
    note(shown.stdout.trim());
    is_text(&shown)?;
    wants(&shown, "\\u{1b}]0;OWNED\\u{7}\\u{1b}[2J\\u{9b}31mfrom kubeadm inside")?;
    // What others use, or type as root, is passed on only if it is that.
    for line in
        [&["token", "create", "--print-join-command"][..], &["kubeconfig", "user", "--client-name", "x"]]
    {
        let printed = kubeadm(node, line).run()?;
        exits(&printed, 1)?;
        holds(printed.stdout.is_empty(), format!("{printed}"))?;
        wants(&printed, "is not passed on")?;
    }
    // Programs get every byte, and a shell has the terminal to itself.
    let piped = kubeadm(node, &["token", "list"]).run()?;
    wants(&piped, "\u{1b}]0;OWNED\u{7}\u{1b}[2J\u{9b}31mfrom kubeadm inside\n")?;
    wants(&on_a_terminal("u7s shell -- /usr/bin/kubeadm")?, "\u{1b}]0;OWNED")
}

fn lines_of_host_apply_are_roots(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    // A process of the node's user, where those of the unit are.
    let forge = "echo $$ >/sys/fs/cgroup/system.slice/u7s.service/supervisor/cgroup.procs; \
                 exec setpriv --reuid=u7s-admin --regid=u7s-admin --clear-groups --no-new-privs \
                 systemd-cat -t u7s sh -c 'echo FORGED; sleep 2'";
    node.sh(forge)?;
    let seen = |argv: &[&str]| node.exec(argv).map(|output| output.stdout);
    until(SOON, "the forged line in the journal", || {
        let journal = seen(&["journalctl", "--no-pager", "-u", "u7s.service", "-t", "u7s"]);
        let journal = journal.map_err(|error| error.to_string())?;
        if journal.contains("FORGED") { Ok(()) } else { Err(journal) }
    })?;
    let lines = seen(&["u7s", "logs", "host-apply", "-n", "all"])?;
    holds(!lines.contains("FORGED") && lines.contains("nsenter["), lines)?;
    // On a terminal they come by us.
    let shown = node.exec(&["script", "-qec", "u7s logs host-apply -n all", "/dev/null"])?;
    exits(&shown, 0)?;
    holds(!shown.stdout.contains("FORGED") && shown.stdout.contains("nsenter["), format!("{shown}"))
}
