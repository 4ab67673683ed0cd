//! Any bytes at all are read or refused with a message, never with a panic.

use proptest::prelude::*;
use std::io::Cursor;
use std::path::Path;

use super::lines::Lines;
use super::read::read_lines;
use super::score_rows::ScoreRows;
use crate::error::ErrorKind;

const LIMIT: usize = 1 << 12;

fn lines(bytes: &[u8]) -> crate::Result<Lines> {
    Lines::new(Path::new("some.jsonl"), Cursor::new(bytes.to_vec()), LIMIT)
}

/// Reads the bytes in every way; whether they are a good file of rows.
fn read_every_way(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let rows = lines(bytes).and_then(|lines| read_lines(lines, false));
    for result in [&rows, &lines(bytes).and_then(|lines| read_lines(lines, true))] {
        match result {
            Ok(records) => prop_assert!(!records.is_empty()),
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::User);
                prop_assert!(error.to_string().contains("some.jsonl"), "{}", error);
            }
        }
    }
    if let Ok(lines) = lines(bytes) {
        let mut last = None;
        for row in ScoreRows::new(lines) {
            prop_assert!(!matches!(last, Some(Err(_))), "a row after an error");
            last = Some(row);
        }
        prop_assert!(last.is_some(), "an empty file is an error");
    }
    Ok(rows.is_ok())
}

/// A JSON value, often one that a row may have.
fn value() -> impl Strategy<Value = String> {
    let usual = [
        "\"text\"",
        "\"\"",
        "\"sft\"",
        "\"pretrain\"",
        "\"\\u00e9\\n\"",
        "\"\\ud83d\"",
        "[1, 2, 3]",
        "[4294967296]",
        "[-1]",
        "[]",
        "null",
        "1e999",
        "{}",
        "true",
        "[{\"role\": \"user\", \"content\": \"a\"}]",
        "[{\"content\": 1}]",
        "[[[[]]]]",
        "\"",
        "\u{feff}",
        "\u{0}",
    ];
    prop_oneof![4 => prop::sample::select(usual.to_vec()).prop_map(String::from), 1 => "\\PC{0,8}"]
}

/// A line that looks like a row.
fn row() -> impl Strategy<Value = String> {
    let keys = [
        "prompt",
        "policy",
        "output",
        "reference",
        "chosen",
        "rejected",
        "wrapper",
        "text",
        "chosen_ids",
        "rejected_ids",
        "input_ids",
        "other",
    ];
    let pair = (prop::sample::select(keys.to_vec()), value()).prop_map(|(key, value)| format!("\"{key}\": {value}"));
    let good = r#"{"prompt": "p", "policy": "a", "output": "o"}"#;
    prop_oneof![
        2 => Just(String::from(good)),
        4 => prop::collection::vec(pair, 0..6).prop_map(|pairs| format!("{{{}}}", pairs.join(", "))),
        1 => Just(String::new()),
    ]
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_every_way(&bytes)?;
    }

    #[test]
    fn rows_of_any_shape(rows in prop::collection::vec(row(), 0..5), end in prop::sample::select(vec!["\n", "\r\n", "\n\n"])) {
        read_every_way(rows.join(end).as_bytes())?;
    }

    #[test]
    fn damaged_rows(rows in prop::collection::vec(row(), 1..4), place: prop::sample::Index, byte: u8) {
        let mut bytes = rows.join("\n").into_bytes();
        if !bytes.is_empty() {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read_every_way(&bytes)?;
    }

    #[test]
    fn zstd_gives_the_same_and_its_damage_is_noticed(
        rows in prop::collection::vec(row(), 1..4),
        cut: prop::sample::Index,
        place: prop::sample::Index,
        byte: u8,
    ) {
        let plain = rows.join("\n").into_bytes();
        let packed = zstd::encode_all(&plain[..], 1).unwrap();
        prop_assert_eq!(read_every_way(&plain)?, read_every_way(&packed)?);
        let short = &packed[..cut.index(packed.len())];
        prop_assert!(!read_every_way(short)?, "a file cut short passes");
        let mut damaged = packed.clone();
        damaged[place.index(packed.len())] = byte;
        read_every_way(&damaged)?;
    }
}
