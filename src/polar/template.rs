//! POLAR's string as token ids (section 4.1 of the paper), truncated as in xtuner's training code; `client.rs` truncates
//! as the official client does.
//!
//! `BOS prompt reference SEPARATOR prompt candidate SCORE`, with a newline between prompt and trajectory for the
//! wrapper `sft`. Prompt and trajectory are encoded as one text, so that tokens may merge across the join. Special
//! tokens enter by id alone: no text can inject them.

use crate::config::DataSection;
use crate::data::{Document, Triple, Wrapper};
use crate::tokenizer::{Specials, Tokenizer};
use crate::{Error, Result};

/// Ids beside the texts that the training code allows for: separator, score token, two newlines.
pub(super) const FRAME: usize = 4;
/// The shortest `max_length`: BOS, separator, score token, two newlines, and a token for each of the texts' joins.
const MIN_LENGTH: usize = 8;

/// How texts become sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// Wrapper of rows that do not name one.
    pub wrapper: Wrapper,
    /// The longest sequence in ids, score token included.
    pub max_length: usize,
    /// The longest reference or candidate in ids; BOS counts, as in the training code.
    pub max_response_length: usize,
}

impl TemplateConfig {
    /// Takes what it needs from the configuration.
    ///
    /// # Errors
    /// The user's: lengths that no sequence fits in.
    pub fn new(section: &DataSection) -> Result<Self> {
        let &DataSection { wrapper, max_length, max_response_length, .. } = section;
        let template = Self { wrapper, max_length, max_response_length };
        template.check("data.")?;
        Ok(template)
    }

    /// Refuses lengths that no sequence fits in; `prefix` stands before the key in messages.
    ///
    /// # Errors
    /// The user's, with key and value.
    pub fn check(&self, prefix: &str) -> Result<()> {
        let &Self { max_length, max_response_length, .. } = self;
        if max_length < MIN_LENGTH {
            return Err(Error::user(format!("{prefix}max_length = {max_length}: must be at least {MIN_LENGTH}")));
        }
        if max_response_length < 2 {
            return Err(Error::user(format!(
                "{prefix}max_response_length = {max_response_length}: must be at least 2"
            )));
        }
        Ok(())
    }
}

/// Tokens that truncation took off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Off the front of the prompt.
    pub prompt: usize,
    /// Off the end of the reference.
    pub reference: usize,
    /// Off the ends of the candidates, all together.
    pub candidates: usize,
}

impl CutReport {
    /// Whether anything was cut.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// The two sequences of a triple. They agree up to the candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPair {
    /// The sequence with the chosen trajectory.
    pub chosen: Vec<u32>,
    /// The sequence with the rejected trajectory.
    pub rejected: Vec<u32>,
    /// What was cut.
    pub cut: CutReport,
}

/// A sequence for each candidate of a prompt and reference. They agree up to the candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedCandidates {
    /// In the order of the candidates.
    pub sequences: Vec<Vec<u32>>,
    /// What was cut.
    pub cut: CutReport,
    /// Tokens off the end of each candidate.
    pub cut_each: Vec<usize>,
}

/// The sequences of a triple, with its own wrapper if it names one.
///
/// # Errors
/// The user's, when the tokenizer cannot represent a text.
pub fn encode_triple(tokenizer: &Tokenizer, triple: &Triple, config: &TemplateConfig) -> Result<EncodedPair> {
    let config = TemplateConfig { wrapper: triple.wrapper.unwrap_or(config.wrapper), ..*config };
    let candidates = [triple.chosen.as_str(), triple.rejected.as_str()];
    let EncodedCandidates { mut sequences, cut, .. } =
        encode_candidates(tokenizer, &triple.prompt, &triple.reference, &candidates, &config)?;
    let rejected = sequences.pop().unwrap_or_default();
    let chosen = sequences.pop().unwrap_or_default();
    Ok(EncodedPair { chosen, rejected, cut })
}

/// The sequence of one candidate, to be scored alone.
///
/// # Errors
/// As [`encode_triple`].
pub fn encode_candidate(
    tokenizer: &Tokenizer,
    prompt: &str,
    reference: &str,
    output: &str,
    config: &TemplateConfig,
) -> Result<(Vec<u32>, CutReport)> {
    let encoded = encode_candidates(tokenizer, prompt, reference, &[output], config)?;
    Ok((encoded.sequences.into_iter().next().unwrap_or_default(), encoded.cut))
}

/// The sequences of any number of candidates, cut so that all of them have the same prefix.
///
/// As xtuner's training code does: reference and candidates keep their first `max_response_length` ids; the prompt
/// keeps the last `(max_length - 4 - reference - candidate) / 2` ids of the longest candidate; what was cut is decoded
/// and encoded again with its neighbour. Where that code would go wrong, this one does not: responses that leave no
/// room for a prompt are cut to half of the room each, half a character at a cut is left out, and a text that got
/// longer by being encoded again is cut further, so that no sequence is longer than `max_length`.
///
/// # Errors
/// As [`encode_triple`].
pub fn encode_candidates(
    tokenizer: &Tokenizer,
    prompt: &str,
    reference: &str,
    candidates: &[&str],
    config: &TemplateConfig,
) -> Result<EncodedCandidates> {
    let specials = tokenizer.specials();
    let room = config.max_length.saturating_sub(FRAME);
    let mut parts = Parts {
        prompt: Part::new(tokenizer, prompt)?,
        reference: Part::new(tokenizer, reference)?,
        candidates: candidates.iter().map(|text| Part::new(tokenizer, text)).collect::<Result<_>>()?,
    };
    let mut response = config.max_response_length.min(room / 2);
    let mut prompt_excess = 0;
    loop {
        parts.cut(tokenizer, room, response, prompt_excess)?;
        let sequences = parts.sequences(tokenizer, config.wrapper, specials)?;
        let longest = sequences.iter().map(Vec::len).max().unwrap_or_default();
        if longest <= config.max_length {
            let cut_each = parts.candidates.iter().map(|candidate| candidate.cut).collect();
            return Ok(EncodedCandidates { sequences, cut: parts.report(), cut_each });
        }
        if parts.prompt.kept() > 0 {
            prompt_excess += (longest - config.max_length).div_ceil(2);
        } else if response > 0 {
            response = response.saturating_sub((longest - config.max_length).div_ceil(2));
        } else {
            let most = config.max_length;
            return Err(Error::user(format!("max_length = {most}: a sequence without any text has {longest} ids")));
        }
    }
}

/// The texts of a sequence.
struct Parts {
    prompt: Part,
    reference: Part,
    candidates: Vec<Part>,
}

impl Parts {
    /// Cuts every part to its share of `room`, and the prompt by `prompt_excess` more.
    fn cut(&mut self, tokenizer: &Tokenizer, room: usize, response: usize, prompt_excess: usize) -> Result<()> {
        let bos = usize::from(tokenizer.specials().bos.is_some());
        let mut longest = 0;
        for candidate in &mut self.candidates {
            longest = longest.max(candidate.keep_first(tokenizer, response, bos)?);
        }
        let reference = self.reference.keep_first(tokenizer, response, bos)?;
        let prompt = room.saturating_sub(reference + longest) / 2;
        self.prompt.keep_last(tokenizer, prompt.saturating_sub(prompt_excess), bos)
    }

    fn sequences(&self, tokenizer: &Tokenizer, wrapper: Wrapper, specials: Specials) -> Result<Vec<Vec<u32>>> {
        let join = |response: &Part| {
            // The training code leaves the newline out before an empty trajectory.
            let between = if wrapper == Wrapper::Pretrain || response.text.is_empty() { "" } else { "\n" };
            tokenizer.encode(&[&self.prompt.text, between, &response.text].concat())
        };
        let [separator, score] = specials.polar()?;
        let mut prefix: Vec<u32> = specials.bos.into_iter().collect();
        prefix.extend(join(&self.reference)?);
        prefix.push(separator);
        let sequence = |candidate| Ok([&prefix[..], &join(candidate)?, &[score]].concat());
        self.candidates.iter().map(sequence).collect()
    }

    fn report(&self) -> CutReport {
        CutReport {
            prompt: self.prompt.cut,
            reference: self.reference.cut,
            candidates: self.candidates.iter().map(|candidate| candidate.cut).sum(),
        }
    }
}

/// One text, its ids, and how many of them were cut off.
struct Part {
    ids: Vec<u32>,
    text: String,
    cut: usize,
}

impl Part {
    fn new(tokenizer: &Tokenizer, text: &str) -> Result<Self> {
        Ok(Self { ids: tokenizer.encode(text)?, text: text.to_owned(), cut: 0 })
    }

    /// Ids that are left.
    fn kept(&self) -> usize {
        self.ids.len() - self.cut
    }

    /// Keeps the first `limit` ids and returns the length; both count `bos` ids that stand before the text.
    fn keep_first(&mut self, tokenizer: &Tokenizer, limit: usize, bos: usize) -> Result<usize> {
        let kept = limit.saturating_sub(bos);
        if self.kept() > kept {
            self.cut = self.ids.len() - kept;
            let text = tokenizer.decode(&self.ids[..kept])?;
            self.text = text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
        }
        Ok(bos + self.kept())
    }

    /// Keeps the last `limit` ids, if the text with the `bos` ids before it has more.
    fn keep_last(&mut self, tokenizer: &Tokenizer, limit: usize, bos: usize) -> Result<()> {
        if bos + self.kept() > limit {
            self.cut = self.cut.max(self.ids.len().saturating_sub(limit));
            let text = tokenizer.decode(&self.ids[self.cut..])?;
            self.text = text.trim_start_matches(char::REPLACEMENT_CHARACTER).to_owned();
        }
        Ok(())
    }
}

/// The sequences of a document for a language model: `BOS prompt output EOS`, joined as by the wrapper, in pieces of
/// at most `max_length` ids. A tokenizer without BOS or EOS leaves them out; a document without text has no sequence.
///
/// # Errors
/// As [`encode_triple`].
pub fn encode_document(tokenizer: &Tokenizer, document: &Document, config: &TemplateConfig) -> Result<Vec<Vec<u32>>> {
    let Document { prompt, output } = document;
    let between = if config.wrapper == Wrapper::Pretrain || prompt.is_empty() { "" } else { "\n" };
    let ids = tokenizer.encode(&[prompt, between, output].concat())?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let Specials { bos, eos, .. } = tokenizer.specials();
    let ids: Vec<u32> = bos.into_iter().chain(ids).chain(eos).collect();
    Ok(ids.chunks(config.max_length.max(1)).map(<[u32]>::to_vec).collect())
}
