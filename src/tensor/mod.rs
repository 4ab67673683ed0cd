//! Dtypes, shapes, tensors and the planned arena.
//!
//! A [`Tensor`] is a place in memory with a shape, like a pointer that knows its extent. It is cheap to clone and
//! never copies what it points to. Which memory that is, host or device, only the backend knows.

mod arena;
mod dtype;
pub mod host;
mod storage;

pub use arena::{Arena, Plan, Slot};
pub use dtype::{Dtype, Element};
pub use storage::{HostMemory, Storage};

use std::ops::Range;
use std::rc::Rc;

use crate::error::{Error, Result};

/// Up to four dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// A shape of one to four dimensions.
    pub fn new(dims: &[usize]) -> Self {
        assert!(!dims.is_empty() && dims.len() <= 4, "a tensor has one to four dimensions");
        let mut out = [1; 4];
        out[..dims.len()].copy_from_slice(dims);
        Self { dims: out, rank: dims.len() }
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// A view of memory: row-major, dense but for the distance between rows of a matrix (`row_stride`).
///
/// Not `Send`: one thread issues operations, which use as many threads as they like inside.
#[derive(Clone)]
pub struct Tensor {
    storage: Rc<Storage>,
    offset: usize,
    shape: Shape,
    row_stride: usize,
    dtype: Dtype,
}

impl Tensor {
    /// The whole of `storage` seen as `dims`, which must fit.
    pub fn new(storage: Rc<Storage>, dtype: Dtype, dims: &[usize]) -> Result<Self> {
        Self::at(storage, 0, dtype, dims)
    }

    /// `dims` elements of `storage` from element `offset` on.
    pub fn at(storage: Rc<Storage>, offset: usize, dtype: Dtype, dims: &[usize]) -> Result<Self> {
        let shape = Shape::new(dims);
        let elements = dims.iter().try_fold(1, |all: usize, &dim| all.checked_mul(dim));
        let end = elements.and_then(|n| n.checked_add(offset)).and_then(|n| n.checked_mul(dtype.size()));
        if end.is_none_or(|end| end > storage.bytes()) {
            return Err(Error::machine(format!(
                "a tensor of {shape:?} {dtype:?} at element {offset} does not fit {} bytes",
                storage.bytes()
            )));
        }
        Ok(Self { storage, offset, shape, row_stride: inner(&shape), dtype })
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The outermost dimension.
    pub fn rows(&self) -> usize {
        self.shape.dims[0]
    }

    /// Elements in one entry of the outermost dimension.
    pub fn cols(&self) -> usize {
        inner(&self.shape)
    }

    /// Elements from one row to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Whether the elements lie without gaps.
    pub fn is_dense(&self) -> bool {
        self.row_stride == self.cols() || self.rows() <= 1
    }

    /// Whether it lies in [`HostMemory`].
    pub fn is_on_host(&self) -> bool {
        self.storage.is_host()
    }

    /// The address of the first element. Only the backend that made the storage may use it.
    pub fn address(&self) -> *mut u8 {
        self.storage.address().wrapping_add(self.offset * self.dtype.size())
    }

    /// Rows `range` of the outermost dimension.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows(), "rows {range:?} of {:?}", self.shape);
        let mut view = self.clone();
        view.offset += range.start * self.row_stride;
        view.shape.dims[0] = range.len();
        view
    }

    /// Columns `range` of a matrix; the rows keep their distance.
    pub fn slice_cols(&self, range: Range<usize>) -> Self {
        assert!(self.shape.rank == 2, "columns of {:?}, which is not a matrix", self.shape);
        assert!(range.start <= range.end && range.end <= self.shape.dims[1], "columns {range:?} of {:?}", self.shape);
        let mut view = self.clone();
        view.offset += range.start;
        view.shape.dims[1] = range.len();
        view
    }

    /// The first elements seen as `dims`: for a buffer planned for the most, used for fewer.
    pub fn first(&self, dims: &[usize]) -> Self {
        let shape = Shape::new(dims);
        assert!(self.is_dense() && shape.len() <= self.len(), "{shape:?} of {:?}", self.shape);
        Self { shape, row_stride: inner(&shape), ..self.clone() }
    }

    /// `dims` elements from element `offset` on of a dense tensor.
    pub fn window(&self, offset: usize, dims: &[usize]) -> Self {
        let shape = Shape::new(dims);
        assert!(self.is_dense() && offset + shape.len() <= self.len(), "{shape:?} at {offset} of {:?}", self.shape);
        Self { shape, row_stride: inner(&shape), offset: self.offset + offset, ..self.clone() }
    }

    /// Whether some element belongs to both.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        if !Rc::ptr_eq(&self.storage, &other.storage) || self.is_empty() || other.is_empty() {
            return false;
        }
        let (a, b) = (self.byte_range(), other.byte_range());
        if a.end <= b.start || b.end <= a.start {
            return false;
        }
        // Two bands of columns of one matrix interleave without touching.
        let stride = self.row_stride * self.dtype.size();
        if stride == other.row_stride * other.dtype.size() && stride > 0 {
            let column = |t: &Tensor| (t.offset * t.dtype.size()) % stride;
            let (ca, cb) = (column(self), column(other));
            let (wa, wb) = (self.cols() * self.dtype.size(), other.cols() * other.dtype.size());
            if ca + wa <= stride && cb + wb <= stride {
                return ca < cb + wb && cb < ca + wa;
            }
        }
        true
    }

    /// Whether both are the very same elements in the same shape.
    pub fn same_place(&self, other: &Tensor) -> bool {
        Rc::ptr_eq(&self.storage, &other.storage)
            && self.offset == other.offset
            && self.dtype == other.dtype
            && self.len() == other.len()
            && self.row_stride == other.row_stride
    }

    /// From the first element's address to behind the last one's, with what lies between the rows of a band.
    pub fn addresses(&self) -> Range<usize> {
        let (bytes, base) = (if self.is_empty() { 0..0 } else { self.byte_range() }, self.storage.address() as usize);
        base + bytes.start..base + bytes.end
    }

    fn byte_range(&self) -> Range<usize> {
        let size = self.dtype.size();
        let last = (self.rows() - 1) * self.row_stride + self.cols();
        self.offset * size..(self.offset + last) * size
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)
    }
}

fn inner(shape: &Shape) -> usize {
    shape.dims[1..].iter().product()
}
