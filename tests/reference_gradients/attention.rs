use approx::abs_diff_eq;
use polar_raw::backend::{AttentionArgs, Heads, Operations, Span};
use polar_raw::reference::Reference;

use super::{Random, assert_gradient, dot, indices, poisoned, read};

fn span(query: (u32, u32), own: (u32, u32), prefix: (u32, u32), row: u32) -> Span {
    Span {
        query_start: query.0,
        queries: query.1,
        own_start: own.0,
        own: own.1,
        prefix_start: prefix.0,
        prefix: prefix.1,
        row,
        reserved: 0,
    }
}

/// A row with a prefix of 3 and candidates of 2 and 1, and a row of 4 without a prefix.
const TOKENS: usize = 10;

fn pack() -> (Vec<Span>, Vec<u32>) {
    let spans = vec![
        span((0, 3), (0, 3), (0, 0), 0),
        span((3, 2), (3, 2), (0, 3), 0),
        span((5, 1), (5, 1), (0, 3), 0),
        span((6, 4), (6, 4), (0, 0), 1),
    ];
    (spans, (0..10).collect())
}

/// The same pack, of which only the candidates' last tokens and two of the second row ask.
fn selected() -> (Vec<Span>, Vec<u32>) {
    let spans = vec![
        span((0, 0), (0, 3), (0, 0), 0),
        span((0, 1), (3, 2), (0, 3), 0),
        span((1, 1), (5, 1), (0, 3), 0),
        span((2, 2), (6, 4), (0, 0), 1),
    ];
    (spans, vec![4, 5, 7, 9])
}

fn check(name: &str, heads: Heads, (spans, query_tokens): (Vec<Span>, Vec<u32>)) {
    let mut random = Random::new(name);
    let s = query_tokens.len();
    let (q_dims, kv_dims) = ([heads.kv, s, heads.group(), heads.dim], [heads.kv, TOKENS, heads.dim]);
    let (q, k, v) = (random.tensor(&q_dims), random.tensor(&kv_dims), random.tensor(&kv_dims));
    let dout = random.tensor(&[s, heads.query * heads.dim]);
    let (out, lse) = (poisoned(dout.dims()), poisoned(&[heads.kv, s, heads.group()]));
    let spans = indices(&[spans.len(), 8], bytemuck::cast_slice(&spans));
    let query_tokens = indices(&[s], &query_tokens);
    let args = AttentionArgs { heads, spans: &spans, query_tokens: &query_tokens, scale: 0.7 };
    let objective = || {
        Reference.attention_forward(&out, &lse, &q, &k, &v, args).unwrap();
        dot(&out, &dout)
    };
    objective();
    let (dq, dk, dv) = (poisoned(&q_dims), poisoned(&kv_dims), poisoned(&kv_dims));
    Reference.attention_backward([&dq, &dk, &dv], &dout, &out, &lse, [&q, &k, &v], args).unwrap();
    for (what, input, grad) in [("q", &q, &dq), ("k", &k, &dk), ("v", &v, &dv)] {
        assert_gradient(&format!("{name}, {what}"), &objective, input, grad, 0.0);
    }
}

#[test]
fn every_token_asks() {
    check("one head", Heads { query: 1, kv: 1, dim: 4 }, pack());
    check("grouped heads", Heads { query: 6, kv: 2, dim: 2 }, pack());
}

#[test]
fn selected_tokens_ask() {
    check("selected", Heads { query: 4, kv: 2, dim: 4 }, selected());
}

/// Each query's output against the textbook: a full matrix of scores under the mask of the design's fourth decision.
#[test]
fn sees_its_prefix_and_its_own_run() {
    let heads = Heads { query: 1, kv: 1, dim: 2 };
    let mut random = Random::new("mask");
    let (q, k, v) = (random.tensor(&[1, TOKENS, 1, 2]), random.tensor(&[1, TOKENS, 2]), random.tensor(&[1, TOKENS, 2]));
    let (out, lse) = (poisoned(&[TOKENS, 2]), poisoned(&[1, TOKENS, 1]));
    let (spans, query_tokens) = pack();
    let spans = indices(&[spans.len(), 8], bytemuck::cast_slice(&spans));
    let query_tokens = indices(&[TOKENS], &query_tokens);
    let args = AttentionArgs { heads, spans: &spans, query_tokens: &query_tokens, scale: 0.5 };
    Reference.attention_forward(&out, &lse, &q, &k, &v, args).unwrap();
    let run = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3];
    let (q, k, v) = (read(&q), read(&k), read(&v));
    for i in 0..TOKENS {
        let sees = |j: usize| j <= i && (run[j] == run[i] || (run[j] == 0 && run[i] != 3));
        let weight = |j: usize| {
            let score = 0.5 * (q[2 * i] * k[2 * j] + q[2 * i + 1] * k[2 * j + 1]);
            if sees(j) { score.exp() } else { 0.0 }
        };
        let sum: f64 = (0..TOKENS).map(weight).sum();
        assert!(abs_diff_eq!(read(&lse)[i], sum.ln(), epsilon = 1e-12), "lse of {i}");
        for d in 0..2 {
            let expected = (0..TOKENS).map(|j| weight(j) / sum * v[2 * j + d]).sum::<f64>();
            assert!(abs_diff_eq!(read(&out)[2 * i + d], expected, epsilon = 1e-12), "output {d} of {i}");
        }
    }
}

#[test]
fn spans_that_do_not_fit_are_refused() {
    let heads = Heads { query: 1, kv: 1, dim: 2 };
    let attempt = |change: &dyn Fn(&mut Vec<Span>, &mut Vec<u32>)| {
        let (mut spans, mut query_tokens) = pack();
        change(&mut spans, &mut query_tokens);
        let s = query_tokens.len();
        let (q, kv) = (poisoned(&[1, s, 1, 2]), poisoned(&[1, TOKENS, 2]));
        let (out, lse) = (poisoned(&[s, 2]), poisoned(&[1, s, 1]));
        let spans = indices(&[spans.len(), 8], bytemuck::cast_slice(&spans));
        let query_tokens = indices(&[s], &query_tokens);
        let args = AttentionArgs { heads, spans: &spans, query_tokens: &query_tokens, scale: 1.0 };
        Reference.attention_forward(&out, &lse, &q, &kv, &kv, args)
    };
    attempt(&|_, _| {}).unwrap();
    type Change<'a> = &'a dyn Fn(&mut Vec<Span>, &mut Vec<u32>);
    let refused: [(&str, Change); 13] = [
        ("a query before its run", &|_, tokens| tokens[3] = 2),
        ("a query after its run", &|_, tokens| tokens[3] = 5),
        ("queries that do not ascend", &|_, tokens| tokens.swap(7, 8)),
        ("a query beyond the tokens", &|_, tokens| tokens[9] = 10),
        ("a run beyond the tokens", &|spans, _| spans[3].own = 5),
        ("a run that wraps around", &|spans, _| spans[3].own = u32::MAX),
        ("runs that overlap", &|spans, _| spans[2].own_start = 4),
        ("a prefix of another row", &|spans, _| spans[3].prefix = 6),
        ("a prefix into the own run", &|spans, _| spans[1].prefix = 4),
        ("a query of no span", &|spans, _| spans[3].queries = 3),
        ("a query of two spans", &|spans, _| spans[1].query_start = 2),
        ("queries beyond the last", &|spans, _| spans[3].queries = 5),
        ("a row left out", &|spans, _| spans[3].row = 2),
    ];
    for (what, change) in refused {
        assert!(attempt(change).is_err(), "{what}");
    }
}
