//! Where a tensor of this network lies in a model of another family: names, the split of `wqkv`, the order of its rows.

use crate::backend::Heads;
use crate::error::{Error, Result};
use crate::formats::Tensors;
use crate::model::config::TensorSpec;

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
}

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

/// What a tensor of this network is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One tensor as it is.
    Whole(String),
    /// Queries, keys and values, which `wqkv` holds group by group.
    Split([String; 3]),
}

impl Source {
    /// The name to give in a message.
    pub fn first(&self) -> &str {
        match self {
            Self::Whole(name) => name,
            Self::Split([queries, ..]) => queries,
        }
    }
}

impl Layout {
    /// InternLM2's own.
    pub const INTERNLM2: Self = Self { names: Names::InternLm2, interleaved: false, tied: false, output_bias: true };

    /// Where this family has the tensor that InternLM2 calls `name`.
    pub fn source(&self, name: &str) -> Source {
        let (layer, part) = match name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => (layer, part),
            None => ("", name),
        };
        let split = |prefix: &str, of: fn(&str) -> String, kind: &str| {
            Source::Split(["q", "k", "v"].map(|which| format!("{prefix}{}.{kind}", of(which))))
        };
        match (self.names, part) {
            (Names::InternLm2, _) => Source::Whole(name.into()),
            (_, "output.weight") if self.tied => self.source("model.tok_embeddings.weight"),
            (Names::HuggingFace, "attention.wqkv.weight" | "attention.wqkv.bias") => {
                let kind = if part.ends_with("bias") { "bias" } else { "weight" };
                split(&format!("model.layers.{layer}.self_attn."), |which| format!("{which}_proj"), kind)
            }
            (Names::Gguf, "attention.wqkv.weight" | "attention.wqkv.bias") => {
                let kind = if part.ends_with("bias") { "bias" } else { "weight" };
                split(&format!("blk.{layer}."), |which| format!("attn_{which}"), kind)
            }
            (names, part) => {
                let (hugging_face, gguf) = match part {
                    "model.tok_embeddings.weight" => ("model.embed_tokens.weight", "token_embd.weight"),
                    "model.norm.weight" => ("model.norm.weight", "output_norm.weight"),
                    "output.weight" => ("lm_head.weight", "output.weight"),
                    "v_head.weight" => ("score.weight", "cls.output.weight"),
                    "attention_norm.weight" => ("input_layernorm.weight", "attn_norm.weight"),
                    "attention.wo.weight" => ("self_attn.o_proj.weight", "attn_output.weight"),
                    "attention.wo.bias" => ("self_attn.o_proj.bias", "attn_output.bias"),
                    "ffn_norm.weight" => ("post_attention_layernorm.weight", "ffn_norm.weight"),
                    "feed_forward.w1.weight" => ("mlp.gate_proj.weight", "ffn_gate.weight"),
                    "feed_forward.w3.weight" => ("mlp.up_proj.weight", "ffn_up.weight"),
                    "feed_forward.w2.weight" => ("mlp.down_proj.weight", "ffn_down.weight"),
                    other => (other, other),
                };
                Source::Whole(match (names, layer) {
                    (Names::Gguf, "") => gguf.into(),
                    (Names::Gguf, layer) => format!("blk.{layer}.{gguf}"),
                    (_, "") => hugging_face.into(),
                    (_, layer) => format!("model.layers.{layer}.{hugging_face}"),
                })
            }
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
        let names = match self.source(&spec.name) {
            Source::Whole(name) => {
                tensors.read_rows(&name, 0..spec.shape[0], values)?;
                tensors.release(&name);
                return Ok(());
            }
            Source::Split(names) => names,
        };
        let width = spec.elements() / spec.shape[0];
        for (row, out) in Fused::of(heads).zip(values.chunks_mut(width)) {
            let from = row.split_row(heads, self.interleaved);
            tensors.read_rows(&names[row.which], from..from + 1, out)?;
        }
        names.iter().for_each(|name| tensors.release(name));
        Ok(())
    }

    /// Whether the family has the tensor that InternLM2 calls `name`.
    pub fn holds(&self, name: &str) -> bool {
        self.output_bias || !name.ends_with("attention.wo.bias")
    }

    /// Names and shapes of what the tensor `spec` of this network is made of.
    pub fn parts(&self, spec: &TensorSpec, heads: Heads) -> Vec<(String, Vec<usize>)> {
        match self.source(&spec.name) {
            Source::Whole(_) if !self.holds(&spec.name) => Vec::new(),
            Source::Whole(name) => vec![(name, spec.shape.clone())],
            Source::Split(names) => {
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
