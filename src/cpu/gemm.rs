//! Matrix products by the `gemm-f32` crate, whose kernel is chosen at run time (AVX2, AVX-512, NEON).

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

use super::Cpu;
use super::parallel;
use crate::backend::{Gemm, Operations};
use crate::error::Result;
use crate::ops::{GemmOp, GemmSwigluBackward, GemmSwigluForward, Run};
use crate::tensor::Tensor;

/// A row-major or transposed matrix in memory: element `(i, j)` is at `i * rs + j * cs`.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub address: *const f32,
    pub rs: usize,
    pub cs: usize,
}

impl Matrix {
    pub fn new(address: *const f32, rs: usize) -> Self {
        Self { address, rs, cs: 1 }
    }

    pub fn transposed(self) -> Self {
        Self { rs: self.cs, cs: self.rs, ..self }
    }
}

/// `out = alpha a b (+ out)` on the calling thread, `out[m, n]` with `rs` elements between rows.
///
/// # Safety
/// All elements of the three matrices are readable, those of `out` writable and nobody else's.
#[inline]
pub unsafe fn on_this_thread(
    [m, n, k]: [usize; 3],
    out: *mut f32,
    rs: usize,
    a: Matrix,
    b: Matrix,
    alpha: f32,
    accumulate: bool,
) {
    // The crate's kernels want the columns of the output dense, so they compute its transpose; of one column they do not.
    let out = Matrix::new(out, rs);
    let ([m, n], out, a, b) = match rs > 1 {
        true => ([n, m], out.transposed(), b.transposed(), a.transposed()),
        false => ([m, n], out, a, b),
    };
    // SAFETY: by the caller's promise.
    unsafe {
        get_gemm_fn()(
            m,
            n,
            k,
            out.address.cast_mut(),
            out.cs as isize,
            out.rs as isize,
            accumulate,
            a.address,
            a.cs as isize,
            a.rs as isize,
            b.address,
            b.cs as isize,
            b.rs as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// A multiple of the kernels' tiles: no band begins in the middle of one.
const TILE: usize = 16;

/// The product of [`crate::backend::Backend::gemm`], its operands checked.
///
/// The output is cut into one band a thread, each computed alone: with few threads that keeps every core's caches to
/// its own band and needs no barrier inside. An addend in another place is copied to the output first, by the thread
/// that adds to it.
pub fn product(
    layout: Gemm,
    (m, n, k): (usize, usize, usize),
    out: &Tensor,
    a: &Tensor,
    b: &Tensor,
    addend: Option<&Tensor>,
) {
    let a_matrix = Matrix::new(a.address().cast(), a.row_stride());
    let b_matrix = Matrix::new(b.address().cast(), b.row_stride());
    let (a_matrix, b_matrix) = match layout {
        Gemm::Nt => (a_matrix, b_matrix.transposed()),
        Gemm::Nn => (a_matrix, b_matrix),
        Gemm::Tn => (a_matrix.transposed(), b_matrix),
    };
    let rs = out.row_stride();
    let elsewhere = addend.filter(|addend| !addend.same_place(out));
    let task = Task {
        out: out.address().cast(),
        rs,
        a: a_matrix,
        b: b_matrix,
        k,
        copied: elsewhere.map(|addend| Matrix::new(addend.address().cast(), addend.row_stride())),
        accumulate: addend.is_some(),
    };
    // Below about a tenth of a millisecond of work a second thread costs more than it gives.
    let threads = if m * n * k < 1 << 20 { 1 } else { rayon::current_num_threads() };
    let long = m.max(n);
    let band = long.div_ceil(threads).next_multiple_of(TILE);
    let task = &task;
    parallel::for_each(long.div_ceil(band), |i| {
        let (start, len) = (i * band, band.min(long - i * band));
        // SAFETY: bands do not overlap, and the checks have seen that all operands fit.
        unsafe {
            if m >= n {
                task.run([start, 0], [len, n]);
            } else {
                task.run([0, start], [m, len]);
            }
        }
    });
}

struct Task {
    out: *mut f32,
    rs: usize,
    a: Matrix,
    b: Matrix,
    k: usize,
    /// What the output begins as, if that is not what it holds.
    copied: Option<Matrix>,
    accumulate: bool,
}

// SAFETY: tasks write to bands of their own.
unsafe impl Sync for Task {}

impl Task {
    /// # Safety
    /// The band lies within the output and is this task's alone.
    unsafe fn run(&self, [i, j]: [usize; 2], [m, n]: [usize; 2]) {
        // SAFETY: by the caller's promise.
        unsafe {
            let a = Matrix { address: self.a.address.add(i * self.a.rs), ..self.a };
            let b = Matrix { address: self.b.address.add(j * self.b.cs), ..self.b };
            let out = self.out.add(i * self.rs + j);
            if let Some(from) = self.copied {
                for row in 0..m {
                    let from = from.address.add((i + row) * from.rs + j);
                    std::ptr::copy_nonoverlapping(from, out.add(row * self.rs), n);
                }
            }
            on_this_thread([m, n, self.k], out, self.rs, a, b, 1.0, self.accumulate);
        }
    }
}

impl Run<GemmOp<'_>> for Cpu {
    fn run(&self, op: &GemmOp) -> Result<()> {
        product(op.layout, op.shape(), op.out, op.a, op.b, op.addend);
        Ok(())
    }
}

impl Run<GemmSwigluForward<'_>> for Cpu {
    fn run(&self, op: &GemmSwigluForward) -> Result<()> {
        op.unfused().into_iter().try_for_each(|op| self.submit(op))
    }
}

impl Run<GemmSwigluBackward<'_>> for Cpu {
    fn run(&self, op: &GemmSwigluBackward) -> Result<()> {
        op.unfused().into_iter().try_for_each(|op| self.submit(op))
    }
}
