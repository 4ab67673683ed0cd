use super::Cuda;
use super::abi::{ROPE_THREADS, RopeParams};
use super::device::Device;
use super::{at, size};
use crate::backend::{Heads, Qkv};
use crate::error::Result;
use crate::ops::{RopeBackward, RopeForward, Run};
use crate::tensor::Tensor;

/// Splits `fused` into `parts` and turns them, or turns them back and gathers them.
pub fn rope(
    device: &Device,
    fused: &Tensor,
    parts: Qkv,
    positions: &Tensor,
    heads: Heads,
    frequencies: u64,
    backward: bool,
) -> Result<()> {
    let part = |t: Option<&Tensor>| t.map_or(0, at);
    let (q, k, v) = (part(parts.q), part(parts.kv.map(|kv| kv.0)), part(parts.kv.map(|kv| kv.1)));
    // Eight pairs at a time, of which the halves lie half a head apart.
    let aligned = heads.dim.is_multiple_of(16) && [at(fused), q, k, v].iter().all(|a| a.is_multiple_of(16));
    let (kernel, pairs) = match (backward, aligned) {
        (false, true) => ("rope_forward_vec8", 8),
        (false, false) => ("rope_forward_any", 1),
        (true, true) => ("rope_backward_vec8", 8),
        (true, false) => ("rope_backward_any", 1),
    };
    let rows = positions.len();
    let params = RopeParams {
        fused: at(fused),
        q,
        k,
        v,
        positions: at(positions),
        frequencies,
        rows: size(rows)?,
        kv_heads: size(heads.kv)?,
        group: size(heads.group())?,
        dim: size(heads.dim)?,
    };
    let blocks = (rows * heads.dim / 2 / pairs).div_ceil(ROPE_THREADS as usize);
    // SAFETY: the operands were checked to have these shapes; there is a frequency for each pair of a head.
    unsafe { device.launch(kernel, [blocks, heads.kv], ROPE_THREADS, 0, &params) }
}

impl Run<RopeForward<'_>> for Cuda {
    fn run(&self, op: &RopeForward) -> Result<()> {
        let frequencies = self.frequencies(op.heads.dim, op.theta)?;
        rope(&self.device, op.src, op.dst, op.positions, op.heads, frequencies, false)
    }
}

impl Run<RopeBackward<'_>> for Cuda {
    fn run(&self, op: &RopeBackward) -> Result<()> {
        let frequencies = self.frequencies(op.heads.dim, op.theta)?;
        rope(&self.device, op.dsrc, op.grads, op.positions, op.heads, frequencies, true)
    }
}
