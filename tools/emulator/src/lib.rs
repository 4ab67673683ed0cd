//! Executes PTX on the CPU, stricter than a GPU.
//!
//! ```
//! use emulator::{Config, Device};
//!
//! let ptx = "
//!     .version 7.1
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry double(.param .u64 x) {
//!         .reg .b64 %rd<4>;
//!         .reg .b32 %r<4>;
//!         ld.param.u64 %rd1, [x];
//!         mov.u32 %r1, %tid.x;
//!         mul.wide.u32 %rd2, %r1, 4;
//!         add.s64 %rd3, %rd1, %rd2;
//!         ld.global.u32 %r2, [%rd3];
//!         shl.b32 %r3, %r2, 1;
//!         st.global.u32 [%rd3], %r3;
//!         ret;
//!     }";
//! let mut device = Device::new(Config::default());
//! let module = device.load(ptx)?;
//! let x = device.memory.allocate(256)?;
//! device.memory.write(x, &[1; 256])?;
//! let report = device.launch(&module.kernel("double")?, [1; 3], [64, 1, 1], 0, &[&x.to_le_bytes()])?;
//! assert!(report.findings.is_empty());
//! let mut bytes = [0; 256];
//! device.memory.read(x, &mut bytes)?;
//! assert_eq!(bytes, [2; 256]);
//! # Ok::<(), emulator::Error>(())
//! ```

mod counters;
mod decode;
mod detect;
mod device;
mod driver;
mod error;
mod execute;
mod memory;
pub mod parse;

pub use counters::{Banks, Counters, Traffic};
pub use decode::forms;
pub use detect::{Fault, Finding};
pub use device::{Device, Kernel, LoadedModule};
pub use error::{Error, Result};
pub use execute::{Config, MmaMode, Report};
pub use memory::Memory;
