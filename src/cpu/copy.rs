use super::{Cpu, parallel};
use crate::error::Result;
use crate::ops::{CopyOp, Run};

/// Bytes that a task copies.
const CHUNK: usize = 1 << 18;

impl Run<CopyOp<'_>> for Cpu {
    fn run(&self, op: &CopyOp) -> Result<()> {
        let bytes = op.from.len() * op.from.dtype().size();
        // SAFETY: both are dense tensors of that many bytes in host memory, and do not overlap.
        let (to, from) = unsafe {
            (
                std::slice::from_raw_parts_mut(op.to.address(), bytes),
                std::slice::from_raw_parts(op.from.address(), bytes),
            )
        };
        parallel::chunks_mut(to, CHUNK, |i, to| to.copy_from_slice(&from[i * CHUNK..][..to.len()]));
        Ok(())
    }
}
