//! The table: for every operation of `polar_raw::ops` the shapes it is tried on and what its results may be off.

mod adamw;
mod attention;
mod bias;
mod copy;
mod embedding;
mod fill;
mod gather;
mod gemm;
mod global_norm;
mod linear_cross_entropy;
mod reward_head;
mod rmsnorm;
mod rope;
mod swiglu;

use crate::case::Spec;

/// One operation and its cases.
pub struct Row {
    /// Its name.
    pub operation: &'static str,
    /// Its cases.
    pub cases: fn() -> Vec<Spec>,
}

/// Every operation, in the order of `polar_raw::ops`.
pub fn table() -> Vec<Row> {
    let row = |operation, cases| Row { operation, cases };
    vec![
        row("copy", copy::cases),
        row("fill", fill::cases),
        row("gemm", gemm::cases),
        row("gemm_swiglu_forward", gemm::swiglu_forward),
        row("gemm_swiglu_backward", gemm::swiglu_backward),
        row("bias_forward", bias::forward),
        row("bias_backward", bias::backward),
        row("embedding_forward", embedding::forward),
        row("embedding_backward", embedding::backward),
        row("rmsnorm_forward", rmsnorm::forward),
        row("rmsnorm_backward", rmsnorm::backward),
        row("rope_forward", rope::forward),
        row("rope_backward", rope::backward),
        row("attention_forward", attention::forward),
        row("attention_backward", attention::backward),
        row("swiglu_forward", swiglu::forward),
        row("swiglu_backward", swiglu::backward),
        row("gather_forward", gather::forward),
        row("gather_backward", gather::backward),
        row("reward_head_forward", reward_head::forward),
        row("reward_head_loss", reward_head::loss),
        row("linear_cross_entropy", linear_cross_entropy::cases),
        row("global_norm", global_norm::cases),
        row("adamw", adamw::cases),
    ]
}

/// Shapes of matrices whose rows are worked on one by one: one element, odd, around a tile, long rows, many rows.
const MATRICES: [(usize, usize); 14] = [
    (1, 1),
    (1, 7),
    (3, 5),
    (7, 64),
    (13, 63),
    (64, 65),
    (63, 127),
    (65, 128),
    (129, 129),
    (2, 4099),
    (5, 1000),
    (1021, 3),
    (1500, 96),
    (331, 517),
];

/// Whether a shape belongs to the quick table.
fn small(elements: usize) -> bool {
    elements <= 10_000
}
