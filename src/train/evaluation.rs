//! Evaluation while training: a fixed part of the held-out data, as packs that are scored in training's own workspace, and
//! what evaluations have said of the run so far.

use std::path::Path;
use std::time::Instant;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::data::{Answer, ReferenceSource};
use crate::error::{Error, Result};
use crate::eval::Example;
use crate::eval::reference::{Question, References, trials_if_any};
use crate::eval::result::example;
use crate::passes::{InOrder, Pack, Wanted};
use crate::polar::{Identical, TemplateConfig, encode_candidates};
use crate::rng;
use crate::tokenizer::Tokenizer;
use crate::train::Trainer;
use crate::train::feed::Feeder;
use crate::train::metrics::EvalMetrics;
use crate::train::setup::EvalSet;
use crate::train::step_log::StepLine;

/// Examples to read of each set.
const EXAMPLES: usize = 2;
/// The stream of random numbers that draws them.
const WATCHED: &str = "evaluation while training";
/// Characters of a text that is written down with its scores, at most.
const MAX_CHARS: usize = 400;

/// What is evaluated on while training. It depends on the data, the configuration and the seed alone.
#[derive(Default)]
pub struct HeldOut {
    packs: Vec<Pack>,
    /// Pairs, or documents.
    count: u64,
    /// Those that fit no pack.
    over_long: usize,
    /// What is the same in the drawn pairs; those without a difference are left out, as in training.
    identical: Identical,
    /// Pairs to read, without their scores: the place among all pairs of each.
    examples: Vec<(usize, Example)>,
    id: String,
}

/// Scored pairs of one evaluation, as a line of `examples.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredExamples {
    /// Finished steps.
    pub step: u64,
    /// The same pairs at every step; long texts are cut.
    pub examples: Vec<Example>,
}

impl StepLine for ScoredExamples {
    const FILE: &str = "examples.jsonl";

    fn step(&self) -> u64 {
        self.step
    }

    fn check(&self) -> Result<()> {
        let scores = self.examples.iter().flat_map(|example| example.scores);
        match scores.filter(|score| !score.is_finite()).min_by(f32::total_cmp) {
            Some(score) => Err(Error::machine(format!("step {}: a score is {score}", self.step))),
            None => Ok(()),
        }
    }
}

impl HeldOut {
    /// Draws at most `most` pairs or documents of each of `sets`, and lays them out as `feeder` does those of training.
    ///
    /// # Errors
    /// When a text cannot be encoded, or data cannot be read any more.
    pub fn new(sets: &[EvalSet], feeder: &Feeder, most: usize) -> Result<Self> {
        let ranked = feeder.wanted.scores;
        let wanted = Wanted { next_tokens: !ranked, ..feeder.wanted };
        let mut packs = InOrder::new(wanted, feeder.capacity, feeder.vocabulary);
        let (mut count, mut over_long, mut examples) = (0, 0, Vec::new());
        let mut hasher = blake3::Hasher::new();
        let mut push = |sequences: &[&[u32]]| -> Result<bool> {
            for sequence in sequences {
                hasher.update(&(sequence.len() as u64).to_le_bytes());
                for id in *sequence {
                    hasher.update(&id.to_le_bytes());
                }
            }
            let fits = packs.push(sequences, ranked)?;
            count += u64::from(fits);
            over_long += usize::from(!fits);
            Ok(fits)
        };
        let specials = feeder.tokenizer.as_ref().map(Tokenizer::specials).unwrap_or_default();
        let mut identical = Identical::default();
        let mut pairs = 0;
        for (number, set) in sets.iter().enumerate() {
            match set {
                EvalSet::Ranked(name, set) => {
                    // Of nothing to judge the evaluation at the end says why.
                    let Some(trials) = trials_if_any(set, ReferenceSource::Field, References::default())? else {
                        continue;
                    };
                    let drawn = drawn(WATCHED, trials.trials.len(), most, feeder.seed, number);
                    let shown = examples.len() + EXAMPLES;
                    for (at, question) in trials.questions(set).enumerate() {
                        if drawn.binary_search(&at).is_err() {
                            continue;
                        }
                        let question = question?;
                        let [chosen, rejected] = encode(&question, feeder)?;
                        // They have one score, and the tie would count as a mistake.
                        if identical.add(&chosen, &rejected, specials) {
                            continue;
                        }
                        if push(&[&chosen, &rejected])? {
                            let texts = example(name, &question, &[0.0, 0.0]).filter(|_| examples.len() < shown);
                            examples.extend(texts.map(|texts| (pairs, shortened(texts))));
                            pairs += 1;
                        }
                    }
                }
                EvalSet::Sequences(_, sequences) => {
                    for at in drawn(WATCHED, sequences.len(), most, feeder.seed, number) {
                        push(&[&sequences[at]])?;
                    }
                }
            }
        }
        let id = hasher.finalize().to_hex().to_string();
        Ok(Self { packs: packs.finish()?, count, over_long, identical, examples, id })
    }

    /// Pairs or documents that are evaluated on.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is nothing to evaluate on.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Drawn pairs or documents that fit no pack and are left out.
    pub fn over_long(&self) -> usize {
        self.over_long
    }

    /// What is the same in the drawn pairs; those without a difference are left out.
    pub fn identical(&self) -> Identical {
        self.identical
    }

    /// Whether there are pairs to read.
    pub fn has_examples(&self) -> bool {
        !self.examples.is_empty()
    }

    /// Evaluates the model in training, in the workspace of `trainer`, and changes nothing of what it trains with. The
    /// examples come with their scores; whether it is the best one is not known here.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn evaluate(&self, trainer: &mut Trainer) -> Result<(EvalMetrics, Vec<Example>)> {
        let started = Instant::now();
        let predicted: f64 = self.packs.iter().map(|pack| pack.predicted_tokens()).sum();
        let mut found = EvalMetrics { pairs: self.count, ..EvalMetrics::default() };
        if predicted > 0.0 {
            found.loss = trainer.next_token_losses(&self.packs)? / predicted;
            found.seconds = started.elapsed().as_secs_f64();
            return Ok((found, Vec::new()));
        }
        let scores = trainer.scores(&self.packs)?;
        let mut pairs = Vec::new();
        let mut first = 0;
        for pack in &self.packs {
            pairs.extend(pack.pairs.iter().map(|pair| pair.map(|candidate| scores[first + candidate as usize])));
            first += pack.candidates();
        }
        let margins = || pairs.iter().map(|[chosen, rejected]| f64::from(*chosen) - f64::from(*rejected));
        let mean = |of: fn(f64) -> f64| margins().map(of).sum::<f64>() / pairs.len() as f64;
        found.loss = mean(|margin| (-margin).max(0.0) + (-margin.abs()).exp().ln_1p());
        // A tie is wrong, as everywhere.
        found.accuracy = Some(mean(|margin| f64::from(u8::from(margin > 0.0))));
        found.margin = Some(mean(|margin| margin));
        let scored = |(at, texts): &(usize, Example)| Example { scores: pairs[*at], ..texts.clone() };
        let examples = self.examples.iter().map(scored).collect();
        found.seconds = started.elapsed().as_secs_f64();
        Ok((found, examples))
    }
}

/// The places of at most `most` of `count` rows of set `number`, ascending, as `purpose` draws them.
pub fn drawn(purpose: &str, count: usize, most: usize, seed: u64, number: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.shuffle(&mut rng::stream(seed, purpose, number as u64));
    places.truncate(most);
    places.sort_unstable();
    places
}

/// The token ids of both candidates, chosen first.
fn encode(question: &Question, feeder: &Feeder) -> Result<[Vec<u32>; 2]> {
    let group = &question.group;
    let answers: Vec<&Answer> = question.candidates.iter().map(|&place| &group.candidates[place].answer).collect();
    let sequences = match answers[..] {
        [Answer::Ids(chosen), Answer::Ids(rejected)] => vec![chosen.clone(), rejected.clone()],
        _ => {
            let texts: Vec<&str> = answers.iter().filter_map(|answer| answer.text()).collect();
            let wrapper = group.wrapper.unwrap_or(feeder.template.wrapper);
            let template = TemplateConfig { wrapper, ..feeder.template };
            encode_candidates(feeder.tokenizer()?, &group.prompt, &question.reference, &texts, &template)?.sequences
        }
    };
    sequences.try_into().map_err(|_| Error::machine("a held-out pair without two candidates"))
}

fn shortened(example: Example) -> Example {
    let short = |text: String| match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{} [...]", &text[..end]),
        None => text,
    };
    let Example { row, prompt, reference, chosen, rejected, scores } = example;
    let [prompt, reference, chosen, rejected] = [prompt, reference, chosen, rejected].map(short);
    Example { row, prompt, reference, chosen, rejected, scores }
}

/// What evaluations have said so far: a part of every checkpoint, so that a run that goes on knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// What was evaluated on: a hash of its token ids.
    on: String,
    /// Evaluations so far.
    pub evaluations: u64,
    /// The one with the lowest loss, the first of equals.
    pub best: Option<Best>,
    /// Evaluations since.
    pub since_best: u64,
    /// The last one.
    pub last: Option<EvalMetrics>,
}

/// An evaluation that none before was as good as.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Finished steps.
    pub step: u64,
    /// The held-out loss.
    pub loss: f64,
}

impl Standing {
    /// Counts the evaluation after `step` steps, and says of it whether it is the first and whether it is the best one.
    pub fn count(&mut self, step: u64, found: &EvalMetrics) -> EvalMetrics {
        let first = self.evaluations == 0;
        let best = self.best.is_none_or(|best| found.loss < best.loss);
        self.evaluations += 1;
        self.since_best = if best { 0 } else { self.since_best + 1 };
        if best {
            self.best = Some(Best { step, loss: found.loss });
        }
        let counted = EvalMetrics { best, first, ..*found };
        self.last = Some(counted);
        counted
    }

    /// Why the run ends, if `patience` says so.
    pub fn ends(&self, patience: usize) -> Option<String> {
        let best = self.best.filter(|_| patience > 0 && self.since_best >= patience as u64)?;
        Some(format!(
            "no lower held-out loss in {} evaluations (train.patience = {patience}): the lowest was {:.4}, at step {}",
            self.since_best, best.loss, best.step
        ))
    }

    /// Takes `held_out` for what is evaluated on from now on. Evaluations on anything else do not compare with what is to
    /// come, nor is a best one of use whose checkpoint is wanted and not there: says what is forgotten.
    pub fn go_on_with(&mut self, held_out: &HeldOut, is_there: impl Fn(u64) -> bool) -> Option<String> {
        let before = std::mem::replace(&mut self.on, held_out.id.clone());
        let is_other = before != self.on;
        let why = match self.best {
            _ if is_other => "evaluation while training is on other data now",
            Some(best) if !is_there(best.step) => "its checkpoint was not kept",
            _ => return None,
        };
        let (best, last) = (self.best, self.last.filter(|_| !is_other));
        *self = Self { on: std::mem::take(&mut self.on), last, ..Self::default() };
        let best = best?;
        Some(format!("the best evaluation so far, at step {}, no longer counts: {why}", best.step))
    }
}

/// Whether there is an evaluation after step `step` of `steps`.
pub fn is_due(every: usize, step: u64, steps: u64) -> bool {
    every > 0 && (step.is_multiple_of(every as u64) || step == steps)
}

/// What was found at the last evaluation and at the best one, for a person; `exported` is the step whose weights the run
/// ends with.
pub fn facts(standing: &Standing, steps: u64, exported: u64, run: &Path) -> Vec<(String, String)> {
    let (Some(best), Some(last)) = (standing.best, standing.last) else { return Vec::new() };
    let accuracy = last.accuracy.map_or(String::new(), |accuracy| format!(", accuracy {accuracy:.3}"));
    let mut facts = vec![(
        "held-out loss".into(),
        format!(
            "{:.4}{accuracy} at the last of {} evaluations while training; the lowest was {:.4}, at step {}",
            last.loss, standing.evaluations, best.loss, best.step
        ),
    )];
    if exported != steps {
        let checkpoint = crate::train::checkpoint::folder_of(run, exported);
        facts.push((
            "the model".into(),
            format!("is that of step {exported}, of the lowest held-out loss: {}", checkpoint.display()),
        ));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_depends_on_the_seed_alone() {
        let some = drawn(WATCHED, 1000, 50, 7, 0);
        assert_eq!(some, drawn(WATCHED, 1000, 50, 7, 0));
        assert!(some.is_sorted() && some.len() == 50 && some[49] > 500, "{some:?}");
        assert!(some != drawn(WATCHED, 1000, 50, 8, 0) && some != drawn(WATCHED, 1000, 50, 7, 1));
        assert_eq!(drawn(WATCHED, 3, 50, 7, 0), [0, 1, 2]);
    }

    #[test]
    fn patience_counts_evaluations_without_a_lower_loss() {
        let mut standing = Standing::default();
        let mut count = |step, loss| standing.count(step, &EvalMetrics { loss, ..EvalMetrics::default() }).best;
        assert!(count(10, 0.7) && count(20, 0.5));
        assert!(!count(30, 0.5) && !count(40, 0.6), "an equal is no better");
        assert_eq!((standing.best, standing.since_best), (Some(Best { step: 20, loss: 0.5 }), 2));
        assert_eq!(standing.ends(3), None);
        assert_eq!(standing.ends(0), None);
        let why = standing.ends(2).unwrap();
        assert!(why.contains("train.patience = 2") && why.contains("0.5000, at step 20"), "{why}");
    }

    #[test]
    fn a_best_one_counts_while_it_compares_and_is_there() {
        let on = |id: &str| HeldOut { packs: vec![], count: 1, id: id.into(), ..HeldOut::default() };
        let mut standing = Standing::default();
        assert_eq!(standing.go_on_with(&on("a"), |_| false), None, "nothing to forget");
        for (step, loss) in [(10, 0.5), (20, 0.6)] {
            standing.count(step, &EvalMetrics { loss, ..EvalMetrics::default() });
        }
        let before = standing.clone();
        assert_eq!(standing.go_on_with(&on("a"), |step| step == 10), None);
        assert_eq!(standing, before);
        let said = standing.go_on_with(&on("b"), |_| true).unwrap();
        assert!(said.contains("at step 10") && said.contains("other data"), "{said}");
        assert_eq!(standing, Standing { on: "b".into(), ..Standing::default() }, "nor is the last one shown");
        assert!(
            standing.count(30, &EvalMetrics::default()).first && !standing.count(40, &EvalMetrics::default()).first
        );
        let said = before.clone().go_on_with(&on("a"), |step| step == 20).unwrap();
        assert!(said.contains("its checkpoint was not kept"), "{said}");
    }

    #[test]
    fn an_evaluation_is_due_after_every_so_many_steps_and_the_last() {
        let due = |every| (1..=7).filter(|&step| is_due(every, step, 7)).collect::<Vec<_>>();
        assert_eq!(due(3), [3, 6, 7]);
        assert_eq!(due(100), [7]);
        assert!(due(0).is_empty());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = |n: usize| "é".repeat(n);
        let of = |n| Example {
            row: "set".into(),
            prompt: text(n),
            reference: text(n),
            chosen: text(n),
            rejected: text(n),
            scores: [1.0, 2.0],
        };
        assert_eq!(shortened(of(MAX_CHARS)), of(MAX_CHARS));
        assert_eq!(shortened(of(MAX_CHARS + 1)).rejected, format!("{} [...]", text(MAX_CHARS)));
    }
}
