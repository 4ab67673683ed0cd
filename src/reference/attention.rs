//! Grouped-query attention over packed rows with shared prefixes: softmax attention of Vaswani et al.,
//! arXiv 1706.03762, equation 1, with heads shared as in Ainslie et al., arXiv 2305.13245. The backward pass goes
//! through the logarithm of the sum of exponentials as in Dao, arXiv 2307.08691, section 2.3.2.

use super::{Reference, values, values_mut, vectors, vectors_mut};
use crate::backend::{AttentionArgs, Heads, Span};
use crate::error::Result;
use crate::ops::{AttentionBackward, AttentionForward, Run};
use crate::tensor::Tensor;

/// Vectors of `D`: queries `[K S G]`, keys and values `[K T]`.
#[derive(Clone, Copy)]
pub struct AttentionVectors<'a> {
    pub q: &'a [&'a [f64]],
    pub k: &'a [&'a [f64]],
    pub v: &'a [&'a [f64]],
}

/// The gradients of [`AttentionVectors`].
pub struct AttentionGradients<'a, 'b> {
    pub q: &'a mut [&'b mut [f64]],
    pub k: &'a mut [&'b mut [f64]],
    pub v: &'a mut [&'b mut [f64]],
}

/// One query vector: where it lies and which keys it sees.
pub struct Query {
    /// Its number among the query vectors and the `lse`, `[K S G]`.
    index: usize,
    /// Its number among the output vectors, `[S H]`.
    out: usize,
    /// Numbers of its keys and values among `[K T]`.
    keys: Vec<usize>,
}

/// All query vectors. A query sees the prefix of its span, and its span's own run up to itself.
pub fn queries(spans: &[Span], query_tokens: &[u32], heads: Heads, tokens: usize) -> Vec<Query> {
    let (count, group) = (query_tokens.len(), heads.group());
    let mut queries = Vec::with_capacity(count * heads.query);
    for span in spans {
        let prefix = span.prefix_start..span.prefix_start + span.prefix;
        for s in span.query_start..span.query_start + span.queries {
            let seen = prefix.clone().chain(span.own_start..=query_tokens[s as usize]);
            for kv in 0..heads.kv {
                let keys: Vec<usize> = seen.clone().map(|token| kv * tokens + token as usize).collect();
                for g in 0..group {
                    queries.push(Query {
                        index: (kv * count + s as usize) * group + g,
                        out: s as usize * heads.query + kv * group + g,
                        keys: keys.clone(),
                    });
                }
            }
        }
    }
    queries
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `s_j = scale q . k_j`, `lse = log sum_j exp(s_j)`, `out = sum_j exp(s_j - lse) v_j`.
pub fn forward(out: &mut [&mut [f64]], lse: &mut [f64], qkv: AttentionVectors, queries: &[Query], scale: f64) {
    for query in queries {
        let scores: Vec<f64> = query.keys.iter().map(|&j| scale * dot(qkv.q[query.index], qkv.k[j])).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        lse[query.index] = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        out[query.out].fill(0.0);
        for (&j, s) in query.keys.iter().zip(&scores) {
            let p = (s - lse[query.index]).exp();
            for d in 0..out[query.out].len() {
                out[query.out][d] += p * qkv.v[j][d];
            }
        }
    }
}

/// With `p_j = exp(s_j - lse)`: `dv_j += p_j dout`; `dp_j = dout . v_j`; the softmax gives
/// `ds_j = p_j (dp_j - sum_i p_i dp_i)`, whose sum is `dout . out`; `dq = scale sum_j ds_j k_j`, `dk_j += scale ds_j q`.
pub fn backward(
    grads: AttentionGradients,
    dout: &[&[f64]],
    out: &[&[f64]],
    lse: &[f64],
    qkv: AttentionVectors,
    queries: &[Query],
    scale: f64,
) {
    let AttentionGradients { q: dq, k: dk, v: dv } = grads;
    for vector in dq.iter_mut().chain(dk.iter_mut()).chain(dv.iter_mut()) {
        vector.fill(0.0);
    }
    for query in queries {
        let (q, dout, out) = (qkv.q[query.index], dout[query.out], out[query.out]);
        for &j in &query.keys {
            let p = (scale * dot(q, qkv.k[j]) - lse[query.index]).exp();
            let ds = p * (dot(dout, qkv.v[j]) - dot(dout, out));
            for d in 0..q.len() {
                dv[j][d] += p * dout[d];
                dq[query.index][d] += scale * ds * qkv.k[j][d];
                dk[j][d] += scale * ds * q[d];
            }
        }
    }
}

impl Run<AttentionForward<'_>> for Reference {
    fn run(&self, op: &AttentionForward) -> Result<()> {
        let AttentionForward { out, lse, q, k, v, args } = *op;
        let dim = args.heads.dim;
        let qkv = AttentionVectors { q: &vectors(q, dim), k: &vectors(k, dim), v: &vectors(v, dim) };
        let queries = queries_of(&args, k);
        forward(&mut vectors_mut(out, dim), values_mut(lse), qkv, &queries, args.scale);
        Ok(())
    }
}

impl Run<AttentionBackward<'_>> for Reference {
    fn run(&self, op: &AttentionBackward) -> Result<()> {
        let AttentionBackward { dqkv, dout, out, lse, qkv, args } = *op;
        let dim = args.heads.dim;
        let queries = queries_of(&args, qkv[1]);
        let [q, k, v] = qkv.map(|t| vectors(t, dim));
        let [mut dq, mut dk, mut dv] = dqkv.map(|t| vectors_mut(t, dim));
        let grads = AttentionGradients { q: &mut dq, k: &mut dk, v: &mut dv };
        let (dout, out, qkv) = (&vectors(dout, dim), &vectors(out, dim), AttentionVectors { q: &q, k: &k, v: &v });
        backward(grads, dout, out, values(lse), qkv, &queries, args.scale);
        Ok(())
    }
}

fn queries_of(args: &AttentionArgs, k: &Tensor) -> Vec<Query> {
    queries(bytemuck::cast_slice(values::<u32>(args.spans)), values(args.query_tokens), args.heads, k.dims()[1])
}
