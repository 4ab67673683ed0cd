//! Backends around backends. Each sees every operation with its description in one function, so that none lists the
//! operations again.

mod guarded;
mod nvtx;
mod recorded;
mod rounded;
mod traced;

pub use guarded::Guarded;
pub use recorded::{Life, Record, Recorded};
pub use rounded::Rounded;
pub use traced::{Line, MOST_EVENTS, Traced};

use std::rc::Rc;

use crate::backend::{Backend, BackendExt, Checked, Extent, Footprint, Host};
use crate::error::Result;
use crate::ops::{AnyOp, Work};
use crate::tensor::{Dtype, Storage, Tensor};

/// A backend that leaves memory to another one, and does something around its operations.
pub trait Around {
    /// The one inside, the same one at every call.
    fn inner(&self) -> &dyn Backend;

    /// Does what it is for, and runs the operation inside: [`Backend::execute`] of [`Around::inner`], for whose dtypes,
    /// memory and indices the operation was checked, because a backend around it hands on exactly those.
    ///
    /// # Errors
    /// Those of the one inside, and its own.
    fn around(&self, op: &Checked) -> Result<()>;
}

impl<W: Around> Backend for W {
    fn name(&self) -> String {
        self.inner().name()
    }

    fn float(&self) -> Dtype {
        self.inner().float()
    }

    fn accumulator(&self) -> Dtype {
        self.inner().accumulator()
    }

    fn host(&self) -> Option<Host> {
        self.inner().host()
    }

    fn wrapped(&self) -> Option<&dyn Backend> {
        Some(self.inner())
    }

    fn published_peak(&self) -> Option<f64> {
        self.inner().published_peak()
    }

    fn footprint(&self) -> Footprint {
        self.inner().footprint()
    }

    fn free_memory(&self) -> Result<Option<usize>> {
        self.inner().free_memory()
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        self.inner().allocate(bytes)
    }

    fn reserve(&self, extent: &Extent) -> Result<()> {
        self.inner().reserve(extent)
    }

    fn logit_rows(&self) -> usize {
        self.inner().logit_rows()
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.inner().write(to, bytes)
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.inner().read(from, bytes)
    }

    fn host_indices<'t>(&self, indices: &'t Tensor) -> Option<&'t [u32]> {
        self.inner().host_indices(indices)
    }

    unsafe fn execute(&self, op: &Checked) -> Result<()> {
        self.around(op)
    }
}

/// What an operation costs at least; indices are read from the device where the cost depends on them.
///
/// # Errors
/// When the indices cannot be read.
pub fn work(backend: &dyn Backend, op: &AnyOp) -> Result<Work> {
    op.op().work(&|indices| {
        let mut values = vec![0; indices.len()];
        backend.read(indices, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    })
}

/// The values of an operand, row by row, because a band has gaps.
fn values(backend: &dyn Backend, t: &Tensor) -> Result<Vec<f64>> {
    if t.is_dense() {
        return backend.read_f64(t);
    }
    let rows = (0..t.rows()).map(|row| backend.read_f64(&t.slice_rows(row..row + 1)));
    Ok(rows.collect::<Result<Vec<_>>>()?.concat())
}
