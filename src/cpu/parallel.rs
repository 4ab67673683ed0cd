//! Spreading work over rayon's threads in pieces of fixed size.

use rayon::prelude::*;

/// Runs `f(index)` for every index below `n`, on all threads.
pub fn for_each(n: usize, f: impl Fn(usize) + Sync + Send) {
    if n == 1 {
        f(0);
    } else {
        (0..n).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Runs `f(index, chunk)` over chunks of `size` elements.
pub fn chunks_mut<T: Send>(x: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if x.len() <= size {
        f(0, x);
    } else {
        x.par_chunks_mut(size).enumerate().for_each(|(i, chunk)| f(i, chunk));
    }
}

/// Rows of `cols` elements that make a piece of work of about 16 Ki elements.
pub fn rows_per_task(cols: usize) -> usize {
    (16_384 / cols.max(1)).max(1)
}

/// A pointer that tasks share, each for elements of its own.
#[derive(Clone, Copy)]
pub struct Shared<T>(*mut T);

// SAFETY: whoever calls `slice` promises that no two tasks take overlapping ranges.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `x` for as long as its borrow lives in the caller.
    pub fn new(x: &mut [T]) -> Self {
        Self(x.as_mut_ptr())
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// The range lies within the slice, and no other task reads or writes any of it at the same time.
    pub unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
