//! One optimiser step: packs forward and backward, the norm, a look at both, the update.

use std::ops::Range;
use std::rc::Rc;

use crate::backend::{AdamW, Backend, BackendExt, Footprint, Operations, PairLoss};
use crate::config::{ObjectiveKind, ObjectiveSection, OptimizerSection};
use crate::error::{Error, Result};
use crate::model::{Flat, Keep, Model, Objective, Workspace};
use crate::passes::{Capacity, Pack};
use crate::tensor::Tensor;
use crate::train::plan::{MemoryPlan, Sizes};
use crate::train::state::OptimizerState;

/// A model with what training it takes: gradients, the optimizer's state, a workspace.
pub struct Trainer {
    model: Rc<Model>,
    state: OptimizerState,
    objective: ObjectiveSection,
    optimizer: OptimizerSection,
    workspace: Workspace,
    grads: Flat,
    figures: Figures,
    /// Updates done.
    updates: u64,
}

/// What the host wants to know of a step, in one buffer on the device, so that it waits for it once: gradient norm,
/// ranking loss, next-token loss, then the scores of all candidates.
struct Figures {
    tensor: Tensor,
    host: Vec<f64>,
}

impl Figures {
    /// What stands before the scores.
    const SCORES: usize = 3;

    fn new(backend: &dyn Backend, candidates: usize) -> Result<Self> {
        let n = Self::elements(candidates);
        Ok(Self { tensor: backend.tensor(backend.accumulator(), &[n])?, host: vec![0.0; n] })
    }

    fn elements(candidates: usize) -> usize {
        Self::SCORES + candidates
    }

    fn norm(&self) -> Tensor {
        self.tensor.window(0, &[1])
    }

    fn losses(&self) -> [Tensor; 2] {
        [1, 2].map(|at| self.tensor.window(at, &[1]))
    }

    fn scores(&self, range: Range<usize>) -> Tensor {
        self.tensor.window(Self::SCORES + range.start, &[range.len()])
    }

    /// Waits for the device and reads norm, losses and the first `candidates` scores.
    fn read(&mut self, backend: &dyn Backend, candidates: usize) -> Result<&[f64]> {
        let n = Self::elements(candidates);
        backend.read_f64_into(&self.tensor.first(&[n]), &mut self.host[..n])?;
        Ok(&self.host[..n])
    }
}

/// The figures of a step. `scores` of the pairs are left in the buffer given to [`Trainer::step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The loss that was minimised: ranking loss with penalty, plus the weighted next-token loss.
    pub loss: f64,
    /// The mean next-token loss in nats, if there is one.
    pub lm_loss: Option<f64>,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// What a step is the mean over, whoever computes which of its packs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTotals {
    /// Pairs compared.
    pub pairs: usize,
    /// Tokens that are predicted, by their weights.
    pub predicted: f64,
}

impl StepTotals {
    /// Of all the packs of a step.
    pub fn of(packs: &[Pack]) -> Self {
        let pairs = packs.iter().map(|pack| pack.pairs.len()).sum();
        Self { pairs, predicted: packs.iter().map(Pack::predicted_tokens).sum() }
    }
}

impl Trainer {
    /// Takes the memory of `plan` for training `model`, whose parameters `state` belongs to.
    pub fn new(
        model: Rc<Model>,
        state: OptimizerState,
        objective: &ObjectiveSection,
        optimizer: &OptimizerSection,
        plan: &MemoryPlan,
    ) -> Result<Self> {
        let backend = model.backend().clone();
        let (config, outputs) = (model.config(), model.outputs());
        let workspace = Workspace::new(backend.as_ref(), config, outputs, plan.capacity, Some(plan.keep))?;
        let grads = model.gradients()?;
        let figures = Figures::new(backend.as_ref(), plan.candidates)?;
        let (objective, optimizer) = (objective.clone(), optimizer.clone());
        Ok(Self { model, state, objective, optimizer, workspace, grads, figures, updates: 0 })
    }

    /// As [`Trainer::new`] with a state of its own over all parameters, for packs within `capacity`, of at most
    /// `candidates` candidates a step, and the activations of `keep`.
    pub fn whole(
        model: Rc<Model>,
        objective: &ObjectiveSection,
        optimizer: &OptimizerSection,
        capacity: Capacity,
        candidates: usize,
        keep: Keep,
    ) -> Result<Self> {
        let state = OptimizerState::new(&model, 0..model.params().len())?;
        let sizes = Sizes { config: model.config().clone(), outputs: model.outputs(), capacity, candidates };
        let plan = sizes.plan(&model.backend().footprint(), keep);
        Self::new(model, state, objective, optimizer, &plan)
    }

    /// Bytes of what the host reads of a step of `candidates` candidates.
    pub fn metrics_bytes(footprint: &Footprint, candidates: usize) -> usize {
        Figures::elements(candidates) * footprint.accumulator.size()
    }

    /// The model in training.
    pub fn model(&self) -> &Rc<Model> {
        &self.model
    }

    /// The gradients of the last step.
    pub fn grads(&self) -> &Tensor {
        self.grads.tensor()
    }

    /// What the optimizer keeps.
    pub fn state(&self) -> &OptimizerState {
        &self.state
    }

    /// The model and the optimizer's state, without what else training takes.
    pub fn into_parts(self) -> (Rc<Model>, OptimizerState) {
        (self.model, self.state)
    }

    /// Updates done so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Goes on after `updates` updates, the buffers having been restored.
    pub fn resume_at(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// Computes losses and gradients of `packs`, all of a step or a share of them: of the step whose `totals` these are.
    /// The scores of all their candidates go to `scores`.
    pub fn gradients(&mut self, packs: &[Pack], totals: &StepTotals, scores: &mut Vec<f32>) -> Result<Step> {
        let backend = self.model.backend().clone();
        backend.fill(self.grads(), 0.0)?;
        self.model.zero_losses(&self.workspace)?;
        scores.clear();
        let objective = self.objective(totals);
        let mut candidates = 0;
        for pack in packs {
            self.model.accumulate_gradients(&mut self.workspace, pack, &objective, &self.grads)?;
            if objective.pair_loss.is_some() {
                let range = candidates..candidates + pack.candidates();
                candidates = range.end;
                self.model.copy_scores(&self.workspace, &self.figures.scores(range))?;
            }
        }
        self.model.copy_losses(&self.workspace, self.figures.losses())?;
        backend.global_norm(&self.figures.norm(), self.grads())?;
        let figures = self.figures.read(backend.as_ref(), candidates)?;
        let [grad_norm, ranking, next_token] = [figures[0], figures[1], figures[2]];
        scores.extend(figures[Figures::SCORES..].iter().map(|&score| score as f32));
        let weight = self.lm_weight();
        let lm_loss = (weight > 0.0).then(|| next_token / weight);
        Ok(Step { loss: ranking + next_token, lm_loss, grad_norm })
    }

    /// Gradients, then one AdamW update at learning rate `lr`. Nothing is updated if loss or gradient are not finite.
    pub fn step(&mut self, packs: &[Pack], lr: f64, scores: &mut Vec<f32>) -> Result<Step> {
        let step = self.gradients(packs, &StepTotals::of(packs), scores)?;
        if !step.loss.is_finite() || !step.grad_norm.is_finite() {
            return Err(self.explain_non_finite(&step, packs)?);
        }
        let [beta1, beta2] = self.optimizer.betas;
        let update = AdamW {
            lr,
            beta1,
            beta2,
            eps: self.optimizer.eps,
            weight_decay: self.optimizer.weight_decay,
            max_norm: self.optimizer.clip_grad_norm,
            step: self.updates + 1,
        };
        self.state.update(&self.model, self.grads(), &self.figures.norm(), &update)?;
        self.updates += 1;
        Ok(step)
    }

    fn lm_weight(&self) -> f64 {
        match self.objective.kind {
            ObjectiveKind::Polar => self.objective.lm_weight,
            ObjectiveKind::Lm => 1.0,
        }
    }

    /// Scales that make the losses of all packs of a step means over its pairs and over its predicted tokens.
    fn objective(&self, totals: &StepTotals) -> Objective {
        let &StepTotals { pairs, predicted } = totals;
        let pair_loss = (self.objective.kind == ObjectiveKind::Polar).then(|| PairLoss {
            kind: self.objective.loss,
            penalty: self.objective.penalty,
            penalty_weight: self.objective.penalty_weight,
            scale: 1.0 / pairs.max(1) as f64,
        });
        let lm_weight = self.lm_weight();
        Objective { pair_loss, lm_scale: (lm_weight > 0.0).then(|| lm_weight / predicted.max(1.0)) }
    }

    /// Where a loss or gradient that is not finite began: a weight, a buffer of the forward pass, or a gradient. Packs
    /// are run again one by one, so that the buffers of the first bad one are looked at.
    fn explain_non_finite(&mut self, step: &Step, packs: &[Pack]) -> Result<Error> {
        let what = format!("loss {} and gradient norm {}", step.loss, step.grad_norm);
        let place = self.first_non_finite(packs)?.unwrap_or_else(|| "the sum of the packs' losses".into());
        Ok(Error::machine(format!(
            "{what}: not finite. It began in {place}. Nothing was updated; what was saved before is whole. Try a lower \
             optimizer.lr, a longer schedule.warmup_ratio or a smaller optimizer.clip_grad_norm"
        )))
    }

    fn first_non_finite(&mut self, packs: &[Pack]) -> Result<Option<String>> {
        let backend = self.model.backend().clone();
        if let Some(name) = self.model.first_non_finite(self.model.params())? {
            return Ok(Some(format!("the weight {name}")));
        }
        let objective = self.objective(&StepTotals::of(packs));
        for pack in packs {
            if let Some(name) = self.model.first_non_finite_buffer(&mut self.workspace, pack)? {
                return Ok(Some(format!("the buffer \"{name}\"")));
            }
            backend.fill(self.grads(), 0.0)?;
            self.model.zero_losses(&self.workspace)?;
            self.model.accumulate_gradients(&mut self.workspace, pack, &objective, &self.grads)?;
            if let Some(name) = self.model.first_non_finite(self.grads())? {
                return Ok(Some(format!("the gradient of {name}")));
            }
        }
        Ok(None)
    }
}
