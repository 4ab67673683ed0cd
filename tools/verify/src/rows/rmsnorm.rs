//! RMSNorm. The mean of squares has no cancellation, so `rstd` and `y` are relatively accurate: half the error of the
//! sum, and a few roundings. The gradient of `x` is a difference whose terms are each as accurate as that.

use polar_raw::backend::Operations;

use crate::case::{Allowed, Case, Spec, overwritten, read, sum_error, updated};
use crate::draw::{Class, Draw};

const EPS: f64 = 1e-5;

fn shapes() -> impl Iterator<Item = (usize, usize, f64)> {
    // Sizes of the rows' elements too: large, as a deep residual stream has them, and so small that `eps` counts.
    super::MATRICES.into_iter().enumerate().map(|(i, (rows, cols))| (rows, cols, [1.0, 300.0, 1e-3][i % 3]))
}

fn statistics(x: &[f64], cols: usize) -> Vec<f64> {
    x.chunks(cols).map(|x| 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / cols as f64 + EPS).sqrt()).collect()
}

fn relative(cols: usize, draw: &Draw) -> f64 {
    sum_error(cols, draw.sum_eps()) + 4.0 * draw.sum_eps()
}

pub fn forward() -> Vec<Spec> {
    let spec = |(rows, cols, size): (usize, usize, f64)| {
        Spec::new(format!("{rows}x{cols} of {size}"), super::small(rows * cols), move |draw| {
            let relative = relative(cols, draw);
            let operands = vec![
                overwritten("y", Class::Float, &[rows, cols], Allowed::Relative(relative)),
                overwritten("rstd", Class::Sum, &[rows], Allowed::Relative(relative)),
                read("x", Class::Float, &[rows, cols], draw.within(Class::Float, rows * cols, size)),
                read("weight", Class::Float, &[cols], draw.values(Class::Float, cols)),
            ];
            Case::new(operands, |backend, x| backend.rmsnorm_forward(&x[0], &x[1], &x[2], &x[3], EPS))
        })
    };
    shapes().map(spec).collect()
}

pub fn backward() -> Vec<Spec> {
    let spec = |(rows, cols, size): (usize, usize, f64)| {
        Spec::new(format!("{rows}x{cols} of {size}"), super::small(rows * cols), move |draw| {
            let (x, weight) = (draw.within(Class::Float, rows * cols, size), draw.values(Class::Float, cols));
            let rstd = draw.round(Class::Sum, &statistics(&x, cols));
            let (dy, dx) = (draw.values(Class::Float, rows * cols), draw.values(Class::Float, rows * cols));
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
                updated("dx", Class::Float, &[rows, cols], dx, each(&dx_scale, cols)),
                updated("dweight", Class::Sum, &[cols], dweight, each(&dweight_scale, rows)),
                read("dy", Class::Float, &[rows, cols], dy),
                read("x", Class::Float, &[rows, cols], x),
                read("rstd", Class::Sum, &[rows], rstd),
                read("weight", Class::Float, &[cols], weight),
            ];
            Case::new(operands, |backend, x| backend.rmsnorm_backward(&x[0], &x[1], &x[2], &x[3], &x[4], &x[5]))
        })
    };
    shapes().map(spec).collect()
}
