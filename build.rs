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
    let mut modules = String::from("/// All modules, by name.\npub static MODULES: &[Module] = &[\n");
    for (folder, extensions) in [("kernels", ["cu", "cuh", "h"].as_slice()), ("ptx", &["ptx"])] {
        let listed = manifest.get(folder).ok_or(format!("ptx/manifest.toml has no [{folder}]"))?;
        let present = files(&root.join(folder), extensions)?;
        if let Some(name) = listed.keys().find(|name| !present.contains_key(*name)) {
            return Err(stale(&format!("{folder}/{name} is missing")));
        }
        for (name, path) in present {
            let bytes = std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            match listed.get(&name) {
                Some(hash) if blake3::hash(&bytes).to_hex().as_str() == hash => {}
                Some(_) => return Err(stale(&format!("{folder}/{name} is not what ptx/ was made from"))),
                None => return Err(stale(&format!("{folder}/{name} is not in ptx/manifest.toml"))),
            }
            if let Some(name) = name.strip_suffix(".ptx") {
                let _ = writeln!(modules, "    Module {{ name: {name:?}, ptx: include_str!({path:?}) }},");
            }
        }
    }
    modules += "];\n";
    let to = out.join("modules.rs");
    std::fs::write(&to, modules).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

fn stale(what: &str) -> String {
    format!("{what}; run `cargo run -p kernels -- build`, which compiles kernels/ to ptx/")
}

/// The files of a folder with one of the extensions.
fn files(folder: &Path, extensions: &[&str]) -> Result<BTreeMap<String, PathBuf>, String> {
    let cannot = |e| format!("cannot list {}: {e}", folder.display());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let fits = path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted));
        if let (true, Some(name)) = (fits, path.file_name()) {
            found.insert(name.to_string_lossy().into_owned(), path);
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
