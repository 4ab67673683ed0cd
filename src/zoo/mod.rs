//! The policy zoo: stochastic writers that solve small verifiable tasks.
//!
//! A policy is a point, drawn from a seed, in a space of habits (which symbol, word and connective stands where), order
//! of work (steps forward or backward, result before or after the working), skills (how often it is wrong, for each
//! kind of task) and randomness (how often a sample leaves each habit). Two samples of one policy for one prompt
//! differ. Everything is a pure function of the seed, the split and an index: any amount can be streamed from any
//! place, and nothing is stored.
//!
//! Policies differ in the *arrangement* of the same characters only. Were they to differ in what they use, counting
//! bytes would tell them apart; were their marks to touch each other, n-grams would. See [`writer`] for how neither
//! is so.

mod numeral;
pub mod oracle;
pub mod policy;
pub mod task;
pub mod writer;

#[cfg(test)]
mod tests;

use rand::seq::index;
use rand::{Rng, RngExt};
use std::sync::Arc;

use crate::config::ZooSection;
use crate::data::{Trajectory, Triple};
use crate::rng::stream;
use crate::{Error, Result};
use policy::{Policy, Style};
use task::Task;

/// One in so many prompts is held out.
const HELD_OUT_ONE_IN: u8 = 8;
/// More policies than this are a mistake: they would take more memory than they could ever be worth.
const MOST_POLICIES: usize = 1 << 20;

/// What a sample may have to do with training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training policies on training prompts.
    Train,
    /// Training policies on prompts that are never trained on.
    HeldOutPrompts,
    /// Policies that are never trained on, on held-out prompts too.
    HeldOutPolicies,
}

impl Split {
    /// Whether its prompts are held out.
    fn held_out_prompts(self) -> bool {
        self != Self::Train
    }

    /// Part of the name of its random streams: no two splits share one.
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOutPrompts => "held-out prompts",
            Self::HeldOutPolicies => "held-out policies",
        }
    }
}

/// What a sample's answer is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// As the policy's skill has it.
    BySkill,
    Right,
    Wrong,
}

/// One output of a policy, with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Prompt, policy and output.
    pub trajectory: Trajectory,
    /// Whether the answer is right.
    pub correct: bool,
    /// What the sample made of the policy's habits.
    pub style: Style,
}

/// A family of policies and prompts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Zoo {
    seed: u64,
    train: Arc<[Policy]>,
    held_out: Arc<[Policy]>,
}

impl Zoo {
    /// Draws the policies of a section.
    ///
    /// # Errors
    /// A user error where there are fewer than two policies on a side, since no triple could be made, or absurdly many.
    pub fn new(section: &ZooSection) -> Result<Self> {
        let draw = |key: &str, count: usize| {
            if !(2..=MOST_POLICIES).contains(&count) {
                return Err(Error::user(format!(
                    "zoo.{key} = {count}: a triple takes two different policies; give 2 to {MOST_POLICIES}"
                )));
            }
            let draw = |i| Policy::draw(&mut stream(section.seed, &format!("zoo policy {key}"), i));
            Ok((0..count as u64).map(draw).collect())
        };
        Ok(Self {
            seed: section.seed,
            train: draw("train_policies", section.train_policies)?,
            held_out: draw("held_out_policies", section.held_out_policies)?,
        })
    }

    /// The policies of a split.
    pub fn policies(&self, split: Split) -> &[Policy] {
        match split {
            Split::Train | Split::HeldOutPrompts => &self.train,
            Split::HeldOutPolicies => &self.held_out,
        }
    }

    /// A pre-training triple: reference and chosen are two samples of one policy, rejected is one of another policy
    /// of the same split, all for one prompt.
    pub fn triple(&self, split: Split, index: u64) -> Triple {
        let [reference, chosen, rejected] = self.triple_samples(split, index);
        triple(&reference, &chosen, &rejected)
    }

    /// The samples of [`Zoo::triple`], with what is known of them.
    pub fn triple_samples(&self, split: Split, index: u64) -> [Sample; 3] {
        let rng = &mut self.stream("triple", split, index);
        let task = draw_task(split, rng);
        let [one, other] = self.two_policies(split, rng);
        let reference = self.sample(split, one, &task, Outcome::BySkill, rng);
        let chosen = self.sample_unlike(&reference, split, one, &task, Outcome::BySkill, rng);
        let rejected = self.sample_unlike(&chosen, split, other, &task, Outcome::BySkill, rng);
        [reference, chosen, rejected]
    }

    /// A preference: chosen is a right answer and rejected a wrong one of one policy; reference is a right answer of
    /// another policy of the split.
    pub fn preference(&self, split: Split, index: u64) -> Triple {
        let rng = &mut self.stream("preference", split, index);
        let task = draw_task(split, rng);
        let [one, other] = self.two_policies(split, rng);
        let reference = self.sample(split, other, &task, Outcome::Right, rng);
        let chosen = self.sample_unlike(&reference, split, one, &task, Outcome::Right, rng);
        let rejected = self.sample(split, one, &task, Outcome::Wrong, rng);
        triple(&reference, &chosen, &rejected)
    }

    /// `samples` different outputs of each of `policies` drawn policies (at most all of the split) for one prompt.
    pub fn trajectories(&self, split: Split, prompt_index: u64, policies: usize, samples: usize) -> Vec<Sample> {
        let task = self.task(split, prompt_index);
        let rng = &mut self.stream("trajectories", split, prompt_index);
        let all = self.policies(split).len();
        let mut group: Vec<Sample> = Vec::with_capacity(policies * samples);
        for policy in index::sample(rng, all, policies.min(all)) {
            for _ in 0..samples {
                group.push(self.sample(split, policy, &task, Outcome::BySkill, rng));
            }
        }
        group
    }

    /// The task that [`Zoo::trajectories`] of that index answer: [`is_right`] checks any text against it.
    pub fn task(&self, split: Split, prompt_index: u64) -> Task {
        draw_task(split, &mut self.stream("prompt", split, prompt_index))
    }

    fn stream(&self, what: &str, split: Split, index: u64) -> rand_chacha::ChaCha8Rng {
        stream(self.seed, &format!("zoo {what} {}", split.name()), index)
    }

    fn two_policies(&self, split: Split, rng: &mut impl Rng) -> [usize; 2] {
        let drawn = index::sample(rng, self.policies(split).len(), 2);
        [drawn.index(0), drawn.index(1)]
    }

    fn sample(&self, split: Split, policy: usize, task: &Task, outcome: Outcome, rng: &mut impl Rng) -> Sample {
        let writer = &self.policies(split)[policy];
        let wrong = match outcome {
            Outcome::BySkill => rng.random_bool(writer.error[task.kind()]),
            Outcome::Right => false,
            Outcome::Wrong => true,
        };
        let working = if wrong { task.work_wrongly(rng) } else { task.work(None, rng) };
        let style = writer.sample_style(rng);
        let output = writer::write(&working, &style, rng);
        let side = if split == Split::HeldOutPolicies { "held-out" } else { "zoo" };
        let trajectory = Trajectory { prompt: task.prompt(), policy: format!("{side}-{policy}"), output };
        Sample { trajectory, correct: !wrong, style }
    }

    /// A sample whose text is not that of `other`.
    fn sample_unlike(
        &self,
        other: &Sample,
        split: Split,
        policy: usize,
        task: &Task,
        outcome: Outcome,
        rng: &mut impl Rng,
    ) -> Sample {
        loop {
            let sample = self.sample(split, policy, task, outcome, rng);
            if sample.trajectory.output != other.trajectory.output {
                return sample;
            }
        }
    }
}

/// Whether `output` gives the right answer to `task`.
pub fn is_right(task: &Task, output: &str) -> bool {
    writer::read_answer(output).is_some_and(|answer| answer == task.answer())
}

/// Draws tasks until one falls on the split's side: the side is a function of the prompt's text alone.
fn draw_task(split: Split, rng: &mut impl Rng) -> Task {
    loop {
        let task = Task::draw(rng);
        if is_held_out(&task.prompt()) == split.held_out_prompts() {
            return task;
        }
    }
}

/// Whether a prompt is never trained on.
pub fn is_held_out(prompt: &str) -> bool {
    blake3::hash(prompt.as_bytes()).as_bytes()[0].is_multiple_of(HELD_OUT_ONE_IN)
}

fn triple(reference: &Sample, chosen: &Sample, rejected: &Sample) -> Triple {
    Triple {
        prompt: reference.trajectory.prompt.clone(),
        reference: reference.trajectory.output.clone(),
        chosen: chosen.trajectory.output.clone(),
        rejected: rejected.trajectory.output.clone(),
        wrapper: None,
    }
}
