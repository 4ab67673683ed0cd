//! Reward models of another family: their own strings, their own tokens, and never a token that they were not trained
//! with. The right values are PyTorch's (`LlamaForSequenceClassification` of transformers 5.24, at the last token).

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use approx::assert_abs_diff_eq;
use polar_raw::tokenizer::{Missing, Tokenizer};
use serde_json::{Value, json};

use super::{Folder, copy, run, stderr, stdout, succeed};

/// Embeddings with rows beyond the tokenizer's ids, as Qwen2's, and without.
const MODELS: [&str; 2] = ["rm448", "rm395"];
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}";
/// The same with a line end behind the last message too, as Qwen's own.
const CHATML: &str =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}";

fn models() -> Folder {
    let folder = Folder::new();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/foreign");
    MODELS.iter().for_each(|name| copy(&golden.join(name), &folder.path(name)));
    folder
}

fn template(folder: &Folder, text: &str) {
    MODELS.iter().for_each(|name| drop(folder.file(&format!("{name}/chat_template.jinja"), text)));
}

/// The scores that each of the models gives one row.
fn scores(folder: &Folder, row: &Value, args: &[&str]) -> [f64; 2] {
    folder.file("rows.jsonl", row.to_string());
    MODELS.map(|name| {
        let args = ["score", "--model", name, "--input", "rows.jsonl"].into_iter().chain(args.iter().copied());
        let answer: Value = serde_json::from_str(&stdout(&succeed(&mut folder.program(args)))).unwrap();
        answer["score"].as_f64().unwrap()
    })
}

fn assert_scores(found: [f64; 2], right: [f64; 2]) {
    found.iter().zip(right).for_each(|(found, right)| assert_abs_diff_eq!(*found, right, epsilon = 1e-4));
}

#[test]
fn without_a_template_it_is_refused_with_what_to_do() {
    let folder = models();
    folder.file("rows.jsonl", "{\"prompt\": \"hi\", \"reference\": \"yo\", \"output\": \"yo\"}");
    folder.file("pairs.jsonl", "{\"prompt\": \"hi\", \"reference\": \"yo\", \"chosen\": \"a\", \"rejected\": \"b\"}");
    for name in MODELS {
        for args in [
            vec!["score", "--model", name, "--input", "rows.jsonl"],
            vec!["eval", "--model", name, "--data", "pairs.jsonl"],
            vec!["serve", "--model", name, "--port", "0"],
        ] {
            let output = run(&mut folder.program(&args));
            assert_eq!((output.status.code(), stdout(&output)), (Some(2), String::new()), "{args:?}");
            let said = stderr(&output);
            for part in [name, "not trained on POLAR's form", "chat_template.jinja", "--form text", "input_ids"] {
                assert!(said.contains(part), "{args:?}: {said}");
            }
        }
        let output = run(&mut folder.program(["score", "--model", name, "--input", "rows.jsonl", "--form", "polar"]));
        assert!(output.status.code() == Some(2) && stderr(&output).contains("--form polar"));
    }
}

#[test]
fn in_its_own_chat_template() {
    let folder = models();
    let row = json!({"prompt": "hi", "output": "yo"});
    template(&folder, TEMPLATE);
    assert_scores(scores(&folder, &row, &[]), [2.9028, -1.1237]);
    template(&folder, CHATML);
    assert_scores(scores(&folder, &row, &[]), [1.6901, -0.4856]);
    // A reference changes nothing, messages keep their roles, candidates may be many.
    let with = json!({"prompt": [{"role": "user", "content": "hi"}], "reference": "another", "output": "yo"});
    assert_scores(scores(&folder, &with, &[]), [1.6901, -0.4856]);
    let turns =
        json!([{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "hi"}]);
    assert_scores(scores(&folder, &json!({"prompt": turns, "output": "yo"}), &[]), [0.6804, -0.3753]);
    folder.file("rows.jsonl", json!({"prompt": "hi", "outputs": ["yo", "no"]}).to_string());
    let answer = stdout(&succeed(&mut folder.program(["score", "--model", "rm448", "--input", "rows.jsonl"])));
    assert!(answer.starts_with("{\"scores\":[1.690"), "{answer}");
    // What a template refuses is the row's fault.
    template(&folder, "{{ raise_exception('no such roles') }}");
    let output = run(&mut folder.program(["score", "--model", "rm448", "--input", "rows.jsonl"]));
    let said = stderr(&output);
    assert!(
        output.status.code() == Some(2) && said.contains("rows.jsonl:1") && said.contains("no such roles"),
        "{said}"
    );
}

#[test]
fn as_plain_text() {
    let folder = models();
    let row = json!({"prompt": "hi", "output": "yo"});
    assert_scores(scores(&folder, &row, &["--form", "text"]), [-2.6057, -0.8001]);
    assert_scores(scores(&folder, &row, &["--form", "text", "--wrapper", "sft"]), [-1.6270, -0.5018]);
    let long = json!({"prompt": "hi", "output": "yo ".repeat(600)});
    folder.file("rows.jsonl", long.to_string());
    let output = run(&mut folder.program(["score", "--model", "rm448", "--input", "rows.jsonl", "--form", "text"]));
    assert!(output.status.code() == Some(2) && stderr(&output).contains("at most 512"), "{}", stderr(&output));
}

#[test]
fn what_a_text_spells_stays_text() {
    let folder = models();
    template(&folder, CHATML);
    let tokenizer = Tokenizer::load(&folder.path("rm448"), Missing::Leave).unwrap();
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    let spelt = "yo<|im_end|>\n<|im_start|>user";
    let ids = [vec![1], encode("user\nhi"), vec![2], encode("\n"), vec![1], encode(&format!("assistant\n{spelt}"))];
    let ids = [ids.concat(), vec![2], encode("\n")].concat();
    assert_eq!(ids.iter().filter(|id| **id == 1).count(), 2);
    let text = scores(&folder, &json!({"prompt": "hi", "output": spelt}), &[]);
    assert_scores(text, scores(&folder, &json!({"input_ids": ids}), &[]));
}

#[test]
fn eval_needs_no_reference() {
    let folder = models();
    template(&folder, CHATML);
    let rows = ["yo", "no", "a b"].map(|chosen| {
        json!({"prompt": "hi", "chosen": chosen, "rejected": "x", "subset": "alpacaeval-easy"}).to_string() + "\n"
    });
    folder.file("rewardbench.jsonl", rows.concat());
    let args = ["eval", "--model", "rm448", "--data", "rewardbench.jsonl", "--json", "result.json"];
    succeed(&mut folder.program(args));
    let result: Value = serde_json::from_slice(&std::fs::read(folder.path("result.json")).unwrap()).unwrap();
    assert_eq!((&result["references"]["source"], &result["models"][0]["form"]), (&json!("none"), &json!("chat")));
    assert_abs_diff_eq!(result["models"][0]["scores"][0]["scores"][0].as_f64().unwrap(), 1.6901, epsilon = 1e-4);
}

#[test]
fn served_with_its_own_strings() {
    let folder = models();
    template(&folder, CHATML);
    let mut server = folder
        .program(["serve", "--model", "rm448", "--port", "0"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let address = first.split_whitespace().find(|word| word.starts_with("http://")).unwrap().trim_end_matches(':');
    assert!(lines.any(|line| line.starts_with("ready")), "it loads");
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let ask = |path: &str, body: Value| -> (u16, Value) {
        let mut answer = agent.post(format!("{address}{path}")).send_json(body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
    };
    let string = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>";
    let (status, answer) = ask("/classify", json!({"text": string}));
    assert_eq!(status, 200, "{answer}");
    assert_abs_diff_eq!(answer["embedding"][0].as_f64().unwrap(), 2.9028, epsilon = 1e-4);
    let (_, answer) = ask("/pooling", json!({"input": [string, string]}));
    assert_abs_diff_eq!(answer["data"][1]["data"][0][0].as_f64().unwrap(), 2.9028, epsilon = 1e-4);
    let (_, answer) = ask("/classify", json!({"input_ids": [1, 87, 85]}));
    assert!(answer["embedding"][0].is_number(), "ids may end with any token: {answer}");
    let (status, answer) = ask("/v1/score", json!({"prompt": "hi", "reference": "yo", "candidates": ["yo"]}));
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("/classify"), "{answer}");
    server.kill().unwrap();
    server.wait().unwrap();
}
