//! The forms of SGLang, vLLM, LMDeploy, OpenRLHF and slime.

use polar_raw::serve::{Compat, Options};
use serde_json::{Value, json};

use super::client::{get, post};
use super::fixture::{Row, Running, near, options, rows, scores};

fn check(found: &[&Value], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let found = found.as_f64().unwrap_or_else(|| panic!("{index}: {found} is not a number"));
        assert!(near(found, *wanted), "{index}: {found} instead of {wanted}");
    }
}

fn encoded(rows: &[Row]) -> Vec<String> {
    rows.iter().map(Row::encoded).collect()
}

fn entries(reply: &Value) -> &Vec<Value> {
    reply.as_array().unwrap_or_else(|| panic!("{reply}"))
}

#[test]
fn sglang() {
    let server = Running::new(options());
    // Sixty-odd rows are several passes.
    let rows = rows(1, 67);
    let wanted = scores(&rows);
    for path in ["/classify", "/sglang/classify"] {
        let reply = post(server.address, path, &json!({"model": "any", "text": encoded(&rows)})).json();
        check(&entries(&reply).iter().map(|entry| &entry["embedding"][0]).collect::<Vec<_>>(), &wanted);
        let reply = post(server.address, path, &json!({"text": rows[0].encoded()})).json();
        check(&[&reply["embedding"][0]], &wanted[..1]);
        assert_eq!(reply["meta_info"]["prompt_tokens"], rows[0].ids().len());
        let reply = post(server.address, path, &json!({"text": [rows[0].encoded()]})).json();
        check(&[&reply[0]["embedding"][0]], &wanted[..1]);
        let ids: Vec<_> = rows.iter().map(Row::ids).collect();
        let reply = post(server.address, path, &json!({"input_ids": ids})).json();
        check(&entries(&reply).iter().map(|entry| &entry["embedding"][0]).collect::<Vec<_>>(), &wanted);
        let reply = post(server.address, path, &json!({"input_ids": ids[1]})).json();
        check(&[&reply["embedding"][0]], &wanted[1..2]);
    }
}

#[test]
fn vllm() {
    let server = Running::new(options());
    let rows = rows(2, 9);
    let wanted = scores(&rows);
    let ids: Vec<_> = rows.iter().map(Row::ids).collect();
    for path in ["/pooling", "/vllm/pooling"] {
        for input in [json!(encoded(&rows)), json!(ids)] {
            let reply = post(server.address, path, &json!({"input": input})).json();
            // What the official client reads.
            let last = |entry| entries(&Value::clone(entry)["data"]).last().unwrap()[0].clone();
            let found: Vec<Value> = entries(&reply["data"]).iter().map(last).collect();
            check(&found.iter().collect::<Vec<_>>(), &wanted);
            assert_eq!(reply["object"], "list");
            assert_eq!(reply["model"], "small");
            let tokens: usize = ids.iter().map(Vec::len).sum();
            assert_eq!(reply["usage"]["prompt_tokens"], tokens);
        }
        for input in [json!(rows[0].encoded()), json!(ids[0])] {
            let reply = post(server.address, path, &json!({"input": input, "encoding_format": "float"})).json();
            check(&[&reply["data"][0]["data"][0][0]], &wanted[..1]);
        }
    }
    for path in ["/classify", "/vllm/classify"] {
        let reply = post(server.address, path, &json!({"model": "small", "input": encoded(&rows)})).json();
        check(&entries(&reply["data"]).iter().map(|entry| &entry["probs"][0]).collect::<Vec<_>>(), &wanted);
    }
}

#[test]
fn lmdeploy() {
    let server = Running::new(Options { compat: Compat::Lmdeploy, ..options() });
    let rows = rows(3, 9);
    let wanted = scores(&rows);
    let ids: Vec<_> = rows.iter().map(Row::ids).collect();
    for path in ["/pooling", "/lmdeploy/pooling"] {
        for input in [json!(encoded(&rows)), json!(ids)] {
            let reply = post(server.address, path, &json!({"input": input})).json();
            check(&entries(&reply["data"]).iter().map(|entry| &entry["data"]).collect::<Vec<_>>(), &wanted);
        }
        let reply = post(server.address, path, &json!({"input": ids[0]})).json();
        check(&[&reply["data"][0]["data"]], &wanted[..1]);
    }
    let reply = post(server.address, "/vllm/pooling", &json!({"input": ids[0]})).json();
    check(&[&reply["data"][0]["data"][0][0]], &wanted[..1]);
}

#[test]
fn a_bare_pooling_of_sglang_says_what_to_do() {
    let server = Running::new(Options { compat: Compat::Sglang, ..options() });
    let answer = post(server.address, "/pooling", &json!({"input": rows(1, 1)[0].encoded()}));
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("/lmdeploy/pooling"), "{answer:?}");
}

#[test]
fn openrlhf() {
    let server = Running::new(options());
    let rows = rows(4, 5);
    let wanted = scores(&rows);
    let queries: Vec<_> = rows.iter().map(|row| format!("<s>{}{}</s>", row.prompt, row.output)).collect();
    let prompts: Vec<_> = rows.iter().map(|row| &row.prompt).collect();
    let labels: Vec<_> = rows.iter().map(|row| &row.reference).collect();
    let body = json!({"query": queries, "prompts": prompts, "labels": labels});
    let reply = post(server.address, "/get_reward", &body).json();
    check(&entries(&reply["rewards"]).iter().collect::<Vec<_>>(), &wanted);
    check(&entries(&reply["scores"]).iter().collect::<Vec<_>>(), &wanted);
    assert_eq!(reply["extra_logs"], json!({}));

    let answer = post(server.address, "/get_reward", &json!({"query": queries, "prompts": prompts, "labels": ["a"]}));
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("there are 5, 5 and 1"), "{answer:?}");
    let answer = post(server.address, "/get_reward", &json!({"query": ["ab"], "prompts": ["c"], "labels": ["a"]}));
    assert!(answer.status == 400 && answer.error().contains("query[0]"), "{answer:?}");
    let answer = post(server.address, "/get_reward", &json!({"query": ["ab"], "prompts": ["a"], "labels": [null]}));
    assert!(answer.status == 400 && answer.error().contains("labels[0]"), "{answer:?}");
}

#[test]
fn slime() {
    let server = Running::new(options());
    for (row, wanted) in rows(5, 3).iter().zip(scores(&rows(5, 3))) {
        let body = json!({"prompt": row.prompt, "response": row.output, "label": row.reference});
        check(&[&post(server.address, "/reward", &body).json()], &[wanted]);
        let messages = json!([{"role": "user", "content": row.prompt}]);
        let body = json!({"prompt": messages, "response": row.output, "label": row.reference});
        check(&[&post(server.address, "/reward", &body).json()], &[wanted]);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let server = Running::new(Options { max_body: 4 << 20, ..options() });
    let good = rows(6, 1)[0].clone();
    let long = "x".repeat(2000);
    let ids = good.ids();
    let mut foreign = ids.clone();
    foreign[2] = 100_000;
    let cases = [
        ("/classify", json!({}), "nothing to score"),
        ("/classify", json!({"text": [good.encoded(), "no special tokens"]}), "text[1]: the string does not end with"),
        ("/classify", json!({"text": good.encoded() + "x"}), "text: the string does not end with"),
        ("/classify", json!({"text": "a[UNUSED_TOKEN_130]"}), "text: the string has no separator"),
        ("/classify", json!({"text": "<|reward|>".repeat(2) + "[UNUSED_TOKEN_130]"}), "has 2 separators"),
        ("/classify", json!({"text": [1, 2]}), "ids go under input_ids"),
        ("/classify", json!({"text": "a", "input": "b"}), "one of the keys"),
        ("/classify", json!({"text": []}), "text: an empty list"),
        ("/classify", json!({"text": ["a", 3]}), "text[1]: "),
        ("/classify", json!({"input_ids": [ids, foreign]}), "input_ids[1][2]: 100000 is not a token id"),
        ("/classify", json!({"input_ids": [ids, ids[..5]]}), "input_ids[1]: the sequence does not end"),
        ("/classify", json!({"input_ids": [[]]}), "input_ids[0]: the sequence does not end"),
        ("/pooling", json!({"text": "a"}), "missing field `input`"),
        ("/pooling", json!({"input": good.encoded(), "encoding_format": "base64"}), "encoding_format"),
        ("/pooling", json!({"input": good.encoded().replace("\n", &long)}), "input: the sequence has "),
        ("/classify", json!({"text": good.encoded().replace("\n", &"x".repeat(600_000))}), "text: a text of "),
        ("/reward", json!({"prompt": "a", "response": "b"}), "missing field `label`"),
        ("/reward", json!(["a", "b", "c"]), "invalid type: sequence, expected an object"),
        ("/reward", json!({"prompt": [["a"]], "response": "b", "label": "c"}), "prompt[0]: invalid type: sequence"),
        ("/classify", json!([good.encoded(), null, null]), "invalid type: sequence, expected an object"),
        (
            "/reward",
            json!({"prompt": [{"role": "user"}], "response": "b", "label": "c"}),
            "prompt[0]: missing field `content`",
        ),
    ];
    for (path, body, part) in cases {
        let answer = post(server.address, path, &body);
        assert_eq!(answer.status, 400, "{path} {body}: {answer:?}");
        let message = answer.error();
        assert!(message.contains(part), "{path} {body}: {message}");
    }
    for (path, status) in [("/nothing", 404), ("/classify", 405), ("/v1", 404)] {
        let answer = get(server.address, path);
        assert_eq!(answer.status, status);
        answer.error();
    }
    assert_eq!(post(server.address, "/health", &json!({})).status, 405);
}
