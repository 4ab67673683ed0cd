//! Every operation as its formula: scalar, in f64, one file an operation. This is the definition that the other
//! backends are measured against, so it is written to be read beside the papers and never to be fast.
//!
//! Operands, once checked, are handed to the formulas as slices; a matrix is the list of its rows, `x[t][j]`.

operations!(modules);

use std::rc::Rc;

use crate::backend::{Backend, Checked, Extent};
use crate::error::{Error, Result};
use crate::ops::{modules, operations};
use crate::tensor::host;
use crate::tensor::{Dtype, Element, HostMemory, Storage, Tensor};

/// The reference backend: f64 everywhere, in host memory, one scalar at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// The elements of a dense tensor, to be read.
fn values<T: Element>(t: &Tensor) -> &[T] {
    // SAFETY: this backend's tensors lie in host memory; an operation is run only after its checks, which refuse a
    // written operand that overlaps another one.
    unsafe { host::slice(t) }
}

/// The elements of a dense tensor, to be written.
#[expect(clippy::mut_from_ref, reason = "a tensor is a place in memory; see `host::slice_mut`")]
fn values_mut<T: Element>(t: &Tensor) -> &mut [T] {
    // SAFETY: as in `values`.
    unsafe { host::slice_mut(t) }
}

/// The rows of a matrix, to be read. They may have gaps between them.
fn rows(t: &Tensor) -> Vec<&[f64]> {
    (0..t.rows()).map(|i| row(t, i)).collect()
}

fn row(t: &Tensor, i: usize) -> &[f64] {
    let view = t.slice_rows(i..i + 1);
    // SAFETY: as in `values`. One row is dense, and the memory outlives the view because `t` keeps it.
    unsafe { std::slice::from_raw_parts(view.address().cast(), view.cols()) }
}

/// The rows of a matrix, to be written.
#[expect(clippy::mut_from_ref, reason = "as in `values_mut`")]
fn rows_mut(t: &Tensor) -> Vec<&mut [f64]> {
    let one = |i| {
        let view = t.slice_rows(i..i + 1);
        // SAFETY: as in `row`; rows of one matrix do not touch.
        unsafe { std::slice::from_raw_parts_mut(view.address().cast(), view.cols()) }
    };
    (0..t.rows()).map(one).collect()
}

/// The heads of a `[.., D]` tensor as vectors.
fn vectors(t: &Tensor, dim: usize) -> Vec<&[f64]> {
    values(t).chunks_exact(dim).collect()
}

/// The heads of a `[.., D]` tensor as vectors to be written.
fn vectors_mut(t: &Tensor, dim: usize) -> Vec<&mut [f64]> {
    values_mut(t).chunks_exact_mut(dim).collect()
}

fn transfer(t: &Tensor, bytes: usize) -> Result<()> {
    host::check(t)?;
    if t.is_dense() && t.len() * t.dtype().size() == bytes {
        return Ok(());
    }
    Err(Error::machine(format!("{bytes} bytes to or from {t:?} do not fit (this is a mistake in the program)")))
}

impl Backend for Reference {
    fn name(&self) -> String {
        "reference".into()
    }

    fn float(&self) -> Dtype {
        Dtype::F64
    }

    fn accumulator(&self) -> Dtype {
        Dtype::F64
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        Ok(Rc::new(HostMemory::zeroed(bytes)?.into_storage()))
    }

    fn reserve(&self, _extent: &Extent) -> Result<()> {
        // The definition takes memory wherever it is shorter for it.
        Ok(())
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        transfer(to, bytes.len())?;
        // SAFETY: the tensor is dense, in host memory and of this length, and a borrowed slice is not part of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address(), bytes.len()) }
        Ok(())
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        transfer(from, bytes.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from.address(), bytes.as_mut_ptr(), bytes.len()) }
        Ok(())
    }

    fn host_indices<'t>(&self, indices: &'t Tensor) -> Option<&'t [u32]> {
        indices.is_on_host().then(|| values(indices))
    }

    unsafe fn execute(&self, op: &Checked) -> Result<()> {
        op.run_on_host(self)
    }
}
