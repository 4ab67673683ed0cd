//! Every kind of data to the end: trained, evaluated, opened again.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use std::fs;
use std::io::Read;
use std::process::Stdio;

use polar_raw::data::Wrapper;
use polar_raw::polar::{TemplateConfig, encode_candidate};
use polar_raw::tokenizer::{Missing, Tokenizer};
use serde_json::{Value, json};

use super::{Folder, output_of, run, stderr, stdout, succeed, tree};

fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

fn scores(text: &str) -> Vec<f64> {
    let score = |line: &str| serde_json::from_str::<Value>(line).unwrap()["score"].as_f64().unwrap();
    text.lines().map(score).collect()
}

/// The words of policy `b` are those of `a` in capitals.
pub(super) fn trajectories() -> String {
    lines((0..12).flat_map(|i| {
        let row =
            move |policy: &str, output: String| json!({"prompt": format!("p{i}"), "policy": policy, "output": output});
        [
            row("a", format!("one {i}")),
            row("a", format!("two {i}")),
            row("b", format!("ONE {i}")),
            row("b", format!("TWO {i}")),
        ]
    }))
}

pub(super) fn preferences() -> String {
    lines((0..12).map(|i| {
        let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": format!("p{i}")}]);
        let wrapper = ["sft", "pretrain"][i % 2];
        json!({"prompt": messages, "reference": format!("r{i}"), "chosen": [{"role": "assistant", "content": "r"}],
               "rejected": "something else", "wrapper": wrapper})
    }))
}

pub(super) fn pairs() -> String {
    lines((0..12).map(|i| json!({"chosen_ids": [1, 10 + i, 20, 4], "rejected_ids": [1, 10 + i, 30, 31, 4]})))
}

pub(super) fn documents() -> String {
    lines((0..12).map(|i| json!({"prompt": format!("{i} + {i} ="), "output": format!(" {}", 2 * i)})))
}

#[test]
fn every_kind_of_data() {
    let lm: &[&str] = &["objective.kind=lm"];
    let texts = (0..12).map(|i| format!("A text,\nnumber {i}.\n\n")).collect::<String>();
    let bpe: &[&str] = &["tokenizer.kind=bpe", "tokenizer.vocab_size=300"];
    let cases: [(&str, String, &[&str]); 6] = [
        ("trajectories.jsonl", trajectories(), bpe),
        ("preferences.jsonl", preferences(), &["objective.loss=focal", "objective.penalty=l2"]),
        ("pairs.jsonl", pairs(), &["data.share_prefix=false"]),
        ("documents.jsonl", documents(), lm),
        ("texts.jsonl", lines((0..12).map(|i| json!({"text": format!("text {i}")}))), lm),
        ("texts.txt", texts, lm),
    ];
    for (name, content, sets) in cases {
        let folder = Folder::new();
        folder.file(name, &content);
        // The same rows, compressed, to evaluate on.
        folder.file("eval.zst", zstd::encode_all(content.as_bytes(), 3).unwrap());
        let plain_text = name.ends_with(".txt");
        let eval = if plain_text { name } else { "eval.zst" };
        let sets = [&["train.steps=0", "train.batch_size=5"], sets].concat();
        let output = succeed(&mut folder.train(&sets, &["--data", name, "--eval-data", eval, "--run", "run"]));
        let said = stdout(&output);
        let epoch = if name == "trajectories.jsonl" { 5 } else { 3 };
        assert!(
            said.contains(&format!("{epoch} of {epoch} steps")),
            "{name}: one epoch is ceil(items / 5) steps\n{said}"
        );
        let result = if sets.contains(&lm[0]) { "next-token loss" } else { "eval" };
        assert!(said.contains(result), "{name}: {said}");
        for file in ["model/config.json", "model/model.safetensors", "report.html", "metrics.jsonl", "config.toml"] {
            assert!(folder.path("run").join(file).is_file(), "{name}: no {file}");
        }

        let args = ["eval", "--model", "run/model", "--data", eval, "--json", "result.json"];
        let output = run(&mut folder.program(args));
        if sets.contains(&lm[0]) {
            assert_eq!(output.status.code(), Some(2), "{name}: a language model has no scores");
            assert!(stderr(&output).contains("no reward head"), "{}", stderr(&output));
            continue;
        }
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert!(stdout(&output).contains("eval"), "{}", stdout(&output));
        let table: Value = serde_json::from_slice(&fs::read(folder.path("result.json")).unwrap()).unwrap();
        assert!(table.to_string().contains("chosen"), "{table}");
        folder.file("score.jsonl", json!({"prompt": "p", "reference": "r", "output": "o"}).to_string());
        let output = succeed(&mut folder.program(["score", "--model", "run/model", "--input", "score.jsonl"]));
        assert!(scores(&stdout(&output))[0].is_finite());
    }
}

/// Pairs that are the same tokens after cutting are left out, of training and of evaluation, and so is said; others whose
/// candidate is the reference are counted.
#[test]
fn what_is_the_same_after_cutting_is_left_out_and_said() {
    let folder = Folder::new();
    // Answers are cut to 199 bytes.
    let (long, short) = ("word ".repeat(50), "word ".repeat(39));
    let row = |i: usize| {
        let (reference, chosen, rejected) = match i % 5 {
            0 => ("r".into(), format!("{long}chosen"), format!("{long}rejected")),
            1 => ("r".into(), "r".into(), "s".into()),
            2 => (format!("{long}reference"), "c".into(), format!("{long}rejected")),
            _ => ("r".into(), format!("{short}{i}"), "no".into()),
        };
        json!({"prompt": format!("p{i}"), "reference": reference, "chosen": chosen, "rejected": rejected})
    };
    folder.file("rows.jsonl", lines((0..60).map(row)));
    let sets = ["train.steps=6", "train.batch_size=10", "data.eval_fraction=0"];
    let args = ["--data", "rows.jsonl", "--eval-data", "rows.jsonl", "--run", "run"];
    let output = succeed(&mut folder.train(&[&sets[..], &["eval.pairs=60"]].concat(), &args));
    let (said, report) = (stdout(&output), fs::read_to_string(folder.path("run/report.html")).unwrap());
    for sentence in [
        "12 pairs whose chosen and rejected are the same tokens after cutting: left out",
        "12 pairs whose chosen is the reference, token by token, after cutting",
        "12 pairs whose rejected is the reference, token by token, after cutting",
        "the same tokens in rows: 12 pairs whose better answer and worse one are the same tokens after cutting: left out",
    ] {
        assert!(said.contains(sentence), "{sentence:?} is not in {said}");
        assert!(report.contains(sentence.split(": ").last().unwrap()), "{sentence:?} is not in the report");
    }
    assert!(stderr(&output).contains("of the first 60 pairs: 12 pairs whose chosen and rejected are the same tokens"));
    // Every row once, in six steps.
    let metrics = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    let pairs = |line| serde_json::from_str::<Value>(line).unwrap()["pairs"].as_u64().unwrap();
    assert_eq!(metrics.lines().map(pairs).sum::<u64>(), 48);

    let eval = ["eval", "--model", "run/model", "--data", "rows.jsonl", "--json", "result.json"];
    let said = stdout(&succeed(&mut folder.program(eval)));
    assert!(said.contains("12 pairs whose better answer and worse one are the same tokens"), "{said}");
    let result: Value = serde_json::from_slice(&fs::read(folder.path("result.json")).unwrap()).unwrap();
    let model = &result["models"][0];
    // Those with the reference's text are left out before: what is cut to it is counted.
    let expected = json!({"pairs": 12, "better_is_reference": 0, "worse_is_reference": 12});
    assert_eq!(model["identical"], expected, "{}", model["identical"]);
    for accuracy in model["table"]["rows"][0]["accuracies"].as_array().unwrap() {
        assert_eq!(accuracy["pairs"], json!(36), "{accuracy}");
    }
    assert_eq!(model["scores"].as_array().unwrap().len(), 36);
    assert_eq!(model["margins"]["ties"], 0, "{}", model["margins"]);
    let again = ["eval", "--model", "run/model", "--model", "run/model", "--data", "rows.jsonl", "--html", "page.html"];
    assert!(stdout(&succeed(&mut folder.program(again))).contains("difference"));

    // Where every pair is the same, there is nothing to do.
    folder.file("same.jsonl", lines((0..60).step_by(5).map(row)));
    let output = run(&mut folder.train(&sets, &["--data", "same.jsonl", "--run", "none"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("in every pair chosen and rejected are the same tokens"), "{}", stderr(&output));
    let output = run(&mut folder.program(["eval", "--model", "run/model", "--data", "same.jsonl"]));
    assert_eq!(output.status.code(), Some(2));
    let part =
        "same.jsonl: nothing is left to judge: to run/model, the candidates of all 12 judgements are the same tokens";
    assert!(stderr(&output).contains(part), "{}", stderr(&output));
    // As token ids too.
    let pair = |rejected: u32| json!({"chosen_ids": [1, 5, 4], "rejected_ids": [1, rejected, 4]});
    folder.file("ids.jsonl", lines([pair(5), pair(6), pair(7)]));
    let said = stdout(&succeed(&mut folder.program(["eval", "--model", "run/model", "--data", "ids.jsonl"])));
    assert!(said.contains("1 pairs whose better answer and worse one are the same tokens"), "{said}");
}

/// What the run's table says of its model is what anybody measures of the saved one, in every dtype.
#[test]
fn what_is_evaluated_is_what_is_saved() {
    let folder = Folder::new();
    folder.file("rows.jsonl", preferences());
    for dtype in ["float32", "bfloat16", "float16"] {
        let sets = ["train.steps=4", "eval.pairs=12", &format!("train.save_dtype={dtype}")];
        let args = ["--data", "rows.jsonl", "--eval-data", "rows.jsonl", "--run", dtype];
        succeed(&mut folder.train(&sets, &args));
        let config = fs::read_to_string(folder.path(dtype).join("model/config.json")).unwrap();
        assert!(config.contains(&format!("\"torch_dtype\": \"{dtype}\"")), "{config}");
        let model = format!("{dtype}/model");
        succeed(&mut folder.program(["eval", "--model", &model, "--data", "rows.jsonl", "--json", "again.json"]));
        let read = |path: &str| -> Value { serde_json::from_slice(&fs::read(folder.path(path)).unwrap()).unwrap() };
        let run = read(&format!("{dtype}/evaluation.json"))["rows"][0].clone();
        let mut again = read("again.json")["models"][0]["table"]["rows"][0].clone();
        // `eval` measures the length as well.
        again["accuracies"].as_array_mut().unwrap().remove(1);
        let chosen =
            |row: &Value| row["chosen"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let apart = chosen(&run).iter().zip(chosen(&again)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // The sums of a pass depend on how long it is in the last bit; weights in bfloat16 are 1e-4 away.
        assert!(chosen(&run).len() == 12 && apart < 1e-6, "{dtype}: {apart}");
        assert_eq!(run["accuracies"], again["accuracies"], "{dtype}");
    }
}

#[test]
fn scores_come_in_the_order_of_the_rows_and_are_those_of_their_ids() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["optimizer.lr=1e-2"], &["--run", "run"]));
    let tokenizer = Tokenizer::load(&folder.path("run/model"), Missing::Leave).unwrap();
    let template = TemplateConfig { wrapper: Wrapper::Sft, max_length: 512, max_response_length: 200 };
    // More rows than are scored at a time, of very different lengths, some to be cut.
    let words = |i: usize, most: usize| "word ".repeat(1 + i * 37 % most);
    let rows: Vec<[String; 3]> =
        (0..300).map(|i| [format!("{i}? {}", words(i, 40)), words(i, 70), words(i + 1, 9)]).collect();
    let text =
        |[prompt, reference, output]: &[String; 3]| json!({"prompt": prompt, "reference": reference, "output": output});
    let ids = |[prompt, reference, output]: &[String; 3]| json!({"input_ids": encode_candidate(&tokenizer, prompt, reference, output, &template).unwrap().0});
    let score = |content: String| {
        folder.file("rows.jsonl", content);
        let args =
            ["score", "--model", "run/model", "--input", "rows.jsonl", "--output", "scores.jsonl", "--wrapper", "sft"];
        succeed(&mut folder.program(args));
        scores(&fs::read_to_string(folder.path("scores.jsonl")).unwrap())
    };
    let of_text = score(lines(rows.iter().map(text)));
    assert_eq!(of_text.len(), 300);
    assert!(of_text.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 1e-3), "all scores are alike");
    assert_abs_diff_eq!(of_text[..], score(lines(rows.iter().map(ids)))[..], epsilon = 1e-5);
    let mut backwards = score(lines(rows.iter().rev().map(text)));
    backwards.reverse();
    assert_abs_diff_eq!(of_text[..], backwards[..], epsilon = 1e-5);
    // Mixed rows, one by one.
    let mixed = score(lines([text(&rows[7]), ids(&rows[8]), text(&rows[9])]));
    assert_abs_diff_eq!(of_text[7..10], mixed[..], epsilon = 1e-5);
}

#[test]
fn a_language_model_becomes_a_reward_model() {
    let folder = Folder::new();
    folder.file("documents.jsonl", documents());
    folder.file("preferences.jsonl", preferences());
    succeed(&mut folder.train(&["objective.kind=lm"], &["--data", "documents.jsonl", "--run", "lm"]));
    let args = ["--init", "lm/model", "--data", "preferences.jsonl", "--run", "rm"];
    let output = succeed(&mut folder.train(&[], &args));
    assert!(stderr(&output).contains("the reward head starts at zero"), "{}", stderr(&output));
    let metrics = fs::read_to_string(folder.path("rm/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert_eq!((first["min_reward"].as_f64(), first["max_reward"].as_f64()), (Some(0.0), Some(0.0)));
    assert!(abs_diff_eq!(first["loss"].as_f64().unwrap(), f64::ln(2.0), epsilon = 1e-6), "{first}");
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!(last["max_reward"].as_f64() > last["min_reward"].as_f64(), "{last}");
    succeed(&mut folder.program(["eval", "--model", "rm/model", "--data", "preferences.jsonl"]));
}

#[test]
fn what_writes_nothing() {
    let folder = Folder::new();
    let said = stdout(&succeed(&mut folder.train(&[], &["--dry-run"])));
    for part in ["model ", "policy zoo", "30 steps of 2", "gradients", "activations", "runs/small"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    succeed(&mut folder.train(&[], &["--dry-run", "--run", "run"]));
    assert_eq!(tree(folder.0.path()).into_keys().collect::<Vec<_>>(), [folder.path("small.toml")]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&succeed(&mut folder.program(["completions", shell]))).contains("polar-raw"));
    }
    assert!(stdout(&succeed(&mut folder.program(["train", "--list-presets"]))).contains("quickstart"));
    assert!(stdout(&succeed(&mut folder.program(["--help"]))).contains("Exit status"));
}

/// A plan takes no data, no card and no device; a run says what it lacks.
#[test]
fn a_preset_without_data() {
    let folder = Folder::new();
    let preset = |args: &[&str]| folder.program([&["train", "--preset", "polar-1.8b"], args].concat());
    let said = stdout(&succeed(&mut preset(&["--dry-run", "--card", "h100"])));
    let parts = ["24 layers, hidden 2048", "--data FILE", "masters", "scratch", "67.7 GiB  <", "on h100", "stay free"];
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(stdout(&succeed(&mut preset(&["--dry-run"]))).contains("on cpu"));
    let output = run(&mut preset(&["--dry-run", "--card", "8GiB"]));
    let (said, shown) = (stderr(&output), stdout(&output));
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("a smaller model or a card with more memory") && shown.contains("activations"), "{said}");
    let output = run(&mut preset(&["--run", "run"]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("give --data FILE") && said.contains("train.steps=N"), "{said}");
    let said = stderr(&run(&mut preset(&["--card", "h100"])));
    assert!(said.contains("--dry-run"), "{said}");
    assert_eq!(tree(folder.0.path()).into_keys().collect::<Vec<_>>(), [folder.path("small.toml")]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::new();
    let mut zoo = folder.program(["zoo", "--count", "1000000"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut head = [0; 100];
    zoo.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert!(output_of(zoo).status.success());
    assert!(head.starts_with(b"{\"prompt\":"), "{:?}", String::from_utf8_lossy(&head));
    for args in [&["completions", "bash"][..], &["train", "--list-presets"]] {
        let mut child = folder.program(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = output_of(child);
        assert!(!stderr(&output).contains("panicked"), "{args:?}: {}", stderr(&output));
    }
}
