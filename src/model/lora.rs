//! Adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, as PEFT computes them.

use crate::config::Projection;

/// What is trained beside the head: to each target's weight `W`, which stays as it is, `alpha / rank` times the product
/// of two factors is added, `W + alpha / rank B A`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rows of `A` and columns of `B`.
    pub rank: usize,
    /// The product counts `alpha / rank` times.
    pub alpha: f64,
    /// The projections of every layer that have an adapter, each once, in the order of [`Projection::ALL`].
    pub targets: Vec<Projection>,
}

impl Lora {
    /// What it is, for a person.
    pub fn describe(&self) -> String {
        let names: Vec<&str> = self.targets.iter().map(|target| target.name()).collect();
        format!("adapters of rank {} on {}", self.rank, names.join(", "))
    }

    /// How often the product of the factors counts.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}
