//! Sixty-four connections at once, some of them with requests that are malformed, oversized, slow or given up.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use serde_json::{Value, json};

use super::client::{connect, get, post, read, send};
use super::fixture::{Row, near, rows, scores};
use super::program::Program;

const CONNECTIONS: usize = 64;
const CANDIDATES: usize = 4;
/// What `--max-body` is set to, in MiB.
const MAX_BODY: usize = 2;
/// What the server may grow by under load, in MiB: four largest bodies are 8, their texts as much again, the connections'
/// buffers 4; then there are the ids that are made of bodies, a pass, the cache, and what the allocator keeps.
const GROWTH: usize = 64;
/// How long the server waits for the next piece of a body. The program has no option for it.
const IDLE: Duration = Duration::from_secs(10);
/// Connections that do nothing but send bodies more slowly than that: each takes longer than the short test.
const TRICKLING: usize = 4;

/// Kinds of bad requests, beside bodies that come too slowly.
const BAD: usize = 14;
/// What a request is called with which nothing is wrong but that nobody waits for its answer.
const GOOD_BUT_LEFT: &str = "good, but left before the answer";

/// A prompt with its reference, candidates, and their scores as computed directly.
struct Question {
    rows: Vec<Row>,
    scores: Vec<f32>,
}

fn questions(count: usize) -> Vec<Question> {
    let all = rows(51, count * CANDIDATES);
    let question = |own: &[Row]| {
        let same = |row: &Row| Row { output: row.output.clone(), ..own[0].clone() };
        own.iter().map(same).collect::<Vec<_>>()
    };
    let all: Vec<Row> = all.chunks(CANDIDATES).flat_map(question).collect();
    let scores = scores(&all);
    let pairs = all.chunks(CANDIDATES).zip(scores.chunks(CANDIDATES));
    pairs.map(|(rows, scores)| Question { rows: rows.to_vec(), scores: scores.to_vec() }).collect()
}

/// A good request: where, what, how to read the scores, and what they must be.
type Good = (&'static str, Value, fn(&Value) -> Vec<f64>, Vec<f32>);

fn numbers(values: &Value, of: impl Fn(&Value) -> &Value) -> Vec<f64> {
    values.as_array().into_iter().flatten().map(|value| of(value).as_f64().unwrap_or(f64::NAN)).collect()
}

fn good(random: &mut impl Rng, questions: &[Question]) -> Good {
    let mut draw = || &questions[random.random_range(0..questions.len())];
    let question = draw();
    let Question { rows, scores } = question;
    let some: Vec<&Question> = (0..3).map(|_| draw()).collect();
    let encoded: Vec<_> = some.iter().flat_map(|question| &question.rows).map(Row::encoded).collect();
    let wanted: Vec<f32> = some.iter().flat_map(|question| question.scores.clone()).collect();
    let row = &rows[0];
    match random.random_range(0..6) {
        0 => ("/classify", json!({"text": encoded}), |r| numbers(r, |e| &e["embedding"][0]), wanted),
        1 => ("/vllm/pooling", json!({"input": encoded}), |r| numbers(&r["data"], |e| &e["data"][0][0]), wanted),
        2 => ("/lmdeploy/pooling", json!({"input": encoded}), |r| numbers(&r["data"], |e| &e["data"]), wanted),
        3 => {
            let candidates: Vec<_> = rows.iter().map(|row| &row.output).collect();
            let body = json!({"prompt": row.prompt, "reference": row.reference, "candidates": candidates});
            ("/v1/score", body, |r| numbers(&r["data"], |e| &e["score"]), scores.clone())
        }
        4 => {
            let body = json!({"prompt": row.prompt, "response": row.output, "label": row.reference});
            ("/reward", body, |r| vec![r.as_f64().unwrap_or(f64::NAN)], vec![scores[0]])
        }
        _ => {
            let ids: Vec<_> = rows.iter().map(Row::ids).collect();
            ("/pooling", json!({"input": ids}), |r| numbers(&r["data"], |e| &e["data"][0][0]), scores.clone())
        }
    }
}

/// The head of a request whose body is announced to have `length` bytes.
fn head(length: usize) -> String {
    format!("POST /classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
}

/// Sends a bad request of some kind; the status, if there is an answer, and the kind.
fn bad(random: &mut impl Rng, address: SocketAddr, row: &Row) -> (&'static str, Option<u16>) {
    let whole = json!({"text": row.encoded()}).to_string();
    let post = |body: &[u8]| Some(send(address, "POST", "/classify", &[], body).status);
    let mut stream = connect(address);
    match random.random_range(0..BAD) {
        0 => ("cut JSON", post(&whole.as_bytes()[..random.random_range(0..whole.len())])),
        1 => ("no separator", post(whole.replace("<|reward|>", "<reward>").as_bytes())),
        2 => ("two separators", post(whole.replace("<|reward|>", "<|reward|><|reward|>").as_bytes())),
        3 => ("not UTF-8", post(&[&whole.as_bytes()[..10], &[0xff, 0xfe], &whole.as_bytes()[10..]].concat())),
        4 => ("no such path", Some(send(address, "POST", "/clasify", &[], whole.as_bytes()).status)),
        5 => ("oversized", post(&vec![b' '; (MAX_BODY << 20) + 1])),
        6 => {
            let _ = stream.write_all(head(whole.len() + 1).as_bytes());
            let _ = stream.write_all(whole.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            ("short of its length", read(&mut stream).map(|answer| answer.status))
        }
        7 => {
            // The prompt is compared at each of many tokens, and stands after none of them.
            let (query, prompt) = ("<a>".repeat(250_000), "<a>".repeat(125_000) + "x");
            let body = json!({"query": [query], "prompts": [prompt], "labels": ["4"]}).to_string();
            assert!(body.len() > MAX_BODY << 19, "half of what is allowed, at least");
            ("tokens without a prompt", Some(send(address, "POST", "/get_reward", &[], body.as_bytes()).status))
        }
        8 => {
            let answer = send(address, "POST", "/classify", &["content-encoding: gzip"], whole.as_bytes());
            ("packed", Some(answer.status))
        }
        9 => {
            let _ = stream.write_all(head(whole.len()).replace("host: x\r\n", "").as_bytes());
            let _ = stream.write_all(whole.as_bytes());
            ("no host", read(&mut stream).map(|answer| answer.status))
        }
        10 => {
            let body = json!({"text": row.encoded(), "add_special_tokens": false}).to_string();
            ("a key that is not honoured", post(body.as_bytes()))
        }
        11 => {
            let large = format!("x: {}", "x".repeat(80 << 10));
            ("a head that is too large", Some(send(address, "POST", "/classify", &[&large], whole.as_bytes()).status))
        }
        12 => {
            let _ = stream
                .write_all(head(whole.len()).replace("content-length", "transfer-encoding: gzip\r\nx").as_bytes());
            let _ = stream.write_all(whole.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            ("another transfer-encoding", read(&mut stream).map(|answer| answer.status))
        }
        _ => {
            let noise: Vec<u8> = (0..200).map(|_| random.random()).collect();
            let _ = stream.write_all(&noise);
            let _ = stream.shutdown(Shutdown::Write);
            ("noise", read(&mut stream).map(|answer| answer.status))
        }
    }
}

/// Sends a good request and closes the sending half; the score.
fn half_closed(address: SocketAddr, row: &Row) -> f64 {
    let whole = json!({"prompt": row.prompt, "response": row.output, "label": row.reference}).to_string();
    let mut stream = connect(address);
    stream.write_all(head(whole.len()).replace("/classify", "/reward").as_bytes()).unwrap();
    stream.write_all(whole.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read(&mut stream).expect("a client that closes its half is answered");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json().as_f64().unwrap()
}

/// Sends a good request piece by piece, the last one later than the server waits for it; the status, if there is an
/// answer.
fn trickle(address: SocketAddr, row: &Row) -> Option<u16> {
    let whole = json!({"text": row.encoded()}).to_string();
    let (first, rest) = whole.as_bytes().split_at(5);
    let mut stream = connect(address);
    stream.set_read_timeout(Some(2 * IDLE)).unwrap();
    let begun = Instant::now();
    stream.write_all(head(whole.len()).as_bytes()).unwrap();
    for byte in first {
        stream.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    // A server that went on waiting would be given the rest, and answer it.
    let answer = read(&mut stream).or_else(|| {
        let _ = stream.write_all(rest);
        read(&mut stream)
    });
    assert!(begun.elapsed() >= IDLE, "ended after {:?}", begun.elapsed());
    answer.map(|answer| answer.status)
}

/// Sends a request and leaves, in the midst of the body or with all of it sent. Nobody is there to judge an answer:
/// what the server makes of it shows in what it counts, in its memory, and in the answers to others.
fn leave(random: &mut impl Rng, address: SocketAddr, row: &Row) -> &'static str {
    let whole = json!({"text": row.encoded()}).to_string();
    let mut stream = connect(address);
    let _ = stream.write_all(head(whole.len()).as_bytes());
    if random.random() {
        let _ = stream.write_all(whole.as_bytes());
        return GOOD_BUT_LEFT;
    }
    for byte in whole.as_bytes().iter().take(5) {
        let _ = stream.write_all(&[*byte]);
        thread::sleep(Duration::from_millis(20));
    }
    "left within the body"
}

/// How many requests the server says that it has answered with a status that begins with `digit`.
fn answered(metrics: &str, digit: char) -> usize {
    let status = format!("status=\"{digit}");
    let lines = metrics.lines().filter(|line| line.starts_with("polar_raw_requests_total{") && line.contains(&status));
    // These are asked to find out how it does, and are no load.
    let others = lines.filter(|line| !["/ready", "/metrics"].iter().any(|path| line.contains(path)));
    others.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

/// Resident memory of a process in MiB.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

#[derive(Default)]
struct Seen {
    latencies: Vec<f64>,
    sequences: usize,
    bad: BTreeMap<&'static str, usize>,
    /// Requests whose client left: no answer was seen.
    left: BTreeMap<&'static str, usize>,
}

/// One connection's requests until `stop`.
fn connection(number: usize, address: SocketAddr, questions: &[Question], stop: &AtomicBool) -> Seen {
    let mut random = polar_raw::rng::stream(52, "load", number as u64);
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(60)));
    let agent = ureq::Agent::new_with_config(config.build());
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let Question { rows, scores } = &questions[random.random_range(0..questions.len())];
        let row = &rows[0];
        if number < TRICKLING {
            let status = trickle(address, row);
            assert!(
                status.is_none_or(|status| status == 408),
                "a body that came too slowly was answered with {status:?}"
            );
            *seen.bad.entry("too slow").or_default() += 1;
            continue;
        }
        if random.random_bool(0.05) {
            *seen.left.entry(leave(&mut random, address, row)).or_default() += 1;
            continue;
        }
        if random.random_bool(0.2) {
            let (kind, status) = bad(&mut random, address, row);
            assert!(status.is_none_or(|status| (400..500).contains(&status)), "{kind} was answered with {status:?}");
            *seen.bad.entry(kind).or_default() += 1;
            continue;
        }
        if random.random_bool(0.05) {
            let begun = Instant::now();
            let found = half_closed(address, row);
            assert!(near(found, scores[0]), "{found} instead of {}", scores[0]);
            seen.latencies.push(begun.elapsed().as_secs_f64());
            seen.sequences += 1;
            continue;
        }
        let (path, body, read, wanted) = good(&mut random, questions);
        let begun = Instant::now();
        let mut answer = agent.post(format!("http://{address}{path}")).send_json(&body).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        seen.latencies.push(begun.elapsed().as_secs_f64());
        assert_eq!(answer.status(), 200, "{path}: {text}");
        let found = read(&serde_json::from_str(&text).unwrap());
        let right = found.len() == wanted.len() && found.iter().zip(&wanted).all(|(a, b)| near(*a, *b));
        assert!(right, "{path}: {found:?} instead of {wanted:?}");
        seen.sequences += wanted.len();
    }
    seen
}

fn load(duration: Duration) {
    let questions = questions(1000);
    let program = Program::start(&["--max-body", &MAX_BODY.to_string(), "--cache", "1000"]);
    let (address, pid) = (program.address, program.child.id());
    let stop = AtomicBool::new(false);
    let all = Mutex::new(Seen::default());
    let begun = Instant::now();
    let before = resident(pid);
    let mut memory = Vec::new();
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (questions, stop, all) = (&questions, &stop, &all);
            scope.spawn(move || {
                let seen = connection(number, address, questions, stop);
                let mut all = all.lock().unwrap();
                all.latencies.extend(seen.latencies);
                all.sequences += seen.sequences;
                seen.bad.into_iter().for_each(|(kind, count)| *all.bad.entry(kind).or_default() += count);
                seen.left.into_iter().for_each(|(kind, count)| *all.left.entry(kind).or_default() += count);
            });
        }
        while begun.elapsed() < duration {
            memory.push(resident(pid));
            thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let seconds = begun.elapsed().as_secs_f64();
    let Seen { mut latencies, sequences, bad, left } = all.into_inner().unwrap();
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize] * 1e3;
    let (most, count) = (memory.iter().copied().max().unwrap_or_default(), latencies.len());
    println!(
        "{CONNECTIONS} connections, {seconds:.1} s: {count} good requests, all right, {:.0} a second, {:.0} sequences a \
         second, p50 {:.1} ms, p99 {:.1} ms; {} bad ones, none answered with 2xx: {bad:?}; {} whose client left: \
         {left:?}; memory {before} MiB before, at most {most} MiB, {} MiB at the end",
        count as f64 / seconds,
        sequences as f64 / seconds,
        quantile(0.5),
        quantile(0.99),
        bad.values().sum::<usize>(),
        left.values().sum::<usize>(),
        resident(pid),
    );
    assert!(count > CONNECTIONS, "hardly anything was answered");
    assert_eq!((bad.len(), left.len()), (BAD + 1, 2), "every kind of bad request was there");
    assert!(most <= before + GROWTH, "{most} MiB of memory, {before} MiB before");

    let Question { rows, scores } = &questions[0];
    let reply = post(address, "/classify", &json!({"text": rows[0].encoded()})).json();
    assert!(near(reply["embedding"][0].as_f64().unwrap(), scores[0]));
    let metrics = get(address, "/metrics").body;
    assert!(metrics.contains("polar_raw_queue_depth 0"), "nothing waits any more");
    // The server has answered what was good, the request just now among it, and at most what nobody waited for besides.
    let right = count + 1;
    assert!((right..=right + left[GOOD_BUT_LEFT]).contains(&answered(&metrics, '2')), "{right}, {left:?}: {metrics}");
    assert_eq!(answered(&metrics, '5'), 0, "{metrics}");
    program.signal(libc::SIGTERM);
    let (status, log) = program.end();
    assert!(status.success(), "{log}");
}

#[test]
fn a_few_seconds_of_everything() {
    load(Duration::from_secs(6));
}

/// `cargo test --release --test serve -- --ignored --nocapture a_minute`
#[test]
#[ignore = "takes a minute: the seconds above, long enough for memory that grows to show and for figures worth quoting"]
fn a_minute_of_everything() {
    load(Duration::from_secs(60));
}
