//! What readers of manual pages and users of shells get: the pages as man(1) shows them, the completions as the shells load them.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    /// The installed files, made by the script that packages use.
    fn installed() -> tempfile::TempDir {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bin = Path::new(env!("CARGO_BIN_EXE_u7s")).parent().unwrap();
        let target = tempfile::tempdir().unwrap();
        run(Command::new(root.join("scripts/man")).arg("--bin").arg(bin).arg(target.path()));
        target
    }

    /// Standard output of a program that succeeds and has nothing to complain about.
    fn run(command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{command:?}: {} {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn man_shows_every_page_without_a_warning() {
        let target = installed();
        let names = ["man8/u7s.8", "man8/u7s-supervisor.8", "man8/u7s-kubeadm.8", "man5/u7s.toml.5"];
        for (language, headings) in [("", ["NAME", "SEE ALSO"]), ("ru", ["НАЗВАНИЕ", "СМОТРИТЕ ТАКЖЕ"])]
        {
            for name in names {
                let path = target.path().join("usr/share/man").join(language).join(name);
                let mut man = Command::new("man");
                man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&path);
                let text = run(man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80"));
                for heading in headings {
                    assert!(text.lines().any(|line| line == heading), "{}: {text}", path.display());
                }
                println!("{}: {} lines", path.display(), text.lines().count());
                // What whatis(1) and apropos(1) find.
                let found = run(Command::new("lexgrog").arg(&path).env("LC_ALL", "C.UTF-8"));
                let known = Path::new(name).file_stem().unwrap().to_str().unwrap().to_owned();
                assert!(found.contains(&format!("\"{known} - ")), "{found}");
            }
        }
    }

    #[test]
    fn shells_load_their_completions() {
        let target = installed();
        let share = target.path().join("usr/share");
        let script = format!(
            ". {}/bash-completion/completions/u7s && complete -p u7s && \
             COMP_WORDS=(u7s ch) COMP_CWORD=1 && _u7s u7s ch u7s && echo \"${{COMPREPLY[@]}}\"",
            share.display()
        );
        let bash = run(Command::new("bash").args(["--norc", "-c", &script]));
        assert!(bash.lines().last() == Some("check"), "{bash}");
        let zsh = format!(
            "fpath=({}/zsh/site-functions $fpath); autoload -Uz compinit && compinit -D -u && \
             print -r -- ${{_comps[u7s]}} && autoload +X _u7s && functions _u7s",
            share.display()
        );
        let zsh = run(Command::new("zsh").args(["-f", "-c", &zsh]));
        assert!(zsh.lines().next() == Some("_u7s") && zsh.contains("host-apply"), "{zsh}");
        let fish = format!(
            "source {}/fish/vendor_completions.d/u7s.fish; and complete -C 'u7s ch'",
            share.display()
        );
        let home = tempfile::tempdir().unwrap();
        let fish = run(Command::new("fish").args(["--no-config", "-c", &fish]).env("HOME", home.path()));
        assert!(fish.lines().any(|line| line.starts_with("check\t")), "{fish}");
    }
}
