//! One optimiser step: packs forward and backward, the norm, a look at both, the update.

use std::ops::Range;
use std::rc::Rc;

use crate::backend::{AdamW, Backend, BackendExt, Footprint, Operations};
use crate::config::{ObjectiveSection, OptimizerSection};
use crate::error::{Error, Result};
use crate::model::{Gradients, Keep, LossHeads, Model, Workspace};
use crate::objective::{self, Objective, ScoreStats, StepTotals};
use crate::passes::{Capacity, Pack};
use crate::tensor::Tensor;
use crate::train::plan::{MemoryPlan, Sizes};
use crate::train::state::OptimizerState;
use crate::wrap::Guarded;

/// A model with what training it takes: gradients, the optimizer's state, a workspace.
pub struct Trainer {
    model: Rc<Model>,
    state: OptimizerState,
    objective: Box<dyn Objective>,
    optimizer: OptimizerSection,
    workspace: Workspace,
    grads: Gradients,
    figures: Figures,
    /// Updates done.
    updates: u64,
}

/// What the host wants to know of a step, in one buffer on the device, so that it waits for it once: sum of
/// the squared gradients, ranking loss, next-token loss, then the scores of all candidates.
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

    fn squares(&self) -> Tensor {
        self.tensor.window(0, &[1])
    }

    /// Both losses.
    fn losses(&self) -> Tensor {
        self.tensor.window(1, &[2])
    }

    fn scores(&self, range: Range<usize>) -> Tensor {
        self.tensor.window(Self::SCORES + range.start, &[range.len()])
    }

    /// Waits for the device and reads squares, losses and the first `candidates` scores.
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
        let (objective, optimizer) = (objective::new(objective), optimizer.clone());
        Ok(Self { model, state, objective, optimizer, workspace, grads, figures, updates: 0 })
    }

    /// As [`Trainer::new`] with a state of its own over all that is trained, for packs within `capacity`, of at most
    /// `candidates` candidates a step, and the activations of `keep`.
    pub fn whole(
        model: Rc<Model>,
        objective: &ObjectiveSection,
        optimizer: &OptimizerSection,
        capacity: Capacity,
        candidates: usize,
        keep: Keep,
    ) -> Result<Self> {
        let state = OptimizerState::new(&model, model.trained())?;
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

    /// What is said of the scores that a step of `packs` left.
    pub fn score_stats(&self, packs: &[Pack], scores: &[f32]) -> Option<ScoreStats> {
        self.objective.score_stats(packs, scores)
    }

    /// The gradients of the last step, of what is trained.
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
        let candidates = self.issue_gradients(&self.model.clone(), packs, totals)?;
        self.read_step(candidates, scores)
    }

    /// Gradients, then one AdamW update at learning rate `lr`. The device is waited for once, after all of it was issued:
    /// the update looks at norm and losses itself, and does nothing where they are not finite.
    ///
    /// # Errors
    /// When loss or gradient are not finite, with where that began; nothing was updated then.
    pub fn step(&mut self, packs: &[Pack], lr: f64, scores: &mut Vec<f32>) -> Result<Step> {
        let candidates = self.issue_gradients(&self.model.clone(), packs, &StepTotals::of(packs))?;
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
        let (squares, losses) = (self.figures.squares(), self.figures.losses());
        self.state.update(&self.model, self.grads(), &squares, &losses, &update)?;
        let step = self.read_step(candidates, scores)?;
        if !step.loss.is_finite() || !step.grad_norm.is_finite() {
            return Err(self.explain_non_finite(&step, packs)?);
        }
        self.updates += 1;
        Ok(step)
    }

    /// The scores of all candidates of `packs`, one after the other, by the weights as they are. Takes no memory on the
    /// device but what training has.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn scores(&mut self, packs: &[Pack]) -> Result<Vec<f32>> {
        let mut scores = Vec::new();
        for pack in packs {
            self.model.score(&mut self.workspace, pack)?;
            self.model.read_scores(&self.workspace, pack.candidates(), &mut scores)?;
        }
        Ok(scores)
    }

    /// The sum of the next-token losses of `packs` in nats, by the weights as they are. Takes no memory on the device but
    /// what training has.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn next_token_losses(&mut self, packs: &[Pack]) -> Result<f64> {
        self.model.zero_losses(&self.workspace)?;
        packs.iter().try_for_each(|pack| self.model.next_token_loss(&mut self.workspace, pack, 1.0))?;
        Ok(self.model.losses(&self.workspace)?.1)
    }

    /// Begins to compute losses, gradients and scores of `packs` with `model`, and does not wait for them. Says how many candidates
    /// have scores.
    fn issue_gradients(&mut self, model: &Model, packs: &[Pack], totals: &StepTotals) -> Result<usize> {
        let backend = model.backend().as_ref();
        self.grads.zero(backend)?;
        model.zero_losses(&self.workspace)?;
        let mut candidates = 0;
        for pack in packs {
            let loss = |heads: &LossHeads| self.objective.backward(heads, totals);
            model.accumulate_gradients(&mut self.workspace, pack, &loss, &self.grads)?;
            if pack.candidates() > 0 {
                let range = candidates..candidates + pack.candidates();
                candidates = range.end;
                model.copy_scores(&self.workspace, &self.figures.scores(range))?;
            }
        }
        let losses = self.figures.losses();
        model.copy_losses(&self.workspace, [0, 1].map(|at| losses.window(at, &[1])))?;
        backend.sum_of_squares(&self.figures.squares(), self.grads())?;
        Ok(candidates)
    }

    /// Waits for what was issued and reads its losses, norm and scores.
    fn read_step(&mut self, candidates: usize, scores: &mut Vec<f32>) -> Result<Step> {
        let backend = self.model.backend().clone();
        let figures = self.figures.read(backend.as_ref(), candidates)?;
        let [squares, ranking, next_token] = [figures[0], figures[1], figures[2]];
        scores.clear();
        scores.extend(figures[Figures::SCORES..].iter().map(|&score| score as f32));
        let lm_loss = self.objective.mean_next_token_loss(next_token);
        Ok(Step { loss: ranking + next_token, lm_loss, grad_norm: squares.sqrt() })
    }

    /// Where a loss or gradient that is not finite began: a weight, or the first operation that wrote one, with its layer
    /// and operand. The packs are run again behind a guard, which looks at every result.
    fn explain_non_finite(&mut self, step: &Step, packs: &[Pack]) -> Result<Error> {
        let what = format!("loss {} and gradient norm {}", step.loss, step.grad_norm);
        let place = match self.model.first_non_finite_weight()? {
            Some(name) => format!("the weight {name}"),
            None => self.first_non_finite_result(packs)?,
        };
        Ok(Error::machine(format!(
            "{what}: not finite. It began in {place}. Nothing was updated; what was saved before is whole. Try a lower \
             optimizer.lr, a longer schedule.warmup_ratio or a smaller optimizer.clip_grad_norm"
        )))
    }

    fn first_non_finite_result(&mut self, packs: &[Pack]) -> Result<String> {
        let guarded = Rc::new(Guarded::new(self.model.backend().clone()));
        let model = self.model.on(guarded.clone());
        let ran = self.issue_gradients(&model, packs, &StepTotals::of(packs));
        match (guarded.found(), ran) {
            (Some(result), Err(error)) => {
                let gradient =
                    self.model.name_in(self.grads(), &result).map(|name| format!(", the gradient of {name}"));
                let buffer = || self.workspace.name_of(&result).map(|name| format!(", the buffer \"{name}\""));
                Ok(format!("{error}{}", gradient.or_else(buffer).unwrap_or_default()))
            }
            (_, Err(error)) => Err(error),
            (_, Ok(_)) => Ok("what is finite when it is computed again: look for a fault of the device".into()),
        }
    }
}
