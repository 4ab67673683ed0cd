//! Attention. Scores are dot products, so a score may be off by [`sum_error`] of `scale |q| |k|`, the lengths of the
//! vectors; a probability relatively by twice that, once for itself and once for the sum; what is summed with
//! probabilities by that and by its own [`sum_error`]. Probabilities sum to 1 over the keys, so lengths of the longest
//! vectors bound the results; over the queries their sums are computed by the reference.

use polar_raw::backend::{AttentionArgs, Backend, Heads, Operations, Span};
use polar_raw::reference::Reference;
use polar_raw::tensor::Tensor;

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{
    Allowed, Case, Given, Spec, index, input, longest, reference, reference_index, result, sum_error, values,
};
use crate::draw::{Class, Draw};

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "attention_forward", cases: forward }, Row { operation: "attention_backward", cases: backward }];

/// Which tokens ask.
#[derive(Clone, Copy, Debug)]
enum Asking {
    /// All.
    All,
    /// The last of each run, and none of a prefix.
    Last,
    /// Every third, so that some runs have none.
    Some,
}

/// Rows of a pack: the length of the prefix and of each candidate.
type Rows = &'static [(u32, &'static [u32])];

#[derive(Clone, Copy)]
struct Attention {
    rows: Rows,
    heads: Heads,
    asking: Asking,
    /// Values of q and k lie below this: large ones make sharp distributions.
    size: f64,
}

fn table() -> Vec<Attention> {
    const PACKS: [Rows; 10] = [
        &[(0, &[1])],
        &[(0, &[7])],
        &[(3, &[2, 1])],
        // The last token stands alone in its tile, and asks nothing where only some do.
        &[(0, &[129])],
        &[(0, &[5]), (0, &[1]), (0, &[13])],
        &[(64, &[64, 65, 1]), (0, &[63]), (1, &[1, 1])],
        &[(127, &[33, 130]), (5, &[1, 1, 1, 1, 1])],
        &[(0, &[17, 16]), (2, &[129])],
        &[(0, &[530]), (300, &[250, 40])],
        &[(515, &[20, 600, 1])],
    ];
    let heads = |query, kv, dim| Heads { query, kv, dim };
    let heads = [heads(16, 8, 2), heads(4, 2, 16), heads(6, 2, 8), heads(8, 8, 64), heads(3, 1, 128)];
    let mut all = Vec::new();
    for (i, rows) in PACKS.into_iter().enumerate() {
        for (j, heads) in heads.into_iter().enumerate() {
            // Long packs with many heads take the scalar reference too long.
            if i > 7 && heads.query * heads.dim > 64 {
                continue;
            }
            // Keys of two dimensions may lie so close that a sharp distribution's gradient is a difference of almost
            // the same numbers, in which rounding is all there is.
            let sharp = if heads.dim > 2 { 4.0 } else { 2.0 };
            for asking in [Asking::All, Asking::Last, Asking::Some] {
                all.push(Attention { rows, heads, asking, size: [1.0, sharp][(i + j) % 2] });
            }
        }
    }
    all
}

/// What a case of either pass begins with.
struct Inputs {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    spans: Vec<u32>,
    query_tokens: Vec<u32>,
}

impl Attention {
    fn label(&self) -> String {
        let rows: Vec<String> = self.rows.iter().map(|(prefix, own)| format!("{prefix}+{own:?}")).collect();
        let Heads { query, kv, dim } = self.heads;
        format!("{} heads {query}/{kv}x{dim} {:?}", rows.join(" "), self.asking).replace(", ", ",")
    }

    fn spec(self, draw: fn(Self, &mut Draw) -> Case) -> Spec {
        // Large heads in two packs: one of a few tokens, and one around the tiles.
        let quick = match self.heads.dim {
            ..64 => self.tokens() < 450,
            64.. => matches!(self.tokens(), 6 | 164),
        };
        Spec::new(self.label(), quick, move |d| draw(self, d))
    }

    fn tokens(&self) -> usize {
        self.rows.iter().map(|(prefix, own)| prefix + own.iter().sum::<u32>()).sum::<u32>() as usize
    }

    /// The spans, and the token that each query is.
    fn pack(&self) -> (Vec<Span>, Vec<u32>) {
        let (mut spans, mut query_tokens, mut token) = (Vec::new(), Vec::new(), 0);
        for (row, (prefix, candidates)) in self.rows.iter().enumerate() {
            let row_start = token;
            let prefix_run = (*prefix > 0).then_some((*prefix, 0, false));
            for (own, sees, candidate) in
                prefix_run.into_iter().chain(candidates.iter().map(|&own| (own, *prefix, true)))
            {
                let query_start = query_tokens.len() as u32;
                query_tokens.extend((token..token + own).filter(|t| match self.asking {
                    Asking::All => true,
                    Asking::Last => candidate && t + 1 == token + own,
                    Asking::Some => t % 3 == 1 || self.tokens() == 1,
                }));
                spans.push(Span {
                    query_start,
                    queries: query_tokens.len() as u32 - query_start,
                    own_start: token,
                    own,
                    prefix_start: row_start,
                    prefix: sees,
                    row: row as u32,
                    reserved: 0,
                });
                token += own;
            }
        }
        (spans, query_tokens)
    }

    fn inputs(&self, draw: &mut Draw) -> Inputs {
        let (spans, query_tokens) = self.pack();
        let Heads { query, kv, dim } = self.heads;
        let spans = spans
            .iter()
            .flat_map(|s| [s.query_start, s.queries, s.own_start, s.own, s.prefix_start, s.prefix, s.row, s.reserved])
            .collect();
        Inputs {
            q: draw.within(Class::Float, query_tokens.len() * query * dim, self.size),
            k: draw.within(Class::Float, self.tokens() * kv * dim, self.size),
            v: draw.values(Class::Float, self.tokens() * kv * dim),
            spans,
            query_tokens,
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.heads.dim as f64).sqrt()
    }

    /// `q`, `k`, `out` and `lse`.
    fn dims(&self, queries: usize) -> ([usize; 4], [usize; 3], [usize; 2], [usize; 3]) {
        let Heads { query, kv, dim } = self.heads;
        let group = self.heads.group();
        ([kv, queries, group, dim], [kv, self.tokens(), dim], [queries, query * dim], [kv, queries, group])
    }

    fn args<'a>(&self, spans: &'a Tensor, query_tokens: &'a Tensor) -> AttentionArgs<'a> {
        AttentionArgs { heads: self.heads, spans, query_tokens, scale: self.scale() }
    }

    /// What a score may be off.
    fn score_error(&self, inputs: &Inputs, eps: f64) -> f64 {
        let dim = self.heads.dim;
        let largest = self.scale() * longest(&inputs.q, dim) * longest(&inputs.k, dim);
        (sum_error(dim, eps) + 2.0 * eps) * largest
    }

    /// A result `[queries, H D]`, or `[K, S, G, inner]` where there is an `inner` dimension, with its heads.
    fn of_queries(&self, result: Given, queries: usize, inner: usize) -> Given {
        match self.heads.group() {
            1 => result.with_heads(self.heads.kv, queries * inner),
            group => result.with_heads(group, inner),
        }
    }

    /// The operands that both passes read: q, k, v, spans, query tokens.
    fn operands(&self, inputs: Inputs) -> [Given; 5] {
        let queries = inputs.query_tokens.len();
        let (q, kv, ..) = self.dims(queries);
        [
            input(&q, inputs.q),
            input(&kv, inputs.k),
            input(&kv, inputs.v),
            index(&[inputs.spans.len() / 8, 8], &inputs.spans),
            index(&[queries], &inputs.query_tokens),
        ]
    }

    fn forward(self, draw: &mut Draw) -> Case {
        let inputs = self.inputs(draw);
        let (eps, score) = (draw.sum_eps(), self.score_error(&inputs, draw.sum_eps()));
        let (_, _, out, lse) = self.dims(inputs.query_tokens.len());
        let sum = sum_error(self.tokens(), eps) + 8.0 * eps;
        let mut operands = vec![
            // Probabilities, whose sum is 1, are rounded to floats before they weigh the values.
            result(&out, Allowed::All(2.0 * score + sum + draw.eps()))
                .with_heads(self.heads.query, self.heads.dim)
                .in_units_of(self.heads.dim),
            self.of_queries(result(&lse, Allowed::All(score + sum)).in_units_of(1), inputs.query_tokens.len(), 1),
        ];
        operands.extend(self.operands(inputs));
        Case::modelled(
            operands,
            move |backend, x| backend.attention_forward(&x[0], &x[1], &x[2], &x[3], &x[4], self.args(&x[5], &x[6])),
            move |a, x| self.forward_model(a, x),
        )
    }

    /// Of each query vector: its number, that of its output, and those of its keys.
    fn seen(&self) -> Vec<(usize, usize, Vec<usize>)> {
        let (spans, query_tokens) = self.pack();
        let Heads { query, kv, .. } = self.heads;
        let (group, queries, tokens) = (self.heads.group(), query_tokens.len(), self.tokens());
        let mut all = Vec::with_capacity(queries * query);
        for span in spans {
            let prefix = span.prefix_start..span.prefix_start + span.prefix;
            let (start, count) = (span.query_start as usize, span.queries as usize);
            for (s, &query_token) in query_tokens.iter().enumerate().skip(start).take(count) {
                for head in 0..kv {
                    let keys = prefix.clone().chain(span.own_start..=query_token);
                    let keys: Vec<usize> = keys.map(|token| head * tokens + token as usize).collect();
                    all.extend(
                        (0..group)
                            .map(|g| ((head * queries + s) * group + g, s * query + head * group + g, keys.clone())),
                    );
                }
            }
        }
        all
    }

    fn score(&self, a: &mut Arithmetic, scale: f64, q: &[f64], k: &[f64]) -> f64 {
        let product = a.chain(q.iter().zip(k).map(|(q, k)| q * k));
        a.single(scale * product)
    }

    /// Probabilities are stored as floats before they weigh the values; their sum is not.
    fn forward_model(&self, a: &mut Arithmetic, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (q, k, v, dim) = (&x[2], &x[3], &x[4], self.heads.dim);
        let seen = self.seen();
        let (mut out, mut lses) = (vec![0.0; seen.len() * dim], vec![0.0; seen.len()]);
        let scale = a.single(self.scale());
        for (index, place, keys) in seen {
            let q = &q[index * dim..(index + 1) * dim];
            let scores: Vec<f64> = keys.iter().map(|&j| self.score(a, scale, q, &k[j * dim..(j + 1) * dim])).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Subtracted in powers of two by some, where it is rounded once more.
            let shift = a.single(top);
            let powers: Vec<f64> = scores
                .iter()
                .map(|s| {
                    let below = a.single(s - shift);
                    a.function(below.exp())
                })
                .collect();
            let sum = a.total(powers.iter().copied());
            let log = a.function(sum.ln());
            lses[index] = a.chain([top, log]);
            let sum = a.chain(powers.iter().copied());
            let inverse = a.function(1.0 / sum);
            let powers: Vec<f64> = powers.into_iter().map(|p| a.float(p)).collect();
            for d in 0..dim {
                let weighted = a.total(powers.iter().zip(&keys).map(|(p, j)| p * v[j * dim + d]));
                out[place * dim + d] = a.float(weighted * inverse);
            }
        }
        vec![out, lses]
    }

    /// Probabilities and gradients of scores are stored as floats before they weigh what is summed.
    fn backward_model(&self, a: &mut Arithmetic, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let [dout, out, lse, q, k, v] = [3, 4, 5, 6, 7, 8].map(|i| &x[i]);
        let dim = self.heads.dim;
        let (mut dq, scale) = (vec![0.0; q.len()], a.single(self.scale()));
        // Of each key: the queries that see it, with its probability and the gradient of its score.
        let mut of_keys: Vec<Vec<(usize, usize, f64, f64)>> = vec![Vec::new(); k.len() / dim];
        for (index, place, keys) in self.seen() {
            let (from, to) = (index * dim, place * dim);
            let (q, dout) = (&q[from..from + dim], &dout[to..to + dim]);
            let delta = a.chain(dout.iter().zip(&out[to..]).map(|(dout, out)| dout * out));
            let mut weights = Vec::with_capacity(keys.len());
            for &j in &keys {
                let score = self.score(a, scale, q, &k[j * dim..(j + 1) * dim]);
                let below = a.single(score - lse[index]);
                let p = a.function(below.exp());
                let dp = a.chain(dout.iter().zip(&v[j * dim..]).map(|(dout, v)| dout * v));
                let difference = a.single(dp - delta);
                let ds = a.float(p * difference);
                of_keys[j].push((from, to, a.float(p), ds));
                weights.push(ds);
            }
            for d in 0..dim {
                let sum = a.total(weights.iter().zip(&keys).map(|(ds, j)| ds * k[j * dim + d]));
                dq[from + d] = a.float(scale * sum);
            }
        }
        let (mut dk, mut dv) = (Vec::with_capacity(k.len()), Vec::with_capacity(k.len()));
        for queries in &of_keys {
            for d in 0..dim {
                let sum = a.total(queries.iter().map(|(from, _, _, ds)| ds * q[from + d]));
                dk.push(a.float(scale * sum));
                let sum = a.total(queries.iter().map(|(_, to, p, _)| p * dout[to + d]));
                dv.push(a.float(sum));
            }
        }
        vec![dq, dk, dv]
    }

    fn backward(self, draw: &mut Draw) -> Case {
        let inputs = self.inputs(draw);
        let (eps, dim, queries) = (draw.sum_eps(), self.heads.dim, inputs.query_tokens.len());
        let (q_dims, kv_dims, out_dims, lse_dims) = self.dims(queries);
        let dout = draw.values(Class::Float, queries * self.heads.query * dim);

        // The results of the forward pass, which are operands, and the probabilities' sum over the queries of each
        // key: the gradient of the values for gradients of one.
        let [q, k, v] = [(&q_dims[..], &inputs.q), (&kv_dims, &inputs.k), (&kv_dims, &inputs.v)]
            .map(|(dims, values)| reference(dims, values));
        let spans = reference_index(&[inputs.spans.len() / 8, 8], &inputs.spans);
        let query_tokens = reference_index(&[queries], &inputs.query_tokens);
        let args = self.args(&spans, &query_tokens);
        let zeros = |dims: &[usize]| reference(dims, &vec![0.0; dims.iter().product()]);
        let (out, lse, ones) = (zeros(&out_dims), zeros(&lse_dims), reference(&out_dims, &vec![1.0; dout.len()]));
        let (dq, dk, sums) = (zeros(&q_dims), zeros(&kv_dims), zeros(&kv_dims));
        Reference.attention_forward(&out, &lse, &q, &k, &v, args).expect("the shapes fit");
        Reference.attention_backward([&dq, &dk, &sums], &ones, &out, &lse, [&q, &k, &v], args).expect("as before");
        let (out, lse) = (draw.round(Class::Float, &values(&out)), draw.round(Class::Sum, &values(&lse)));

        // Each probability relatively, with the rounding of `lse` and its own to a float; its gradient, whose parts are
        // dot products of dout, and which is rounded too.
        let lse_error = eps * lse.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
        let p_error = 2.0 * self.score_error(&inputs, eps) + lse_error + 8.0 * eps + draw.eps();
        let ds = 2.0 * longest(&dout, dim) * longest(&inputs.v, dim) * self.scale();
        let ds_error = p_error + sum_error(dim, eps) + draw.eps();
        let over_keys = ds_error + sum_error(self.tokens(), eps);
        let over_queries = ds_error + sum_error(queries * self.heads.group(), eps);
        let sums = values(&sums);
        let each = |bound: f64| Allowed::Each(sums.iter().map(|s| s * bound).collect());

        let dq_allowed = Allowed::All(ds * longest(&inputs.k, dim) * over_keys);
        let of_keys = |allowed| {
            let result = result(&kv_dims, allowed);
            result.with_heads(self.heads.kv, self.tokens() * dim)
        };
        let mut operands = vec![
            self.of_queries(result(&q_dims, dq_allowed), queries, dim),
            of_keys(each(ds * longest(&inputs.q, dim) * over_queries)),
            of_keys(each(over_queries)),
            input(&out_dims, dout),
            input(&out_dims, out),
            input(&lse_dims, lse),
        ];
        operands.extend(self.operands(inputs));
        let call = move |backend: &dyn Backend, x: &[Tensor]| {
            let args = self.args(&x[9], &x[10]);
            backend.attention_backward([&x[0], &x[1], &x[2]], &x[3], &x[4], &x[5], [&x[6], &x[7], &x[8]], args)
        };
        Case::modelled(operands, call, move |a, x| self.backward_model(a, x))
    }
}

pub fn forward() -> Vec<Spec> {
    table().into_iter().map(|a| a.spec(Attention::forward)).collect()
}

pub fn backward() -> Vec<Spec> {
    table().into_iter().map(|a| a.spec(Attention::backward)).collect()
}
