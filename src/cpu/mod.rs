//! The fast CPU backend: f32, matrix products by the `gemm-f32` crate, everything else vectorised by run-time dispatch
//! and spread over rayon's threads.
//!
//! Sums never depend on timing: whatever is reduced across tasks is cut into pieces of fixed size, and the pieces are
//! added in order.

pub(crate) mod math;
mod parallel;

operations!(modules);

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::backend::{Backend, Checked, Extent, Footprint, Host, Rotary};
use crate::error::{Error, Result};
use crate::ops::{modules, operations};
use crate::tensor::host::{self, slice, slice_mut};
use crate::tensor::{Dtype, Element, HostMemory, Storage, Tensor};

/// Tells the C library to keep freed memory for the next allocation instead of giving it back to the system.
///
/// The `gemm-f32` crate takes and frees its packing buffers in every product. Given back each time, they come as fresh
/// pages that the kernel has to clear: a tenth of a training step of a 4M-parameter model. It is the program's to
/// decide, not a library's, so the binary and the benches call it. Elsewhere than on glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two parameters of the allocator, which may be done at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}

/// The CPU backend.
#[derive(Default)]
pub struct Cpu {
    /// Partial sums of reductions, grown on first use.
    partials: RefCell<Vec<f32>>,
    rope_table: RefCell<rope::AngleTable>,
    allocations: Cell<usize>,
}

impl Cpu {
    /// The CPU that this runs on, with the features that it has.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many times memory was taken from the system for tensors or partial sums. A training step takes none after
    /// the first.
    pub fn allocations(&self) -> usize {
        self.allocations.get()
    }

    /// Lends a table that holds positions up to `last`.
    fn with_rope_table(&self, last: u32, dim: usize, rotary: Rotary, f: impl FnOnce(&rope::AngleTable)) {
        let mut table = self.rope_table.borrow_mut();
        if table.prepare(last, dim, rotary) {
            self.allocations.set(self.allocations.get() + 1);
        }
        f(&table);
    }

    /// Lends `n` floats, of any content, for partial sums.
    fn with_partials<R>(&self, n: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut partials = self.partials.borrow_mut();
        if partials.len() < n {
            partials.resize(n, 0.0);
            self.allocations.set(self.allocations.get() + 1);
        }
        f(&mut partials[..n])
    }
}

/// Partial sums that any operation needs, at most.
fn partials(extent: &Extent) -> usize {
    let heads =
        if extent.qk_norm { head_rmsnorm::partials(extent.tokens * extent.heads.query, extent.heads.dim) } else { 0 };
    rmsnorm::partials(extent.tokens, extent.hidden).max(heads)
}

/// The elements of a dense operand, to be read.
fn values<T: Element>(t: &Tensor) -> &[T] {
    // SAFETY: this backend's tensors lie in host memory. An operation is run only after its checks, which refuse a
    // written operand that overlaps another one.
    unsafe { slice(t) }
}

/// The elements of a dense operand, to be written.
#[expect(clippy::mut_from_ref, reason = "a tensor is a place in memory; see `host::slice_mut`")]
fn values_mut<T: Element>(t: &Tensor) -> &mut [T] {
    // SAFETY: as in `values`.
    unsafe { slice_mut(t) }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn host(&self) -> Option<Host> {
        Some(Host { threads: rayon::current_num_threads(), instructions: math::instructions() })
    }

    fn float(&self) -> Dtype {
        Dtype::F32
    }

    fn accumulator(&self) -> Dtype {
        Dtype::F32
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        self.allocations.set(self.allocations.get() + 1);
        Ok(Rc::new(HostMemory::zeroed(bytes)?.into_storage()))
    }

    fn reserve(&self, extent: &Extent) -> Result<()> {
        self.with_partials(partials(extent), |_| {});
        self.with_rope_table(extent.tokens as u32, extent.heads.dim, extent.rotary, |_| {});
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        Footprint {
            float: self.float(),
            accumulator: self.accumulator(),
            logit_rows: self.logit_rows(),
            scratch: |extent| size_of::<f32>() * partials(extent),
            staging: 0,
        }
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        let size = to.len() * to.dtype().size();
        if bytes.len() != size || !to.is_dense() {
            return Err(Error::machine(format!("write: {} bytes into {to:?}", bytes.len())));
        }
        host::check(to)?;
        // SAFETY: `size` bytes of host memory from its address on belong to the tensor.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address(), size) };
        Ok(())
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        let size = from.len() * from.dtype().size();
        if bytes.len() != size || !from.is_dense() {
            return Err(Error::machine(format!("read: {} bytes from {from:?}", bytes.len())));
        }
        host::check(from)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from.address(), bytes.as_mut_ptr(), size) };
        Ok(())
    }

    fn host_indices<'t>(&self, indices: &'t Tensor) -> Option<&'t [u32]> {
        indices.is_on_host().then(|| values(indices))
    }

    unsafe fn execute(&self, op: &Checked) -> Result<()> {
        op.run_on_host(self)
    }
}
