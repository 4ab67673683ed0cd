//! Where the first NaN comes from.

use std::rc::Rc;

use super::{Around, values};
use crate::backend::{Backend, Checked};
use crate::error::{Error, Result};
use crate::ops::{Access, Kind};

/// A backend that looks at every result: the first operation that writes an infinity or a NaN is an error, which names
/// the operand and the element. Slow: everything written is read back.
pub struct Guarded {
    inner: Rc<dyn Backend>,
}

impl Guarded {
    /// Looks at what `inner` computes.
    pub fn new(inner: Rc<dyn Backend>) -> Self {
        Self { inner }
    }
}

impl Around for Guarded {
    fn inner(&self) -> &dyn Backend {
        self.inner.as_ref()
    }

    fn around(&self, op: &Checked) -> Result<()> {
        self.inner.execute(op)?;
        for operand in op.op().op().operands().iter() {
            if !matches!(operand.access, Access::Write | Access::Update) || operand.kind == Kind::Index {
                continue;
            }
            let values = values(self.inner.as_ref(), operand.tensor)?;
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let (row, column) = (at / operand.tensor.cols(), at % operand.tensor.cols());
                return Err(Error::machine(format!(
                    "{} has left {} in row {row}, column {column} of {}, {:?}",
                    op.op().name(),
                    values[at],
                    operand.name,
                    operand.tensor
                )));
            }
        }
        Ok(())
    }
}
