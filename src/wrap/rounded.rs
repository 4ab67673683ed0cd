//! The f64 reference in a card's clothes: every tensor is stored as a card stores it, bf16 or f32, and every operation
//! is exact between them. How far its results are from the exact ones is what the dtypes explain.

use std::rc::Rc;

use crate::backend::{Backend, BackendExt, Checked, Extent, Operations};
use crate::error::Result;
use crate::ops::AnyOp;
use crate::tensor::{Dtype, Storage, Tensor};

/// The reference with floats rounded to bf16 and sums to f32 whenever an operation has stored them.
pub struct Rounded {
    /// Computes in f64, in memory that holds any dtype: [`crate::reference::Reference`].
    exact: Rc<dyn Backend>,
}

impl Rounded {
    /// Rounds what `exact` computes.
    pub fn new(exact: Rc<dyn Backend>) -> Self {
        Self { exact }
    }

    /// A tensor of the reference with the same shape and values.
    fn lift(&self, t: &Tensor) -> Result<Tensor> {
        if t.dtype() == Dtype::U32 {
            return Ok(t.clone());
        }
        let lifted = self.exact.tensor(Dtype::F64, t.dims())?;
        let rows = (0..t.rows()).map(|row| self.exact.read_f64(&t.slice_rows(row..row + 1)));
        self.exact.write_f64(&lifted, &rows.collect::<Result<Vec<_>>>()?.concat())?;
        Ok(lifted)
    }

    /// Stores what the reference computed, row by row, because a band has gaps.
    fn lower(&self, t: &Tensor, lifted: &Tensor) -> Result<()> {
        let values = self.exact.read_f64(lifted)?;
        let store = |row| self.exact.write_f64(&t.slice_rows(row..row + 1), &values[row * t.cols()..][..t.cols()]);
        (0..t.rows()).try_for_each(store)
    }
}

impl Backend for Rounded {
    fn name(&self) -> String {
        "the reference, rounded".into()
    }

    fn float(&self) -> Dtype {
        Dtype::Bf16
    }

    fn accumulator(&self) -> Dtype {
        Dtype::F32
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        self.exact.allocate(bytes)
    }

    fn reserve(&self, extent: &Extent) -> Result<()> {
        self.exact.reserve(extent)
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.exact.write(to, bytes)
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.exact.read(from, bytes)
    }

    fn host_indices<'t>(&self, indices: &'t Tensor) -> Option<&'t [u32]> {
        self.exact.host_indices(indices)
    }

    unsafe fn execute(&self, op: &Checked) -> Result<()> {
        // What two operations in one leave for one another is stored between them, and rounded.
        match op.op() {
            AnyOp::GemmSwigluForward(op) => return op.unfused().into_iter().try_for_each(|op| self.submit(op)),
            AnyOp::GemmSwigluBackward(op) => return op.unfused().into_iter().try_for_each(|op| self.submit(op)),
            _ => {}
        }
        let operands = op.op().op().operands();
        // An operand that stands for two is lifted once, so that it still is one.
        let mut lifted: Vec<(&Tensor, Tensor)> = Vec::new();
        for operand in operands.iter() {
            if !lifted.iter().any(|(t, _)| t.same_place(operand.tensor)) {
                lifted.push((operand.tensor, self.lift(operand.tensor)?));
            }
        }
        let of = |t: &Tensor| &lifted.iter().find(|(of, _)| of.same_place(t)).expect("every operand is lifted").1;
        self.exact.submit(op.op().with_tensors(&of))?;
        operands.iter().filter(|operand| operand.access.writes()).try_for_each(|o| self.lower(o.tensor, of(o.tensor)))
    }
}
