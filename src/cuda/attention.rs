//! Attention over packed rows: forward, and backward in three launches.

use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::kernel::{Kernel, Launch};
use super::kernels;
use super::{at, size};
use crate::backend::{AttentionArgs, Heads};
use crate::error::{Error, Result};
use crate::ops::{AttentionBackward, AttentionForward, Run};
use crate::tensor::Tensor;

/// The kernels for a head dimension.
struct Kernels {
    forward: Kernel<AttentionParams>,
    backward_q: Kernel<AttentionBackwardParams>,
    backward_kv: Kernel<AttentionBackwardParams>,
}

impl Kernels {
    fn of(dim: usize) -> Result<&'static Self> {
        const UP_TO_32: Kernels = Kernels {
            forward: kernels::ATTENTION_FORWARD_32,
            backward_q: kernels::ATTENTION_BACKWARD_Q_32,
            backward_kv: kernels::ATTENTION_BACKWARD_KV_32,
        };
        const OF_64: Kernels = Kernels {
            forward: kernels::ATTENTION_FORWARD_64,
            backward_q: kernels::ATTENTION_BACKWARD_Q_64,
            backward_kv: kernels::ATTENTION_BACKWARD_KV_64,
        };
        const OF_128: Kernels = Kernels {
            forward: kernels::ATTENTION_FORWARD_128,
            backward_q: kernels::ATTENTION_BACKWARD_Q_128,
            backward_kv: kernels::ATTENTION_BACKWARD_KV_128,
        };
        const UP_TO_128: Kernels = Kernels {
            forward: kernels::ATTENTION_FORWARD_ANY,
            backward_q: kernels::ATTENTION_BACKWARD_Q_ANY,
            backward_kv: kernels::ATTENTION_BACKWARD_KV_ANY,
        };
        match dim {
            64 => Ok(&OF_64),
            128 => Ok(&OF_128),
            ..=32 => Ok(&UP_TO_32),
            33..=127 => Ok(&UP_TO_128),
            _ => Err(Error::user(format!(
                "a head dimension of {dim} has no CUDA kernel: they go up to 128; use more heads or --device cpu"
            ))),
        }
    }
}

/// Refuses a head dimension without a kernel.
pub(super) fn check(dim: usize) -> Result<()> {
    Kernels::of(dim).map(|_| ())
}

/// The launch forward: a block for a tile of rows (queries times group) of a key/value head.
///
/// # Errors
/// The user's when there is no kernel for such heads.
pub fn plan_forward(heads: Heads, queries: usize) -> Result<Launch<AttentionParams>> {
    Ok(Kernels::of(heads.dim)?.forward.on(tiles(queries, heads)))
}

/// The launches backward: what rows have in common, then the queries' gradient, then that of `tokens` keys and values.
///
/// # Errors
/// As [`plan_forward`].
pub fn plan_backward(heads: Heads, queries: usize, tokens: usize) -> Result<[Launch<AttentionBackwardParams>; 3]> {
    let Kernels { backward_q, backward_kv, .. } = Kernels::of(heads.dim)?;
    let prepare = (queries * heads.query).div_ceil(ATTENTION_BACKWARD_PREPARE_ROWS as usize);
    let keys = tokens.div_ceil(ATTENTION_BACKWARD_KV_KEYS as usize);
    Ok([
        kernels::ATTENTION_BACKWARD_PREPARE.on([prepare, 1]),
        backward_q.on(tiles(queries, heads)),
        backward_kv.on([keys, heads.kv]),
    ])
}

/// Bytes that the backward pass leaves from one kernel to the next: what each query sees, and a sum for each row.
pub(super) fn scratch(queries: usize, heads: Heads) -> usize {
    queries * (size_of::<Visible>() + size_of::<f32>() * heads.query)
}

fn tiles(queries: usize, heads: Heads) -> [usize; 2] {
    [(queries * heads.group()).div_ceil(ATTENTION_ROWS as usize), heads.kv]
}

pub(super) fn forward(
    device: &Device,
    out: &Tensor,
    lse: &Tensor,
    [q, k, v]: [&Tensor; 3],
    args: &AttentionArgs,
) -> Result<()> {
    let (heads, queries) = (args.heads, args.query_tokens.len());
    let launch = plan_forward(heads, queries)?;
    let params = AttentionParams {
        q: at(q),
        k: at(k),
        v: at(v),
        out: at(out),
        lse: at(lse),
        spans: at(args.spans),
        query_tokens: at(args.query_tokens),
        n_spans: size(args.spans.rows())?,
        queries: size(queries)?,
        tokens: size(k.dims()[1])?,
        kv_heads: size(heads.kv)?,
        group: size(heads.group())?,
        dim: size(heads.dim)?,
        scale: args.scale as f32,
    };
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(&launch, &params) }
}

pub(super) fn backward(
    device: &Device,
    [dq, dk, dv]: [&Tensor; 3],
    dout: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    [q, k, v]: [&Tensor; 3],
    args: &AttentionArgs,
) -> Result<()> {
    let (heads, queries, tokens) = (args.heads, args.query_tokens.len(), k.dims()[1]);
    let [prepare, of_queries, of_keys] = plan_backward(heads, queries, tokens)?;
    let visible = device.scratch(scratch(queries, heads))?;
    let params = AttentionBackwardParams {
        q: at(q),
        k: at(k),
        v: at(v),
        out: at(out),
        dout: at(dout),
        lse: at(lse),
        spans: at(args.spans),
        query_tokens: at(args.query_tokens),
        dq: at(dq),
        dk: at(dk),
        dv: at(dv),
        delta: visible + (queries * size_of::<Visible>()) as u64,
        visible,
        n_spans: size(args.spans.rows())?,
        queries: size(queries)?,
        tokens: size(tokens)?,
        kv_heads: size(heads.kv)?,
        group: size(heads.group())?,
        dim: size(heads.dim)?,
        scale: args.scale as f32,
    };
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for its two parts.
    unsafe {
        device.launch(&prepare, &params)?;
        device.launch(&of_queries, &params)?;
        device.launch(&of_keys, &params)
    }
}

impl Run<AttentionForward<'_>> for Cuda {
    fn run(&self, op: &AttentionForward) -> Result<()> {
        forward(&self.device, op.out, op.lse, [op.q, op.k, op.v], &op.args)
    }
}

impl Run<AttentionBackward<'_>> for Cuda {
    fn run(&self, op: &AttentionBackward) -> Result<()> {
        backward(&self.device, op.dqkv, op.dout, op.out, op.lse, op.qkv, &op.args)
    }
}
