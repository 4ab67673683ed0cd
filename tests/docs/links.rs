use std::path::{Component, Path, PathBuf};

use super::markdown::{anchors, blocks, links, spans};
use super::{documents, none, read, root};

/// `folder/../path` without its detours, from the root of the repository.
fn joined(document: &str, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in Path::new(document).parent().unwrap().join(target).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    path
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            if link.target.contains("://") || link.target.starts_with("mailto:") {
                continue;
            }
            let mut fault = |what: &str| faults.push(format!("{document}:{}: {}: {what}", link.line, link.target));
            let (path, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
            let path = if path.is_empty() { PathBuf::from(&document) } else { joined(&document, path) };
            if !root().join(&path).exists() {
                fault("there is no such file");
                continue;
            }
            let name = path.to_str().unwrap();
            let found = || name.ends_with(".md") && anchors(&read(name)).contains(anchor);
            if !anchor.is_empty() && !found() {
                fault("there is no such heading");
            }
            // A link from a name to the source that has it: the name is there.
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            let symbol = link.text.rsplit("::").next().unwrap_or_default().trim_end_matches("()");
            let named =
                !symbol.is_empty() && symbol.chars().all(is_name) && link.text.chars().all(|c| is_name(c) || c == ':');
            if name.ends_with(".rs") && named && !read(name).contains(symbol) {
                fault(&format!("{symbol} does not occur there"));
            }
        }
    }
    none(&faults);
}

/// Paths in code spans, and in ARCHITECTURE.md's tree, are those of files and folders.
#[test]
fn every_path_that_is_named_exists() {
    const FOLDERS: [&str; 10] =
        ["src/", "tests/", "tools/", "kernels/", "benches/", "docs/", "presets/", "examples/", "clients/", ".ci/"];
    // What is made by building, and names that stand for many.
    const MADE: [&str; 1] = ["tools/kernels/.toolchain"];
    // `NAME` is any, and what the recipes add is not there.
    const NOT_FILES: [&str; 3] = ["NAME", "relu2", "sm_90a"];
    let stands_for_many =
        |path: &str| path.contains(['*', '{', '<', '…', '$']) || NOT_FILES.iter().any(|word| path.contains(word));
    // A README within a folder names what lies beside it.
    let exists =
        |document: &str, path: &str| root().join(path).exists() || root().join(joined(document, path)).exists();
    let mut faults = Vec::new();
    for document in documents() {
        // What is told of the past names what was there.
        if document == "CHANGELOG.md" || document.starts_with("benches/results/") {
            continue;
        }
        let text = read(&document);
        let mut named: Vec<(usize, String)> = spans(&text)
            .into_iter()
            .filter(|(_, span)| FOLDERS.iter().any(|folder| span.starts_with(folder)))
            .map(|(line, span)| (line, span.to_string()))
            .collect();
        if document == "ARCHITECTURE.md" {
            for (line, block) in blocks(&text) {
                let super::markdown::Block::Code { lines, .. } = block else { continue };
                for (i, entry) in lines.iter().enumerate() {
                    let first = entry.split_whitespace().next().unwrap_or_default();
                    if entry.starts_with(first) && first.contains('/') {
                        named.push((line + 1 + i, first.to_string()));
                    }
                }
            }
        }
        for (line, path) in named {
            let path = path.split([' ', ':']).next().unwrap().trim_end_matches(['.', ',']);
            if !stands_for_many(path) && !MADE.contains(&path) && !exists(&document, path) {
                faults.push(format!("{document}:{line}: there is no {path}"));
            }
        }
    }
    none(&faults);
}

/// A fence of ```` ```rust,FILE ```` shows lines of that file, in their order.
#[test]
fn code_that_is_shown_is_in_its_file() {
    let mut faults = Vec::new();
    let mut shown = 0;
    for document in documents() {
        for (line, block) in blocks(&read(&document)) {
            let super::markdown::Block::Code { language, lines } = block else { continue };
            let Some(path) = language.strip_prefix("rust,").filter(|path| path.contains('/')) else { continue };
            let source = read(path);
            let mut rest = source.lines().map(str::trim);
            for (i, wanted) in lines.iter().map(|line| line.trim()).enumerate().filter(|(_, line)| !line.is_empty()) {
                shown += 1;
                if !rest.any(|line| line == wanted) {
                    faults.push(format!("{document}:{}: {path} does not have: {wanted}", line + 1 + i));
                    break;
                }
            }
        }
    }
    none(&faults);
    assert!(shown > 100, "only {shown} lines of code are shown");
}
