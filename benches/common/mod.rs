//! What the benches of the kernels share: the machine, the models' shapes, launches by hand, time and tables.

pub mod clocks;
#[allow(dead_code, reason = "not every bench has every launch")]
pub mod launches;
pub mod machine;
pub mod shapes;
pub mod table;
pub mod timing;
