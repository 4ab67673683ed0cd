//! Starting and ending.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use polar_raw::serve::Score;
use serde_json::json;

use super::client::{get, post, send};
use super::fixture::{Row, Running, options, rows, scorer};
use super::program::{Program, refused};

#[test]
fn what_is_in_flight_is_answered_and_others_are_told() {
    let (open, gate) = mpsc::channel::<()>();
    let (begun, beginning) = mpsc::channel();
    let mut server = Running::with(options(), move || {
        let mut scorer = scorer();
        let score: Score = Box::new(move |groups| {
            begun.send(()).unwrap();
            let _ = gate.recv();
            scorer(groups)
        });
        score
    });
    let address = server.address;
    let body = json!({"text": rows(41, 3).iter().map(Row::encoded).collect::<Vec<_>>()});
    let late = body.clone();
    let asked = thread::spawn(move || post(address, "/classify", &body));
    beginning.recv().unwrap();
    server.tell_to_stop();
    while get(address, "/ready").status == 200 {
        thread::sleep(Duration::from_millis(2));
    }
    let ready = get(address, "/ready");
    assert!(ready.status == 503 && ready.error().contains("stopping"), "{ready:?}");
    let late = post(address, "/classify", &late);
    assert!(late.status == 503 && late.error().contains("stopping"), "{late:?}");
    assert_eq!(get(address, "/health").status, 200);
    drop(open);
    let answer = asked.join().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json().as_array().unwrap().len(), 3);
    server.outcome().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_model_that_is_being_loaded_is_not_waited_for() {
    let (open, gate) = mpsc::channel::<()>();
    let (begun, beginning) = mpsc::channel();
    let mut server = Running::loading(options(), move || {
        begun.send(()).unwrap();
        let _ = gate.recv_timeout(Duration::from_secs(60));
        Err(polar_raw::Error::user("the model was waited for"))
    });
    beginning.recv().unwrap();
    let stopped = Instant::now();
    server.tell_to_stop();
    server.outcome().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(30), "{:?}", stopped.elapsed());
    drop(open);
}

/// A request that takes a while for every thousand rows: no two of them have anything in common.
fn long(rows: usize) -> serde_json::Value {
    let row = |i: usize| Row {
        prompt: format!("{i} {}", "prompt ".repeat(20)),
        reference: format!("{i} {}", "reference ".repeat(8)),
        output: format!("{i} {}", "candidate ".repeat(8)),
    };
    json!({"text": (0..rows).map(|i| row(i).encoded()).collect::<Vec<_>>()})
}

#[test]
fn a_signal_lets_requests_end_and_the_program_succeed() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
        let program = Program::start(&["--access-log"]);
        let address = program.address;
        let asked = thread::spawn(move || post(address, "/classify", &long(800)));
        while !get(address, "/metrics").body.contains("polar_raw_queue_depth 1") {
            assert!(!asked.is_finished(), "the request is too short for this test");
        }
        program.signal(signal);
        let answer = asked.join().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json().as_array().unwrap().len(), 800);
        let (status, log) = program.end();
        assert!(status.success(), "{status}: {log}");
        assert!(log.contains("POST /classify 200"), "{log}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let program = Program::start(&["--cache", "0", "--pack-length", "512"]);
    let address = program.address;
    let asked = thread::spawn(move || std::panic::catch_unwind(|| post(address, "/classify", &long(6000))).is_err());
    while !get(address, "/metrics").body.contains("polar_raw_queue_depth 1") {
        assert!(!asked.is_finished(), "the request is too short for this test");
    }
    let begun = Instant::now();
    program.signal(libc::SIGTERM);
    while get(address, "/ready").status == 200 {
        thread::sleep(Duration::from_millis(2));
    }
    program.signal(libc::SIGTERM);
    let (status, _) = program.end();
    assert_eq!(status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(asked.join().unwrap(), "the request was given up");
}

#[test]
fn what_is_given_wrongly_is_named() {
    let folder = tempfile::tempdir().unwrap();
    super::fixture::save(folder.path());
    let dir = folder.path().to_str().unwrap();
    let empty = folder.path().join("key");
    std::fs::write(&empty, "\n").unwrap();
    for (args, part) in [
        (&["--model", "/nothing/here"][..], "/nothing/here"),
        (&["--model", dir, "--api-key-file", empty.to_str().unwrap()], "a key is one line"),
        (&["--model", dir, "--api-key-env", "POLAR_RAW_TEST_NO_SUCH_KEY"], "POLAR_RAW_TEST_NO_SUCH_KEY"),
        (&["--model", dir, "--max-length", "5000"], "max_position_embeddings = 1024"),
        (&["--model", dir, "--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
    ] {
        let (code, log) = refused(args);
        assert_eq!(code, Some(2), "{args:?}: {log}");
        assert!(log.contains(part), "{args:?}: {log}");
    }
}

#[test]
fn a_key_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "a-key\n").unwrap();
    let program = Program::start(&["--api-key-file", file.to_str().unwrap(), "--served-model-name", "named"]);
    assert_eq!(get(program.address, "/v1/models").status, 401);
    let models = send(program.address, "GET", "/v1/models", &["authorization: Bearer a-key"], b"").json();
    assert_eq!(models["data"][0]["id"], "named");
    assert_eq!(models["data"][0]["max_model_len"], 637);
    assert_eq!(models["data"][0]["weights_blake3"].as_str().unwrap().len(), 64);
}
