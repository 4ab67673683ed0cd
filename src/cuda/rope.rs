//! Heads split and turned, and turned back and gathered.

use super::Cuda;
use super::abi::RopeParams;
use super::device::Device;
use super::kernel::{Kernel, Launch};
use super::kernels;
use super::{at, size};
use crate::backend::{Heads, Qkv};
use crate::error::Result;
use crate::ops::{RopeBackward, RopeForward, Run};
use crate::tensor::Tensor;

/// The launch that splits and turns the heads of `rows` tokens; `aligned`: a head is a multiple of 16, and everything
/// begins at multiples of 16 bytes.
pub fn plan_forward(rows: usize, heads: Heads, aligned: bool) -> Launch<RopeParams> {
    plan([kernels::ROPE_FORWARD_VEC8, kernels::ROPE_FORWARD_ANY], rows, heads, aligned)
}

/// The launch that turns them back and gathers them.
pub fn plan_backward(rows: usize, heads: Heads, aligned: bool) -> Launch<RopeParams> {
    plan([kernels::ROPE_BACKWARD_VEC8, kernels::ROPE_BACKWARD_ANY], rows, heads, aligned)
}

fn plan([vec8, any]: [Kernel<RopeParams>; 2], rows: usize, heads: Heads, aligned: bool) -> Launch<RopeParams> {
    // Eight pairs at a time, of which the halves lie half a head apart.
    let (kernel, pairs) = if aligned { (vec8, 8) } else { (any, 1) };
    kernel.on([(rows * heads.dim / 2 / pairs).div_ceil(kernel.threads as usize), heads.kv])
}

/// Splits `fused` into `parts` and turns them, or turns them back and gathers them.
pub(super) fn rope(
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
    let aligned = heads.dim.is_multiple_of(16) && [at(fused), q, k, v].iter().all(|a| a.is_multiple_of(16));
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
    let plan = if backward { plan_backward } else { plan_forward };
    // SAFETY: the operands were checked to have these shapes; there is a frequency for each pair of a head.
    unsafe { device.launch(&plan(rows, heads, aligned), &params) }
}

impl Run<RopeForward<'_>> for Cuda {
    fn run(&self, op: &RopeForward) -> Result<()> {
        let frequencies = self.frequencies(op.heads.dim, op.rotary)?;
        rope(&self.device, op.src, op.dst, op.positions, op.heads, frequencies, false)
    }
}

impl Run<RopeBackward<'_>> for Cuda {
    fn run(&self, op: &RopeBackward) -> Result<()> {
        let frequencies = self.frequencies(op.heads.dim, op.rotary)?;
        rope(&self.device, op.dsrc, op.grads, op.positions, op.heads, frequencies, true)
    }
}
