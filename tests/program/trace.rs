//! `--trace`: a line for each operation, and their calls in a file.

use std::fs;
use std::time::Instant;

use polar_raw::ops::NAMES;
use serde_json::Value;

use super::{Folder, run, stderr, succeed};

/// The events of a trace as (name, start, duration), in microseconds.
fn events(folder: &Folder, file: &str) -> Vec<(String, f64, f64)> {
    let trace: Value = serde_json::from_slice(&fs::read(folder.path(file)).unwrap()).unwrap();
    assert_eq!(trace["otherData"]["calls left out"], 0);
    let event = |event: &Value| {
        let number = |key: &str| event[key].as_f64().unwrap_or_else(|| panic!("{key} of {event}"));
        assert_eq!(event["ph"], "X");
        (event["name"].as_str().unwrap().to_string(), number("ts"), number("dur"))
    };
    trace["traceEvents"].as_array().unwrap().iter().map(event).collect()
}

/// Events are of operations, one after the other, within the time that the program took; the table counts the same.
fn check(folder: &Folder, file: &str, micros: f64, said: &str) -> Vec<(String, f64, f64)> {
    let events = events(folder, file);
    assert!(!events.is_empty());
    for (name, start, time) in &events {
        assert!(NAMES.contains(&&name[..]), "{name} is not an operation");
        assert!(*start >= 0.0 && *time >= 0.0, "{name} from {start} for {time}");
    }
    // A nanosecond for what printing rounds.
    assert!(events.windows(2).all(|two| two[0].1 + two[0].2 <= two[1].1 + 1e-3), "one at a time, in order");
    let sum: f64 = events.iter().map(|(.., time)| time).sum();
    assert!(sum <= micros, "{sum} us of operations in {micros} us");
    for name in NAMES {
        let calls = events.iter().filter(|(of, ..)| of == name).count();
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(name));
        let counted = line.map_or(0, |line| line.split_whitespace().nth(1).unwrap().parse().unwrap());
        assert_eq!(counted, calls, "calls of {name} in:\n{said}");
    }
    events
}

#[test]
fn a_trace_has_every_operation_of_a_run() {
    let folder = Folder::new();
    let sets = ["train.steps=2", "eval.pairs=2"];
    let begun = Instant::now();
    let output = succeed(&mut folder.train(&sets, &["--run", "run", "--trace", "train.json"]));
    let events = check(&folder, "train.json", begun.elapsed().as_secs_f64() * 1e6, &stderr(&output));
    let calls = |name: &str| events.iter().filter(|(of, ..)| of == name).count();
    assert_eq!(calls("adamw"), 2, "one a step");
    assert!(calls("attention_backward") >= 2 && calls("attention_forward") > calls("attention_backward"));
    // Measuring the machine's rate and the tracing change nothing: the same run without is the same.
    succeed(&mut folder.train(&sets, &["--run", "without"]));
    let weights = |run: &str| fs::read(folder.path(run).join("model/model.safetensors")).unwrap();
    assert!(weights("run") == weights("without"));

    folder.file("rows.jsonl", r#"{"prompt": "1 + 2", "reference": "3", "output": "three"}"#);
    let begun = Instant::now();
    let score = ["score", "--model", "run/model", "--input", "rows.jsonl", "--trace", "score.json"];
    let said = stderr(&succeed(&mut folder.program(score)));
    let events = check(&folder, "score.json", begun.elapsed().as_secs_f64() * 1e6, &said);
    assert!(events.iter().all(|(name, ..)| !name.ends_with("_backward") && name != "adamw"));

    // One trace for both models.
    folder.file("pairs.jsonl", r#"{"prompt": "1 + 2", "reference": "it is 3", "chosen": "3", "rejected": "three"}"#);
    let eval = ["eval", "--model", "run/model", "--model", "without/model", "--data", "pairs.jsonl"];
    let begun = Instant::now();
    let said = stderr(&succeed(folder.program(eval).args(["--trace", "eval.json"])));
    check(&folder, "eval.json", begun.elapsed().as_secs_f64() * 1e6, &said);

    // A finished run computes nothing, and writes no trace.
    let resumed = ["train", "--run", "run", "--resume", "--trace", "nothing.json"];
    let said = stderr(&succeed(&mut folder.program(resumed)));
    assert!(said.contains("nothing was computed") && !folder.path("nothing.json").exists(), "{said}");
}

#[test]
fn a_trace_that_cannot_be_written_is_refused_before_the_run() {
    let folder = Folder::new();
    folder.file("there.json", "mine");
    for (file, why) in [("there.json", "exists already"), ("missing/trace.json", "missing/trace.json")] {
        let output = run(&mut folder.train(&[], &["--run", "run", "--trace", file]));
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains("--trace") && said.contains(why) && said.lines().count() == 1, "{said}");
        assert!(!folder.path("run").exists());
    }
    assert_eq!(fs::read_to_string(folder.path("there.json")).unwrap(), "mine");
}
