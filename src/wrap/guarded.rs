//! Where the first NaN comes from.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Around, values};
use crate::backend::{Backend, Checked};
use crate::error::{Error, Result};
use crate::ops::{Access, ElementKind, Operand};
use crate::tensor::Tensor;

/// A backend that looks at every result: the first operation that writes an infinity or a NaN is an error, which names
/// the operand and the element. Slow: everything written is read back.
pub struct Guarded {
    inner: Rc<dyn Backend>,
    found: RefCell<Option<Tensor>>,
}

impl Guarded {
    /// Looks at what `inner` computes.
    pub fn new(inner: Rc<dyn Backend>) -> Self {
        Self { inner, found: RefCell::new(None) }
    }

    /// The last result that was found to hold an infinity or a NaN: whether an error is of the guard or of the backend
    /// inside, and where the result lies.
    pub fn found(&self) -> Option<Tensor> {
        self.found.borrow().clone()
    }

    fn look(&self, operation: &str, operand: &Operand) -> Result<()> {
        let values = values(self.inner.as_ref(), operand.tensor)?;
        let Some(at) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
        self.found.replace(Some(operand.tensor.clone()));
        let (row, column) = (at / operand.tensor.cols(), at % operand.tensor.cols());
        let (name, tensor, value) = (operand.name, operand.tensor, values[at]);
        let place = format!("row {row}, column {column} of {name}, {tensor:?}");
        Err(Error::machine(format!("{operation} has left {value} in {place}")))
    }
}

impl Around for Guarded {
    fn inner(&self) -> &dyn Backend {
        self.inner.as_ref()
    }

    fn around(&self, op: &Checked) -> Result<()> {
        // SAFETY: checked for the dtypes, memory and indices of the one inside, which `Around` hands on.
        unsafe { self.inner.execute(op) }?;
        let operands = op.op().op().operands();
        let counts = |operand: &&Operand| operand.access.writes() && operand.access != Access::Scratch;
        let results = operands.iter().filter(counts).filter(|operand| operand.kind != ElementKind::Index);
        results.into_iter().try_for_each(|operand| self.look(op.op().name(), operand))
    }
}
