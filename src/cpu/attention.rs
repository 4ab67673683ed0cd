//! FlashAttention on the CPU: tiles of queries against tiles of keys, an online softmax, no matrix of scores kept.
//!
//! The heads of one group are stacked as rows of a tile, `[queries x G, D]`, because they share keys: products get
//! taller, keys are read once. Forward tasks are tiles of queries; backward tasks are (row, key/value head), so that
//! the gradient of a shared prefix is summed by one task, in the order of its candidates.

use std::cell::RefCell;
use std::ops::Range;

use super::gemm::{Matrix, on_this_thread};
use super::math::{dot, exp, max, vectorised};
use super::parallel::{self, Shared};
use super::{Cpu, values, values_mut};
use crate::backend::{AttentionArgs, Heads, Span};
use crate::error::Result;
use crate::ops::{AttentionBackward, AttentionForward, Run};

/// Rows of a tile (queries times group), at most.
const ROWS: usize = 128;
/// Keys of a tile, at most: with 128 rows the tile of scores is 256 KiB, half of a usual second-level cache.
const KEYS: usize = 512;

/// The packed rows, checked, with everything that tiles need to know.
pub struct PackedRows<'a> {
    heads: Heads,
    spans: &'a [Span],
    query_tokens: &'a [u32],
    tokens: usize,
    scale: f32,
}

impl<'a> PackedRows<'a> {
    pub fn new(args: &AttentionArgs, spans: &'a [u32], query_tokens: &'a [u32], tokens: usize) -> Self {
        let spans = bytemuck::cast_slice(spans);
        Self { heads: args.heads, spans, query_tokens, tokens, scale: args.scale as f32 }
    }

    /// Queries of a tile.
    fn tile(&self) -> usize {
        (ROWS / self.heads.group()).max(1)
    }

    /// The tiles of a span.
    fn tiles(&self, span: &Span) -> usize {
        (span.queries as usize).div_ceil(self.tile())
    }

    /// The queries of tile `i` of a span.
    fn queries(&self, span: &Span, i: usize) -> Range<usize> {
        let (first, end) = (span.query_start as usize, (span.query_start + span.queries) as usize);
        let start = first + i * self.tile();
        start..end.min(start + self.tile())
    }

    /// The runs of keys that some query of a tile sees, none longer than a tile of keys.
    fn keys(&self, span: &Span, queries: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let prefix = span.prefix_start as usize..(span.prefix_start + span.prefix) as usize;
        let own = span.own_start as usize..self.query_tokens[queries.end - 1] as usize + 1;
        // A prefix that the run follows at once is one run with it.
        let runs = if prefix.end == own.start { [prefix.start..own.end, 0..0] } else { [prefix, own] };
        runs.into_iter().flat_map(|run| run.clone().step_by(KEYS).map(move |start| start..run.end.min(start + KEYS)))
    }
}

/// Memory of one thread, grown on first use.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    dscores: Vec<f32>,
    out: Vec<f32>,
    dout: Vec<f32>,
    stats: Vec<f32>,
}

impl Scratch {
    fn grow(&mut self, rows: usize, dim: usize) {
        let need = |v: &mut Vec<f32>, n: usize| {
            if v.len() < n {
                v.resize(n, 0.0);
            }
        };
        need(&mut self.scores, rows * KEYS);
        need(&mut self.dscores, rows * KEYS);
        need(&mut self.out, rows * dim);
        need(&mut self.dout, rows * dim);
        need(&mut self.stats, 2 * rows);
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn with_scratch(layout: &PackedRows, f: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.grow(layout.tile() * layout.heads.group(), layout.heads.dim);
        f(scratch);
    });
}

pub fn forward(out: &mut [f32], lse: &mut [f32], [q, k, v]: [&[f32]; 3], layout: &PackedRows) {
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    let tiles: usize = layout.spans.iter().map(|span| layout.tiles(span)).sum();
    parallel::for_each(tiles * layout.heads.kv, |task| {
        let (mut tile, kv) = (task / layout.heads.kv, task % layout.heads.kv);
        for span in layout.spans {
            let n = layout.tiles(span);
            if tile < n {
                with_scratch(layout, |scratch| {
                    forward_tile(layout, span, layout.queries(span, tile), kv, [q, k, v], scratch, out, lse);
                });
                return;
            }
            tile -= n;
        }
    });
}

fn forward_tile(
    layout: &PackedRows,
    span: &Span,
    queries: Range<usize>,
    kv: usize,
    [q, k, v]: [&[f32]; 3],
    scratch: &mut Scratch,
    out: Shared<f32>,
    lse: Shared<f32>,
) {
    let (group, dim) = (layout.heads.group(), layout.heads.dim);
    let rows = queries.len() * group;
    let first_row = (kv * layout.query_tokens.len() + queries.start) * group;
    let q = &q[first_row * dim..][..rows * dim];
    let acc = &mut scratch.out[..rows * dim];
    let (sum, top) = scratch.stats[..2 * rows].split_at_mut(rows);
    sum.fill(0.0);
    top.fill(f32::NEG_INFINITY);
    for (tile, keys) in layout.keys(span, &queries).enumerate() {
        let n = keys.len();
        let scores = &mut scratch.scores[..rows * n];
        let at = (kv * layout.tokens + keys.start) * dim;
        let (k, v) = (&k[at..][..n * dim], &v[at..][..n * dim]);
        product(
            scores,
            [rows, n, dim],
            Matrix::new(q.as_ptr(), dim),
            Matrix::new(k.as_ptr(), dim).transposed(),
            layout.scale,
            false,
        );
        vectorised(
            #[inline(always)]
            || {
                for (r, scores) in scores.chunks_exact_mut(n).enumerate() {
                    let visible = visible(layout, span, queries.start + r / group, &keys);
                    let (scores, hidden) = scores.split_at_mut(visible);
                    hidden.fill(0.0);
                    let highest = max(scores);
                    let new_top = if highest <= top[r] { top[r] } else { highest };
                    let shrink = exp(top[r] - new_top);
                    top[r] = new_top;
                    for s in scores.iter_mut() {
                        *s = exp(*s - new_top);
                    }
                    sum[r] = sum[r] * shrink + super::math::sum2(scores, scores, |a, _| a);
                    if tile > 0 && shrink != 1.0 {
                        acc[r * dim..][..dim].iter_mut().for_each(|o| *o *= shrink);
                    }
                }
            },
        );
        product(acc, [rows, dim, n], Matrix::new(scores.as_ptr(), n), Matrix::new(v.as_ptr(), dim), 1.0, tile > 0);
    }
    // SAFETY: each (head, query) belongs to one task.
    let lse = unsafe { lse.slice(first_row, rows) };
    for (r, acc) in acc.chunks_exact(dim).enumerate() {
        lse[r] = top[r] + sum[r].ln();
        // SAFETY: as above.
        let out = unsafe { out.slice(out_row(layout, queries.start, kv, r), dim) };
        let scale = 1.0 / sum[r];
        for (o, a) in out.iter_mut().zip(acc) {
            *o = a * scale;
        }
    }
}

/// The elements of `out[S, H D]` that row `r` of a tile owns begin here.
fn out_row(layout: &PackedRows, first_query: usize, kv: usize, r: usize) -> usize {
    let (group, dim) = (layout.heads.group(), layout.heads.dim);
    ((first_query + r / group) * layout.heads.query + kv * group + r % group) * dim
}

/// How many of `keys`, which lie all in the prefix or reach into the own run, a query sees.
#[inline(always)]
fn visible(layout: &PackedRows, span: &Span, query: usize, keys: &Range<usize>) -> usize {
    let prefix_end = (span.prefix_start + span.prefix) as usize;
    if keys.end <= prefix_end && keys.start >= span.prefix_start as usize && span.prefix > 0 {
        return keys.len();
    }
    (layout.query_tokens[query] as usize + 1).saturating_sub(keys.start).min(keys.len())
}

fn product(out: &mut [f32], mnk: [usize; 3], a: Matrix, b: Matrix, alpha: f32, accumulate: bool) {
    debug_assert!(out.len() >= mnk[0] * mnk[1]);
    // SAFETY: all callers pass matrices of slices of just these sizes.
    unsafe { on_this_thread(mnk, out.as_mut_ptr(), mnk[1], a, b, alpha, accumulate) }
}

pub fn backward(
    [dq, dk, dv]: [&mut [f32]; 3],
    dout: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: [&[f32]; 3],
    layout: &PackedRows,
) {
    dk.fill(0.0);
    dv.fill(0.0);
    let grads = [dq, dk, dv].map(Shared::new);
    let rows = layout.spans.last().map_or(0, |span| span.row as usize + 1);
    parallel::for_each(rows * layout.heads.kv, |task| {
        let (row, kv) = (task / layout.heads.kv, task % layout.heads.kv);
        let start = layout.spans.partition_point(|span| (span.row as usize) < row);
        let spans = layout.spans[start..].iter().take_while(|span| span.row as usize == row);
        with_scratch(layout, |scratch| {
            for span in spans {
                for tile in 0..layout.tiles(span) {
                    let queries = layout.queries(span, tile);
                    backward_tile(layout, span, queries, kv, [dout, out, lse], qkv, scratch, grads);
                }
            }
        });
    });
}

fn backward_tile(
    layout: &PackedRows,
    span: &Span,
    queries: Range<usize>,
    kv: usize,
    [dout, out, lse]: [&[f32]; 3],
    [q, k, v]: [&[f32]; 3],
    scratch: &mut Scratch,
    [dq, dk, dv]: [Shared<f32>; 3],
) {
    let (group, dim) = (layout.heads.group(), layout.heads.dim);
    let rows = queries.len() * group;
    let first_row = (kv * layout.query_tokens.len() + queries.start) * group;
    let q = &q[first_row * dim..][..rows * dim];
    let lse = &lse[first_row..][..rows];
    // SAFETY: each (head, query) belongs to one task.
    let dq = unsafe { dq.slice(first_row * dim, rows * dim) };
    let tile_dout = &mut scratch.dout[..rows * dim];
    let delta = &mut scratch.stats[..rows];
    for (r, d) in tile_dout.chunks_exact_mut(dim).enumerate() {
        let at = out_row(layout, queries.start, kv, r);
        d.copy_from_slice(&dout[at..][..dim]);
        delta[r] = dot(d, &out[at..][..dim]);
    }
    for (tile, keys) in layout.keys(span, &queries).enumerate() {
        let n = keys.len();
        let at = (kv * layout.tokens + keys.start) * dim;
        let (k, v) = (&k[at..][..n * dim], &v[at..][..n * dim]);
        // SAFETY: the tokens of a row, for one head, belong to one task.
        let (dk, dv) = unsafe { (dk.slice(at, n * dim), dv.slice(at, n * dim)) };
        let (p, dp) = (&mut scratch.scores[..rows * n], &mut scratch.dscores[..rows * n]);
        let [q_m, k_m, v_m, dout_m] = [q, k, v, &*tile_dout].map(|m| Matrix::new(m.as_ptr(), dim));
        product(p, [rows, n, dim], q_m, k_m.transposed(), layout.scale, false);
        product(dp, [rows, n, dim], dout_m, v_m.transposed(), 1.0, false);
        vectorised(
            #[inline(always)]
            || {
                for (r, (p, dp)) in p.chunks_exact_mut(n).zip(dp.chunks_exact_mut(n)).enumerate() {
                    let visible = visible(layout, span, queries.start + r / group, &keys);
                    p[visible..].fill(0.0);
                    dp[visible..].fill(0.0);
                    for (p, dp) in p[..visible].iter_mut().zip(&mut dp[..visible]) {
                        *p = exp(*p - lse[r]);
                        *dp = *p * (*dp - delta[r]) * layout.scale;
                    }
                }
            },
        );
        let (p_m, ds_m) = (Matrix::new(p.as_ptr(), n), Matrix::new(dp.as_ptr(), n));
        product(dv, [n, dim, rows], p_m.transposed(), dout_m, 1.0, true);
        product(dq, [rows, dim, n], ds_m, k_m, 1.0, tile > 0);
        product(dk, [n, dim, rows], ds_m.transposed(), q_m, 1.0, true);
    }
}

impl Run<AttentionForward<'_>> for Cpu {
    fn run(&self, op: &AttentionForward) -> Result<()> {
        let layout = PackedRows::new(&op.args, values(op.args.spans), values(op.args.query_tokens), op.k.dims()[1]);
        forward(values_mut(op.out), values_mut(op.lse), [values(op.q), values(op.k), values(op.v)], &layout);
        Ok(())
    }
}

impl Run<AttentionBackward<'_>> for Cpu {
    fn run(&self, op: &AttentionBackward) -> Result<()> {
        let tokens = op.qkv[1].dims()[1];
        let layout = PackedRows::new(&op.args, values(op.args.spans), values(op.args.query_tokens), tokens);
        let (dqkv, qkv) = (op.dqkv.map(values_mut::<f32>), op.qkv.map(values::<f32>));
        backward(dqkv, values(op.dout), values(op.out), values(op.lse), qkv, &layout);
        Ok(())
    }
}
