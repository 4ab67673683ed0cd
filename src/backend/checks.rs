//! What every backend asks of an operation's operands before it touches them: shapes that fit, dtypes as promised,
//! and no written operand that overlaps another. One function an operation, so that all backends refuse alike.

use super::{AdamW, AttentionArgs, Gemm, Heads, Qkv, RewardHeadGrads, Span};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor};

/// Checks the operands of one operation of a backend whose floats are `float` and whose sums are `sum`.
pub struct Checks {
    operation: &'static str,
    float: Dtype,
    sum: Dtype,
}

impl Checks {
    /// Starts the checks of `operation`.
    pub fn new(operation: &'static str, float: Dtype, sum: Dtype) -> Self {
        Self { operation, float, sum }
    }

    fn fail<T>(&self, what: String) -> Result<T> {
        Err(Error::machine(format!("{}: {what} (this is a mistake in the program)", self.operation)))
    }

    fn is(&self, name: &str, t: &Tensor, dtype: Dtype, dims: &[usize]) -> Result<()> {
        if t.dims() != dims || t.dtype() != dtype {
            return self.fail(format!("{name} is {t:?} and not {dtype:?}{dims:?}"));
        }
        if !t.is_dense() {
            return self.fail(format!("{name} has gaps between its rows"));
        }
        Ok(())
    }

    fn float(&self, name: &str, t: &Tensor, dims: &[usize]) -> Result<()> {
        self.is(name, t, self.float, dims)
    }

    fn sum(&self, name: &str, t: &Tensor, dims: &[usize]) -> Result<()> {
        self.is(name, t, self.sum, dims)
    }

    fn index(&self, name: &str, t: &Tensor, dims: &[usize]) -> Result<()> {
        self.is(name, t, Dtype::U32, dims)
    }

    fn apart(&self, written: &[&Tensor], read: &[&Tensor]) -> Result<()> {
        for (i, w) in written.iter().enumerate() {
            if written[i + 1..].iter().chain(read).any(|other| w.overlaps(other)) {
                return self.fail(format!("operand {i}, which is written, overlaps another"));
            }
        }
        Ok(())
    }

    /// Operands of [`crate::backend::Backend::gemm`]; returns `(m, n, k)`.
    pub fn gemm(
        &self,
        layout: Gemm,
        out: &Tensor,
        a: &Tensor,
        b: &Tensor,
        addend: Option<&Tensor>,
    ) -> Result<(usize, usize, usize)> {
        for (name, t) in [("out", out), ("a", a), ("b", b)] {
            if t.dims().len() != 2 {
                return self.fail(format!("{name} is {t:?} and no matrix"));
            }
        }
        let (m, n) = (out.rows(), out.cols());
        let k = if layout == Gemm::Tn { a.rows() } else { a.cols() };
        let (a_dims, b_dims) = match layout {
            Gemm::Nt => ([m, k], [n, k]),
            Gemm::Nn => ([m, k], [k, n]),
            Gemm::Tn => ([k, m], [k, n]),
        };
        if a.dims() != a_dims || b.dims() != b_dims {
            return self.fail(format!("{layout:?} {out:?} = {a:?} {b:?} does not fit"));
        }
        let out_fits = out.dtype() == self.float || out.dtype() == self.sum;
        if a.dtype() != self.float || b.dtype() != self.float || !out_fits {
            return self.fail(format!("{out:?} = {a:?} {b:?} has a wrong dtype"));
        }
        self.apart(&[out], &[a, b])?;
        if let Some(addend) = addend {
            if addend.dims() != out.dims() || addend.dtype() != out.dtype() {
                return self.fail(format!("the addend {addend:?} is not as {out:?}"));
            }
            if !addend.same_place(out) {
                self.apart(&[out], &[addend])?;
            }
        }
        Ok((m, n, k))
    }

    /// Operands of a bias, forward (`y` written) and backward (`bias`, its gradient, written).
    pub fn bias(&self, y: &Tensor, bias: &Tensor, backward: bool) -> Result<()> {
        self.float("y", y, &[y.rows(), y.cols()])?;
        if bias.dims().len() != 2 || bias.len() != y.cols() {
            return self.fail(format!("the bias {bias:?} does not fit {y:?}"));
        }
        if bias.dtype() != if backward { self.sum } else { self.float } {
            return self.fail(format!("the bias {bias:?} has a wrong dtype"));
        }
        if backward { self.apart(&[bias], &[y]) } else { self.apart(&[y], &[bias]) }
    }

    /// Operands of the product into SwiGLU; returns `(m, n, k)` with `n` columns of the result.
    pub fn gemm_swiglu_forward(
        &self,
        y: &Tensor,
        gate_up: &Tensor,
        x: &Tensor,
        w13: &Tensor,
    ) -> Result<(usize, usize, usize)> {
        self.swiglu_forward(y, gate_up)?;
        let (m, _, k) = self.gemm(Gemm::Nt, gate_up, x, w13, None)?;
        self.apart(&[y], &[x, w13])?;
        Ok((m, y.cols(), k))
    }

    /// Operands of the way back through SwiGLU and the product behind it; returns `(m, n, k)`.
    pub fn gemm_swiglu_backward(
        &self,
        gate_up: &Tensor,
        dy: &Tensor,
        dout: &Tensor,
        w2: &Tensor,
    ) -> Result<(usize, usize, usize)> {
        self.swiglu_backward(gate_up, dy, gate_up)?;
        self.apart(&[gate_up], &[dout, w2])?;
        self.gemm(Gemm::Nn, dy, dout, w2, None)
    }

    /// Operands of the embedding, forward (`rows` written) and backward (`table` written).
    pub fn embedding(&self, rows: &Tensor, ids: &Tensor, table: &Tensor, backward: bool) -> Result<()> {
        if table.dims().len() != 2 {
            return self.fail(format!("the table is {table:?} and no matrix"));
        }
        self.float("the rows", rows, &[ids.len(), table.cols()])?;
        self.index("ids", ids, &[ids.len()])?;
        if backward {
            self.sum("the table's gradient", table, table.dims())?;
            self.apart(&[table], &[rows, ids])
        } else {
            self.float("the table", table, table.dims())?;
            self.apart(&[rows], &[table, ids])
        }
    }

    /// Refuses ids that are not below `bound`.
    pub fn below(&self, name: &str, ids: &[u32], bound: usize) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= bound) {
            Some(id) => self.fail(format!("{name} has {id}, which is not below {bound}")),
            None => Ok(()),
        }
    }

    /// Operands of RMSNorm's forward pass.
    pub fn rmsnorm_forward(&self, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
        let (t, h) = (x.rows(), x.cols());
        self.float("x", x, &[t, h])?;
        self.float("y", y, &[t, h])?;
        self.sum("rstd", rstd, &[t])?;
        self.float("weight", weight, &[h])?;
        self.apart(&[y, rstd], &[x, weight])
    }

    /// Operands of RMSNorm's backward pass.
    pub fn rmsnorm_backward(
        &self,
        dx: &Tensor,
        dweight: &Tensor,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
        weight: &Tensor,
    ) -> Result<()> {
        let (t, h) = (x.rows(), x.cols());
        self.float("x", x, &[t, h])?;
        self.float("dx", dx, &[t, h])?;
        self.float("dy", dy, &[t, h])?;
        self.sum("rstd", rstd, &[t])?;
        self.float("weight", weight, &[h])?;
        self.sum("dweight", dweight, &[h])?;
        self.apart(&[dx, dweight], &[dy, x, rstd, weight])
    }

    fn heads(&self, heads: Heads) -> Result<()> {
        if heads.kv == 0 || !heads.query.is_multiple_of(heads.kv) || heads.dim == 0 || !heads.dim.is_multiple_of(2) {
            return self.fail(format!("{heads:?} are no heads"));
        }
        Ok(())
    }

    /// Operands of the rotary split, either way; returns the columns of one group.
    pub fn rope(&self, src: &Tensor, parts: Qkv, positions: &Tensor, heads: Heads, backward: bool) -> Result<usize> {
        self.heads(heads)?;
        let rows = positions.len();
        let mut columns = 0;
        if let Some(q) = parts.q {
            self.float("q", q, &[heads.kv, rows, heads.group(), heads.dim])?;
            columns += heads.group() * heads.dim;
        }
        if let Some((k, v)) = parts.kv {
            self.float("k", k, &[heads.kv, rows, heads.dim])?;
            self.float("v", v, &[heads.kv, rows, heads.dim])?;
            columns += 2 * heads.dim;
        }
        self.float("the projection", src, &[rows, heads.kv * columns])?;
        self.index("positions", positions, &[rows])?;
        let apart = |parts: &[&Tensor]| match backward {
            true => self.apart(&[src], parts).and_then(|()| self.apart(&[src], &[positions])),
            false => self.apart(parts, &[src, positions]),
        };
        match (parts.q, parts.kv) {
            (Some(q), Some((k, v))) => apart(&[q, k, v])?,
            (Some(q), None) => apart(&[q])?,
            (None, Some((k, v))) => apart(&[k, v])?,
            (None, None) => {}
        }
        Ok(columns)
    }

    /// Operands of attention's forward pass; `out`, `lse`, `q`, `k`, `v`.
    pub fn attention_forward(&self, out: &Tensor, lse: &Tensor, qkv: [&Tensor; 3], args: &AttentionArgs) -> Result<()> {
        self.attention_shapes(out, lse, qkv, args)?;
        let [q, k, v] = qkv;
        self.apart(&[out, lse], &[q, k, v, args.spans, args.query_tokens])
    }

    /// Operands of attention's backward pass.
    pub fn attention_backward(
        &self,
        dqkv: [&Tensor; 3],
        dout: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        qkv: [&Tensor; 3],
        args: &AttentionArgs,
    ) -> Result<()> {
        self.attention_shapes(out, lse, qkv, args)?;
        self.attention_shapes(dout, lse, dqkv, args)?;
        let [q, k, v] = qkv;
        self.apart(&dqkv, &[dout, out, lse, q, k, v, args.spans, args.query_tokens])
    }

    fn attention_shapes(
        &self,
        out: &Tensor,
        lse: &Tensor,
        [q, k, v]: [&Tensor; 3],
        args: &AttentionArgs,
    ) -> Result<()> {
        let h = args.heads;
        self.heads(h)?;
        let queries = args.query_tokens.len();
        let tokens = k.dims().get(1).copied().unwrap_or(0);
        self.index("query_tokens", args.query_tokens, &[queries])?;
        self.index("spans", args.spans, &[args.spans.rows(), 8])?;
        self.float("q", q, &[h.kv, queries, h.group(), h.dim])?;
        self.float("k", k, &[h.kv, tokens, h.dim])?;
        self.float("v", v, &[h.kv, tokens, h.dim])?;
        self.float("out", out, &[queries, h.query * h.dim])?;
        self.sum("lse", lse, &[h.kv, queries, h.group()])
    }

    /// Refuses spans that do not divide the queries among them in order, reach beyond the `tokens` keys, share a run or
    /// reach into another row, and queries outside the run of their span or not ascending. What passes sees only keys
    /// that exist, and rows can be computed side by side: no two touch the same query or key.
    pub fn spans(&self, spans: &[u32], query_tokens: &[u32], tokens: usize) -> Result<()> {
        let spans: &[Span] = bytemuck::cast_slice(spans);
        let (mut queries, mut end, mut row_start, mut row) = (0, 0, 0, 0);
        for (i, span) in spans.iter().enumerate() {
            let fail = |why: &str| self.fail(format!("span {i} {why}: {span:?}"));
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
            return self.fail(format!("only {queries} of {} queries belong to a span", query_tokens.len()));
        }
        Ok(())
    }

    /// Operands of SwiGLU's forward pass.
    pub fn swiglu_forward(&self, y: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.float("y", y, &[y.rows(), y.cols()])?;
        self.float("gate_up", gate_up, &[y.rows(), 2 * y.cols()])?;
        self.apart(&[y], &[gate_up])
    }

    /// Operands of SwiGLU's backward pass, which may work in place.
    pub fn swiglu_backward(&self, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.float("dy", dy, &[dy.rows(), dy.cols()])?;
        self.float("gate_up", gate_up, &[dy.rows(), 2 * dy.cols()])?;
        self.float("dgate_up", dgate_up, &[dy.rows(), 2 * dy.cols()])?;
        if dgate_up.same_place(gate_up) {
            self.apart(&[dgate_up], &[dy])
        } else {
            self.apart(&[dgate_up], &[dy, gate_up])
        }
    }

    /// Operands of gather, forward (`selected` written) and backward (`all` written).
    pub fn gather(&self, selected: &Tensor, all: &Tensor, rows: &Tensor, backward: bool) -> Result<()> {
        self.float("all rows", all, &[all.rows(), all.cols()])?;
        self.float("selected rows", selected, &[rows.len(), all.cols()])?;
        self.index("rows", rows, &[rows.len()])?;
        if backward { self.apart(&[all], &[selected, rows]) } else { self.apart(&[selected], &[all, rows]) }
    }

    /// Operands of the reward head's forward pass.
    pub fn reward_head_forward(&self, scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor) -> Result<()> {
        self.reward_head_shapes(scores, x, norm, head)?;
        self.apart(&[scores], &[x, norm, head])
    }

    /// Operands of the fused reward head.
    pub fn reward_head_loss(
        &self,
        scores: &Tensor,
        loss: &Tensor,
        grads: &RewardHeadGrads,
        x: &Tensor,
        norm: &Tensor,
        head: &Tensor,
        pairs: &Tensor,
    ) -> Result<()> {
        self.reward_head_shapes(scores, x, norm, head)?;
        self.sum("loss", loss, &[1])?;
        self.float("dx", grads.dx, x.dims())?;
        self.sum("dnorm", grads.dnorm, norm.dims())?;
        self.sum("dhead", grads.dhead, head.dims())?;
        self.index("pairs", pairs, &[pairs.rows(), 2])?;
        self.apart(&[scores, loss, grads.dx, grads.dnorm, grads.dhead], &[x, norm, head, pairs])
    }

    fn reward_head_shapes(&self, scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor) -> Result<()> {
        let (s, h) = (x.rows(), x.cols());
        self.float("x", x, &[s, h])?;
        self.sum("scores", scores, &[s])?;
        self.float("norm", norm, &[h])?;
        self.float("head", head, &[1, h])
    }

    /// Operands of the fused linear cross-entropy.
    pub fn linear_cross_entropy(
        &self,
        loss: &Tensor,
        grads: Option<(&Tensor, &Tensor)>,
        x: &Tensor,
        table: &Tensor,
        targets: &Tensor,
        weights: &Tensor,
        scratch: &Tensor,
    ) -> Result<()> {
        let (s, h, v) = (x.rows(), x.cols(), table.rows());
        self.float("x", x, &[s, h])?;
        self.float("table", table, &[v, h])?;
        self.index("targets", targets, &[s])?;
        self.sum("weights", weights, &[s])?;
        self.sum("loss", loss, &[1])?;
        self.float("scratch", scratch, &[scratch.rows(), v])?;
        if scratch.rows() == 0 {
            return self.fail("scratch has no row".into());
        }
        match grads {
            Some((dx, dtable)) => {
                self.float("dx", dx, &[s, h])?;
                self.sum("dtable", dtable, &[v, h])?;
                self.apart(&[loss, scratch, dx, dtable], &[x, table, targets, weights])
            }
            None => self.apart(&[loss, scratch], &[x, table, targets, weights]),
        }
    }

    /// The operand of a fill.
    pub fn fill(&self, x: &Tensor) -> Result<()> {
        if x.dtype() != self.float && x.dtype() != self.sum {
            return self.fail(format!("{x:?} is no float of this backend"));
        }
        if x.is_dense() { Ok(()) } else { self.fail(format!("{x:?} has gaps between its rows")) }
    }

    /// Operands of a copy.
    pub fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        if to.len() != from.len() || to.dtype() != from.dtype() || !to.is_dense() || !from.is_dense() {
            return self.fail(format!("{to:?} = {from:?} does not fit"));
        }
        self.apart(&[to], &[from])
    }

    /// Operands of the global norm.
    pub fn global_norm(&self, norm: &Tensor, x: &Tensor) -> Result<()> {
        self.sum("norm", norm, &[1])?;
        self.sum("x", x, &[x.len()])?;
        self.apart(&[norm], &[x])
    }

    /// Operands of AdamW.
    pub fn adamw(
        &self,
        params: &Tensor,
        master: &Tensor,
        m: &Tensor,
        v: &Tensor,
        grads: &Tensor,
        norm: &Tensor,
        update: &AdamW,
    ) -> Result<()> {
        if update.step == 0 {
            return self.fail("the first update has step 1".into());
        }
        let n = params.len();
        self.float("params", params, &[n])?;
        self.sum("master", master, &[n])?;
        self.sum("m", m, &[n])?;
        self.sum("v", v, &[n])?;
        self.sum("grads", grads, &[n])?;
        self.sum("norm", norm, &[1])?;
        if !params.same_place(master) {
            self.apart(&[params], &[master, m, v, grads, norm])?;
        }
        self.apart(&[master, m, v], &[grads, norm])
    }
}
