//! What is written to the standard error, and how.

use serde_json::Value;

use super::{Folder, run, stderr, succeed};

#[test]
fn quiet_says_warnings_alone() {
    let folder = Folder::new();
    let output = succeed(&mut folder.train(&["train.steps=2"], &["--quiet", "--run", "run"]));
    let lines: Vec<String> = stderr(&output).lines().map(str::to_owned).collect();
    // Four pairs a set are few.
    assert!(!lines.is_empty() && lines.iter().all(|line| line.starts_with("warning: ")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("4 pairs say little")), "{lines:#?}");
    assert!(run(&mut folder.program(["zoo", "--count", "2", "--quiet"])).stderr.is_empty());
}

#[test]
fn json_is_an_object_a_line() {
    let folder = Folder::new();
    let output = succeed(&mut folder.train(&["train.steps=2"], &["--log-format", "json", "-v", "--run", "run"]));
    let lines: Vec<Value> = stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["message"].is_string()), "{lines:#?}");
    let steps: Vec<&Value> = lines.iter().filter(|line| line["loss"].is_number()).collect();
    assert_eq!(steps.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    let levels: Vec<&str> = lines.iter().map(|line| line["level"].as_str().unwrap()).collect();
    assert!(["INFO", "WARN", "DEBUG"].iter().all(|level| levels.contains(level)), "{levels:?}");
    // Of an error, too.
    let output = run(&mut folder.program(["inspect", "nowhere", "--log-format", "json"]));
    let line: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert!(line["level"] == "ERROR" && line["message"].as_str().unwrap().contains("nowhere"), "{line}");
}

#[test]
fn a_variable_says_it_by_module() {
    let folder = Folder::new();
    let said = |value: &str, args: &[&str]| {
        let output = run(folder.train(&["train.steps=1", "train.checkpoint_every=1"], args).env("RUST_LOG", value));
        (output.status.code(), stderr(&output))
    };
    let (_, lines) = said("warn,polar_raw::train::checkpoint=debug", &["--run", "a"]);
    assert!(lines.contains("debug: saved ") && !lines.contains("run folder"), "{lines}");
    // An option is nearer than the environment.
    assert!(!said("polar_raw=debug", &["--quiet", "--run", "b"]).1.contains("debug: "));
    let (status, lines) = said("polar_raw=loud", &["--run", "c"]);
    assert!(status == Some(2) && lines.starts_with("error: RUST_LOG=polar_raw=loud: "), "{lines}");
    assert!(!folder.path("c").exists());
}

#[test]
fn small_models_of_own_data_are_warned_of() {
    let folder = Folder::new();
    let row =
        |i: usize| format!("{{\"prompt\":\"p{i}\",\"reference\":\"r\",\"chosen\":\"r\",\"rejected\":\"x{i}\"}}\n");
    folder.file("rows.jsonl", (0..12).map(row).collect::<String>());
    let args = ["--data", "rows.jsonl", "--run", "run", "--quiet"];
    let said = stderr(&succeed(&mut folder.train(&["train.steps=1"], &args)));
    assert!(said.contains("warning: the weights are random") && said.contains("--init DIR"), "{said}");
    let args = ["--data", "rows.jsonl", "--run", "tuned", "--init", "run/model", "--quiet"];
    let said = stderr(&succeed(&mut folder.train(&["train.steps=1"], &args)));
    assert!(!said.contains("random"), "{said}");
}
