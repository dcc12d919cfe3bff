//! What is promised to people and programs in documents: a section for each id, and schemas that our JSON fits.

#[cfg(test)]
mod schema;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use serde_json::{Value, json};
    use u7s_plan::checks::CHECKS;

    use super::schema;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }

    /// Ids that the programs' text gives to needs: the first literal of `error(`, `warning(`, `need(`, and fields `id:`.
    fn ids(text: &str) -> BTreeSet<String> {
        let code = text.split("#[cfg(test)]").next().unwrap();
        let mut ids = BTreeSet::new();
        for opening in ["error(", "warning(", "need(", "id: "] {
            for (at, _) in code.match_indices(opening) {
                let after = code[at + opening.len()..].trim_start().trim_start_matches("&format!(");
                let Some(literal) = after.strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
                    continue;
                };
                let name = literal.split('{').next().unwrap();
                let plain = name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
                if plain && name.starts_with(|first: char| first.is_ascii_uppercase()) {
                    ids.insert(name.to_owned());
                }
            }
        }
        ids
    }

    #[test]
    fn every_id_in_the_code_is_registered_and_has_a_section() {
        let mut files = Vec::new();
        sources(&root().join("src"), &mut files);
        sources(&root().join("crates/plan/src"), &mut files);
        sources(&root().join("crates/host/src"), &mut files);
        let found: BTreeSet<String> =
            files.iter().flat_map(|path| ids(&std::fs::read_to_string(path).unwrap())).collect();
        println!("{} ids in {} files: {found:?}", found.len(), files.len());
        assert!(found.len() > 30);
        for id in found.iter().filter(|id| id.as_str() != "FileExisting-cni-") {
            assert!(
                CHECKS.iter().any(|check| check.covers(id) || check.id == id),
                "{id} is not in plan::checks"
            );
        }
        files.retain(|path| !path.ends_with("crates/plan/src/checks.rs"));
        let code: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        for check in CHECKS {
            assert!(code.contains(&format!("\"{}", check.id)), "no code says {}", check.id);
        }
    }

    #[test]
    fn every_check_has_a_section_that_says_how_to_mend_it_and_no_section_is_of_none() {
        let text = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
        let sections: Vec<(&str, &str)> =
            text.split("\n## ").skip(1).map(|part| part.split_once('\n').unwrap()).collect();
        for check in CHECKS {
            let id = check.id.trim_end_matches('-');
            let section = sections.iter().find(|(name, _)| *name == id);
            let (_, body) = section.unwrap_or_else(|| panic!("docs/troubleshooting.md has no section {id}"));
            assert!(
                body.len() > 100 && (body.contains("**Mend:**") || body.contains("| mend |")),
                "{id}: {body}"
            );
        }
        for (name, _) in sections {
            assert!(
                CHECKS.iter().any(|check| check.id.trim_end_matches('-') == name),
                "section {name} is of no check"
            );
        }
    }

    fn document(name: &str) -> Value {
        let text = std::fs::read_to_string(root().join("packaging/schema").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_schemas_are_installed() {
        let text = std::fs::read_to_string(root().join("scripts/install")).unwrap();
        let schemas = text.lines().find_map(|line| line.strip_prefix("for schema in ")).unwrap();
        for entry in std::fs::read_dir(root().join("packaging/schema")).unwrap() {
            let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(schemas.split([' ', ';']).any(|word| word == name), "{name} is not in {schemas}");
        }
        assert!(text.contains(" /usr/share/doc/u7s/troubleshooting.md\n"));
    }

    #[test]
    fn the_result_of_a_check_fits_its_schema_and_a_wrong_one_does_not() {
        let output = Command::new(env!("CARGO_BIN_EXE_u7s")).args(["check", "-o", "json"]).output().unwrap();
        let mut value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let schema = document("check.json");
        assert_eq!(schema::faults(&schema, &value, ""), Vec::<String>::new());
        assert!(value["checks"].as_array().unwrap().len() > 25, "{value}");
        value["checks"][0]["result"] = json!("maybe");
        value["extra"] = json!(1);
        value.as_object_mut().unwrap().remove("ready");
        let faults = schema::faults(&schema, &value, "");
        assert_eq!(faults.len(), 3, "{faults:?}");
    }

    #[test]
    fn the_status_of_a_machine_without_a_node_fits_its_schema() {
        let output = Command::new(env!("CARGO_BIN_EXE_u7s")).args(["status", "-o", "json"]).output().unwrap();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(schema::faults(&document("status.json"), &value, ""), Vec::<String>::new());
        assert_eq!((output.status.code(), &value["problems"][0]["id"]), (Some(1), &json!("Namespace")));
    }
}
