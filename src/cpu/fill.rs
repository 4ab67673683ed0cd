use super::{Cpu, parallel, values_mut};
use crate::error::Result;
use crate::ops::{Fill, Run};

/// Elements that a task sets.
const CHUNK: usize = 1 << 16;

impl Run<Fill<'_>> for Cpu {
    fn run(&self, op: &Fill) -> Result<()> {
        let value = op.value as f32;
        parallel::chunks_mut(values_mut::<f32>(op.x), CHUNK, |_, chunk| chunk.fill(value));
        Ok(())
    }
}
