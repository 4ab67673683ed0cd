use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::{at, size};
use crate::backend::{AttentionArgs, Heads};
use crate::error::{Error, Result};
use crate::ops::{AttentionBackward, AttentionForward, Run};
use crate::tensor::Tensor;

/// The kernels for a head dimension, and their shared memory.
struct Kernels {
    forward: (&'static str, u32),
    backward_q: (&'static str, u32),
    backward_kv: (&'static str, u32),
}

impl Kernels {
    fn of(dim: usize) -> Result<&'static Self> {
        const UP_TO_32: Kernels = Kernels {
            forward: ("attention_forward_32", ATTENTION_FORWARD_32_SHARED),
            backward_q: ("attention_backward_q_32", ATTENTION_BACKWARD_Q_32_SHARED),
            backward_kv: ("attention_backward_kv_32", ATTENTION_BACKWARD_KV_32_SHARED),
        };
        const OF_64: Kernels = Kernels {
            forward: ("attention_forward_64", ATTENTION_FORWARD_64_SHARED),
            backward_q: ("attention_backward_q_64", ATTENTION_BACKWARD_Q_64_SHARED),
            backward_kv: ("attention_backward_kv_64", ATTENTION_BACKWARD_KV_64_SHARED),
        };
        const OF_128: Kernels = Kernels {
            forward: ("attention_forward_128", ATTENTION_FORWARD_128_SHARED),
            backward_q: ("attention_backward_q_128", ATTENTION_BACKWARD_Q_128_SHARED),
            backward_kv: ("attention_backward_kv_128", ATTENTION_BACKWARD_KV_128_SHARED),
        };
        const UP_TO_128: Kernels = Kernels {
            forward: ("attention_forward_any", ATTENTION_FORWARD_128_SHARED),
            backward_q: ("attention_backward_q_any", ATTENTION_BACKWARD_Q_128_SHARED),
            backward_kv: ("attention_backward_kv_any", ATTENTION_BACKWARD_KV_128_SHARED),
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
pub fn check(dim: usize) -> Result<()> {
    Kernels::of(dim).map(|_| ())
}

/// Bytes that the backward pass leaves from one kernel to the next: what each query sees, and a sum for each row.
pub fn scratch(queries: usize, heads: Heads) -> usize {
    queries * (size_of::<Visible>() + size_of::<f32>() * heads.query)
}

fn tiles(queries: usize, heads: Heads) -> [usize; 2] {
    [(queries * heads.group()).div_ceil(ATTENTION_ROWS as usize), heads.kv]
}

pub fn forward(
    device: &Device,
    out: &Tensor,
    lse: &Tensor,
    [q, k, v]: [&Tensor; 3],
    args: &AttentionArgs,
) -> Result<()> {
    let (heads, queries) = (args.heads, args.query_tokens.len());
    let (kernel, shared) = Kernels::of(heads.dim)?.forward;
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
    unsafe { device.launch(kernel, tiles(queries, heads), ATTENTION_FORWARD_THREADS, shared, &params) }
}

pub fn backward(
    device: &Device,
    [dq, dk, dv]: [&Tensor; 3],
    dout: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    [q, k, v]: [&Tensor; 3],
    args: &AttentionArgs,
) -> Result<()> {
    let (heads, queries, tokens) = (args.heads, args.query_tokens.len(), k.dims()[1]);
    let kernels = Kernels::of(heads.dim)?;
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
    let prepare = (queries * heads.query).div_ceil(ATTENTION_BACKWARD_PREPARE_ROWS as usize);
    let keys = [tokens.div_ceil(ATTENTION_BACKWARD_KV_KEYS as usize), heads.kv];
    let ((q_kernel, q_shared), (kv_kernel, kv_shared)) = (kernels.backward_q, kernels.backward_kv);
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for its two parts.
    unsafe {
        let threads = ATTENTION_BACKWARD_PREPARE_THREADS;
        device.launch("attention_backward_prepare", [prepare, 1], threads, 0, &params)?;
        device.launch(q_kernel, tiles(queries, heads), ATTENTION_BACKWARD_Q_THREADS, q_shared, &params)?;
        device.launch(kv_kernel, keys, ATTENTION_BACKWARD_KV_THREADS, kv_shared, &params)
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
