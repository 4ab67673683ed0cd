use std::collections::BTreeMap;

use clap::Parser;
use polar_raw::cli::Cli;

use super::markdown::{Block, blocks, spans};
use super::{documents, files, none, read, root};

/// A command as a document shows it.
struct Shown {
    place: String,
    words: Vec<String>,
}

/// The words of a line as a shell has them: quotes, comments, and variables that an earlier line set.
fn words(line: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
    let mut line = line.to_string();
    for (name, value) in variables {
        line = line.replace(&format!("${name}"), value);
    }
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands in the fences and, with at least an argument, in the code spans of all documents.
fn shown() -> Vec<Shown> {
    let mut all = Vec::new();
    for document in documents() {
        // Results say what was run then.
        if document.starts_with("benches/results/") || document == "CHANGELOG.md" {
            continue;
        }
        let text = read(&document);
        for (line, block) in blocks(&text) {
            let Block::Code { language: "" | "sh" | "bash" | "console", lines } = block else { continue };
            let mut variables = BTreeMap::new();
            let mut joined = String::new();
            for (i, content) in lines.iter().enumerate() {
                match content.strip_suffix('\\') {
                    Some(open) => joined.push_str(open),
                    None => {
                        joined.push_str(content);
                        let words = words(&std::mem::take(&mut joined), &variables);
                        if let [one] = &words[..]
                            && let Some((name, value)) = one.split_once('=')
                            && name.chars().all(|c| c.is_ascii_uppercase())
                        {
                            variables.insert(name.to_string(), value.to_string());
                        }
                        all.push(Shown { place: format!("{document}:{}", line + 1 + i), words });
                    }
                }
            }
        }
        for (line, span) in spans(&text) {
            let words = words(span, &BTreeMap::new());
            if words.len() > 2 && ["polar-raw", "cargo"].contains(&&words[0][..]) {
                all.push(Shown { place: format!("{document}:{line}"), words });
            }
        }
    }
    all
}

/// What is wrong with a command, by the program that it names; nothing for programs that are not ours.
fn fault(words: &[String]) -> Option<String> {
    // Settings of the environment come first; what follows a pipe or `&&` is another command's.
    let first = words
        .iter()
        .position(|word| !word.split('=').next().unwrap().chars().all(|c| c.is_ascii_uppercase() || c == '_'))?;
    let end = words.iter().position(|word| ["|", "&&", ";", ">", "<"].contains(&&word[..])).unwrap_or(words.len());
    let words: Vec<&str> = words.get(first..end)?.iter().map(String::as_str).filter(|word| *word != "…").collect();
    match words[..] {
        ["polar-raw", ref arguments @ ..] => ours(arguments),
        ["cargo", "run", ref rest @ ..] => {
            let (flags, arguments) = match rest.iter().position(|word| *word == "--") {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, &[][..]),
            };
            if let Some(package) = value(flags, &["-p", "--package"]) {
                return tool(package, arguments);
            }
            match value(flags, &["--example"]) {
                Some(example) => exists(&format!("examples/{example}.rs")),
                // The beginning of a command, as in "write `cargo run --release --` for it".
                None if arguments.is_empty() => None,
                None => ours(arguments),
            }
        }
        ["cargo", kind @ ("test" | "bench" | "build"), ref rest @ ..] => {
            let own = rest.iter().position(|word| *word == "--").map_or(rest, |at| &rest[..at]);
            if let Some(package) = value(own, &["-p", "--package"]) {
                return exists(&format!("tools/{}/Cargo.toml", package.trim_start_matches("polar-raw-")));
            }
            let named = |flag, folder: &str| {
                let name = value(own, &[flag])?;
                let places = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/main.rs")];
                let found = places.iter().any(|place| root().join(place).exists());
                (!found).then(|| format!("cargo {kind}: there is no {}", places[0]))
            };
            named("--test", "tests").or_else(|| named("--bench", "benches")).or_else(|| named("--example", "examples"))
        }
        ["python" | "python3", script, ref arguments @ ..] if script.contains('/') => {
            exists(script).or_else(|| options(&read(script), script, arguments))
        }
        [script @ ("tools/compat/run" | "tools/card/run"), ref arguments @ ..] => exists(script).or_else(|| {
            let folder = script.trim_end_matches("/run");
            let names = arguments.iter().filter(|name| script.contains("compat") && !name.starts_with('-'));
            names.map(|name| exists(&format!("{folder}/{name}.py"))).find_map(|fault| fault)
        }),
        _ => None,
    }
}

fn value<'a>(words: &[&'a str], flags: &[&str]) -> Option<&'a str> {
    words.windows(2).find(|pair| flags.contains(&pair[0])).map(|pair| pair[1])
}

fn exists(path: &str) -> Option<String> {
    (!root().join(path).exists()).then(|| format!("there is no {path}"))
}

/// Asks the command line of the program itself.
fn ours(arguments: &[&str]) -> Option<String> {
    if arguments.iter().any(|word| ["--help", "--version"].contains(word)) {
        return None;
    }
    let error = Cli::try_parse_from([&["polar-raw"], arguments].concat()).err()?;
    Some(error.to_string().lines().take(3).collect::<Vec<_>>().join(" "))
}

/// The arguments of a tool of the workspace, whose command line is defined in its sources: options are fields,
/// subcommands variants.
fn tool(package: &str, arguments: &[&str]) -> Option<String> {
    let folder = format!("tools/{}", package.trim_start_matches("polar-raw-"));
    if let Some(fault) = exists(&folder) {
        return Some(fault);
    }
    let sources: String = files(&format!("{folder}/src"), &[".rs"]).iter().map(|path| read(path)).collect();
    let subcommands = sources.contains("Subcommand");
    if let Some(first) = arguments.first()
        && subcommands
        && !first.starts_with('-')
    {
        let variant: String = first[..1].to_uppercase() + &first[1..];
        let defined = ["(", " {", ","].iter().any(|after| sources.contains(&format!("    {variant}{after}")));
        if !defined {
            return Some(format!("{package} has no subcommand {first}"));
        }
    }
    let fields: String = arguments
        .iter()
        .filter_map(|word| word.strip_prefix("--"))
        .map(|option| option.split('=').next().unwrap().replace('-', "_"))
        .filter(|option| {
            !sources.contains(&format!(" {option}: ")) && !sources.contains(&format!("long = \"{option}\""))
        })
        .collect();
    (!fields.is_empty()).then(|| format!("{package} has no option {fields}"))
}

/// The options of a Python script are named in it.
fn options(source: &str, script: &str, arguments: &[&str]) -> Option<String> {
    let optional = arguments.iter().map(|word| word.trim_matches(['[', ']'])).filter(|word| word.starts_with("--"));
    optional
        .map(|word| word.split('=').next().unwrap())
        .find(|option| !source.contains(&format!("\"{option}\"")))
        .map(|option| format!("{script} has no option {option}"))
}

#[test]
fn every_command_is_understood_by_its_program() {
    let shown = shown();
    let ours = shown.iter().filter(|command| command.words.first().is_some_and(|word| word == "polar-raw")).count();
    assert!(ours > 40, "{ours} commands of polar-raw: the documents show more");
    let faults: Vec<String> = shown
        .iter()
        .filter_map(|command| fault(&command.words).map(|fault| format!("{}: {fault}", command.place)))
        .collect();
    none(&faults);
}

/// What a document shows, `.ci/run` runs at a small size: every subcommand, and every bench.
#[test]
fn every_command_and_every_bench_is_run_before_a_change_is_taken() {
    let script = read(".ci/run");
    let subcommand = |words: &[String]| match words {
        [program, name, ..] if program == "polar-raw" && !name.starts_with('-') => Some(name.clone()),
        _ => None,
    };
    let mut names: Vec<String> = shown().iter().filter_map(|command| subcommand(&command.words)).collect();
    names.sort();
    names.dedup();
    let mut faults: Vec<String> = names
        .into_iter()
        .filter(|name| !script.contains(&format!("\"${{polar[@]}}\" {name}")))
        .map(|name| format!(".ci/run does not run polar-raw {name}"))
        .collect();
    for bench in files("benches", &[".rs"]) {
        let Some(name) = bench.strip_prefix("benches/").and_then(|name| name.strip_suffix(".rs")) else { continue };
        if !name.contains('/') && !script.contains(&format!("--bench {name}")) {
            faults.push(format!(".ci/run does not run the bench {name}"));
        }
    }
    for script_of in ["benches/pytorch/compare.py"] {
        if !script.contains(script_of) {
            faults.push(format!(".ci/run does not run {script_of}"));
        }
    }
    none(&faults);
}

#[test]
fn what_is_wrong_with_a_command_is_found() {
    let fault = |line: &str| fault(&words(line, &BTreeMap::from([("D".into(), "--preset gsm8k".into())])));
    for right in [
        "polar-raw train $D --init runs/quickstart/model",
        "polar-raw score --model M --input rows.jsonl    # a comment",
        "POLAR_RAW_GOLDEN=/path cargo test --release --test golden",
        "cargo run --release -p verify -- --quick --op rmsnorm",
        "cargo run -p kernels -- build",
        "curl -s http://127.0.0.1:30000 -d '{}'",
    ] {
        assert_eq!(fault(right), None, "{right}");
    }
    for wrong in [
        "polar-raw trian",
        "polar-raw score --model M",
        "polar-raw serve --model M --prot 1",
        "cargo test --release --test no_such_test",
        "cargo bench --bench no_such_bench",
        "cargo run --release -p verify -- --quik",
        "cargo run -p kernels -- bild",
        "cargo run --release -- train --no-such-option",
        "python benches/pytorch/compare.py --roundz 5",
        "tools/compat/run no_such_check",
    ] {
        assert!(fault(wrong).is_some(), "{wrong}");
    }
}
