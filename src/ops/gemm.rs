//! Matrix products, alone and with SwiGLU before or behind them.

use super::{AnyOp, ElementKind, Op, Operands, ReadIndices, SwigluBackward, SwigluForward, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// Which operand of a matrix product is transposed. The three that training needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gemm {
    /// `out[M,N] = a[M,K] b[N,K]^T`: a linear layer's forward pass.
    Nt,
    /// `out[M,N] = a[M,K] b[K,N]`: the gradient of its input.
    Nn,
    /// `out[M,N] = a[K,M]^T b[K,N]`: the gradient of its weight.
    Tn,
}

/// `out = op(a) op(b) + addend`.
#[derive(Clone, Copy)]
pub struct GemmOp<'a> {
    /// Which operand is transposed.
    pub layout: Gemm,
    /// `[M, N]`, float or sum.
    pub out: &'a Tensor,
    /// `[M, K]`, or `[K, M]` if it is transposed.
    pub a: &'a Tensor,
    /// `[K, N]`, or `[N, K]` if it is transposed.
    pub b: &'a Tensor,
    /// `[M, N]` of `out`'s dtype; may be `out`.
    pub addend: Option<&'a Tensor>,
}

impl GemmOp<'_> {
    /// `(m, n, k)`.
    pub fn shape(&self) -> (usize, usize, usize) {
        let k = if self.layout == Gemm::Tn { self.a.rows() } else { self.a.cols() };
        (self.out.rows(), self.out.cols(), k)
    }
}

impl Op for GemmOp<'_> {
    fn operands(&self) -> Operands<'_> {
        let (m, n, k) = self.shape();
        let (a, b) = match self.layout {
            Gemm::Nt => ([m, k], [n, k]),
            Gemm::Nn => ([m, k], [k, n]),
            Gemm::Tn => ([k, m], [k, n]),
        };
        let added_to = self.addend.filter(|addend| addend.same_place(self.out));
        let out = match added_to {
            Some(_) => Operands::new().add("out", ElementKind::FloatOrSum, self.out, &[m, n]),
            None => Operands::new().write("out", ElementKind::FloatOrSum, self.out, &[m, n]),
        };
        let operands = out
            .band()
            .read("a", ElementKind::Float, self.a, &a)
            .band()
            .read("b", ElementKind::Float, self.b, &b)
            .band();
        match self.addend {
            Some(addend) if added_to.is_none() => {
                operands.read("addend", ElementKind::FloatOrSum, addend, &[m, n]).band()
            }
            _ => operands,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self.addend {
            Some(addend) if addend.dtype() != self.out.dtype() || addend.dims() != self.out.dims() => {
                Err(format!("the addend {addend:?} is not as {:?}", self.out))
            }
            _ => Ok(()),
        }
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        let (m, n, k) = self.shape();
        let sums = if self.addend.is_some() { m * n } else { 0 };
        Ok(self.operands().moves() + Work::product(m, n, k) + Work::elementwise(sums, 1))
    }
}

/// The product into SwiGLU: `gate_up = x w13^T`, `y = silu(gate) up`.
#[derive(Clone, Copy)]
pub struct GemmSwigluForward<'a> {
    /// `[T, F]`.
    pub y: &'a Tensor,
    /// `[T, 2F]`.
    pub gate_up: &'a Tensor,
    /// `[T, N]`.
    pub x: &'a Tensor,
    /// `[2F, N]`.
    pub w13: &'a Tensor,
}

impl GemmSwigluForward<'_> {
    /// `(m, n, k)`, with the `n` columns of the result.
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.y.rows(), self.y.cols(), self.x.cols())
    }

    /// The two operations that it is, for backends to which one pass saves nothing.
    pub fn unfused(&self) -> [AnyOp<'_>; 2] {
        let Self { y, gate_up, x, w13 } = *self;
        let product = GemmOp { layout: Gemm::Nt, out: gate_up, a: x, b: w13, addend: None };
        [product.into(), SwigluForward { y, gate_up }.into()]
    }
}

impl Op for GemmSwigluForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (m, n, k) = self.shape();
        Operands::new()
            .write("y", ElementKind::Float, self.y, &[m, n])
            .write("gate_up", ElementKind::Float, self.gate_up, &[m, 2 * n])
            .read("x", ElementKind::Float, self.x, &[m, k])
            .band()
            .read("w13", ElementKind::Float, self.w13, &[2 * n, k])
            .band()
    }

    fn work(&self, indices: &ReadIndices) -> Result<Work> {
        let (m, n, k) = self.shape();
        let swiglu = SwigluForward { y: self.y, gate_up: self.gate_up }.work(indices)?;
        Ok(self.operands().moves() + Work::product(m, 2 * n, k) + Work { bytes: 0, ..swiglu })
    }
}

/// The way back through the product that SwiGLU's result goes into, and through SwiGLU.
#[derive(Clone, Copy)]
pub struct GemmSwigluBackward<'a> {
    /// `[T, 2F]`, becomes its own gradient.
    pub gate_up: &'a Tensor,
    /// `[T, F]`, scratch.
    pub dy: &'a Tensor,
    /// `[T, N]`.
    pub dout: &'a Tensor,
    /// `[N, F]`.
    pub w2: &'a Tensor,
}

impl GemmSwigluBackward<'_> {
    /// `(m, n, k)`.
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.dy.rows(), self.dy.cols(), self.dout.cols())
    }

    /// The two operations that it is, for backends to which one pass saves nothing.
    pub fn unfused(&self) -> [AnyOp<'_>; 2] {
        let Self { gate_up, dy, dout, w2 } = *self;
        let product = GemmOp { layout: Gemm::Nn, out: dy, a: dout, b: w2, addend: None };
        [product.into(), SwigluBackward { dgate_up: gate_up, dy, gate_up }.into()]
    }
}

impl Op for GemmSwigluBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (m, n, k) = self.shape();
        Operands::new()
            .update("gate_up", ElementKind::Float, self.gate_up, &[m, 2 * n])
            .scratch("dy", ElementKind::Float, self.dy, &[m, n])
            .read("dout", ElementKind::Float, self.dout, &[m, k])
            .band()
            .read("w2", ElementKind::Float, self.w2, &[k, n])
            .band()
    }

    fn work(&self, indices: &ReadIndices) -> Result<Work> {
        let (m, n, k) = self.shape();
        let swiglu = SwigluBackward { dgate_up: self.gate_up, dy: self.dy, gate_up: self.gate_up }.work(indices)?;
        Ok(self.operands().moves() + Work::product(m, n, k) + Work { bytes: 0, ..swiglu })
    }
}
