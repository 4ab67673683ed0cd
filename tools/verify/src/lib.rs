//! Numerical parity of every operation on any backend against the f64 reference.
//!
//! [`rows::table`] lists every operation of the `Backend` trait with the shapes it is tried on. Each case draws fresh
//! inputs, rounds them to the backend's dtypes before either side sees them, poisons what is to be overwritten, and
//! runs the same call on the backend, on the backend again, and on the reference ([`check::check`]). Then
//! - every element must lie within its allowed error; NaN never does;
//! - the errors of a result, and of each band of its rows, must not be larger as a whole than rounding explains: the
//!   operation's formula with every value rounded where a kernel stores it ([`arithmetic`], [`rule`]);
//! - both runs must agree bit for bit;
//! - what the operation only reads, and what lies beside a band of columns, must be as it was.
//!
//! The first is the outer fence and the second is what judges. [`power`] shows that it does: results are sabotaged after
//! the call, and every case has to notice.
//!
//! A row says what its operands hold and what results may be off. What they are called, their classes and what happens to
//! them are the operation's own description ([`operand`]); a row that does not fit it fails.
//!
//! Allowed errors of an element are stated beside the operations, in units of the machine epsilon of the backend's sums, and of its
//! floats where an operation rounds to them on its way; what storing the result costs comes on top. Their common
//! ground: a sum of `n` rounded terms is off by about `sqrt(n) eps` times the sum of their magnitudes when rounding
//! errors are independent (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1: at most `n` times);
//! [`case::sum_error`] takes four times that, so that a lawful order of summation never fails and a lost term does.

pub mod arithmetic;
pub mod case;
pub mod check;
pub mod draw;
pub mod operand;
pub mod power;
pub mod report;
pub mod rows;
pub mod rule;

use polar_raw::backend::Backend;
use polar_raw::cpu::Cpu;
use polar_raw::cuda::Cuda;
use polar_raw::reference::Reference;
use polar_raw::{Error, Result};

/// Names of the backends that [`backend`] knows.
pub const BACKENDS: &[&str] = &["cpu", "cuda", "emulator", "reference"];

/// The backend of a name.
pub fn backend(name: &str) -> Result<Box<dyn Backend>> {
    match name {
        "cpu" => Ok(Box::new(Cpu::new())),
        "cuda" => Ok(Box::new(Cuda::open(0)?)),
        "emulator" => Ok(Box::new(Cuda::emulated()?)),
        "reference" => Ok(Box::new(Reference)),
        _ => Err(Error::user(format!("there is no backend `{name}`: choose one of {}", BACKENDS.join(", ")))),
    }
}
