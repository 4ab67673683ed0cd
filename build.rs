//! Embeds `ptx/` in the program, with a typed constant for each kernel. Needs no compiler: the PTX is committed. It only
//! makes sure that the PTX is what was compiled from the sources beside it, by the hashes that
//! `cargo run -p kernels -- build` left in the manifest.

use std::collections::{BTreeMap, BTreeSet};
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
    let table = table(&root.join("kernels/abi.h"))?;
    let to = out.join("kernels.rs");
    let code = kernels(targets, &ptx, &table)?;
    std::fs::write(&to, code).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

/// A line of the table of kernels in `abi.h`.
struct Line {
    /// Names of kernels, where `*` stands for anything.
    pattern: String,
    /// The structure that they take.
    parameters: String,
    /// The constant with their dynamic shared memory, or a number.
    shared: String,
}

/// The table of kernels: the lines `KERNEL(pattern, parameters, shared memory)`.
fn table(path: &Path) -> Result<Vec<Line>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let mut lines = Vec::new();
    for line in text.lines().map(|line| line.trim().trim_end_matches('\\').trim_end()) {
        let Some(cells) = line.strip_prefix("KERNEL(").and_then(|rest| rest.strip_suffix(')')) else {
            continue;
        };
        let cells: Vec<&str> = cells.split(',').map(str::trim).collect();
        let [pattern, parameters, shared] = cells[..] else {
            return Err(format!("kernels/abi.h: a line of the table of kernels has not three cells: {line}"));
        };
        let (pattern, parameters, shared) = (pattern.into(), parameters.into(), shared.into());
        lines.push(Line { pattern, parameters, shared });
    }
    Ok(lines)
}

/// What is written to `kernels.rs`: each module with its kernels, and a typed constant for each kernel. Those of the
/// target whose sources lie in `kernels/` itself stand at the top, those of others in a module of the target's name.
fn kernels(
    targets: &BTreeMap<String, String>,
    ptx: &BTreeMap<String, PathBuf>,
    table: &[Line],
) -> Result<String, String> {
    let mut modules = String::from("/// All modules, by target and name.\npub(super) static MODULES: &[Module] = &[\n");
    let mut constants: BTreeMap<&str, String> = BTreeMap::new();
    let (mut entries, mut used) = (String::new(), BTreeSet::new());
    for (file, path) in ptx {
        let (target, unit) = file.split_once('/').unwrap_or_default();
        let unit = unit.trim_end_matches(".ptx");
        let sources = targets.get(target).map_or("", String::as_str);
        let own = sources.strip_prefix("kernels").unwrap_or(sources).trim_start_matches('/');
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let list = format!("{target}_{unit}").to_uppercase();
        let _ = writeln!(entries, "static {list}: &[Entry] = &[");
        let target = of_target(target)?;
        for (i, kernel) in parse(&text).into_iter().enumerate() {
            let Kernel { name, size, threads, blocks } = kernel?;
            let mut fitting = table.iter().enumerate().filter(|(_, line)| matches(&line.pattern, name));
            let (number, line) = match (fitting.next(), fitting.next()) {
                (Some(line), None) => line,
                (None, _) => return Err(format!("kernels/abi.h: no line of the table of kernels fits {name}")),
                _ => return Err(format!("kernels/abi.h: two lines of the table of kernels fit {name}")),
            };
            used.insert(number);
            let shared = match line.shared.parse::<u32>() {
                Ok(bytes) => bytes.to_string(),
                Err(_) => format!("abi::{}", line.shared),
            };
            let _ = writeln!(
                entries,
                "    Entry {{ name: {name:?}, target: {target}, threads: {threads}, blocks: {blocks}, shared: {shared}, \
                 parameters: {size} }},"
            );
            let _ = writeln!(
                constants.entry(own).or_default(),
                "/// `{name}` of `{file}`.\npub const {}: Kernel<abi::{}> = Kernel::new(&{list}[{i}]);",
                name.to_uppercase(),
                line.parameters
            );
        }
        entries += "];\n";
        let _ = writeln!(
            modules,
            "    Module {{ name: {unit:?}, target: {target}, kernels: {list}, ptx: include_str!({path:?}) }},"
        );
    }
    if let Some((_, line)) = table.iter().enumerate().find(|(number, _)| !used.contains(number)) {
        return Err(format!("kernels/abi.h: no kernel is called {}; its line can go", line.pattern));
    }
    let mut code = entries + &modules + "];\n";
    for (own, constants) in constants {
        if own.is_empty() {
            code += &constants;
        } else {
            let _ = writeln!(code, "/// Kernels for {own} alone.\npub mod {own} {{\nuse super::*;\n{constants}}}");
        }
    }
    Ok(code)
}

/// `sm_80`, for it and everything newer, or `sm_90a`, for it alone, as an expression.
fn of_target(name: &str) -> Result<String, String> {
    let number = name.strip_prefix("sm_").unwrap_or_default();
    let exact = number.ends_with('a');
    let digits = number.trim_end_matches('a');
    match digits.parse::<u32>() {
        Ok(number) if number >= 10 => Ok(format!(
            "Target {{ name: {name:?}, capability: Capability::new({}, {}), exact: {exact} }}",
            number / 10,
            number % 10
        )),
        _ => Err(format!("ptx/manifest.toml: a target is called sm_80 or sm_90a, not {name}")),
    }
}

/// What the PTX says of a kernel.
struct Kernel<'a> {
    name: &'a str,
    /// Bytes of its one parameter.
    size: usize,
    /// Threads of a block, at most.
    threads: u32,
    /// Blocks that registers leave room for, at least.
    blocks: u32,
}

/// The kernels of a module: `.visible .entry NAME(.param .align 8 .b8 NAME_param_0[64])`, then directives, then `{`.
fn parse(ptx: &str) -> Vec<Result<Kernel<'_>, String>> {
    ptx.split(".visible .entry ").skip(1).map(kernel).collect()
}

/// One of them, from behind its `.entry`.
fn kernel(rest: &str) -> Result<Kernel<'_>, String> {
    /// Registers of a multiprocessor, and the most that a thread may have, as they are allocated.
    const REGISTERS: [u32; 2] = [65_536, 256];
    let (name, rest) = rest.split_once('(').unwrap_or_default();
    let (parameters, rest) = rest.split_once(')').unwrap_or_default();
    let (directives, _) = rest.split_once('{').unwrap_or_default();
    let number = |directive: &str| -> Option<u32> {
        let (_, rest) = directives.split_once(directive)?;
        rest.split([',', '\n']).next()?.trim().parse().ok()
    };
    let size = parameters.rsplit_once('[').and_then(|(_, size)| size.split(']').next()?.parse().ok());
    let threads = number(".maxntid").or_else(|| number(".reqntid"));
    let (Some(size), Some(threads), 1) = (size, threads, parameters.matches(".param").count()) else {
        return Err(format!("ptx: {name} does not take one structure, or has no __launch_bounds__"));
    };
    let blocks = number(".minnctapersm").unwrap_or(1).max(REGISTERS[0] / (threads * REGISTERS[1])).max(1);
    Ok(Kernel { name: name.trim(), size, threads, blocks })
}

/// Whether `name` is `pattern`, where `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(first) else {
        return false;
    };
    (0..=name.len()).any(|i| name.is_char_boundary(i) && matches(rest, &name[i..]))
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
