//! In which form a model scores: POLAR's, or that of a reward model of another family.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::chat::ChatTemplate;
use crate::data::{Message, Wrapper};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What the string of a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// POLAR's: prompt and reference, separator, prompt and candidate, score token
    Polar,
    /// The model's chat template of prompt and candidate; no reference
    Chat,
    /// Prompt and candidate as one text; no reference
    Text,
}

impl Form {
    /// The form that was asked for, or else the one that the model was trained on: POLAR's if its vocabulary has
    /// separator and score token, else that of its chat template.
    ///
    /// # Errors
    /// The user's: a form that the model does not have, and what to do.
    pub fn of(tokenizer: &Tokenizer, wanted: Option<Self>) -> Result<Self> {
        let polar = tokenizer.specials().polar();
        match wanted {
            Some(Self::Polar) => polar.map(|_| Self::Polar).map_err(|error| {
                Error::user(format!("--form polar: {error}; train one from it with train --init, or leave --form away"))
            }),
            Some(Self::Chat) if tokenizer.chat_template()?.is_none() => Err(Error::user(
                "--form chat: there is no chat template; put the model's chat_template.jinja into its folder",
            )),
            Some(form) => Ok(form),
            None => match polar {
                Ok(_) => Ok(Self::Polar),
                Err(_) if tokenizer.chat_template()?.is_some() => Ok(Self::Chat),
                Err(error) => Err(Error::user(format!(
                    "{error}, and there is no chat template: put its chat_template.jinja into the folder, score plain \
                     text with --form text, or give input_ids"
                ))),
            },
        }
    }
}

/// The strings of a reward model of another family. Its score is read at their last token.
#[derive(Debug)]
pub struct OwnForm {
    tokenizer: Tokenizer,
    /// None for plain text.
    template: Option<ChatTemplate>,
    /// The longest sequence in ids.
    most: usize,
}

/// Characters that no text means anything with (Unicode's noncharacters), to break spellings with.
const MARKS: RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';
/// The special tokens that chat templates may name.
const TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

impl OwnForm {
    /// For the strings of `form`, [`Form::Chat`] or [`Form::Text`], of at most `most` ids.
    ///
    /// # Errors
    /// The user's: a damaged chat template.
    pub fn new(tokenizer: &Tokenizer, form: Form, most: usize) -> Result<Self> {
        let template = tokenizer.chat_template()?.filter(|_| form == Form::Chat);
        let tokens = || TOKENS.iter().filter_map(|key| Some((*key, tokenizer.configured(key)?))).collect();
        let template = template.map(|text| ChatTemplate::new(text, tokens())).transpose()?;
        Ok(Self { tokenizer: tokenizer.clone(), template, most })
    }

    /// The sequence of `candidate` as the answer to `prompt`. In plain text the two are joined as `wrapper` says. What
    /// spells a special token in either stays text.
    ///
    /// # Errors
    /// The user's: what the tokenizer cannot represent or the template refuses; a sequence that is empty or too long.
    pub fn encode(&self, prompt: &[Message], candidate: &str, wrapper: Wrapper) -> Result<Vec<u32>> {
        let ids = match &self.template {
            Some(template) => {
                let answer = Message { role: "assistant".into(), content: candidate.into() };
                self.rendered(template, prompt.iter().cloned().chain([answer]).collect())?
            }
            None => {
                let prompt: Vec<&str> = prompt.iter().map(|message| message.content.as_str()).collect();
                let between = if wrapper == Wrapper::Pretrain { "" } else { "\n" };
                let [before, after] = self.tokenizer.frame()?;
                let text = self.tokenizer.encode(&[&prompt.join("\n"), between, candidate].concat())?;
                [before, text, after].concat()
            }
        };
        match ids.len() {
            0 => Err(Error::user("the text is empty: there is no token to read a score at")),
            len if len > self.most => {
                let most = self.most;
                Err(Error::user(format!(
                    "the sequence has {len} tokens; the model reads at most {most}, and only strings of POLAR's form \
                     are cut: shorten the row"
                )))
            }
            _ => Ok(ids),
        }
    }

    /// The ids of a conversation, whose special tokens are those of the template alone.
    fn rendered(&self, template: &ChatTemplate, mut messages: Vec<Message>) -> Result<Vec<u32>> {
        let spelt = self.tokenizer.spelt()?;
        let texts = |messages: &[Message], is: &dyn Fn(&str) -> bool| {
            messages.iter().any(|message| is(&message.content) || is(&message.role))
        };
        if !texts(&messages, &|text| spelt.is_match(text)) {
            return self.tokenizer.encode_spelt(&template.render(&messages)?, false);
        }
        let mark = MARKS.into_iter().find(|mark| !texts(&messages, &|text| text.contains(*mark)));
        let mark =
            mark.ok_or_else(|| Error::user("the text has too many of Unicode's noncharacters: take them out"))?;
        for text in messages.iter_mut().flat_map(|message| [&mut message.content, &mut message.role]) {
            // What is broken may leave another spelling that overlaps it.
            while spelt.is_match(text.as_str()) {
                let mut marked = String::new();
                spelt.replace_all_with(text, &mut marked, |_, found, marked| {
                    marked.push_str(&broken(found, mark));
                    true
                });
                *text = marked;
            }
        }
        let rendered = template.render(&messages)?;
        self.tokenizer.encode_parts(&rendered, |part| self.tokenizer.encode(&part.replace(mark, "")))
    }
}

/// The text with `mark` after every character.
fn broken(text: &str, mark: char) -> String {
    text.chars().flat_map(|char| [char, mark]).collect()
}
