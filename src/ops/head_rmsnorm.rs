//! RMSNorm of each head's queries or keys: QK normalisation (Henry et al., arXiv 2010.04245; with RMSNorm and a weight
//! that all heads share in Qwen3, arXiv 2505.09388, section 2). The formula is that of [`super::rmsnorm`]; it is an
//! operation of its own because its rows are many and short, which no kernel of a block a row is made for.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `y = x rstd weight` with `rstd = 1 / sqrt(mean(x^2) + eps)` of each head's vector.
#[derive(Clone, Copy)]
pub struct HeadRmsnormForward<'a> {
    /// `[.., D]`, as `x`.
    pub y: &'a Tensor,
    /// `[..]`: `x`'s dimensions but for the last.
    pub rstd: &'a Tensor,
    /// Queries `[K, T, G, D]`, or keys `[K, T, D]`.
    pub x: &'a Tensor,
    /// `[D]`.
    pub weight: &'a Tensor,
    /// Added to the mean of squares.
    pub eps: f64,
}

/// The dimensions of `x`, those without the last, and the last.
fn split(x: &Tensor) -> (&[usize], &[usize], usize) {
    let dims = x.dims();
    let (&dim, heads) = dims.split_last().expect("a tensor has dimensions");
    (dims, heads, dim)
}

fn check(x: &Tensor) -> Result<(), String> {
    match x.dims() {
        [.., _, dim] if *dim > 0 => Ok(()),
        _ => Err(format!("x is {x:?} and not vectors of heads")),
    }
}

impl Op for HeadRmsnormForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (dims, heads, dim) = split(self.x);
        Operands::new()
            .write("y", ElementKind::Float, self.y, dims)
            .write("rstd", ElementKind::Sum, self.rstd, heads)
            .read("x", ElementKind::Float, self.x, dims)
            .read("weight", ElementKind::Float, self.weight, &[dim])
    }

    fn check(&self) -> Result<(), String> {
        check(self.x)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // Square and add, then two multiplications.
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 4))
    }
}

/// Overwrites `dx`; `dweight += d/dweight`.
#[derive(Clone, Copy)]
pub struct HeadRmsnormBackward<'a> {
    /// `[.., D]`, as `x`.
    pub dx: &'a Tensor,
    /// `[D]`, added to.
    pub dweight: &'a Tensor,
    /// `[.., D]`, as `x`.
    pub dy: &'a Tensor,
    /// Queries `[K, T, G, D]`, or keys `[K, T, D]`.
    pub x: &'a Tensor,
    /// `[..]`, from the forward pass.
    pub rstd: &'a Tensor,
    /// `[D]`.
    pub weight: &'a Tensor,
}

impl Op for HeadRmsnormBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (dims, heads, dim) = split(self.x);
        Operands::new()
            .write("dx", ElementKind::Float, self.dx, dims)
            .add("dweight", ElementKind::Sum, self.dweight, &[dim])
            .read("dy", ElementKind::Float, self.dy, dims)
            .read("x", ElementKind::Float, self.x, dims)
            .read("rstd", ElementKind::Sum, self.rstd, heads)
            .read("weight", ElementKind::Float, self.weight, &[dim])
    }

    fn check(&self) -> Result<(), String> {
        check(self.x)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // n = x rstd, w dy, their product and sum; three for dx, two for dweight.
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 9))
    }
}
