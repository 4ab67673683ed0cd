//! The plan of a forward and backward pass: every buffer, its size and its life, before memory is taken.

use std::cell::RefCell;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Extent, Footprint};
use crate::error::Result;
use crate::model::{ModelConfig, OutputHeads};
use crate::passes::Capacity;
use crate::tensor::{Arena, Dtype, Plan, Slot, Tensor};

/// Which activations stay from the forward pass to the backward pass of their layer. The rest is computed again before
/// it is used, by the same operations from the same operands: every policy gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// All of them: nothing is computed twice.
    All,
    /// All but what is cheap to compute: the outputs of both norms and of SwiGLU, and of the norms of queries and keys
    /// where there are such. Saves about a third.
    Norms,
    /// The input of each layer: its forward pass runs again before its backward pass. A third more computing.
    Block,
}

impl Keep {
    /// From the least recomputing to the least memory.
    pub const ALL: [Self; 3] = [Self::All, Self::Norms, Self::Block];
}

impl Display for Keep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Norms => "norms",
            Self::Block => "block",
        })
    }
}

/// The buffers of one layer on its way forward, or back. What is kept is one buffer for both ways.
#[derive(Clone, Copy)]
pub(super) struct LayerSlots {
    pub x: Slot,
    pub normed: Slot,
    pub rstd: Slot,
    /// Queries and keys before their norms, and those norms' statistics; empty without such norms.
    pub q_raw: Slot,
    pub k_raw: Slot,
    pub q_rstd: Slot,
    pub k_rstd: Slot,
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
    /// What lies between the factors of an adapter, or its gradient, before and after it is scaled; empty without them.
    pub low_rank: [Slot; 2],
    pub dlow_rank: Slot,
}

/// What the pack says, on the device.
pub(super) struct Inputs {
    pub ids: Slot,
    pub positions: Slot,
    pub all_tokens: Slot,
    pub spans: Slot,
    pub selected: Slot,
    pub selected_positions: Slot,
    /// For norms of queries and keys: zeros, and positions once for each key/value head.
    pub origin: Slot,
    pub head_positions: Slot,
    pub selected_head_positions: Slot,
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
    /// The layers on the way forward.
    pub(super) layers: Vec<LayerSlots>,
    /// The layers on the way back.
    pub(super) layers_back: Vec<LayerSlots>,
    pub(super) temporaries: Temporaries,
    pub(super) inputs: Inputs,
    pub(super) output: OutputSlots,
    /// Host copies of what is derived from a pack, kept so that a step need not take memory for them.
    pub(super) selected_positions: Vec<u32>,
    pub(super) head_positions: [Vec<u32>; 2],
    pub(super) target_weights: RefCell<Vec<f32>>,
    /// None for a workspace that only scores.
    pub(super) keep: Option<Keep>,
}

impl Workspace {
    /// Takes the memory for packs within `capacity`: for training with the activations of `keep`, or for scores alone.
    pub fn new(
        backend: &dyn Backend,
        config: &ModelConfig,
        outputs: OutputHeads,
        capacity: Capacity,
        keep: Option<Keep>,
    ) -> Result<Self> {
        let (plan, slots) = plan(&backend.footprint(), config, outputs, capacity, keep);
        backend.reserve(&Self::extent(config, outputs, capacity))?;
        let Slots { layers, layers_back, temporaries, inputs, output } = slots;
        let repeated = if config.qk_norm { config.num_key_value_heads } else { 0 };
        let workspace = Self {
            arena: plan.allocate(|bytes| backend.allocate(bytes))?,
            capacity,
            layers,
            layers_back,
            temporaries,
            inputs,
            output,
            selected_positions: Vec::with_capacity(capacity.selected),
            head_positions: [capacity.tokens, capacity.selected].map(|n| Vec::with_capacity(n * repeated)),
            target_weights: RefCell::new(Vec::with_capacity(capacity.selected)),
            keep,
        };
        let iota: Vec<u32> = (0..capacity.tokens as u32).collect();
        backend.write(workspace.arena.get(workspace.inputs.all_tokens), bytemuck::cast_slice(&iota))?;
        if config.qk_norm {
            let zeros = vec![0_u32; capacity.tokens];
            backend.write(workspace.arena.get(workspace.inputs.origin), bytemuck::cast_slice(&zeros))?;
        }
        Ok(workspace)
    }

    /// Bytes that [`Workspace::new`] takes on a device of such a `footprint`, for activations and all else that a pass
    /// writes to; what [`Backend::reserve`] takes is not among them.
    pub fn bytes(
        footprint: &Footprint,
        config: &ModelConfig,
        outputs: OutputHeads,
        capacity: Capacity,
        keep: Option<Keep>,
    ) -> usize {
        let (mut plan, _) = plan(footprint, config, outputs, capacity, keep);
        plan.place();
        plan.bytes()
    }

    /// The largest operands of passes within `capacity`.
    pub fn extent(config: &ModelConfig, outputs: OutputHeads, capacity: Capacity) -> Extent {
        Extent {
            tokens: capacity.tokens,
            hidden: config.hidden_size,
            heads: config.attention_heads(),
            qk_norm: config.qk_norm,
            rotary: config.rotary(),
            parameters: config.buffer_elements(outputs),
        }
    }

    /// The name of the buffer that begins where `t` does, if there is only one.
    pub fn name_of(&self, t: &Tensor) -> Option<&str> {
        self.arena.name_of(t)
    }

    /// The most that a pack may hold.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// Every buffer of a plan.
struct Slots {
    layers: Vec<LayerSlots>,
    layers_back: Vec<LayerSlots>,
    temporaries: Temporaries,
    inputs: Inputs,
    output: OutputSlots,
}

/// Whether computing a buffer again costs little beside a layer's products.
#[derive(Clone, Copy, PartialEq)]
enum Cost {
    Cheap,
    Dear,
}

/// Ticks: layer `l` runs forward at `l + 1` and backward at `2 L + 2 - l`; the heads run at `L + 1`.
fn plan(
    footprint: &Footprint,
    config: &ModelConfig,
    outputs: OutputHeads,
    capacity: Capacity,
    keep: Option<Keep>,
) -> (Plan, Slots) {
    let (float, sum) = (footprint.float, footprint.accumulator);
    let (hidden, ffn, layers) = (config.hidden_size, config.intermediate_size, config.num_hidden_layers);
    let (heads, kv, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let (t, s, c) = (capacity.tokens, capacity.selected, capacity.candidates);
    let head = layers + 1;
    let end = if keep.is_some() { 2 * layers + 3 } else { head };
    let normed_heads = |n: usize| if config.qk_norm { n } else { 0 };
    let mut plan = Plan::default();

    let layer_slots = |l: usize| {
        let (forward, backward) = (l + 1, 2 * layers + 2 - l);
        let rows = if l + 1 == layers { s } else { t };
        // A buffer for the way forward and one for the way back: one and the same if it is kept.
        let mut buffer = |name: &str, dtype, dims: &[usize], cost: Cost| {
            let name = format!("layer {l} {name}");
            let kept = match keep {
                None => forward..=forward,
                Some(Keep::All) => forward..=backward,
                Some(Keep::Norms) if cost == Cost::Dear => forward..=backward,
                Some(Keep::Norms | Keep::Block) => {
                    let there = plan.buffer(name.clone(), dtype, dims, forward..=forward);
                    return (there, plan.buffer(name, dtype, dims, backward..=backward));
                }
            };
            let both = plan.buffer(name, dtype, dims, kept);
            (both, both)
        };
        let normed = buffer("attention_norm output", float, &[t, hidden], Cost::Cheap);
        let rstd = buffer("attention_norm rstd", sum, &[t], Cost::Dear);
        let q_raw = buffer("q before its norm", float, &[normed_heads(rows * heads * dim)], Cost::Dear);
        let k_raw = buffer("k before its norm", float, &[normed_heads(kv * t * dim)], Cost::Dear);
        let q_rstd = buffer("q_norm rstd", sum, &[normed_heads(rows * heads)], Cost::Dear);
        let k_rstd = buffer("k_norm rstd", sum, &[normed_heads(kv * t)], Cost::Dear);
        // From what is before the norms, queries and keys cost no product.
        let turned = if config.qk_norm { Cost::Cheap } else { Cost::Dear };
        let q = buffer("q", float, &[rows * heads * dim], turned);
        let k = buffer("k", float, &[kv * t * dim], turned);
        let v = buffer("v", float, &[kv * t * dim], Cost::Dear);
        let attended = buffer("attention output", float, &[rows, heads * dim], Cost::Dear);
        let lse = buffer("attention lse", sum, &[rows * heads], Cost::Dear);
        let x_mid = buffer("residual after attention", float, &[rows, hidden], Cost::Dear);
        let ffn_normed = buffer("ffn_norm output", float, &[rows, hidden], Cost::Cheap);
        let ffn_rstd = buffer("ffn_norm rstd", sum, &[rows], Cost::Dear);
        let gate_up = buffer("w1 and w3 output", float, &[rows, 2 * ffn], Cost::Dear);
        let ffn_hidden = buffer("swiglu output", float, &[rows, ffn], Cost::Cheap);
        // Written by the layer before; whatever is kept, this is.
        let until = if keep.is_some() { backward } else { forward };
        let x = plan.buffer(format!("layer {l} input"), float, &[t, hidden], l..=until);
        let way = |side: fn((Slot, Slot)) -> Slot| LayerSlots {
            x,
            normed: side(normed),
            rstd: side(rstd),
            q_raw: side(q_raw),
            k_raw: side(k_raw),
            q_rstd: side(q_rstd),
            k_rstd: side(k_rstd),
            q: side(q),
            k: side(k),
            v: side(v),
            attended: side(attended),
            lse: side(lse),
            x_mid: side(x_mid),
            ffn_normed: side(ffn_normed),
            ffn_rstd: side(ffn_rstd),
            gate_up: side(gate_up),
            ffn_hidden: side(ffn_hidden),
        };
        (way(|(there, _)| there), way(|(_, back)| back))
    };
    let (layer_slots, layers_back) = (0..layers).map(layer_slots).unzip();

    // Nothing of the backward pass is planned for a workspace that only scores.
    let back = |n: usize| if keep.is_some() { n } else { 0 };
    let backward = head..=end;
    let layer_backward = head + 1..=end;
    let widest = config.num_key_value_heads * (heads / kv + 2) * dim;
    let rank = config.lora.as_ref().map_or(0, |lora| lora.rank);
    let temporaries = Temporaries {
        qkv: plan.buffer("wqkv output", float, &[t * widest], 1..=end),
        dx: plan.buffer("residual gradient", float, &[back(t), hidden], backward.clone()),
        dx_selected: plan.buffer("selected residual gradient", float, &[back(s), hidden], backward.clone()),
        dnormed: plan.buffer("norm output gradient", float, &[back(t), hidden], layer_backward.clone()),
        dattended: plan.buffer("attention output gradient", float, &[back(t) * heads * dim], layer_backward.clone()),
        dq: plan.buffer("q gradient", float, &[back(t) * heads * dim], layer_backward.clone()),
        dk: plan.buffer("k gradient", float, &[back(t) * kv * dim], layer_backward.clone()),
        dv: plan.buffer("v gradient", float, &[back(t) * kv * dim], layer_backward.clone()),
        low_rank: ["adapter product", "scaled adapter product"]
            .map(|name| plan.buffer(name, float, &[t * rank], 1..=end)),
        dlow_rank: plan.buffer("adapter product gradient", float, &[back(t) * rank], layer_backward),
    };

    let mut input = |name: &str, n: usize| plan.buffer(name, Dtype::U32, &[n], 0..=end);
    let inputs = Inputs {
        ids: input("token ids", t),
        positions: input("positions", t),
        all_tokens: input("all tokens", t),
        spans: input("spans", t * 8),
        selected: input("selected tokens", s),
        selected_positions: input("selected positions", s),
        origin: input("zero positions", normed_heads(t)),
        head_positions: input("positions of heads", normed_heads(kv * t)),
        selected_head_positions: input("selected positions of heads", normed_heads(kv * s)),
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
        logits: plan.buffer("logits", float, &[lm(footprint.logit_rows.min(s)), config.vocab_size], head..=head),
        dnormed: plan.buffer("final norm output gradient", float, &[back(lm(s)), hidden], head..=head),
        score_x: plan.buffer("score rows of the residual", float, &[both, hidden], head..=head),
        dscore_x: plan.buffer("score rows' gradient", float, &[back(both), hidden], head..=head),
        scores: plan.buffer("scores", sum, &[c], head..=end),
        loss: plan.buffer("ranking loss", sum, &[1], 0..=end),
        lm_loss: plan.buffer("next-token loss", sum, &[1], 0..=end),
    };
    (plan, Slots { layers: layer_slots, layers_back, temporaries, inputs, output })
}
