//! What a computation does: its operations in order, what they cost, and when each piece of memory is in use.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::{Around, work};
use crate::backend::{Backend, Checked};
use crate::error::Result;
use crate::ops::{Access, Work};

/// A backend whose operations are listed as they run.
pub struct Recorded {
    inner: Rc<dyn Backend>,
    records: RefCell<Vec<Record>>,
}

/// One operation that ran.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name.
    pub name: &'static str,
    /// What it costs at least.
    pub work: Work,
    /// Its operands: name, what happened to it, from its first address to behind its last.
    pub operands: Vec<(&'static str, Access, Range<usize>)>,
}

/// A piece of memory between its first and its last use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// From its first address to behind its last.
    pub place: Range<usize>,
    /// The number of the first operation that uses it.
    pub first: usize,
    /// The number of the last.
    pub last: usize,
}

impl Recorded {
    /// Records the operations of `inner` from now on.
    pub fn new(inner: Rc<dyn Backend>) -> Self {
        Self { inner, records: RefCell::default() }
    }

    /// The operations since the last call, in order.
    pub fn take(&self) -> Vec<Record> {
        self.records.take()
    }

    /// What the operations of a list cost at least, all together.
    pub fn work(records: &[Record]) -> Work {
        records.iter().map(|record| record.work).sum()
    }

    /// When each operand of a list of operations is in use, by its first address.
    pub fn lives(records: &[Record]) -> Vec<Life> {
        let mut lives: Vec<Life> = Vec::new();
        for (number, record) in records.iter().enumerate() {
            for (.., place) in &record.operands {
                match lives.iter_mut().find(|life| life.place == *place) {
                    Some(life) => life.last = number,
                    None => lives.push(Life { place: place.clone(), first: number, last: number }),
                }
            }
        }
        lives.sort_by_key(|life| (life.place.start, life.place.end));
        lives
    }
}

impl Around for Recorded {
    fn inner(&self) -> &dyn Backend {
        self.inner.as_ref()
    }

    fn around(&self, op: &Checked) -> Result<()> {
        // SAFETY: checked for the dtypes, memory and indices of the one inside, which `Around` hands on.
        unsafe { self.inner.execute(op) }?;
        let operands = op.op().op().operands();
        let operands = operands.iter().map(|operand| (operand.name, operand.access, operand.tensor.addresses()));
        let work = work(self.inner.as_ref(), op.op())?;
        self.records.borrow_mut().push(Record { name: op.op().name(), work, operands: operands.collect() });
        Ok(())
    }
}
