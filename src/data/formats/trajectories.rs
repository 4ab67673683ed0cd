//! Trajectories of known policies: `{prompt, policy, output}`. Evaluation draws triples from them once, as an epoch of
//! training does.

use super::{RowFormat, Training, read};
use crate::data::Trajectory;
use crate::data::group::{Group, ReferenceSource};
use crate::data::groups::{GroupMaker, GroupSource, Groups};
use crate::data::records::Records;
use crate::data::row::Row;
use crate::data::rows::RowPlaces;
use crate::data::sampling::TripleSource;
use crate::data::store::Raw;
use crate::{Error, Result};

pub struct Trajectories;

impl RowFormat for Trajectories {
    fn name(&self) -> &'static str {
        Records::TRAJECTORIES
    }

    fn keys(&self) -> &'static [&'static str] {
        &["prompt", "policy", "output"]
    }

    fn knows(&self, row: &Row) -> bool {
        row.has("policy")
    }

    fn training(&self) -> Option<Training> {
        Some(Training {
            kind: Records::TRAJECTORIES,
            check: |row, raw| trajectory(row, raw).map(drop),
            records: |rows| Records::Trajectories(rows.read(|raw| read(raw, trajectory))),
        })
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| Box::new(Drawing))
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(ReferenceSource::LeaveOneOut)
    }
}

fn trajectory(row: &mut Row, _: Raw) -> Result<Trajectory> {
    Ok(Trajectory { prompt: row.text("prompt")?, policy: row.name("policy")?, output: row.text("output")? })
}

/// Draws triples from all trajectories.
struct Drawing;

impl GroupMaker for Drawing {
    fn see(&mut self, row: &mut Row, raw: Raw) -> Result<()> {
        trajectory(row, raw).map(drop)
    }

    fn finish(self: Box<Self>, rows: RowPlaces, seed: u64) -> Result<(Groups, Vec<String>)> {
        let source = TripleSource::new(rows.read(|raw| read(raw, trajectory)))?;
        let (order, note) = (source.order(seed, 0), source.summary().to_string());
        Ok((Groups::of(DrawnTriples { source, order, seed }), vec![note]))
    }
}

/// Triples of one epoch, in the order drawn.
#[derive(Debug)]
struct DrawnTriples {
    source: TripleSource,
    order: Vec<u32>,
    seed: u64,
}

impl GroupSource for DrawnTriples {
    fn count(&self) -> usize {
        self.order.len()
    }

    fn read(&self, index: usize) -> Result<Group> {
        let item = *self.order.get(index).ok_or_else(|| Error::machine(format!("triple {index}")))?;
        Ok(self.source.draw(item as usize, self.seed, 0)?.into())
    }
}
