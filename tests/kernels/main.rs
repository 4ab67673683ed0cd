//! Every kernel of the committed PTX, executed and compared with the f64 reference over ragged shapes.
//!
//! Inputs are drawn in the kernels' own types, so that both sides see the same numbers; outputs are poisoned with NaN
//! before. These are the kernels alone, launched by hand: what a backend makes of them is `tools/verify`'s.

mod attention;
mod counters;
mod device;
mod flat;
mod gemm;
mod heads;
mod rows;
mod values;
