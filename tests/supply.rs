//! What is built into the programs comes under licences that we took note of, and the package says so.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use serde_json::Value;

    fn file(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    /// "name: licence" of every crate that a program of ours links or runs when it is built; Cargo.lock has the versions.
    fn crates() -> String {
        let mut tree = Command::new(env!("CARGO"));
        tree.current_dir(env!("CARGO_MANIFEST_DIR")).args([
            "tree",
            "--locked",
            "--offline",
            "--package",
            "u7s",
        ]);
        tree.args(["--edges", "normal,build", "--target", "x86_64-unknown-linux-gnu"]);
        tree.args(["--prefix", "none", "--no-dedupe", "--format", "{p}: {l}"]);
        let output = tree.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let of_others = text.lines().filter(|line| !line.contains("(/"));
        let mut lines: Vec<String> = of_others.filter_map(plain).collect();
        lines.sort();
        lines.dedup();
        lines.join("\n") + "\n"
    }

    /// "name v1.2 (proc-macro): licence" without what is between.
    fn plain(line: &str) -> Option<String> {
        let (name, rest) = line.split_once(' ')?;
        Some(format!("{name}: {}", rest.split_once(": ")?.1))
    }

    /// The list of licences in deny.toml, which stands on one line.
    fn allowed() -> Vec<String> {
        let text = fs::read_to_string(file("packaging/deny.toml")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("allow = ")).unwrap();
        serde_json::from_str::<Value>(line)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.as_str().unwrap().into())
            .collect()
    }

    /// Of "A OR B" one must be allowed, of "A AND B" both; a slash is an old way to write OR.
    fn is_fine(licence: &str, allowed: &[String]) -> bool {
        let plain = licence.replace(['(', ')'], "").replace(" / ", " OR ").replace('/', " OR ");
        plain
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|one| allowed.iter().any(|known| known == one)))
    }

    /// New crates: `U7S_BLESS=1 cargo test --test supply` writes the list.
    #[test]
    fn the_list_of_licences_is_that_of_the_crates() {
        let (path, crates) = (file("packaging/licenses"), crates());
        if std::env::var_os("U7S_BLESS").is_some() {
            fs::write(&path, &crates).unwrap();
        }
        let listed = fs::read_to_string(&path).unwrap();
        assert!(
            listed == crates,
            "packaging/licenses is not what cargo tree says: U7S_BLESS=1 cargo test --test supply"
        );
    }

    #[test]
    fn every_licence_is_one_that_we_took_note_of() {
        let allowed = allowed();
        for line in crates().lines() {
            let (_, licence) = line.split_once(": ").unwrap();
            assert!(is_fine(licence, &allowed), "{line}: add it to packaging/deny.toml, or do without");
        }
        assert!(!is_fine("GPL-3.0", &allowed) && !is_fine("MIT AND GPL-3.0", &allowed));
    }

    #[test]
    fn the_package_has_the_version_of_the_programs() {
        let spec = fs::read_to_string(file("packaging/u7s.spec")).unwrap();
        assert!(spec.contains(&format!("\nVersion: {}\n", env!("CARGO_PKG_VERSION"))));
    }
}
