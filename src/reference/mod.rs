//! Every operation as its formula: scalar, in f64, one file an operation. This is the definition that the other
//! backends are measured against, so it is written to be read beside the papers and never to be fast.
//!
//! This file checks operands and hands them over as slices; a matrix is the list of its rows, `x[t][j]`.

mod adamw;
mod attention;
mod bias;
mod embedding;
mod gather;
mod gemm;
mod global_norm;
mod linear_cross_entropy;
mod reward_head;
mod rmsnorm;
mod rope;
mod swiglu;

use std::rc::Rc;

use crate::backend::checks::Checks;
use crate::backend::{AdamW, AttentionArgs, Backend, Extent, Gemm, Heads, PairLoss, Qkv, RewardHeadGrads, Span};
use crate::error::{Error, Result};
use crate::tensor::host;
use crate::tensor::{Dtype, Element, HostMemory, Storage, Tensor};

/// The reference backend: f64 everywhere, in host memory, one scalar at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

fn checks(operation: &'static str) -> Checks {
    Checks::new(operation, Dtype::F64, Dtype::F64)
}

/// The elements of a dense tensor, to be read.
fn values<T: Element>(t: &Tensor) -> &[T] {
    // SAFETY: this backend's tensors lie in host memory; the checks of each operation refuse a written operand that
    // overlaps another one, and hold before the first element is seen.
    unsafe { host::slice(t) }
}

/// The elements of a dense tensor, to be written.
#[expect(clippy::mut_from_ref, reason = "a tensor is a place in memory; see `host::slice_mut`")]
fn values_mut<T: Element>(t: &Tensor) -> &mut [T] {
    // SAFETY: as in `values`.
    unsafe { host::slice_mut(t) }
}

/// The rows of a matrix, to be read. They may have gaps between them.
fn rows(t: &Tensor) -> Vec<&[f64]> {
    (0..t.rows()).map(|i| row(t, i)).collect()
}

fn row(t: &Tensor, i: usize) -> &[f64] {
    let view = t.slice_rows(i..i + 1);
    // SAFETY: as in `values`. One row is dense, and the memory outlives the view because `t` keeps it.
    unsafe { std::slice::from_raw_parts(view.address().cast(), view.cols()) }
}

/// The rows of a matrix, to be written.
#[expect(clippy::mut_from_ref, reason = "as in `values_mut`")]
fn rows_mut(t: &Tensor) -> Vec<&mut [f64]> {
    let one = |i| {
        let view = t.slice_rows(i..i + 1);
        // SAFETY: as in `row`; rows of one matrix do not touch.
        unsafe { std::slice::from_raw_parts_mut(view.address().cast(), view.cols()) }
    };
    (0..t.rows()).map(one).collect()
}

/// The heads of a `[.., D]` tensor as vectors.
fn vectors(t: &Tensor, dim: usize) -> Vec<&[f64]> {
    values(t).chunks_exact(dim).collect()
}

/// The heads of a `[.., D]` tensor as vectors to be written.
fn vectors_mut(t: &Tensor, dim: usize) -> Vec<&mut [f64]> {
    values_mut(t).chunks_exact_mut(dim).collect()
}

fn spans(args: &AttentionArgs) -> Vec<Span> {
    bytemuck::cast_slice(values::<u32>(args.spans)).to_vec()
}

fn transfer(t: &Tensor, bytes: usize) -> Result<()> {
    if t.is_dense() && t.len() * t.dtype().size() == bytes {
        return Ok(());
    }
    Err(Error::machine(format!("{bytes} bytes to or from {t:?} do not fit (this is a mistake in the program)")))
}

impl Backend for Reference {
    fn name(&self) -> String {
        "reference".into()
    }

    fn float(&self) -> Dtype {
        Dtype::F64
    }

    fn accumulator(&self) -> Dtype {
        Dtype::F64
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        Ok(Rc::new(HostMemory::zeroed(bytes)?.into_storage()))
    }

    fn reserve(&self, _extent: &Extent) -> Result<()> {
        // The definition takes memory wherever it is shorter for it.
        Ok(())
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        transfer(to, bytes.len())?;
        // SAFETY: the tensor is dense, in host memory and of this length, and a borrowed slice is not part of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address(), bytes.len()) }
        Ok(())
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        transfer(from, bytes.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from.address(), bytes.as_mut_ptr(), bytes.len()) }
        Ok(())
    }

    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        checks("copy").copy(to, from)?;
        // SAFETY: both are dense, in host memory, of one size, and apart.
        unsafe { std::ptr::copy_nonoverlapping(from.address(), to.address(), from.len() * from.dtype().size()) }
        Ok(())
    }

    fn fill(&self, x: &Tensor, value: f64) -> Result<()> {
        checks("fill").fill(x)?;
        values_mut::<f64>(x).fill(value);
        Ok(())
    }

    fn gemm(&self, layout: Gemm, out: &Tensor, a: &Tensor, b: &Tensor, addend: Option<&Tensor>) -> Result<()> {
        let (_, _, k) = checks("gemm").gemm(layout, out, a, b, addend)?;
        // A copy, because the addend may be the result's own place.
        let addend: Option<Vec<Vec<f64>>> = addend.map(|t| rows(t).into_iter().map(<[f64]>::to_vec).collect());
        gemm::gemm(layout, &mut rows_mut(out), &rows(a), &rows(b), k, addend.as_deref());
        Ok(())
    }

    fn bias_forward(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        checks("bias_forward").bias(y, bias, false)?;
        bias::forward(&mut rows_mut(y), &rows(bias));
        Ok(())
    }

    fn bias_backward(&self, dbias: &Tensor, dy: &Tensor) -> Result<()> {
        checks("bias_backward").bias(dy, dbias, true)?;
        bias::backward(&mut rows_mut(dbias), &rows(dy));
        Ok(())
    }

    fn embedding_forward(&self, y: &Tensor, ids: &Tensor, table: &Tensor) -> Result<()> {
        let checks = checks("embedding_forward");
        checks.embedding(y, ids, table, false)?;
        checks.below("ids", values(ids), table.rows())?;
        embedding::forward(&mut rows_mut(y), values(ids), &rows(table));
        Ok(())
    }

    fn embedding_backward(&self, dtable: &Tensor, ids: &Tensor, dy: &Tensor) -> Result<()> {
        let checks = checks("embedding_backward");
        checks.embedding(dy, ids, dtable, true)?;
        checks.below("ids", values(ids), dtable.rows())?;
        embedding::backward(&mut rows_mut(dtable), values(ids), &rows(dy));
        Ok(())
    }

    fn rmsnorm_forward(&self, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<()> {
        checks("rmsnorm_forward").rmsnorm_forward(y, rstd, x, weight)?;
        rmsnorm::forward(&mut rows_mut(y), values_mut(rstd), &rows(x), values(weight), eps);
        Ok(())
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
        checks("rmsnorm_backward").rmsnorm_backward(dx, dweight, dy, x, rstd, weight)?;
        let (x, dy) = (&rows(x), &rows(dy));
        rmsnorm::backward(&mut rows_mut(dx), values_mut(dweight), dy, x, values(rstd), values(weight));
        Ok(())
    }

    fn rope_forward(&self, dst: Qkv, src: &Tensor, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        checks("rope_forward").rope(src, dst, positions, heads, false)?;
        let q = dst.q.map(|q| vectors_mut(q, heads.dim));
        let kv = dst.kv.map(|(k, v)| (vectors_mut(k, heads.dim), vectors_mut(v, heads.dim)));
        rope::forward(rope::Parts { q, kv }, &rows(src), values(positions), heads, theta);
        Ok(())
    }

    fn rope_backward(&self, dsrc: &Tensor, grads: Qkv, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        checks("rope_backward").rope(dsrc, grads, positions, heads, true)?;
        let q = grads.q.map(|q| vectors(q, heads.dim));
        let kv = grads.kv.map(|(k, v)| (vectors(k, heads.dim), vectors(v, heads.dim)));
        rope::backward(&mut rows_mut(dsrc), rope::Parts { q, kv }, values(positions), heads, theta);
        Ok(())
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
        let checks = checks("attention_forward");
        checks.attention_forward(out, lse, [q, k, v], &args)?;
        checks.spans(values(args.spans), values(args.query_tokens), k.dims()[1])?;
        let d = args.heads.dim;
        let qkv = attention::Qkv { q: &vectors(q, d), k: &vectors(k, d), v: &vectors(v, d) };
        let queries = attention::queries(&spans(&args), values(args.query_tokens), args.heads, k.dims()[1]);
        attention::forward(&mut vectors_mut(out, d), values_mut(lse), qkv, &queries, args.scale);
        Ok(())
    }

    fn attention_backward(
        &self,
        dqkv: [&Tensor; 3],
        dout: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        qkv: [&Tensor; 3],
        args: AttentionArgs,
    ) -> Result<()> {
        let checks = checks("attention_backward");
        checks.attention_backward(dqkv, dout, out, lse, qkv, &args)?;
        let tokens = qkv[1].dims()[1];
        checks.spans(values(args.spans), values(args.query_tokens), tokens)?;
        let d = args.heads.dim;
        let [q, k, v] = qkv.map(|t| vectors(t, d));
        let [mut dq, mut dk, mut dv] = dqkv.map(|t| vectors_mut(t, d));
        let queries = attention::queries(&spans(&args), values(args.query_tokens), args.heads, tokens);
        attention::backward(
            attention::QkvMut { q: &mut dq, k: &mut dk, v: &mut dv },
            &vectors(dout, d),
            &vectors(out, d),
            values(lse),
            attention::Qkv { q: &q, k: &k, v: &v },
            &queries,
            args.scale,
        );
        Ok(())
    }

    fn swiglu_forward(&self, y: &Tensor, gate_up: &Tensor) -> Result<()> {
        checks("swiglu_forward").swiglu_forward(y, gate_up)?;
        swiglu::forward(&mut rows_mut(y), &rows(gate_up));
        Ok(())
    }

    fn swiglu_backward(&self, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()> {
        checks("swiglu_backward").swiglu_backward(dgate_up, dy, gate_up)?;
        // A copy, because the gradient may take the place of what it is the gradient of.
        let gate_up: Vec<Vec<f64>> = rows(gate_up).into_iter().map(<[f64]>::to_vec).collect();
        swiglu::backward(&mut rows_mut(dgate_up), &rows(dy), &gate_up);
        Ok(())
    }

    fn gather_forward(&self, y: &Tensor, x: &Tensor, selected: &Tensor) -> Result<()> {
        let checks = checks("gather_forward");
        checks.gather(y, x, selected, false)?;
        checks.below("rows", values(selected), x.rows())?;
        gather::forward(&mut rows_mut(y), &rows(x), values(selected));
        Ok(())
    }

    fn gather_backward(&self, dx: &Tensor, dy: &Tensor, selected: &Tensor) -> Result<()> {
        let checks = checks("gather_backward");
        checks.gather(dy, dx, selected, true)?;
        checks.below("rows", values(selected), dx.rows())?;
        gather::backward(&mut rows_mut(dx), &rows(dy), values(selected));
        Ok(())
    }

    fn reward_head_forward(&self, scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor, eps: f64) -> Result<()> {
        checks("reward_head_forward").reward_head_forward(scores, x, norm, head)?;
        reward_head::forward(values_mut(scores), &rows(x), values(norm), values(head), eps);
        Ok(())
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
        let checks = checks("reward_head_loss");
        checks.reward_head_loss(scores, loss, &grads, x, norm, head, pairs)?;
        checks.below("pairs", values(pairs), x.rows())?;
        let (x, norm, head) = (rows(x), values(norm), values(head));
        reward_head::forward(values_mut(scores), &x, norm, head, eps);
        let pairs: Vec<[u32; 2]> = bytemuck::cast_slice(values::<u32>(pairs)).to_vec();
        let (pair_sum, dscores) = reward_head::pair_loss(values(scores), &pairs, pair_loss);
        values_mut::<f64>(loss)[0] += pair_sum;
        let (dx, dnorm, dhead) = (&mut rows_mut(grads.dx), values_mut(grads.dnorm), values_mut(grads.dhead));
        reward_head::backward(dx, dnorm, dhead, &dscores, &x, norm, head, eps);
        Ok(())
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
        let checks = checks("linear_cross_entropy");
        checks.linear_cross_entropy(loss, grads, x, table, targets, weights, scratch)?;
        checks.below("targets", values(targets), table.rows())?;
        let logits = &mut rows_mut(scratch)[0];
        let (x, table, targets, weights) = (&rows(x), &rows(table), values(targets), values(weights));
        if let Some((dx, dtable)) = grads {
            let (dx, dtable) = (&mut rows_mut(dx), &mut rows_mut(dtable));
            linear_cross_entropy::backward(dx, dtable, x, table, targets, weights, logits);
        }
        values_mut::<f64>(loss)[0] += linear_cross_entropy::forward(x, table, targets, weights, logits);
        Ok(())
    }

    fn global_norm(&self, norm: &Tensor, x: &Tensor) -> Result<()> {
        checks("global_norm").global_norm(norm, x)?;
        values_mut(norm)[0] = global_norm::global_norm(values(x));
        Ok(())
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
        checks("adamw").adamw(params, master, m, v, grads, norm, update)?;
        let norm = values::<f64>(norm)[0];
        adamw::adamw(values_mut(master), values_mut(m), values_mut(v), values(grads), norm, update);
        if !params.same_place(master) {
            values_mut(params).copy_from_slice(values::<f64>(master));
        }
        Ok(())
    }
}
