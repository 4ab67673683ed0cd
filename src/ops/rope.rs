//! Rotary position embeddings (Su et al., arXiv 2104.09864, in the half-split form of GPT-NeoX), and the split of a
//! fused projection into heads.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, `H`.
    pub query: usize,
    /// Key/value heads, `K`; divides `H`.
    pub kv: usize,
    /// Head dimension, `D`; even.
    pub dim: usize,
}

impl Heads {
    /// Query heads to a key/value head, `G`.
    pub fn group(&self) -> usize {
        self.query / self.kv
    }

    /// Refuses heads that cannot be grouped, or turned in pairs.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.kv == 0 || !self.query.is_multiple_of(self.kv) || self.dim == 0 || !self.dim.is_multiple_of(2) {
            return Err(format!("{self:?} are no heads"));
        }
        Ok(())
    }
}

/// The frequencies of a rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Their base.
    pub theta: f64,
    /// How they are scaled, if they are.
    pub llama3: Option<Llama3>,
}

impl From<f64> for Rotary {
    fn from(theta: f64) -> Self {
        Self { theta, llama3: None }
    }
}

/// Llama 3.1's scaling of rotary frequencies, `rope_type` `llama3`: slow ones are divided, fast ones left, and those
/// between interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
    /// What slow frequencies are divided by.
    pub factor: f64,
    /// Frequencies that turn fewer times than this over the original length are slow.
    pub low_freq_factor: f64,
    /// Frequencies that turn more often than this over the original length are fast.
    pub high_freq_factor: f64,
    /// `original_max_position_embeddings`, tokens.
    pub original_length: u32,
}

impl Llama3 {
    /// The scaled frequency: `_compute_llama3_parameters` of `transformers`, every step rounded to f32 as PyTorch
    /// rounds it there.
    pub(crate) fn scale(&self, frequency: f32) -> f32 {
        let (factor, length) = (self.factor as f32, self.original_length as f32);
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        // PyTorch divides a number by a tensor as the reciprocal times the number.
        let wavelength = (1.0 / frequency) * (2.0 * std::f64::consts::PI) as f32;
        let [longest, shortest] = [low, high].map(|turns| (f64::from(self.original_length) / turns) as f32);
        if wavelength > longest {
            return frequency / factor;
        }
        if wavelength < shortest {
            return frequency;
        }
        let smooth = ((1.0 / wavelength) * length - low as f32) / (high - low) as f32;
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// Which parts of the fused `wqkv` projection an operation sees. In each of the `K` groups of columns come the `G`
/// query heads, then the key, then the value (the layout of InternLM2), and parts that are absent take no column.
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    /// `[K, rows, G, D]`.
    pub q: Option<&'a Tensor>,
    /// `[K, rows, D]` each.
    pub kv: Option<(&'a Tensor, &'a Tensor)>,
}

impl<'a> Qkv<'a> {
    /// Columns of the fused projection.
    fn columns(&self, heads: Heads) -> usize {
        let q = if self.q.is_some() { heads.group() } else { 0 };
        let kv = if self.kv.is_some() { 2 } else { 0 };
        heads.kv * (q + kv) * heads.dim
    }

    /// Appends the parts that there are.
    fn operands(&self, mut operands: Operands<'a>, write: bool, rows: usize, heads: Heads) -> Operands<'a> {
        let mut part = |name, t, dims: &[usize]| {
            operands = if write {
                operands.write(name, ElementKind::Float, t, dims)
            } else {
                operands.read(name, ElementKind::Float, t, dims)
            };
        };
        if let Some(q) = self.q {
            part("q", q, &[heads.kv, rows, heads.group(), heads.dim]);
        }
        if let Some((k, v)) = self.kv {
            part("k", k, &[heads.kv, rows, heads.dim]);
            part("v", v, &[heads.kv, rows, heads.dim]);
        }
        operands
    }

    /// Six operations for a pair of what is turned.
    fn turns(&self) -> Work {
        Work::elementwise(self.q.map_or(0, Tensor::len) + self.kv.map_or(0, |(k, _)| k.len()), 3)
    }
}

/// Splits `src` into heads and turns q and k by `positions`.
#[derive(Clone, Copy)]
pub struct RopeForward<'a> {
    /// What is written.
    pub dst: Qkv<'a>,
    /// `[rows, K * columns]`.
    pub src: &'a Tensor,
    /// `[rows]`.
    pub positions: &'a Tensor,
    /// Heads of the projection.
    pub heads: Heads,
    /// The frequencies.
    pub rotary: Rotary,
}

impl Op for RopeForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let rows = self.positions.len();
        self.dst
            .operands(Operands::new(), true, rows, self.heads)
            .read("src", ElementKind::Float, self.src, &[rows, self.dst.columns(self.heads)])
            .read("positions", ElementKind::Index, self.positions, &[rows])
    }

    fn check(&self) -> Result<(), String> {
        self.heads.check()
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + self.dst.turns())
    }
}

/// Gathers gradients of the heads into `dsrc`, turned back.
#[derive(Clone, Copy)]
pub struct RopeBackward<'a> {
    /// `[rows, K * columns]`.
    pub dsrc: &'a Tensor,
    /// What is read.
    pub grads: Qkv<'a>,
    /// `[rows]`.
    pub positions: &'a Tensor,
    /// Heads of the projection.
    pub heads: Heads,
    /// The frequencies.
    pub rotary: Rotary,
}

impl Op for RopeBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let rows = self.positions.len();
        let dsrc =
            Operands::new().write("dsrc", ElementKind::Float, self.dsrc, &[rows, self.grads.columns(self.heads)]);
        let operands = self.grads.operands(dsrc, false, rows, self.heads);
        operands.read("positions", ElementKind::Index, self.positions, &[rows])
    }

    fn check(&self) -> Result<(), String> {
        self.heads.check()
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + self.grads.turns())
    }
}
