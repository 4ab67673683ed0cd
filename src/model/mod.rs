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

    /// The first tensor of a flat buffer that holds an infinity or a NaN.
    pub fn first_non_finite(&self, flat: &Tensor) -> Result<Option<String>> {
        for spec in &self.specs {
            if self.get(flat, spec)?.iter().any(|v| !v.is_finite()) {
                return Ok(Some(spec.name.clone()));
            }
        }
        Ok(None)
    }

    /// Floating-point operations of a training pass over `pack`, two to a multiply-add: matrix products three times
    /// (forward, gradients of input and weight), attention's over what is visible three and a half times.
    pub fn training_flops(&self, pack: &Pack) -> f64 {
        let c = &self.config;
        let (hidden, ffn, dim) = (c.hidden_size as f64, c.intermediate_size as f64, c.head_dim() as f64);
        let (q, kv) = (c.num_attention_heads as f64 * dim, c.num_key_value_heads as f64 * dim);
        let (tokens, selected) = (pack.tokens() as f64, pack.selected.len() as f64);
        let after_keys = hidden * q * 2.0 + 3.0 * hidden * ffn;
        let keys = 2.0 * hidden * kv;
        let lm_head = if self.outputs.lm { hidden * c.vocab_size as f64 } else { 0.0 };
        let layers = c.num_hidden_layers as f64 - 1.0;
        let products = (layers * tokens + selected) * after_keys + (layers + 1.0) * tokens * keys + selected * lm_head;
        let visible = |span: &Span| {
            let own = f64::from(span.own);
            own * f64::from(span.prefix) + own * (own + 1.0) / 2.0
        };
        let all: f64 = pack.spans.iter().map(visible).sum();
        let last: f64 = pack
            .selected_spans
            .iter()
            .map(|span| visible(span) * f64::from(span.queries) / f64::from(span.own.max(1)))
            .sum();
        6.0 * products + 3.5 * 4.0 * q * (layers * all + last)
    }

    fn heads(&self) -> Heads {
        self.config.attention_heads()
    }
}

/// Views of a flat buffer under the names that the transformer uses. Made once: a step looks up no name.
struct Views {
    embedding: Tensor,
    layers: Vec<LayerViews>,
    norm: Tensor,
    reward_head: Option<Tensor>,
    lm_head: Option<Tensor>,
}

struct LayerViews {
    attention_norm: Tensor,
    wqkv: Tensor,
    /// `[K, (G + 2) D]`: a row for each group of `wqkv`'s rows.
    wqkv_bias: Option<Tensor>,
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
