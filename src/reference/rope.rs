//! Rotary position embeddings: Su et al., arXiv 2104.09864, section 3.2.2, in the form of GPT-NeoX, where coordinate
//! `i` turns with coordinate `i + D/2`, by the angles that the published models were trained with ([`rope_angle`]).
//! The projection's columns are those of InternLM2: for each key/value head its `G` query heads, then the key, then the
//! value.

use super::{Reference, rows, rows_mut, values, vectors, vectors_mut};
use crate::backend::{Heads, Rotary, rope_angle};
use crate::error::Result;
use crate::ops::{RopeBackward, RopeForward, Run};

/// The vectors of the heads that take part: queries `[K rows G]`, keys and values `[K rows]`.
pub struct HeadVectors<V> {
    pub q: Option<Vec<V>>,
    pub kv: Option<(Vec<V>, Vec<V>)>,
}

/// Turns the pairs `(x_i, x_{i + D/2})` by the angles of [`rope_angle`], `forward` or back.
fn turn(out: &mut [f64], x: &[f64], position: u32, rotary: Rotary, forward: bool) {
    let half = x.len() / 2;
    for i in 0..half {
        let angle = f64::from(rope_angle(position, i, x.len(), rotary));
        let (sin, cos) = if forward { angle.sin_cos() } else { (-angle).sin_cos() };
        out[i] = x[i] * cos - x[i + half] * sin;
        out[i + half] = x[i + half] * cos + x[i] * sin;
    }
}

/// `q[k][t][g] = R(t) src[t][k, g]`, `k[k][t] = R(t) src[t][k, G]`, `v[k][t] = src[t][k, G + 1]`.
pub fn forward(mut dst: HeadVectors<&mut [f64]>, src: &[&[f64]], positions: &[u32], heads: Heads, rotary: Rotary) {
    let (rows, group) = (positions.len(), heads.group());
    for t in 0..rows {
        let mut columns = src[t].chunks_exact(heads.dim);
        let mut next = || columns.next().unwrap_or_default();
        for head in 0..heads.kv {
            if let Some(q) = &mut dst.q {
                for g in 0..group {
                    turn(q[(head * rows + t) * group + g], next(), positions[t], rotary, true);
                }
            }
            if let Some((k, v)) = &mut dst.kv {
                turn(k[head * rows + t], next(), positions[t], rotary, true);
                v[head * rows + t].copy_from_slice(next());
            }
        }
    }
}

/// A rotation's transpose is the rotation back: `dsrc[t][k, g] = R(-t) dq[k][t][g]`, and likewise for the keys.
pub fn backward(dsrc: &mut [&mut [f64]], grads: HeadVectors<&[f64]>, positions: &[u32], heads: Heads, rotary: Rotary) {
    let (rows, group) = (positions.len(), heads.group());
    for t in 0..rows {
        let mut columns = dsrc[t].chunks_exact_mut(heads.dim);
        let mut next = || columns.next().unwrap_or_default();
        for head in 0..heads.kv {
            if let Some(dq) = &grads.q {
                for g in 0..group {
                    turn(next(), dq[(head * rows + t) * group + g], positions[t], rotary, false);
                }
            }
            if let Some((dk, dv)) = &grads.kv {
                turn(next(), dk[head * rows + t], positions[t], rotary, false);
                next().copy_from_slice(dv[head * rows + t]);
            }
        }
    }
}

impl Run<RopeForward<'_>> for Reference {
    fn run(&self, op: &RopeForward) -> Result<()> {
        let dim = op.heads.dim;
        let q = op.dst.q.map(|q| vectors_mut(q, dim));
        let kv = op.dst.kv.map(|(k, v)| (vectors_mut(k, dim), vectors_mut(v, dim)));
        forward(HeadVectors { q, kv }, &rows(op.src), values(op.positions), op.heads, op.rotary);
        Ok(())
    }
}

impl Run<RopeBackward<'_>> for Reference {
    fn run(&self, op: &RopeBackward) -> Result<()> {
        let dim = op.heads.dim;
        let q = op.grads.q.map(|q| vectors(q, dim));
        let kv = op.grads.kv.map(|(k, v)| (vectors(k, dim), vectors(v, dim)));
        backward(&mut rows_mut(op.dsrc), HeadVectors { q, kv }, values(op.positions), op.heads, op.rotary);
        Ok(())
    }
}
