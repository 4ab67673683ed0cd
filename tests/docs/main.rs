//! The documents say what is so: links and anchors lead somewhere, paths exist, commands are understood by the programs
//! that they name, and the configuration reference has every key with its default.

mod commands;
mod configuration;
mod links;
mod markdown;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The files under `folder` with one of `endings`, as paths from the root of the repository.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    const NOT_OURS: [&str; 6] = ["target", ".git", "runs", ".toolchain", "__pycache__", "book"];
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if entry.path().is_dir() {
                if !NOT_OURS.contains(&name.as_str()) {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path.to_str().unwrap().trim_start_matches("./").to_string());
            }
        }
    }
    found.sort();
    found
}

/// Every document in the repository.
fn documents() -> Vec<String> {
    files(".", &[".md"])
}

/// Fails with all of `faults`, so that one run names them all.
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").lines().count() <= 250);
}

/// mdBook shows what the summary lists, and nothing else.
#[test]
fn the_summary_lists_every_page() {
    let summary = read("docs/SUMMARY.md");
    let missing: Vec<String> = files("docs", &[".md"])
        .into_iter()
        .filter(|path| path != "docs/SUMMARY.md")
        .filter(|path| !summary.contains(&format!("]({})", path.trim_start_matches("docs/"))))
        .map(|path| format!("docs/SUMMARY.md does not list {path}"))
        .collect();
    none(&missing);
    let pages = markdown::links(&summary).into_iter().map(|link| link.target);
    none(
        &pages.filter(|page| page.contains("..")).map(|page| format!("{page} is not under docs/")).collect::<Vec<_>>(),
    );
}
