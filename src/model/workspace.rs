//! The plan of a forward and backward pass: every buffer, its size and its life, before memory is taken.

use std::cell::RefCell;

use crate::backend::{Backend, BackendExt, Extent};
use crate::error::Result;
use crate::model::{ModelConfig, OutputHeads};
use crate::passes::{Capacity, Pack};
use crate::tensor::{Arena, Dtype, Plan, Slot};

/// The buffers of one layer.
pub(super) struct LayerSlots {
    pub x: Slot,
    pub normed: Slot,
    pub rstd: Slot,
    pub q: Slot,
    pub k: Slot,
    pub v: Slot,
    pub attended: Slot,
    pub lse: Slot,
    /// In the last layer: the selected rows of the residual stream.
    pub x_mid: Slot,
    pub ffn_normed: Slot,
    pub ffn_rstd: Slot,
    pub gate_up: Slot,
    pub ffn_hidden: Slot,
}

/// Buffers that one layer at a time uses on its way.
pub(super) struct Temporaries {
    pub qkv: Slot,
    pub dx: Slot,
    pub dx_selected: Slot,
    pub dnormed: Slot,
    pub dattended: Slot,
    pub dq: Slot,
    pub dk: Slot,
    pub dv: Slot,
}

/// What the pack says, on the device.
pub(super) struct Inputs {
    pub ids: Slot,
    pub positions: Slot,
    pub all_tokens: Slot,
    pub spans: Slot,
    pub selected: Slot,
    pub selected_positions: Slot,
    pub selected_spans: Slot,
    pub score_rows: Slot,
    pub pairs: Slot,
    pub targets: Slot,
    pub target_weights: Slot,
}

/// Buffers after the last layer.
pub(super) struct OutputSlots {
    pub x: Slot,
    pub normed: Slot,
    pub rstd: Slot,
    pub logits: Slot,
    pub dnormed: Slot,
    pub score_x: Slot,
    pub dscore_x: Slot,
    pub scores: Slot,
    pub loss: Slot,
    pub lm_loss: Slot,
}

/// Everything that a pass over one pack writes to, in one allocation.
pub struct Workspace {
    pub(super) arena: Arena,
    pub(super) capacity: Capacity,
    pub(super) layers: Vec<LayerSlots>,
    pub(super) temporaries: Temporaries,
    pub(super) inputs: Inputs,
    pub(super) output: OutputSlots,
    /// Host copies of what is derived from a pack, kept so that a step allocates nothing.
    pub(super) selected_positions: Vec<u32>,
    pub(super) target_weights: RefCell<Vec<f32>>,
    pub(super) training: bool,
}

impl Workspace {
    /// Takes the memory for packs within `capacity`; for scores alone if not `training`.
    pub fn new(
        backend: &dyn Backend,
        config: &ModelConfig,
        outputs: OutputHeads,
        capacity: Capacity,
        training: bool,
    ) -> Result<Self> {
        let (plan, slots) = plan(backend, config, outputs, capacity, training);
        let extent = Extent {
            tokens: capacity.tokens,
            hidden: config.hidden_size,
            heads: config.attention_heads(),
            theta: config.rope_theta,
            parameters: config.buffer_elements(outputs),
        };
        backend.reserve(&extent)?;
        let (layers, temporaries, inputs, output) = slots;
        let workspace = Self {
            arena: plan.allocate(backend)?,
            capacity,
            layers,
            temporaries,
            inputs,
            output,
            selected_positions: Vec::with_capacity(capacity.selected),
            target_weights: RefCell::new(Vec::with_capacity(capacity.selected)),
            training,
        };
        let iota: Vec<u32> = (0..capacity.tokens as u32).collect();
        backend.write(workspace.arena.get(workspace.inputs.all_tokens), bytemuck::cast_slice(&iota))?;
        Ok(workspace)
    }

    /// Bytes that [`Workspace::new`] would take.
    pub fn bytes(
        backend: &dyn Backend,
        config: &ModelConfig,
        outputs: OutputHeads,
        capacity: Capacity,
        training: bool,
    ) -> usize {
        let (mut plan, _) = plan(backend, config, outputs, capacity, training);
        plan.place();
        plan.bytes()
    }

    /// The first buffer, in the order of computing, in which a forward pass over `pack` left an infinity or a NaN.
    pub fn first_non_finite(&self, backend: &dyn Backend, pack: &Pack) -> Result<Option<&str>> {
        let (t, s) = (pack.tokens(), pack.selected.len());
        let not_finite = |slot: Slot, rows: usize| -> Result<bool> {
            let buffer = self.arena.get(slot);
            let planned = buffer.dims().iter().product::<usize>();
            let used = if buffer.dims().len() == 2 { rows * buffer.cols() } else { rows.min(planned) };
            Ok(backend.read_f64(&buffer.first(&[used]))?.iter().any(|v| !v.is_finite()))
        };
        for (l, layer) in self.layers.iter().enumerate() {
            let rows = if l + 1 == self.layers.len() { s } else { t };
            let per_token = |slot: Slot, of: usize| self.arena.get(slot).len() / of;
            let keys = t * per_token(layer.k, self.capacity.tokens);
            let planned = if l + 1 == self.layers.len() { self.capacity.selected } else { self.capacity.tokens };
            let buffers = [
                (layer.x, t),
                (layer.normed, t),
                (layer.q, rows * per_token(layer.q, planned)),
                (layer.k, keys),
                (layer.v, keys),
                (layer.attended, rows),
                (layer.x_mid, rows),
                (layer.ffn_normed, rows),
                (layer.gate_up, rows),
                (layer.ffn_hidden, rows),
            ];
            for (slot, rows) in buffers {
                if not_finite(slot, rows)? {
                    return Ok(Some(self.arena.name(slot)));
                }
            }
        }
        let last = self.output.x;
        Ok(not_finite(last, s)?.then(|| self.arena.name(last)))
    }

    /// The most that a pack may hold.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }
}

type Slots = (Vec<LayerSlots>, Temporaries, Inputs, OutputSlots);

/// Ticks: layer `l` runs forward at `l + 1` and backward at `2 L + 2 - l`; the heads run at `L + 1`.
fn plan(
    backend: &dyn Backend,
    config: &ModelConfig,
    outputs: OutputHeads,
    capacity: Capacity,
    training: bool,
) -> (Plan, Slots) {
    let (float, sum) = (backend.float(), backend.accumulator());
    let (hidden, ffn, layers) = (config.hidden_size, config.intermediate_size, config.num_hidden_layers);
    let (heads, kv, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim());
    let (t, s, c) = (capacity.tokens, capacity.selected, capacity.candidates);
    let head = layers + 1;
    let end = if training { 2 * layers + 3 } else { head };
    let mut plan = Plan::default();

    let layer_slots = (0..layers)
        .map(|l| {
            let forward = l + 1;
            // What the backward pass reads lives until then; the rest only as long as the layer's forward pass.
            let kept = if training { forward..=2 * layers + 2 - l } else { forward..=forward };
            let first = if l == 0 { 0 } else { l };
            let rows = if l + 1 == layers { s } else { t };
            let mut buffer =
                |name: &str, dtype, dims: &[usize]| plan.buffer(format!("layer {l} {name}"), dtype, dims, kept.clone());
            let normed = buffer("attention_norm output", float, &[t, hidden]);
            let rstd = buffer("attention_norm rstd", sum, &[t]);
            let q = buffer("q", float, &[rows * heads * dim]);
            let k = buffer("k", float, &[kv * t * dim]);
            let v = buffer("v", float, &[kv * t * dim]);
            let attended = buffer("attention output", float, &[rows, heads * dim]);
            let lse = buffer("attention lse", sum, &[rows * heads]);
            let x_mid = buffer("residual after attention", float, &[rows, hidden]);
            let ffn_normed = buffer("ffn_norm output", float, &[rows, hidden]);
            let ffn_rstd = buffer("ffn_norm rstd", sum, &[rows]);
            let gate_up = buffer("w1 and w3 output", float, &[rows, 2 * ffn]);
            let ffn_hidden = buffer("swiglu output", float, &[rows, ffn]);
            let x = plan.buffer(format!("layer {l} input"), float, &[t, hidden], first..=*kept.end());
            LayerSlots { x, normed, rstd, q, k, v, attended, lse, x_mid, ffn_normed, ffn_rstd, gate_up, ffn_hidden }
        })
        .collect();

    // Nothing of the backward pass is planned for a workspace that only scores.
    let back = |n: usize| if training { n } else { 0 };
    let backward = head..=end;
    let layer_backward = head + 1..=end;
    let widest = config.num_key_value_heads * (heads / kv + 2) * dim;
    let temporaries = Temporaries {
        qkv: plan.buffer("wqkv output", float, &[t * widest], 1..=end),
        dx: plan.buffer("residual gradient", float, &[back(t), hidden], backward.clone()),
        dx_selected: plan.buffer("selected residual gradient", float, &[back(s), hidden], backward.clone()),
        dnormed: plan.buffer("norm output gradient", float, &[back(t), hidden], layer_backward.clone()),
        dattended: plan.buffer("attention output gradient", float, &[back(t) * heads * dim], layer_backward.clone()),
        dq: plan.buffer("q gradient", float, &[back(t) * heads * dim], layer_backward.clone()),
        dk: plan.buffer("k gradient", float, &[back(t) * kv * dim], layer_backward.clone()),
        dv: plan.buffer("v gradient", float, &[back(t) * kv * dim], layer_backward),
    };

    let mut input = |name: &str, n: usize| plan.buffer(name, Dtype::U32, &[n], 0..=end);
    let inputs = Inputs {
        ids: input("token ids", t),
        positions: input("positions", t),
        all_tokens: input("all tokens", t),
        spans: input("spans", t * 8),
        selected: input("selected tokens", s),
        selected_positions: input("selected positions", s),
        selected_spans: input("selected spans", t * 8),
        score_rows: input("score rows", c),
        pairs: input("pairs", c * 2),
        targets: input("targets", s),
        target_weights: plan.buffer("target weights", sum, &[s], 0..=end),
    };

    let lm = |n: usize| if outputs.lm { n } else { 0 };
    let both = if outputs.lm && outputs.reward { c } else { 0 };
    let output = OutputSlots {
        x: plan.buffer("last residual", float, &[s, hidden], layers..=end),
        normed: plan.buffer("final norm output", float, &[lm(s), hidden], head..=head),
        rstd: plan.buffer("final norm rstd", sum, &[lm(s)], head..=head),
        logits: plan.buffer("logits", float, &[lm(backend.logit_rows().min(s)), config.vocab_size], head..=head),
        dnormed: plan.buffer("final norm output gradient", float, &[back(lm(s)), hidden], head..=head),
        score_x: plan.buffer("score rows of the residual", float, &[both, hidden], head..=head),
        dscore_x: plan.buffer("score rows' gradient", float, &[back(both), hidden], head..=head),
        scores: plan.buffer("scores", sum, &[c], head..=end),
        loss: plan.buffer("ranking loss", sum, &[1], 0..=end),
        lm_loss: plan.buffer("next-token loss", sum, &[1], 0..=end),
    };
    (plan, (layer_slots, temporaries, inputs, output))
}
