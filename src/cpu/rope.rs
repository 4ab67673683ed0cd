//! Splits the fused projection into heads and turns them, or gathers gradients and turns them back.

use super::math::vectorised;
use super::parallel::{self, Shared};
use super::{Cpu, values, values_mut};
use crate::backend::{Heads, Qkv, Rotary, rope_frequency};
use crate::error::Result;
use crate::ops::{RopeBackward, RopeForward, Run};
use crate::tensor::Tensor;
use crate::tensor::host::slice_mut;

/// Tokens of one task.
const ROWS: usize = 32;

/// Cosines and sines of the angles of all positions so far: sine and cosine cost more than everything else here.
#[derive(Default)]
pub struct AngleTable {
    rotary: Option<Rotary>,
    half: usize,
    /// `[positions, 2, half]`: cosines, then sines.
    values: Vec<f32>,
}

impl AngleTable {
    /// Makes the table hold positions up to `last`; says whether memory had to be taken.
    pub fn prepare(&mut self, last: u32, dim: usize, rotary: Rotary) -> bool {
        let half = dim / 2;
        let held = if half > 0 { self.values.len() / (2 * half) } else { 0 };
        if self.rotary == Some(rotary) && self.half == half && (last as usize) < held {
            return false;
        }
        let positions = (last as usize + 1).next_power_of_two().max(4096);
        (self.rotary, self.half) = (Some(rotary), half);
        self.values.clear();
        self.values.resize(positions * 2 * half, 0.0);
        let frequencies: Vec<f32> = (0..half).map(|i| rope_frequency(i, dim, rotary)).collect();
        for (position, row) in self.values.chunks_exact_mut(2 * half).enumerate() {
            let (cos, sin) = row.split_at_mut(half);
            for ((c, s), frequency) in cos.iter_mut().zip(sin).zip(&frequencies) {
                (*s, *c) = (position as f32 * frequency).sin_cos();
            }
        }
        true
    }

    fn cos_sin(&self, position: u32) -> (&[f32], &[f32]) {
        self.values[position as usize * 2 * self.half..][..2 * self.half].split_at(self.half)
    }
}

pub fn forward(dst: Qkv, src: &[f32], positions: &[u32], heads: Heads, table: &AngleTable) {
    // SAFETY: the operands are host tensors, checked to be apart.
    let parts = unsafe { HeadTensors::new(dst, heads, positions.len()) };
    let columns = parts.columns();
    in_tasks(positions, |t, position| {
        let (cos, sin) = table.cos_sin(position);
        for kv in 0..heads.kv {
            let src = &src[(t * heads.kv + kv) * columns..][..columns];
            for (part, turned, from) in parts.of(kv, t) {
                // SAFETY: each head of each token is written by one task.
                let to = unsafe { part.slice(from.to, heads.dim) };
                let src = &src[from.column..][..heads.dim];
                if turned { turn(to, src, cos, sin, 1.0) } else { to.copy_from_slice(src) }
            }
        }
    });
}

pub fn backward(dsrc: &mut [f32], grads: Qkv, positions: &[u32], heads: Heads, table: &AngleTable) {
    let dsrc = Shared::new(dsrc);
    // SAFETY: the operands are host tensors, checked to be apart; the gradients are only read.
    let parts = unsafe { HeadTensors::new(grads, heads, positions.len()) };
    let columns = parts.columns();
    in_tasks(positions, |t, position| {
        let (cos, sin) = table.cos_sin(position);
        for kv in 0..heads.kv {
            // SAFETY: each token's columns belong to one task.
            let dsrc = unsafe { dsrc.slice((t * heads.kv + kv) * columns, columns) };
            for (part, turned, from) in parts.of(kv, t) {
                // SAFETY: nobody writes to the gradients.
                let grad = unsafe { part.slice(from.to, heads.dim) };
                let to = &mut dsrc[from.column..][..heads.dim];
                if turned { turn(to, grad, cos, sin, -1.0) } else { to.copy_from_slice(grad) }
            }
        }
    });
}

fn in_tasks(positions: &[u32], f: impl Fn(usize, u32) + Sync + Send) {
    parallel::for_each(positions.len().div_ceil(ROWS), |task| {
        vectorised(
            #[inline(always)]
            || {
                let first = task * ROWS;
                for (i, &position) in positions[first..].iter().take(ROWS).enumerate() {
                    f(first + i, position);
                }
            },
        );
    });
}

/// `to = x cos + rotate_half(x) sin`; `sign = -1` turns the other way.
#[inline(always)]
fn turn(to: &mut [f32], from: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let ((to_a, to_b), (a, b)) = (to.split_at_mut(half), from.split_at(half));
    let sin = &sin[..half];
    for i in 0..half {
        let s = sin[i] * sign;
        to_a[i] = a[i] * cos[i] - b[i] * s;
        to_b[i] = b[i] * cos[i] + a[i] * s;
    }
}

/// Where a head of a token lies: in its own tensor, and among the columns of its group.
struct Place {
    to: usize,
    column: usize,
}

/// The tensors of the heads, in the order of their columns.
struct HeadTensors {
    q: Option<Shared<f32>>,
    kv: Option<(Shared<f32>, Shared<f32>)>,
    heads: Heads,
    rows: usize,
}

impl HeadTensors {
    unsafe fn new(qkv: Qkv, heads: Heads, rows: usize) -> Self {
        // SAFETY: by the caller's promise.
        let share = |t: &Tensor| Shared::new(unsafe { slice_mut::<f32>(t) });
        Self { q: qkv.q.map(share), kv: qkv.kv.map(|(k, v)| (share(k), share(v))), heads, rows }
    }

    fn columns(&self) -> usize {
        let queries = if self.q.is_some() { self.heads.group() } else { 0 };
        let keys = if self.kv.is_some() { 2 } else { 0 };
        (queries + keys) * self.heads.dim
    }

    /// The heads of group `kv` of token `t`: tensor, whether it is turned, places.
    #[inline(always)]
    fn of(&self, kv: usize, t: usize) -> impl Iterator<Item = (Shared<f32>, bool, Place)> {
        let (group, dim) = (self.heads.group(), self.heads.dim);
        let row = kv * self.rows + t;
        let queries = if self.q.is_some() { group } else { 0 };
        let q = self.q.into_iter().flat_map(move |q| {
            (0..group).map(move |h| (q, true, Place { to: (row * group + h) * dim, column: h * dim }))
        });
        let kv = self.kv.into_iter().flat_map(move |(k, v)| {
            let place = |i: usize| Place { to: row * dim, column: (queries + i) * dim };
            [(k, true, place(0)), (v, false, place(1))]
        });
        q.chain(kv)
    }
}

impl Run<RopeForward<'_>> for Cpu {
    fn run(&self, op: &RopeForward) -> Result<()> {
        let positions = values::<u32>(op.positions);
        self.with_rope_table(last(positions), op.heads.dim, op.rotary, |table| {
            forward(op.dst, values(op.src), positions, op.heads, table);
        });
        Ok(())
    }
}

impl Run<RopeBackward<'_>> for Cpu {
    fn run(&self, op: &RopeBackward) -> Result<()> {
        let positions = values::<u32>(op.positions);
        self.with_rope_table(last(positions), op.heads.dim, op.rotary, |table| {
            backward(values_mut(op.dsrc), op.grads, positions, op.heads, table);
        });
        Ok(())
    }
}

/// The last of the positions.
fn last(positions: &[u32]) -> u32 {
    positions.iter().copied().max().unwrap_or(0)
}
