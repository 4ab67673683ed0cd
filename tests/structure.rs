//! The modules of `src` import one another in no circle: neither the folders, nor, but for two folders, the files.
//!
//! What a module names is read from its source: every path that begins with `crate`, `super` or `self`, those in
//! comments and in modules of tests left out. A module and those inside it belong together and may name each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The source of every module by its path, `model::config`; the crate's root has the empty one.
fn modules(root: &Path) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let tests = path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
            match path.extension().and_then(|ending| ending.to_str()) {
                None if path.is_dir() => folders.push(path),
                Some("rs") if !tests && path != root.join("main.rs") => {
                    modules.insert(name(root, &path), code(&fs::read_to_string(&path).unwrap()));
                }
                _ => {}
            }
        }
    }
    modules
}

fn name(root: &Path, path: &Path) -> String {
    let inner: PathBuf = path.strip_prefix(root).unwrap().with_extension("");
    let parts = inner.iter().map(|part| part.to_str().unwrap());
    parts.filter(|part| !["mod", "lib"].contains(part)).collect::<Vec<_>>().join("::")
}

/// A source without comments and without the tests at its end.
fn code(source: &str) -> String {
    let end = source.find("#[cfg(test)]\nmod tests {").unwrap_or(source.len());
    let lines = source[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a source names, as segments; a list in braces is one path for each of its elements.
fn paths(source: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (start, _) in source.match_indices(root) {
            let inside = source[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            // `use super::…` is one path, `super::super::…` too.
            if !inside {
                expand(&mut source[start..].chars().peekable(), &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Reads one path, behind the segments `before`.
fn expand(chars: &mut Chars, before: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let depth = before.len();
    loop {
        let mut segment = String::new();
        while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
            segment.push(c);
        }
        before.push(segment);
        let mut rest = chars.clone();
        if (rest.next(), rest.next()) != (Some(':'), Some(':')) {
            break;
        }
        chars.nth(1);
        if chars.next_if_eq(&'{').is_some() {
            loop {
                while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
                if chars.next_if_eq(&'}').is_some() || chars.peek().is_none() {
                    break;
                }
                expand(chars, before, found);
                // What is renamed: `config as settings`.
                while chars.next_if(|c| !",}".contains(*c)).is_some() {}
            }
            before.truncate(depth);
            return;
        }
    }
    found.push(before.clone());
    before.truncate(depth);
}

/// Which module names which, neither inside the other.
fn graph(modules: &BTreeMap<String, String>) -> Graph {
    let mut graph = Graph::new();
    for (module, source) in modules {
        let edges = graph.entry(module.clone()).or_default();
        for path in paths(source) {
            let mut place: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
            let mut rest = &path[..];
            while let Some((first, others)) = rest.split_first() {
                match first.as_str() {
                    "crate" => place.clear(),
                    "super" => drop(place.pop()),
                    "self" => {}
                    _ => break,
                }
                rest = others;
            }
            // As deep as there are modules; what follows is an item.
            for part in rest {
                place.push(part);
                if !modules.contains_key(&place.join("::")) {
                    place.pop();
                    break;
                }
            }
            let target = place.join("::");
            let within = |a: &str, b: &str| a.is_empty() || b == a || b.starts_with(&format!("{a}::"));
            if !within(&target, module) && !within(module, &target) {
                edges.insert(target);
            }
        }
    }
    graph
}

/// The graph of the first segments: folders, and files that stand beside them.
fn folders(graph: &Graph) -> Graph {
    let first = |module: &str| module.split("::").next().unwrap_or_default().to_string();
    let mut folders = Graph::new();
    for (module, targets) in graph {
        let from = first(module);
        let others = targets.iter().map(|target| first(target)).filter(|target| *target != from).collect::<Vec<_>>();
        folders.entry(from).or_default().extend(others);
    }
    folders
}

/// The sets of modules that reach each other.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            for target in graph.get(module).into_iter().flatten() {
                if seen.insert(target) {
                    next.push(target);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph.keys().map(|module| (module, reach(module))).collect();
    let mut circles = BTreeSet::new();
    for (module, targets) in &reached {
        let mutual = |other: &&&String| reached.get(**other).is_some_and(|back| back.contains(module));
        let circle: Vec<String> = targets.iter().filter(mutual).map(|other| (*other).clone()).collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

/// The imports within a circle, to say where it can be broken.
fn explain(graph: &Graph, circles: &[Vec<String>]) -> String {
    let mut text = String::new();
    for circle in circles {
        for module in circle {
            let inside: Vec<&str> = graph[module].iter().filter(|t| circle.contains(t)).map(String::as_str).collect();
            text += &format!("{module} names {}\n", inside.join(", "));
        }
        text += "\n";
    }
    text
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn folders_import_in_no_circle() {
    let graph = folders(&graph(&modules(&source())));
    assert!(graph.len() > 15 && graph["train"].contains("model"), "{graph:?}");
    let circles = circles(&graph);
    assert!(circles.is_empty(), "{} circles between folders:\n{}", circles.len(), explain(&graph, &circles));
}

#[test]
fn files_import_in_no_circle() {
    let graph = graph(&modules(&source()));
    assert!(graph.len() > 150, "{}", graph.len());
    let mut circles = circles(&graph);
    // What drives a card, and a run, is one thing each in several files.
    let one_thing = |circle: &[String], folder: &str| circle.iter().all(|module| module.starts_with(folder));
    circles.retain(|circle| !["cuda::", "train::"].iter().any(|folder| one_thing(circle, folder)));
    assert!(circles.is_empty(), "{} circles between files:\n{}", circles.len(), explain(&graph, &circles));
}

/// The macros end the program where a stream cannot be written.
#[test]
fn one_place_prints() {
    let mut modules = modules(&source());
    modules.insert("main".into(), code(&fs::read_to_string(source().join("main.rs")).unwrap()));
    for (name, text) in modules.iter().filter(|(name, _)| *name != "log") {
        for printing in ["println!", "print!", "dbg!", "stderr(),"] {
            assert!(!text.contains(printing), "{name} has {printing}: write with `log::log` or `cli::print`");
        }
    }
}

#[test]
fn a_circle_is_found() {
    let source = |text: &str| code(text);
    let modules = BTreeMap::from(
        [
            ("", "pub mod a; pub mod b;"),
            ("a", "pub mod inner; pub use inner::Thing;"),
            ("a::inner", "use crate::b::{self, Other, deep::{One, Two as Second}};\n// crate::c::Comment"),
            ("b", "#[cfg(test)]\nmod tests {\n use crate::a::Thing; }"),
            ("b::deep", "fn f() -> crate::c::Number { super::g() }"),
            ("c", "use super::a::Thing;"),
        ]
        .map(|(name, text)| (name.to_string(), source(text))),
    );
    let graph = graph(&modules);
    let names = |module: &str| graph[module].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(names("a::inner"), ["b", "b::deep"]);
    assert_eq!(names("b"), [""; 0]);
    assert_eq!(names("b::deep"), ["c"]);
    assert_eq!(names("c"), ["a"]);
    assert_eq!(circles(&folders(&graph)), [["a", "b", "c"].map(String::from)]);
    assert!(circles(&graph).is_empty(), "`a` itself names nothing: its parts do");
}
