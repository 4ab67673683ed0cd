//! The model: configuration, weights, transformer forward and backward, reward head.

pub mod config;
mod init;
mod lora;
mod merge;
pub mod params;
mod transformer;
mod workspace;

pub use config::{ModelConfig, OutputHeads};
pub use lora::Lora;
pub use params::{Factor, LayerParam, Param, TensorSpec};
pub use transformer::LossHeads;
pub use workspace::{Keep, Workspace};

use std::ops::Range;
use std::rc::Rc;

use crate::backend::{Backend, BackendExt, Footprint, Heads, Operations, Span};
use crate::config::Projection;
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
    trained: Range<usize>,
    params: Params,
}

/// The flat buffer of the parameters, with a view of every tensor in it.
#[derive(Clone)]
struct Params {
    tensor: Tensor,
    views: Views<Tensor>,
    /// `[rank, rank]`, `alpha / rank` on the diagonal: a product with it scales what an adapter makes.
    scale: Option<Tensor>,
}

/// The flat buffer of the gradients of what is trained, with a view of every tensor in it.
pub struct Gradients {
    tensor: Tensor,
    /// The buffer, and behind it room for the gradients of norms that are not trained: the operations of a backward pass
    /// write them all the same.
    whole: Tensor,
    views: Views<Option<Tensor>>,
}

impl Gradients {
    /// The buffer, tensor after tensor: as long as [`Model::trained`].
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Sets it to zero, for the first pack of a step to add to.
    pub fn zero(&self, backend: &dyn Backend) -> Result<()> {
        backend.fill(&self.whole, 0.0)
    }

    /// Elements of the buffer, and behind it.
    fn elements(config: &ModelConfig, outputs: OutputHeads) -> [usize; 2] {
        let discarded = config.lora.as_ref().map_or(0, |_| config.hidden_size.max(config.head_dim));
        [config.trained(outputs).len(), discarded]
    }

    /// Bytes that [`Model::gradients`] takes on a device of such a `footprint`.
    pub fn bytes(footprint: &Footprint, config: &ModelConfig, outputs: OutputHeads) -> usize {
        Self::elements(config, outputs).iter().sum::<usize>() * footprint.accumulator.size()
    }
}

impl Model {
    /// A model whose parameters are all zero, to be filled by [`Model::initialise`] or [`Model::set`].
    pub fn new(backend: Rc<dyn Backend>, config: ModelConfig, outputs: OutputHeads) -> Result<Self> {
        let specs = config.tensors(outputs);
        let tensor = backend.tensor(backend.float(), &[config.buffer_elements(outputs)])?;
        let scale = config.lora.as_ref().map(|lora| diagonal(&*backend, lora.rank, lora.scale())).transpose()?;
        let views = Params::views(&config, outputs, &specs, &tensor)?;
        let trained = config.trained(outputs);
        Ok(Self { backend, config, outputs, specs, trained, params: Params { tensor, views, scale } })
    }

    /// Bytes that [`Model::new`] takes on a device of such a `footprint`.
    pub fn bytes(footprint: &Footprint, config: &ModelConfig, outputs: OutputHeads) -> usize {
        let scale = config.lora.as_ref().map_or(0, |lora| lora.rank * lora.rank);
        (config.buffer_elements(outputs) + scale) * footprint.float.size()
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
        let Self { config, outputs, specs, trained, params, .. } = self;
        let (config, specs, trained) = (config.clone(), specs.clone(), trained.clone());
        Self { backend, config, outputs: *outputs, specs, trained, params: params.clone() }
    }

    /// The same network in the same memory without its adapters, into whose weights they are to be merged.
    pub fn merged(&self) -> Result<Self> {
        let (backend, config, outputs) = (self.backend.clone(), self.config.merged(), self.outputs);
        let specs = config.tensors(outputs);
        let tensor = self.params.tensor.first(&[config.buffer_elements(outputs)]);
        let views = Params::views(&config, outputs, &specs, &tensor)?;
        let trained = config.trained(outputs);
        Ok(Self { backend, config, outputs, specs, trained, params: Params { tensor, views, scale: None } })
    }

    /// What of the flat buffer is trained: [`ModelConfig::trained`].
    pub fn trained(&self) -> Range<usize> {
        self.trained.clone()
    }

    /// The device that holds it.
    pub fn backend(&self) -> &Rc<dyn Backend> {
        &self.backend
    }

    /// A flat buffer for the gradients of what is trained, zeroed.
    pub fn gradients(&self) -> Result<Gradients> {
        let [trained, discarded] = Gradients::elements(&self.config, self.outputs);
        let whole = self.backend.tensor(self.backend.accumulator(), &[trained + discarded])?;
        let (tensor, discard) = (whole.first(&[trained]), whole.window(trained, &[discarded]));
        let discard = (discarded > 0).then_some(&discard);
        let places = Places { specs: &self.specs, flat: &tensor, start: self.trained().start, discard };
        let views = Views::new(&self.config, self.outputs, &places, Ok)?;
        Ok(Gradients { tensor, whole, views })
    }

    /// Where a tensor lies in `flat`, the parameters or the gradients of what is trained, which comes last.
    fn place_in(&self, flat: &Tensor, spec: &TensorSpec) -> Option<Tensor> {
        let start = spec.offset.checked_sub(self.params.tensor.len() - flat.len())?;
        Some(flat.window(start, &spec.shape))
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
    ///
    /// # Errors
    /// When the tensor is not trained and so has no gradient.
    pub fn get(&self, flat: &Tensor, spec: &TensorSpec) -> Result<Vec<f32>> {
        let missing = || Error::machine(format!("{} is not trained", spec.name));
        self.backend.read_f32(&self.place_in(flat, spec).ok_or_else(missing)?)
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
        let has = |spec: &&TensorSpec| self.place_in(flat, spec).is_some_and(|place| place.overlaps(part));
        self.specs.iter().find(has).map(|spec| spec.name.as_str())
    }

    /// Floating-point operations of a training pass over `pack`, two to a multiply-add: what the operations of the pass
    /// say of their matrix products and attention ([`Work::matrix`]; `tests/wrappers.rs` holds the two equal), each
    /// counted once, so that computing activations again is not (PaLM's appendix B, arXiv 2204.02311). Products are three
    /// for each of the forward pass: that, and the gradients of input and weight. Attention has two in the forward pass
    /// and five in the backward pass, over what is visible. A weight that is not trained has no gradient: its products are
    /// two.
    pub fn training_flops(&self, pack: &Pack) -> f64 {
        let c = &self.config;
        let (hidden, ffn, heads) = (c.hidden_size, c.intermediate_size, self.heads());
        let (tokens, selected) = (pack.tokens(), pack.selected.len());
        // After its keys and values, the last layer is computed for the selected tokens alone.
        let layers = c.num_hidden_layers - 1;
        let products = if c.lora.is_some() { 2 } else { 3 };
        let product = |rows, columns, inner| products * Work::product(rows, columns, inner).matrix;
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
        let lm_head = if self.outputs.lm { 3 * Work::product(selected, c.vocab_size, hidden).matrix } else { 0 };
        let adapters =
            |last: bool| c.lora.iter().map(|lora| self.adapter_flops(lora, tokens, selected, last)).sum::<u64>();
        (layers as u64 * (layer + adapters(false)) + last_layer + adapters(true) + lm_head) as f64
    }

    /// The same of the adapters of one layer. A factor has three products, and what lies between the two is scaled, and
    /// so is its gradient.
    fn adapter_flops(&self, lora: &Lora, tokens: usize, selected: usize, last: bool) -> u64 {
        let of = |target: &Projection| {
            let rows = if last && !matches!(target, Projection::K | Projection::V) { selected } else { tokens };
            let ([out, columns], rank) = (target.shape(&self.config), lora.rank);
            let product = |columns, inner| Work::product(rows, columns, inner).matrix;
            3 * product(rank, columns) + 3 * product(out, rank) + 2 * product(rank, rank)
        };
        lora.targets.iter().map(of).sum()
    }

    fn heads(&self) -> Heads {
        self.config.attention_heads()
    }
}

impl Params {
    fn views(config: &ModelConfig, outputs: OutputHeads, specs: &[TensorSpec], flat: &Tensor) -> Result<Views<Tensor>> {
        let places = Places { specs, flat, start: 0, discard: None };
        Views::new(config, outputs, &places, |there| there.ok_or_else(|| Error::machine("a weight without a place")))
    }
}

/// `[n, n]` with `value` on the diagonal.
fn diagonal(backend: &dyn Backend, n: usize, value: f64) -> Result<Tensor> {
    let tensor = backend.tensor(backend.float(), &[n, n])?;
    let values: Vec<f64> = (0..n * n).map(|at| if at % (n + 1) == 0 { value } else { 0.0 }).collect();
    backend.write_f64(&tensor, &values)?;
    Ok(tensor)
}

/// Views of a flat buffer under the names that the transformer uses: of the parameters, where every matrix is there, or of
/// the gradients, where `W` is an option, and a matrix that is not trained has none. Made once: a step looks up no name.
#[derive(Clone)]
struct Views<W> {
    embedding: W,
    layers: Vec<LayerViews<W>>,
    norm: Tensor,
    reward_head: Option<Tensor>,
    lm_head: Option<Tensor>,
}

#[derive(Clone)]
struct LayerViews<W> {
    attention_norm: Tensor,
    wqkv: W,
    /// `[K, (G + 2) D]`: a row for each group of `wqkv`'s rows.
    wqkv_bias: Option<Tensor>,
    /// The gains of the norms of queries and keys.
    qk_norm: Option<[Tensor; 2]>,
    wo: W,
    /// `[1, hidden]`.
    wo_bias: Option<Tensor>,
    ffn_norm: Tensor,
    /// `w1` and `w3` beneath each other, `[2 F, hidden]`: gate and up in one product.
    w13: W,
    w2: W,
    /// The adapters that there are, in the order of [`Projection::ALL`].
    adapters: Vec<(Projection, Adapter)>,
}

/// The factors of an adapter, or their gradients.
#[derive(Clone)]
struct Adapter {
    /// `[rank, in]`.
    a: Tensor,
    /// `[out, rank]`.
    b: Tensor,
}

impl<W> LayerViews<W> {
    /// The adapter of a projection, if it has one.
    fn adapter(&self, projection: Projection) -> Option<&Adapter> {
        self.adapters.iter().find(|(of, _)| *of == projection).map(|(_, adapter)| adapter)
    }
}

/// Where the tensors of a flat buffer lie.
struct Places<'a> {
    specs: &'a [TensorSpec],
    flat: &'a Tensor,
    /// Elements of all parameters before the first of the buffer.
    start: usize,
    /// What an operation may write for a vector that is not in the buffer.
    discard: Option<&'a Tensor>,
}

impl Places<'_> {
    fn spec(&self, param: Param) -> Result<&TensorSpec> {
        let missing = || Error::machine(format!("the model has no tensor {param}"));
        self.specs.iter().find(|spec| spec.param == param).ok_or_else(missing)
    }

    /// A tensor as `dims`, if the buffer has it.
    fn seen_as(&self, param: Param, dims: &[usize]) -> Result<Option<Tensor>> {
        let offset = self.spec(param)?.offset.checked_sub(self.start);
        Ok(offset.map(|offset| self.flat.window(offset, dims)))
    }

    fn find(&self, param: Param) -> Result<Option<Tensor>> {
        self.seen_as(param, &self.spec(param)?.shape)
    }

    /// The gains of a norm, or what takes their place.
    fn norm(&self, param: Param) -> Result<Tensor> {
        let shape = &self.spec(param)?.shape;
        let discard = || self.discard.map(|discard| discard.first(shape));
        self.find(param)?.or_else(discard).ok_or_else(|| Error::machine(format!("no place for {param}")))
    }

    fn there(&self, param: Param) -> Result<Tensor> {
        self.find(param)?.ok_or_else(|| Error::machine(format!("no place for {param}")))
    }
}

impl<W> Views<W> {
    /// `matrix` makes a view of what is there of a matrix.
    fn new(
        config: &ModelConfig,
        outputs: OutputHeads,
        places: &Places,
        matrix: fn(Option<Tensor>) -> Result<W>,
    ) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let norm = |param: LayerParam| places.norm(Param::Layer(layer, param));
                let of = |param: LayerParam| matrix(places.find(Param::Layer(layer, param))?);
                let bias = |param: LayerParam, groups: usize| -> Result<Option<Tensor>> {
                    if !config.bias {
                        return Ok(None);
                    }
                    let param = Param::Layer(layer, param);
                    places.seen_as(param, &[groups, places.spec(param)?.elements() / groups])
                };
                let adapter = |of: &Projection| -> Result<(Projection, Adapter)> {
                    let factor = |factor| places.there(Param::Adapter(layer, *of, factor));
                    Ok((*of, Adapter { a: factor(Factor::A)?, b: factor(Factor::B)? }))
                };
                Ok(LayerViews {
                    attention_norm: norm(LayerParam::AttentionNorm)?,
                    wqkv: of(LayerParam::Wqkv)?,
                    wqkv_bias: bias(LayerParam::WqkvBias, config.num_key_value_heads)?,
                    qk_norm: match config.qk_norm {
                        true => Some([norm(LayerParam::QNorm)?, norm(LayerParam::KNorm)?]),
                        false => None,
                    },
                    wo: of(LayerParam::Wo)?,
                    wo_bias: bias(LayerParam::WoBias, 1)?,
                    ffn_norm: norm(LayerParam::FfnNorm)?,
                    w13: matrix(places.seen_as(
                        Param::Layer(layer, LayerParam::W1),
                        &[2 * config.intermediate_size, config.hidden_size],
                    )?)?,
                    w2: of(LayerParam::W2)?,
                    adapters: config.lora.iter().flat_map(|lora| &lora.targets).map(adapter).collect::<Result<_>>()?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            embedding: matrix(places.find(Param::Embedding)?)?,
            layers,
            norm: places.norm(Param::Norm)?,
            reward_head: outputs.reward.then(|| places.there(Param::RewardHead)).transpose()?,
            lm_head: outputs.lm.then(|| places.there(Param::LmHead)).transpose()?,
        })
    }
}
