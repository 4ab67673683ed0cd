//! Every kernel of the committed PTX, executed and compared with the f64 reference over ragged shapes.
//!
//! Inputs are drawn in the kernels' own types, so that both sides see the same numbers; outputs are poisoned with NaN
//! before. These are the kernels alone, launched by hand: what a backend makes of them is `tools/verify`'s. A case is a
//! function of the kernels, because `tests/mutants` runs them too, with kernels that are wrong.

mod attention;
mod counters;
mod device;
mod flat;
mod gemm;
mod heads;
mod rows;
mod values;

/// A test for each case, which runs it with the committed kernels.
macro_rules! tests {
    ($($module:ident: $($case:ident)*;)*) => {
        mod committed {
            $(mod $module {
                $(#[test]
                fn $case() {
                    crate::$module::$case(crate::device::Kernels::committed());
                })*
            })*
        }
    };
}

tests! {
    attention:
        heads_of_2 heads_of_8_in_groups_of_3 heads_of_32 heads_of_64 heads_of_128_in_a_group_of_3 heads_of_other_sizes
        more_spans_than_lanes order_does_not_matter;
    flat:
        fill_writes_all_and_nothing_else global_norm global_norm_of_many_chunks adamw;
    gemm:
        ragged_products products_that_are_not_aligned large_tiles stages_do_not_change_a_bit many_tiles fused_with_swiglu
        fused_with_swiglu_backward;
    heads: reward_head reward_head_of_thousands linear_cross_entropy linear_cross_entropy_in_chunks;
    rows: rmsnorm_forward rmsnorm_backward head_rmsnorm bias rope embedding gather swiglu order_does_not_matter;
}
