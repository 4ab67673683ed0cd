//! Matrix products.

use super::{Reference, rows, rows_mut};
use crate::backend::{Gemm, Operations};
use crate::error::Result;
use crate::ops::{GemmOp, GemmSwigluBackward, GemmSwigluForward, Run};

/// `out[m][n] = sum_k op(a)[m][k] op(b)[k][n] + addend[m][n]`, where `layout` says which operand is stored transposed.
pub fn gemm(layout: Gemm, out: &mut [&mut [f64]], a: &[&[f64]], b: &[&[f64]], k: usize, addend: Option<&[Vec<f64>]>) {
    for m in 0..out.len() {
        for n in 0..out[m].len() {
            let mut sum = addend.map_or(0.0, |addend| addend[m][n]);
            for k in 0..k {
                sum += match layout {
                    Gemm::Nt => a[m][k] * b[n][k],
                    Gemm::Nn => a[m][k] * b[k][n],
                    Gemm::Tn => a[k][m] * b[k][n],
                };
            }
            out[m][n] = sum;
        }
    }
}

impl Run<GemmOp<'_>> for Reference {
    fn run(&self, op: &GemmOp) -> Result<()> {
        // A copy, because the addend may be the result's own place.
        let addend: Option<Vec<Vec<f64>>> = op.addend.map(|t| rows(t).into_iter().map(<[f64]>::to_vec).collect());
        gemm(op.layout, &mut rows_mut(op.out), &rows(op.a), &rows(op.b), op.shape().2, addend.as_deref());
        Ok(())
    }
}

impl Run<GemmSwigluForward<'_>> for Reference {
    fn run(&self, op: &GemmSwigluForward) -> Result<()> {
        op.unfused().into_iter().try_for_each(|op| self.submit(op))
    }
}

impl Run<GemmSwigluBackward<'_>> for Reference {
    fn run(&self, op: &GemmSwigluBackward) -> Result<()> {
        op.unfused().into_iter().try_for_each(|op| self.submit(op))
    }
}
