//! Attention over packed rows with shared prefixes, tile by tile: no matrix of scores is kept (Dao, arXiv 2307.08691).

use super::rope::Heads;
use super::{ElementKind, HostIndices, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// One run of tokens in a pack and what it may see: `[n_spans, 8]` of these as u32 are an operand of attention.
///
/// Query `i` of the span sees all keys of the prefix and those of its own run up to itself. Spans come in the order
/// of their tokens; spans of one row (a prefix and its candidates) follow each other and share `row`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Span {
    /// First query row.
    pub query_start: u32,
    /// Number of query rows.
    pub queries: u32,
    /// First token of the run.
    pub own_start: u32,
    /// Length of the run.
    pub own: u32,
    /// First token of the prefix.
    pub prefix_start: u32,
    /// Length of the prefix; 0 for none.
    pub prefix: u32,
    /// The row of the pack that the span belongs to, from 0, ascending without gaps.
    pub row: u32,
    /// Not used; keeps the record at 32 bytes.
    pub reserved: u32,
}

impl Span {
    /// How many pairs of a query and a key that it sees there are, where every token of the run is a query.
    pub fn visible_pairs_of_all(&self) -> u64 {
        let own = u64::from(self.own);
        own * u64::from(self.prefix) + own * (own + 1) / 2
    }
}

/// Refuses spans that do not divide the queries among them in order, reach beyond the `tokens` keys, share a run or
/// reach into another row, and queries outside the run of their span or not ascending. What passes sees only keys
/// that exist, and rows can be computed side by side: no two touch the same query or key.
///
/// # Errors
/// The first span that is wrong, and why.
pub fn check_spans(spans: &[Span], query_tokens: &[u32], tokens: usize) -> Result<(), String> {
    let (mut queries, mut end, mut row_start, mut row) = (0, 0, 0, 0);
    for (i, span) in spans.iter().enumerate() {
        let fail = |why: &str| Err(format!("span {i} {why}: {span:?}"));
        let [query_start, count, own_start, own, prefix_start, prefix] =
            [span.query_start, span.queries, span.own_start, span.own, span.prefix_start, span.prefix]
                .map(|x| x as usize);
        if span.row != row {
            if i == 0 || span.row != row + 1 {
                return fail("is not of the row before or the next");
            }
            (row, row_start) = (span.row, end);
        }
        if own_start < end || own_start + own > tokens {
            return fail("has a run that begins in another or ends beyond the last token");
        }
        if prefix > 0 && (prefix_start < row_start || prefix_start + prefix > own_start) {
            return fail("has a prefix that reaches into another row or its own run");
        }
        if query_start != queries || queries + count > query_tokens.len() {
            return fail("does not continue the queries of those before");
        }
        let run = own_start..own_start + own;
        let asking = &query_tokens[queries..queries + count];
        if asking.iter().any(|&token| !run.contains(&(token as usize))) {
            return fail("has a query outside its run");
        }
        if asking.windows(2).any(|pair| pair[0] >= pair[1]) {
            return fail("has queries that do not ascend");
        }
        (queries, end) = (queries + count, run.end);
    }
    if queries != query_tokens.len() {
        return Err(format!("only {queries} of {} queries belong to a span", query_tokens.len()));
    }
    Ok(())
}

/// How many pairs of a query and a key there are of which the query sees the key.
pub fn visible_pairs(spans: &[Span], query_tokens: &[u32]) -> u64 {
    let of = |span: &Span| {
        let queries = query_tokens.iter().skip(span.query_start as usize).take(span.queries as usize);
        let own = |token: u32| u64::from(token.saturating_sub(span.own_start)) + 1;
        queries.map(|&token| u64::from(span.prefix) + own(token)).sum::<u64>()
    };
    spans.iter().map(of).sum()
}

/// How many of the `tokens` keys some query sees. Where not every token asks, those behind the last query of their run are
/// seen by none.
pub fn seen_keys(spans: &[Span], query_tokens: &[u32], tokens: usize) -> usize {
    let mut seen = vec![false; tokens];
    for span in spans {
        let asking = span.query_start as usize..span.query_start as usize + span.queries as usize;
        let Some(&last) = query_tokens.get(asking).and_then(<[u32]>::last) else { continue };
        let (prefix, own) = (span.prefix_start as usize, span.own_start as usize);
        for range in [prefix..prefix + span.prefix as usize, own..last as usize + 1] {
            if let Some(keys) = seen.get_mut(range) {
                keys.fill(true);
            }
        }
    }
    seen.into_iter().filter(|&seen| seen).count()
}

/// What attention needs besides its matrices.
#[derive(Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// Heads of q, k and v.
    pub heads: Heads,
    /// `[n_spans, 8]` u32: [`Span`]s.
    pub spans: &'a Tensor,
    /// `[S]` u32: the token that each query row is.
    pub query_tokens: &'a Tensor,
    /// Multiplies the products of query and key: `1 / sqrt(D)`.
    pub scale: f64,
}

impl<'a> AttentionArgs<'a> {
    fn operands(&self, operands: Operands<'a>) -> Operands<'a> {
        operands.read("spans", ElementKind::Index, self.spans, &[self.spans.rows(), 8]).read(
            "query_tokens",
            ElementKind::Index,
            self.query_tokens,
            &[self.query_tokens.len()],
        )
    }

    fn check_indices(&self, k: &Tensor, values: &HostIndices) -> Result<(), String> {
        match values(self.spans).zip(values(self.query_tokens)) {
            Some((spans, tokens)) => check_spans(bytemuck::cast_slice(spans), tokens, tokens_of(k)),
            None => Ok(()),
        }
    }

    /// Matrix products of `2 D` operations for each visible pair and query head; `scalar` others for each; and the bytes of
    /// `operands`, less keys and values, like `k`, that nobody sees, and spans that ask nothing.
    fn work(&self, operands: Operands, k: &Tensor, products: u64, scalar: u64, indices: &ReadIndices) -> Result<Work> {
        let (spans, queries) = (indices(self.spans)?, indices(self.query_tokens)?);
        let (spans, tokens): (&[Span], _) = (bytemuck::cast_slice(&spans), tokens_of(k));
        let silent = spans.iter().filter(|span| span.queries == 0).count() * size_of::<Span>();
        let pairs = self.heads.query as u64 * visible_pairs(spans, &queries);
        let unseen = (tokens - seen_keys(spans, &queries, tokens)) * self.heads.kv * self.heads.dim;
        let bytes = operands.moves().bytes - (2 * unseen * k.dtype().size() + silent) as u64;
        Ok(Work { matrix: products * 2 * self.heads.dim as u64 * pairs, scalar: scalar * pairs, bytes })
    }
}

/// The tokens of keys or values.
fn tokens_of(k: &Tensor) -> usize {
    k.dims().get(1).copied().unwrap_or(0)
}

/// `out = softmax(scale q k^T) v` over the keys that each query sees.
#[derive(Clone, Copy)]
pub struct AttentionForward<'a> {
    /// `[S, H D]`.
    pub out: &'a Tensor,
    /// `[K, S, G]`: the logarithm of the sum of exponentials.
    pub lse: &'a Tensor,
    /// `[K, S, G, D]`.
    pub q: &'a Tensor,
    /// `[K, T, D]`.
    pub k: &'a Tensor,
    /// `[K, T, D]`.
    pub v: &'a Tensor,
    /// Who sees whom.
    pub args: AttentionArgs<'a>,
}

impl Op for AttentionForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (heads, queries, tokens) = (self.args.heads, self.args.query_tokens.len(), tokens_of(self.k));
        let operands = Operands::new()
            .write("out", ElementKind::Float, self.out, &[queries, heads.query * heads.dim])
            .write("lse", ElementKind::Sum, self.lse, &[heads.kv, queries, heads.group()])
            .read("q", ElementKind::Float, self.q, &[heads.kv, queries, heads.group(), heads.dim])
            .read("k", ElementKind::Float, self.k, &[heads.kv, tokens, heads.dim])
            .read("v", ElementKind::Float, self.v, &[heads.kv, tokens, heads.dim]);
        self.args.operands(operands)
    }

    fn check(&self) -> Result<(), String> {
        self.args.heads.check()
    }

    fn check_indices(&self, values: &HostIndices) -> Result<(), String> {
        self.args.check_indices(self.k, values)
    }

    fn work(&self, indices: &ReadIndices) -> Result<Work> {
        // Scores and their product with the values; scale, maximum, difference, exponential, sum.
        self.args.work(self.operands(), self.k, 2, 5, indices)
    }
}

/// The gradients by q, k and v, which are overwritten.
#[derive(Clone, Copy)]
pub struct AttentionBackward<'a> {
    /// Of the shapes of q, k and v.
    pub dqkv: [&'a Tensor; 3],
    /// `[S, H D]`.
    pub dout: &'a Tensor,
    /// `[S, H D]`, from the forward pass.
    pub out: &'a Tensor,
    /// `[K, S, G]`, from the forward pass.
    pub lse: &'a Tensor,
    /// `[K, S, G, D]`, `[K, T, D]` and `[K, T, D]`.
    pub qkv: [&'a Tensor; 3],
    /// Who sees whom.
    pub args: AttentionArgs<'a>,
}

impl Op for AttentionBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let ([q, k, v], [dq, dk, dv]) = (self.qkv, self.dqkv);
        let (heads, queries, tokens) = (self.args.heads, self.args.query_tokens.len(), tokens_of(k));
        let q_dims = [heads.kv, queries, heads.group(), heads.dim];
        let (kv_dims, out_dims) = ([heads.kv, tokens, heads.dim], [queries, heads.query * heads.dim]);
        let operands = Operands::new()
            .write("dq", ElementKind::Float, dq, &q_dims)
            .write("dk", ElementKind::Float, dk, &kv_dims)
            .write("dv", ElementKind::Float, dv, &kv_dims)
            .read("dout", ElementKind::Float, self.dout, &out_dims)
            .read("out", ElementKind::Float, self.out, &out_dims)
            .read("lse", ElementKind::Sum, self.lse, &[heads.kv, queries, heads.group()])
            .read("q", ElementKind::Float, q, &q_dims)
            .read("k", ElementKind::Float, k, &kv_dims)
            .read("v", ElementKind::Float, v, &kv_dims);
        self.args.operands(operands)
    }

    fn check(&self) -> Result<(), String> {
        self.args.heads.check()
    }

    fn check_indices(&self, values: &HostIndices) -> Result<(), String> {
        self.args.check_indices(self.qkv[1], values)
    }

    fn work(&self, indices: &ReadIndices) -> Result<Work> {
        // The scores once more, the gradients of probabilities, values, queries and keys; scale, difference,
        // exponential, and three for the gradient of the scores.
        let rows = Work::elementwise(self.out.len(), 2);
        Ok(self.args.work(self.operands(), self.qkv[1], 5, 6, indices)? + rows)
    }
}
