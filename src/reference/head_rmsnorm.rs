//! RMSNorm of each head's queries or keys: Qwen3, arXiv 2505.09388, section 2; the formula is equation 4 of arXiv
//! 1910.07467.

use super::{Reference, values, values_mut, vectors, vectors_mut};
use crate::error::Result;
use crate::ops::{HeadRmsnormBackward, HeadRmsnormForward, Run};

/// `y = x rstd weight` with `rstd = 1 / sqrt(mean(x^2) + eps)`, vector by vector.
pub fn forward(y: &mut [&mut [f64]], rstd: &mut [f64], x: &[&[f64]], weight: &[f64], eps: f64) {
    for i in 0..x.len() {
        let mean_square = x[i].iter().map(|x| x * x).sum::<f64>() / weight.len() as f64;
        rstd[i] = 1.0 / (mean_square + eps).sqrt();
        for j in 0..weight.len() {
            y[i][j] = x[i][j] * rstd[i] * weight[j];
        }
    }
}

/// With `n = x rstd`, `y = n weight`; from `d rstd / d x_j = -rstd^3 x_j / D` follows
/// `dx = rstd (weight dy - n mean(n weight dy))` and `dweight += sum n dy`, over the vectors of all heads and tokens.
pub fn backward(dx: &mut [&mut [f64]], dweight: &mut [f64], dy: &[&[f64]], x: &[&[f64]], rstd: &[f64], weight: &[f64]) {
    let dim = weight.len();
    for i in 0..x.len() {
        let n = |j: usize| x[i][j] * rstd[i];
        let mean = (0..dim).map(|j| n(j) * weight[j] * dy[i][j]).sum::<f64>() / dim as f64;
        for j in 0..dim {
            dx[i][j] = rstd[i] * (weight[j] * dy[i][j] - n(j) * mean);
            dweight[j] += n(j) * dy[i][j];
        }
    }
}

impl Run<HeadRmsnormForward<'_>> for Reference {
    fn run(&self, op: &HeadRmsnormForward) -> Result<()> {
        let HeadRmsnormForward { y, rstd, x, weight, eps } = *op;
        let dim = weight.len();
        forward(&mut vectors_mut(y, dim), values_mut(rstd), &vectors(x, dim), values(weight), eps);
        Ok(())
    }
}

impl Run<HeadRmsnormBackward<'_>> for Reference {
    fn run(&self, op: &HeadRmsnormBackward) -> Result<()> {
        let HeadRmsnormBackward { dx, dweight, dy, x, rstd, weight } = *op;
        let dim = weight.len();
        let (dx, dweight) = (&mut vectors_mut(dx, dim), values_mut(dweight));
        backward(dx, dweight, &vectors(dy, dim), &vectors(x, dim), values(rstd), values(weight));
        Ok(())
    }
}
