//! The f64 reference in a card's clothes: every tensor is stored as a card stores it, bf16 or f32, and every operation
//! is exact between them. How far its results are from the exact ones is what the dtypes explain.

use std::rc::Rc;

use half::bf16;
use polar_raw::backend::{
    AdamW, AttentionArgs, Backend, BackendExt, Extent, Gemm, Heads, PairLoss, Qkv, RewardHeadGrads,
};
use polar_raw::reference::Reference;
use polar_raw::tensor::{Dtype, HostMemory, Storage, Tensor};
use polar_raw::{Error, Result};

pub struct Rounded;

/// The element at `i` of row `row`.
fn place(t: &Tensor, row: usize, i: usize) -> *mut u8 {
    t.address().wrapping_add((row * t.row_stride() + i) * t.dtype().size())
}

/// A tensor of the reference with the same shape and values.
fn lift(t: &Tensor) -> Tensor {
    let dtype = if t.dtype() == Dtype::U32 { Dtype::U32 } else { Dtype::F64 };
    let lifted = Reference.tensor(dtype, t.dims()).unwrap();
    let all = (0..t.rows()).flat_map(|row| (0..t.cols()).map(move |i| place(t, row, i)));
    // SAFETY: the tensors of this backend lie in host memory, and the places are theirs.
    unsafe {
        match t.dtype() {
            Dtype::U32 => {
                let values: Vec<u32> = all.map(|p| p.cast::<u32>().read()).collect();
                Reference.write_u32(&lifted, &values).unwrap();
            }
            Dtype::F32 => {
                let values: Vec<f64> = all.map(|p| p.cast::<f32>().read().into()).collect();
                Reference.write_f64(&lifted, &values).unwrap();
            }
            _ => {
                let values: Vec<f64> = all.map(|p| p.cast::<bf16>().read().into()).collect();
                Reference.write_f64(&lifted, &values).unwrap();
            }
        }
    }
    lifted
}

/// Stores what the reference computed.
fn lower(t: &Tensor, lifted: &Tensor) {
    let values = Reference.read_f64(lifted).unwrap();
    for (at, value) in values.into_iter().enumerate() {
        let place = place(t, at / t.cols(), at % t.cols());
        // SAFETY: as in `lift`.
        unsafe {
            match t.dtype() {
                Dtype::F32 => place.cast::<f32>().write(value as f32),
                _ => place.cast::<bf16>().write(bf16::from_f32(value as f32)),
            }
        }
    }
}

/// Runs an operation of the reference on `written` and `read`, and stores what it wrote.
fn run<const W: usize, const R: usize>(
    written: [&Tensor; W],
    read: [&Tensor; R],
    operation: impl FnOnce([&Tensor; W], [&Tensor; R]) -> Result<()>,
) -> Result<()> {
    let (w, r) = (written.map(lift), read.map(lift));
    operation(w.each_ref(), r.each_ref())?;
    written.iter().zip(&w).for_each(|(t, lifted)| lower(t, lifted));
    Ok(())
}

fn lift_args<'a>(args: &AttentionArgs, spans: &'a Tensor, query_tokens: &'a Tensor) -> AttentionArgs<'a> {
    AttentionArgs { heads: args.heads, spans, query_tokens, scale: args.scale }
}

impl Backend for Rounded {
    fn name(&self) -> String {
        "the reference, rounded".into()
    }

    fn float(&self) -> Dtype {
        Dtype::Bf16
    }

    fn accumulator(&self) -> Dtype {
        Dtype::F32
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        Ok(Rc::new(HostMemory::zeroed(bytes)?.into_storage()))
    }

    fn reserve(&self, _: &Extent) -> Result<()> {
        Ok(())
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        assert!(to.is_dense() && bytes.len() == to.len() * to.dtype().size());
        // SAFETY: host memory of that length.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address(), bytes.len()) };
        Ok(())
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        assert!(from.is_dense() && bytes.len() == from.len() * from.dtype().size());
        // SAFETY: host memory of that length.
        unsafe { std::ptr::copy_nonoverlapping(from.address(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        run([to], [from], |[to], [from]| Reference.copy(to, from))
    }

    fn fill(&self, x: &Tensor, value: f64) -> Result<()> {
        run([x], [], |[x], []| Reference.fill(x, value))
    }

    fn gemm(&self, layout: Gemm, out: &Tensor, a: &Tensor, b: &Tensor, addend: Option<&Tensor>) -> Result<()> {
        match addend {
            None => run([out], [a, b], |[out], [a, b]| Reference.gemm(layout, out, a, b, None)),
            Some(addend) => {
                run([out], [a, b, addend], |[out], [a, b, addend]| Reference.gemm(layout, out, a, b, Some(addend)))
            }
        }
    }

    fn bias_forward(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        run([y], [bias], |[y], [bias]| Reference.bias_forward(y, bias))
    }

    fn bias_backward(&self, dbias: &Tensor, dy: &Tensor) -> Result<()> {
        run([dbias], [dy], |[dbias], [dy]| Reference.bias_backward(dbias, dy))
    }

    fn embedding_forward(&self, y: &Tensor, ids: &Tensor, table: &Tensor) -> Result<()> {
        run([y], [ids, table], |[y], [ids, table]| Reference.embedding_forward(y, ids, table))
    }

    fn embedding_backward(&self, dtable: &Tensor, ids: &Tensor, dy: &Tensor) -> Result<()> {
        run([dtable], [ids, dy], |[dtable], [ids, dy]| Reference.embedding_backward(dtable, ids, dy))
    }

    fn rmsnorm_forward(&self, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<()> {
        run([y, rstd], [x, weight], |[y, rstd], [x, weight]| Reference.rmsnorm_forward(y, rstd, x, weight, eps))
    }

    fn rmsnorm_backward(
        &self,
        dx: &Tensor,
        dweight: &Tensor,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
        weight: &Tensor,
    ) -> Result<()> {
        run([dx, dweight], [dy, x, rstd, weight], |[dx, dweight], [dy, x, rstd, weight]| {
            Reference.rmsnorm_backward(dx, dweight, dy, x, rstd, weight)
        })
    }

    fn rope_forward(&self, dst: Qkv, src: &Tensor, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        let (q, k, v) = (dst.q.map(lift), dst.kv.map(|kv| lift(kv.0)), dst.kv.map(|kv| lift(kv.1)));
        let lifted = Qkv { q: q.as_ref(), kv: k.as_ref().zip(v.as_ref()) };
        Reference.rope_forward(lifted, &lift(src), &lift(positions), heads, theta)?;
        dst.q.iter().zip(&q).for_each(|(t, lifted)| lower(t, lifted));
        dst.kv.iter().zip(k.iter().zip(&v)).for_each(|(kv, (k, v))| {
            lower(kv.0, k);
            lower(kv.1, v);
        });
        Ok(())
    }

    fn rope_backward(&self, dsrc: &Tensor, grads: Qkv, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        let (q, k, v) = (grads.q.map(lift), grads.kv.map(|kv| lift(kv.0)), grads.kv.map(|kv| lift(kv.1)));
        let lifted = Qkv { q: q.as_ref(), kv: k.as_ref().zip(v.as_ref()) };
        run([dsrc], [positions], |[dsrc], [positions]| Reference.rope_backward(dsrc, lifted, positions, heads, theta))
    }

    fn attention_forward(
        &self,
        out: &Tensor,
        lse: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        args: AttentionArgs,
    ) -> Result<()> {
        run([out, lse], [q, k, v, args.spans, args.query_tokens], |[out, lse], [q, k, v, spans, tokens]| {
            Reference.attention_forward(out, lse, q, k, v, lift_args(&args, spans, tokens))
        })
    }

    fn attention_backward(
        &self,
        dqkv: [&Tensor; 3],
        dout: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        [q, k, v]: [&Tensor; 3],
        args: AttentionArgs,
    ) -> Result<()> {
        let read = [dout, out, lse, q, k, v, args.spans, args.query_tokens];
        run(dqkv, read, |dqkv, [dout, out, lse, q, k, v, spans, tokens]| {
            Reference.attention_backward(dqkv, dout, out, lse, [q, k, v], lift_args(&args, spans, tokens))
        })
    }

    fn swiglu_forward(&self, y: &Tensor, gate_up: &Tensor) -> Result<()> {
        run([y], [gate_up], |[y], [gate_up]| Reference.swiglu_forward(y, gate_up))
    }

    fn swiglu_backward(&self, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()> {
        run([dgate_up], [dy, gate_up], |[d], [dy, gate_up]| Reference.swiglu_backward(d, dy, gate_up))
    }

    fn gather_forward(&self, y: &Tensor, x: &Tensor, rows: &Tensor) -> Result<()> {
        run([y], [x, rows], |[y], [x, rows]| Reference.gather_forward(y, x, rows))
    }

    fn gather_backward(&self, dx: &Tensor, dy: &Tensor, rows: &Tensor) -> Result<()> {
        run([dx], [dy, rows], |[dx], [dy, rows]| Reference.gather_backward(dx, dy, rows))
    }

    fn reward_head_forward(&self, scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor, eps: f64) -> Result<()> {
        run([scores], [x, norm, head], |[scores], [x, norm, head]| {
            Reference.reward_head_forward(scores, x, norm, head, eps)
        })
    }

    fn reward_head_loss(
        &self,
        scores: &Tensor,
        loss: &Tensor,
        grads: RewardHeadGrads,
        x: &Tensor,
        norm: &Tensor,
        head: &Tensor,
        pairs: &Tensor,
        pair_loss: &PairLoss,
        eps: f64,
    ) -> Result<()> {
        let written = [scores, loss, grads.dx, grads.dnorm, grads.dhead];
        run(written, [x, norm, head, pairs], |[scores, loss, dx, dnorm, dhead], [x, norm, head, pairs]| {
            let grads = RewardHeadGrads { dx, dnorm, dhead };
            Reference.reward_head_loss(scores, loss, grads, x, norm, head, pairs, pair_loss, eps)
        })
    }

    fn linear_cross_entropy(
        &self,
        loss: &Tensor,
        grads: Option<(&Tensor, &Tensor)>,
        x: &Tensor,
        table: &Tensor,
        targets: &Tensor,
        weights: &Tensor,
        scratch: &Tensor,
    ) -> Result<()> {
        let read = [x, table, targets, weights];
        let Some((dx, dtable)) = grads else {
            return Err(Error::machine("no test asks for the loss alone"));
        };
        run([loss, dx, dtable, scratch], read, |[loss, dx, dtable, scratch], [x, table, targets, weights]| {
            Reference.linear_cross_entropy(loss, Some((dx, dtable)), x, table, targets, weights, scratch)
        })
    }

    fn global_norm(&self, norm: &Tensor, x: &Tensor) -> Result<()> {
        run([norm], [x], |[norm], [x]| Reference.global_norm(norm, x))
    }

    fn adamw(
        &self,
        params: &Tensor,
        master: &Tensor,
        m: &Tensor,
        v: &Tensor,
        grads: &Tensor,
        norm: &Tensor,
        update: &AdamW,
    ) -> Result<()> {
        run([params, master, m, v], [grads, norm], |[params, master, m, v], [grads, norm]| {
            Reference.adamw(params, master, m, v, grads, norm, update)
        })
    }
}
