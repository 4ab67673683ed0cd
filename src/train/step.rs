//! One optimiser step: packs forward and backward, the norm, a look at both, the update.

use std::ops::Range;
use std::rc::Rc;

use crate::backend::{AdamW, Backend, BackendExt, Footprint, PairLoss};
use crate::config::{ObjectiveKind, ObjectiveSection, OptimizerSection};
use crate::error::{Error, Result};
use crate::model::{Flat, Keep, Model, Objective, Workspace};
use crate::passes::{Capacity, Pack};
use crate::tensor::Tensor;

/// A model with what training it takes: gradients, moments, a workspace.
pub struct Trainer {
    model: Rc<Model>,
    objective: ObjectiveSection,
    optimizer: OptimizerSection,
    workspace: Workspace,
    grads: Flat,
    m: Tensor,
    v: Tensor,
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

impl Trainer {
    /// Takes the memory for training a [`Model::trainable`] model on packs within `capacity`, of at most `candidates`
    /// candidates a step, with the activations of `keep`.
    pub fn new(
        model: Rc<Model>,
        objective: &ObjectiveSection,
        optimizer: &OptimizerSection,
        capacity: Capacity,
        candidates: usize,
        keep: Keep,
    ) -> Result<Self> {
        let backend = model.backend().clone();
        let workspace = Workspace::new(backend.as_ref(), model.config(), model.outputs(), capacity, Some(keep))?;
        let (grads, m, v) = (model.gradients()?, model.state()?, model.state()?);
        let figures = Figures::new(backend.as_ref(), candidates)?;
        let (objective, optimizer) = (objective.clone(), optimizer.clone());
        Ok(Self { model, objective, optimizer, workspace, grads, m, v, figures, updates: 0 })
    }

    /// Bytes of what the host reads of a step of `candidates` candidates.
    pub fn metrics_bytes(footprint: &Footprint, candidates: usize) -> usize {
        Figures::elements(candidates) * footprint.accumulator.size()
    }

    /// Refuses weights or moments that are not finite: an update can overflow although its gradient did not.
    ///
    /// # Errors
    /// Names the tensor and the update after which it was found.
    pub fn check_state(&self) -> Result<()> {
        let [m, v] = self.moments();
        for (what, flat) in [("weight", self.model.master()), ("first moment of", m), ("second moment of", v)] {
            if let Some(name) = self.model.first_non_finite(flat)? {
                return Err(Error::machine(format!(
                    "the {what} {name} is not finite after update {}. It was not saved; what was saved before is \
                     whole. Try a lower optimizer.lr",
                    self.updates
                )));
            }
        }
        Ok(())
    }

    /// The model in training.
    pub fn model(&self) -> &Rc<Model> {
        &self.model
    }

    /// The gradients of the last step.
    pub fn grads(&self) -> &Tensor {
        self.grads.tensor()
    }

    /// Both moments of AdamW.
    pub fn moments(&self) -> [&Tensor; 2] {
        [&self.m, &self.v]
    }

    /// Updates done so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Goes on after `updates` updates, the buffers having been restored.
    pub fn resume_at(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// Computes losses and gradients of all packs together. The scores of all candidates go to `scores`.
    pub fn gradients(&mut self, packs: &[Pack], scores: &mut Vec<f32>) -> Result<Step> {
        let backend = self.model.backend().clone();
        backend.fill(self.grads(), 0.0)?;
        self.model.zero_losses(&self.workspace)?;
        scores.clear();
        let objective = self.objective(packs);
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
        let step = self.gradients(packs, scores)?;
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
        let (params, norm) = (self.model.params(), self.figures.norm());
        self.model.backend().adamw(params, self.model.master(), &self.m, &self.v, self.grads(), &norm, &update)?;
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
    fn objective(&self, packs: &[Pack]) -> Objective {
        let pairs: usize = packs.iter().map(|pack| pack.pairs.len()).sum();
        let predicted: f64 = packs.iter().map(Pack::predicted_tokens).sum();
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
        let objective = self.objective(packs);
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
