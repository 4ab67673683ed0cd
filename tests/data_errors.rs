//! Every bad file of data: the message names file, line and key, and the mistake is the user's.

use polar_raw::Error;
use polar_raw::data::{Records, ScoreInput, ScoreRows, read, read_all};
use polar_raw::error::ErrorKind;
use std::path::PathBuf;
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The error of reading `content`, which must name all of `parts`.
    fn refused(&self, content: impl AsRef<[u8]>, parts: &[&str]) {
        let path = self.file("rows.jsonl", content);
        check(&read(&path).unwrap_err(), parts);
        assert!(read(&path).unwrap_err().to_string().contains("rows.jsonl"));
    }
}

fn check(error: &Error, parts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::User, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

const TRAJECTORY: &str = r#"{"prompt": "p", "policy": "a", "output": "o", "correct": true}"#;
const PREFERENCE: &str = r#"{"prompt": "p", "reference": "r", "chosen": "c", "rejected": "d"}"#;

#[test]
fn malformed_json() {
    let folder = Folder::new();
    folder.refused(format!("{TRAJECTORY}\n{{\"prompt\": \"p\","), &["rows.jsonl:2: column 15", "one JSON object"]);
    folder.refused("[1, 2]\n", &["rows.jsonl:1: column", "expected a JSON object"]);
    folder.refused("{\"prompt\": \"\\ud800\"}", &["rows.jsonl:1: column"]);
    folder.refused(format!("{TRAJECTORY} {TRAJECTORY}"), &["rows.jsonl:1: column", "trailing"]);
    folder.refused("[".repeat(100_000), &["rows.jsonl:1"]);
    folder.refused(format!("{{\"prompt\": {}", "[".repeat(100_000)), &["rows.jsonl:1", "recursion"]);
    folder.refused(r#"{"prompt": "a", "prompt": "b"}"#, &["rows.jsonl:1", "\"prompt\" is there twice"]);
}

#[test]
fn missing_keys() {
    let folder = Folder::new();
    let missing = |row: &str, parts: &[&str]| folder.refused(format!("\n\n{row}\n"), parts);
    missing(
        r#"{"prompt": "p", "policy": "a"}"#,
        &["rows.jsonl:3", "missing key \"output\"", "{prompt, policy, output}"],
    );
    missing(r#"{"prompt": "p", "chosen": "c", "rejected": "d"}"#, &["rows.jsonl:3", "missing key \"reference\""]);
    missing(r#"{"chosen_ids": [1]}"#, &["rows.jsonl:3", "missing key \"rejected_ids\""]);
    missing(r#"{"output": "o"}"#, &["rows.jsonl:3", "missing key \"prompt\""]);
    missing(r#"{"question": "p", "answer": "a"}"#, &["rows.jsonl:3", "{question, answer}", "trajectories {prompt, "]);
    missing("{}", &["rows.jsonl:3", "no known kind"]);
}

#[test]
fn wrong_types() {
    let folder = Folder::new();
    let wrong = |row: &str, parts: &[&str]| folder.refused(format!("{row}\n"), parts);
    wrong(r#"{"prompt": 3, "policy": "a", "output": "o"}"#, &["rows.jsonl:1: key \"prompt\"", "the number 3"]);
    wrong(r#"{"prompt": [], "policy": "a", "output": "o"}"#, &["key \"prompt\"", "an empty list"]);
    wrong(r#"{"prompt": null, "policy": "a", "output": "o"}"#, &["key \"prompt\"", "null"]);
    wrong(r#"{"prompt": "p", "policy": "", "output": "o"}"#, &["key \"policy\"", "not empty"]);
    wrong(r#"{"prompt": "p", "policy": 7, "output": "o"}"#, &["key \"policy\"", "the number 7"]);
    wrong(r#"{"prompt": ["a"], "policy": "a", "output": "o"}"#, &["key \"prompt[0]\"", "a message"]);
    let messages = r#"[{"role": "user", "content": "a"}, {"role": "user", "content": [{"text": "b"}]}]"#;
    wrong(&format!(r#"{{"prompt": {messages}, "output": "o"}}"#), &["key \"prompt[1].content\"", "a list"]);
    wrong(r#"{"prompt": [{"role": "user"}], "output": "o"}"#, &["missing key \"prompt[0].content\""]);
    wrong(r#"{"prompt": {"role": "user"}, "output": "o"}"#, &["missing key \"prompt.content\""]);
    wrong(r#"{"chosen_ids": [1, -1], "rejected_ids": [1]}"#, &["key \"chosen_ids[1]\"", "the number -1"]);
    wrong(r#"{"chosen_ids": [1], "rejected_ids": []}"#, &["key \"rejected_ids\"", "an empty list"]);
    wrong(r#"{"chosen_ids": [4294967296], "rejected_ids": [1]}"#, &["key \"chosen_ids[0]\""]);
    let wrapped = PREFERENCE.replace("\"p\"", "\"p\", \"wrapper\": \"chat\"");
    wrong(&wrapped, &["key \"wrapper\"", "\"sft\" or \"pretrain\"", "\"chat\""]);
}

#[test]
fn empty_files() {
    let folder = Folder::new();
    for content in ["", "\n \n\n"] {
        folder.refused(content, &["there is nothing in it"]);
        check(&read(&folder.file("a.txt", content)).unwrap_err(), &["a.txt", "there is nothing in it"]);
        let rows = ScoreRows::open(&folder.file("rows.jsonl", content)).unwrap();
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.len(), 1);
        check(rows[0].as_ref().unwrap_err(), &["rows.jsonl", "there is nothing in it"]);
    }
    folder.refused(zstd::encode_all(&b""[..], 3).unwrap(), &["there is nothing in it"]);
}

#[test]
fn invalid_utf8() {
    let folder = Folder::new();
    let content = [TRAJECTORY.as_bytes(), b"\n{\"prompt\": \"\xff\"}\n"].concat();
    folder.refused(&content, &["rows.jsonl:2: byte 13", "not UTF-8"]);
    check(&read(&folder.file("a.txt", b"good\n\xc3(")).unwrap_err(), &["a.txt:2: byte 1"]);
}

#[test]
fn damaged_zstd() {
    let folder = Folder::new();
    let rows = (0..5000).map(|i| format!("{{\"prompt\": \"{i}\", \"output\": \"{}\"}}\n", i * i)).collect::<String>();
    let packed = zstd::encode_all(rows.as_bytes(), 3).unwrap();
    assert_eq!(read(&folder.file("whole", &packed)).unwrap().len(), 5000);
    for length in [5, packed.len() / 2, packed.len() - 1] {
        folder.refused(&packed[..length], &["rows.jsonl:", "zstd data is damaged or cut short"]);
    }
    let mut flipped = packed.clone();
    flipped[6] ^= 0x55;
    check(&read(&folder.file("rows.jsonl", flipped)).unwrap_err(), &["rows.jsonl:"]);
}

#[test]
fn mixed_kinds() {
    let folder = Folder::new();
    folder.refused(
        format!("{TRAJECTORY}\n\n{PREFERENCE}\n"),
        &["rows.jsonl:3", "kind preferences", "line 1 of the kind trajectories"],
    );
    folder.refused(
        format!("{TRAJECTORY}\n{{\"prompt\": \"p\", \"output\": \"o\"}}\n"),
        &["rows.jsonl:2", "missing key \"policy\""],
    );
    let files = [folder.file("one", TRAJECTORY), folder.file("two", PREFERENCE)];
    check(&read_all(&files).unwrap_err(), &["two", "preferences", "one", "trajectories"]);
    check(&read_all(&[]).unwrap_err(), &["--data"]);
    assert_eq!(read_all(&[files[0].clone(), files[0].clone()]).unwrap().len(), 2);
}

#[test]
fn rows_to_score_do_not_train() {
    let folder = Folder::new();
    let parts = ["rows.jsonl:1", "polar-raw score"];
    folder.refused(r#"{"prompt": "p", "reference": "r", "output": "o"}"#, &parts);
    folder.refused(r#"{"input_ids": [1]}"#, &parts);
}

#[test]
fn files_that_cannot_be_opened() {
    let folder = Folder::new();
    check(&read(&folder.0.path().join("none.jsonl")).unwrap_err(), &["none.jsonl", "cannot read"]);
    check(&read(folder.0.path()).unwrap_err(), &["cannot read"]);
}

#[test]
fn rows_to_score() {
    let folder = Folder::new();
    let rows = "\n{\"prompt\": \"p\", \"reference\": \"r\", \"output\": \"o\", \"policy\": \"x\"}\n{\"input_ids\": [3, 4]}\n{\"prompt\": \"p\", \"reference\": \"r\"}\n{\"input_ids\": [3]}";
    let rows: Vec<_> = ScoreRows::open(&folder.file("rows.jsonl", rows)).unwrap().collect();
    assert_eq!(rows.len(), 3, "nothing after the first error");
    assert_eq!(rows[0].as_ref().unwrap().line, 2);
    assert!(
        matches!(&rows[0].as_ref().unwrap().input, ScoreInput::Text { output, wrapper: None, .. } if output == "o")
    );
    assert_eq!(rows[1].as_ref().unwrap().input, ScoreInput::Ids(vec![3, 4]));
    check(rows[2].as_ref().unwrap_err(), &["rows.jsonl:4", "missing key \"output\""]);
}

#[test]
fn good_files() {
    let folder = Folder::new();
    let messages = r#"[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]"#;
    let row =
        format!(r#"{{"prompt": {messages}, "reference": "r", "chosen": "c", "rejected": "d", "wrapper": "pretrain"}}"#);
    let Records::Preferences(triples) = read(&folder.file("a", row)).unwrap() else { panic!("another kind") };
    let first = triples.get(0).unwrap();
    assert_eq!((first.prompt.as_str(), first.wrapper), ("a\nb", Some(polar_raw::data::Wrapper::Pretrain)));

    let Records::Documents(one) = read(&folder.file("a", r#"{"prompt": {"content": "a"}, "output": "b"}"#)).unwrap()
    else {
        panic!("another kind")
    };
    assert_eq!(one.get(0).unwrap().prompt, "a", "a message is a text");

    let Records::Documents(texts) = read(&folder.file("a.txt", "one\ntwo\n\n \nthree\r\n")).unwrap() else {
        panic!("another kind")
    };
    let texts: Vec<String> = texts.iter().map(|document| document.unwrap().output).collect();
    assert_eq!(texts, ["one\ntwo", "three"]);

    let Records::Documents(texts) = read(&folder.file("b", "{\"text\": \"x\"}\n")).unwrap() else {
        panic!("another kind")
    };
    let text = texts.get(0).unwrap();
    assert_eq!((text.prompt.as_str(), text.output.as_str()), ("", "x"));
}
