//! Triples from trajectories: two samples of one policy and one of another, for the same prompt (section 3.2 of the
//! paper: the reference and the positive come from the same policy, the negative from another).

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use std::collections::HashMap;
use std::fmt;

use super::{Trajectory, Triple};
use crate::rng::stream;
use crate::{Error, Result};

/// Trajectories, arranged so that every epoch draws one triple for each policy that has two samples or more of a
/// prompt.
///
/// A policy with one sample of a prompt serves as negative only. Reference and chosen may be the same text (two
/// greedy decodes); chosen and rejected never are, since such a pair teaches nothing.
#[derive(Clone, Debug)]
pub struct TripleSource {
    trajectories: Vec<Trajectory>,
    prompts: Vec<Prompt>,
    items: Vec<Item>,
    summary: Summary,
}

/// The samples of a prompt, by policy; indices of trajectories, in the order of the file.
#[derive(Clone, Debug, Default)]
struct Prompt {
    policies: Vec<Vec<u32>>,
}

/// A policy that can give reference and chosen for a prompt.
#[derive(Clone, Debug)]
struct Item {
    prompt: u32,
    policy: u32,
    /// Its samples that some sample of another policy differs from.
    chosen: Vec<u32>,
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
    /// The user's, when no triple can be made.
    pub fn new(trajectories: Vec<Trajectory>) -> Result<Self> {
        let (prompts, policies) = group(&trajectories)?;
        let found =
            Summary { trajectories: trajectories.len(), prompts: prompts.len(), policies, ..Summary::default() };
        let mut source = Self { trajectories, prompts, items: Vec::new(), summary: found };
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

    /// The usable items, and the summary completed.
    fn find_items(&self) -> (Vec<Item>, Summary) {
        let mut summary = self.summary.clone();
        let mut items = Vec::new();
        for (index, prompt) in self.prompts.iter().enumerate() {
            for (policy, samples) in prompt.policies.iter().enumerate() {
                if samples.len() < 2 {
                    summary.single_samples += 1;
                    continue;
                }
                if prompt.policies.len() < 2 {
                    summary.without_negative += 1;
                    continue;
                }
                let usable = |sample: &u32| self.negatives(prompt, policy, *sample).next().is_some();
                let chosen: Vec<u32> = samples.iter().copied().filter(usable).collect();
                if chosen.is_empty() {
                    summary.same_as_negative += 1;
                    continue;
                }
                summary.pairs += samples.len() * (samples.len() - 1) / 2;
                summary.identical_pairs += identical_pairs(samples.iter().map(|sample| self.text(*sample)));
                items.push(Item { prompt: index as u32, policy: policy as u32, chosen });
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
    pub fn epoch(&self, seed: u64, epoch: u64) -> impl Iterator<Item = Triple> + '_ {
        let mut order: Vec<u32> = (0..self.items.len() as u32).collect();
        order.shuffle(&mut stream(seed, "order of triples", epoch));
        order.into_iter().map(move |item| self.draw(item as usize, seed, epoch))
    }

    /// The triple that item `item`, a policy and a prompt, gives in an epoch: random samples, a random negative.
    pub fn draw(&self, item: usize, seed: u64, epoch: u64) -> Triple {
        let index = epoch.wrapping_mul(self.items.len() as u64).wrapping_add(item as u64);
        let mut rng = stream(seed, "triple", index);
        let item = &self.items[item];
        let prompt = &self.prompts[item.prompt as usize];
        let chosen = pick(&mut rng, &item.chosen);
        let samples = &prompt.policies[item.policy as usize];
        let others: Vec<u32> = samples.iter().copied().filter(|sample| *sample != chosen).collect();
        let reference = pick(&mut rng, &others);
        let negatives: Vec<(usize, u32)> = self.negatives(prompt, item.policy as usize, chosen).collect();
        let by_policy: Vec<&[(usize, u32)]> = negatives.chunk_by(|a, b| a.0 == b.0).collect();
        let policy = pick(&mut rng, &by_policy);
        let (_, rejected) = pick(&mut rng, policy);

        let text = |sample: u32| self.text(sample).to_owned();
        Triple {
            prompt: self.trajectories[chosen as usize].prompt.clone(),
            reference: text(reference),
            chosen: text(chosen),
            rejected: text(rejected),
            wrapper: None,
        }
    }

    /// The samples of other policies whose text is not that of `chosen`, each after its policy, policy by policy.
    fn negatives<'a>(
        &'a self,
        prompt: &'a Prompt,
        policy: usize,
        chosen: u32,
    ) -> impl Iterator<Item = (usize, u32)> + 'a {
        let others = prompt.policies.iter().enumerate().filter(move |(other, _)| *other != policy);
        let samples = others.flat_map(|(other, samples)| samples.iter().map(move |sample| (other, *sample)));
        samples.filter(move |(_, sample)| self.text(*sample) != self.text(chosen))
    }

    fn text(&self, sample: u32) -> &str {
        &self.trajectories[sample as usize].output
    }
}

/// Samples by prompt and policy, both in order of appearance, and the number of policies.
fn group(trajectories: &[Trajectory]) -> Result<(Vec<Prompt>, usize)> {
    if u32::try_from(trajectories.len()).is_err() {
        return Err(Error::user(format!("{} trajectories are more than 2^32; use fewer", trajectories.len())));
    }
    let mut prompts: Vec<Prompt> = Vec::new();
    let mut policies = HashMap::new();
    let mut prompt_index = HashMap::new();
    let mut places = HashMap::new();
    for (sample, trajectory) in trajectories.iter().enumerate() {
        let next = policies.len();
        let policy = *policies.entry(trajectory.policy.as_str()).or_insert(next);
        let prompt = *prompt_index.entry(trajectory.prompt.as_str()).or_insert_with(|| {
            prompts.push(Prompt::default());
            prompts.len() - 1
        });
        let groups = &mut prompts[prompt].policies;
        let place = *places.entry((prompt, policy)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(sample as u32);
    }
    Ok((prompts, policies.len()))
}

/// One of `choices`, of which there is at least one.
fn pick<T: Copy>(rng: &mut impl Rng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

/// Pairs of equal texts.
fn identical_pairs<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts.values().map(|count| count * (count - 1) / 2).sum()
}

/// Splits rows into those to train on and those to evaluate on, by a hash of the prompt: all rows of a prompt are on
/// one side, whatever else is in the file. About `eval_fraction` of the prompts go to the second part.
pub fn split_by_prompt<T>(
    rows: Vec<T>,
    prompt: impl Fn(&T) -> &str,
    eval_fraction: f64,
    seed: u64,
) -> (Vec<T>, Vec<T>) {
    rows.into_iter().partition(|row| {
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes());
        hash.update(prompt(row).as_bytes());
        let mut place = [0; 8];
        hash.finalize_xof().fill(&mut place);
        u64::from_le_bytes(place) as f64 / 2f64.powi(64) >= eval_fraction
    })
}
