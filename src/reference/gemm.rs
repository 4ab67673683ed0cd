//! Matrix products.

use crate::backend::Gemm;

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
