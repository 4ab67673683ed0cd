//! Trajectories of known policies: `{prompt, policy, output}`.

use super::RowFormat;
use crate::Result;
use crate::data::Trajectory;
use crate::data::records::Records;
use crate::data::row::{Row, RowKind};
use crate::data::rows::Rows;
use crate::data::store::Raw;

pub struct Trajectories;

impl RowFormat for Trajectories {
    type Item = Trajectory;

    fn item(mut row: Row, _: RowKind, _: Raw) -> Result<Trajectory> {
        Ok(Trajectory { prompt: row.text("prompt")?, policy: row.name("policy")?, output: row.text("output")? })
    }

    fn records(rows: Rows<Trajectory>) -> Records {
        Records::Trajectories(rows)
    }
}
