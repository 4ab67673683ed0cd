//! Attention, forward and backward, over packed rows with shared prefixes.

use approx::abs_diff_eq;
use polar_raw::backend::{AttentionArgs, Heads, Operations, Span};
use polar_raw::cuda::abi::{AttentionBackwardParams, AttentionParams};
use polar_raw::cuda::attention::{plan_backward, plan_forward};
use polar_raw::reference::Reference;

use crate::device::{Device, Kernels};
use crate::values::{BF16, Draw, F32, close, empty, indices, round_bf16, tensor, values_of};

/// Which tokens ask.
#[derive(Clone, Copy, Debug)]
enum Asking {
    /// All.
    All,
    /// The last of each candidate, and none of a prefix.
    Last,
    /// Every third, so that some runs have none.
    Some,
    /// Those from this token on.
    From(u32),
}

/// Rows of a pack: the length of the prefix and of each candidate.
type Rows = &'static [(u32, &'static [u32])];

fn pack(rows: Rows, asking: Asking) -> (Vec<Span>, Vec<u32>, usize) {
    let (mut spans, mut query_tokens, mut token) = (Vec::new(), Vec::new(), 0);
    for (row, (prefix, candidates)) in rows.iter().enumerate() {
        let start = token;
        let first = (*prefix > 0).then_some((*prefix, 0, false));
        for (own, sees, candidate) in first.into_iter().chain(candidates.iter().map(|&own| (own, *prefix, true))) {
            let query_start = query_tokens.len() as u32;
            query_tokens.extend((token..token + own).filter(|t| match asking {
                Asking::All => true,
                Asking::Last => candidate && t + 1 == token + own,
                Asking::Some => t % 3 == 1,
                Asking::From(first) => *t >= first,
            }));
            spans.push(Span {
                query_start,
                queries: query_tokens.len() as u32 - query_start,
                own_start: token,
                own,
                prefix_start: start,
                prefix: sees,
                row: row as u32,
                reserved: 0,
            });
            token += own;
        }
    }
    (spans, query_tokens, token as usize)
}

/// Runs all kernels, compares their results, and returns them: out, lse, dq, dk, dv.
fn run(device: &Device, rows: Rows, heads: Heads, asking: Asking, size: f64) -> Vec<Vec<f64>> {
    let what = format!("{rows:?} {heads:?} {asking:?}");
    let (spans, query_tokens, tokens) = pack(rows, asking);
    let mut draw = Draw::new((tokens * heads.dim) as u64);
    let Heads { query, kv, dim } = heads;
    let (group, queries) = (heads.group(), query_tokens.len());
    let (q_len, k_len, lse_len) = (queries * query * dim, tokens * kv * dim, queries * query);
    let (q, k) = (draw.bf16(q_len, size), draw.bf16(k_len, size));
    let (v, dout) = (draw.bf16(k_len, 1.0), draw.bf16(q_len, 1.0));
    let scale = 1.0 / (dim as f64).sqrt();
    let params = AttentionParams {
        q: device.bf16(&q),
        k: device.bf16(&k),
        v: device.bf16(&v),
        out: device.poisoned(2 * q_len),
        lse: device.poisoned(4 * lse_len),
        spans: device.upload(bytemuck::cast_slice(&spans)),
        query_tokens: device.u32(&query_tokens),
        n_spans: spans.len() as u32,
        queries: queries as u32,
        tokens: tokens as u32,
        kv_heads: kv as u32,
        group: group as u32,
        dim: dim as u32,
        scale: scale as f32,
    };
    device.launch(&plan_forward(heads, queries).unwrap(), &params);

    let (out_t, lse_t) = (empty(&[queries, query * dim]), empty(&[kv, queries, group]));
    let span_words: Vec<u32> = bytemuck::cast_slice(&spans).to_vec();
    let (spans_t, tokens_t) = (indices(&span_words, &[spans.len(), 8]), indices(&query_tokens, &[queries]));
    let args = AttentionArgs { heads, spans: &spans_t, query_tokens: &tokens_t, scale };
    let (q_t, dims) = (tensor(&q, &[kv, queries, group, dim]), [kv, tokens, dim]);
    let (k_t, v_t) = (tensor(&k, &dims), tensor(&v, &dims));
    Reference.attention_forward(&out_t, &lse_t, &q_t, &k_t, &v_t, args).unwrap();
    close(&what, &device.read_f32(params.lse, lse_len), &values_of(&lse_t), 1e-5, 1e-4 * size * size);
    let exact_out = values_of(&out_t);

    // Backward from the reference's own results, rounded as they are stored.
    let out: Vec<f64> = exact_out.iter().map(|&x| round_bf16(x)).collect();
    let out_t = tensor(&out, &[queries, query * dim]);
    let explained = explained(&spans, &query_tokens, tokens, heads, [&q, &k, &v, &dout, &out], &values_of(&lse_t));
    close_as_weighted(&format!("out {what}"), &device.read_bf16(params.out, q_len), &exact_out, &explained[0], size);
    let backward = AttentionBackwardParams {
        q: params.q,
        k: params.k,
        v: params.v,
        out: device.bf16(&out),
        dout: device.bf16(&dout),
        lse: device.f32(&values_of(&lse_t)),
        spans: params.spans,
        query_tokens: params.query_tokens,
        dq: device.poisoned(2 * q_len),
        dk: device.poisoned(2 * k_len),
        dv: device.poisoned(2 * k_len),
        delta: device.poisoned(4 * lse_len),
        visible: device.poisoned(16 * queries),
        n_spans: params.n_spans,
        queries: params.queries,
        tokens: params.tokens,
        kv_heads: params.kv_heads,
        group: params.group,
        dim: params.dim,
        scale: params.scale,
    };
    for launch in plan_backward(heads, queries, tokens).unwrap() {
        device.launch(&launch, &backward);
    }

    let grads = [empty(&[kv, queries, group, dim]), empty(&dims), empty(&dims)];
    let [dq, dk, dv] = [&grads[0], &grads[1], &grads[2]];
    let dout_t = tensor(&dout, &[queries, query * dim]);
    Reference.attention_backward([dq, dk, dv], &dout_t, &out_t, &lse_t, [&q_t, &k_t, &v_t], args).unwrap();
    let mut results = vec![device.read_bf16(params.out, q_len), device.read_f32(params.lse, lse_len)];
    let results_at = [("dq", backward.dq, dq), ("dk", backward.dk, dk), ("dv", backward.dv, dv)];
    for ((name, at, want), explained) in results_at.into_iter().zip(&explained[1..]) {
        let want = values_of(want);
        results.push(device.read_bf16(at, want.len()));
        close_as_weighted(&format!("{name} {what}"), &results[results.len() - 1], &want, explained, size);
    }
    results
}

/// A rounding to bf16 is off by this part of what it rounds, as a root mean square over a binade.
const ROUNDING: f64 = 0.42 * BF16;

/// The mean square that rounding `p` and `ds` to bf16, before they weight what is summed, explains of the errors of each
/// element of out, dq, dk and dv.
fn explained(
    spans: &[Span],
    query_tokens: &[u32],
    tokens: usize,
    heads: Heads,
    [q, k, v, dout, out]: [&[f64]; 5],
    lse: &[f64],
) -> [Vec<f64>; 4] {
    let Heads { query, dim, .. } = heads;
    let (group, queries, scale) = (heads.group(), query_tokens.len(), 1.0 / (dim as f64).sqrt());
    let mut squares = [q, q, k, k].map(|of| vec![0.0; of.len()]);
    let row = |of: &'_ [f64], i: usize| of[i * dim..(i + 1) * dim].to_vec();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for span in spans {
        let (start, count) = (span.query_start as usize, span.queries as usize);
        for (s, &query_token) in query_tokens.iter().enumerate().skip(start).take(count) {
            let prefix = span.prefix_start..span.prefix_start + span.prefix;
            let keys: Vec<u32> = prefix.chain(span.own_start..=query_token).collect();
            for member in 0..query {
                let head = member / group;
                let (index, place) = ((head * queries + s) * group + member % group, s * query + member);
                let (q, dout) = (row(q, index), row(dout, place));
                let delta = dot(&dout, &row(out, place));
                for &token in &keys {
                    let j = head * tokens + token as usize;
                    let (k, v) = (row(k, j), row(v, j));
                    let p = (scale * dot(&q, &k) - lse[index]).exp();
                    let ds = scale * p * (dot(&dout, &v) - delta);
                    for d in 0..dim {
                        squares[0][place * dim + d] += (ROUNDING * p * v[d]).powi(2);
                        squares[1][index * dim + d] += (ROUNDING * ds * k[d]).powi(2);
                        squares[2][j * dim + d] += (ROUNDING * ds * q[d]).powi(2);
                        squares[3][j * dim + d] += (ROUNDING * p * dout[d]).powi(2);
                    }
                }
            }
        }
    }
    squares
}

/// Requires the root mean square of the errors to be at most 1.5 times what the roundings of the weights, `explained`,
/// and of the results come to; an element is only kept from being far off where others are not. Nothing absolute is
/// allowed but the f32 that remains of a difference of vectors of `size`.
fn close_as_weighted(what: &str, got: &[f64], want: &[f64], explained: &[f64], size: f64) {
    let remains = 64.0 * F32 * size;
    for (i, ((got, want), explained)) in got.iter().zip(want).zip(explained).enumerate() {
        let (off, allowed) = ((got - want).abs(), BF16 * want.abs() + 8.0 * explained.sqrt() + remains);
        // NaN is not within it.
        assert!(
            abs_diff_eq!(*got, *want, epsilon = allowed),
            "{what}: [{i}] is {got} and not {want}: {off:.2e} off, {allowed:.2e} is allowed"
        );
    }
    let mean = |sum: f64| (sum / want.len().max(1) as f64).sqrt();
    let explained = mean(explained.iter().zip(want).map(|(e, want)| e + (ROUNDING * want).powi(2)).sum());
    let off = mean(got.iter().zip(want).map(|(got, want)| (got - want).powi(2)).sum());
    // A few queries have few weights, whose errors vary more.
    let factor = if want.len() < 512 { 3.0 } else { 1.5 };
    assert!(
        off <= factor * explained + remains,
        "{what}: as a whole {off:.2e} off, which is {:.2} times what bf16 explains",
        off / explained
    );
}

const PACKS: [Rows; 8] = [
    &[(0, &[1])],
    &[(0, &[7])],
    &[(3, &[2, 1])],
    &[(0, &[5]), (0, &[1]), (0, &[13])],
    &[(64, &[64, 65, 1]), (0, &[63]), (1, &[1, 1])],
    &[(127, &[33, 130]), (5, &[1, 1, 1, 1, 1])],
    &[(0, &[17, 16]), (2, &[129])],
    // A prefix far from the last candidate, and blocks of keys that a tile passes over.
    &[(40, &[150, 20, 90]), (0, &[140])],
];

fn heads(query: usize, kv: usize, dim: usize) -> Heads {
    Heads { query, kv, dim }
}

fn run_packs(kernels: &Kernels, heads: Heads) {
    for (i, rows) in PACKS.into_iter().enumerate() {
        for asking in [Asking::All, Asking::Last, Asking::Some] {
            if pack(rows, asking).1.is_empty() {
                continue;
            }
            run(&Device::new(kernels), rows, heads, asking, [1.0, 4.0][i % 2]);
        }
    }
}

pub fn heads_of_2(kernels: &Kernels) {
    run_packs(kernels, heads(1, 1, 2));
}

pub fn heads_of_8_in_groups_of_3(kernels: &Kernels) {
    run_packs(kernels, heads(6, 2, 8));
}

pub fn heads_of_32(kernels: &Kernels) {
    run_packs(kernels, heads(4, 2, 32));
}

pub fn heads_of_64(kernels: &Kernels) {
    run_packs(kernels, heads(2, 2, 64));
}

pub fn heads_of_128_in_a_group_of_3(kernels: &Kernels) {
    run_packs(kernels, heads(3, 1, 128));
}

pub fn heads_of_other_sizes(kernels: &Kernels) {
    for dim in [48, 82] {
        for rows in [PACKS[2], PACKS[4]] {
            run(&Device::new(kernels), rows, heads(2, 1, dim), Asking::All, 1.0);
        }
    }
}

/// A block looks for the queries that see its keys, 32 spans at a time.
pub fn more_spans_than_lanes(kernels: &Kernels) {
    let rows: Rows = &[(40, &[1; 70]), (3, &[1; 40])];
    for asking in [Asking::All, Asking::From(100), Asking::From(150)] {
        run(&Device::new(kernels), rows, heads(2, 2, 64), asking, 1.0);
    }
}

/// Blocks and warps in another order, and not a bit changes.
pub fn order_does_not_matter(kernels: &Kernels) {
    let results = |seed| run(&Device::in_order(kernels, seed), PACKS[4], heads(4, 2, 64), Asking::All, 2.0);
    let first = results(1);
    assert!((2..4).all(|seed| results(seed) == first), "results depend on the order of blocks and warps");
}
