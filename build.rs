//! Embeds `ptx/` in the program. Needs no compiler: the PTX is committed. It only makes sure that the PTX is what was
//! compiled from the sources beside it, by the hashes that `cargo run -p kernels -- build` left in the manifest.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).ok_or(format!("cargo sets no {name}"));
    let (root, out) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?);
    for path in ["build.rs", "kernels", "ptx"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let manifest = manifest(&root.join("ptx/manifest.toml"))?;
    let section = |name: &str| manifest.get(name).ok_or(stale(&format!("ptx/manifest.toml has no [{name}]")));
    let targets = section("targets")?;
    let (mut sources, mut ptx) = (BTreeMap::new(), BTreeMap::new());
    for (target, folder) in targets {
        sources.extend(files(&root, folder, "kernels/", &["cu", "cuh", "h"])?);
        ptx.extend(files(&root, &format!("ptx/{target}"), "ptx/", &["ptx"])?);
    }
    same(section("kernels")?, "kernels", &sources)?;
    same(section("ptx")?, "ptx", &ptx)?;
    let mut modules = String::from("/// All modules, by target and name.\npub static MODULES: &[Module] = &[\n");
    for (name, path) in ptx {
        let (target, name) = name.split_once('/').unwrap_or_default();
        let name = name.trim_end_matches(".ptx");
        let _ = writeln!(modules, "    Module {{ name: {name:?}, target: {target:?}, ptx: include_str!({path:?}) }},");
    }
    modules += "];\n";
    let to = out.join("modules.rs");
    std::fs::write(&to, modules).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

/// Refuses files of `folder` whose hashes are not the listed ones, and files that are there and not listed, or listed and
/// not there.
fn same(listed: &BTreeMap<String, String>, folder: &str, present: &BTreeMap<String, PathBuf>) -> Result<(), String> {
    if let Some(name) = listed.keys().find(|name| !present.contains_key(*name)) {
        return Err(stale(&format!("{folder}/{name} is missing")));
    }
    for (name, path) in present {
        let bytes = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        match listed.get(name) {
            Some(hash) if blake3::hash(&bytes).to_hex().as_str() == hash => {}
            Some(_) => return Err(stale(&format!("{folder}/{name} is not what ptx/ was made from"))),
            None => return Err(stale(&format!("{folder}/{name} is not in ptx/manifest.toml"))),
        }
    }
    Ok(())
}

fn stale(what: &str) -> String {
    format!("{what}; run `cargo run -p kernels -- build`, which compiles kernels/ to ptx/")
}

/// The files of a folder with one of the extensions, by their path without `prefix`.
fn files(root: &Path, folder: &str, prefix: &str, extensions: &[&str]) -> Result<BTreeMap<String, PathBuf>, String> {
    let cannot = |e| format!("cannot list {folder}: {e}");
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root.join(folder)).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let fits = path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted));
        if let (true, Some(name)) = (fits, path.file_name()) {
            let name = format!("{folder}/{}", name.to_string_lossy());
            found.insert(name.trim_start_matches(prefix).to_owned(), path);
        }
    }
    Ok(found)
}

/// The manifest's sections. It is written by a program, one `"name" = "value"` a line, and read as such: a TOML parser
/// would be compiled for this alone.
fn manifest(path: &Path) -> Result<BTreeMap<String, BTreeMap<String, String>>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| stale(&format!("cannot read {}: {e}", path.display())))?;
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            sections.entry(section.clone()).or_default();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let (name, value) = (name.trim_matches('"').to_owned(), value.trim_matches('"').to_owned());
            sections.entry(section.clone()).or_default().insert(name, value);
        } else {
            return Err(stale(&format!("{} has a line that is no entry: {line}", path.display())));
        }
    }
    Ok(sections)
}
