//! Where a tensor of this network lies in a model of another family: names, the split of `wqkv`, the order of its rows.

use crate::backend::Heads;
use crate::error::{Error, Result};
use crate::formats::Tensors;
use crate::model::TensorSpec;
use crate::model::{LayerParam, Param};

/// How a family of checkpoints names and lays out its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The names.
    pub names: Names,
    /// Whether rows of queries and keys stand as llama.cpp's rotary embedding of `llama` wants them: the two halves of a
    /// head interleaved, so that a pair that turns together is neighbours.
    pub interleaved: bool,
    /// Whether `output.weight` is the embedding, which is stored once.
    pub tied: bool,
    /// Whether the projection of attention's output has a bias where queries, keys and values have one.
    pub output_bias: bool,
    /// The name of the reward head in a folder of `transformers`.
    pub reward_head: &'static str,
}

/// The names that a reward head of a sequence classifier has: `transformers`' own, those of OpenRLHF and of others.
pub const REWARD_HEADS: [&str; 3] = ["score.weight", "value_head.weight", "v_head.weight"];

/// A scheme of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// This network's own: queries, keys and values fused in `wqkv`, group by group.
    InternLm2,
    /// Llama's and Qwen2's in `transformers`.
    HuggingFace,
    /// llama.cpp's.
    Gguf,
}

/// What a tensor of this network is made of in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredAs {
    /// One tensor as it is.
    Whole(String),
    /// Queries, keys and values, which `wqkv` holds group by group.
    Split([String; 3]),
}

impl StoredAs {
    /// The name to give in a message.
    pub fn first(&self) -> &str {
        match self {
            Self::Whole(name) => name,
            Self::Split([queries, ..]) => queries,
        }
    }
}

/// A parameter of a layer in `transformers` and in llama.cpp; `*` is each of `q`, `k` and `v`.
fn layer_part(param: LayerParam) -> (&'static str, &'static str) {
    match param {
        LayerParam::AttentionNorm => ("input_layernorm.weight", "attn_norm.weight"),
        LayerParam::Wqkv => ("self_attn.*_proj.weight", "attn_*.weight"),
        LayerParam::WqkvBias => ("self_attn.*_proj.bias", "attn_*.bias"),
        LayerParam::QNorm => ("self_attn.q_norm.weight", "attn_q_norm.weight"),
        LayerParam::KNorm => ("self_attn.k_norm.weight", "attn_k_norm.weight"),
        LayerParam::Wo => ("self_attn.o_proj.weight", "attn_output.weight"),
        LayerParam::WoBias => ("self_attn.o_proj.bias", "attn_output.bias"),
        LayerParam::FfnNorm => ("post_attention_layernorm.weight", "ffn_norm.weight"),
        LayerParam::W1 => ("mlp.gate_proj.weight", "ffn_gate.weight"),
        LayerParam::W3 => ("mlp.up_proj.weight", "ffn_up.weight"),
        LayerParam::W2 => ("mlp.down_proj.weight", "ffn_down.weight"),
    }
}

impl Layout {
    /// InternLM2's own.
    pub const INTERNLM2: Self = Self {
        names: Names::InternLm2,
        interleaved: false,
        tied: false,
        output_bias: true,
        reward_head: REWARD_HEADS[0],
    };

    /// Where this family has a parameter.
    pub fn stored(&self, param: Param) -> StoredAs {
        if self.names == Names::InternLm2 {
            return StoredAs::Whole(param.to_string());
        }
        let (layer, part) = match param {
            Param::LmHead if self.tied => return self.stored(Param::Embedding),
            Param::Embedding => (None, ("model.embed_tokens.weight", "token_embd.weight")),
            Param::Norm => (None, ("model.norm.weight", "output_norm.weight")),
            Param::LmHead => (None, ("lm_head.weight", "output.weight")),
            Param::RewardHead => (None, (self.reward_head, "cls.output.weight")),
            Param::Layer(layer, part) => (Some(layer), layer_part(part)),
            Param::Adapter(..) => return StoredAs::Whole(param.to_string()),
        };
        let name = match self.names {
            Names::Gguf => part.1,
            _ => part.0,
        };
        let prefix = match (self.names, layer) {
            (_, None) => String::new(),
            (Names::Gguf, Some(layer)) => format!("blk.{layer}."),
            (_, Some(layer)) => format!("model.layers.{layer}."),
        };
        match param {
            Param::Layer(_, LayerParam::Wqkv | LayerParam::WqkvBias) => {
                StoredAs::Split(["q", "k", "v"].map(|which| prefix.clone() + &name.replace('*', which)))
            }
            _ => StoredAs::Whole(prefix + name),
        }
    }

    /// Refuses the tensor unless all that it is made of is there, readable and of its shape; the names of that. `None`
    /// if nothing of it is there.
    pub fn check(&self, spec: &TensorSpec, heads: Heads, tensors: &Tensors) -> Result<Option<Vec<String>>> {
        let parts = self.parts(spec, heads);
        if parts.iter().all(|(name, _)| tensors.get(name).is_none()) {
            return Ok(None);
        }
        for (name, shape) in &parts {
            let entry = tensors.readable(name)?;
            if entry.shape != *shape {
                let why = format!("has shape {:?}, but the configuration asks for {shape:?}", entry.shape);
                return Err(tensors.refuse(name, why));
            }
        }
        Ok(Some(parts.into_iter().map(|(name, _)| name).collect()))
    }

    /// Reads a tensor that [`Layout::check`] has let through.
    pub fn read(&self, spec: &TensorSpec, heads: Heads, tensors: &Tensors, values: &mut [f32]) -> Result<()> {
        let names = match self.stored(spec.param) {
            StoredAs::Whole(name) => {
                tensors.read_rows(&name, 0..spec.shape[0], values)?;
                tensors.release(&name);
                return Ok(());
            }
            StoredAs::Split(names) => names,
        };
        let width = spec.elements() / spec.shape[0];
        for (row, out) in Fused::of(heads).zip(values.chunks_mut(width)) {
            let from = row.split_row(heads, self.interleaved);
            tensors.read_rows(&names[row.which], from..from + 1, out)?;
        }
        names.iter().for_each(|name| tensors.release(name));
        Ok(())
    }

    /// Whether the family has a parameter.
    pub fn holds(&self, param: Param) -> bool {
        self.output_bias || !matches!(param, Param::Layer(_, LayerParam::WoBias))
    }

    /// Names and shapes of what the tensor `spec` of this network is made of.
    pub fn parts(&self, spec: &TensorSpec, heads: Heads) -> Vec<(String, Vec<usize>)> {
        match self.stored(spec.param) {
            StoredAs::Whole(_) if !self.holds(spec.param) => Vec::new(),
            StoredAs::Whole(name) => vec![(name, spec.shape.clone())],
            StoredAs::Split(names) => {
                let rows = [heads.query, heads.kv, heads.kv].map(|count| count * heads.dim);
                let shape = |rows: usize| std::iter::once(rows).chain(spec.shape[1..].iter().copied()).collect();
                names.into_iter().zip(rows.map(shape)).collect()
            }
        }
    }

    /// The opposite of [`Layout::read`]: gives the values of each of [`Layout::parts`] to `sink`, in their order.
    pub fn split(
        &self,
        spec: &TensorSpec,
        heads: Heads,
        values: &[f32],
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let parts = self.parts(spec, heads);
        if parts.len() < 2 {
            return parts.iter().try_for_each(|_| sink(values));
        }
        if values.len() != spec.elements() {
            return Err(Error::machine(format!("{} values for tensor `{}`", values.len(), spec.name)));
        }
        let width = spec.elements() / spec.shape[0];
        let mut part = Vec::new();
        for (which, (_, shape)) in parts.iter().enumerate() {
            part.clear();
            part.resize(shape.iter().product(), 0.0);
            for (row, from) in Fused::of(heads).zip(values.chunks(width)).filter(|(row, _)| row.which == which) {
                let to = row.split_row(heads, self.interleaved) * width;
                part[to..to + width].copy_from_slice(from);
            }
            sink(&part)?;
        }
        Ok(())
    }
}

/// A row of the fused `wqkv`.
#[derive(Clone, Copy)]
struct Fused {
    /// 0 of a query, 1 of a key, 2 of a value.
    which: usize,
    /// Which head of its kind.
    head: usize,
    /// Which row of the head.
    row: usize,
}

impl Fused {
    /// All rows in order: for each key/value head its queries' heads, then its key, then its value.
    fn of(heads: Heads) -> impl Iterator<Item = Self> {
        let group = heads.query / heads.kv;
        (0..heads.kv).flat_map(move |kv| {
            let queries = (0..group).map(move |i| (0, kv * group + i));
            let all = queries.chain([(1, kv), (2, kv)]);
            all.flat_map(move |(which, head)| (0..heads.dim).map(move |row| Self { which, head, row }))
        })
    }

    /// Its row in the tensor of queries, keys or values alone.
    fn split_row(self, heads: Heads, interleaved: bool) -> usize {
        let half = heads.dim / 2;
        let row = if interleaved && self.which < 2 { 2 * (self.row % half) + self.row / half } else { self.row };
        self.head * heads.dim + row
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::ModelConfig;
    use crate::model::config::OutputHeads;

    #[test]
    fn every_parameter_has_a_name_of_its_own_in_every_family() {
        let text = r#"{"architectures": ["InternLM2ForRewardModel"], "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 11, "bias": true}"#;
        let config = ModelConfig { qk_norm: true, ..ModelConfig::parse(text).unwrap() };
        let params = Param::all(&config, OutputHeads { reward: true, lm: true });
        for names in [Names::InternLm2, Names::HuggingFace, Names::Gguf] {
            let layout = Layout { names, ..Layout::INTERNLM2 };
            let stored: Vec<String> = params
                .iter()
                .flat_map(|param| match layout.stored(*param) {
                    StoredAs::Whole(name) => vec![name],
                    StoredAs::Split(names) => names.to_vec(),
                })
                .collect();
            let different: BTreeSet<&String> = stored.iter().collect();
            assert_eq!(different.len(), stored.len(), "{names:?}: {stored:?}");
            // Two parameters of each of the two layers are three tensors elsewhere.
            assert_eq!(stored.len(), if names == Names::InternLm2 { 26 } else { 26 + 2 * 4 }, "{names:?}");
        }
        let tied = Layout { names: Names::HuggingFace, tied: true, ..Layout::INTERNLM2 };
        assert_eq!(tied.stored(Param::LmHead), tied.stored(Param::Embedding));
    }
}
