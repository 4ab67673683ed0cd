//! What the checks refuse, on the reference; and what operations cost.

use super::*;
use crate::backend::{AdamW, AttentionArgs, Backend, BackendExt, Gemm, Heads, Operations, Span};
use crate::cpu::Cpu;
use crate::reference::Reference;
use crate::tensor::Dtype;

fn tensor(dims: &[usize]) -> Tensor {
    Reference.tensor(Dtype::F64, dims).unwrap()
}

fn indices(dims: &[usize], values: &[u32]) -> Tensor {
    let t = Reference.tensor(Dtype::U32, dims).unwrap();
    Reference.write_u32(&t, values).unwrap();
    t
}

/// The call is refused with a message that says `what`, and nothing is written.
fn refused(what: &str, written: &Tensor, call: impl FnOnce() -> Result<()>) {
    let before = if written.is_dense() { Some(Reference.read_f64(written).unwrap()) } else { None };
    let message = call().expect_err(what).to_string();
    assert!(message.contains(what), "{message} does not say {what}");
    assert!(message.contains("mistake in the program"), "{message}");
    if let Some(before) = before {
        assert_eq!(Reference.read_f64(written).unwrap(), before, "{what}");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let (y, rstd, x, weight) = (tensor(&[3, 4]), tensor(&[3]), tensor(&[3, 4]), tensor(&[4]));
    Reference.rmsnorm_forward(&y, &rstd, &x, &weight, 1e-5).unwrap();
    let wrong = tensor(&[5]);
    refused("rmsnorm_forward: weight is F64[5]", &y, || Reference.rmsnorm_forward(&y, &rstd, &x, &wrong, 1e-5));
    let narrow = Reference.tensor(Dtype::F32, &[4]).unwrap();
    refused("weight is F32[4] and not Float[4]", &y, || Reference.rmsnorm_forward(&y, &rstd, &x, &narrow, 1e-5));
    let flat = tensor(&[12]);
    refused("y is F64[12]", &y, || Reference.rmsnorm_forward(&flat, &rstd, &x, &weight, 1e-5));
    let wide = tensor(&[3, 6]);
    let band = wide.slice_cols(1..5);
    refused("x has gaps between its rows", &y, || Reference.rmsnorm_forward(&y, &rstd, &band, &weight, 1e-5));
    // A product takes bands.
    Reference.gemm(Gemm::Nt, &tensor(&[3, 3]), &band, &band, None).unwrap();
    let short = tensor(&[2, 4]);
    refused("a is F64[3, 4] and not", &short, || Reference.gemm(Gemm::Nn, &short, &x, &tensor(&[5, 4]), None));
}

#[test]
fn written_operands_may_overlap_others_only_where_the_operation_says_so() {
    let all = tensor(&[6, 4]);
    let (a, b) = (all.slice_rows(0..4), all.slice_rows(2..6));
    let (rstd, weight) = (tensor(&[4]), tensor(&[4]));
    let forward = |y: &Tensor, x: &Tensor| Reference.rmsnorm_forward(y, &rstd, x, &weight, 1e-5);
    refused("y, which is written, overlaps x", &a, || forward(&a, &b));
    refused("y, which is written, overlaps x", &a, || forward(&a, &a));
    refused("rstd, which is written, overlaps weight", &rstd, || {
        Reference.rmsnorm_forward(&tensor(&[4, 4]), &rstd, &a, &rstd, 1e-5)
    });
    // Two written operands, the second named first by the message.
    let (dx, dy) = (tensor(&[4, 4]), tensor(&[4, 4]));
    refused("dx, which is written, overlaps dweight", &dx, || {
        Reference.rmsnorm_backward(&dx, &dx.first(&[4]), &dy, &a, &rstd, &weight)
    });
    // The addend may be the result, and nothing in between; no other operand may.
    let square = tensor(&[4, 4]);
    Reference.gemm(Gemm::Nt, &square, &a, &b, Some(&square)).unwrap();
    refused("out, which is written, overlaps addend", &all, || Reference.gemm(Gemm::Nt, &a, &dx, &dy, Some(&b)));
    refused("out, which is written, overlaps a", &square, || Reference.gemm(Gemm::Nt, &square, &square, &b, None));
    // In place, and what is read beside it is apart.
    let (gate_up, narrow) = (tensor(&[4, 8]), tensor(&[4, 4]));
    Reference.swiglu_backward(&gate_up, &narrow, &gate_up).unwrap();
    let inside = gate_up.first(&[4, 4]);
    refused("dgate_up, which is written, overlaps dy", &gate_up, || {
        Reference.swiglu_backward(&gate_up, &inside, &gate_up)
    });
    let [master, m, v, grads] = [(); 4].map(|()| tensor(&[8]));
    let (squares, losses) = (tensor(&[1]), tensor(&[2]));
    let update = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, weight_decay: 0.0, max_norm: 1.0, step: 1 };
    Reference.adamw(&master, &master, &m, &v, &grads, &squares, &losses, &update).unwrap();
    refused("params, which is written, overlaps m", &m, || {
        Reference.adamw(&m, &master, &m, &v, &grads, &squares, &losses, &update)
    });
    let late = AdamW { step: 0, ..update };
    refused("step 1", &master, || Reference.adamw(&master, &master, &m, &v, &grads, &squares, &losses, &late));
}

#[test]
fn indices_are_below_their_bound() {
    let (y, table) = (tensor(&[3, 2]), tensor(&[5, 2]));
    Reference.embedding_forward(&y, &indices(&[3], &[0, 4, 1]), &table).unwrap();
    let ids = indices(&[3], &[0, 5, 1]);
    refused("ids has 5, which is not below 5", &y, || Reference.embedding_forward(&y, &ids, &table));
    refused("ids has 5", &table, || Reference.embedding_backward(&table, &ids, &y));
    refused("rows has 5", &y, || Reference.gather_forward(&y, &table, &ids));
    refused("rows has 5", &table, || Reference.gather_backward(&table, &y, &ids));
    // The host backend refuses the same.
    let cpu = Cpu::new();
    let tensor = |dims: &[usize]| cpu.tensor(Dtype::F32, dims).unwrap();
    let message = cpu.embedding_forward(&tensor(&[3, 2]), &ids, &tensor(&[5, 2])).unwrap_err().to_string();
    assert!(message.contains("ids has 5"), "{message}");
    let (loss, weights, scratch) = (tensor(&[1]), tensor(&[3]), tensor(&[1, 5]));
    let call = cpu.linear_cross_entropy(&loss, None, &tensor(&[3, 2]), &tensor(&[5, 2]), &ids, &weights, &scratch);
    assert!(call.unwrap_err().to_string().contains("targets has 5"));
}

fn no_indices(_: &Tensor) -> Result<Vec<u32>> {
    panic!("the cost does not depend on indices")
}

#[test]
fn work_counts_operations_and_fewest_bytes() {
    let cpu = Cpu::new();
    let tensor = |dims: &[usize]| cpu.tensor(Dtype::F32, dims).unwrap();
    let (out, a, b) = (tensor(&[3, 5]), tensor(&[3, 7]), tensor(&[5, 7]));
    let product = |addend| GemmOp { layout: Gemm::Nt, out: &out, a: &a, b: &b, addend }.work(&no_indices).unwrap();
    assert_eq!(product(None), Work { matrix: 2 * 105, scalar: 0, bytes: 4 * (15 + 21 + 35) });
    assert_eq!(product(Some(&out)), Work { matrix: 2 * 105, scalar: 15, bytes: 4 * (15 + 15 + 21 + 35) });
    // Only the rows that ids name are moved, each once.
    let (y, table, ids) = (tensor(&[4, 2]), tensor(&[1000, 2]), indices(&[4], &[7, 1, 7, 0]));
    let read = |t: &Tensor| Ok(Reference.host_indices(t).unwrap().to_vec());
    let lookup = EmbeddingForward { y: &y, ids: &ids, table: &table }.work(&read).unwrap();
    assert_eq!(lookup.bytes, 4 * (8 + 4 + 6));
    let gradient = EmbeddingBackward { dtable: &table, ids: &ids, dy: &y }.work(&read).unwrap();
    assert_eq!(gradient, Work { matrix: 0, scalar: 8, bytes: 4 * (2 * 6 + 4 + 8) });
    // The copy of the masters is no second buffer where both are one.
    let [master, m, v, grads, params] = [(); 5].map(|()| tensor(&[8]));
    let (squares, losses) = (tensor(&[1]), tensor(&[2]));
    let update = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, weight_decay: 0.0, max_norm: 1.0, step: 1 };
    let adamw = |params| {
        let op = AdamwOp {
            params,
            master: &master,
            m: &m,
            v: &v,
            grads: &grads,
            squares: &squares,
            losses: &losses,
            update: &update,
        };
        op.work(&no_indices).unwrap().bytes
    };
    assert_eq!(adamw(&master), 4 * (3 * 2 * 8 + 8 + 1 + 2));
    assert_eq!(adamw(&params), 4 * (8 + 3 * 2 * 8 + 8 + 1 + 2));
}

/// Attention costs what its queries see: a prefix of 3, candidates of 2 and 1, and a row of 4 by itself.
#[test]
fn work_of_attention_counts_what_is_visible() {
    let span = |queries: [u32; 2], own: [u32; 2], prefix: u32, row| Span {
        query_start: queries[0],
        queries: queries[1],
        own_start: own[0],
        own: own[1],
        prefix_start: 0,
        prefix,
        row,
        reserved: 0,
    };
    let spans = [
        span([0, 3], [0, 3], 0, 0),
        span([3, 2], [3, 2], 3, 0),
        span([5, 1], [5, 1], 3, 0),
        span([6, 4], [6, 4], 0, 1),
    ];
    let tokens: Vec<u32> = (0..10).collect();
    attention::check_spans(&spans, &tokens, 10).unwrap();
    let visible = (1 + 2 + 3) + (4 + 5) + 4 + (1 + 2 + 3 + 4);
    assert_eq!(attention::visible_pairs(&spans, &tokens), visible);
    assert_eq!(attention::seen_keys(&spans, &tokens, 10), 10);
    // The last of the first candidate and of the second row do not ask; nor does anyone of the second candidate.
    let some = [0, 1, 2, 3, 6, 7, 8];
    let of_some = [
        span([0, 3], [0, 3], 0, 0),
        span([3, 1], [3, 2], 3, 0),
        span([4, 0], [5, 1], 3, 0),
        span([4, 3], [6, 4], 0, 1),
    ];
    attention::check_spans(&of_some, &some, 10).unwrap();
    assert_eq!(attention::seen_keys(&of_some, &some, 10), 7);
    let heads = Heads { query: 4, kv: 2, dim: 6 };
    let (q, kv) = (tensor(&[2, 10, 2, 6]), tensor(&[2, 10, 6]));
    let (out, lse) = (tensor(&[10, 24]), tensor(&[2, 10, 2]));
    let (spans, tokens) = (indices(&[4, 8], bytemuck::cast_slice(&spans)), indices(&[10], &tokens));
    let args = AttentionArgs { heads, spans: &spans, query_tokens: &tokens, scale: 1.0 };
    let read = |t: &Tensor| Ok(Reference.host_indices(t).unwrap().to_vec());
    let forward = AttentionForward { out: &out, lse: &lse, q: &q, k: &kv, v: &kv, args }.work(&read).unwrap();
    assert_eq!(forward.matrix, 2 * 2 * 6 * 4 * visible);
    let op = AttentionBackward { dqkv: [&q, &kv, &kv], dout: &out, out: &out, lse: &lse, qkv: [&q, &kv, &kv], args };
    assert_eq!(op.work(&read).unwrap().matrix, 5 * 2 * 6 * 4 * visible);
}
