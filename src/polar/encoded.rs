//! POLAR's string as the official client sends it: text with the special tokens spelt out.
//!
//! `prompt reference SEPARATOR prompt candidate SCORE`, already cut and joined, without BOS, which the server adds.

use crate::tokenizer::{Names, Tokenizer};
use crate::{Error, Result};

/// The ids of such a string: BOS, the text before the separator, the separator, the text after it, the score token.
///
/// The two special tokens are taken by their place alone: the only separator, and the score token that ends the
/// string. Both texts are encoded as the characters that they are, whatever they spell.
///
/// # Errors
/// The user's: no separator or several, another end than the score token, text that the tokenizer cannot represent.
pub fn encode_encoded(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let Names { separator, score } = tokenizer.names();
    let body = text.strip_suffix(score.as_str()).ok_or_else(|| {
        Error::user(format!("the string does not end with the score token {score:?}, where the score is read"))
    })?;
    let (first, second) = body.split_once(separator.as_str()).ok_or_else(|| {
        Error::user(format!("the string has no separator {separator:?} between reference and candidate"))
    })?;
    if second.contains(separator.as_str()) {
        let found = body.matches(separator.as_str()).count();
        return Err(Error::user(format!(
            "the string has {found} separators {separator:?}, so where reference and candidate begin is not known; \
             exactly one is allowed"
        )));
    }
    let [separator, score] = tokenizer.specials().polar()?;
    let mut ids: Vec<u32> = tokenizer.specials().bos.into_iter().collect();
    ids.extend(tokenizer.encode(first)?);
    ids.push(separator);
    ids.extend(tokenizer.encode(second)?);
    ids.push(score);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Wrapper;
    use crate::polar::{TemplateConfig, encode_candidate};
    use proptest::prelude::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::bytes(Names::default()).unwrap()
    }

    #[test]
    fn the_string_of_a_row_has_the_ids_of_the_row() {
        let tokenizer = tokenizer();
        let template = TemplateConfig { wrapper: Wrapper::Sft, max_length: 500, max_response_length: 200 };
        let (ids, _) = encode_candidate(&tokenizer, "p é", "one", "two", &template).unwrap();
        let encoded = encode_encoded(&tokenizer, "p é\none<|reward|>p é\ntwo[UNUSED_TOKEN_130]").unwrap();
        assert_eq!(encoded, ids);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "does not end with the score token"),
            ("a<|reward|>b", "does not end with the score token"),
            ("a<|reward|>b[UNUSED_TOKEN_130] ", "does not end with the score token"),
            ("a b[UNUSED_TOKEN_130]", "has no separator \"<|reward|>\""),
            ("[UNUSED_TOKEN_130]", "has no separator"),
            ("a<|reward|>b<|reward|>c<|reward|>[UNUSED_TOKEN_130]", "has 3 separators"),
        ] {
            let message = encode_encoded(&tokenizer(), text).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }

    proptest! {
        /// Texts that spell special tokens stay text, also where they make a separator across a join.
        #[test]
        fn no_text_brings_in_a_special_token(
            first in "(<s>|</s>|<unk>|\\[UNUSED_TOKEN_130\\]|<\\|reward|\\PC){0,9}",
            second in "(<s>|</s>|<unk>|\\[UNUSED_TOKEN_130\\]|reward\\|>|\\PC){0,9}",
        ) {
            let tokenizer = tokenizer();
            let specials = tokenizer.specials();
            let text = format!("{first}<|reward|>{second}[UNUSED_TOKEN_130]");
            prop_assume!(text.matches("<|reward|>").count() == 1);
            let ids = encode_encoded(&tokenizer, &text).unwrap();
            let found: Vec<u32> = ids.iter().copied().filter(|id| *id < 5).collect();
            prop_assert_eq!(found, [specials.bos.unwrap(), specials.separator.unwrap(), specials.score.unwrap()]);
            prop_assert_eq!(ids.last().copied(), specials.score);
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), [first, second].concat());
        }
    }
}
