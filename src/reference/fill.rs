use super::{Reference, values_mut};
use crate::error::Result;
use crate::ops::{Fill, Run};

impl Run<Fill<'_>> for Reference {
    fn run(&self, op: &Fill) -> Result<()> {
        values_mut::<f64>(op.x).fill(op.value);
        Ok(())
    }
}
