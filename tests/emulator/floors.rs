//! What operations say that they cost at least, against what the kernels do: from these figures come the floors of the
//! benches, the share of the peak and what a trace says.

use polar_raw::backend::{AdamW, AttentionArgs, BackendExt, Gemm, Heads, Operations, Qkv, Span};
use polar_raw::cuda::Cuda;
use polar_raw::ops::reward_head::{LossKind, PairLoss, PenaltyKind, RewardHeadGrads};
use polar_raw::ops::*;
use polar_raw::tensor::{Dtype, Tensor};
use polar_raw::wrap;

/// Whether nothing but the operands is moved, so that the floor is reached.
#[derive(Clone, Copy, PartialEq)]
enum Floor {
    /// By one launch, which moves each sector that it needs once.
    Reached,
    /// By several, which hand sums to each other.
    Below,
}

struct Check<'a> {
    cuda: &'a Cuda,
    seen: Vec<&'static str>,
}

impl Check<'_> {
    fn operation<'o>(&mut self, floor: Floor, op: impl Into<AnyOp<'o>>) {
        let (op, cuda) = (op.into(), self.cuda);
        self.seen.push(op.name());
        let work = wrap::work(cuda, &op).unwrap();
        cuda.reports().unwrap();
        cuda.submit(op).unwrap();
        let reports = cuda.reports().unwrap();
        let sectors =
            |counters: &emulator::Counters| counters.loads.footprint_sectors + counters.stores.footprint_sectors;
        let moved: u64 = reports.iter().map(|report| 32 * sectors(&report.counters)).sum();
        let products: u64 = reports.iter().map(|report| report.counters.mma_operations).sum();
        println!("{}: {} B at least, {moved} moved by {} launches", op.name(), work.bytes, reports.len());
        assert!(work.bytes <= moved, "{}: a floor of {} B, and only {moved} are moved", op.name(), work.bytes);
        assert!(work.matrix <= products, "{}: {} operations, and {products} are done", op.name(), work.matrix);
        if floor == Floor::Reached {
            // An operand may end within a sector, and one that is updated is moved twice.
            let ends = 64 * op.op().operands().iter().count() as u64;
            assert!(moved <= work.bytes + ends, "{}: a floor of {} B, and {moved} are moved", op.name(), work.bytes);
        }
    }
}

/// No kernel does less than its operation's `work`, and where one launch does it all, it moves that and no more.
#[test]
fn work_is_what_kernels_do_at_least() {
    let _alone = super::alone();
    let cuda = Cuda::emulated().unwrap();
    let tensor = |dtype, dims: &[usize]| {
        let tensor = cuda.tensor(dtype, dims).unwrap();
        cuda.fill(&tensor, 0.5).unwrap();
        tensor
    };
    let (float, sum) = (|dims: &[usize]| tensor(Dtype::Bf16, dims), |dims: &[usize]| tensor(Dtype::F32, dims));
    let index = |dims: &[usize], values: &[u32]| {
        let tensor = cuda.tensor(Dtype::U32, dims).unwrap();
        cuda.write_u32(&tensor, values).unwrap();
        tensor
    };
    let mut check = Check { cuda: &cuda, seen: Vec::new() };

    let (rows, hidden, vocab) = (64, 64, 256);
    let [x, y, square] = [(); 3].map(|()| float(&[rows, hidden]));
    let (weight, gate_up, w13) = (float(&[hidden]), float(&[rows, 2 * hidden]), float(&[2 * hidden, hidden]));
    let (rstd, dweight) = (sum(&[rows]), sum(&[hidden]));
    check.operation(Floor::Reached, Fill { x: &x, value: 0.25 });
    let gemm = |out, addend| GemmOp { layout: Gemm::Nt, out, a: &x, b: &square, addend };
    check.operation(Floor::Reached, gemm(&y, None));
    check.operation(Floor::Reached, gemm(&y, Some(&y)));
    check.operation(Floor::Reached, GemmSwigluForward { y: &y, gate_up: &gate_up, x: &x, w13: &w13 });
    check.operation(Floor::Reached, GemmSwigluBackward { gate_up: &gate_up, dy: &y, dout: &x, w2: &square });
    check.operation(Floor::Reached, SwigluForward { y: &y, gate_up: &gate_up });
    check.operation(Floor::Reached, SwigluBackward { dgate_up: &gate_up, dy: &y, gate_up: &gate_up });
    let (bias, dbias) = (weight.window(0, &[1, hidden]), dweight.window(0, &[1, hidden]));
    check.operation(Floor::Reached, BiasForward { y: &y, bias: &bias });
    check.operation(Floor::Below, BiasBackward { dbias: &dbias, dy: &y });
    check.operation(Floor::Reached, RmsnormForward { y: &y, rstd: &rstd, x: &x, weight: &weight, eps: 1e-5 });
    let (dx, dweight) = (&square, &dweight);
    check.operation(Floor::Below, RmsnormBackward { dx, dweight, dy: &y, x: &x, rstd: &rstd, weight: &weight });

    // Each of five tokens comes again and again.
    let ids = index(&[rows], &(0..rows as u32).map(|i| i * 7 % 5).collect::<Vec<_>>());
    let (table, dtable) = (float(&[vocab, hidden]), sum(&[vocab, hidden]));
    check.operation(Floor::Reached, EmbeddingForward { y: &y, ids: &ids, table: &table });
    check.operation(Floor::Reached, EmbeddingBackward { dtable: &dtable, ids: &ids, dy: &y });
    let (last, selected) = (index(&[8], &[3, 9, 11, 20, 31, 40, 62, 63]), float(&[8, hidden]));
    check.operation(Floor::Reached, GatherForward { y: &selected, x: &x, rows: &last });
    check.operation(Floor::Reached, GatherBackward { dx: &x, dy: &selected, rows: &last });

    let heads = Heads { query: 4, kv: 2, dim: 16 };
    let [q, dq] = [(); 2].map(|()| float(&[heads.kv, rows, heads.group(), heads.dim]));
    let [k, v, dk, dv] = [(); 4].map(|()| float(&[heads.kv, rows, heads.dim]));
    let qkv = float(&[rows, (heads.query + 2 * heads.kv) * heads.dim]);
    let tokens = index(&[rows], &(0..rows as u32).collect::<Vec<_>>());
    let (parts, positions, theta) = (Qkv { q: Some(&q), kv: Some((&k, &v)) }, &tokens, 1e4_f64);
    check.operation(Floor::Reached, RopeForward { dst: parts, src: &qkv, positions, heads, rotary: theta.into() });
    check.operation(Floor::Reached, RopeBackward { dsrc: &qkv, grads: parts, positions, heads, rotary: theta.into() });
    let (of_heads, dof_heads, inverse) =
        (float(&[heads.dim]), sum(&[heads.dim]), sum(&[heads.kv, rows, heads.group()]));
    check.operation(Floor::Reached, HeadRmsnormForward { y: &dq, rstd: &inverse, x: &q, weight: &of_heads, eps: 1e-6 });
    {
        let (dy, rstd, weight) = (&float(q.dims()), &inverse, &of_heads);
        check.operation(Floor::Below, HeadRmsnormBackward { dx: &dq, dweight: &dof_heads, dy, x: &q, rstd, weight });
    }
    let span = |start, own, prefix| Span {
        query_start: start,
        queries: own,
        own_start: start,
        own,
        prefix_start: 0,
        prefix,
        row: 0,
        reserved: 0,
    };
    let spans = [span(0, 30, 0), span(30, 20, 30), span(50, 14, 30)];
    let spans = index(&[spans.len(), 8], bytemuck::cast_slice(&spans));
    let args = AttentionArgs { heads, spans: &spans, query_tokens: &tokens, scale: 0.25 };
    let (lse, out, dout) = (sum(&[heads.kv, rows, heads.group()]), float(&[rows, 64]), float(&[rows, 64]));
    check.operation(Floor::Reached, AttentionForward { out: &out, lse: &lse, q: &q, k: &k, v: &v, args });
    let (dqkv, qkv) = ([&dq, &dk, &dv], [&q, &k, &v]);
    check.operation(Floor::Below, AttentionBackward { dqkv, dout: &dout, out: &out, lse: &lse, qkv, args });

    let (scores, loss, pairs) = (sum(&[8]), sum(&[1]), index(&[4, 2], &[0, 1, 2, 3, 4, 5, 6, 7]));
    let (norm, head, eps) = (&weight, &float(&[1, hidden]), 1e-5);
    check.operation(Floor::Reached, RewardHeadForward { scores: &scores, x: &selected, norm, head, eps });
    let pair_loss = &PairLoss { kind: LossKind::Ranking, penalty: PenaltyKind::None, penalty_weight: 0.0, scale: 1.0 };
    let (dselected, dhead) = (float(&[8, hidden]), sum(&[1, hidden]));
    let grads = RewardHeadGrads { dx: &dselected, dnorm: dweight, dhead: &dhead };
    let (x_of, scores, loss, pairs) = (&selected, &scores, &loss, &pairs);
    check.operation(Floor::Reached, RewardHeadLoss { scores, loss, grads, x: x_of, norm, head, pairs, pair_loss, eps });
    let (scratch, grads) = (float(&[rows, vocab]), Some((dx, &dtable)));
    let (targets, weights, table, x_of) = (&ids, &rstd, &table, &x);
    check.operation(
        Floor::Below,
        LinearCrossEntropy { loss, grads, x: x_of, table, targets, weights, scratch: &scratch },
    );

    let [master, m, v, grads] = [(); 4].map(|()| sum(&[4096]));
    let (params, squares, losses) = (float(&[4096]), sum(&[1]), sum(&[2]));
    check.operation(Floor::Below, CountNonFinite { count: &squares, x: &grads });
    check.operation(Floor::Below, SumOfSquares { sum: &squares, x: &grads });
    let update = &AdamW { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, weight_decay: 0.0, max_norm: 1.0, step: 1 };
    let (params, master, m, v): (&Tensor, _, _, _) = (&params, &master, &m, &v);
    let (grads, squares, losses) = (&grads, &squares, &losses);
    check.operation(Floor::Reached, AdamwOp { params, master, m, v, grads, squares, losses, update });

    // A copy is the driver's.
    let missing: Vec<_> = NAMES.iter().filter(|name| !check.seen.contains(name) && **name != "copy").collect();
    assert!(missing.is_empty(), "not held to anything: {missing:?}");
}
