//! What HTTP leaves open, and keys and bytes that an endpoint does not read.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use polar_raw::serve::Options;
use serde_json::{Value, json};

use super::client::{Answer, connect, get, post, read, send};
use super::fixture::{Running, options, rows};

/// A good body for every endpoint that scores.
fn bodies() -> Vec<(&'static str, Value)> {
    let encoded = rows(71, 1)[0].encoded();
    vec![
        ("/v1/score", json!({"prompt": "p", "reference": "r", "candidates": ["c"]})),
        ("/classify", json!({"text": encoded})),
        ("/sglang/classify", json!({"input_ids": rows(71, 1)[0].ids()})),
        ("/vllm/classify", json!({"input": encoded})),
        ("/pooling", json!({"input": encoded})),
        ("/vllm/pooling", json!({"input": encoded})),
        ("/lmdeploy/pooling", json!({"input": encoded})),
        ("/get_reward", json!({"query": ["pc"], "prompts": ["p"], "labels": ["r"]})),
        ("/reward", json!({"prompt": "p", "response": "c", "label": "r"})),
    ]
}

fn raw(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    read(&mut stream)
}

#[test]
fn no_key_is_dropped_that_would_change_the_answer() {
    let server = Running::new(options());
    for (path, body) in bodies() {
        let ask = |key: &str, value: Value| {
            let mut body = body.clone();
            body[key] = value;
            post(server.address, path, &body)
        };
        let plain = post(server.address, path, &body);
        assert_eq!(plain.status, 200, "{path}: {plain:?}");
        for (key, value) in [
            ("truncate_prompt_tokens", json!(5)),
            ("add_special_tokens", json!(false)),
            ("encoding_format", json!("base64")),
            ("softmax", json!(true)),
            ("activation", json!(true)),
            ("stream", json!(true)),
            ("images", json!(["a"])),
            ("lora_path", json!("a")),
            ("dimensions", json!(3)),
            ("no_such_key", json!(null)),
        ] {
            let answer = ask(key, value);
            assert_eq!(answer.status, 400, "{path} {key}: {answer:?}");
            assert!(answer.error().starts_with(&format!("{key}: ")), "{path}: {answer:?}");
        }
        if path == "/v1/score" {
            continue;
        }
        for (key, value) in [
            ("model", json!("any")),
            ("user", json!("me")),
            ("encoding_format", json!("float")),
            ("add_special_tokens", json!(true)),
            ("truncate_prompt_tokens", json!(null)),
            ("sampling_params", json!({"a": [1, {}]})),
        ] {
            assert_eq!(ask(key, value.clone()).status, 200, "{path} {key} {value}");
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused_wherever_they_are() {
    let server = Running::new(options());
    for (path, body) in bodies() {
        let whole = body.to_string();
        for (key, value) in
            [("user", &b"\"\xff\""[..]), ("model", b"[\"\xc0\x80\"]"), ("us\u{e9}r", b"{\"\xed\xa0\x80\": 1}")]
        {
            let head = [&whole.as_bytes()[..whole.len() - 1], b", \"", key.as_bytes(), b"\": ", value, b"}"].concat();
            let answer = send(server.address, "POST", path, &[], &head);
            assert_eq!(answer.status, 400, "{path} {key}: {answer:?}");
            assert!(answer.error().contains("not UTF-8 at byte"), "{path}: {answer:?}");
        }
    }
}

#[test]
fn heads_that_another_server_might_read_otherwise_are_refused() {
    let server = Running::new(options());
    let body = json!({"text": rows(71, 1)[0].encoded()}).to_string();
    let ask = |version: &str, lines: &str, body: &[u8]| {
        let head = format!("POST /classify HTTP/{version}\r\nconnection: close\r\n{lines}\r\n");
        raw(server.address, &[head.as_bytes(), body].concat())
    };
    let length = format!("content-length: {}\r\n", body.len());
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let status = |answer: Option<Answer>| answer.map(|answer| answer.status);
    assert_eq!(status(ask("1.1", &format!("host: x\r\n{length}"), body.as_bytes())), Some(200));
    assert_eq!(status(ask("1.0", &length, body.as_bytes())), Some(200), "HTTP/1.0 has no Host");
    assert_eq!(status(ask("1.1", "host: x\r\ntransfer-encoding: chunked\r\n", chunk.as_bytes())), Some(200));
    let answer = ask("1.1", &length, body.as_bytes()).unwrap();
    assert!(answer.status == 400 && answer.error().starts_with("host: "), "{answer:?}");
    assert_eq!(status(ask("1.1", &format!("host: x\r\nhost: y\r\n{length}"), body.as_bytes())), Some(400));
    for encoding in ["gzip, chunked", "gzip", "chunked, gzip", "identity"] {
        let answer = ask("1.1", &format!("host: x\r\ntransfer-encoding: {encoding}\r\n"), chunk.as_bytes());
        assert_eq!(status(answer), Some(400), "{encoding}");
    }
    let answer = ask("1.1", &format!("host: x\r\ncontent-encoding: gzip\r\n{length}"), body.as_bytes()).unwrap();
    assert!(answer.status == 415 && answer.error().contains("gzip"), "{answer:?}");
    let answer = ask("1.1", &format!("host: x\r\ncontent-encoding: identity\r\n{length}"), body.as_bytes());
    assert_eq!(status(answer), Some(200));
    // Of a head's size is what the client sends; more than 64 KiB are not read.
    for (bytes, wanted) in [(32 << 10, 200), (80 << 10, 431)] {
        let long = format!("host: x\r\nx-long: {}\r\n{length}", "a".repeat(bytes));
        assert_eq!(status(ask("1.1", &long, body.as_bytes())), Some(wanted), "{bytes}");
    }
}

#[test]
fn a_body_without_the_key_is_not_waited_for() {
    let server = Running::new(Options { api_key: Some("secret".into()), idle: Duration::from_secs(30), ..options() });
    let begun = Instant::now();
    let answer =
        raw(server.address, b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{").unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_closes_its_half_is_answered() {
    let server = Running::new(options());
    for (path, body) in bodies() {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut stream = connect(server.address);
        stream.write_all(head.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = read(&mut stream).unwrap_or_else(|| panic!("{path} is not answered"));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let mut stream = connect(server.address);
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&mut stream).unwrap().status, 200);
}

#[test]
fn an_address_with_its_share_of_connections_still_learns_how_the_server_does() {
    let server = Running::new(Options { connections: 8, idle: Duration::from_secs(60), ..options() });
    let address = server.address;
    // A place that an earlier connection still had is free once that has ended, and is taken then.
    let (begun, mut held) = (Instant::now(), Vec::new());
    let answer = loop {
        held.extend((0..40).map(|_| connect(address)));
        let answer = post(address, "/classify", &json!({"text": rows(71, 1)[0].encoded()}));
        if answer.status == 429 {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{answer:?}");
        thread::sleep(Duration::from_millis(50));
    };
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    assert!(answer.error().contains("--connections") && answer.header("retry-after") == Some("1"), "{answer:?}");
    drop(held);
    let begun = Instant::now();
    while post(address, "/classify", &json!({"text": rows(71, 1)[0].encoded()})).status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the places are not given back");
        thread::sleep(Duration::from_millis(10));
    }
}
