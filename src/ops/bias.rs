//! A bias for each column of a matrix.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `y += bias` in every row.
#[derive(Clone, Copy)]
pub struct BiasForward<'a> {
    /// `[T, N]`.
    pub y: &'a Tensor,
    /// `[P, N / P]`, whose rows one after the other are as long as a row of `y`.
    pub bias: &'a Tensor,
}

/// The bias has as many elements as a row has columns.
fn check(bias: &Tensor, y: &Tensor) -> Result<(), String> {
    if bias.dims().len() != 2 || bias.len() != y.cols() {
        return Err(format!("the bias {bias:?} does not fit {y:?}"));
    }
    Ok(())
}

impl Op for BiasForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let Self { y, bias } = *self;
        Operands::new()
            .add("y", ElementKind::Float, y, &[y.rows(), y.cols()])
            .read("bias", ElementKind::Float, bias, bias.dims())
            .band()
    }

    fn check(&self) -> Result<(), String> {
        check(self.bias, self.y)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + Work::elementwise(self.y.len(), 1))
    }
}

/// `dbias +=` the sum of the rows of `dy`.
#[derive(Clone, Copy)]
pub struct BiasBackward<'a> {
    /// `[P, N / P]`, added to.
    pub dbias: &'a Tensor,
    /// `[T, N]`.
    pub dy: &'a Tensor,
}

impl Op for BiasBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let Self { dbias, dy } = *self;
        Operands::new().add("dbias", ElementKind::Sum, dbias, dbias.dims()).band().read(
            "dy",
            ElementKind::Float,
            dy,
            &[dy.rows(), dy.cols()],
        )
    }

    fn check(&self) -> Result<(), String> {
        check(self.dbias, self.dy)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + Work::elementwise(self.dy.len(), 1))
    }
}
