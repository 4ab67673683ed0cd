//! `score`: best of n, what was cut, normalisers, and that a killed run goes on to the same file.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use std::fs;
use std::process::Stdio;

use rand::RngExt;
use serde_json::{Value, json};

use super::{Folder, output_of, run, stderr, stdout, succeed, wait_until};
use polar_raw::rng;

const SCORE: [&str; 5] = ["score", "--model", "trained/model", "--input", "rows.jsonl"];

fn trained() -> Folder {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=3"], &["--run", "trained"]));
    folder
}

/// The answers on standard output, and what was said.
fn answers(folder: &Folder, rows: &[Value], args: &[&str]) -> (Vec<Value>, String) {
    folder.file("rows.jsonl", rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    let output = succeed(folder.program(SCORE).args(args));
    let answers = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (answers, stderr(&output))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn best_of_n_gives_the_scores_of_single_rows() {
    let folder = trained();
    let outputs = ["one", "two two", "", "drei", "a long one, to be cut at some place or other, whichever it is"];
    let (prompt, reference) = ("count", "one");
    let group = json!({"prompt": prompt, "reference": reference, "outputs": outputs});
    let single = |output: &&str| json!({"prompt": prompt, "reference": reference, "output": output});
    let rows: Vec<Value> = [vec![group.clone()], outputs.iter().map(single).collect()].concat();
    let args = ["--report-cuts", "--max-response-length", "20", "--cut-side", "left"];
    let (all, said) = answers(&folder, &rows, &args);
    let scores = numbers(&all[0]["scores"]);
    assert_eq!(scores.len(), outputs.len());
    for (i, row) in all[1..].iter().enumerate() {
        assert!(abs_diff_eq!(row["score"].as_f64().unwrap(), scores[i], epsilon = 1e-5), "{all:?}");
        assert_eq!(row["cut"], all[0]["cut"][i]);
    }
    let highest = scores.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(scores[all[0]["best"].as_u64().unwrap() as usize], highest);
    assert_eq!(all[0]["cut"][0], json!({"prompt": 0, "reference": 0, "output": 0}));
    assert_eq!(all[0]["cut"][4]["output"], outputs[4].len() - 20);
    let cut = 2 * (outputs[4].len() - 20);
    assert!(said.contains("10 candidates in 6 rows, "), "{said}");
    assert!(said.contains(&format!("{cut} tokens were cut off the texts of 2 of them")), "{said}");

    // The side decides what is left.
    let right = answers(&folder, &rows, &["--max-response-length", "20"]).0;
    assert_ne!(right[5]["score"], all[5]["score"]);
    assert!(right[0].get("cut").is_none() && right[0].get("normalised").is_none());
}

#[test]
fn normalisers() {
    let folder = trained();
    let group = json!({"prompt": "p", "reference": "r", "outputs": ["a", "bb", "r", "bb"]});
    let normalised = |name: &str| {
        let answer = answers(&folder, std::slice::from_ref(&group), &["--normalise", name]).0.remove(0);
        (numbers(&answer["scores"]), numbers(&answer["normalised"]))
    };
    let (scores, z) = normalised("z-score");
    let mean = scores.iter().sum::<f64>() / 4.0;
    let deviation = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
    z.iter().zip(&scores).for_each(|(z, score)| assert_abs_diff_eq!(*z, (score - mean) / deviation, epsilon = 1e-3));
    let (_, ranks) = normalised("rank");
    assert_eq!((ranks.iter().sum::<f64>(), ranks[1], scores[1]), (2.0, ranks[3], scores[3]));
    let (scores, differences) = normalised("reference");
    assert_eq!(scores.len(), 4);
    differences.iter().zip(&scores).for_each(|(d, score)| assert_abs_diff_eq!(*d, score - scores[2], epsilon = 1e-5));
    // What is equal scores equally, whatever it is computed with.
    for (text, count) in [("a", 2), ("a longer candidate", 7), ("bb", 40)] {
        let row = json!({"prompt": "p", "reference": "r", "outputs": vec![text; count]});
        for (name, value) in [("z-score", 0.0), ("rank", 0.5)] {
            let answer = answers(&folder, std::slice::from_ref(&row), &["--normalise", name]).0.remove(0);
            assert_eq!(numbers(&answer["normalised"]), vec![value; count], "{answer}");
            assert_eq!(answer["best"], 0, "{answer}");
        }
    }
    let single = json!({"prompt": "p", "reference": "r", "output": "r"});
    let answer = answers(&folder, std::slice::from_ref(&single), &["--normalise", "reference"]).0.remove(0);
    assert!(abs_diff_eq!(answer["normalised"].as_f64().unwrap(), 0.0, epsilon = 1e-5), "{answer}");

    for (row, name, part) in [
        (&single, "rank", "rows.jsonl:1: --normalise z-score and rank"),
        (&single, "z-score", "\"outputs\""),
        (&json!({"input_ids": [1, 4]}), "reference", "rows.jsonl:1: --normalise reference needs"),
        (&json!({"prompt": "p", "reference": "r", "outputs": []}), "raw", "key \"outputs\": expected a list"),
        (&json!({"prompt": "p", "reference": "r", "outputs": ["a", 7]}), "raw", "\"outputs[1]\": expected a string"),
        (&json!({"prompt": "p", "reference": "r", "outputs": ["a"], "output": "b"}), "raw", "this one has both"),
    ] {
        folder.file("rows.jsonl", row.to_string());
        let output = run(folder.program(SCORE).args(["--normalise", name]));
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{part:?} is not in {}", stderr(&output));
    }
    for (args, part) in [
        (["--max-length", "7"], "--max-length 7: must be at least 8"),
        (["--max-length", "9999999"], "reads at most"),
        (["--max-response-length", "1"], "--max-response-length 1: must be at least 2"),
    ] {
        let output = run(folder.program(SCORE).args(args));
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{part:?} is not in {}", stderr(&output));
    }
}

/// Rows of all kinds, with blank lines among them.
fn many_rows(rows: usize) -> String {
    let mut random = rng::stream(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64, "rows", 0);
    let mut text = String::new();
    for i in 0..rows {
        let mut words = |most: usize| "word ".repeat(random.random_range(0..most)) + &i.to_string();
        let (prompt, reference) = (words(20), words(10));
        let row = match i % 3 {
            0 => json!({"prompt": prompt, "reference": reference, "output": words(10)}),
            1 => json!({"prompt": prompt, "reference": reference, "outputs": [words(10), words(30), words(3)]}),
            _ => json!({"input_ids": [1, 70, 80, 3, 70, 90 + i % 100, 4]}),
        };
        text += &format!("{row}\n{}", if i % 7 == 0 { "\n" } else { "" });
    }
    text
}

#[test]
fn a_killed_run_goes_on_to_the_same_file() {
    let folder = trained();
    folder.file("rows.jsonl", many_rows(2600));
    let score = |output: &str, more: &[&str]| {
        let mut command = folder.program(SCORE);
        command.args(["--report-cuts", "--output", output]).args(more);
        command
    };
    succeed(&mut score("whole", &[]));
    let whole = fs::read(folder.path("whole")).unwrap();
    assert_eq!(whole.iter().filter(|&&byte| byte == b'\n').count(), 2600);
    assert!(!folder.path("whole.partial").exists() && !folder.path("whole.progress").exists());

    // Killed whenever the work has grown, until a run comes through.
    let size = || fs::metadata(folder.path("out.partial")).map_or(0, |metadata| metadata.len());
    let mut kills = 0;
    while !folder.path("out").exists() {
        let before = size();
        let mut child = score("out", &["--resume"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let more = if kills < 4 { 1 + kills * 7000 } else { u64::MAX / 2 };
        if wait_until(&mut child, || size() > before.saturating_add(more)) {
            child.kill().unwrap();
            kills += 1;
        }
        let output = output_of(child);
        assert!(output.status.success() || output.status.code().is_none(), "{}", stderr(&output));
    }
    assert!(kills >= 2, "the run was killed {kills} times");
    assert!(fs::read(folder.path("out")).unwrap() == whole, "after {kills} kills");
    assert!(!folder.path("out.partial").exists() && !folder.path("out.progress").exists());
}

#[test]
fn only_what_was_begun_goes_on() {
    let folder = trained();
    let good = many_rows(700);
    folder.file("rows.jsonl", &good);
    succeed(folder.program(SCORE).args(["--output", "whole"]));
    let lines = good.lines().count();
    folder.file("rows.jsonl", format!("{good}{{}}\n"));
    let score = |args: &[&str]| run(folder.program(SCORE).args(["--output", "out"]).args(args));
    let refused = |args: &[&str], part: &str| {
        let work = fs::read(folder.path("out.partial")).unwrap();
        let output = score(args);
        assert_eq!(output.status.code(), Some(2), "{part}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{part:?} is not in {}", stderr(&output));
        assert!(fs::read(folder.path("out.partial")).unwrap() == work, "the work was touched");
    };
    // A bad row stops the run; what was done stays.
    let output = score(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(&format!("rows.jsonl:{}: ", lines + 1)), "{}", stderr(&output));
    assert!(!folder.path("out").exists());

    refused(&[], "go on with --resume");
    refused(&["--resume", "--cut-side", "left"], "cut_side was \"right\" and is \"left\"");
    refused(&["--resume", "--max-length", "100"], "max_length was 512 and is 100");
    let companion = fs::read_to_string(folder.path("trained/model/polar_raw.json")).unwrap();
    folder.file("trained/model/polar_raw.json", format!("{companion} "));
    refused(&["--resume"], "model was ");
    folder.file("trained/model/polar_raw.json", companion);
    folder.file("rows.jsonl", good.replacen("word", "Word", 1));
    refused(&["--resume"], "are not those that were scored");
    folder.file("rows.jsonl", good.lines().take(9).map(|line| format!("{line}\n")).collect::<String>());
    refused(&["--resume"], "are not those that were scored");

    // The bad row is gone: the rest is scored. Standard input is as good as a file.
    let input = folder.file("rows.jsonl", &good);
    let mut command = folder.program(["score", "--model", "trained/model", "--input", "-"]);
    command.args(["--output", "out", "--resume"]).stdin(fs::File::open(input).unwrap());
    let said = stderr(&succeed(&mut command));
    assert!(said.contains("in 700 rows"), "the rows of both runs: {said}");
    assert!(fs::read(folder.path("out")).unwrap() == fs::read(folder.path("whole")).unwrap());
}
