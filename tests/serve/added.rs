//! SGLang's questions about the server, pages of other origins, and normalised answers.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use polar_raw::Error;
use polar_raw::serve::{Normalisation, Options};
use serde_json::{Value, json};

use super::client::{Answer, get, post, send};
use super::fixture::{Row, Running, direct, near, options, rows, scores, tokenizer};

#[test]
fn sglang_is_told_about_the_model_and_that_the_engine_computes() {
    let server = Running::new(options());
    let info = get(server.address, "/get_model_info").json();
    assert_eq!((&info["model_path"], &info["is_generation"]), (&json!("small"), &json!(false)));
    assert_eq!(info["weight_version"], get(server.address, "/v1/models").json()["data"][0]["weights_blake3"]);
    let passes = |metrics: Answer| metrics.body.lines().find(|l| l.contains("batch_tokens_count")).unwrap().to_owned();
    let before = passes(get(server.address, "/metrics"));
    for _ in 0..2 {
        assert_eq!(get(server.address, "/health_generate").status, 200);
        assert_ne!(passes(get(server.address, "/metrics")), before, "nothing was computed");
    }
}

#[test]
fn an_engine_that_does_not_compute_is_noticed() {
    let server = Running::with(options(), || Box::new(|_| Err(Error::machine("no power"))));
    assert_eq!(get(server.address, "/ready").status, 200);
    let answer = get(server.address, "/health_generate");
    assert!(answer.status == 503 && answer.error().contains("no power"), "{answer:?}");
    assert_eq!(get(server.address, "/ready").status, 503);
}

#[test]
fn pages_of_origins_that_are_allowed_may_ask() {
    const ALLOWED: &str = "access-control-allow-origin";
    let page = "http://page.test:3000";
    let options = Options { cors: vec![page.into()], api_key: Some("secret".into()), ..options() };
    let server = Running::new(options.clone());
    let body = json!({"text": rows(81, 1)[0].encoded()}).to_string();
    let ask = |method: &str, headers: &[&str]| send(server.address, method, "/classify", headers, body.as_bytes());
    let origin = format!("origin: {page}");
    let preflight = ask("OPTIONS", &[&origin, "access-control-request-method: POST"]);
    assert_eq!((preflight.status, preflight.header(ALLOWED)), (204, Some(page)), "{preflight:?}");
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("POST"));
    let answer = ask("POST", &[&origin, "authorization: Bearer secret"]);
    assert_eq!((answer.status, answer.header(ALLOWED), answer.header("vary")), (200, Some(page), Some("origin")));
    let answer = ask("POST", &[&origin]);
    assert_eq!((answer.status, answer.header(ALLOWED)), (401, Some(page)), "a page learns why");
    let other = ["origin: http://other.test", "access-control-request-method: POST"];
    let answer = ask("OPTIONS", &other);
    assert_eq!((answer.status, answer.header(ALLOWED)), (401, None), "{answer:?}");

    let any = Running::new(Options { cors: vec!["*".into()], ..options });
    assert_eq!(send(any.address, "OPTIONS", "/classify", &other, b"").header(ALLOWED), Some("*"));
    let none = Running::new(super::fixture::options());
    let answer = send(none.address, "OPTIONS", "/classify", &[&origin, other[1]], b"");
    assert_eq!((answer.status, answer.header(ALLOWED)), (405, None), "off unless asked for");
}

/// What every form of bare numbers answers for rows.
fn forms(server: &Running, rows: &[Row]) -> Vec<Vec<f64>> {
    let encoded: Vec<_> = rows.iter().map(Row::encoded).collect();
    let list =
        |value: &Value, of: &dyn Fn(&Value) -> f64| value.as_array().unwrap().iter().map(of).collect::<Vec<f64>>();
    let ask = |path: &str, body: Value| {
        let answer = post(server.address, path, &body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    };
    let number = |value: &Value| value.as_f64().unwrap();
    let queries: Vec<_> = rows.iter().map(|row| format!("{}{}", row.prompt, row.output)).collect();
    let [prompts, labels] = [|row: &Row| row.prompt.clone(), |row: &Row| row.reference.clone()]
        .map(|of: fn(&Row) -> String| rows.iter().map(of).collect::<Vec<_>>());
    vec![
        list(&ask("/classify", json!({"text": encoded})), &|entry| number(&entry["embedding"][0])),
        list(&ask("/vllm/classify", json!({"input": encoded}))["data"], &|entry| number(&entry["probs"][0])),
        list(&ask("/pooling", json!({"input": encoded}))["data"], &|entry| number(&entry["data"][0][0])),
        list(&ask("/lmdeploy/pooling", json!({"input": encoded}))["data"], &|entry| number(&entry["data"])),
        list(&ask("/get_reward", json!({"query": queries, "prompts": prompts, "labels": labels}))["rewards"], &number),
    ]
}

#[test]
fn bare_numbers_are_normalised_as_the_server_was_started() {
    // Two prompts with four candidates each, in turn.
    let all = rows(82, 8);
    let rows: Vec<Row> = (0..8).map(|i| Row { output: all[i].output.clone(), ..all[i % 2].clone() }).collect();
    let raw = scores(&rows);
    let of = |start: usize| raw.iter().skip(start).step_by(2).copied().collect::<Vec<f32>>();
    let by_group = |of_group: &dyn Fn(usize, &[f32]) -> Vec<f32>| {
        let [even, odd] = [0, 1].map(|start| of_group(start, &of(start)));
        (0..8).map(|i| if i % 2 == 0 { even[i / 2] } else { odd[i / 2] }).collect::<Vec<f32>>()
    };
    let reference = |start: usize| {
        let row = &rows[start];
        scores(&[Row { output: row.reference.clone(), ..row.clone() }])[0]
    };
    for (normalise, wanted) in [
        (Normalisation::Raw, raw.clone()),
        (Normalisation::ZScore, by_group(&|_, scores| polar_raw::eval::normalise::z_scores(scores))),
        (Normalisation::Rank, by_group(&|_, scores| polar_raw::eval::normalise::ranks(scores))),
        (
            Normalisation::Reference,
            by_group(&|start, scores| scores.iter().map(|score| score - reference(start)).collect()),
        ),
        // All scores so far are these eight, as often as they were asked for.
        (Normalisation::Running, polar_raw::eval::normalise::z_scores(&raw)),
    ] {
        let server = Running::new(Options { normalise, ..options() });
        for found in forms(&server, &rows) {
            let right = found.len() == wanted.len()
                && found
                    .iter()
                    .zip(&wanted)
                    .all(|(found, wanted)| abs_diff_eq!(*found, f64::from(*wanted), epsilon = 1e-3));
            assert!(right, "{normalise:?}: {found:?} instead of {wanted:?}");
        }
    }
}

#[test]
fn a_sequence_without_a_reference_is_refused_where_one_is_needed() {
    let server = Running::new(Options { normalise: Normalisation::Reference, ..options() });
    let score = tokenizer().specials().score;
    let answer = post(server.address, "/classify", &json!({"input_ids": [9, 9, score]}));
    assert!(answer.status == 400 && answer.error().contains("no separator"), "{answer:?}");
}

#[test]
fn running_is_over_all_scores_that_were_given() {
    let server = Running::new(options());
    let rows = rows(83, 6);
    let raw = direct(&rows.iter().map(Row::ids).collect::<Vec<_>>());
    let encoded: Vec<_> = rows.iter().map(Row::encoded).collect();
    assert_eq!(post(server.address, "/classify", &json!({"text": encoded})).status, 200);
    let row = &rows[0];
    let body = json!({
        "prompt": row.prompt, "reference": row.reference, "candidates": [row.output], "normalise": "running",
    });
    let entry = post(server.address, "/v1/score", &body).json()["data"][0].clone();
    assert!(near(entry["score"].as_f64().unwrap(), raw[0]), "the raw score is there too: {entry}");
    let so_far: Vec<f32> = raw.iter().chain(&raw[..1]).copied().collect();
    let wanted = polar_raw::eval::normalise::z_scores(&so_far)[0];
    assert!(abs_diff_eq!(entry["normalised"].as_f64().unwrap(), f64::from(wanted), epsilon = 1e-3), "{entry} {wanted}");
    let metrics = get(server.address, "/metrics").body;
    let metric = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{metrics}")).parse::<f64>().unwrap()
    };
    let mean = so_far.iter().map(|score| f64::from(*score)).sum::<f64>() / 7.0;
    assert_eq!(metric("polar_raw_scores"), 7.0);
    assert_abs_diff_eq!(metric("polar_raw_score_mean"), mean, epsilon = 1e-4);
    assert!(metric("polar_raw_score_deviation") > 0.0);
}
