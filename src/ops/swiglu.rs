//! SwiGLU: Shazeer, arXiv 2002.05202.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `y = silu(gate) up`.
#[derive(Clone, Copy)]
pub struct SwigluForward<'a> {
    /// `[T, F]`.
    pub y: &'a Tensor,
    /// `[T, 2F]`: gate, then up.
    pub gate_up: &'a Tensor,
}

impl Op for SwigluForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (t, f) = (self.y.rows(), self.y.cols());
        Operands::new().write("y", ElementKind::Float, self.y, &[t, f]).read(
            "gate_up",
            ElementKind::Float,
            self.gate_up,
            &[t, 2 * f],
        )
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // Exponential, addition, division, two multiplications.
        Ok(self.operands().moves() + Work::elementwise(self.y.len(), 5))
    }
}

/// The gradient by gate and up.
#[derive(Clone, Copy)]
pub struct SwigluBackward<'a> {
    /// `[T, 2F]`; may be the same tensor as `gate_up`.
    pub dgate_up: &'a Tensor,
    /// `[T, F]`.
    pub dy: &'a Tensor,
    /// `[T, 2F]`.
    pub gate_up: &'a Tensor,
}

impl Op for SwigluBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (t, f) = (self.dy.rows(), self.dy.cols());
        Operands::new()
            .write("dgate_up", ElementKind::Float, self.dgate_up, &[t, 2 * f])
            .read("dy", ElementKind::Float, self.dy, &[t, f])
            .read("gate_up", ElementKind::Float, self.gate_up, &[t, 2 * f])
            .or_same_as("dgate_up")
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // The sigmoid's three; silu; dup; dgate = dy up sigmoid (1 + gate (1 - sigmoid)).
        Ok(self.operands().moves() + Work::elementwise(self.dy.len(), 11))
    }
}
