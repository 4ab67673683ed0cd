//! Every bad file of data: the message names file, line and key, and the mistake is the user's.

use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use polar_raw::Error;
use polar_raw::config::Config;
use polar_raw::data::{Records, ScoreInput, ScoreRows, read, read_all};
use polar_raw::error::ErrorKind;
use polar_raw::eval::reference::References;
use polar_raw::eval::sets;
use polar_raw::store::Pretrained;
use polar_raw::tokenizer::Tokenizer;
use polar_raw::train::origin::DataHashes;
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
    wrong(&format!(r#"{{"prompt": {messages}, "output": "o"}}"#), &["key \"prompt[1].content[0]\"", "an object"]);
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

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gzip_is_read_and_its_damage_is_noticed() {
    let folder = Folder::new();
    let rows = (0..5000).map(|i| format!("{{\"prompt\": \"{i}\", \"output\": \"{}\"}}\n", i * i)).collect::<String>();
    let packed = gzip(rows.as_bytes());
    assert_eq!(read(&folder.file("whole", &packed)).unwrap().len(), 5000);
    for length in [20, packed.len() / 2, packed.len() - 1] {
        folder.refused(&packed[..length], &["rows.jsonl:", "gzip data is damaged or cut short"]);
    }
    let mut flipped = packed.clone();
    flipped[packed.len() / 2] ^= 0x55;
    check(&read(&folder.file("rows.jsonl", flipped)).unwrap_err(), &["rows.jsonl:"]);
    folder.refused([&packed[..], b"more"].concat(), &["gzip data is damaged"]);
    let Records::Documents(texts) = read(&folder.file("a.txt.gz", gzip(b"one\n\ntwo"))).unwrap() else {
        panic!("another kind")
    };
    assert_eq!(texts.len(), 2, "paragraphs");
}

/// What Python's `json.dumps` writes and JSON does not have.
#[test]
fn what_is_no_json_is_named_with_its_key() {
    let folder = Folder::new();
    folder.refused(
        r#"{"prompt": "p", "output": "x \ud83d y"}"#,
        &["rows.jsonl:1: column", "key \"output\": found half a surrogate pair (\\ud83d)", "write \\ufffd"],
    );
    folder.refused(
        format!("{TRAJECTORY}\n{}", TRAJECTORY.replace("true", "NaN")),
        &["rows.jsonl:2: column 58", "key \"correct\": found NaN", "write null, or leave the key out"],
    );
    folder.refused(
        format!("[{TRAJECTORY},\n {{\"prompt\":\n\"p\", \"policy\": -Infinity}}]"),
        &["rows.jsonl:2: line 2 of the row, column 17", "key \"policy\": found -Infinity"],
    );
    folder.refused(format!("\u{feff}{TRAJECTORY}\n\u{feff}{TRAJECTORY}"), &["rows.jsonl:2", "found a byte order mark"]);
    let wide: Vec<u8> = TRAJECTORY.encode_utf16().flat_map(u16::to_le_bytes).collect();
    folder.refused(&wide, &["rows.jsonl: the text is UTF-16LE", "iconv -f UTF-16LE -t UTF-8"]);
    folder.refused([b"\xff\xfe", &wide[..]].concat(), &["rows.jsonl: the text is UTF-16, "]);
    for (magic, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh9", "bzip2"), (b"PK\x03\x04", "zip")] {
        folder.refused(magic, &[&format!("rows.jsonl: {name} is not read: unpack it with `")]);
    }
    let wide = format!("{{\"{}\": 1}}", "k".repeat(100_000));
    folder.refused(&wide, &["kkkk[...]}"]);
}

#[test]
fn one_bad_row_does_not_hide_the_others() {
    let folder = Folder::new();
    let rows = [
        TRAJECTORY.as_bytes(),
        b"{\"prompt\": \"p\",",
        b"",
        TRAJECTORY.as_bytes(),
        b"{\"prompt\": \"\xff\"}",
        b"{\"prompt\": 1, \"policy\": \"a\", \"output\": \"o\"}",
        b"{\"prompt\": 1, \"policy\": \"b\", \"output\": \"o\"}",
    ];
    let path = folder.file("rows.jsonl", rows.join(&b'\n'));
    let error = read(&path).unwrap_err().to_string();
    let lines: Vec<_> =
        error.lines().map(|line| line.trim_start().replace(&format!("{}:", path.display()), "")).collect();
    assert_eq!(lines.len(), 5, "{error}");
    for (line, part) in lines.iter().zip([
        "4 rows are wrong:",
        "2: column 15: not a row of JSON",
        "5: byte 13 of the line is not UTF-8",
        "6: key \"prompt\": expected a string",
        "7: the same",
    ]) {
        assert!(line.starts_with(part), "{part:?} is not in: {error}");
    }
    // What ends the file early comes last, and files behind it are looked at too.
    let packed = gzip(&rows.join(&b'\n').repeat(2));
    let error = read(&folder.file("cut.gz", &packed[..packed.len() - 4])).unwrap_err().to_string();
    assert!(error.contains("rows are wrong:") && error.contains("and then ") && error.contains("cut short"), "{error}");
    let error = read_all(&[path.clone(), folder.file("other", "{}")]).unwrap_err().to_string();
    assert!(error.starts_with("5 rows are wrong:") && error.contains("other:1: a row with the keys {}"), "{error}");
    let many = format!("{TRAJECTORY}\n") + &"{\"prompt\": 1}\n".repeat(3000);
    let error = read(&folder.file("many", many)).unwrap_err().to_string();
    assert!(error.starts_with("3000 rows are wrong; the first of them:\n"), "{error}");
    assert_eq!(error.lines().count(), 11, "{error}");

    // Of rows to score too, and of sets whose first row is one of them.
    let rows = ScoreRows::open(&folder.file("score", "{\"input_ids\": [3]}\n{\n\n{\"input_ids\": []}\n[")).unwrap();
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() == 2 && rows[0].is_ok(), "nothing after the first error");
    check(rows[1].as_ref().unwrap_err(), &["3 rows are wrong", "score:2: ", "score:4: key \"input_ids\"", "score:5: "]);
    let error = sets::read(&folder.file("set", format!("{{\n{PREFERENCE}\n{{\"chosen\": 1}}")), None, 1).unwrap_err();
    check(&error, &["2 rows are wrong", "set:1: ", "set:3: missing key \"prompt\""]);
}

#[test]
fn contents_in_parts() {
    let folder = Folder::new();
    let part = |text: &str| format!(r#"{{"type": "text", "text": "{text}"}}"#);
    let message = |parts: &str| format!(r#"[{{"role": "user", "content": [{parts}]}}]"#);
    let row = |parts: &str| PREFERENCE.replace("\"p\"", &message(parts));
    let good = row(&format!("{}, {}", part("a "), part("b")));
    let Records::Preferences(triples) = read(&folder.file("a", &good)).unwrap() else { panic!("another kind") };
    assert_eq!(triples.get(0).unwrap().prompt, "a b");
    let scored = good.replace("\"chosen\": \"c\", \"rejected\"", "\"output\"");
    let rows: Vec<_> = ScoreRows::open(&folder.file("a", scored)).unwrap().collect();
    let ScoreInput::Text { prompt, messages, .. } = &rows[0].as_ref().unwrap().input else { panic!("{rows:?}") };
    assert_eq!((prompt.as_str(), messages[0].content.as_str()), ("a b", "a b"));
    for (parts, found) in [
        (r#"{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}"#, "content[1]\": expected a part"),
        (r#"{"type": "image_url", "image_url": {}}"#, "found one of the type \"image_url\": only texts can be scored"),
        (r#"{"type": "text", "text": 3}"#, "key \"prompt[0].content[0].text\": expected a string, found the number 3"),
        (
            r#"{"text": "a"}"#,
            "key \"prompt[0].content[0]\": expected a part {\"type\": \"text\", \"text\"}, found an object",
        ),
        (r#""a""#, "found \"a\""),
    ] {
        folder.refused(row(parts), &["rows.jsonl:1: key \"prompt[0].content", found]);
    }
}

/// Refused at once, whoever may read them: a device has no end, and a pipe waits.
#[test]
fn what_is_no_regular_file() {
    let folder = Folder::new();
    let (pipe, socket) = (folder.0.path().join("pipe"), folder.0.path().join("socket"));
    let name = CString::new(pipe.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name ends in a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let _bound = UnixListener::bind(&socket).unwrap();
    let link = folder.0.path().join("link");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    for (path, what) in
        [(pipe.as_path(), "a pipe"), (&socket, "a socket"), (&link, "a device"), (Path::new("/dev/full"), "a device")]
    {
        let what = format!("cannot read {}: it is {what} and not a regular file", path.display());
        check(&read(path).unwrap_err(), &[&what]);
        check(&ScoreRows::open(path).err().unwrap(), &[&what]);
        check(&sets::read(path, None, 1).unwrap_err(), &[&what]);
        check(&References::read(path).unwrap_err(), &[&what]);
        check(&Config::load(path).unwrap_err(), &[&what]);
        check(&Tokenizer::load_file(path).err().unwrap(), &[&what]);
        check(&Pretrained::open(path).err().unwrap(), &[&what]);
        let config = DataHashes::of(&with_data(path)).unwrap_err();
        check(&config, &[&what]);
    }
}

fn with_data(path: &Path) -> Config {
    let mut config = Config::default();
    config.data.train = vec![path.into()];
    config
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
