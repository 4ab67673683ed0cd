//! The gated linear unit with Swish: Shazeer, arXiv 2002.05202, equation 5. A row of `gate_up` is `[gate | up]`.

use super::{Reference, rows, rows_mut};
use crate::error::Result;
use crate::ops::{Run, SwigluBackward, SwigluForward};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `y = silu(gate) up` with `silu(x) = x sigmoid(x)`.
pub fn forward(y: &mut [&mut [f64]], gate_up: &[&[f64]]) {
    for t in 0..y.len() {
        let (gate, up) = gate_up[t].split_at(y[t].len());
        for j in 0..y[t].len() {
            y[t][j] = gate[j] * sigmoid(gate[j]) * up[j];
        }
    }
}

/// `dup = silu(gate) dy`; with `s = sigmoid(gate)`, `silu' = s (1 + gate (1 - s))` and `dgate = silu' up dy`.
pub fn backward(dgate_up: &mut [&mut [f64]], dy: &[&[f64]], gate_up: &[Vec<f64>]) {
    for t in 0..dy.len() {
        let (gate, up) = gate_up[t].split_at(dy[t].len());
        let (dgate, dup) = dgate_up[t].split_at_mut(dy[t].len());
        for j in 0..dy[t].len() {
            let s = sigmoid(gate[j]);
            dgate[j] = s * (1.0 + gate[j] * (1.0 - s)) * up[j] * dy[t][j];
            dup[j] = gate[j] * s * dy[t][j];
        }
    }
}

impl Run<SwigluForward<'_>> for Reference {
    fn run(&self, op: &SwigluForward) -> Result<()> {
        forward(&mut rows_mut(op.y), &rows(op.gate_up));
        Ok(())
    }
}

impl Run<SwigluBackward<'_>> for Reference {
    fn run(&self, op: &SwigluBackward) -> Result<()> {
        // A copy, because the gradient may take the place of what it is the gradient of.
        let gate_up: Vec<Vec<f64>> = rows(op.gate_up).into_iter().map(<[f64]>::to_vec).collect();
        backward(&mut rows_mut(op.dgate_up), &rows(op.dy), &gate_up);
        Ok(())
    }
}
