//! `polar-raw eval` from a set's rows to table, JSON and page.

use std::fs;

use serde_json::{Value, json};

use super::{Folder, run, stderr, stdout, succeed};

fn rm_bench(n: usize) -> String {
    let row = |i: usize| {
        let answers = |word: &str| {
            json!([format!("{word} {i}"), format!("{word} {i}, in full"), format!("**{word}** {i}, in full")])
        };
        let domain = ["chat", "math", "safety-refuse", "safety-response"][i % 4];
        json!({"id": i, "prompt": format!("Which, {i}?"), "chosen": answers("this"), "rejected": answers("that"), "domain": domain})
    };
    json!((0..n).map(row).collect::<Vec<_>>()).to_string()
}

#[test]
fn a_set_is_judged_by_two_models() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "runs/a"]));
    succeed(&mut folder.train(&["optimizer.lr=1e-2"], &["--run", "runs/b"]));
    folder.file("rm.json", rm_bench(8));
    let args = ["eval", "--model", "runs/a/model", "--model", "runs/b/model", "--data", "rm.json"];
    let said = stdout(&succeed(folder.program(args).args(["--json", "r.json", "--html", "r.html"])));
    for part in [
        "8 rows of rm-bench, 144 judgements",
        "leave-one-out (the default)",
        "style: hard",
        "average: by pairs",
        "length: ",
        "truncated: ",
        "a = a, b = b",
        "McNemar",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let result: Value = serde_json::from_slice(&fs::read(folder.path("r.json")).unwrap()).unwrap();
    assert_eq!((&result["version"], &result["references"]["source"]), (&json!(1), &json!("leave-one-out")));
    assert_ne!(result["device"], "auto", "what was chosen");
    let [a, b] = [0, 1].map(|i| &result["models"][i]);
    assert_ne!(a["blake3"], b["blake3"]);
    let names: Vec<&str> =
        a["table"]["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["rm", "chat", "math", "safety-refuse", "safety-response", "style: hard", "style: normal", "style: easy"]
    );
    // The figures of the table are those of the scores.
    for model in [a, b] {
        let (mut right, mut asked) = (0, 0);
        for trial in model["scores"].as_array().unwrap() {
            let scores: Vec<f64> = trial["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
            let wins =
                scores[..2].iter().flat_map(|c| scores[2..].iter().map(move |r| c > r)).filter(|&win| win).count();
            assert_eq!((trial["right"].as_u64().unwrap(), scores.len()), (wins as u64, 5));
            right += wins;
            asked += 6;
        }
        let accuracy = &model["table"]["rows"][0]["accuracies"][0];
        assert_eq!((accuracy["right"].as_u64(), accuracy["pairs"].as_u64()), (Some(right as u64), Some(asked)));
    }
    let only = &result["comparisons"][0]["rows"][0];
    let count = |key: &str| only[key].as_i64().unwrap();
    let right = |model: &Value| model["table"]["rows"][0]["accuracies"][0]["right"].as_i64().unwrap();
    assert_eq!(count("only_b") - count("only_a"), right(b) - right(a));
    let page = fs::read_to_string(folder.path("r.html")).unwrap();
    for part in
        ["Side by side", "Differences", "Margins", "Length", "Truncation", "leave-one-out", "prefers-color-scheme"]
    {
        assert!(page.contains(part), "no {part:?} in the page");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("NaN"));

    // A model is as good as itself.
    let args =
        ["eval", "--model", "runs/b/model", "--model", "runs/b/model", "--data", "rm.json", "--json", "same.json"];
    succeed(&mut folder.program(args));
    let result: Value = serde_json::from_slice(&fs::read(folder.path("same.json")).unwrap()).unwrap();
    let row = &result["comparisons"][0]["rows"][0];
    assert_eq!((&row["difference"], &row["mcnemar_p"]), (&json!(0.0), &json!(1.0)));
}

#[test]
fn references_are_asked_for_and_joined() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "runs/a"]));
    let row = |i: usize| json!({"prompt": format!("{i}?"), "chosen": format!("yes {i}"), "rejected": format!("no {i}"), "subset": "math-prm", "id": i});
    folder.file("rb.jsonl", (0..4).map(|i| format!("{}\n", row(i))).collect::<String>());
    let eval = |more: &[&str]| {
        run(folder.program(["eval", "--model", "runs/a/model", "--data", "rb.jsonl", "--json", "r.json"]).args(more))
    };
    let refused = |more: &[&str], parts: &[&str]| {
        let output = eval(more);
        let said = stderr(&output);
        assert!(output.status.code() == Some(2) && parts.iter().all(|part| said.contains(part)), "{said}");
        assert!(!folder.path("r.json").exists());
    };
    refused(&[], &["reward-bench rows have no reference", "--references FILE"]);
    refused(&["--reference-source", "field"], &["no reference of their own", "choose file"]);
    refused(&["--reference-source", "file"], &["give --references FILE"]);
    refused(&["--format", "judge-bench"], &["rb.jsonl:1", "label"]);
    let references = |n: usize, text: &str| {
        let rows = (0..n).map(|i| format!("{}\n", json!({"id": i, "reference": text.replace('#', &i.to_string())})));
        folder.file("refs.jsonl", rows.collect::<String>())
    };
    references(3, "sure");
    refused(&["--references", "refs.jsonl"], &["nothing for 1 of 4 rows", "id 3"]);
    references(4, "yes #");
    refused(&["--references", "refs.jsonl"], &["leaves nothing to judge"]);
    references(4, "yes 1");
    let said = stdout(&eval(&["--references", "refs.jsonl"]));
    assert!(said.contains("left out: 1 candidates") && said.contains("1 of 4 groups"), "{said}");
    let result: Value = serde_json::from_slice(&fs::read(folder.path("r.json")).unwrap()).unwrap();
    assert_eq!((&result["references"]["file"], &result["data"]["judgements"]), (&json!("refs.jsonl"), &json!(3)));
    assert!(said.contains("Reasoning"), "{said}");
}
