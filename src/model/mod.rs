//! The model: configuration, weights, transformer forward and backward, reward head.

pub mod config;
mod init;
pub mod params;
mod transformer;
mod workspace;

pub use config::{ModelConfig, OutputHeads};
pub use params::{LayerParam, Param, TensorSpec};
pub use transformer::LossHeads;
pub use workspace::{Keep, Workspace};

use std::rc::Rc;

use crate::backend::{Backend, BackendExt, Footprint, Heads, Span};
use crate::error::{Error, Result};
use crate::ops::Work;
use crate::ops::attention::visible_pairs;
use crate::passes::Pack;
use crate::tensor::Tensor;

/// A transformer's parameters in one flat buffer, tensor after tensor.
pub struct Model {
    backend: Rc<dyn Backend>,
    config: ModelConfig,
    outputs: OutputHeads,
    specs: Vec<TensorSpec>,
    params: Flat,
}

/// A flat buffer, parameters or gradients, with a view of every tensor in it.
#[derive(Clone)]
pub struct Flat {
    tensor: Tensor,
    views: Views,
}

impl Flat {
    /// The buffer, tensor after tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

impl Model {
    /// A model whose parameters are all zero, to be filled by [`Model::initialise`] or [`Model::set`].
    pub fn new(backend: Rc<dyn Backend>, config: ModelConfig, outputs: OutputHeads) -> Result<Self> {
        let specs = config.tensors(outputs);
        let tensor = backend.tensor(backend.float(), &[config.buffer_elements(outputs)])?;
        let params = Flat { views: Views::new(&config, outputs, &specs, &tensor)?, tensor };
        Ok(Self { backend, config, outputs, specs, params })
    }

    /// Bytes that [`Model::new`] takes on a device of such a `footprint`.
    pub fn bytes(footprint: &Footprint, config: &ModelConfig, outputs: OutputHeads) -> usize {
        config.buffer_elements(outputs) * footprint.float.size()
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Which heads it ends in.
    pub fn outputs(&self) -> OutputHeads {
        self.outputs
    }

    /// Every tensor's name, shape and place in the flat buffer.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// The flat buffer.
    pub fn params(&self) -> &Tensor {
        &self.params.tensor
    }

    /// The same model, in the same memory, computing on `backend`: one around this model's own ([`crate::wrap`]).
    pub fn on(&self, backend: Rc<dyn Backend>) -> Self {
        let Self { config, outputs, specs, params, .. } = self;
        Self { backend, config: config.clone(), outputs: *outputs, specs: specs.clone(), params: params.clone() }
    }

    /// The device that holds it.
    pub fn backend(&self) -> &Rc<dyn Backend> {
        &self.backend
    }

    /// A flat buffer of the same length for gradients, zeroed.
    pub fn gradients(&self) -> Result<Flat> {
        let tensor = self.backend.tensor(self.backend.accumulator(), &[self.params.tensor.len()])?;
        Ok(Flat { views: Views::new(&self.config, self.outputs, &self.specs, &tensor)?, tensor })
    }

    /// Sets one tensor.
    pub fn set(&self, spec: &TensorSpec, values: &[f32]) -> Result<()> {
        self.set_range(spec.offset, values)
    }

    /// Sets a tensor's rows from `row` on, as many as there are values for.
    pub fn set_rows(&self, spec: &TensorSpec, row: usize, values: &[f32]) -> Result<()> {
        self.set_range(spec.offset + row * spec.shape.iter().skip(1).product::<usize>(), values)
    }

    /// Sets all parameters at once.
    pub fn set_all(&self, values: &[f32]) -> Result<()> {
        self.set_range(0, values)
    }

    fn set_range(&self, offset: usize, values: &[f32]) -> Result<()> {
        self.backend.write_f32(&self.params.tensor.window(offset, &[values.len()]), values)
    }

    /// Reads one tensor of a flat buffer: the parameters, or gradients.
    pub fn get(&self, flat: &Tensor, spec: &TensorSpec) -> Result<Vec<f32>> {
        self.backend.read_f32(&flat.window(spec.offset, &[spec.elements()]))
    }

    /// The name of the first weight that holds an infinity or a NaN.
    pub fn first_non_finite_weight(&self) -> Result<Option<&str>> {
        for spec in &self.specs {
            if self.get(self.params(), spec)?.iter().any(|v| !v.is_finite()) {
                return Ok(Some(&spec.name));
            }
        }
        Ok(None)
    }

    /// The name of the first tensor of the flat buffer `flat`, parameters or gradients, that has elements of `part`.
    pub fn name_in(&self, flat: &Tensor, part: &Tensor) -> Option<&str> {
        let has = |spec: &&TensorSpec| flat.window(spec.offset, &spec.shape).overlaps(part);
        self.specs.iter().find(has).map(|spec| spec.name.as_str())
    }

    /// Floating-point operations of a training pass over `pack`, two to a multiply-add: what the operations of the pass
    /// say of their matrix products and attention ([`Work::matrix`]; `tests/wrappers.rs` holds the two equal), each
    /// counted once, so that computing activations again is not (PaLM's appendix B, arXiv 2204.02311). Products are three
    /// for each of the forward pass: that, and the gradients of input and weight. Attention has two in the forward pass
    /// and five in the backward pass, over what is visible.
    pub fn training_flops(&self, pack: &Pack) -> f64 {
        let c = &self.config;
        let (hidden, ffn, heads) = (c.hidden_size, c.intermediate_size, self.heads());
        let (tokens, selected) = (pack.tokens(), pack.selected.len());
        // After its keys and values, the last layer is computed for the selected tokens alone.
        let layers = c.num_hidden_layers - 1;
        let product = |rows, columns, inner| 3 * Work::product(rows, columns, inner).matrix;
        let after_keys = |rows| {
            let queries = product(rows, heads.query * heads.dim, hidden);
            let out = product(rows, hidden, heads.query * heads.dim);
            queries + out + product(rows, 2 * ffn, hidden) + product(rows, hidden, ffn)
        };
        let keys = product(tokens, 2 * heads.kv * heads.dim, hidden);
        let attention = |pairs: u64| (2 + 5) * 2 * (heads.query * heads.dim) as u64 * pairs;
        let all = pack.spans.iter().map(Span::visible_pairs_of_all).sum();
        let last = visible_pairs(&pack.selected_spans, &pack.selected);
        let layer = keys + after_keys(tokens) + attention(all);
        let last_layer = keys + after_keys(selected) + attention(last);
        let lm_head = if self.outputs.lm { product(selected, c.vocab_size, hidden) } else { 0 };
        (layers as u64 * layer + last_layer + lm_head) as f64
    }

    fn heads(&self) -> Heads {
        self.config.attention_heads()
    }
}

/// Views of a flat buffer under the names that the transformer uses. Made once: a step looks up no name.
#[derive(Clone)]
struct Views {
    embedding: Tensor,
    layers: Vec<LayerViews>,
    norm: Tensor,
    reward_head: Option<Tensor>,
    lm_head: Option<Tensor>,
}

#[derive(Clone)]
struct LayerViews {
    attention_norm: Tensor,
    wqkv: Tensor,
    /// `[K, (G + 2) D]`: a row for each group of `wqkv`'s rows.
    wqkv_bias: Option<Tensor>,
    /// The gains of the norms of queries and keys.
    qk_norm: Option<[Tensor; 2]>,
    wo: Tensor,
    /// `[1, hidden]`.
    wo_bias: Option<Tensor>,
    ffn_norm: Tensor,
    /// `w1` and `w3` beneath each other, `[2 F, hidden]`: gate and up in one product.
    w13: Tensor,
    w2: Tensor,
}

impl Views {
    fn new(config: &ModelConfig, outputs: OutputHeads, specs: &[TensorSpec], flat: &Tensor) -> Result<Self> {
        let spec = |param: Param| {
            let missing = || Error::machine(format!("the model has no tensor {param}"));
            specs.iter().find(|spec| spec.param == param).ok_or_else(missing)
        };
        let view = |param: Param| spec(param).map(|spec| flat.window(spec.offset, &spec.shape));
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let of = |param: LayerParam| view(Param::Layer(layer, param));
                let bias = |param: LayerParam, groups: usize| -> Result<Option<Tensor>> {
                    if !config.bias {
                        return Ok(None);
                    }
                    let spec = spec(Param::Layer(layer, param))?;
                    Ok(Some(flat.window(spec.offset, &[groups, spec.elements() / groups])))
                };
                let w1 = spec(Param::Layer(layer, LayerParam::W1))?;
                Ok(LayerViews {
                    attention_norm: of(LayerParam::AttentionNorm)?,
                    wqkv: of(LayerParam::Wqkv)?,
                    wqkv_bias: bias(LayerParam::WqkvBias, config.num_key_value_heads)?,
                    qk_norm: match config.qk_norm {
                        true => Some([of(LayerParam::QNorm)?, of(LayerParam::KNorm)?]),
                        false => None,
                    },
                    wo: of(LayerParam::Wo)?,
                    wo_bias: bias(LayerParam::WoBias, 1)?,
                    ffn_norm: of(LayerParam::FfnNorm)?,
                    w13: flat.window(w1.offset, &[2 * w1.shape[0], w1.shape[1]]),
                    w2: of(LayerParam::W2)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            embedding: view(Param::Embedding)?,
            layers,
            norm: view(Param::Norm)?,
            reward_head: outputs.reward.then(|| view(Param::RewardHead)).transpose()?,
            lm_head: outputs.lm.then(|| view(Param::LmHead)).transpose()?,
        })
    }
}
