//! `POST /v1/score` against the library.

use polar_raw::data::Wrapper;
use polar_raw::polar::{CutSide, TemplateConfig, encode_as_client};
use serde_json::{Value, json};

use super::client::post;
use super::fixture::{Row, Running, direct, near, options, rows, template, tokenizer};

/// A prompt with its reference and the outputs of several rows.
fn question(seed: u64) -> (Row, Vec<String>) {
    let rows = rows(seed, 8);
    (rows[0].clone(), rows.into_iter().map(|row| row.output).collect())
}

fn column(reply: &Value, key: &str) -> Vec<f64> {
    let data = reply["data"].as_array().unwrap_or_else(|| panic!("{reply}"));
    data.iter().enumerate().for_each(|(index, entry)| assert_eq!(entry["index"], index));
    data.iter().map(|entry| entry[key].as_f64().unwrap_or_else(|| panic!("{reply}"))).collect()
}

fn check(found: &[f64], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    assert!(found.iter().zip(wanted).all(|(found, wanted)| near(*found, *wanted)), "{found:?} {wanted:?}");
}

#[test]
fn scores_usage_and_cut() {
    let server = Running::new(options());
    let (row, outputs) = question(31);
    let texts: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let short = TemplateConfig { max_response_length: 9, ..template() };
    for (change, template, side) in [
        (json!({}), template(), CutSide::Right),
        (json!({"wrapper": "pretrain"}), TemplateConfig { wrapper: Wrapper::Pretrain, ..template() }, CutSide::Right),
        (json!({"max_length": 80}), TemplateConfig { max_length: 80, ..template() }, CutSide::Right),
        (json!({"max_response_length": 9}), short, CutSide::Right),
        (json!({"max_response_length": 9, "cut_side": "left"}), short, CutSide::Left),
    ] {
        let encoded = encode_as_client(&tokenizer(), &row.prompt, &row.reference, &texts, &template, side).unwrap();
        let mut body =
            json!({"model": "small", "prompt": row.prompt, "reference": row.reference, "candidates": outputs});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = post(server.address, "/v1/score", &body).json();
        let sequences: Vec<Vec<u32>> = encoded.iter().map(|candidate| candidate.ids.clone()).collect();
        check(&column(&reply, "score"), &direct(&sequences));
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        assert_eq!(reply["usage"]["total_tokens"], tokens);
        for (index, candidate) in encoded.iter().enumerate() {
            let cut = candidate.cut;
            let wanted = json!({"prompt": cut.prompt, "reference": cut.reference, "candidate": cut.candidates});
            assert_eq!(reply["data"][index]["cut"], wanted);
        }
        let shortened = change.get("max_length").or(change.get("max_response_length")).is_some();
        assert_eq!(encoded.iter().any(|candidate| candidate.cut.any()), shortened);
    }
}

#[test]
fn messages_are_joined() {
    let server = Running::new(options());
    let message = |text: &str| json!({"role": "user", "content": text});
    let strings = json!({"prompt": "a\nb", "reference": "c", "candidates": ["d\ne", "f"]});
    let messages = json!({
        "prompt": [message("a"), message("b")],
        "reference": [message("c")],
        "candidates": [[message("d"), message("e")], "f"],
    });
    let [strings, messages] = [strings, messages].map(|body| post(server.address, "/v1/score", &body).json());
    assert_eq!(strings["data"], messages["data"]);
}

#[test]
fn normalisers() {
    let server = Running::new(options());
    let (row, outputs) = question(32);
    let ask = |normalise: &str| {
        let body = json!({
            "prompt": row.prompt, "reference": row.reference, "candidates": outputs, "normalise": normalise,
        });
        post(server.address, "/v1/score", &body).json()
    };
    let raw = column(&ask("raw"), "score");
    assert!(ask("raw")["data"][0].get("normalised").is_none());

    let count = raw.len() as f64;
    let mean = raw.iter().sum::<f64>() / count;
    let deviation = (raw.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count).sqrt();
    let wanted: Vec<f32> = raw.iter().map(|score| ((score - mean) / deviation) as f32).collect();
    check(&column(&ask("z-score"), "normalised"), &wanted);
    check(&column(&ask("z-score"), "score"), &raw.iter().map(|score| *score as f32).collect::<Vec<_>>());

    let below = |score: &f64| raw.iter().filter(|other| *other < score).count() as f64;
    let wanted: Vec<f32> = raw.iter().map(|score| (below(score) / (count - 1.0)) as f32).collect();
    check(&column(&ask("rank"), "normalised"), &wanted);

    let own = json!({"prompt": row.prompt, "reference": row.reference, "candidates": [row.reference]});
    let own = column(&post(server.address, "/v1/score", &own).json(), "score")[0];
    let wanted: Vec<f32> = raw.iter().map(|score| (score - own) as f32).collect();
    check(&column(&ask("reference"), "normalised"), &wanted);
}

#[test]
fn what_is_wrong_is_named() {
    let server = Running::new(options());
    let good = json!({"prompt": "a", "reference": "b", "candidates": ["c"]});
    for (key, value, status, part) in [
        ("candidates", json!([]), 400, "candidates: an empty list"),
        ("candidates", json!(["a", 7]), 400, "candidates[1]: invalid type: integer `7`"),
        ("candidates", json!([[{"role": "user", "content": 3}]]), 400, "candidates[0][0].content: "),
        ("candidates", json!("a"), 400, "candidates: "),
        ("wrapper", json!("both"), 400, "wrapper: unknown variant `both`"),
        ("normalise", json!("softmax"), 400, "normalise: unknown variant `softmax`"),
        ("max_length", json!(7), 400, "max_length = 7: must be at least 8"),
        ("max_length", json!(701), 400, "max_length = 701: this server takes at most 700"),
        ("max_length", json!(-1), 400, "max_length: "),
        ("max_response_length", json!(1), 400, "max_response_length = 1"),
        ("candidate", json!("x"), 400, "candidate: unknown field `candidate`"),
        ("model", json!("large"), 404, "\"large\" is not served here"),
        ("prompt", json!(null), 400, "prompt: "),
    ] {
        let mut body = good.clone();
        body[key] = value;
        let answer = post(server.address, "/v1/score", &body);
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.error().contains(part), "{body}: {answer:?}");
    }
}
