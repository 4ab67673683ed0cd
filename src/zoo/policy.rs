//! Policies: points in a space of habits, randomness and skills.

use rand::{Rng, RngExt};

use super::task;

/// Dimensions of the space of habits.
pub const DIMENSIONS: usize = 5;
/// Number of values of each dimension, in the order of [`Style`]'s accessors.
pub const SIZES: [usize; DIMENSIONS] = [24, 24, 6, 2, 2];
/// Bounds of the probability that a sample leaves the habit of a dimension.
pub(super) const TEMPERATURES: std::ops::Range<f64> = 0.05..0.25;
/// Bounds of the probability of a mistake, for each kind of task.
const ERRORS: std::ops::Range<f64> = 0.02..0.5;

/// A value for each dimension: the habits of a policy, or what one sample made of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style([usize; DIMENSIONS]);

impl Style {
    /// Draws every value evenly.
    pub fn draw(rng: &mut impl Rng) -> Self {
        Self(SIZES.map(|size| rng.random_range(0..size)))
    }

    /// The values, each below its entry of [`SIZES`].
    pub fn values(&self) -> [usize; DIMENSIONS] {
        self.0
    }

    /// Which symbols open and end the first step, then the second.
    pub fn symbols(&self) -> [usize; 4] {
        permutation(self.0[0])
    }

    /// Which words open the text, come before the answer, after it, and close the text.
    pub fn words(&self) -> [usize; 4] {
        permutation(self.0[1])
    }

    /// Which connectives the first step, the second and the answer have.
    pub fn connectives(&self) -> [usize; 3] {
        permutation(self.0[2])
    }

    /// Whether the steps stand in the reverse order of the thought.
    pub fn backward(&self) -> bool {
        self.0[3] == 1
    }

    /// Whether a step names its result first.
    pub fn result_first(&self) -> bool {
        self.0[4] == 1
    }
}

/// One writer.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its habits.
    pub habits: Style,
    /// Probability, for each dimension, that a sample draws the value evenly in place of following the habit.
    pub temperature: [f64; DIMENSIONS],
    /// Probability of a wrong answer, for each kind of task.
    pub error: [f64; task::KINDS],
}

impl Policy {
    /// Draws a policy.
    pub fn draw(rng: &mut impl Rng) -> Self {
        Self {
            habits: Style::draw(rng),
            temperature: std::array::from_fn(|_| rng.random_range(TEMPERATURES)),
            error: std::array::from_fn(|_| rng.random_range(ERRORS)),
        }
    }

    /// The style of one sample: the habits, but for the dimensions in which chance has it otherwise.
    pub fn sample_style(&self, rng: &mut impl Rng) -> Style {
        Style(std::array::from_fn(|d| {
            if rng.random_bool(self.temperature[d]) { rng.random_range(0..SIZES[d]) } else { self.habits.0[d] }
        }))
    }
}

/// The permutation of `0..N` of number `rank`, in lexicographic order (factorial number system).
fn permutation<const N: usize>(mut rank: usize) -> [usize; N] {
    let mut left: Vec<usize> = (0..N).collect();
    std::array::from_fn(|i| {
        let block: usize = (1..N - i).product();
        let at = rank / block;
        rank %= block;
        left.remove(at)
    })
}
