//! What an endpoint makes of a body: sequences to score, and the answer once the scores are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Info;
use super::error::ApiError;
use super::normalise::{Normalisation, Running};
use crate::polar::{Form, encode_encoded};

/// Tokens of all sequences of one request, at most: 64 MiB of ids.
pub const MAX_IDS: usize = 1 << 24;

/// Whose server a bare path stands in for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Compat {
    /// SGLang, which has no /pooling: a bare /pooling is refused.
    Sglang,
    /// vLLM: /pooling answers a list of numbers for each sequence.
    #[default]
    Vllm,
    /// LMDeploy: /pooling answers a number for each sequence.
    Lmdeploy,
}

/// What the endpoints need to know.
#[derive(Clone)]
pub struct Context {
    /// The model.
    pub info: Arc<Info>,
    /// Its name in answers.
    pub model: Arc<str>,
    /// Whose `/pooling` a bare path means.
    pub compat: Compat,
    /// What is answered in the place of raw scores.
    pub normalise: Normalisation,
    /// All scores that were given.
    pub running: Arc<Running>,
    /// Whether nobody waits for the answer any more.
    pub given_up: Arc<AtomicBool>,
}

/// Sequences to score and what to answer.
pub struct ScoreWork {
    /// None is empty.
    pub sequences: Vec<Vec<u32>>,
    /// How many of them, from the first on, the answer is about, if it normalises by itself.
    pub normalises: Option<usize>,
    reply: Reply,
}

type Reply = Box<dyn FnOnce(&Context, &[f32], &Usage) -> Value + Send>;

impl ScoreWork {
    /// `reply` gets a score and a number of tokens for each sequence, in order.
    pub fn new(
        sequences: Vec<Vec<u32>>,
        reply: impl FnOnce(&Context, &[f32], &Usage) -> Value + Send + 'static,
    ) -> Self {
        Self { sequences, normalises: None, reply: Box::new(reply) }
    }

    /// The reply normalises by itself; it is about the first `count` sequences.
    pub fn normalising(mut self, count: usize) -> Self {
        self.normalises = Some(count);
        self
    }

    /// Takes the sequences; what is left makes the answer.
    pub fn split(self) -> (Vec<Vec<u32>>, Reply) {
        (self.sequences, self.reply)
    }
}

/// Tokens of each sequence of a request.
pub struct Usage {
    /// In order.
    pub tokens: Vec<usize>,
}

impl Usage {
    /// Tokens of all sequences.
    pub fn total(&self) -> usize {
        self.tokens.iter().sum()
    }

    /// As OpenAI's interface counts them.
    pub fn to_json(&self) -> Value {
        let total = self.total();
        json!({"prompt_tokens": total, "completion_tokens": 0, "total_tokens": total})
    }
}

impl Context {
    /// A name for an answer, unlike all others of this process.
    pub fn id(&self, kind: &str) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        format!("{kind}-{:x}-{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends the work between two texts once nobody waits for it.
    pub fn go_on(&self) -> Result<(), ApiError> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "given_up", "nobody waits for this any more"));
        }
        Ok(())
    }

    /// Refuses a text that is too long to be worth encoding: encoding takes a hundred bytes for one of text.
    pub fn short(&self, place: impl std::fmt::Display, text: &str) -> Result<(), ApiError> {
        self.go_on()?;
        // Ordinary text has four bytes a token.
        let (len, most) = (text.len(), (64 * self.info.max_length).max(1 << 20));
        if len > most {
            return Err(ApiError::invalid(format!(
                "{place}: a text of {len} bytes; this server takes at most {most}, so cut it"
            )));
        }
        Ok(())
    }

    /// The ids of a text that is [`short`](Self::short).
    pub fn encode(&self, place: impl std::fmt::Display, text: &str) -> Result<Vec<u32>, ApiError> {
        self.short(&place, text)?;
        self.info.tokenizer.encode(text).map_err(|error| ApiError::text(place, &error))
    }

    /// Refuses a sequence that is longer than the model reads.
    pub fn fits(&self, place: impl std::fmt::Display, ids: &[u32]) -> Result<(), ApiError> {
        let (len, most) = (ids.len(), self.info.max_length);
        if len > most {
            return Err(ApiError::invalid(format!(
                "{place}: the sequence has {len} tokens and this server takes at most {most}; cut it, or start the \
                 server with a larger --max-length"
            )));
        }
        Ok(())
    }

    /// Refuses what only a model of POLAR's form can answer.
    pub fn polar(&self) -> Result<(), ApiError> {
        if self.info.form == Form::Polar {
            return Ok(());
        }
        Err(ApiError::invalid(
            "this model is not of POLAR's form, which compares with a reference: give its own strings to /classify or \
             /pooling",
        ))
    }

    /// The ids of a string as the original servers are given it.
    pub fn string(&self, place: impl std::fmt::Display, text: &str) -> Result<Vec<u32>, ApiError> {
        let Info { tokenizer, form, .. } = &*self.info;
        let ids = match form {
            Form::Polar => encode_encoded(tokenizer, text),
            // What a chat template gave may begin with BOS itself.
            Form::Chat | Form::Text => {
                let bos = tokenizer.specials().bos.and_then(|id| tokenizer.name(id));
                tokenizer.encode_spelt(text, !bos.is_some_and(|bos| text.starts_with(&bos)))
            }
        };
        match ids.map_err(|error| ApiError::text(&place, &error))? {
            ids if ids.is_empty() => Err(ApiError::invalid(format!("{place}: there is nothing to score"))),
            ids => Ok(ids),
        }
    }

    /// Refuses a sequence of ids that is none of this model's, or does not end where a score is read.
    pub fn ids(&self, place: impl std::fmt::Display, ids: &[u32]) -> Result<(), ApiError> {
        self.go_on()?;
        self.fits(&place, ids)?;
        let vocab = self.info.vocab_size;
        let score = self.info.tokenizer.specials().score.filter(|_| self.info.form == Form::Polar);
        if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
            return Err(ApiError::invalid(format!(
                "{place}[{index}]: {id} is not a token id: it is not below {vocab}"
            )));
        }
        if let Some(score) = score.filter(|score| ids.last() != Some(score)) {
            return Err(ApiError::invalid(format!(
                "{place}: the sequence does not end with the score token, {score}, where the score is read"
            )));
        }
        Ok(())
    }
}

/// Refuses a request whose sequences have more tokens than [`MAX_IDS`] together.
pub fn bounded(tokens: usize) -> Result<(), ApiError> {
    if tokens > MAX_IDS {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!(
                "the sequences have more than {MAX_IDS} tokens together, and the prompt counts in each: send several \
                 requests"
            ),
        ));
    }
    Ok(())
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
