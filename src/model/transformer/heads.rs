//! The heads on the last residual, reward and next token, and their losses.

use super::{Grads, LossHeads, Pass};
use crate::backend::{BackendExt, Operations, PairLoss, RewardHeadGrads};
use crate::error::{Error, Result};
use crate::passes::Pack;
use crate::tensor::Tensor;

impl Pass<'_> {
    pub(super) fn reward_head(&self) -> Result<&Tensor> {
        self.params.reward_head.as_ref().ok_or_else(|| {
            Error::user(
                "the model has no reward head (v_head.weight): it was trained as a language model; fine-tune it first",
            )
        })
    }

    pub(super) fn scores(&self) -> Tensor {
        self.buffer(self.workspace.output.scores, &[self.pack.candidates()])
    }

    /// Whether some selected rows are not scored, so that the scored ones have to be gathered.
    pub(super) fn scores_are_a_part(&self) -> bool {
        self.pack.candidates() != self.pack.selected.len()
    }

    /// The last residual at the score tokens.
    pub(super) fn score_rows_forward(&self) -> Result<Tensor> {
        let x = self.rows(self.workspace.output.x, self.pack.selected.len());
        if !self.scores_are_a_part() {
            return Ok(x);
        }
        let score_x = self.rows(self.workspace.output.score_x, self.pack.candidates());
        self.backend.gather_forward(&score_x, &x, &self.write_score_rows()?)?;
        Ok(score_x)
    }

    fn write_score_rows(&self) -> Result<Tensor> {
        let rows = self.buffer(self.workspace.inputs.score_rows, &[self.pack.candidates()]);
        self.backend.write_u32(&rows, &self.pack.score_rows)?;
        Ok(rows)
    }

    /// Final norm and logits of the selected rows, and `scale` times the sum of their losses; gradients of the normed rows
    /// and of the head if `grads` are given.
    pub(super) fn lm_head(&self, scale: f64, grads: Option<&Grads>) -> Result<()> {
        let (b, s, output) = (self.backend, self.pack.selected.len(), &self.workspace.output);
        let (normed, table) = (self.normed()?, self.lm_table()?);
        let targets = self.buffer(self.workspace.inputs.targets, &[s]);
        b.write_u32(&targets, &self.pack.targets)?;
        let weights = self.buffer(self.workspace.inputs.target_weights, &[s]);
        let mut scaled = self.workspace.target_weights.borrow_mut();
        scaled.clear();
        scaled.extend(self.pack.target_weights.iter().map(|&w| (f64::from(w) * scale) as f32));
        b.write_f32(&weights, &scaled)?;
        let logits = self.workspace.arena.get(output.logits);
        let loss = self.workspace.arena.get(output.lm_loss);
        let Some(grads) = grads else {
            return b.linear_cross_entropy(loss, None, &normed, table, &targets, &weights, logits);
        };
        let dnormed = self.rows(output.dnormed, s);
        let dtable = grads.lm_head.as_ref().ok_or_else(|| Error::machine("no gradient for the next-token head"))?;
        b.linear_cross_entropy(loss, Some((&dnormed, dtable)), &normed, table, &targets, &weights, logits)?;
        let dx = self.rows(self.workspace.temporaries.dx_selected, s);
        let (x, rstd) = (self.rows(output.x, s), self.buffer(output.rstd, &[s]));
        b.rmsnorm_backward(&dx, &grads.norm, &dnormed, &x, &rstd, &self.params.norm)
    }

    pub(super) fn lm_table(&self) -> Result<&Tensor> {
        let missing = || Error::user("the model has no language-model head (output.weight)");
        self.params.lm_head.as_ref().ok_or_else(missing)
    }

    /// The final norm of the selected rows, for the next-token head.
    pub(super) fn normed(&self) -> Result<Tensor> {
        let (s, output) = (self.pack.selected.len(), &self.workspace.output);
        // Without the head there is no room for it.
        self.lm_table()?;
        let normed = self.rows(output.normed, s);
        let (rstd, x) = (self.buffer(output.rstd, &[s]), self.rows(output.x, s));
        self.backend.rmsnorm_forward(&normed, &rstd, &x, &self.params.norm, self.model.config.rms_norm_eps)?;
        Ok(normed)
    }
}

impl LossHeads<'_, '_> {
    /// The pack of the pass.
    pub fn pack(&self) -> &Pack {
        self.pass.pack
    }

    fn residual_gradient(&self) -> Tensor {
        self.pass.rows(self.pass.workspace.temporaries.dx_selected, self.pack().selected.len())
    }

    /// Zero, unless there is something in it.
    pub(super) fn begin(&self) -> Result<()> {
        if self.begun.replace(true) { Ok(()) } else { self.pass.backend.fill(&self.residual_gradient(), 0.0) }
    }

    /// The loss of the pack's pairs, and the scores of all candidates.
    ///
    /// # Errors
    /// Where only scored tokens are selected, no other loss may come before.
    pub fn ranking_loss(&self, pair_loss: &PairLoss) -> Result<()> {
        let pass = self.pass;
        let (b, c, output) = (pass.backend, pass.pack.candidates(), &pass.workspace.output);
        let dx = self.residual_gradient();
        let part = pass.scores_are_a_part();
        if part {
            self.begin()?;
        } else if self.begun.replace(true) {
            return Err(Error::machine("the ranking loss overwrites another loss's gradient: compute it first"));
        }
        let score_x = pass.score_rows_forward()?;
        let dscore_x = if part { pass.rows(output.dscore_x, c) } else { dx.clone() };
        let pairs = pass.buffer(pass.workspace.inputs.pairs, &[pass.pack.pairs.len(), 2]);
        b.write_u32(&pairs, bytemuck::cast_slice(&pass.pack.pairs))?;
        let dhead = self.grads.reward_head.as_ref().ok_or_else(|| Error::machine("no gradient for the reward head"))?;
        b.reward_head_loss(
            &pass.scores(),
            pass.workspace.arena.get(output.loss),
            RewardHeadGrads { dx: &dscore_x, dnorm: &self.grads.norm, dhead },
            &score_x,
            &pass.params.norm,
            pass.reward_head()?,
            &pairs,
            pair_loss,
            pass.model.config.rms_norm_eps,
        )?;
        if !part {
            return Ok(());
        }
        b.gather_backward(&dx, &dscore_x, &pass.buffer(pass.workspace.inputs.score_rows, &[c]))
    }

    /// `scale` times the weighted sum of the losses of all targets.
    ///
    /// # Errors
    /// When the model has no next-token head.
    pub fn next_token_loss(&self, scale: f64) -> Result<()> {
        self.begin()?;
        self.pass.lm_head(scale, Some(self.grads))
    }
}
