//! The command line as a user without rights meets it, on a machine without a node: texts, streams, exit statuses.

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};
    use std::time::{Duration, Instant};

    /// nobody.
    const NOBODY: u32 = 65534;

    fn program(name: &str) -> Command {
        let path = match name {
            "u7s" => env!("CARGO_BIN_EXE_u7s"),
            "kubeadm" => env!("CARGO_BIN_EXE_kubeadm"),
            "systemctl" => env!("CARGO_BIN_EXE_systemctl"),
            other => panic!("{other} is none of ours"),
        };
        let mut command = Command::new(path);
        command.stdin(Stdio::null());
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(name: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = program(name).args(arguments).output().unwrap();
        seen(&output)
    }

    fn seen(output: &Output) -> (Option<i32>, String, String) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    #[test]
    fn f1_without_a_control_plane_there_is_no_kubeconfig_and_no_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let (code, stdout, stderr) = run("u7s", &["kubeconfig", "--file", path.to_str().unwrap()]);
        assert!(
            matches!(code, Some(1 | 2)) && stdout.is_empty() && !path.exists(),
            "{code:?} {stdout} {stderr}"
        );
        let (_, help, _) = run("u7s", &["kubeconfig", "--help"]);
        assert!(help.contains("do not copy it") && help.contains("--file"), "{help}");
    }

    /// A name of 300 characters is not blamed for its letters; networks that are nobody's are named with what they are.
    #[test]
    fn names_and_networks_that_can_be_no_nodes_say_why() {
        let long = "x".repeat(300);
        let (code, _, stderr) = run("kubeadm", &["init", "--dry-run", "--node-name", &long]);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("it has 300 characters, a node's name has 63 at most"), "{stderr}");
        for (flag, network, what) in [
            ("--pod-network-cidr", "169.254.0.0/16", "link-local"),
            ("--service-cidr", "224.0.0.0/16", "multicast"),
        ] {
            let (code, _, stderr) = run("kubeadm", &["init", "--dry-run", flag, network]);
            assert_eq!(code, Some(2), "{stderr}");
            let line = stderr.lines().skip_while(|line| !line.contains(what)).collect::<Vec<_>>();
            assert!(
                line.len() > 1 && line[1].starts_with(&format!("hint: kubeadm init {flag}=")),
                "{stderr}"
            );
        }
    }

    #[test]
    fn help_is_a_result_and_names_every_command() {
        let (code, stdout, stderr) = run("u7s", &["--help"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let commands = [
            "plan",
            "check",
            "status",
            "timings",
            "shell",
            "logs",
            "kubeconfig",
            "support",
            "config",
            "load-images",
            "host-apply",
            "host-stop",
            "version",
        ];
        for command in commands.into_iter().chain(["Exit status:"]) {
            assert!(stdout.contains(command), "{command}: {stdout}");
        }
        assert!(!stdout.contains('\u{1b}'));
    }

    #[test]
    fn the_version_is_the_packages() {
        let wanted = (Some(0), format!("u7s {}\n", env!("CARGO_PKG_VERSION")), String::new());
        assert_eq!(run("u7s", &["--version"]), wanted);
        assert_eq!(run("u7s", &["version"]), wanted);
    }

    #[test]
    fn wrong_usage_exits_with_3_and_says_so_on_standard_error() {
        for arguments in [&["bogus"][..], &[], &["status", "-o", "xml"], &["shell", "ls"], &["plan"]] {
            let (code, stdout, stderr) = run("u7s", arguments);
            assert_eq!((code, stdout.as_str()), (Some(3), ""), "{arguments:?}");
            assert!(stderr.contains("--help") || stderr.contains("Usage:"), "{stderr}");
        }
        let (code, _, stderr) = run("u7s", &["plan", "init", "phase", "certs"]);
        assert_eq!(code, Some(3), "{stderr}");
    }

    #[test]
    fn who_is_not_root_gets_kubeadms_own_refusal() {
        let text = "the host is not ready, 1 need is unmet\n[ERROR IsPrivilegedUser]: user is not running as root\nhint: sudo";
        for (name, arguments, head, hint) in [
            ("kubeadm", &["init"][..], "init", "kubeadm init"),
            ("kubeadm", &["reset", "-f"], "reset", "kubeadm reset"),
            ("u7s", &["host-apply"], "host-apply", "u7s host-apply"),
            ("u7s", &["host-stop"], "host-stop", "u7s host-stop"),
            ("u7s", &["load-images"], "load-images", "u7s load-images"),
            ("u7s", &["support"], "support", "u7s support"),
        ] {
            let wanted = (Some(2), String::new(), format!("u7s: {head}: {text} {hint}\n"));
            assert_eq!(run(name, arguments), wanted, "{arguments:?}");
        }
    }

    #[test]
    fn without_a_node_status_says_so_to_people_programs_and_monitoring() {
        let (code, stdout, _) = run("u7s", &["status"]);
        assert_eq!(code, Some(1));
        assert!(stdout.contains("[ERROR Namespace]: there is no node on this host"), "{stdout}");
        assert!(
            stdout.contains("hint: u7s check; PATH=/usr/libexec/u7s/bin:$PATH kubeadm init\n"),
            "{stdout}"
        );
        assert!(stdout.ends_with("STATUS: failed\n"), "{stdout}");
        let (code, line, _) = run("u7s", &["status", "--nagios"]);
        assert_eq!((code, line.lines().count()), (Some(2), 1), "{line}");
        assert!(
            line.starts_with("U7S CRITICAL - Namespace: ") && line.contains(" | problems=1;;;0"),
            "{line}"
        );
        let (code, stdout, _) = run("u7s", &["status", "--ignore=Namespace"]);
        assert_eq!(code, Some(0), "{stdout}");
    }

    #[test]
    fn a_block_of_fixes_is_a_script_that_changes_nothing_by_being_printed() {
        let (code, block, _) = run("u7s", &["check", "--print-fix"]);
        if code == Some(0) && block.is_empty() {
            return;
        }
        assert!(block.starts_with("sudo sh -eux <<'EOT'\n") && block.ends_with("EOT\n"), "{block}");
        let script: Vec<&str> = block.lines().skip(1).take_while(|line| *line != "EOT").collect();
        let output = Command::new("sh").args(["-n", "-c", &script.join("\n")]).output().unwrap();
        assert!(output.status.success(), "{block}{output:?}");
        assert_eq!(run("u7s", &["check", "--print-fix", "-o", "json"]).0, Some(3));
    }

    #[test]
    fn the_table_has_a_line_for_each_check_and_tries_what_can_be_tried() {
        let (_, table, _) = run("u7s", &["check"]);
        for id in ["KernelVersion", "CgroupWrite", "IdMap", "Overlay", "Tun", "DiskSpace", "Firewall"] {
            assert!(
                table.lines().any(|line| line.split_ascii_whitespace().nth(1) == Some(id)),
                "{id}: {table}"
            );
        }
    }

    #[test]
    fn configurations_are_printed_proposed_and_judged() {
        let (code, default, _) = run("u7s", &["config", "default"]);
        assert_eq!((code, default.as_str()), (Some(0), include_str!("../packaging/config.toml")));
        let (code, json, _) = run("u7s", &["config", "print", "-o", "json"]);
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((code, &document["version"]), (Some(0), &serde_json::json!(1)));
        assert!(run("u7s", &["config", "print"]).1.contains("[network]\n"));
        let dir = tempfile::tempdir().unwrap();
        readable(dir.path());
        let path = dir.path().join("site.toml");
        fs::write(&path, "[network]\nmtu = 1400\n").unwrap();
        let name = path.to_str().unwrap();
        assert_eq!(
            run("u7s", &["config", "validate", name]),
            (Some(0), format!("{name}: right\n"), String::new())
        );
        fs::write(&path, "[netwrok]\nmtu = 1400\n").unwrap();
        let (code, stdout, stderr) = run("u7s", &["config", "validate", name]);
        assert_eq!((code, stdout.as_str()), (Some(3), ""));
        assert!(
            stderr.contains("TOML parse error at line 1, column 2")
                && stderr.contains("did you mean `network`?"),
            "{stderr}"
        );
    }

    #[test]
    fn without_a_node_shell_names_the_need_and_the_way_out() {
        for arguments in [&["shell"][..], &["shell", "--", "true"]] {
            let (code, stdout, stderr) = run("u7s", arguments);
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
            assert!(
                stderr.contains(
                    "[ERROR Namespace]: the node's namespaces do not run\nhint: systemctl start u7s"
                )
            );
        }
    }

    #[test]
    fn a_check_is_quick_and_the_same_for_people_and_programs() {
        let begun = Instant::now();
        let (code, text, _) = run("u7s", &["check"]);
        println!("checked after {:?}", begun.elapsed());
        // 0.3 s; a busy machine takes seconds, a check that waits for something its deadline.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let (same, json, _) = run("u7s", &["check", "-o", "json"]);
        assert_eq!(code, same);
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(document["version"], 1);
        assert_eq!(document["ready"], code == Some(0));
        for need in document["unmet"].as_array().unwrap() {
            assert!(text.contains(&format!(
                "{}]: {}",
                need["id"].as_str().unwrap(),
                need["message"].as_str().unwrap()
            )));
            assert!(!need["remedy"].as_str().unwrap().is_empty(), "{need}");
        }
        assert!(text.ends_with(if code == Some(0) { "STATUS: pass\n" } else { "STATUS: fail\n" }));
    }

    #[test]
    fn ignored_needs_are_warnings() {
        let (_, text, stderr) =
            run("u7s", &["check", "--ignore-preflight-errors=OomScore,CgroupControllers"]);
        assert!(
            !text.contains("[ERROR OomScore]") && !text.contains("[ERROR CgroupControllers]"),
            "{text}{stderr}"
        );
    }

    #[test]
    fn a_dry_run_and_the_tool_print_the_same_plan() {
        let (_, plan, _) = run("u7s", &["plan", "init"]);
        let (_, dry, _) = run("kubeadm", &["init", "--dry-run"]);
        assert_eq!(plan, dry);
        assert!(plan.contains("write /etc/u7s/node.json"), "{plan}");
    }

    #[test]
    fn f52_a_fifo_as_config_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("fifo");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        readable(dir.path());
        let (code, stdout, stderr) = run("u7s", &["plan", "init", "--config", pipe.to_str().unwrap()]);
        assert_eq!((code, stdout.as_str()), (Some(3), ""));
        assert_eq!(stderr, format!("u7s: plan: {} is not a regular file\n", pipe.display()));
    }

    #[test]
    fn f44_a_malformed_config_is_named_with_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.yaml");
        fs::write(&path, "kind: InitConfiguration\nnodeRegistration: {name: [}\n").unwrap();
        readable(dir.path());
        let (code, _, stderr) = run("u7s", &["plan", "init", "--config", path.to_str().unwrap()]);
        assert_eq!(code, Some(3));
        assert!(stderr.starts_with(&format!("u7s: plan: {}:2:", path.display())), "{stderr}");
    }

    fn readable(dir: &Path) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn f45_a_value_that_no_configuration_can_hold_is_refused() {
        let name = OsStr::from_bytes(b"--node-name=\xff");
        let output = program("kubeadm").arg("init").arg(name).output().unwrap();
        let wanted = (Some(3), String::new(), "u7s: init: the value of --node-name is not UTF-8\n".into());
        assert_eq!(seen(&output), wanted);
    }

    #[test]
    fn f46_no_environment_at_all_is_enough() {
        let output = program("u7s").arg("check").env_clear().output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");
    }

    #[test]
    fn f55_a_reader_that_went_away_is_no_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = program("u7s").arg("--help").stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    }

    #[test]
    fn systemctl_answers_for_our_units_without_a_node() {
        let inactive = (Some(3), "inactive\n".to_owned(), String::new());
        assert_eq!(run("systemctl", &["is-active", "kubelet"]), inactive);
        assert_eq!(run("systemctl", &["is-active", "crio.service"]), inactive);
        assert_eq!(
            run("systemctl", &["is-active", "--quiet", "kubelet"]),
            (Some(3), String::new(), String::new())
        );
    }
}
