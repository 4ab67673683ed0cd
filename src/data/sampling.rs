//! Triples from trajectories: two samples of one policy and one of another, for the same prompt (section 3.2 of the
//! paper: the reference and the positive come from the same policy, the negative from another).

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use std::collections::HashMap;
use std::fmt;

use super::{Rows, Trajectory, Triple};
use crate::rng::stream;
use crate::{Error, Result};

/// Trajectories, arranged so that every epoch draws one triple for each policy that has two samples or more of a
/// prompt.
///
/// A policy with one sample of a prompt serves as negative only. Reference and chosen may be the same text (two
/// greedy decodes); chosen and rejected never are, since such a pair teaches nothing. In memory are hashes and numbers
/// of the trajectories, some tens of bytes each; a triple's texts are read when it is drawn.
#[derive(Clone, Debug)]
pub struct TripleSource {
    trajectories: Rows<Trajectory>,
    /// Hash of each trajectory's output: texts are equal if these are.
    outputs: Vec<Hash>,
    /// Numbers of trajectories by prompt, then by policy, each in order of appearance; of one policy in that of the file.
    samples: Vec<u32>,
    /// Where in `samples` each policy of each prompt begins, and the end.
    policies: Vec<u32>,
    /// Where in `policies` each prompt begins, and the end.
    prompts: Vec<u32>,
    items: Vec<Item>,
    summary: Summary,
}

/// Half of BLAKE3.
pub(crate) type Hash = u128;

/// A policy that can give reference and chosen for a prompt.
#[derive(Clone, Copy, Debug)]
struct Item {
    prompt: u32,
    /// Among the policies of the prompt.
    policy: u32,
}

/// What was found among the trajectories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Trajectories in all.
    pub trajectories: usize,
    /// Different prompts.
    pub prompts: usize,
    /// Different policies.
    pub policies: usize,
    /// Triples in an epoch: prompts times policies with two samples or more, as far as they are usable.
    pub triples: usize,
    /// Policies with one sample of a prompt, over all prompts: negatives only.
    pub single_samples: usize,
    /// Policies with two samples or more of a prompt that no other policy answered, over all prompts.
    pub without_negative: usize,
    /// Policies with two samples or more of a prompt whose every negative is the same text, over all prompts.
    pub same_as_negative: usize,
    /// Pairs of samples, of one policy and prompt, that are the same text; they are used.
    pub identical_pairs: usize,
    /// Pairs of samples of one policy and prompt.
    pub pairs: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trajectories, prompts, policies, triples, .. } = self;
        write!(
            f,
            "{trajectories} trajectories of {policies} policies for {prompts} prompts: {triples} triples an epoch"
        )?;
        write!(f, "; one sample, so negative only: {}", self.single_samples)?;
        write!(f, "; no other policy: {}", self.without_negative)?;
        write!(f, "; same text as every negative: {}", self.same_as_negative)?;
        write!(f, "; reference and chosen the same text: {} of {} pairs", self.identical_pairs, self.pairs)
    }
}

impl TripleSource {
    /// Groups trajectories by prompt and policy.
    ///
    /// # Errors
    /// The user's, when no triple can be made; and when the trajectories cannot be read.
    pub fn new(trajectories: impl Into<Rows<Trajectory>>) -> Result<Self> {
        let mut source = Self::group(trajectories.into())?;
        (source.items, source.summary) = source.find_items();
        if source.items.is_empty() {
            return Err(Error::user(format!(
                "no triple can be made of the trajectories ({}); POLAR needs, for the same prompt, two samples of one \
                 policy and a different one of another policy",
                source.summary
            )));
        }
        Ok(source)
    }

    /// Samples by prompt and policy, both in order of appearance.
    fn group(trajectories: Rows<Trajectory>) -> Result<Self> {
        if u32::try_from(trajectories.len()).is_err() {
            return Err(Error::user(format!("{} trajectories are more than 2^32; use fewer", trajectories.len())));
        }
        fn number<K: std::hash::Hash + Eq>(known: &mut HashMap<K, u32>, key: K) -> u32 {
            let next = known.len() as u32;
            *known.entry(key).or_insert(next)
        }
        let (mut prompts, mut policies, mut places) = (HashMap::new(), HashMap::new(), HashMap::new());
        // How many policies a prompt has.
        let mut widths: Vec<u32> = Vec::new();
        let mut outputs = Vec::with_capacity(trajectories.len());
        let mut keys: Vec<(u32, u32)> = Vec::with_capacity(trajectories.len());
        for trajectory in trajectories.iter() {
            let Trajectory { prompt, policy, output } = trajectory?;
            outputs.push(hash(&output));
            let (prompt, policy) = (number(&mut prompts, hash(&prompt)), number(&mut policies, hash(&policy)));
            widths.resize(prompts.len(), 0);
            let width = &mut widths[prompt as usize];
            let place = *places.entry((prompt, policy)).or_insert_with(|| {
                *width += 1;
                *width - 1
            });
            keys.push((prompt, place));
        }
        let mut samples: Vec<u32> = (0..keys.len() as u32).collect();
        samples.sort_by_key(|&sample| keys[sample as usize]);
        let (mut begins, mut ends) = (Vec::new(), Vec::new());
        let mut last = None;
        for (at, &sample) in samples.iter().enumerate() {
            let key = keys[sample as usize];
            if last.is_none_or(|last: (u32, u32)| last.0 != key.0) {
                ends.push(begins.len() as u32);
            }
            if last != Some(key) {
                begins.push(at as u32);
            }
            last = Some(key);
        }
        ends.push(begins.len() as u32);
        begins.push(samples.len() as u32);
        let summary = Summary {
            trajectories: trajectories.len(),
            prompts: prompts.len(),
            policies: policies.len(),
            ..Summary::default()
        };
        Ok(Self { trajectories, outputs, samples, policies: begins, prompts: ends, items: Vec::new(), summary })
    }

    /// How many policies a prompt has.
    fn width(&self, prompt: u32) -> usize {
        (self.prompts[prompt as usize + 1] - self.prompts[prompt as usize]) as usize
    }

    /// The samples of a prompt by one of its policies.
    fn samples(&self, prompt: u32, policy: usize) -> &[u32] {
        let at = self.prompts[prompt as usize] as usize + policy;
        &self.samples[self.policies[at] as usize..self.policies[at + 1] as usize]
    }

    /// The samples of an item that some sample of another policy differs from.
    fn usable(&self, item: Item) -> Vec<u32> {
        let samples = self.samples(item.prompt, item.policy as usize).iter().copied();
        samples.filter(|&sample| self.negatives(item, sample).next().is_some()).collect()
    }

    /// The usable items, and the summary completed.
    fn find_items(&self) -> (Vec<Item>, Summary) {
        let mut summary = self.summary.clone();
        let mut items = Vec::new();
        for prompt in 0..summary.prompts as u32 {
            for policy in 0..self.width(prompt) {
                let samples = self.samples(prompt, policy);
                if samples.len() < 2 {
                    summary.single_samples += 1;
                    continue;
                }
                if self.width(prompt) < 2 {
                    summary.without_negative += 1;
                    continue;
                }
                let item = Item { prompt, policy: policy as u32 };
                if self.usable(item).is_empty() {
                    summary.same_as_negative += 1;
                    continue;
                }
                summary.pairs += samples.len() * (samples.len() - 1) / 2;
                summary.identical_pairs += identical_pairs(samples.iter().map(|&sample| self.output(sample)));
                items.push(item);
            }
        }
        summary.triples = items.len();
        (items, summary)
    }

    /// What was found.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Triples in an epoch.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no triples; never the case for a source that [`TripleSource::new`] made.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The triples of epoch `epoch` under `seed`: every item once, in a random order, each with its random pair and
    /// negative.
    pub fn epoch(&self, seed: u64, epoch: u64) -> impl Iterator<Item = Result<Triple>> + '_ {
        self.order(seed, epoch).into_iter().map(move |item| self.draw(item as usize, seed, epoch))
    }

    /// The order of the items in an epoch.
    pub(crate) fn order(&self, seed: u64, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.items.len() as u32).collect();
        order.shuffle(&mut stream(seed, "order of triples", epoch));
        order
    }

    /// The triple that item `item`, a policy and a prompt, gives in an epoch: random samples, a random negative.
    ///
    /// # Errors
    /// When the trajectories cannot be read any more.
    pub fn draw(&self, item: usize, seed: u64, epoch: u64) -> Result<Triple> {
        let index = epoch.wrapping_mul(self.items.len() as u64).wrapping_add(item as u64);
        let mut rng = stream(seed, "triple", index);
        let item = self.items[item];
        let chosen = pick(&mut rng, &self.usable(item));
        let samples = self.samples(item.prompt, item.policy as usize);
        let others: Vec<u32> = samples.iter().copied().filter(|sample| *sample != chosen).collect();
        let reference = pick(&mut rng, &others);
        let negatives: Vec<(usize, u32)> = self.negatives(item, chosen).collect();
        let by_policy: Vec<&[(usize, u32)]> = negatives.chunk_by(|a, b| a.0 == b.0).collect();
        let policy = pick(&mut rng, &by_policy);
        let (_, rejected) = pick(&mut rng, policy);

        let Trajectory { prompt, output: chosen, .. } = self.trajectories.get(chosen as usize)?;
        Ok(Triple {
            prompt,
            reference: self.trajectories.get(reference as usize)?.output,
            chosen,
            rejected: self.trajectories.get(rejected as usize)?.output,
            wrapper: None,
        })
    }

    /// The samples of other policies whose text is not that of `chosen`, each after its policy, policy by policy.
    fn negatives(&self, item: Item, chosen: u32) -> impl Iterator<Item = (usize, u32)> + '_ {
        let others = (0..self.width(item.prompt)).filter(move |&other| other != item.policy as usize);
        let samples =
            others.flat_map(move |other| self.samples(item.prompt, other).iter().map(move |&sample| (other, sample)));
        samples.filter(move |&(_, sample)| self.output(sample) != self.output(chosen))
    }

    fn output(&self, sample: u32) -> Hash {
        self.outputs[sample as usize]
    }
}

/// Half of BLAKE3: two texts of a run have it in common with a chance of less than 2^-64.
pub(crate) fn hash(text: &str) -> Hash {
    let mut bytes = [0; size_of::<Hash>()];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..size_of::<Hash>()]);
    Hash::from_le_bytes(bytes)
}

/// One of `choices`, of which there is at least one.
fn pick<T: Copy>(rng: &mut impl Rng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

/// Pairs of equal texts.
fn identical_pairs(texts: impl Iterator<Item = Hash>) -> usize {
    let mut counts: HashMap<Hash, usize> = HashMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts.values().map(|count| count * (count - 1) / 2).sum()
}

/// Splits rows into those to train on and those to evaluate on, by a hash of the prompt: all rows of a prompt are on
/// one side, whatever else is in the file. About `eval_fraction` of the prompts go to the second part.
///
/// # Errors
/// When the rows cannot be read any more.
pub fn split_by_prompt<T: Clone>(
    rows: impl Into<Rows<T>>,
    prompt: impl Fn(&T) -> &str,
    eval_fraction: f64,
    seed: u64,
) -> Result<(Rows<T>, Rows<T>)> {
    rows.into().partition(|row| {
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes());
        hash.update(prompt(row).as_bytes());
        let mut place = [0; 8];
        hash.finalize_xof().fill(&mut place);
        u64::from_le_bytes(place) as f64 / 2f64.powi(64) >= eval_fraction
    })
}
