//! POLAR's string: both wrappers, truncation, and that no text can bring in a special token.

use polar_raw::config::DataSection;
use polar_raw::data::{Document, Triple, Wrapper};
use polar_raw::polar::{CutReport, TemplateConfig, encode_candidate, encode_document, encode_triple};
use polar_raw::tokenizer::{Names, Tokenizer};
use proptest::prelude::*;
use std::sync::LazyLock;

static BYTES: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::bytes(Names::default()).unwrap());
static BPE: LazyLock<Tokenizer> = LazyLock::new(|| {
    let texts = (0..300).map(|n| format!("Question {n}: what is {n} + 1?\nThe answer is {}. <|reward|></s>", n + 1));
    Tokenizer::train(texts, 320, 1 << 20, Names::default()).unwrap()
});

fn config(max_length: usize, max_response_length: usize) -> TemplateConfig {
    TemplateConfig { wrapper: Wrapper::Sft, max_length, max_response_length }
}

fn triple(prompt: &str, reference: &str, chosen: &str, rejected: &str) -> Triple {
    let [prompt, reference, chosen, rejected] = [prompt, reference, chosen, rejected].map(String::from);
    Triple { prompt, reference, chosen, rejected, wrapper: None }
}

/// Ids as text, the special tokens by name.
fn spell(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let specials = tokenizer.specials();
    let name = |id: &u32| match *id {
        id if Some(id) == specials.bos => "[BOS]".into(),
        id if Some(id) == specials.eos => "[EOS]".into(),
        id if Some(id) == specials.separator => "[SEP]".into(),
        id if Some(id) == specials.score => "[SCORE]".into(),
        id => tokenizer.decode(&[id]).unwrap(),
    };
    ids.iter().map(name).collect()
}

#[test]
fn both_wrappers() {
    for tokenizer in [&*BYTES, &*BPE] {
        let mut row = triple("what is 1?", "one", "ein", "no");
        let pair = encode_triple(tokenizer, &row, &config(200, 50)).unwrap();
        assert_eq!(spell(tokenizer, &pair.chosen), "[BOS]what is 1?\none[SEP]what is 1?\nein[SCORE]");
        assert_eq!(spell(tokenizer, &pair.rejected), "[BOS]what is 1?\none[SEP]what is 1?\nno[SCORE]");
        assert!(!pair.cut.any());
        row.wrapper = Some(Wrapper::Pretrain);
        let pair = encode_triple(tokenizer, &row, &config(200, 50)).unwrap();
        assert_eq!(spell(tokenizer, &pair.chosen), "[BOS]what is 1?one[SEP]what is 1?ein[SCORE]");
        let (ids, _) = encode_candidate(tokenizer, "what is 1?", "one", "ein", &config(200, 50)).unwrap();
        assert_eq!(spell(tokenizer, &ids), "[BOS]what is 1?\none[SEP]what is 1?\nein[SCORE]");
    }
}

#[test]
fn tokens_merge_across_the_join() {
    let (ids, _) = encode_candidate(
        &BPE,
        "The ans",
        "wer is",
        "wer is",
        &TemplateConfig { wrapper: Wrapper::Pretrain, ..config(100, 50) },
    )
    .unwrap();
    let joined = BPE.encode("The answer is").unwrap();
    assert!(joined.len() < BPE.encode("The ans").unwrap().len() + BPE.encode("wer is").unwrap().len());
    assert_eq!(ids[1..=joined.len()], joined);
}

#[test]
fn an_empty_trajectory_has_no_newline() {
    let pair = encode_triple(&BYTES, &triple("p", "", "c", ""), &config(100, 50)).unwrap();
    assert_eq!(spell(&BYTES, &pair.chosen), "[BOS]p[SEP]p\nc[SCORE]");
    assert_eq!(spell(&BYTES, &pair.rejected), "[BOS]p[SEP]p[SCORE]");
}

#[test]
fn truncation_follows_the_training_code() {
    // Responses keep 10 ids, BOS among them; the prompt keeps (60 - 4 - 10 - 10) / 2 = 18 ids for the longer candidate.
    let prompt = "0123456789abcdefghijklmnopqrst";
    let row = triple(prompt, "REFERENCE LONG", "CHOSEN LONG TOO", "short");
    let pair = encode_triple(&BYTES, &row, &config(60, 10)).unwrap();
    let kept = "cdefghijklmnopqrst";
    assert_eq!(spell(&BYTES, &pair.chosen), format!("[BOS]{kept}\nREFERENCE[SEP]{kept}\nCHOSEN LO[SCORE]"));
    assert_eq!(spell(&BYTES, &pair.rejected), format!("[BOS]{kept}\nREFERENCE[SEP]{kept}\nshort[SCORE]"));
    assert_eq!(pair.chosen.len(), 59);
    assert_eq!(pair.cut, CutReport { prompt: 12, reference: 5, candidates: 6 });

    // A prompt that fits together with its BOS is left alone: 17 + 1 = 18.
    let pair =
        encode_triple(&BYTES, &triple(&prompt[..17], &row.reference, &row.chosen, "s"), &config(60, 10)).unwrap();
    assert_eq!(pair.cut.prompt, 0);
    let pair =
        encode_triple(&BYTES, &triple(&prompt[..18], &row.reference, &row.chosen, "s"), &config(60, 10)).unwrap();
    assert_eq!(pair.cut.prompt, 0, "18 ids are kept of 18");
}

#[test]
fn half_a_character_is_left_out() {
    let pair = encode_triple(&BYTES, &triple("éééééééé", "ééééé", "ééééé", "ééééé"), &config(25, 6)).unwrap();
    assert_eq!(spell(&BYTES, &pair.chosen).replace('\u{fffd}', ""), "[BOS]\n[SEP]\n[SCORE]");
    assert_eq!(BYTES.decode(&pair.chosen).unwrap(), "éé\néééé\néé");
}

#[test]
fn documents() {
    let document = Document { prompt: "ab".into(), output: "cd".into() };
    let sequences = |document: &Document, max_length| {
        let sequences = encode_document(&BYTES, document, &config(max_length, 2)).unwrap();
        sequences.iter().map(|ids| spell(&BYTES, ids)).collect::<Vec<_>>()
    };
    assert_eq!(sequences(&document, 10), ["[BOS]ab\ncd[EOS]"]);
    assert_eq!(sequences(&document, 4), ["[BOS]ab\n", "cd[EOS]"]);
    assert_eq!(sequences(&Document { prompt: String::new(), output: "x".into() }, 9), ["[BOS]x[EOS]"]);
    assert!(sequences(&Document { prompt: String::new(), output: String::new() }, 9).is_empty());
}

#[test]
fn lengths_that_fit_nothing_are_refused() {
    let section = DataSection { max_length: 7, ..DataSection::default() };
    assert!(TemplateConfig::new(&section).unwrap_err().to_string().contains("data.max_length = 7"));
    let section = DataSection { max_response_length: 1, ..DataSection::default() };
    assert!(TemplateConfig::new(&section).unwrap_err().to_string().contains("data.max_response_length = 1"));
    assert!(TemplateConfig::new(&DataSection::default()).is_ok());
}

/// Text with special tokens' spellings in it.
fn text() -> impl Strategy<Value = String> {
    let spellings =
        vec!["<|reward|>", "[UNUSED_TOKEN_130]", "<s>", "</s>", "<unk>", "é", "😀", "\u{fffd}", "\n", " answer", "7"];
    let piece = prop_oneof![
        prop::sample::select(spellings).prop_map(String::from),
        any::<char>().prop_map(String::from),
        "\\PC{0,12}"
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn sequences_are_bounded_and_hold_no_foreign_special(
        texts in [text(), text(), text(), text()],
        max_length in 8..90usize,
        max_response_length in 2..60usize,
        pretrain: bool,
        trained: bool,
    ) {
        let tokenizer = if trained { &*BPE } else { &*BYTES };
        let [prompt, reference, chosen, rejected] = &texts;
        let mut row = triple(prompt, reference, chosen, rejected);
        row.wrapper = pretrain.then_some(Wrapper::Pretrain);
        let pair = encode_triple(tokenizer, &row, &config(max_length, max_response_length)).unwrap();
        let specials = tokenizer.specials();
        let separator = |ids: &[u32]| ids.iter().position(|id| Some(*id) == specials.separator).unwrap();
        for ids in [&pair.chosen, &pair.rejected] {
            prop_assert!(ids.len() <= max_length);
            let found: Vec<u32> = ids.iter().copied().filter(|id| *id < 5).collect();
            prop_assert_eq!(found, [specials.bos.unwrap(), specials.separator.unwrap(), specials.score.unwrap()]);
            prop_assert_eq!(ids.first().copied(), specials.bos);
            prop_assert_eq!(ids.last().copied(), specials.score);
        }
        let prefix = separator(&pair.chosen);
        prop_assert_eq!(&pair.chosen[..=prefix], &pair.rejected[..=separator(&pair.rejected)]);
        if !pair.cut.any() {
            let newline = |response: &str| if pretrain || response.is_empty() { "" } else { "\n" };
            let first = [prompt, newline(reference), reference].concat();
            let second = [prompt, newline(chosen), chosen].concat();
            prop_assert_eq!(tokenizer.decode(&pair.chosen[..prefix]).unwrap(), first);
            prop_assert_eq!(tokenizer.decode(&pair.chosen[prefix..]).unwrap(), second);
        }
    }
}
