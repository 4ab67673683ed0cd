//! Tensors that lie in host memory, as slices.

use super::{Element, Tensor};
use crate::error::{Error, Result};

/// Refuses a tensor that lies in another memory than the host's, whose address means nothing here.
///
/// # Errors
/// Names the tensor.
pub fn check(t: &Tensor) -> Result<()> {
    if t.is_on_host() {
        return Ok(());
    }
    Err(Error::machine(format!("{t:?} does not lie in the host's memory (this is a mistake in the program)")))
}

/// The elements of a dense host tensor.
///
/// # Safety
/// The tensor's memory must be the host's, and nothing may write to it while the slice lives. The operations see to
/// that: they check that no written operand overlaps another, and tensors do not leave their thread.
pub unsafe fn slice<T: Element>(t: &Tensor) -> &[T] {
    assert!(t.dtype() == T::DTYPE && t.is_dense(), "a slice of {t:?}");
    // SAFETY: in bounds by construction of the tensor; aligned, because storage is and offsets count elements.
    unsafe { std::slice::from_raw_parts(t.address().cast::<T>(), t.len()) }
}

/// The elements of a dense host tensor, to be written.
///
/// # Safety
/// As [`slice()`], and nothing else may read the elements either.
#[expect(clippy::mut_from_ref, reason = "a tensor is a place in memory, as a pointer is; see the safety contract")]
pub unsafe fn slice_mut<T: Element>(t: &Tensor) -> &mut [T] {
    assert!(t.dtype() == T::DTYPE && t.is_dense(), "a slice of {t:?}");
    // SAFETY: as in `slice`.
    unsafe { std::slice::from_raw_parts_mut(t.address().cast::<T>(), t.len()) }
}
