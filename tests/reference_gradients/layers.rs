use approx::{abs_diff_eq, assert_abs_diff_eq, assert_abs_diff_ne};
use polar_raw::backend::{BackendExt, Gemm, Heads, Operations, Qkv};
use polar_raw::reference::Reference;
use polar_raw::tensor::Tensor;

use super::{BASE, Random, assert_gradient, dot, full, indices, poisoned, read};

/// `out = a op b` with its three layouts: the gradients of one are products of the two others.
#[test]
fn gemm() {
    let mut random = Random::new("gemm");
    let (m, n, k) = (3, 5, 4);
    let (a, b, dout) = (random.tensor(&[m, k]), random.tensor(&[n, k]), random.tensor(&[m, n]));
    let out = poisoned(&[m, n]);
    let objective = || {
        Reference.gemm(Gemm::Nt, &out, &a, &b, None).unwrap();
        dot(&out, &dout)
    };
    let (da, db) = (poisoned(&[m, k]), full(&[n, k], BASE));
    Reference.gemm(Gemm::Nn, &da, &dout, &b, None).unwrap();
    Reference.gemm(Gemm::Tn, &db, &dout, &a, Some(&db)).unwrap();
    assert_gradient("a", &objective, &a, &da, 0.0);
    assert_gradient("b", &objective, &b, &db, BASE);
}

/// Another matrix is added, and stays as it was.
#[test]
fn gemm_with_an_addend() {
    let mut random = Random::new("gemm addend");
    let (a, b, addend) = (random.tensor(&[3, 4]), random.tensor(&[5, 4]), random.tensor(&[3, 5]));
    let (product, out, before) = (poisoned(&[3, 5]), poisoned(&[3, 5]), read(&addend));
    Reference.gemm(Gemm::Nt, &product, &a, &b, None).unwrap();
    Reference.gemm(Gemm::Nt, &out, &a, &b, Some(&addend)).unwrap();
    for ((out, product), addend) in read(&out).iter().zip(read(&product)).zip(&before) {
        assert_abs_diff_eq!(*out, product + addend, epsilon = 1e-14);
    }
    assert_eq!(read(&addend), before);
    assert!(Reference.gemm(Gemm::Nt, &out, &a, &b, Some(&addend.slice_rows(0..2))).is_err());
}

/// The feed-forward network: its gradient by gate and up, from that of its result.
#[test]
fn gemm_swiglu() {
    let mut random = Random::new("gemm swiglu");
    let (x, w13, w2) = (random.tensor(&[3, 4]), random.tensor(&[10, 4]), random.tensor(&[6, 5]));
    let (y, gate_up, dout) = (poisoned(&[3, 5]), poisoned(&[3, 10]), random.tensor(&[3, 6]));
    Reference.gemm_swiglu_forward(&y, &gate_up, &x, &w13).unwrap();
    let (product, silu, out) = (poisoned(&[3, 10]), poisoned(&[3, 5]), poisoned(&[3, 6]));
    Reference.gemm(Gemm::Nt, &product, &x, &w13, None).unwrap();
    assert_eq!(read(&gate_up), read(&product));
    let objective = || {
        Reference.swiglu_forward(&silu, &product).unwrap();
        Reference.gemm(Gemm::Nt, &out, &silu, &w2, None).unwrap();
        dot(&out, &dout)
    };
    objective();
    assert_eq!(read(&y), read(&silu));
    Reference.gemm_swiglu_backward(&gate_up, &y, &dout, &w2).unwrap();
    assert_gradient("gate and up", &objective, &product, &gate_up, 0.0);
}

/// Operands may be bands of columns, and what lies beside a band stays as it was.
#[test]
fn gemm_of_bands() {
    let mut random = Random::new("gemm bands");
    let (wide, a, b) = (full(&[3, 9], BASE), random.tensor(&[3, 7]), random.tensor(&[4, 6]));
    let (out, a, b) = (wide.slice_cols(2..6), a.slice_cols(1..6), b.slice_cols(0..5));
    Reference.gemm(Gemm::Nt, &out, &a, &b, Some(&out)).unwrap();
    let at = |t: &Tensor, i: usize, j: usize| read(&t.slice_rows(i..i + 1))[j];
    for i in 0..3 {
        for j in 0..9 {
            let sum = |j: usize| (0..5).map(|k| at(&a, i, k) * at(&b, j, k)).sum::<f64>();
            let expected = BASE + if (2..6).contains(&j) { sum(j - 2) } else { 0.0 };
            assert!(abs_diff_eq!(at(&wide, i, j), expected, epsilon = 1e-14), "{i} {j}");
        }
    }
}

/// A bias, and one in parts that lie in a wider matrix.
#[test]
fn bias() {
    let mut random = Random::new("bias");
    for columns in [0..4, 1..3] {
        let (y, dy) = (random.tensor(&[5, 3 * columns.len()]), random.tensor(&[5, 3 * columns.len()]));
        let (wide, dwide) = (random.tensor(&[3, 4]), full(&[3, 4], BASE));
        let (bias, dbias) = (wide.slice_cols(columns.clone()), dwide.slice_cols(columns));
        let before = read(&y);
        let objective = || {
            Reference.write_f64(&y, &before).unwrap();
            Reference.bias_forward(&y, &bias).unwrap();
            dot(&y, &dy)
        };
        Reference.bias_backward(&dbias, &dy).unwrap();
        // Elements of the wider matrix that are no part of the bias have no gradient.
        assert_gradient("bias", &objective, &wide, &dwide, BASE);
    }
}

#[test]
fn embedding() {
    let mut random = Random::new("embedding");
    let (ids, table, dy) = (indices(&[4], &[2, 0, 2, 4]), random.tensor(&[5, 3]), random.tensor(&[4, 3]));
    let y = poisoned(&[4, 3]);
    let objective = || {
        Reference.embedding_forward(&y, &ids, &table).unwrap();
        dot(&y, &dy)
    };
    let dtable = full(&[5, 3], BASE);
    Reference.embedding_backward(&dtable, &ids, &dy).unwrap();
    assert_gradient("table", &objective, &table, &dtable, BASE);
}

#[test]
fn rmsnorm() {
    let mut random = Random::new("rmsnorm");
    let (x, weight, dy) = (random.tensor(&[4, 6]), random.tensor(&[6]), random.tensor(&[4, 6]));
    let (y, rstd) = (poisoned(&[4, 6]), poisoned(&[4]));
    let objective = || {
        Reference.rmsnorm_forward(&y, &rstd, &x, &weight, 1e-2).unwrap();
        dot(&y, &dy)
    };
    objective();
    let (dx, dweight) = (full(&[4, 6], BASE), full(&[6], BASE));
    Reference.rmsnorm_backward(&dx, &dweight, &dy, &x, &rstd, &weight).unwrap();
    assert_gradient("x", &objective, &x, &dx, BASE);
    assert_gradient("weight", &objective, &weight, &dweight, BASE);
}

/// Queries and keys; all heads have one weight.
#[test]
fn head_rmsnorm() {
    let mut random = Random::new("head rmsnorm");
    for heads in [&[2, 3, 2][..], &[2, 3]] {
        let dims = &[heads, &[6]].concat()[..];
        let (x, weight, dy) = (random.tensor(dims), random.tensor(&[6]), random.tensor(dims));
        let (y, rstd) = (poisoned(dims), poisoned(heads));
        let objective = || {
            Reference.head_rmsnorm_forward(&y, &rstd, &x, &weight, 1e-2).unwrap();
            dot(&y, &dy)
        };
        objective();
        let (dx, dweight) = (poisoned(dims), full(&[6], BASE));
        Reference.head_rmsnorm_backward(&dx, &dweight, &dy, &x, &rstd, &weight).unwrap();
        assert_gradient("x", &objective, &x, &dx, 0.0);
        assert_gradient("weight", &objective, &weight, &dweight, BASE);
    }
}

/// All parts of the projection, the queries alone and the keys and values alone.
#[test]
fn rope() {
    let mut random = Random::new("rope");
    let (rows, heads, theta) = (3, Heads { query: 4, kv: 2, dim: 6 }, 100.0_f64);
    let positions = indices(&[rows], &[0, 7, 3]);
    let dims = ([2, rows, 2, 6], [2, rows, 6]);
    let (q, k, v) = (poisoned(&dims.0), poisoned(&dims.1), poisoned(&dims.1));
    let (dq, dk, dv) = (random.tensor(&dims.0), random.tensor(&dims.1), random.tensor(&dims.1));
    for (with_q, with_kv, columns) in [(true, true, 24), (true, false, 12), (false, true, 12)] {
        let (src, dsrc) = (random.tensor(&[rows, 2 * columns]), poisoned(&[rows, 2 * columns]));
        let (dst, grads) = (
            Qkv { q: with_q.then_some(&q), kv: with_kv.then_some((&k, &v)) },
            Qkv { q: with_q.then_some(&dq), kv: with_kv.then_some((&dk, &dv)) },
        );
        let objective = || {
            Reference.rope_forward(dst, &src, &positions, heads, theta.into()).unwrap();
            let q = if with_q { dot(&q, &dq) } else { 0.0 };
            q + if with_kv { dot(&k, &dk) + dot(&v, &dv) } else { 0.0 }
        };
        Reference.rope_backward(&dsrc, grads, &positions, heads, theta.into()).unwrap();
        assert_gradient("src", &objective, &src, &dsrc, 0.0);
    }
}

/// What makes it a position embedding: the product of a query and a key depends on their distance alone, and a
/// distance of a quarter turn moves the first half of the coordinates into the second.
#[test]
fn rope_sees_distances() {
    let mut random = Random::new("rope distances");
    let heads = Heads { query: 1, kv: 1, dim: 4 };
    let src = random.tensor(&[1, 12]);
    let (q, k, v) = (poisoned(&[1, 1, 1, 4]), poisoned(&[1, 1, 4]), poisoned(&[1, 1, 4]));
    let turned = |position: u32| {
        let dst = Qkv { q: Some(&q), kv: Some((&k, &v)) };
        Reference.rope_forward(dst, &src, &indices(&[1], &[position]), heads, 50.0_f64.into()).unwrap();
        (read(&q), read(&k))
    };
    let product = |i: u32, j: u32| turned(i).0.iter().zip(turned(j).1).map(|(q, k)| q * k).sum::<f64>();
    // Angles are rounded to f32.
    assert_abs_diff_eq!(product(9, 4), product(5, 0), epsilon = 1e-5);
    assert_abs_diff_ne!(product(9, 4), product(4, 9), epsilon = 1e-3);
    // Frequencies are theta^(-2 i / D): 1 and 50^(-1/2), rounded to f32.
    let (at, angle) = (read(&src), [3.0f64, 3.0 / 50f64.sqrt()]);
    let expected = at[1] * angle[1].cos() - at[3] * angle[1].sin();
    assert_abs_diff_eq!(turned(3).0[1], expected, epsilon = 1e-6);
    let expected = at[2] * angle[0].cos() + at[0] * angle[0].sin();
    assert_abs_diff_eq!(turned(3).0[2], expected, epsilon = 1e-12);
}

#[test]
fn swiglu() {
    let mut random = Random::new("swiglu");
    let (gate_up, dy, y) = (random.tensor(&[3, 10]), random.tensor(&[3, 5]), poisoned(&[3, 5]));
    let objective = || {
        Reference.swiglu_forward(&y, &gate_up).unwrap();
        dot(&y, &dy)
    };
    let dgate_up = poisoned(&[3, 10]);
    Reference.swiglu_backward(&dgate_up, &dy, &gate_up).unwrap();
    assert_gradient("gate_up", &objective, &gate_up, &dgate_up, 0.0);
    Reference.swiglu_backward(&gate_up, &dy, &gate_up).unwrap();
    assert_eq!(read(&gate_up), read(&dgate_up), "in place");
}

#[test]
fn gather() {
    let mut random = Random::new("gather");
    let (x, rows, dy) = (random.tensor(&[5, 3]), indices(&[3], &[4, 0, 2]), random.tensor(&[3, 3]));
    let y = poisoned(&[3, 3]);
    let objective = || {
        Reference.gather_forward(&y, &x, &rows).unwrap();
        dot(&y, &dy)
    };
    let dx = full(&[5, 3], BASE);
    Reference.gather_backward(&dx, &dy, &rows).unwrap();
    assert_gradient("x", &objective, &x, &dx, BASE);
}
