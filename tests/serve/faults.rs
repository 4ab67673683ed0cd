//! What the engine computes and what it does not; what happens when it is slow, wrong or broken.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use polar_raw::Error;
use polar_raw::serve::{Options, Score};
use serde_json::{Value, json};

use super::client::{Answer, connect_from, get, post, send_on};
use super::fixture::{Row, Running, options, rows};

/// The score of the stand-in below: a number that depends on every id.
fn sum(ids: &[u32]) -> f32 {
    ids.iter().enumerate().map(|(i, id)| (i as u32 % 7 + 1) * id).sum::<u32>() as f32
}

fn sums(groups: &[Vec<Vec<u32>>]) -> Vec<f32> {
    groups.iter().flatten().map(|ids| sum(ids)).collect()
}

/// Groups of each pass that an engine was given.
type Passes = Arc<Mutex<Vec<Vec<Vec<Vec<u32>>>>>>;

/// A stand-in for the model that notes what it is given. It waits for a permit before each pass, if it has a gate.
fn noted(passes: &Passes, gate: Option<Receiver<()>>) -> impl FnOnce() -> Score + Send + 'static {
    let passes = passes.clone();
    move || {
        Box::new(move |groups| {
            passes.lock().unwrap().push(groups.to_vec());
            if let Some(gate) = &gate {
                gate.recv_timeout(Duration::from_secs(60)).map_err(|error| Error::machine(error.to_string()))?;
            }
            Ok(sums(groups))
        })
    }
}

/// A server whose engine waits for what is sent.
fn gated(options: Options) -> (Running, Passes, Sender<()>) {
    let passes = Passes::default();
    let (open, gate) = mpsc::channel();
    let running = Running::with(options, noted(&passes, Some(gate)));
    (running, passes, open)
}

fn body(rows: &[Row]) -> Value {
    json!({"text": rows.iter().map(Row::encoded).collect::<Vec<_>>()})
}

fn asked(address: SocketAddr, rows: &[Row]) -> thread::JoinHandle<Answer> {
    let body = body(rows);
    thread::spawn(move || post(address, "/classify", &body))
}

fn asked_from(from: [u8; 4], address: SocketAddr, rows: &[Row]) -> thread::JoinHandle<Answer> {
    let body = body(rows).to_string();
    thread::spawn(move || send_on(connect_from(from.into(), address), "POST", "/classify", &[], body.as_bytes()))
}

fn check(answer: &Answer, rows: &[Row]) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let found: Vec<f32> =
        answer.json().as_array().unwrap().iter().map(|e| e["embedding"][0].as_f64().unwrap() as f32).collect();
    assert_eq!(found, rows.iter().map(|row| sum(&row.ids())).collect::<Vec<_>>());
}

fn wait(what: &str, done: impl Fn() -> bool) {
    for _ in 0..5000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("{what} does not happen");
}

fn metric(address: SocketAddr, name: &str) -> usize {
    let text = get(address, "/metrics").body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    value.parse().unwrap()
}

/// Requests that have arrived and are not yet answered.
fn queue_depth(address: SocketAddr) -> usize {
    metric(address, "polar_raw_queue_depth")
}

/// Sequences that the engine has been sent.
fn sent(address: SocketAddr) -> usize {
    metric(address, "polar_raw_sequences_total")
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    // One address has half of the places.
    let (server, _, open) = gated(Options { queue: 4, ..options() });
    let rows = rows(11, 4);
    let first = asked(server.address, &rows[..1]);
    let second = asked(server.address, &rows[1..2]);
    wait("two requests in the queue", || queue_depth(server.address) == 2);
    let refused = post(server.address, "/classify", &body(&rows[2..3]));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.error().contains("2 requests of this address are waiting"), "{refused:?}");
    // Another address, which Linux has on loopback too, gets the others.
    let third = asked_from([127, 0, 0, 2], server.address, &rows[2..3]);
    let fourth = asked_from([127, 0, 0, 3], server.address, &rows[3..]);
    wait("four requests in the queue", || queue_depth(server.address) == 4);
    let refused = asked_from([127, 0, 0, 4], server.address, &rows[..1]).join().unwrap();
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.error().contains("4 requests are waiting"), "{refused:?}");
    (0..9).for_each(|_| open.send(()).unwrap());
    check(&first.join().unwrap(), &rows[..1]);
    check(&second.join().unwrap(), &rows[1..2]);
    check(&third.join().unwrap(), &rows[2..3]);
    check(&fourth.join().unwrap(), &rows[3..]);
    check(&post(server.address, "/classify", &body(&rows[2..3])), &rows[2..3]);
    assert_eq!(queue_depth(server.address), 0);
}

#[test]
fn waiting_requests_are_computed_together_and_equal_ones_once() {
    let (server, passes, open) = gated(Options { cache: 0, ..options() });
    let rows = rows(12, 6);
    let first = asked(server.address, &rows[..1]);
    wait("the first pass", || passes.lock().unwrap().len() == 1);
    let others: Vec<_> = (1..6).map(|i| asked(server.address, &rows[i..=i])).collect();
    let again = asked(server.address, &rows[5..]);
    wait("seven sequences", || sent(server.address) == 7);
    (0..9).for_each(|_| open.send(()).unwrap());
    check(&first.join().unwrap(), &rows[..1]);
    for (i, other) in others.into_iter().enumerate() {
        check(&other.join().unwrap(), &rows[i + 1..i + 2]);
    }
    check(&again.join().unwrap(), &rows[5..]);
    let passes = passes.lock().unwrap();
    assert_eq!(passes.len(), 2, "all that waited went into one pass");
    assert_eq!(passes[1].iter().flatten().count(), 5);
}

#[test]
fn sequences_of_one_prompt_are_one_group_within_a_pass() {
    let passes = Passes::default();
    let server = Running::with(Options { pack_length: 400, ..options() }, noted(&passes, None));
    // Two prompts in turn, ten candidates each; the same prompt with another reference is another group.
    let row = |i: usize| Row {
        prompt: format!("Prompt {} {}", i % 2, "p".repeat(60)),
        reference: format!("reference {}", i % 2),
        output: format!("candidate {i} {}", "c".repeat(10)),
    };
    let rows: Vec<_> = (0..20).map(row).collect();
    check(&post(server.address, "/classify", &body(&rows)), &rows);
    let passes = passes.lock().unwrap();
    let groups: Vec<_> = passes.iter().flatten().collect();
    for group in &groups {
        let tokens: Vec<&[u32]> = group.iter().map(Vec::as_slice).collect();
        let wanted = polar_raw::passes::Wanted { scores: true, next_tokens: false, share_prefix: true };
        assert!(polar_raw::passes::packed_tokens(&tokens, wanted) <= 400);
    }
    assert_eq!(groups.iter().map(|group| group.len()).sum::<usize>(), 20);
    assert!(groups.len() <= 4, "{} groups for two prompts", groups.len());
}

#[test]
fn a_small_request_does_not_wait_for_a_large_one() {
    let (server, passes, open) = gated(Options { pack_length: 300, ..options() });
    let (large, small) = (rows(13, 40), rows(14, 1));
    let slow = asked(server.address, &large);
    wait("the first pass", || passes.lock().unwrap().len() == 1);
    let quick = asked(server.address, &small);
    wait("both", || sent(server.address) == 41);
    (0..2).for_each(|_| open.send(()).unwrap());
    check(&quick.join().unwrap(), &small);
    assert!(!slow.is_finished());
    (0..100).for_each(|_| open.send(()).unwrap());
    check(&slow.join().unwrap(), &large);
}

#[test]
fn what_was_computed_is_not_computed_again() {
    for (cache, computed) in [(1000, 5), (0, 10), (2, 8)] {
        let passes = Passes::default();
        let server = Running::with(Options { cache, ..options() }, noted(&passes, None));
        let rows = rows(15, 5);
        check(&post(server.address, "/classify", &body(&rows)), &rows);
        check(&post(server.address, "/classify", &body(&rows)), &rows);
        let found = passes.lock().unwrap().iter().flatten().flatten().count();
        assert_eq!(found, computed, "with room for {cache} scores");
    }
}

#[test]
fn a_request_that_runs_out_of_time_goes_on_when_it_is_sent_again() {
    let passes = Passes::default();
    let inner = noted(&passes, None);
    let slow = move || {
        let mut inner = inner();
        let score: Score = Box::new(move |groups| {
            thread::sleep(Duration::from_millis(30));
            inner(groups)
        });
        score
    };
    let options = Options { timeout: Duration::from_millis(300), pack_length: 200, ..options() };
    let server = Running::with(options, slow);
    let rows = rows(16, 60);
    let mut refused = 0;
    loop {
        let answer = post(server.address, "/classify", &body(&rows));
        if answer.status == 200 {
            check(&answer, &rows);
            break;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some() && answer.error().contains("not done within"), "{answer:?}");
        refused += 1;
        assert!(refused < 60, "no progress");
    }
    assert!(refused > 0);
    assert_eq!(passes.lock().unwrap().iter().flatten().flatten().count(), 60, "every sequence was computed once");
}

#[test]
fn a_failing_device_makes_the_server_unready_and_is_named() {
    type Fault = fn(&[Vec<Vec<u32>>]) -> polar_raw::Result<Vec<f32>>;
    let faults: [(Fault, &str); 3] = [
        (|_| Err(Error::machine("the card fell off the bus")), "the card fell off the bus"),
        (|_| panic!("a mistake"), "panicked"),
        (|groups| Ok(sums(groups)[1..].to_vec()), "gave 1 scores for 2 sequences"),
    ];
    for (fault, reason) in faults {
        let server = Running::with(options(), move || Box::new(fault));
        let rows = rows(17, 2);
        for _ in 0..2 {
            let answer = post(server.address, "/classify", &body(&rows));
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(answer.error().contains(reason), "{answer:?}");
        }
        let ready = get(server.address, "/ready");
        assert!(ready.status == 503 && ready.error().contains(reason), "{ready:?}");
        assert_eq!(get(server.address, "/health").status, 200);
    }
}

#[test]
fn a_score_that_is_not_finite_is_an_error_and_is_not_remembered() {
    let rows = rows(18, 3);
    let bad = rows[1].ids();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bad = bad.clone();
        let server = Running::with(options(), move || {
            let mut left = 1;
            Box::new(move |groups| {
                let mut scores = sums(groups);
                let at = groups.iter().flatten().position(|ids| *ids == bad);
                if let (Some(at), 1) = (at, left) {
                    scores[at] = value;
                    left = 0;
                }
                Ok(scores)
            })
        });
        let answer = post(server.address, "/classify", &body(&rows));
        assert_eq!(answer.status, 500, "{answer:?}");
        assert!(answer.error().contains("sequence 1"), "{answer:?}");
        check(&post(server.address, "/classify", &body(&rows)), &rows);
    }
}

#[test]
fn a_request_that_was_given_up_is_not_computed_on() {
    let (server, passes, open) = gated(Options { pack_length: 200, ..options() });
    let rows = rows(19, 40);
    let mut stream = super::client::connect(server.address);
    let body = body(&rows).to_string();
    let head = format!("POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    std::io::Write::write_all(&mut stream, (head + &body).as_bytes()).unwrap();
    wait("the first pass", || passes.lock().unwrap().len() == 1);
    drop(stream);
    // Pass by pass, so that the server has time to notice before all is computed.
    while queue_depth(server.address) > 0 {
        thread::sleep(Duration::from_millis(300));
        open.send(()).unwrap();
    }
    let computed = passes.lock().unwrap().iter().flatten().flatten().count();
    assert!(computed < 40, "all was computed for nobody");
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server() {
    let (fail, failing) = mpsc::channel::<()>();
    let server = Running::loading(options(), move || {
        let _ = failing.recv();
        Err(Error::user("config.json: no such model"))
    });
    let ready = get(server.address, "/ready");
    assert!(ready.status == 503 && ready.error().contains("being loaded"), "{ready:?}");
    let answer = post(server.address, "/classify", &body(&rows(20, 1)));
    assert!(answer.status == 503 && answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(get(server.address, "/health").status, 200);
    assert_eq!(get(server.address, "/v1/models").status, 503);
    drop(fail);
    assert_eq!(server.outcome().unwrap_err().to_string(), "config.json: no such model");
}
