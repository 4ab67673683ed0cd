//! How many elements are NaN or infinite.

use super::{Reference, values, values_mut};
use crate::error::Result;
use crate::ops::{CountNonFinite, Run};

impl Run<CountNonFinite<'_>> for Reference {
    fn run(&self, op: &CountNonFinite) -> Result<()> {
        values_mut(op.count)[0] = values(op.x).iter().filter(|x: &&f64| !x.is_finite()).count() as f64;
        Ok(())
    }
}
