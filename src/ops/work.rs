use std::iter::Sum;
use std::ops::Add;

use crate::error::Result;
use crate::tensor::Tensor;

/// Reads an index operand, wherever it lies.
pub type ReadIndices<'a> = dyn Fn(&Tensor) -> Result<Vec<u32>> + 'a;

/// What an operation costs at least: the arithmetic of its formula and the memory that it cannot avoid to touch. From
/// it come the floor of its time on a device, the share of the peak, and what a trace says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations of matrix products, two to a multiply-add: what the share of the peak counts, and
    /// what tensor cores do.
    pub matrix: u64,
    /// All other additions, multiplications, divisions and functions, each counted as one.
    pub scalar: u64,
    /// Bytes read and written if nothing is moved twice.
    pub bytes: u64,
}

impl Work {
    /// All floating-point operations.
    pub fn operations(&self) -> u64 {
        self.matrix + self.scalar
    }

    /// The product of `[m, k]` and `[k, n]`.
    pub fn product(m: usize, n: usize, k: usize) -> Self {
        Self { matrix: 2 * (m * n * k) as u64, ..Self::default() }
    }

    /// `each` operations on each of `elements`.
    pub fn elementwise(elements: usize, each: usize) -> Self {
        Self { scalar: (elements * each) as u64, ..Self::default() }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { matrix: self.matrix + other.matrix, scalar: self.scalar + other.scalar, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
