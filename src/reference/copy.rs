use super::Reference;
use crate::error::Result;
use crate::ops::{CopyOp, Run};

impl Run<CopyOp<'_>> for Reference {
    fn run(&self, op: &CopyOp) -> Result<()> {
        let bytes = op.from.len() * op.from.dtype().size();
        // SAFETY: both are dense tensors of that many bytes in host memory, and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(op.from.address(), op.to.address(), bytes) }
        Ok(())
    }
}
