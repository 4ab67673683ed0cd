//! RMSNorm. The mean of squares has no cancellation, so `rstd` and `y` are relatively accurate: half the error of the
//! sum, and a few roundings. The gradient of `x` is a difference whose terms are each as accurate as that.

use polar_raw::backend::Operations;

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Spec, input, result, sum_error, updated};
use crate::draw::{Class, Draw};

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "rmsnorm_forward", cases: forward }, Row { operation: "rmsnorm_backward", cases: backward }];

const EPS: f64 = 1e-5;

fn shapes() -> impl Iterator<Item = (usize, usize, f64)> {
    // Sizes of the rows' elements too: large, as a deep residual stream has them, and so small that `eps` counts, which
    // a row of one element needs: without it, its gradient is 0.
    super::MATRICES.into_iter().enumerate().map(|(i, (rows, cols))| (rows, cols, [1e-3, 1.0, 300.0][i % 3]))
}

fn statistics(x: &[f64], cols: usize) -> Vec<f64> {
    x.chunks(cols).map(|x| 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / cols as f64 + EPS).sqrt()).collect()
}

fn relative(cols: usize, draw: &Draw) -> f64 {
    sum_error(cols, draw.sum_eps()) + 4.0 * draw.sum_eps()
}

/// The model of a row's inverse root mean square.
pub fn inverse_rms(a: &mut Arithmetic, x: &[f64], eps: f64) -> f64 {
    let squares = a.total(x.iter().map(|x| x * x));
    let mean = a.single(squares / x.len() as f64 + eps);
    a.function(1.0 / mean.sqrt())
}

/// The model of the backward pass: what is added to `dx`, stored, and to `dweight`.
fn gradients(a: &mut Arithmetic, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (mut dx, mut dweight, dy, rstd, weight) = (x[0].clone(), x[1].clone(), &x[2], &x[4], &x[5]);
    let x = &x[3];
    let cols = weight.len();
    let mut normal = Vec::with_capacity(x.len());
    for (t, &rstd) in rstd.iter().enumerate() {
        let row = t * cols..(t + 1) * cols;
        let n: Vec<f64> = x[row.clone()].iter().map(|x| a.single(x * rstd)).collect();
        let wdy: Vec<f64> = dy[row.clone()].iter().zip(weight).map(|(dy, w)| a.single(dy * w)).collect();
        // Of a row's only element the product is next to nothing, where `eps` is most of the mean square.
        let products = (0..cols).map(|j| n[j] * wdy[j]);
        let product = if cols > 1 { a.total(products) } else { a.chain(products) };
        let mean = a.single(product / cols as f64);
        for (j, dx) in dx[row].iter_mut().enumerate() {
            let difference = a.chain([wdy[j], -n[j] * mean]);
            let sum = a.chain([*dx, rstd * difference]);
            *dx = a.float(sum);
        }
        normal.extend(n);
    }
    for (j, dweight) in dweight.iter_mut().enumerate() {
        let sum = a.add(*dweight, (0..rstd.len()).map(|t| normal[t * cols + j] * dy[t * cols + j]));
        *dweight = a.single(sum);
    }
    vec![dx, dweight]
}

pub fn forward() -> Vec<Spec> {
    let spec = |(rows, cols, size): (usize, usize, f64)| {
        Spec::new(format!("{rows}x{cols} of {size}"), super::small(rows * cols), move |draw| {
            let relative = relative(cols, draw);
            let operands = vec![
                result(&[rows, cols], Allowed::Relative(relative)),
                result(&[rows], Allowed::Relative(relative)),
                input(&[rows, cols], draw.within(Class::Float, rows * cols, size)),
                input(&[cols], draw.values(Class::Float, cols)),
            ];
            Case::modelled(
                operands,
                |backend, x| backend.rmsnorm_forward(&x[0], &x[1], &x[2], &x[3], EPS),
                |a, x| {
                    let (x, weight) = (&x[2], &x[3]);
                    let (mut y, mut rstds) = (Vec::with_capacity(x.len()), Vec::new());
                    for x in x.chunks(weight.len()) {
                        let rstd = inverse_rms(a, x, EPS);
                        for (x, weight) in x.iter().zip(weight) {
                            let n = a.single(x * rstd);
                            y.push(a.float(n * weight));
                        }
                        rstds.push(rstd);
                    }
                    vec![y, rstds]
                },
            )
        })
    };
    shapes().map(spec).collect()
}

pub fn backward() -> Vec<Spec> {
    let spec = |(rows, cols, size): (usize, usize, f64)| {
        Spec::new(format!("{rows}x{cols} of {size}"), super::small(rows * cols), move |draw| {
            let (x, weight) = (draw.within(Class::Float, rows * cols, size), draw.values(Class::Float, cols));
            let rstd = draw.round(Class::Sum, &statistics(&x, cols));
            let dy = draw.values(Class::Float, rows * cols);
            // As large as what is added to it, which would otherwise be lost in its rounding, or it in that of the sum.
            let dx = draw.within(Class::Float, rows * cols, 1.0 / (size * size / 3.0 + EPS).sqrt());
            let dweight = draw.values(Class::Sum, cols);
            let (mut dx_scale, mut dweight_scale): (Vec<f64>, Vec<f64>) =
                (dx.iter().map(|x| x.abs()).collect(), dweight.iter().map(|x| x.abs()).collect());
            for t in 0..rows {
                let n = |j: usize| (x[t * cols + j] * rstd[t]).abs();
                let wdy = |j: usize| (weight[j] * dy[t * cols + j]).abs();
                let mean = (0..cols).map(|j| n(j) * wdy(j)).sum::<f64>() / cols as f64;
                for j in 0..cols {
                    dx_scale[t * cols + j] += rstd[t] * (wdy(j) + n(j) * mean);
                    dweight_scale[j] += n(j) * dy[t * cols + j].abs();
                }
            }
            let each = |scale: &[f64], terms| {
                let error = relative(terms, draw);
                Allowed::Each(scale.iter().map(|s| s * error).collect())
            };
            let operands = vec![
                updated(&[rows, cols], dx, each(&dx_scale, cols)),
                updated(&[cols], dweight, each(&dweight_scale, rows)),
                input(&[rows, cols], dy),
                input(&[rows, cols], x),
                input(&[rows], rstd),
                input(&[cols], weight),
            ];
            Case::modelled(
                operands,
                |backend, x| backend.rmsnorm_backward(&x[0], &x[1], &x[2], &x[3], &x[4], &x[5]),
                gradients,
            )
        })
    };
    shapes().map(spec).collect()
}
