//! Root mean square layer normalisation: Zhang and Sennrich, arXiv 1910.07467, equation 4.

use super::{Reference, rows, rows_mut, values, values_mut};
use crate::error::Result;
use crate::ops::{RmsnormBackward, RmsnormForward, Run};

/// `y = x rstd weight` with `rstd = 1 / sqrt(mean(x^2) + eps)`, row by row.
pub fn forward(y: &mut [&mut [f64]], rstd: &mut [f64], x: &[&[f64]], weight: &[f64], eps: f64) {
    for t in 0..x.len() {
        let mean_square = x[t].iter().map(|x| x * x).sum::<f64>() / x[t].len() as f64;
        rstd[t] = 1.0 / (mean_square + eps).sqrt();
        for j in 0..x[t].len() {
            y[t][j] = x[t][j] * rstd[t] * weight[j];
        }
    }
}

/// With `n = x rstd`, `y = n weight`; from `d rstd / d x_j = -rstd^3 x_j / N` follows
/// `dx += rstd (weight dy - n mean(n weight dy))` and `dweight += sum_t n dy`.
pub fn backward(dx: &mut [&mut [f64]], dweight: &mut [f64], dy: &[&[f64]], x: &[&[f64]], rstd: &[f64], weight: &[f64]) {
    for t in 0..x.len() {
        let columns = x[t].len();
        let n = |j: usize| x[t][j] * rstd[t];
        let mean = (0..columns).map(|j| n(j) * weight[j] * dy[t][j]).sum::<f64>() / columns as f64;
        for j in 0..columns {
            dx[t][j] += rstd[t] * (weight[j] * dy[t][j] - n(j) * mean);
            dweight[j] += n(j) * dy[t][j];
        }
    }
}

impl Run<RmsnormForward<'_>> for Reference {
    fn run(&self, op: &RmsnormForward) -> Result<()> {
        forward(&mut rows_mut(op.y), values_mut(op.rstd), &rows(op.x), values(op.weight), op.eps);
        Ok(())
    }
}

impl Run<RmsnormBackward<'_>> for Reference {
    fn run(&self, op: &RmsnormBackward) -> Result<()> {
        let RmsnormBackward { dx, dweight, dy, x, rstd, weight } = *op;
        let (dx, dweight) = (&mut rows_mut(dx), values_mut(dweight));
        backward(dx, dweight, &rows(dy), &rows(x), values(rstd), values(weight));
        Ok(())
    }
}
