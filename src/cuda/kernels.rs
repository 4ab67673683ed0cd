//! A constant for each kernel, typed by the structure that it takes. `build.rs` makes them of the PTX and of the table
//! of kernels in `kernels/abi.h`.

use super::abi;
use super::kernel::{Entry, Kernel, Target};
use super::properties::Capability;
use super::ptx::Module;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
