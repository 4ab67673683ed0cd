//! Every parameter of the network as a value: what it is called, its shape, how it starts, its place in the flat buffer.
//!
//! Nothing else tests the text of a name. Names are InternLM2's; other families' stand in `store`'s layouts.

use std::fmt::{self, Display, Formatter};
use std::ops::Range;

use super::config::{ModelConfig, OutputHeads};
use crate::config::Projection;

/// Elements that every tensor's offset into the flat buffer is a multiple of: 64 bytes of f32, one cache line.
pub const ALIGNMENT: usize = 16;

/// A parameter of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Param {
    /// The table of tokens, `[vocabulary, hidden]`.
    Embedding,
    /// A parameter of one layer, counted from 0.
    Layer(usize, LayerParam),
    /// The gains of the last norm, `[hidden]`.
    Norm,
    /// The scalar reward head, `[1, hidden]`.
    RewardHead,
    /// The language-model head, `[vocabulary, hidden]`.
    LmHead,
    /// A factor of the adapter of a projection of one layer, counted from 0.
    Adapter(usize, Projection, Factor),
}

/// A factor of an adapter, whose product `B A` is added to a weight `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// `[rank, in]`.
    A,
    /// `[out, rank]`.
    B,
}

/// A parameter that every layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerParam {
    /// The gains of the norm before attention, `[hidden]`.
    AttentionNorm,
    /// Queries, keys and values, fused group by group, `[(heads + 2 kv_heads) head_dim, hidden]`.
    Wqkv,
    /// Their bias, `[(heads + 2 kv_heads) head_dim]`.
    WqkvBias,
    /// The gains of the norm of each head's queries, `[head_dim]`.
    QNorm,
    /// The gains of the norm of each head's keys, `[head_dim]`.
    KNorm,
    /// The projection of attention's output, `[hidden, heads head_dim]`.
    Wo,
    /// Its bias, `[hidden]`.
    WoBias,
    /// The gains of the norm before the feed-forward network, `[hidden]`.
    FfnNorm,
    /// SwiGLU's gate, `[intermediate, hidden]`.
    W1,
    /// SwiGLU's up projection, `[intermediate, hidden]`.
    W3,
    /// SwiGLU's down projection, `[hidden, intermediate]`.
    W2,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// At one: the gains of norms.
    Ones,
    /// At zero: biases.
    Zeros,
    /// Drawn from `N(0, initializer_range)`.
    Normal,
    /// Drawn uniformly from within one over the root of its columns: PyTorch's `kaiming_uniform_` with `a = sqrt(5)`, with
    /// which PEFT draws the factor `A`.
    KaimingUniform,
}

impl LayerParam {
    /// In the order of the flat buffer. A bias follows its weight, and `W3` follows `W1`.
    const ALL: [Self; 11] = [
        Self::AttentionNorm,
        Self::Wqkv,
        Self::WqkvBias,
        Self::QNorm,
        Self::KNorm,
        Self::Wo,
        Self::WoBias,
        Self::FfnNorm,
        Self::W1,
        Self::W3,
        Self::W2,
    ];

    /// InternLM2's name within a layer.
    fn name(self) -> &'static str {
        match self {
            Self::AttentionNorm => "attention_norm.weight",
            Self::Wqkv => "attention.wqkv.weight",
            Self::WqkvBias => "attention.wqkv.bias",
            Self::QNorm => "attention.q_norm.weight",
            Self::KNorm => "attention.k_norm.weight",
            Self::Wo => "attention.wo.weight",
            Self::WoBias => "attention.wo.bias",
            Self::FfnNorm => "ffn_norm.weight",
            Self::W1 => "feed_forward.w1.weight",
            Self::W3 => "feed_forward.w3.weight",
            Self::W2 => "feed_forward.w2.weight",
        }
    }
}

impl Param {
    /// The parameters of a model, in the order of the flat buffer.
    pub fn all(config: &ModelConfig, heads: OutputHeads) -> Vec<Self> {
        let of_layers = (0..config.num_hidden_layers)
            .flat_map(|layer| LayerParam::ALL.map(|param| Self::Layer(layer, param)))
            .filter(|param| (config.bias || !param.is_bias()) && (config.qk_norm || !param.is_head_norm()));
        let heads = [(Self::RewardHead, heads.reward), (Self::LmHead, heads.lm)];
        let heads = heads.into_iter().filter_map(|(head, there)| there.then_some(head));
        let targets = config.lora.as_ref().map_or(&[][..], |lora| &lora.targets);
        let adapters = (0..config.num_hidden_layers).flat_map(|layer| {
            targets.iter().flat_map(move |&to| [Factor::A, Factor::B].map(|factor| Self::Adapter(layer, to, factor)))
        });
        std::iter::once(Self::Embedding).chain(of_layers).chain([Self::Norm]).chain(heads).chain(adapters).collect()
    }

    /// Its row-major shape.
    pub fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim;
        match self {
            Self::Embedding | Self::LmHead => vec![config.vocab_size, hidden],
            Self::Norm => vec![hidden],
            Self::RewardHead => vec![1, hidden],
            Self::Layer(_, param) => match param {
                LayerParam::AttentionNorm | LayerParam::FfnNorm | LayerParam::WoBias => vec![hidden],
                LayerParam::Wqkv => vec![qkv, hidden],
                LayerParam::WqkvBias => vec![qkv],
                LayerParam::QNorm | LayerParam::KNorm => vec![config.head_dim],
                LayerParam::Wo => vec![hidden, config.num_attention_heads * config.head_dim],
                LayerParam::W1 | LayerParam::W3 => vec![inner, hidden],
                LayerParam::W2 => vec![hidden, inner],
            },
            Self::Adapter(_, projection, factor) => {
                let ([out, columns], rank) = (projection.shape(config), config.lora.as_ref().map_or(0, |l| l.rank));
                match factor {
                    Factor::A => vec![rank, columns],
                    Factor::B => vec![out, rank],
                }
            }
        }
    }

    /// How it starts.
    pub fn init(self) -> Init {
        match self {
            Self::Norm | Self::Layer(_, LayerParam::AttentionNorm | LayerParam::FfnNorm) => Init::Ones,
            _ if self.is_head_norm() => Init::Ones,
            _ if self.is_bias() => Init::Zeros,
            Self::Adapter(_, _, Factor::A) => Init::KaimingUniform,
            Self::Adapter(_, _, Factor::B) => Init::Zeros,
            _ => Init::Normal,
        }
    }

    /// Whether it is a bias, which a family may lack: it is then zero.
    pub fn is_bias(self) -> bool {
        matches!(self, Self::Layer(_, LayerParam::WqkvBias | LayerParam::WoBias))
    }

    /// Whether it is the gains of the norm of queries or keys, which a family may lack.
    pub fn is_head_norm(self) -> bool {
        matches!(self, Self::Layer(_, LayerParam::QNorm | LayerParam::KNorm))
    }

    /// Whether it is a head, which a stored model may lack.
    pub fn is_head(self) -> bool {
        matches!(self, Self::RewardHead | Self::LmHead)
    }

    /// Whether it is trained where there are adapters: they are, and the head, in full.
    pub fn is_trained_with_adapters(self) -> bool {
        self.is_head() || matches!(self, Self::Adapter(..))
    }

    /// Whether it has a row for each token of the vocabulary.
    pub fn is_by_token(self) -> bool {
        matches!(self, Self::Embedding | Self::LmHead)
    }

    /// Whether it begins where the one before it ends, without a gap: `W3` is one matrix with `W1` to the product that
    /// reads both.
    pub fn follows_at_once(self) -> bool {
        matches!(self, Self::Layer(_, LayerParam::W3))
    }
}

impl Projection {
    /// Rows and columns of its weight.
    pub fn shape(self, config: &ModelConfig) -> [usize; 2] {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match self {
            Self::Q => [config.num_attention_heads * config.head_dim, hidden],
            Self::K | Self::V => [config.num_key_value_heads * config.head_dim, hidden],
            Self::O => [hidden, config.num_attention_heads * config.head_dim],
            Self::Gate | Self::Up => [inner, hidden],
            Self::Down => [hidden, inner],
        }
    }
}

/// InternLM2's name, by which the tensor is stored and drawn; of an adapter PEFT's, behind what stands before all of its
/// names.
impl Display for Param {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("model.tok_embeddings.weight"),
            Self::Layer(layer, param) => write!(f, "model.layers.{layer}.{}", param.name()),
            Self::Norm => f.write_str("model.norm.weight"),
            Self::RewardHead => f.write_str("v_head.weight"),
            Self::LmHead => f.write_str("output.weight"),
            Self::Adapter(layer, projection, factor) => {
                write!(f, "model.layers.{layer}.{}.lora_{factor:?}.weight", projection.path())
            }
        }
    }
}

/// One tensor of the flat parameter buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The parameter.
    pub param: Param,
    /// Its name, InternLM2's.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Elements before it in the flat buffer, a multiple of [`ALIGNMENT`] except where
    /// [`Param::follows_at_once`].
    pub offset: usize,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ModelConfig {
    /// Number of parameters, adapters among them, padding between tensors not counted.
    pub fn parameters(&self, heads: OutputHeads) -> usize {
        self.tensors(heads).iter().map(TensorSpec::elements).sum()
    }

    /// Number of those that are trained where there are adapters.
    pub fn adapter_parameters(&self, heads: OutputHeads) -> usize {
        let trained = self.tensors(heads).into_iter().filter(|spec| spec.param.is_trained_with_adapters());
        trained.map(|spec| spec.elements()).sum()
    }

    /// Elements of the flat buffer, padding included: a multiple of [`ALIGNMENT`].
    pub fn buffer_elements(&self, heads: OutputHeads) -> usize {
        self.tensors(heads).last().map_or(0, |last| (last.offset + last.elements()).next_multiple_of(ALIGNMENT))
    }

    /// The flat buffer in ranges that whoever owns a part of it can have: what comes before the first layer, each layer,
    /// and what comes after the last. Each begins at a multiple of [`ALIGNMENT`].
    pub fn ranges(&self, heads: OutputHeads) -> Vec<Range<usize>> {
        let begins = |spec: &TensorSpec| match spec.param {
            Param::Embedding | Param::Layer(_, LayerParam::AttentionNorm) | Param::Norm => Some(spec.offset),
            _ => None,
        };
        let starts: Vec<usize> = self.tensors(heads).iter().filter_map(begins).collect();
        let ends = starts.iter().skip(1).copied().chain([self.buffer_elements(heads)]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// What is trained, as elements of the flat buffer: all of it or, with adapters, the head and them, which come last.
    pub fn trained(&self, heads: OutputHeads) -> Range<usize> {
        let tensors = self.tensors(heads);
        let first = tensors.iter().find(|spec| self.lora.is_none() || spec.param.is_trained_with_adapters());
        let end = self.buffer_elements(heads);
        first.map_or(end, |spec| spec.offset)..end
    }

    /// Every tensor in the order of the flat buffer.
    pub fn tensors(&self, heads: OutputHeads) -> Vec<TensorSpec> {
        let mut end = 0;
        let spec = |param: Param| {
            let offset = if param.follows_at_once() { end } else { usize::next_multiple_of(end, ALIGNMENT) };
            let spec = TensorSpec { param, name: param.to_string(), shape: param.shape(self), offset };
            end = offset + spec.elements();
            spec
        };
        Param::all(self, heads).into_iter().map(spec).collect()
    }
}
