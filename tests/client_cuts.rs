//! The official client's truncation, against its rule spelled out, and where it is left.

use std::sync::LazyLock;

use polar_raw::data::Wrapper;
use polar_raw::polar::{CutReport, CutSide, TemplateConfig, encode_as_client};
use polar_raw::tokenizer::{Names, Tokenizer};
use proptest::prelude::*;

static BYTES: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::bytes(Names::default()).unwrap());
static BPE: LazyLock<Tokenizer> = LazyLock::new(|| {
    let texts = (0..300).map(|n| format!("Question {n}: what is {n} + 1?\nThe answer is {}. <|reward|></s>", n + 1));
    Tokenizer::train(texts, 320, 1 << 20, Names::default()).unwrap()
});

fn config(wrapper: Wrapper, max_length: usize, max_response_length: usize) -> TemplateConfig {
    TemplateConfig { wrapper, max_length, max_response_length }
}

/// Python's `ids[-n:]`.
fn last(ids: &[u32], n: i64) -> &[u32] {
    let from = if n > 0 { ids.len() as i64 - n } else { -n };
    &ids[from.clamp(0, ids.len() as i64) as usize..]
}

/// `RewardModelClient._encode` line by line, and the server's tokenization of what it gives.
fn official(tokenizer: &Tokenizer, texts: [&str; 3], config: &TemplateConfig, side: CutSide) -> Vec<u32> {
    let specials = tokenizer.specials();
    let bos = specials.bos.unwrap();
    let [p, r1, r2] = texts.map(|text| [&[bos][..], &tokenizer.encode(text).unwrap()].concat());
    let cut = |ids: Vec<u32>| match side {
        _ if ids.len() <= config.max_response_length => ids,
        CutSide::Right => ids[..config.max_response_length].to_vec(),
        CutSide::Left => last(&ids, config.max_response_length as i64).to_vec(),
    };
    let (r1, r2) = (cut(r1), cut(r2));
    let budget = (config.max_length as i64 - 4 - r1.len() as i64 - r2.len() as i64).div_euclid(2);
    let p = if p.len() as i64 > budget { last(&p, budget).to_vec() } else { p };
    let [p, r1, r2] = [p, r1, r2].map(|ids| tokenizer.decode(&ids).unwrap());
    let newline = if config.wrapper == Wrapper::Sft { "\n" } else { "" };
    let ids = |response: &str| tokenizer.encode(&[&p, newline, response].concat()).unwrap();
    [vec![bos], ids(&r1), vec![specials.separator.unwrap()], ids(&r2), vec![specials.score.unwrap()]].concat()
}

fn text() -> impl Strategy<Value = String> {
    let pieces =
        vec!["<|reward|>", "[UNUSED_TOKEN_130]", "</s>", "é", "😀", "\u{fffd}", "\n", " answer", "Question 7", " "];
    let piece = prop_oneof![prop::sample::select(pieces).prop_map(String::from), "\\PC{0,12}"];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn ids_are_the_clients_wherever_those_fit(
        prompt in text(),
        reference in text(),
        candidates in prop::collection::vec(text(), 1..4),
        max_length in 8..160usize,
        max_response_length in 2..90usize,
        left: bool,
        pretrain: bool,
        trained: bool,
    ) {
        let tokenizer = if trained { &*BPE } else { &*BYTES };
        let wrapper = if pretrain { Wrapper::Pretrain } else { Wrapper::Sft };
        let side = if left { CutSide::Left } else { CutSide::Right };
        let config = config(wrapper, max_length, max_response_length);
        let texts: Vec<&str> = candidates.iter().map(String::as_str).collect();
        let sequences = encode_as_client(tokenizer, &prompt, &reference, &texts, &config, side).unwrap();
        prop_assert_eq!(sequences.len(), texts.len());
        for (sequence, candidate) in sequences.iter().zip(&texts) {
            let official = official(tokenizer, [&prompt, &reference, candidate], &config, side);
            prop_assert!(sequence.ids.len() <= max_length);
            if official.len() <= max_length {
                prop_assert_eq!(&sequence.ids, &official);
            }
            let specials = tokenizer.specials();
            let found: Vec<u32> = sequence.ids.iter().copied().filter(|id| *id < 5).collect();
            prop_assert_eq!(found, [specials.bos.unwrap(), specials.separator.unwrap(), specials.score.unwrap()]);
            prop_assert_eq!(sequence.ids.last().copied(), specials.score);
        }
    }
}

/// What a sequence says, the special tokens as `|`.
fn spelled(texts: [&str; 3], config: &TemplateConfig, side: CutSide) -> (String, CutReport) {
    let [prompt, reference, candidate] = texts;
    let cut = encode_as_client(&BYTES, prompt, reference, &[candidate], config, side).unwrap().remove(0);
    let specials = BYTES.specials();
    let ends = [specials.bos.unwrap(), specials.separator.unwrap(), specials.score.unwrap()];
    let parts: Vec<String> = cut.ids.split(|id| ends.contains(id)).map(|part| BYTES.decode(part).unwrap()).collect();
    (parts.join("|"), cut.cut)
}

#[test]
fn both_sides() {
    let texts = ["0123456789abcdefghijklmnopqrst", "REFERENCE LONG", "CANDIDATE LONG"];
    let config = config(Wrapper::Sft, 60, 10);
    let (right, cut) = spelled(texts, &config, CutSide::Right);
    assert_eq!(right, "|cdefghijklmnopqrst\nREFERENCE|cdefghijklmnopqrst\nCANDIDATE|");
    assert_eq!(cut, CutReport { prompt: 12, reference: 5, candidates: 5 });
    // The client's ids are 61 here: BOS is not among the ids kept from the right and comes on top. The prompt gives way.
    let (left, cut) = spelled(texts, &config, CutSide::Left);
    assert_eq!(left, "|defghijklmnopqrst\nRENCE LONG|defghijklmnopqrst\nIDATE LONG|");
    assert_eq!(cut, CutReport { prompt: 13, reference: 4, candidates: 4 });
}

#[test]
fn an_empty_trajectory_has_its_newline() {
    let config = config(Wrapper::Sft, 60, 10);
    assert_eq!(spelled(["p", "", ""], &config, CutSide::Right).0, "|p\n|p\n|");
    assert_eq!(
        spelled(["p", "", ""], &TemplateConfig { wrapper: Wrapper::Pretrain, ..config }, CutSide::Left).0,
        "|p|p|"
    );
}

#[test]
fn half_a_character_becomes_the_replacement_character() {
    let config = config(Wrapper::Sft, 60, 4);
    assert_eq!(spelled(["p", "éé", "éé"], &config, CutSide::Right).0, "|p\né\u{fffd}|p\né\u{fffd}|");
}

#[test]
fn responses_that_leave_no_room_for_a_prompt_get_half_each() {
    // The client would send 2 * 30 + 31 + 31 + 5 ids for the first, and no prompt at all for the second.
    let (prompt, long, longer) = ("p".repeat(30), "r".repeat(31), "r".repeat(90));
    for response in [&long, &longer] {
        let config = config(Wrapper::Sft, 68, 100);
        let (text, cut) = spelled([&prompt, response, response], &config, CutSide::Right);
        let half = "r".repeat(31);
        assert_eq!(text, format!("|\n{half}|\n{half}|"));
        assert_eq!(cut, CutReport { prompt: 30, reference: response.len() - 31, candidates: response.len() - 31 });
    }
}

#[test]
fn a_candidate_is_cut_without_regard_to_the_others() {
    let prompt = "0123456789".repeat(5);
    let config = config(Wrapper::Sft, 70, 30);
    let both = encode_as_client(&BYTES, &prompt, "ref", &["short", &"x".repeat(29)], &config, CutSide::Right).unwrap();
    assert_eq!((both[0].cut.prompt, both[1].cut.prompt), (50 - (66 - 4 - 6) / 2, 50 - (66 - 4 - 30) / 2));
    let alone = encode_as_client(&BYTES, &prompt, "ref", &["short"], &config, CutSide::Right).unwrap();
    assert_eq!(both[0], alone[0]);
}
