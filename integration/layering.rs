//! The import rules of `src/lib.rs`, checked against every `use crate::` and every `crate::` path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Module → modules that it may import, from the table in lib.rs.
fn rules() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells.len() >= 2 && !cells[0].is_empty() && cells[0] != "module")
        .map(|cells| {
            let allowed = cells[1].split_whitespace().map(str::to_string).collect();
            (cells[0].to_string(), allowed)
        })
        .collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a line names by `crate::MODULE` or `crate::{A, B::…}`.
fn imports(line: &str, modules: &BTreeSet<String>) -> Vec<String> {
    let line = line.trim_start();
    if line.starts_with("//") {
        return Vec::new();
    }
    line.match_indices("crate::")
        .flat_map(|(at, found)| {
            let rest = &line[at + found.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(list) => list.split([',', '}']).map(str::trim).collect(),
                None => vec![rest],
            };
            names
                .into_iter()
                .filter_map(|name| {
                    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                    let name = &name[..end.unwrap_or(name.len())];
                    modules.contains(name).then(|| name.to_string())
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_module_imports_only_what_lib_rs_allows() {
    let rules = rules();
    let modules: BTreeSet<String> = rules.keys().cloned().collect();
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut checked = 0;
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(root()).unwrap();
        let first = relative.iter().next().unwrap().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_string();
        if module == "lib" || module == "bin" {
            continue;
        }
        let allowed = rules
            .get(&module)
            .unwrap_or_else(|| panic!("module {module} has no row in the table of lib.rs"));
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            for import in imports(line, &modules) {
                checked += 1;
                if import != module && !allowed.contains(&import) {
                    wrong.push(format!(
                        "src/{}:{}: {module} may not import {import}",
                        relative.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        checked > 50,
        "only {checked} imports found: the test no longer sees them"
    );
}

#[test]
fn an_import_is_seen_however_it_is_written() {
    let modules = ["addr", "host"].map(str::to_string).into();
    assert_eq!(imports("use crate::addr::Mac;", &modules), ["addr"]);
    assert_eq!(
        imports("    let x = crate::host::load(y);", &modules),
        ["host"]
    );
    assert_eq!(
        imports("use crate::{addr::Mac, host};", &modules),
        ["addr", "host"]
    );
    assert!(imports("// use crate::addr;", &modules).is_empty());
    assert!(imports("use crate::addresses::X;", &modules).is_empty());
}
