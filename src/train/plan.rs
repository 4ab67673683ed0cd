//! What a run takes of a device's memory, known before any of it is taken and without the device.

use crate::backend::Footprint;
use crate::config::KeepChoice;
use crate::cuda::properties::Card;
use crate::error::{Error, Result};
use crate::model::{Gradients, Keep, Model, ModelConfig, OutputHeads, Workspace};
use crate::passes::Capacity;
use crate::train::state::OptimizerState;
use crate::train::step::Trainer;

/// Memory that is left alone where a run has to fit: what the driver takes for the compiled kernels, and what is lost
/// because large allocations begin and end on pages of 2 MiB.
const MARGIN: usize = 256 << 20;

/// What a process takes of a card before it takes anything, for the driver's context.
const CONTEXT: usize = 768 << 20;

/// What decides how much a run takes, whatever it runs on.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// The architecture.
    pub config: ModelConfig,
    /// The heads that are trained.
    pub outputs: OutputHeads,
    /// The most that a pack holds.
    pub capacity: Capacity,
    /// Candidates of a step, at most.
    pub candidates: usize,
}

/// One buffer, or several of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBuffer {
    /// What is in it.
    pub name: &'static str,
    /// Its size.
    pub bytes: usize,
}

/// Everything that a [`Trainer`] and its model take, by what it is for.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// The activations that stay for the backward pass.
    pub keep: Keep,
    /// The most that a pack holds.
    pub capacity: Capacity,
    /// Candidates of a step, at most.
    pub candidates: usize,
    /// What is taken on the device.
    pub parts: Vec<PlannedBuffer>,
    /// Bytes of the host's memory that the device reads from.
    pub staging: usize,
}

impl MemoryPlan {
    /// Bytes on the device, in all.
    pub fn total(&self) -> usize {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

impl Sizes {
    /// The plan on a device of such a `footprint` with the activations of `keep`.
    pub fn plan(&self, footprint: &Footprint, keep: Keep) -> MemoryPlan {
        let Self { config, outputs, capacity, candidates } = self;
        let part = |name, bytes| PlannedBuffer { name, bytes };
        let trained = config.trained(*outputs).len();
        let [masters, moments] = OptimizerState::planned_bytes(footprint, trained);
        let mut parts = vec![part("weights", Model::bytes(footprint, config, *outputs))];
        if masters > 0 {
            parts.push(part("masters", masters));
        }
        parts.extend([
            part("gradients", Gradients::bytes(footprint, config, *outputs)),
            part("moments", moments),
            part("activations", Workspace::bytes(footprint, config, *outputs, *capacity, Some(keep))),
            part("scratch", (footprint.scratch)(&Workspace::extent(config, *outputs, *capacity))),
            part("metrics", Trainer::metrics_bytes(footprint, *candidates)),
        ]);
        let (capacity, candidates) = (*capacity, *candidates);
        MemoryPlan { keep, capacity, candidates, parts, staging: footprint.staging }
    }

    /// The plan for `choice`: with [`KeepChoice::Auto`] the one that computes least again and fits into `free` bytes,
    /// everything kept where nothing bounds the memory.
    ///
    /// # Errors
    /// The user's, with what to change, when it does not fit.
    pub fn choose(&self, footprint: &Footprint, choice: KeepChoice, free: Option<usize>) -> Result<MemoryPlan> {
        let fits = |plan: &MemoryPlan| free.is_none_or(|free| plan.total() + MARGIN <= free);
        let policies = choice.policy().map_or(Keep::ALL.to_vec(), |keep| vec![keep]);
        let plan = policies.into_iter().map(|keep| self.plan(footprint, keep)).find(fits);
        plan.ok_or_else(|| self.does_not_fit(footprint, choice, free.unwrap_or(usize::MAX)))
    }

    /// Says by how much a run does not fit into `free` bytes, and what would.
    fn does_not_fit(&self, footprint: &Footprint, choice: KeepChoice, free: usize) -> Error {
        let room = free.saturating_sub(MARGIN);
        let total = |sizes: &Self, keep| sizes.plan(footprint, keep).total();
        let keep = choice.policy().unwrap_or(Keep::Block);
        let mut said =
            format!("the run takes {} with train.keep = {keep}, and {} can be used", gib(total(self, keep)), gib(room));
        if let Some(other) = Keep::ALL.into_iter().find(|&other| total(self, other) <= room) {
            said += &format!(": --set train.keep={other} takes {}", gib(total(self, other)));
            return Error::user(said);
        }
        const STEP: usize = 1024;
        let with_tokens = |tokens| Self { capacity: self.capacity.with_tokens(tokens), ..self.clone() };
        let tokens: Vec<usize> = (1..=self.capacity.tokens / STEP).map(|n| n * STEP).collect();
        let fitting = tokens.partition_point(|&tokens| total(&with_tokens(tokens), Keep::Block) <= room);
        if let Some(&tokens) = fitting.checked_sub(1).and_then(|last| tokens.get(last)) {
            said += &format!(
                ": packs of {tokens} tokens fit (--set data.pack_length={tokens} --set train.keep=block; pairs that are \
                 longer are left out)"
            );
        } else {
            let state = self.plan(footprint, Keep::Block).parts;
            let state = state.iter().filter(|part| !["activations", "scratch", "metrics"].contains(&part.name));
            said += &format!(
                ", and weights, gradients and the optimizer's state take {} of it whatever the pack: it takes a smaller \
                 model or a card with more memory",
                gib(state.map(|part| part.bytes).sum())
            );
        }
        Error::user(said)
    }
}

/// Bytes that a run can have of the card called `name`, or of one of so much memory, as in `24GiB`.
///
/// # Errors
/// The user's, with the names that are known.
pub fn memory_of(name: &str) -> Result<usize> {
    let known = Card::named(name).map(|card| card.memory_bytes);
    let given = || {
        let gib: f64 = name.to_lowercase().strip_suffix("gib")?.trim().parse().ok()?;
        (0.0..=1e6).contains(&gib).then_some((gib * f64::from(1 << 30)) as usize)
    };
    match known.or_else(given) {
        Some(bytes) => Ok(bytes.saturating_sub(CONTEXT)),
        None => {
            let names = Card::names();
            Err(Error::user(format!("--card {name}: not a known card; give {names}, or its memory, as in 24GiB")))
        }
    }
}

/// Bytes as a person reads them.
pub fn gib(bytes: usize) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{:.1} MiB", gib * 1024.0) }
}

impl KeepChoice {
    /// The policy that is asked for; none if it is to be chosen.
    pub fn policy(self) -> Option<Keep> {
        match self {
            Self::Auto => None,
            Self::All => Some(Keep::All),
            Self::Norms => Some(Keep::Norms),
            Self::Block => Some(Keep::Block),
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::abs_diff_eq;

    use super::*;
    use crate::config::Config;
    use crate::cuda;
    use crate::train::setup::{Start, sizes_without_data};

    const GIB: usize = 1 << 30;

    fn sizes(preset: &str, sets: &[&str]) -> Sizes {
        let mut config = Config::preset(preset).unwrap();
        sets.iter().for_each(|set| config.set(set).unwrap());
        sizes_without_data(&config, &Start::Fresh).unwrap()
    }

    fn free(card: &str) -> Option<usize> {
        Some(memory_of(card).unwrap())
    }

    /// The preset is for one card of 80 GB.
    #[test]
    fn polar_1_8b_fits_an_h100() {
        let sizes = sizes("polar-1.8b", &[]);
        for card in ["h100", "a100"] {
            let plan = sizes.choose(&cuda::footprint(), KeepChoice::Auto, free(card)).unwrap();
            assert_eq!(plan.keep, Keep::Norms, "nothing is computed twice that need not be");
            assert!(plan.total() <= 76 * GIB, "{} on {card}", gib(plan.total()));
            // Weights in 2 bytes; masters, gradients and two moments in 4 each.
            let parameters = sizes.config.parameters(sizes.outputs);
            let state: usize = plan.parts[..4].iter().map(|part| part.bytes).sum();
            assert!((18 * parameters..18 * parameters + (1 << 20)).contains(&state), "{state}");
        }
        let plans = Keep::ALL.map(|keep| sizes.plan(&cuda::footprint(), keep).total());
        assert!(plans[0] > 80 * GIB && plans[0] > plans[1] && plans[1] > plans[2], "{plans:?}");
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let refused =
            |sizes: &Sizes, choice, card| sizes.choose(&cuda::footprint(), choice, free(card)).unwrap_err().to_string();
        let sizes_1_8b = sizes("polar-1.8b", &[]);
        let said = refused(&sizes_1_8b, KeepChoice::All, "h100");
        assert!(said.contains("train.keep = all") && said.contains("--set train.keep=norms takes"), "{said}");
        let said = refused(&sizes_1_8b, KeepChoice::Auto, "5090");
        let tokens: usize = said.split("data.pack_length=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let fitting = |tokens: usize| {
            let sizes = sizes("polar-1.8b", &["train.keep=block", &format!("data.pack_length={tokens}")]);
            sizes.choose(&cuda::footprint(), KeepChoice::Block, free("5090")).is_ok()
        };
        assert!(fitting(tokens) && !fitting(tokens + 1024), "{said}");
        let said = refused(&sizes("polar-7b", &[]), KeepChoice::Auto, "h100");
        assert!(said.contains("a smaller model or a card with more memory"), "{said}");
        // On a device without memory of its own nothing is refused, and nothing computed twice.
        let plan = sizes_1_8b.choose(&cuda::footprint(), KeepChoice::Auto, None).unwrap();
        assert_eq!(plan.keep, Keep::All);
    }

    /// What the larger presets take, in GiB, as the documents say it.
    #[test]
    fn larger_presets() {
        for (preset, expected) in [("polar-1.8b", [84.7, 67.7, 34.5]), ("polar-7b", [257.9, 215.8, 136.8])] {
            let sizes = sizes(preset, &[]);
            let plans = Keep::ALL.map(|keep| sizes.plan(&cuda::footprint(), keep).total() as f64 / GIB as f64);
            assert!(abs_diff_eq!(plans[..], expected[..], epsilon = 0.1), "{preset}: {plans:?}");
        }
        let plan = sizes("polar-7b", &[]).choose(&cuda::footprint(), KeepChoice::Auto, free("h200")).unwrap();
        assert_eq!(plan.keep, Keep::Block);
    }

    #[test]
    fn cards_by_name_or_memory() {
        assert_eq!(memory_of("H100").unwrap(), (81_559 << 20) - CONTEXT);
        for size in ["24GiB", "24 GiB", "24gib"] {
            assert_eq!(memory_of(size).unwrap(), 24 * GIB - CONTEXT);
        }
        for text in ["h10", "manyGiB", "-1GiB", "24"] {
            let error = memory_of(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("h100") && error.contains("24GiB"), "{error}");
        }
    }
}
