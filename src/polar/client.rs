//! POLAR's string as the official client cuts it (`RewardModelClient._encode`, `xtuner/utils/rm_utils.py` of xtuner
//! 0.2.0), which is not quite as its training code does (`template.rs`).

use std::ops::Range;

use super::template::{CutReport, FRAME, TemplateConfig};
use crate::data::Wrapper;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Which end of a reference or candidate that is too long goes. Prompts lose their beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutSide {
    /// The end: as in training, and what POLAR's own client does unless it is told otherwise.
    #[default]
    Right,
    /// The beginning: what xtuner's client does unless it is told otherwise.
    Left,
}

/// A sequence to score, and what was cut to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The sequence.
    pub ids: Vec<u32>,
    /// What was cut; `candidates` is of this one.
    pub cut: CutReport,
}

/// The sequences of candidates, each as the official client would have it scored.
///
/// Reference and candidate keep `max_response_length` ids; the prompt keeps the last
/// `(max_length - 4 - reference - candidate) / 2`; BOS counts in each. All is decoded, joined and encoded again. Unlike
/// in training a candidate is cut without regard to the others, what a cut leaves of a character becomes U+FFFD, and
/// the newline of [`Wrapper::Sft`] stands before an empty trajectory too.
///
/// Ids are the client's wherever those are at most `max_length`. It exceeds that when responses leave no room for a
/// prompt, which it then keeps whole, and by a token or a few when both responses are cut from the left or get longer
/// by being encoded again. Here the responses are then cut to half of the room each, if they leave none for a prompt,
/// and the prompt until the sequence fits. And no text can bring in a special token: the client reads those that a text
/// spells.
///
/// # Errors
/// The user's, naming which text the tokenizer cannot represent.
pub fn encode_as_client(
    tokenizer: &Tokenizer,
    prompt: &str,
    reference: &str,
    candidates: &[&str],
    config: &TemplateConfig,
    side: CutSide,
) -> Result<Vec<Cut>> {
    let prompt = tokenizer.encode(prompt).map_err(|error| error.context("prompt"))?;
    let reference = tokenizer.encode(reference).map_err(|error| error.context("reference"))?;
    let mut encoder = ClientEncoder::new(tokenizer, prompt, reference, config, side);
    let candidate = |(index, text): (usize, &&str)| {
        encoder.encode(text).map_err(|error| error.context(format_args!("candidate {index}")))
    };
    candidates.iter().enumerate().map(candidate).collect()
}

/// [`encode_as_client`] for one candidate after the other, for whoever does not want the sequences of all at once.
pub struct ClientEncoder<'a> {
    tokenizer: &'a Tokenizer,
    config: &'a TemplateConfig,
    side: CutSide,
    prompt: Vec<u32>,
    reference: Vec<u32>,
    /// The last prefix, with what it keeps of prompt and reference: most candidates have the same.
    prefix: Option<([Range<usize>; 2], Prefix)>,
}

/// The prompt as text, and the ids up to the separator.
struct Prefix {
    prompt: String,
    ids: Vec<u32>,
}

impl<'a> ClientEncoder<'a> {
    /// For candidates of a prompt and a reference, both as the tokenizer encodes them.
    pub fn new(
        tokenizer: &'a Tokenizer,
        prompt: Vec<u32>,
        reference: Vec<u32>,
        config: &'a TemplateConfig,
        side: CutSide,
    ) -> Self {
        Self { tokenizer, config, side, prompt, reference, prefix: None }
    }

    /// The sequence of a candidate.
    ///
    /// # Errors
    /// The user's, when the tokenizer cannot represent it.
    pub fn encode(&mut self, candidate: &str) -> Result<Cut> {
        let candidate = &self.tokenizer.encode(candidate)?[..];
        let TemplateConfig { max_length, max_response_length, .. } = *self.config;
        let (prompt, room) = (self.prompt.len(), max_length.saturating_sub(FRAME));
        let (reference, output, counted) = self.responses(candidate, max_response_length);
        let budget = (room as i64 - counted as i64).div_euclid(2);
        // Python's `p_ids[-budget:]`: all of it for 0, and all but the first ids for less.
        let cut = match usize::try_from(budget) {
            Ok(0) => 0,
            Ok(budget) if self.bos() + prompt > budget => prompt - budget.min(prompt),
            Ok(_) => 0,
            Err(_) => (budget.unsigned_abs() as usize).saturating_sub(self.bos()).min(prompt),
        };
        // To decode and to encode again makes no text half as short: what is far too long is not tried, since a prompt
        // that is kept whole would be encoded anew for each candidate.
        if prompt - cut + reference.len() + output.len() > 2 * max_length {
            return self.encode_shorter(candidate);
        }
        let official = self.join(candidate, cut..prompt, reference, output)?;
        if official.ids.len() <= max_length { Ok(official) } else { self.encode_shorter(candidate) }
    }

    /// Where the client exceeds `max_length`.
    fn encode_shorter(&mut self, candidate: &[u32]) -> Result<Cut> {
        let TemplateConfig { max_length, max_response_length, .. } = *self.config;
        let (prompt, room) = (self.prompt.len(), max_length.saturating_sub(FRAME));
        let mut response = max_response_length;
        // Ids that the prompt keeps, at most.
        let mut most = prompt;
        loop {
            let (reference, output, counted) = self.responses(candidate, response);
            let left = room.saturating_sub(counted) / 2;
            if left == 0 && response > room / 2 {
                response = room / 2;
                continue;
            }
            let kept = if self.bos() + prompt > left { left.min(most) } else { most };
            let sequence = self.join(candidate, prompt - kept..prompt, reference, output)?;
            let length = sequence.ids.len();
            if length <= max_length {
                return Ok(sequence);
            }
            let excess = (length - max_length).div_ceil(2);
            if kept > 0 {
                most = kept.saturating_sub(excess);
            } else if response > 0 {
                response = response.saturating_sub(excess);
            } else {
                return Err(Error::user(format!(
                    "max_length = {max_length}: a sequence without any text has {length} ids"
                )));
            }
        }
    }

    fn bos(&self) -> usize {
        usize::from(self.tokenizer.specials().bos.is_some())
    }

    /// What is kept of reference and candidate, and how many ids the client counts for both.
    fn responses(&self, candidate: &[u32], limit: usize) -> (Range<usize>, Range<usize>, usize) {
        let keep = |length: usize| match self.side {
            _ if self.bos() + length <= limit => (0..length, self.bos() + length),
            CutSide::Right => (0..limit.saturating_sub(self.bos()), limit),
            // BOS is the first that goes.
            CutSide::Left => (length - limit.min(length)..length, limit),
        };
        let (reference, of_reference) = keep(self.reference.len());
        let (output, of_output) = keep(candidate.len());
        (reference, output, of_reference + of_output)
    }

    fn join(
        &mut self,
        candidate: &[u32],
        prompt: Range<usize>,
        reference: Range<usize>,
        output: Range<usize>,
    ) -> Result<Cut> {
        let specials = self.tokenizer.specials();
        let [separator, score] = specials.polar()?;
        let between = if self.config.wrapper == Wrapper::Pretrain { "" } else { "\n" };
        let cut = CutReport {
            prompt: self.prompt.len() - prompt.len(),
            reference: self.reference.len() - reference.len(),
            candidates: candidate.len() - output.len(),
        };
        let kept = [prompt, reference];
        let prefix = match self.prefix.take() {
            Some((of, prefix)) if of == kept => prefix,
            _ => {
                let [prompt, reference] = &kept;
                let prompt = self.tokenizer.decode(&self.prompt[prompt.clone()])?;
                let reference = self.tokenizer.decode(&self.reference[reference.clone()])?;
                let mut ids: Vec<u32> = specials.bos.into_iter().collect();
                ids.extend(self.tokenizer.encode(&[&prompt, between, &reference].concat())?);
                ids.push(separator);
                Prefix { prompt, ids }
            }
        };
        let output = self.tokenizer.decode(&candidate[output])?;
        let last = self.tokenizer.encode(&[&prefix.prompt, between, &output].concat())?;
        let ids = [&prefix.ids[..], &last, &[score]].concat();
        self.prefix = Some((kept, prefix));
        Ok(Cut { ids, cut })
    }
}
