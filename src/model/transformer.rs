//! The transformer, forward and backward, operation after operation: what runs and what is kept can be read here.
//!
//! After the last layer's keys and values, everything is computed for the selected tokens alone: those that are scored
//! or that predict a next token.

mod adapters;
mod heads;

use std::cell::Cell;

use super::workspace::LayerSlots;
use super::{Gradients, Keep, LayerViews, Model, Views, Workspace};
use crate::backend::{AttentionArgs, Backend, BackendExt, Gemm, Heads, Operations, Qkv};
use crate::config::Projection;
use crate::error::{Error, Result};
use crate::passes::Pack;
use crate::tensor::{Slot, Tensor};

impl Model {
    /// Runs a pack forward as far as the last residual.
    pub fn forward(&self, workspace: &mut Workspace, pack: &Pack) -> Result<()> {
        Pass::new(self, workspace, pack)?.forward()
    }

    /// Runs a pack forward and leaves one score for each candidate in the workspace.
    pub fn score(&self, workspace: &mut Workspace, pack: &Pack) -> Result<()> {
        let pass = Pass::new(self, workspace, pack)?;
        pass.forward()?;
        let backend = self.backend.as_ref();
        let head = pass.reward_head()?;
        let x = pass.score_rows_forward()?;
        backend.reward_head_forward(&pass.scores(), &x, &pass.params.norm, head, self.config.rms_norm_eps)
    }

    /// Runs a pack forward and leaves the sum of its next-token losses, times `lm_scale`, added to the workspace's.
    pub fn next_token_loss(&self, workspace: &mut Workspace, pack: &Pack, lm_scale: f64) -> Result<()> {
        let pass = Pass::new(self, workspace, pack)?;
        pass.forward()?;
        pass.lm_head(lm_scale, None)
    }

    /// Runs a pack forward and hands the next-token logits of its selected tokens to `sink`, a row of `vocab_size` for
    /// each, in order. Which tokens are selected is the pack's: all that a token follows, if it was packed for next
    /// tokens.
    ///
    /// # Errors
    /// The user's, when the model has no next-token head.
    pub fn logits(&self, workspace: &mut Workspace, pack: &Pack, sink: &mut dyn FnMut(&[f32])) -> Result<()> {
        let pass = Pass::new(self, workspace, pack)?;
        pass.forward()?;
        let (normed, table) = (pass.normed()?, pass.lm_table()?);
        let scratch = pass.workspace.arena.get(pass.workspace.output.logits);
        for start in (0..normed.rows()).step_by(scratch.rows()) {
            let rows = start..normed.rows().min(start + scratch.rows());
            let logits = scratch.slice_rows(0..rows.len());
            self.backend.gemm(Gemm::Nt, &logits, &normed.slice_rows(rows), table, None)?;
            self.backend.read_f32(&logits)?.chunks(table.rows()).for_each(&mut *sink);
        }
        Ok(())
    }

    /// Runs a pack forward and backward: gradients are added to the flat buffer `grads`. Between the two, `loss` computes
    /// on the heads what is minimised; its losses are added to the workspace's.
    pub fn accumulate_gradients(
        &self,
        workspace: &mut Workspace,
        pack: &Pack,
        loss: &dyn Fn(&LossHeads) -> Result<()>,
        grads: &Gradients,
    ) -> Result<()> {
        if workspace.keep.is_none() {
            return Err(Error::machine("a workspace planned for scores alone has no buffers for gradients"));
        }
        let pass = Pass::new(self, workspace, pack)?;
        pass.forward()?;
        let heads = LossHeads { pass: &pass, grads: &grads.views, begun: Cell::new(false) };
        loss(&heads)?;
        heads.begin()?;
        pass.backward(&grads.views)
    }

    /// Sets the workspace's losses to zero, before the first pack of a step.
    pub fn zero_losses(&self, workspace: &Workspace) -> Result<()> {
        self.backend.fill(workspace.arena.get(workspace.output.loss), 0.0)?;
        self.backend.fill(workspace.arena.get(workspace.output.lm_loss), 0.0)
    }

    /// The ranking loss and the next-token loss since [`Model::zero_losses`].
    pub fn losses(&self, workspace: &Workspace) -> Result<(f64, f64)> {
        let read = |slot| self.backend.read_one(workspace.arena.get(slot));
        Ok((read(workspace.output.loss)?, read(workspace.output.lm_loss)?))
    }

    /// Copies both losses since [`Model::zero_losses`] to `to[1]`, on the device.
    pub fn copy_losses(&self, workspace: &Workspace, to: [Tensor; 2]) -> Result<()> {
        let from = [workspace.output.loss, workspace.output.lm_loss];
        to.iter().zip(from).try_for_each(|(to, slot)| self.backend.copy(to, workspace.arena.get(slot)))
    }

    /// Copies the scores of the last pack's candidates to `to`, of their number, on the device.
    pub fn copy_scores(&self, workspace: &Workspace, to: &Tensor) -> Result<()> {
        self.backend.copy(to, &workspace.arena.get(workspace.output.scores).first(&[to.len()]))
    }

    /// Appends the scores of the last pack's `candidates` to `scores`.
    pub fn read_scores(&self, workspace: &Workspace, candidates: usize, scores: &mut Vec<f32>) -> Result<()> {
        let from = workspace.arena.get(workspace.output.scores).first(&[candidates]);
        let start = scores.len();
        scores.resize(start + candidates, 0.0);
        self.backend.read_f32_into(&from, &mut scores[start..])
    }
}

/// The gradients of what is trained.
type Grads = Views<Option<Tensor>>;
type LayerGrads = LayerViews<Option<Tensor>>;

/// What SwiGLU's first product is made of.
const GATE_UP: [Projection; 2] = [Projection::Gate, Projection::Up];

/// One pass of one pack through one model.
struct Pass<'a> {
    model: &'a Model,
    backend: &'a dyn Backend,
    params: &'a Views<Tensor>,
    workspace: &'a Workspace,
    pack: &'a Pack,
    spans: Tensor,
    selected_spans: Tensor,
    all_tokens: Tensor,
    selected: Tensor,
    positions: Tensor,
    selected_positions: Tensor,
    /// Where there are norms of queries and keys.
    heads: Option<HeadPositions>,
}

/// Positions for a model that norms queries and keys between the split of the projection and their turn. The split is a
/// turn by no angle. Queries and keys then lie head by head, `[K, rows, ..]`, and are turned like the rows of one
/// key/value head.
struct HeadPositions {
    /// `[tokens]` zeros.
    origin: Tensor,
    /// `[K, tokens]`.
    all: Tensor,
    /// `[K, selected tokens]`.
    selected: Tensor,
}

impl<'a> Pass<'a> {
    fn new(model: &'a Model, workspace: &'a mut Workspace, pack: &'a Pack) -> Result<Self> {
        let (t, s, c) = (pack.tokens(), pack.selected.len(), pack.candidates());
        let room = workspace.capacity;
        if t > room.tokens || s > room.selected || c > room.candidates || pack.pairs.len() > room.candidates {
            return Err(Error::machine(format!("a pack of {t} tokens, {s} selected, {c} candidates exceeds {room:?}")));
        }
        let (vocabulary, known) = (pack.vocabulary(), model.config.vocab_size);
        if vocabulary > known {
            return Err(Error::machine(format!("a pack of ids below {vocabulary} for a vocabulary of {known}")));
        }
        workspace.selected_positions.clear();
        workspace.selected_positions.extend(pack.selected.iter().map(|&token| pack.positions[token as usize]));
        let kv = model.heads().kv;
        if model.config.qk_norm {
            let [all, selected] = &mut workspace.head_positions;
            for (repeated, once) in [(all, &pack.positions), (selected, &workspace.selected_positions)] {
                repeated.clear();
                (0..kv).for_each(|_| repeated.extend_from_slice(once));
            }
        }
        let workspace: &Workspace = workspace;
        let backend = model.backend.as_ref();
        let input = |slot: Slot, values: &[u32], dims: &[usize]| -> Result<Tensor> {
            let tensor = workspace.arena.get(slot).first(dims);
            backend.write_u32(&tensor, values)?;
            Ok(tensor)
        };
        let inputs = &workspace.inputs;
        input(inputs.ids, &pack.ids, &[t])?;
        let [all, of_selected] = &workspace.head_positions;
        let heads = match model.config.qk_norm {
            true => Some(HeadPositions {
                origin: workspace.arena.get(inputs.origin).first(&[t]),
                all: input(inputs.head_positions, all, &[kv * t])?,
                selected: input(inputs.selected_head_positions, of_selected, &[kv * s])?,
            }),
            false => None,
        };
        Ok(Self {
            model,
            backend,
            params: &model.params.views,
            workspace,
            pack,
            spans: input(inputs.spans, bytemuck::cast_slice(&pack.spans), &[pack.spans.len(), 8])?,
            selected_spans: input(
                inputs.selected_spans,
                bytemuck::cast_slice(&pack.selected_spans),
                &[pack.selected_spans.len(), 8],
            )?,
            all_tokens: workspace.arena.get(inputs.all_tokens).first(&[t]),
            selected: input(inputs.selected, &pack.selected, &[s])?,
            positions: input(inputs.positions, &pack.positions, &[t])?,
            selected_positions: input(inputs.selected_positions, &workspace.selected_positions, &[s])?,
            heads,
        })
    }

    fn buffer(&self, slot: Slot, dims: &[usize]) -> Tensor {
        self.workspace.arena.get(slot).first(dims)
    }

    fn rows(&self, slot: Slot, rows: usize) -> Tensor {
        self.workspace.arena.get(slot).slice_rows(0..rows)
    }

    /// Layer `l` with its buffers in `ways`: those of the way forward, or of the way back.
    fn layer<'b>(&'b self, ways: &'b [LayerSlots], l: usize) -> Layer<'b> {
        let last = l + 1 == ways.len();
        let t = self.pack.tokens();
        let s = if last { self.pack.selected.len() } else { t };
        let slots = &ways[l];
        let heads = self.model.heads();
        Layer {
            last,
            slots,
            weights: &self.params.layers[l],
            args: AttentionArgs {
                heads,
                spans: if last { &self.selected_spans } else { &self.spans },
                query_tokens: if last { &self.selected } else { &self.all_tokens },
                scale: 1.0 / (heads.dim as f64).sqrt(),
            },
            x: self.rows(slots.x, t),
            q: self.buffer(slots.q, &[heads.kv, s, heads.group(), heads.dim]),
            k: self.buffer(slots.k, &[heads.kv, t, heads.dim]),
            v: self.buffer(slots.v, &[heads.kv, t, heads.dim]),
            lse: self.buffer(slots.lse, &[heads.kv, s, heads.group()]),
            rows: s,
        }
    }

    /// What the last layer's output, or the next layer's input, is.
    fn output_of(&self, l: usize) -> Tensor {
        match self.workspace.layers.get(l + 1) {
            Some(next) => self.rows(next.x, self.pack.tokens()),
            None => self.rows(self.workspace.output.x, self.pack.selected.len()),
        }
    }

    fn forward(&self) -> Result<()> {
        self.embed()?;
        let layer_forward = |l| self.layer_forward(l).map_err(|e| e.context(format!("layer {l}, forward")));
        (0..self.workspace.layers.len()).try_for_each(layer_forward)
    }

    fn embed(&self) -> Result<()> {
        let ids = self.buffer(self.workspace.inputs.ids, &[self.pack.tokens()]);
        let x = self.rows(self.workspace.layers[0].x, self.pack.tokens());
        self.backend.embedding_forward(&x, &ids, &self.params.embedding)
    }

    fn layer_forward(&self, l: usize) -> Result<()> {
        let layer = self.layer(&self.workspace.layers, l);
        self.layer_activations(&layer)?;
        let (ffn_hidden, x_mid) =
            (self.rows(layer.slots.ffn_hidden, layer.rows), self.rows(layer.slots.x_mid, layer.rows));
        let output = self.output_of(l);
        self.backend.gemm(Gemm::Nt, &output, &ffn_hidden, &layer.weights.w2, Some(&x_mid))?;
        self.adapt(&layer, &[Projection::Down], &output, &ffn_hidden)
    }

    /// Everything of a layer that its backward pass reads, from its input.
    fn layer_activations(&self, layer: &Layer) -> Result<()> {
        let b = self.backend;
        let (slots, weights) = (layer.slots, layer.weights);
        let normed = self.attention_norm(layer)?;
        self.qkv_forward(layer, &normed)?;
        let attended = self.rows(slots.attended, layer.rows);
        b.attention_forward(&attended, &layer.lse, &layer.q, &layer.k, &layer.v, layer.args)?;

        // The residual stream goes on in a new buffer: the norm's backward pass needs the old one.
        let x_mid = self.rows(slots.x_mid, layer.rows);
        if layer.last {
            b.gather_forward(&x_mid, &layer.x, &self.selected)?;
        }
        let residual = if layer.last { &x_mid } else { &layer.x };
        b.gemm(Gemm::Nt, &x_mid, &attended, &weights.wo, Some(residual))?;
        self.add_bias(&x_mid, weights.wo_bias.as_ref())?;
        self.adapt(layer, &[Projection::O], &x_mid, &attended)?;

        let normed = self.ffn_norm(layer)?;
        let (gate_up, ffn_hidden) = (self.rows(slots.gate_up, layer.rows), self.rows(slots.ffn_hidden, layer.rows));
        if !GATE_UP.iter().any(|of| weights.adapter(*of).is_some()) {
            return b.gemm_swiglu_forward(&ffn_hidden, &gate_up, &normed, &weights.w13);
        }
        b.gemm(Gemm::Nt, &gate_up, &normed, &weights.w13, None)?;
        self.adapt(layer, &GATE_UP, &gate_up, &normed)?;
        b.swiglu_forward(&ffn_hidden, &gate_up)
    }

    fn attention_norm(&self, layer: &Layer) -> Result<Tensor> {
        let t = self.pack.tokens();
        let (normed, rstd) = (self.rows(layer.slots.normed, t), self.buffer(layer.slots.rstd, &[t]));
        let eps = self.model.config.rms_norm_eps;
        self.backend.rmsnorm_forward(&normed, &rstd, &layer.x, &layer.weights.attention_norm, eps)?;
        Ok(normed)
    }

    fn ffn_norm(&self, layer: &Layer) -> Result<Tensor> {
        let (slots, s) = (layer.slots, layer.rows);
        let (normed, rstd) = (self.rows(slots.ffn_normed, s), self.buffer(slots.ffn_rstd, &[s]));
        let eps = self.model.config.rms_norm_eps;
        self.backend.rmsnorm_forward(&normed, &rstd, &self.rows(slots.x_mid, s), &layer.weights.ffn_norm, eps)?;
        Ok(normed)
    }

    /// Computes again what was not kept of a layer's activations. Operations and operands are those of the forward pass,
    /// so the bits are; SwiGLU's too, which rounds gate and up before it uses them, fused with their product or not.
    fn recompute(&self, layer: &Layer) -> Result<()> {
        match self.workspace.keep {
            None | Some(Keep::All) => Ok(()),
            Some(Keep::Norms) => {
                self.attention_norm(layer)?;
                self.head_norms(layer)?;
                self.ffn_norm(layer)?;
                let (slots, s) = (layer.slots, layer.rows);
                self.backend.swiglu_forward(&self.rows(slots.ffn_hidden, s), &self.rows(slots.gate_up, s))
            }
            Some(Keep::Block) => self.layer_activations(layer),
        }
    }

    fn add_bias(&self, y: &Tensor, bias: Option<&Tensor>) -> Result<()> {
        bias.map_or(Ok(()), |bias| self.backend.bias_forward(y, bias))
    }

    /// Adds to the gradient of a weight, if it is trained, what `dy` and the weight's input make.
    fn add_weight_gradient(&self, dweight: Option<&Tensor>, dy: &Tensor, x: &Tensor) -> Result<()> {
        dweight.map_or(Ok(()), |dweight| self.backend.gemm(Gemm::Tn, dweight, dy, x, Some(dweight)))
    }

    fn add_bias_gradient(&self, dbias: Option<&Tensor>, dy: &Tensor) -> Result<()> {
        dbias.map_or(Ok(()), |dbias| self.backend.bias_backward(dbias, dy))
    }

    /// Queries, keys and values of a layer.
    fn qkv_forward(&self, layer: &Layer, normed: &Tensor) -> Result<()> {
        self.project(layer, normed)?;
        self.head_norms(layer)
    }

    /// Where the split of the projection puts queries and keys: their own places, or those before their norms.
    fn split_heads(&self, layer: &Layer) -> [Tensor; 2] {
        match self.heads {
            None => [layer.q.clone(), layer.k.clone()],
            Some(_) => [self.like(layer.slots.q_raw, &layer.q), self.like(layer.slots.k_raw, &layer.k)],
        }
    }

    /// The positions by which the split of the projection turns all tokens, and the selected ones.
    fn split_positions(&self) -> [Tensor; 2] {
        match &self.heads {
            None => [self.positions.clone(), self.selected_positions.clone()],
            Some(heads) => [heads.origin.clone(), heads.origin.first(&[self.pack.selected.len()])],
        }
    }

    /// A buffer of the shape of `other`.
    fn like(&self, slot: Slot, other: &Tensor) -> Tensor {
        self.buffer(slot, other.dims())
    }

    /// Queries and keys of a layer on the way to or from their norms; none for a model without.
    fn normed_heads<'b>(&'b self, layer: &'b Layer) -> Option<[NormedHeads<'b>; 2]> {
        let (positions, weights) = (self.heads.as_ref()?, layer.weights.qk_norm.as_ref()?);
        let of = |turned: &'b Tensor, raw: Slot, rstd: Slot, positions: &'b Tensor, weight: &'b Tensor| NormedHeads {
            turned,
            normed: self.like(self.workspace.temporaries.qkv, turned),
            raw: self.like(raw, turned),
            rstd: self.buffer(rstd, &turned.dims()[..turned.dims().len() - 1]),
            positions,
            weight,
        };
        let of_queries = if layer.last { &positions.selected } else { &positions.all };
        let slots = layer.slots;
        Some([
            of(&layer.q, slots.q_raw, slots.q_rstd, of_queries, &weights[0]),
            of(&layer.k, slots.k_raw, slots.k_rstd, &positions.all, &weights[1]),
        ])
    }

    /// Norms queries and keys and turns them, where the model has such norms.
    fn head_norms(&self, layer: &Layer) -> Result<()> {
        let (b, config) = (self.backend, &self.model.config);
        for h in self.normed_heads(layer).into_iter().flatten() {
            b.head_rmsnorm_forward(&h.normed, &h.rstd, &h.raw, h.weight, config.rms_norm_eps)?;
            let (heads, turned, normed) = (h.heads(), h.split(h.turned), h.fused());
            b.rope_forward(Qkv { q: Some(&turned), kv: None }, &normed, h.positions, heads, config.rotary())?;
        }
        Ok(())
    }

    /// The gradients of what is before the norms of queries and keys, in the place of those of queries and keys.
    fn head_norms_backward(&self, layer: &Layer, grads: [&Tensor; 2], dweights: Option<&[Tensor; 2]>) -> Result<()> {
        let Some(parts) = self.normed_heads(layer) else { return Ok(()) };
        let dweights = dweights.ok_or_else(|| Error::machine("no gradient for the norms of queries and keys"))?;
        let (b, rotary) = (self.backend, self.model.config.rotary());
        for ((h, grad), dweight) in parts.iter().zip(grads).zip(dweights) {
            // The normed values themselves are not needed: the gradient takes their place.
            let (heads, turned, dnormed) = (h.heads(), h.split(grad), h.fused());
            b.rope_backward(&dnormed, Qkv { q: Some(&turned), kv: None }, h.positions, heads, rotary)?;
            b.head_rmsnorm_backward(grad, dweight, &h.normed, &h.raw, &h.rstd, h.weight)?;
        }
        Ok(())
    }

    /// The projection to queries, keys and values, split. In the last layer keys and values come from all tokens and
    /// queries from the selected ones, so the groups of the fused `wqkv` are taken apart.
    fn project(&self, layer: &Layer, normed: &Tensor) -> Result<()> {
        let (b, heads, rotary) = (self.backend, self.model.heads(), self.model.config.rotary());
        let ([q, k], [positions, selected_positions]) = (self.split_heads(layer), self.split_positions());
        let qkv = Qkv { q: Some(&q), kv: Some((&k, &layer.v)) };
        let (t, bias) = (self.pack.tokens(), layer.weights.wqkv_bias.as_ref());
        if !layer.last {
            let fused = self.buffer(self.workspace.temporaries.qkv, &[t, layer.weights.wqkv.rows()]);
            b.gemm(Gemm::Nt, &fused, normed, &layer.weights.wqkv, None)?;
            self.add_bias(&fused, bias)?;
            self.adapt(layer, &[Projection::Q, Projection::K, Projection::V], &fused, normed)?;
            return b.rope_forward(qkv, &fused, &positions, heads, rotary);
        }
        let split = Split::new(heads);
        let fused = self.buffer(self.workspace.temporaries.qkv, &[t, heads.kv * split.kv]);
        for group in 0..heads.kv {
            let columns = fused.slice_cols(group * split.kv..(group + 1) * split.kv);
            b.gemm(Gemm::Nt, &columns, normed, &split.kv_rows(&layer.weights.wqkv, group), None)?;
        }
        self.add_bias(&fused, bias.map(|bias| split.kv_columns(bias)).as_ref())?;
        self.adapt(layer, &[Projection::K, Projection::V], &fused, normed)?;
        b.rope_forward(Qkv { q: None, ..qkv }, &fused, &positions, heads, rotary)?;

        // The selected rows of the norm's output; the buffer is free until the feed-forward network's own norm.
        let selected = self.rows(layer.slots.ffn_normed, layer.rows);
        b.gather_forward(&selected, normed, &self.selected)?;
        let fused = self.buffer(self.workspace.temporaries.qkv, &[layer.rows, heads.kv * split.q]);
        for group in 0..heads.kv {
            let columns = fused.slice_cols(group * split.q..(group + 1) * split.q);
            b.gemm(Gemm::Nt, &columns, &selected, &split.q_rows(&layer.weights.wqkv, group), None)?;
        }
        self.add_bias(&fused, bias.map(|bias| split.q_columns(bias)).as_ref())?;
        self.adapt(layer, &[Projection::Q], &fused, &selected)?;
        b.rope_forward(Qkv { kv: None, ..qkv }, &fused, &selected_positions, heads, rotary)
    }

    fn backward(&self, grads: &Grads) -> Result<()> {
        for l in (0..self.workspace.layers.len()).rev() {
            self.layer_backward(l, &grads.layers[l]).map_err(|e| e.context(format!("layer {l}, backward")))?;
        }
        let Some(dembedding) = &grads.embedding else { return Ok(()) };
        let ids = self.buffer(self.workspace.inputs.ids, &[self.pack.tokens()]);
        let dx = self.rows(self.workspace.temporaries.dx, self.pack.tokens());
        self.backend.embedding_backward(dembedding, &ids, &dx)
    }

    /// The residual gradient passes through: each branch adds its own to it.
    fn layer_backward(&self, l: usize, grads: &LayerGrads) -> Result<()> {
        let b = self.backend;
        let layer = self.layer(&self.workspace.layers_back, l);
        self.recompute(&layer)?;
        let (slots, weights, temporaries) = (layer.slots, layer.weights, &self.workspace.temporaries);
        let (t, s) = (self.pack.tokens(), layer.rows);
        let heads = self.model.heads();
        let dx_out = self.rows(if layer.last { temporaries.dx_selected } else { temporaries.dx }, s);

        let (gate_up, ffn_hidden) = (self.rows(slots.gate_up, s), self.rows(slots.ffn_hidden, s));
        self.add_weight_gradient(grads.w2.as_ref(), &dx_out, &ffn_hidden)?;
        self.swiglu_backward(&layer, &gate_up, &ffn_hidden, &dx_out, grads)?;
        let dgate_up = gate_up;
        let (dnormed, ffn_normed) = (self.rows(temporaries.dnormed, s), self.rows(slots.ffn_normed, s));
        b.gemm(Gemm::Nn, &dnormed, &dgate_up, &weights.w13, None)?;
        self.add_weight_gradient(grads.w13.as_ref(), &dgate_up, &ffn_normed)?;
        self.adapt_backward(&layer, &GATE_UP, &dnormed, &dgate_up, &ffn_normed, grads)?;
        let (x_mid, rstd) = (self.rows(slots.x_mid, s), self.buffer(slots.ffn_rstd, &[s]));
        b.rmsnorm_backward(&dx_out, &grads.ffn_norm, &dnormed, &x_mid, &rstd, &weights.ffn_norm)?;

        let attended = self.rows(slots.attended, s);
        let dattended = self.buffer(temporaries.dattended, &[s, attended.cols()]);
        b.gemm(Gemm::Nn, &dattended, &dx_out, &weights.wo, None)?;
        self.add_weight_gradient(grads.wo.as_ref(), &dx_out, &attended)?;
        self.add_bias_gradient(grads.wo_bias.as_ref(), &dx_out)?;
        self.adapt_backward(&layer, &[Projection::O], &dattended, &dx_out, &attended, grads)?;
        let dq = self.buffer(temporaries.dq, &[heads.kv, s, heads.group(), heads.dim]);
        let dk = self.buffer(temporaries.dk, &[heads.kv, t, heads.dim]);
        let dv = self.buffer(temporaries.dv, &[heads.kv, t, heads.dim]);
        let qkv = [&layer.q, &layer.k, &layer.v];
        b.attention_backward([&dq, &dk, &dv], &dattended, &attended, &layer.lse, qkv, layer.args)?;

        let dnormed = self.rows(temporaries.dnormed, t);
        self.qkv_backward(&layer, [&dq, &dk, &dv], &dnormed, grads)?;
        let dx = self.rows(temporaries.dx, t);
        if layer.last {
            b.fill(&dx, 0.0)?;
            b.gather_backward(&dx, &dx_out, &self.selected)?;
        }
        let rstd = self.buffer(slots.rstd, &[t]);
        b.rmsnorm_backward(&dx, &grads.attention_norm, &dnormed, &layer.x, &rstd, &weights.attention_norm)
    }

    /// From the gradient of a layer's output to that of gate and up, in their place. `ffn_hidden` is not needed any more:
    /// its buffer is for its gradient, where a backend stores that.
    fn swiglu_backward(
        &self,
        layer: &Layer,
        gate_up: &Tensor,
        ffn_hidden: &Tensor,
        dx_out: &Tensor,
        grads: &LayerGrads,
    ) -> Result<()> {
        let (b, w2) = (self.backend, &layer.weights.w2);
        let Some(adapter) = layer.weights.adapter(Projection::Down) else {
            return b.gemm_swiglu_backward(gate_up, ffn_hidden, dx_out, w2);
        };
        let dlow = self.factors_backward(layer, Projection::Down, adapter, dx_out, ffn_hidden, grads)?;
        let dffn_hidden = ffn_hidden;
        b.gemm(Gemm::Nn, dffn_hidden, dx_out, w2, None)?;
        b.gemm(Gemm::Nn, dffn_hidden, &dlow, &adapter.a, Some(dffn_hidden))?;
        b.swiglu_backward(gate_up, dffn_hidden, gate_up)
    }

    fn qkv_backward(
        &self,
        layer: &Layer,
        [dq, dk, dv]: [&Tensor; 3],
        dnormed: &Tensor,
        grads: &LayerGrads,
    ) -> Result<()> {
        let (b, heads, rotary) = (self.backend, self.model.heads(), self.model.config.rotary());
        let t = self.pack.tokens();
        self.head_norms_backward(layer, [dq, dk], grads.qk_norm.as_ref())?;
        let [positions, selected_positions] = self.split_positions();
        let normed = self.rows(layer.slots.normed, t);
        let (wqkv, dwqkv, dbias) = (&layer.weights.wqkv, grads.wqkv.as_ref(), grads.wqkv_bias.as_ref());
        let dqkv = Qkv { q: Some(dq), kv: Some((dk, dv)) };
        if !layer.last {
            let fused = self.buffer(self.workspace.temporaries.qkv, &[t, wqkv.rows()]);
            b.rope_backward(&fused, dqkv, &positions, heads, rotary)?;
            self.add_bias_gradient(dbias, &fused)?;
            b.gemm(Gemm::Nn, dnormed, &fused, wqkv, None)?;
            self.add_weight_gradient(dwqkv, &fused, &normed)?;
            let projections = [Projection::Q, Projection::K, Projection::V];
            return self.adapt_backward(layer, &projections, dnormed, &fused, &normed, grads);
        }
        let split = Split::new(heads);
        let fused = self.buffer(self.workspace.temporaries.qkv, &[t, heads.kv * split.kv]);
        b.rope_backward(&fused, Qkv { q: None, ..dqkv }, &positions, heads, rotary)?;
        self.add_bias_gradient(dbias.map(|dbias| split.kv_columns(dbias)).as_ref(), &fused)?;
        for group in 0..heads.kv {
            let columns = fused.slice_cols(group * split.kv..(group + 1) * split.kv);
            b.gemm(Gemm::Nn, dnormed, &columns, &split.kv_rows(wqkv, group), (group > 0).then_some(dnormed))?;
            self.add_weight_gradient(dwqkv.map(|dwqkv| split.kv_rows(dwqkv, group)).as_ref(), &columns, &normed)?;
        }
        self.adapt_backward(layer, &[Projection::K, Projection::V], dnormed, &fused, &normed, grads)?;
        // Queries: the selected rows' own gradient, then added to all rows'. The buffers of the feed-forward network
        // and of attention are free by now.
        let s = layer.rows;
        let selected = self.rows(layer.slots.ffn_normed, s);
        b.gather_forward(&selected, &normed, &self.selected)?;
        let dselected = self.rows(layer.slots.x_mid, s);
        let fused = self.buffer(self.workspace.temporaries.qkv, &[s, heads.kv * split.q]);
        b.rope_backward(&fused, Qkv { kv: None, ..dqkv }, &selected_positions, heads, rotary)?;
        self.add_bias_gradient(dbias.map(|dbias| split.q_columns(dbias)).as_ref(), &fused)?;
        for group in 0..heads.kv {
            let columns = fused.slice_cols(group * split.q..(group + 1) * split.q);
            b.gemm(Gemm::Nn, &dselected, &columns, &split.q_rows(wqkv, group), (group > 0).then_some(&dselected))?;
            self.add_weight_gradient(dwqkv.map(|dwqkv| split.q_rows(dwqkv, group)).as_ref(), &columns, &selected)?;
        }
        self.adapt_backward(layer, &[Projection::Q], &dselected, &fused, &selected, grads)?;
        b.gather_backward(dnormed, &dselected, &self.selected)
    }
}

/// The heads of a training pass that has run forward: each loss is computed here, and adds its gradient to that of the
/// last residual.
pub struct LossHeads<'a, 'b> {
    pass: &'a Pass<'b>,
    grads: &'a Grads,
    /// Whether the residual's gradient holds something.
    begun: Cell<bool>,
}

/// Views of one layer for one pack.
struct Layer<'a> {
    last: bool,
    slots: &'a LayerSlots,
    weights: &'a LayerViews<Tensor>,
    args: AttentionArgs<'a>,
    x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    /// Rows after attention: all tokens, or the selected ones in the last layer.
    rows: usize,
}

/// Queries `[K, rows, G, D]` or keys `[K, rows, D]` with what their norm reads and writes. Normed and not yet turned,
/// they lie in the buffer of the projection, which has been split by then.
struct NormedHeads<'a> {
    turned: &'a Tensor,
    normed: Tensor,
    raw: Tensor,
    rstd: Tensor,
    /// `[K rows]`.
    positions: &'a Tensor,
    weight: &'a Tensor,
}

impl NormedHeads<'_> {
    /// The heads of one row of `K rows`: one key/value head with the queries of its group, or, for keys, with one.
    fn heads(&self) -> Heads {
        let dim = self.weight.len();
        let query = self.turned.len() / (self.positions.len() * dim);
        Heads { query, kv: 1, dim }
    }

    /// `heads` as what is split off: `[1, K rows, G, D]`.
    fn split(&self, heads: &Tensor) -> Tensor {
        let Heads { query, dim, .. } = self.heads();
        heads.first(&[1, self.positions.len(), query, dim])
    }

    /// What is normed as a projection of `K rows`: `[K rows, G D]`.
    fn fused(&self) -> Tensor {
        let Heads { query, dim, .. } = self.heads();
        self.normed.first(&[self.positions.len(), query * dim])
    }
}

/// The rows of one group of the fused `wqkv`: queries, then key and value.
struct Split {
    q: usize,
    kv: usize,
}

impl Split {
    fn new(heads: Heads) -> Self {
        Self { q: heads.group() * heads.dim, kv: 2 * heads.dim }
    }

    fn q_rows(&self, wqkv: &Tensor, group: usize) -> Tensor {
        let start = group * (self.q + self.kv);
        wqkv.slice_rows(start..start + self.q)
    }

    fn kv_rows(&self, wqkv: &Tensor, group: usize) -> Tensor {
        let start = group * (self.q + self.kv) + self.q;
        wqkv.slice_rows(start..start + self.kv)
    }

    /// Of the bias of `wqkv`, a row for each group.
    fn q_columns(&self, bias: &Tensor) -> Tensor {
        bias.slice_cols(0..self.q)
    }

    fn kv_columns(&self, bias: &Tensor) -> Tensor {
        bias.slice_cols(self.q..self.q + self.kv)
    }
}
