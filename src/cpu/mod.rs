//! The fast CPU backend: f32, matrix products by the `gemm` crate, everything else vectorised by run-time dispatch and
//! spread over rayon's threads.
//!
//! Sums never depend on timing: whatever is reduced across tasks is cut into pieces of fixed size, and the pieces are
//! added in order.

mod adamw;
mod attention;
mod bias;
mod embedding;
mod gather;
mod gemm;
mod global_norm;
mod linear_cross_entropy;
pub(crate) mod math;
mod parallel;
mod reward_head;
mod rmsnorm;
mod rope;
mod swiglu;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::backend::checks::Checks;
use crate::backend::{AdamW, AttentionArgs, Backend, Extent, Footprint, Gemm, Heads, PairLoss, Qkv, RewardHeadGrads};
use crate::error::{Error, Result};
use crate::tensor::host::{slice, slice_mut};
use crate::tensor::{Dtype, HostMemory, Storage, Tensor};

/// Tells the C library to keep freed memory for the next allocation instead of giving it back to the system.
///
/// The `gemm` crate takes and frees its packing buffers in every product. Given back each time, they come as fresh
/// pages that the kernel has to clear: a tenth of a training step of a 4M-parameter model. It is the program's to
/// decide, not a library's, so the binary and the benches call it. Elsewhere than on glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two parameters of the allocator, which may be done at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}

/// The CPU backend.
#[derive(Default)]
pub struct Cpu {
    /// Partial sums of reductions, grown on first use.
    partials: RefCell<Vec<f32>>,
    rope_table: RefCell<rope::Table>,
    allocations: Cell<usize>,
}

impl Cpu {
    /// The CPU that this runs on, with the features that it has.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many times memory was taken from the system for tensors or partial sums. A training step takes none after
    /// the first.
    pub fn allocations(&self) -> usize {
        self.allocations.get()
    }

    fn checks(&self, operation: &'static str) -> Checks {
        Checks::new(operation, Dtype::F32, Dtype::F32)
    }

    /// Lends a table that holds positions up to `last`.
    fn with_rope_table(&self, last: u32, dim: usize, theta: f64, f: impl FnOnce(&rope::Table)) {
        let mut table = self.rope_table.borrow_mut();
        if table.prepare(last, dim, theta) {
            self.allocations.set(self.allocations.get() + 1);
        }
        f(&table);
    }

    /// Lends `n` floats, of any content, for partial sums.
    fn with_partials<R>(&self, n: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut partials = self.partials.borrow_mut();
        if partials.len() < n {
            partials.resize(n, 0.0);
            self.allocations.set(self.allocations.get() + 1);
        }
        f(&mut partials[..n])
    }
}

/// A matrix of host memory from its first element to its last, with what lies between its rows if it is a band.
///
/// # Safety
/// As [`slice_mut`], for what lies between the rows as well; and it is not empty.
#[expect(clippy::mut_from_ref, reason = "as in `slice_mut`")]
unsafe fn spread_mut(t: &Tensor) -> &mut [f32] {
    assert!(t.dtype() == Dtype::F32, "a slice of {t:?}");
    let len = (t.rows() - 1) * t.row_stride() + t.cols();
    // SAFETY: in bounds, because the last row is; the rest by the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(t.address().cast(), len) }
}

/// The last of the positions.
fn last(positions: &[u32]) -> u32 {
    positions.iter().copied().max().unwrap_or(0)
}

// SAFETY, for every `slice` and `slice_mut` below: the tensors were allocated by `allocate` and lie in host memory,
// and `Checks` has refused written operands that overlap others.
impl Backend for Cpu {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn float(&self) -> Dtype {
        Dtype::F32
    }

    fn accumulator(&self) -> Dtype {
        Dtype::F32
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        self.allocations.set(self.allocations.get() + 1);
        Ok(Rc::new(HostMemory::zeroed(bytes)?.into_storage()))
    }

    fn reserve(&self, extent: &Extent) -> Result<()> {
        self.with_partials(rmsnorm::partials(extent.tokens, extent.hidden), |_| {});
        self.with_rope_table(extent.tokens as u32, extent.heads.dim, extent.theta, |_| {});
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        Footprint {
            float: self.float(),
            accumulator: self.accumulator(),
            logit_rows: self.logit_rows(),
            scratch: |extent| size_of::<f32>() * rmsnorm::partials(extent.tokens, extent.hidden),
            staging: 0,
        }
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        let size = to.len() * to.dtype().size();
        if bytes.len() != size || !to.is_dense() {
            return Err(Error::machine(format!("write: {} bytes into {to:?}", bytes.len())));
        }
        // SAFETY: `size` bytes of host memory from its address on belong to the tensor.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address(), size) };
        Ok(())
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        let size = from.len() * from.dtype().size();
        if bytes.len() != size || !from.is_dense() {
            return Err(Error::machine(format!("read: {} bytes from {from:?}", bytes.len())));
        }
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from.address(), bytes.as_mut_ptr(), size) };
        Ok(())
    }

    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        self.checks("copy").copy(to, from)?;
        let size = from.len() * from.dtype().size();
        // SAFETY: both are dense host tensors of `size` bytes that do not overlap.
        let (to, from) = unsafe {
            (std::slice::from_raw_parts_mut(to.address(), size), std::slice::from_raw_parts(from.address(), size))
        };
        parallel::chunks_mut(to, 1 << 18, |i, to| to.copy_from_slice(&from[i << 18..][..to.len()]));
        Ok(())
    }

    fn fill(&self, x: &Tensor, value: f64) -> Result<()> {
        self.checks("fill").fill(x)?;
        let x = unsafe { slice_mut::<f32>(x) };
        parallel::chunks_mut(x, 1 << 16, |_, chunk| chunk.fill(value as f32));
        Ok(())
    }

    fn gemm(&self, layout: Gemm, out: &Tensor, a: &Tensor, b: &Tensor, addend: Option<&Tensor>) -> Result<()> {
        let shape = self.checks("gemm").gemm(layout, out, a, b, addend)?;
        gemm::product(layout, shape, out, a, b, addend);
        Ok(())
    }

    fn bias_forward(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        self.checks("bias_forward").bias(y, bias, false)?;
        if !y.is_empty() {
            let parts = bias::Parts { columns: bias.cols(), stride: bias.row_stride() };
            bias::forward(unsafe { slice_mut(y) }, y.cols(), unsafe { spread_mut(bias) }, parts);
        }
        Ok(())
    }

    fn bias_backward(&self, dbias: &Tensor, dy: &Tensor) -> Result<()> {
        self.checks("bias_backward").bias(dy, dbias, true)?;
        if !dy.is_empty() {
            let parts = bias::Parts { columns: dbias.cols(), stride: dbias.row_stride() };
            bias::backward(unsafe { spread_mut(dbias) }, unsafe { slice(dy) }, dy.cols(), parts);
        }
        Ok(())
    }

    fn embedding_forward(&self, y: &Tensor, ids: &Tensor, table: &Tensor) -> Result<()> {
        let checks = self.checks("embedding_forward");
        checks.embedding(y, ids, table, false)?;
        let ids = unsafe { slice::<u32>(ids) };
        checks.below("ids", ids, table.rows())?;
        embedding::forward(unsafe { slice_mut(y) }, ids, unsafe { slice(table) }, table.cols());
        Ok(())
    }

    fn embedding_backward(&self, dtable: &Tensor, ids: &Tensor, dy: &Tensor) -> Result<()> {
        let checks = self.checks("embedding_backward");
        checks.embedding(dy, ids, dtable, true)?;
        let ids = unsafe { slice::<u32>(ids) };
        checks.below("ids", ids, dtable.rows())?;
        embedding::backward(unsafe { slice_mut(dtable) }, ids, unsafe { slice(dy) }, dtable.cols());
        Ok(())
    }

    fn rmsnorm_forward(&self, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<()> {
        self.checks("rmsnorm_forward").rmsnorm_forward(y, rstd, x, weight)?;
        let (y, rstd) = unsafe { (slice_mut(y), slice_mut(rstd)) };
        rmsnorm::forward(y, rstd, unsafe { slice(x) }, unsafe { slice(weight) }, eps as f32);
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
        self.checks("rmsnorm_backward").rmsnorm_backward(dx, dweight, dy, x, rstd, weight)?;
        self.with_partials(rmsnorm::partials(x.rows(), x.cols()), |partials| {
            let (dx, dweight) = unsafe { (slice_mut(dx), slice_mut(dweight)) };
            let (dy, x, rstd, weight) = unsafe { (slice(dy), slice(x), slice(rstd), slice(weight)) };
            rmsnorm::backward(dx, dweight, dy, x, rstd, weight, partials);
        });
        Ok(())
    }

    fn rope_forward(&self, dst: Qkv, src: &Tensor, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        self.checks("rope_forward").rope(src, dst, positions, heads, false)?;
        let positions = unsafe { slice::<u32>(positions) };
        self.with_rope_table(last(positions), heads.dim, theta, |table| {
            rope::forward(dst, unsafe { slice(src) }, positions, heads, table);
        });
        Ok(())
    }

    fn rope_backward(&self, dsrc: &Tensor, grads: Qkv, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        self.checks("rope_backward").rope(dsrc, grads, positions, heads, true)?;
        let positions = unsafe { slice::<u32>(positions) };
        self.with_rope_table(last(positions), heads.dim, theta, |table| {
            rope::backward(unsafe { slice_mut(dsrc) }, grads, positions, heads, table);
        });
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
        let checks = self.checks("attention_forward");
        checks.attention_forward(out, lse, [q, k, v], &args)?;
        let (spans, query_tokens) = unsafe { (slice(args.spans), slice(args.query_tokens)) };
        checks.spans(spans, query_tokens, k.dims()[1])?;
        let layout = attention::Layout::new(&args, spans, query_tokens, k.dims()[1]);
        let (out, lse) = unsafe { (slice_mut(out), slice_mut(lse)) };
        attention::forward(out, lse, unsafe { [slice(q), slice(k), slice(v)] }, &layout);
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
        let checks = self.checks("attention_backward");
        checks.attention_backward(dqkv, dout, out, lse, qkv, &args)?;
        let (spans, query_tokens) = unsafe { (slice(args.spans), slice(args.query_tokens)) };
        checks.spans(spans, query_tokens, qkv[1].dims()[1])?;
        let layout = attention::Layout::new(&args, spans, query_tokens, qkv[1].dims()[1]);
        let dqkv = dqkv.map(|t| unsafe { slice_mut::<f32>(t) });
        let (dout, out, lse) = unsafe { (slice(dout), slice(out), slice(lse)) };
        attention::backward(dqkv, dout, out, lse, qkv.map(|t| unsafe { slice(t) }), &layout);
        Ok(())
    }

    fn swiglu_forward(&self, y: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.checks("swiglu_forward").swiglu_forward(y, gate_up)?;
        swiglu::forward(unsafe { slice_mut(y) }, unsafe { slice(gate_up) }, y.cols());
        Ok(())
    }

    fn swiglu_backward(&self, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.checks("swiglu_backward").swiglu_backward(dgate_up, dy, gate_up)?;
        if !dgate_up.same_place(gate_up) {
            let from = unsafe { slice::<f32>(gate_up) };
            unsafe { slice_mut::<f32>(dgate_up) }.copy_from_slice(from);
        }
        swiglu::backward(unsafe { slice_mut(dgate_up) }, unsafe { slice(dy) }, dy.cols());
        Ok(())
    }

    fn gather_forward(&self, y: &Tensor, x: &Tensor, rows: &Tensor) -> Result<()> {
        let checks = self.checks("gather_forward");
        checks.gather(y, x, rows, false)?;
        let index = unsafe { slice::<u32>(rows) };
        checks.below("rows", index, x.rows())?;
        gather::forward(unsafe { slice_mut(y) }, unsafe { slice(x) }, index, x.cols());
        Ok(())
    }

    fn gather_backward(&self, dx: &Tensor, dy: &Tensor, rows: &Tensor) -> Result<()> {
        let checks = self.checks("gather_backward");
        checks.gather(dy, dx, rows, true)?;
        let index = unsafe { slice::<u32>(rows) };
        checks.below("rows", index, dx.rows())?;
        gather::backward(unsafe { slice_mut(dx) }, unsafe { slice(dy) }, index, dx.cols());
        Ok(())
    }

    fn reward_head_forward(&self, scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor, eps: f64) -> Result<()> {
        self.checks("reward_head_forward").reward_head_forward(scores, x, norm, head)?;
        let scores = unsafe { slice_mut(scores) };
        reward_head::forward(scores, unsafe { slice(x) }, unsafe { slice(norm) }, unsafe { slice(head) }, eps as f32);
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
        let checks = self.checks("reward_head_loss");
        checks.reward_head_loss(scores, loss, &grads, x, norm, head, pairs)?;
        let pairs = unsafe { slice::<u32>(pairs) };
        checks.below("pairs", pairs, x.rows())?;
        let (scores, loss) = unsafe { (slice_mut(scores), slice_mut::<f32>(loss)) };
        let (x, norm, head) = unsafe { (slice(x), slice(norm), slice(head)) };
        reward_head::forward(scores, x, norm, head, eps as f32);
        let (dx, dnorm, dhead) = unsafe { (slice_mut(grads.dx), slice_mut(grads.dnorm), slice_mut(grads.dhead)) };
        loss[0] += reward_head::backward(dx, dnorm, dhead, scores, [x, norm, head], pairs, pair_loss, eps as f32);
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
        let checks = self.checks("linear_cross_entropy");
        checks.linear_cross_entropy(loss, grads, x, table, targets, weights, scratch)?;
        let (targets, weights) = unsafe { (slice::<u32>(targets), slice(weights)) };
        checks.below("targets", targets, table.rows())?;
        let sum = linear_cross_entropy::run(grads, x, table, targets, weights, scratch);
        let loss = unsafe { slice_mut::<f32>(loss) };
        loss[0] += sum;
        Ok(())
    }

    fn global_norm(&self, norm: &Tensor, x: &Tensor) -> Result<()> {
        self.checks("global_norm").global_norm(norm, x)?;
        let squares = global_norm::sum_of_squares(unsafe { slice(x) });
        let norm = unsafe { slice_mut::<f32>(norm) };
        norm[0] = squares.sqrt() as f32;
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
        self.checks("adamw").adamw(params, master, m, v, grads, norm, update)?;
        let norm = unsafe { slice::<f32>(norm) }[0];
        let (values, m, v) = unsafe { (slice_mut(master), slice_mut(m), slice_mut(v)) };
        adamw::update(values, m, v, unsafe { slice(grads) }, norm, update);
        if params.same_place(master) { Ok(()) } else { self.copy(params, master) }
    }
}
