//! The forms in which training frameworks ask for rewards. The label is the reference.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Info;
use super::error::ApiError;
use super::input::{Many, Text, parse};
use super::work::{Context, ScoreWork};
use crate::polar::{ClientEncoder, CutSide};

/// How chat templates end a turn. A query of OpenRLHF is decoded with its special tokens, and the reference has none.
const ENDS: [&str; 7] = ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "</s>", "<pad>"];

/// OpenRLHF's remote reward model: `query` is prompt and response in one string.
#[derive(Deserialize)]
struct Queries {
    query: Many<String>,
    prompts: Many<Text>,
    labels: Many<Text>,
}

/// `POST /get_reward`: OpenRLHF's form.
pub fn openrlhf(context: &Context, body: &[u8]) -> Result<ScoreWork, ApiError> {
    let Queries { query, prompts, labels } = parse(body, &["query", "prompts", "labels"])?;
    let count = query.0.len();
    if prompts.0.len() != count || labels.0.len() != count {
        let (prompts, labels) = (prompts.0.len(), labels.0.len());
        return Err(ApiError::invalid(format!(
            "query, prompts and labels belong together, but there are {count}, {prompts} and {labels}"
        )));
    }
    let rows = query.0.iter().zip(&prompts.0).zip(&labels.0).enumerate();
    let sequence = |(index, ((query, Text(prompt)), Text(label))): (usize, ((&String, &Text), &Text))| {
        let keys = [format!("prompts[{index}]"), format!("labels[{index}]"), format!("query[{index}]")];
        let [at_prompt, _, at_query] = &keys;
        context.short(at_prompt, prompt)?;
        let response = response(query, prompt)
            .ok_or_else(|| ApiError::invalid(format!("{at_query}: it does not begin with {at_prompt}")))?;
        row(context, &keys, prompt, label, response)
    };
    Ok(ScoreWork::new(
        rows.map(sequence).collect::<Result<_, _>>()?,
        |_, scores, _| json!({"rewards": scores, "scores": scores, "extra_logs": Map::new()}),
    ))
}

/// What follows the prompt in a query, without the tokens that end the turn and fill up the row. The tokenizer of the
/// policy may have put such as `<pad>` and `<s>` before the prompt.
fn response<'a>(query: &'a str, prompt: &str) -> Option<&'a str> {
    let mut response = match query.strip_prefix(prompt) {
        Some(response) => response,
        None => after_tokens(query, prompt)?,
    };
    while let Some(shorter) = ENDS.iter().find_map(|end| response.trim_end().strip_suffix(end)) {
        response = shorter;
    }
    Some(response)
}

/// What follows the prompt where only special tokens stand before it. The time is linear: the prompt is not compared
/// anew after each token.
fn after_tokens<'a>(query: &'a str, prompt: &str) -> Option<&'a str> {
    let mut places = Occurrences::new(query.as_bytes(), prompt.as_bytes()).peekable();
    let mut rest = query;
    loop {
        rest = after_token(rest)?;
        let begin = query.len() - rest.len();
        while places.next_if(|place| *place < begin).is_some() {}
        if *places.peek()? == begin {
            return rest.get(prompt.len()..);
        }
    }
}

/// Where a pattern that is not empty occurs in a text, overlapping occurrences too (Knuth, Morris and Pratt).
struct Occurrences<'a> {
    text: &'a [u8],
    pattern: &'a [u8],
    /// Of each beginning of the pattern, how long the longest shorter beginning is that it ends with.
    borders: Vec<u32>,
    /// Bytes of the text that have been read.
    read: usize,
    /// Bytes of the pattern that what has been read ends with.
    matched: usize,
}

impl<'a> Occurrences<'a> {
    fn new(text: &'a [u8], pattern: &'a [u8]) -> Self {
        let mut all = Self { text, pattern, borders: Vec::with_capacity(pattern.len()), read: 0, matched: 0 };
        for (index, byte) in pattern.iter().enumerate() {
            if index > 0 {
                all.step(*byte);
            }
            all.borders.push(all.matched as u32);
        }
        all.matched = 0;
        all
    }

    /// Reads a byte.
    fn step(&mut self, byte: u8) {
        while self.matched > 0 && self.pattern.get(self.matched) != Some(&byte) {
            self.matched = self.borders.get(self.matched - 1).map_or(0, |border| *border as usize);
        }
        self.matched += usize::from(self.pattern.get(self.matched) == Some(&byte));
    }
}

impl Iterator for Occurrences<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while let Some(byte) = self.text.get(self.read) {
            self.read += 1;
            self.step(*byte);
            if self.matched == self.pattern.len() {
                return Some(self.read - self.matched);
            }
        }
        None
    }
}

/// What follows `<…>`, which is how special tokens are spelt.
fn after_token(text: &str) -> Option<&str> {
    let (name, rest) = text.strip_prefix('<')?.split_once('>')?;
    (!name.is_empty() && !name.contains(|c: char| c == '<' || c.is_whitespace())).then_some(rest)
}

/// One response.
#[derive(Deserialize)]
struct Response {
    prompt: Text,
    response: Text,
    label: Text,
}

/// `POST /reward`: `{prompt, response, label}`, as slime's remote reward model asks; the answer is a number.
pub fn reward(context: &Context, body: &[u8]) -> Result<ScoreWork, ApiError> {
    let Response { prompt, response, label } = parse(body, &["prompt", "response", "label"])?;
    let keys = ["prompt", "label", "response"].map(String::from);
    let ids = row(context, &keys, &prompt.0, &label.0, &response.0)?;
    Ok(ScoreWork::new(vec![ids], |_, scores, _| scores.first().copied().map_or(Value::Null, Value::from)))
}

/// A sequence cut as the official client does, to the lengths of the model's template; `keys` are where the three texts stand.
fn row(context: &Context, keys: &[String; 3], prompt: &str, label: &str, response: &str) -> Result<Vec<u32>, ApiError> {
    context.polar()?;
    let [at_prompt, at_label, at_response] = keys;
    let (prompt, label) = (context.encode(at_prompt, prompt)?, context.encode(at_label, label)?);
    context.short(at_response, response)?;
    let Info { tokenizer, template, .. } = &*context.info;
    let mut encoder = ClientEncoder::new(tokenizer, prompt, label, template, CutSide::default());
    encoder.encode(response).map(|cut| cut.ids).map_err(|error| ApiError::text(at_response, &error))
}

#[cfg(test)]
mod tests {
    use super::{after_token, response};
    use proptest::prelude::*;

    proptest! {
        /// Against the definition: the prompt is looked for after one token more each time.
        #[test]
        fn tokens_before_the_prompt_are_skipped(query in "(<a>|<ab>|a|b|<){0,12}", prompt in "(<a>|<ab>|a|b|<|>){1,5}") {
            let mut rest = Some(query.as_str());
            let wanted = loop {
                match rest {
                    Some(text) if text.starts_with(&prompt) => break text.get(prompt.len()..),
                    Some(text) => rest = after_token(text),
                    None => break None,
                }
            };
            prop_assert_eq!(response(&query, &prompt), wanted);
        }
    }

    #[test]
    fn the_response_is_what_follows_the_prompt() {
        assert_eq!(response("Ask: ans", "Ask: "), Some("ans"));
        assert_eq!(response("<s>Ask: ans</s>", "Ask: "), Some("ans"));
        assert_eq!(response("Ask: ans <|im_end|>\n", "Ask: "), Some("ans "));
        assert_eq!(response("Ask: ans\n", "Ask: "), Some("ans\n"));
        assert_eq!(response("ans", "Ask: "), None);
        assert_eq!(response("<s>s answer", "s"), Some(" answer"));
        assert_eq!(response("<pad><pad><|begin_of_text|>text answer", "text"), Some(" answer"));
        assert_eq!(response("<s><s>ans", "<s>"), Some("<s>ans"));
        assert_eq!(response("Well: Ask: ans", "Ask: "), None);
        assert_eq!(response("a < b > Ask: ans", "Ask: "), None);
        assert_eq!(response("Ask: ans<|im_end|><|endoftext|><|endoftext|>", "Ask: "), Some("ans"));
    }
}
