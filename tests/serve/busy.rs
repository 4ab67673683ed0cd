//! Bodies of the size that is allowed, made to take long: others are answered meanwhile, and the work ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use polar_raw::serve::Options;
use serde_json::{Value, json};

use super::client::{get, post, send};
use super::fixture::{Running, options, rows};

/// The size that is allowed where nobody says, in bytes.
const MOST: usize = 64 << 20;
/// The longest that a good request may take meanwhile.
const SOON: Duration = Duration::from_secs(1);

/// A text of about `bytes` bytes.
fn long(piece: &str, bytes: usize) -> String {
    piece.repeat(bytes / piece.len())
}

/// The longest text that is read, in bytes.
const TEXT: usize = 1 << 20;
/// Sequences of a request, at most.
const SEQUENCES: usize = 1 << 16;

/// Makes a body and says where it is sent.
type Body = Box<dyn Fn() -> (&'static str, Value) + Send + Sync>;

/// Bodies that are about as large as is allowed, for every endpoint that scores. Each is made when it is sent.
fn large() -> Vec<Body> {
    let some = MOST - 4096;
    // Some pieces take more bytes in JSON, and the keys and commas take some.
    let texts = some / TEXT - 2;
    let mut all: Vec<Body> = Vec::new();
    for piece in ["<a>", " ", "x", "e\u{301}\u{323}", "<pad>", "\u{3000}"] {
        let query = move || {
            // The prompt is compared at each of many tokens, and stands after none of them.
            let (query, prompt) = (long(piece, TEXT), long(piece, TEXT / 2) + "#");
            let count = texts * 2 / 3;
            (
                "/get_reward",
                json!({"query": vec![query; count], "prompts": vec![prompt; count], "labels": vec!["4"; count]}),
            )
        };
        let classify = move || {
            let encoded = long(piece, TEXT - 64) + "<|reward|>y[UNUSED_TOKEN_130]";
            ("/classify", json!({"text": vec![encoded; texts]}))
        };
        all.push(Box::new(query));
        all.push(Box::new(classify));
    }
    let piece = "<a>";
    all.push(Box::new(move || {
        (
            "/reward",
            json!({"prompt": long(piece, TEXT), "response": long(piece, TEXT), "label": long(piece, some - 3 * TEXT)}),
        )
    }));
    all.push(Box::new(move || {
        ("/pooling", json!({"input": long(piece, some - TEXT) + "<|reward|>y[UNUSED_TOKEN_130]"}))
    }));
    // The prompt is read once, and each candidate is cut.
    all.push(Box::new(move || {
        let candidates = vec![long(piece, some / SEQUENCES - 24); SEQUENCES - 1];
        ("/v1/score", json!({"prompt": long(piece, TEXT), "reference": "r", "candidates": candidates, "max_length": 8}))
    }));
    // Nothing is cut of a prompt for which the responses leave no room.
    all.push(Box::new(move || {
        let lengths: Vec<String> = (0..300).map(|length| "c".repeat(length)).collect();
        let (prompt, reference) = ("p".repeat(TEXT), "r".repeat(TEXT));
        let lengths = json!({
            "prompt": prompt, "reference": reference, "candidates": lengths, "max_length": 600, "max_response_length": 599,
        });
        ("/v1/score", lengths)
    }));
    all.push(Box::new(|| ("/pooling", json!({"input": vec![[7]; SEQUENCES - 1]}))));
    all.push(Box::new(move || ("/lmdeploy/pooling", json!({"input": vec![7; some / 4]}))));
    all
}

fn one_good_request(address: SocketAddr) -> Duration {
    let begun = Instant::now();
    let answer = post(address, "/classify", &json!({"text": rows(61, 1)[0].encoded()}));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(get(address, "/health").status, 200);
    begun.elapsed()
}

#[test]
fn large_bodies_take_no_longer_than_their_size_and_nobody_waits_for_them() {
    let server = Running::new(Options { max_body: MOST, ..options() });
    let address = server.address;
    let done = AtomicBool::new(false);
    one_good_request(address);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut all = Vec::new();
            while !done.load(Ordering::Relaxed) {
                all.push(one_good_request(address));
                thread::sleep(Duration::from_millis(20));
            }
            all.sort_unstable();
            all
        });
        let bodies = large();
        let slowest = bodies.chunks(4).fold(Duration::ZERO, |slowest, some| {
            let took = thread::scope(|scope| {
                let sent: Vec<_> = some
                    .iter()
                    .map(|make| {
                        scope.spawn(move || {
                            let (path, body) = make();
                            let body = body.to_string();
                            assert!(body.len() <= MOST, "{path}: {} bytes", body.len());
                            let begun = Instant::now();
                            let answer = send(address, "POST", path, &[], body.as_bytes());
                            assert!([200, 400, 413, 429].contains(&answer.status), "{path}: {answer:?}");
                            begun.elapsed()
                        })
                    })
                    .collect();
                sent.into_iter().map(|sent| sent.join().unwrap()).max().unwrap_or_default()
            });
            slowest.max(took)
        });
        done.store(true, Ordering::Relaxed);
        // Other programs have the machine too: one of twenty may be late.
        let all = asking.join().unwrap();
        let late = all[(all.len() - 1) * 19 / 20];
        assert!(late < SOON, "one of twenty good requests took {late:?} and more, {:?} at most", all.last());
        assert!(slowest < Duration::from_secs(20), "a large one took {slowest:?}");
    });
}
