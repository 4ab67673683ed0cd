use polar_raw::backend::{AdamW, Operations};
use polar_raw::reference::Reference;

use super::{Random, full, holding, indices, poisoned, read};

#[test]
fn sum_of_squares() {
    let (sum, x) = (poisoned(&[1]), holding(&[4], &[1.0, -2.0, 4.0, 10.0]));
    Reference.sum_of_squares(&sum, &x).unwrap();
    assert_eq!(read(&sum), [121.0]);
}

#[test]
fn count_non_finite() {
    let (count, x) = (poisoned(&[1]), holding(&[5], &[f64::NAN, -2.0, f64::INFINITY, f64::MAX, f64::NEG_INFINITY]));
    Reference.count_non_finite(&count, &x).unwrap();
    assert_eq!(read(&count), [3.0]);
}

/// Nothing moves where the norm or a loss is not finite.
#[test]
fn an_update_that_is_not_finite_is_left_out() {
    let update = AdamW { lr: 1.0, beta1: 0.5, beta2: 0.5, eps: 0.0, weight_decay: 0.1, max_norm: 0.0, step: 1 };
    for (squares, losses) in
        [(f64::NAN, [0.0, 0.0]), (f64::INFINITY, [0.0, 0.0]), (1.0, [f64::NAN, 0.0]), (1.0, [0.0, f64::INFINITY])]
    {
        let (p, m, v) = (full(&[1], 2.0), full(&[1], 0.5), full(&[1], 0.25));
        let losses = holding(&[2], &losses);
        Reference.adamw(&p, &p, &m, &v, &full(&[1], 1.0), &full(&[1], squares), &losses, &update).unwrap();
        assert_eq!((read(&p)[0], read(&m)[0], read(&v)[0]), (2.0, 0.5, 0.25));
    }
}

/// Two updates worked out by hand: a gradient of 3 that is clipped to 1.5, then one of 0.5 that is not.
#[test]
fn adamw() {
    let (p, m, v, squares) = (full(&[1], 2.0), full(&[1], 0.0), full(&[1], 0.0), full(&[1], 0.0));
    let losses = full(&[2], 0.7);
    let update = |step| AdamW { lr: 0.1, beta1: 0.5, beta2: 0.75, eps: 1e-3, weight_decay: 0.25, max_norm: 1.5, step };
    let step = |number: u64, gradient: f64| {
        let g = full(&[1], gradient);
        Reference.sum_of_squares(&squares, &g).unwrap();
        Reference.adamw(&p, &p, &m, &v, &g, &squares, &losses, &update(number)).unwrap();
        (read(&p)[0], read(&m)[0], read(&v)[0])
    };
    let g = 3.0 * 1.5 / (3.0 + 1e-6);
    let (p1, m1, v1) = (2.0 * 0.975 - 0.1 * g / (g + 1e-3), 0.5 * g, 0.25 * g * g);
    let close = |got: (f64, f64, f64), expected: (f64, f64, f64)| {
        let error = (got.0 - expected.0).abs() + (got.1 - expected.1).abs() + (got.2 - expected.2).abs();
        assert!(error < 1e-12, "{got:?} and not {expected:?}");
    };
    close(step(1, 3.0), (p1, m1, v1));
    let (m2, v2) = (0.5 * m1 + 0.25, 0.75 * v1 + 0.0625);
    let p2 = p1 * 0.975 - 0.1 * (m2 / 0.75) / ((v2 / 0.4375f64).sqrt() + 1e-3);
    close(step(2, 0.5), (p2, m2, v2));
}

#[test]
fn adamw_without_a_limit_leaves_gradients_alone() {
    let (p, m, v) = (full(&[1], 0.0), full(&[1], 0.0), full(&[1], 0.0));
    let update = AdamW { lr: 1.0, beta1: 0.0, beta2: 0.0, eps: 0.0, weight_decay: 0.0, max_norm: 0.0, step: 1 };
    Reference.adamw(&p, &p, &m, &v, &full(&[1], 1e9), &full(&[1], 1e18), &full(&[1], 0.0), &update).unwrap();
    assert_eq!((read(&p)[0], read(&m)[0]), (-1.0, 1e9));
}

/// Numbers that would reach outside a tensor are errors in every operation that takes some.
#[test]
fn numbers_out_of_range_are_refused() {
    let mut random = Random::new("out of range");
    let (matrix, other, bad) = (random.tensor(&[3, 2]), random.tensor(&[2, 2]), indices(&[2], &[0, 3]));
    assert!(Reference.embedding_forward(&other, &bad, &matrix).is_err());
    assert!(Reference.embedding_backward(&matrix, &bad, &other).is_err());
    assert!(Reference.gather_forward(&other, &matrix, &bad).is_err());
    assert!(Reference.gather_backward(&matrix, &other, &bad).is_err());
    let (loss, weights, scratch) = (full(&[1], 0.0), full(&[2], 1.0), poisoned(&[1, 3]));
    assert!(Reference.linear_cross_entropy(&loss, None, &other, &matrix, &bad, &weights, &scratch).is_err());
}
