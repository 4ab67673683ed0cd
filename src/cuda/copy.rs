//! Copies within the device's memory.

use super::{Cuda, at};
use crate::error::Result;
use crate::ops::{CopyOp, Run};

impl Run<CopyOp<'_>> for Cuda {
    fn run(&self, op: &CopyOp) -> Result<()> {
        self.device.copy(at(op.to), at(op.from), op.from.len() * op.from.dtype().size())
    }
}
