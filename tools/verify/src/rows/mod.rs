//! The table: for every operation of `polar_raw::ops` the shapes it is tried on and what its results may be off.

use crate::case::Spec;

/// One operation and its cases.
pub struct Row {
    /// Its name.
    pub operation: &'static str,
    /// Its cases.
    pub cases: fn() -> Vec<Spec>,
}

/// Of the list of operations: a module for the file of each, and the table of their rows.
macro_rules! rows {
    ($($module:ident { $($operations:tt)* })*) => {
        $(mod $module;)*

        /// Every operation, in the order of `polar_raw::ops`.
        pub fn table() -> Vec<&'static Row> {
            [$($module::ROWS),*].into_iter().flatten().collect()
        }
    };
}
polar_raw::operations!(rows);

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
