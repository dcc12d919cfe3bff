//! The crates see each other only as docs/architecture.md draws it.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command;

    /// Crate, and those of ours that it may depend on.
    const EDGES: &[(&str, &[&str])] = &[
        ("u7s", &["u7s-host", "u7s-plan", "u7s-shim", "u7s-supervisor", "u7s-sys"]),
        ("u7s-shim", &["u7s-plan"]),
        ("u7s-host", &["u7s-plan", "u7s-sys"]),
        ("u7s-supervisor", &["u7s-net", "u7s-plan", "u7s-sys"]),
        ("u7s-net", &["u7s-plan", "u7s-sys"]),
        ("u7s-plan", &[]),
        ("u7s-pages", &[]),
        ("u7s-sys", &[]),
    ];

    fn metadata() -> serde_json::Value {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo metadata runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
    }

    /// Our crates that `package` depends on outside its tests.
    fn ours(package: &serde_json::Value) -> BTreeSet<String> {
        let dependencies = package["dependencies"].as_array().expect("a list");
        dependencies
            .iter()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| name.starts_with("u7s"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn crates_depend_on_each_other_as_drawn() {
        let metadata = metadata();
        let packages = metadata["packages"].as_array().expect("a list");
        for (name, allowed) in EDGES {
            let package = packages.iter().find(|package| package["name"] == *name).expect("the crate exists");
            let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
            let unexpected: Vec<String> = ours(package).difference(&allowed).cloned().collect();
            assert!(unexpected.is_empty(), "{name} must not depend on {unexpected:?}");
        }
    }

    #[test]
    fn every_crate_of_ours_is_drawn() {
        let metadata = metadata();
        let known: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
        for package in metadata["packages"].as_array().expect("a list") {
            let path = package["manifest_path"].as_str().expect("a path");
            let name = package["name"].as_str().expect("a name");
            assert!(path.contains("/tests/") || known.contains(name), "{name} is not in EDGES");
        }
    }

    #[test]
    fn unsafe_code_lives_in_sys_alone() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for krate in ["plan", "shim", "net", "supervisor", "host"] {
            let text =
                std::fs::read_to_string(root.join("crates").join(krate).join("src/lib.rs")).expect("lib.rs");
            assert!(text.contains("#![forbid(unsafe_code)]"), "crates/{krate} must forbid unsafe code");
        }
    }
}
