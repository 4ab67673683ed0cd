//! What the benches of the kernels share: the machine, the models' shapes, launches by hand, time and tables.

pub mod clocks;
pub mod launches;
pub mod machine;
pub mod shapes;
pub mod table;
pub mod timing;
