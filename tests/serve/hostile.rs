//! Requests that are wrong, too large, too slow or nobody's.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use polar_raw::Error;
use polar_raw::serve::Options;
use proptest::prelude::*;
use serde_json::json;

use super::client::{Answer, connect, get, post, read, send};
use super::fixture::{Running, options, rows};

/// Everything is well: a good request is answered.
fn still_answers(address: SocketAddr) {
    let answer = post(address, "/classify", &json!({"text": rows(21, 1)[0].encoded()}));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn raw(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    read(&mut stream)
}

#[test]
fn bodies_that_are_too_large_are_refused() {
    let server = Running::new(options());
    let most = options().max_body;
    let large = vec![b' '; most + 1];
    let answer = send(server.address, "POST", "/classify", &[], &large);
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.error().contains("more than 1048576 bytes"));

    // Without an announced length.
    let chunk = [format!("{:x}\r\n", large.len()).as_bytes(), &large, b"\r\n0\r\n\r\n"].concat();
    let head = b"POST /classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = raw(server.address, &[head, &chunk[..]].concat()).unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");

    // A body of just the size that is allowed is looked at.
    let mut largest = json!({"text": rows(21, 1)[0].encoded()}).to_string().into_bytes();
    largest.resize(most, b' ');
    assert_eq!(send(server.address, "POST", "/classify", &[], &largest).status, 200);

    // One that is announced and never comes.
    let head =
        "POST /classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 99999999999999999999\r\n\r\n";
    assert_ne!(raw(server.address, head.as_bytes()).unwrap().status / 100, 2);
    still_answers(server.address);
}

#[test]
fn slow_requests_are_ended() {
    let server = Running::new(Options { idle: Duration::from_secs(1), ..options() });
    let begun = Instant::now();
    let answer =
        raw(server.address, b"POST /classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\n{");
    let answer = answer.unwrap();
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.error().contains("in time"));
    // Half a head, and none at all: nobody is owed an answer.
    for head in [&b"POST /classify HTTP/1.1\r\nho"[..], b""] {
        let answer = raw(server.address, head);
        assert!(answer.is_none_or(|answer| answer.status == 408));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    still_answers(server.address);
}

#[test]
fn a_client_that_does_not_read_its_answers_is_let_go() {
    let server = Running::new(Options { idle: Duration::from_secs(1), ..options() });
    let body = json!({"prompt": "p", "reference": "r", "candidates": vec!["c"; 1 << 16]}).to_string();
    let request = format!("POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = connect(server.address);
    stream.set_write_timeout(Some(Duration::from_secs(40))).unwrap();
    // Megabytes of answers fill what the system holds for both, and then the server waits, and does not read either.
    let error = loop {
        if let Err(error) = stream.write_all(request.as_bytes()) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    still_answers(server.address);
}

#[test]
fn the_memory_of_all_bodies_together_is_bounded() {
    let server = Running::new(Options { idle: Duration::from_secs(60), ..options() });
    let address = server.address;
    let part = vec![b' '; options().max_body - 1];
    let head = format!(
        "POST /classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        part.len() + 1
    );
    // Nobody says when the server has read a body of which the last byte is missing, so it gets longer and longer.
    for attempt in 0.. {
        let stalled: Vec<_> = (0..4)
            .map(|_| {
                let mut stream = connect(address);
                stream.write_all(head.as_bytes()).unwrap();
                let _ = stream.write_all(&part);
                stream
            })
            .collect();
        thread::sleep(Duration::from_millis(100 << attempt));
        let answer = raw(address, &[head.as_bytes(), &part, b" "].concat()).unwrap();
        drop(stalled);
        if answer.status == 429 {
            assert!(answer.error().contains("memory"), "{answer:?}");
            break;
        }
        assert!(attempt < 7, "five bodies at once, and none is refused: {answer:?}");
    }
    let begun = Instant::now();
    let body = json!({"text": rows(21, 1)[0].encoded()});
    while post(address, "/classify", &body).status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the memory is not given back");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A request whose sequences are many times larger than its body: each candidate has the prompt beside it.
fn swollen(candidates: usize) -> serde_json::Value {
    json!({"prompt": "p".repeat(2000), "reference": "r", "candidates": vec!["c"; candidates]})
}

#[test]
fn the_sequences_of_a_request_are_bounded() {
    let server = Running::new(options());
    let answer = post(server.address, "/v1/score", &swollen(1 << 16));
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.error().contains("more than 16777216 tokens"), "{answer:?}");
    still_answers(server.address);
}

#[test]
fn the_sequences_of_all_requests_together_are_bounded() {
    let (open, gate) = mpsc::channel::<()>();
    let server = Running::with(options(), move || {
        Box::new(move |groups| {
            let _ = gate.recv();
            Err(Error::machine(format!("{} groups are too many", groups.len())))
        })
    });
    let address = server.address;
    // Sequences of 600 tokens: four requests fit, of which none is too large by itself.
    let body = swollen(27_000);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let body = body.clone();
            thread::spawn(move || post(address, "/v1/score", &body).status)
        })
        .collect();
    let begun = Instant::now();
    while !get(address, "/metrics").body.contains("polar_raw_sequences_total 108000\n") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the requests do not wait");
        thread::sleep(Duration::from_millis(10));
    }
    let answer = post(address, "/v1/score", &body);
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.error().contains("the sequences of other requests"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(open);
    waiting.into_iter().for_each(|status| assert_eq!(status.join().unwrap(), 503));
}

#[test]
fn a_key_is_asked_for() {
    let server = Running::new(Options { api_key: Some("secret".into()), ..options() });
    let body = json!({"text": rows(21, 1)[0].encoded()}).to_string();
    let ask = |headers: &[&str]| send(server.address, "POST", "/classify", headers, body.as_bytes());
    for headers in [
        &[][..],
        &["authorization: Bearer secre"],
        &["authorization: Bearer secrets"],
        &["authorization: Bearer"],
        &["authorization: Basic secret"],
        &["authorization: secret"],
        &["x-api-key: secret"],
    ] {
        let answer = ask(headers);
        assert_eq!(answer.status, 401, "{headers:?}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        answer.error();
    }
    assert_eq!(ask(&["authorization: Bearer secret"]).status, 200);
    assert_eq!(ask(&["Authorization: bearer secret"]).status, 200);
    for (path, status) in
        [("/health", 200), ("/ready", 200), ("/metrics", 401), ("/v1/models", 401), ("/openapi.json", 401), ("/x", 401)]
    {
        assert_eq!(get(server.address, path).status, status, "{path}");
    }
}

#[test]
fn more_sequences_than_allowed_are_refused() {
    let server = Running::new(options());
    let texts = vec!["a"; (1 << 16) + 1];
    let answer = post(server.address, "/classify", &json!({"text": texts}));
    assert!(answer.status == 400 && answer.error().contains("more than 65536 sequences"), "{answer:?}");
    let sequences = vec![[4]; (1 << 16) + 1];
    let answer = post(server.address, "/pooling", &json!({"input": sequences}));
    assert!(answer.status == 400 && answer.error().contains("more than 65536 sequences"), "{answer:?}");
}

#[test]
fn metrics_count() {
    let server = Running::new(options());
    still_answers(server.address);
    still_answers(server.address);
    get(server.address, "/nothing/of/the/kind");
    let answer = get(server.address, "/metrics");
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = answer.body;
    let tokens = rows(21, 1)[0].ids().len();
    for line in [
        "polar_raw_requests_total{path=\"/classify\",status=\"200\"} 2".to_string(),
        "polar_raw_requests_total{path=\"other\",status=\"404\"} 1".to_string(),
        "polar_raw_request_seconds_count{path=\"/classify\"} 2".to_string(),
        "polar_raw_cache_hits_total 1".to_string(),
        "polar_raw_sequences_total 2".to_string(),
        "polar_raw_queue_depth 0".to_string(),
        "polar_raw_batch_tokens_count 1".to_string(),
        format!("polar_raw_tokens_total {}", 2 * tokens),
        format!("polar_raw_computed_tokens_total {tokens}"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

/// Pieces of requests, right and wrong.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "{",
        "}",
        "[",
        "]",
        "\"text\"",
        "\"input\"",
        "\"input_ids\"",
        ":",
        ",",
        "1",
        "-1",
        "1e999",
        "null",
        "true",
        "\"a<|reward|>b[UNUSED_TOKEN_130]\"",
        "\"\\ud800\"",
        "\"\\u0000\"",
        "99999999999",
        "NaN",
        " ",
    ];
    let piece = prop_oneof![
        4 => prop::sample::select(texts.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// What begins like a request, or does not.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let lines = [
        "GET / HTTP/1.1",
        "POST /classify HTTP/1.1",
        "host: x",
        "content-length: 5",
        "content-length: -1",
        "transfer-encoding: chunked",
        "transfer-encoding: gzip",
        "expect: 100-continue",
        ": ",
        "connection: close",
        "",
    ];
    let line = prop_oneof![
        5 => prop::sample::select(lines.to_vec()).prop_map(|line| line.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join(&b"\r\n"[..]))
}

#[test]
fn any_bytes_are_answered_or_refused() {
    let server = Running::new(options());
    let address = server.address;
    proptest!(ProptestConfig::with_cases(300), |(body in pieces(), path in prop::sample::select(vec!["/classify", "/pooling", "/v1/score", "/reward", "/get_reward"]))| {
        let answer = send(address, "POST", path, &[], &body);
        prop_assert!(answer.status == 400 || answer.status == 200, "{:?}", answer);
        if answer.status == 200 {
            let json: serde_json::Value = serde_json::from_slice(&body).expect("only JSON is answered");
            prop_assert!(json.is_object());
        }
    });
    proptest!(ProptestConfig::with_cases(40), |(head in heads())| {
        let mut stream = connect(address);
        stream.write_all(&head).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        prop_assert!(!text.contains("200 OK"), "{}", text);
    });
    // Brackets without end must not use up the stack.
    let deep = [br#"{"text":"#.to_vec(), vec![b'['; 1 << 19]].concat();
    assert_eq!(send(address, "POST", "/classify", &[], &deep).status, 400);
    still_answers(address);
}
