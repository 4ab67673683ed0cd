//! Bodies of the size that is allowed, made to take long: others are answered meanwhile, and the work ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use polar_raw::serve::Options;
use serde_json::{Value, json};

use super::client::{get, post, send};
use super::fixture::{Running, options, rows};

/// The size that is allowed, in bytes.
const MOST: usize = 4 << 20;
/// The longest that a good request may take meanwhile.
const SOON: Duration = Duration::from_secs(1);

/// A text of about `bytes` bytes.
fn long(piece: &str, bytes: usize) -> String {
    piece.repeat(bytes / piece.len())
}

/// Bodies that are as large as is allowed, for every endpoint that scores.
fn large() -> Vec<(&'static str, Value)> {
    let some = MOST - 4096;
    let mut all = Vec::new();
    for piece in ["<a>", " ", "x", "e\u{301}\u{323}", "<pad>", "\u{3000}"] {
        let query = long(piece, some / 8);
        let prompt = long(piece, some / 16) + "#";
        let encoded = long(piece, some / 8) + "<|reward|>y[UNUSED_TOKEN_130]";
        all.push((
            "/get_reward",
            json!({"query": vec![&query; 4], "prompts": vec![&prompt; 4], "labels": vec!["4"; 4]}),
        ));
        all.push(("/reward", json!({"prompt": prompt, "response": long(piece, some / 5), "label": "4"})));
        all.push(("/classify", json!({"text": vec![&encoded; 6]})));
        all.push(("/pooling", json!({"input": encoded})));
        let candidates = vec![long(piece, 8); some / 64];
        all.push(("/v1/score", json!({"prompt": query, "reference": "r", "candidates": candidates, "max_length": 8})));
    }
    // Nothing is cut of a prompt for which the responses leave no room.
    let lengths: Vec<String> = (0..300).map(|length| "c".repeat(length)).collect();
    let (prompt, reference) = ("p".repeat(some / 8), "r".repeat(some / 8));
    let room = json!({
        "prompt": prompt, "reference": reference, "candidates": lengths, "max_length": 600, "max_response_length": 599,
    });
    all.push(("/v1/score", room));
    all.push(("/pooling", json!({"input": vec![[7]; some / 64]})));
    all.push(("/lmdeploy/pooling", json!({"input": vec![7; some / 4]})));
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
        let slowest = large().chunks(4).fold(Duration::ZERO, |slowest, some| {
            let took = thread::scope(|scope| {
                let sent: Vec<_> = some
                    .iter()
                    .map(|(path, body)| {
                        scope.spawn(move || {
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
