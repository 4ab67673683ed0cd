//! Plan, then run: buffers are declared with the ticks between which they live, and the plan gives each its place in
//! one allocation. What is never alive at the same time may share memory.

use std::ops::RangeInclusive;
use std::rc::Rc;

use super::{Dtype, Storage, Tensor};
use crate::error::Result;

const ALIGNMENT: usize = 256;

/// A buffer of a plan, to be looked up in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

struct Entry {
    name: String,
    dtype: Dtype,
    dims: Vec<usize>,
    life: RangeInclusive<usize>,
    offset: usize,
}

impl Entry {
    fn bytes(&self) -> usize {
        (self.dims.iter().product::<usize>() * self.dtype.size()).next_multiple_of(ALIGNMENT)
    }

    fn lives_with(&self, other: &Entry) -> bool {
        self.life.start() <= other.life.end() && other.life.start() <= self.life.end()
    }
}

/// The buffers of a computation, before any memory is taken.
#[derive(Default)]
pub struct Plan {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Plan {
    /// Declares a buffer that is alive from the first to the last tick of `life`.
    pub fn buffer(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        dims: &[usize],
        life: RangeInclusive<usize>,
    ) -> Slot {
        self.entries.push(Entry { name: name.into(), dtype, dims: dims.to_vec(), life, offset: 0 });
        Slot(self.entries.len() - 1)
    }

    /// Gives every buffer its place: the largest first, each at the lowest offset that is free for all of its life.
    pub fn place(&mut self) {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(self.entries[i].bytes()), i));
        let mut placed: Vec<usize> = Vec::with_capacity(order.len());
        for i in order {
            let mut busy: Vec<(usize, usize)> = placed
                .iter()
                .map(|&j| &self.entries[j])
                .filter(|other| other.lives_with(&self.entries[i]))
                .map(|other| (other.offset, other.offset + other.bytes()))
                .collect();
            busy.sort_unstable();
            let need = self.entries[i].bytes();
            let mut offset = 0;
            for (start, end) in busy {
                if offset + need <= start {
                    break;
                }
                offset = offset.max(end);
            }
            self.entries[i].offset = offset;
            self.bytes = self.bytes.max(offset + need);
            placed.push(i);
        }
    }

    /// Bytes of the arena, once placed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the memory, so many bytes of `allocate`, and hands out the tensors.
    pub fn allocate(mut self, allocate: impl FnOnce(usize) -> Result<Rc<Storage>>) -> Result<Arena> {
        self.place();
        let storage = allocate(self.bytes.max(ALIGNMENT))?;
        let tensors = self
            .entries
            .iter()
            .map(|e| Tensor::at(storage.clone(), e.offset / e.dtype.size(), e.dtype, &e.dims))
            .collect::<Result<_>>()?;
        Ok(Arena { names: self.entries.into_iter().map(|e| e.name).collect(), tensors })
    }
}

/// One allocation that holds every buffer of a plan.
pub struct Arena {
    tensors: Vec<Tensor>,
    names: Vec<String>,
}

impl Arena {
    /// The buffer of `slot`, in the shape that it was planned with.
    pub fn get(&self, slot: Slot) -> &Tensor {
        &self.tensors[slot.0]
    }

    /// The name of the buffer that begins where `t` does, if there is only one: those that are never alive together share
    /// memory.
    pub fn name_of(&self, t: &Tensor) -> Option<&str> {
        let begins = |buffer: &Tensor| !buffer.is_empty() && buffer.overlaps(t) && buffer.address() == t.address();
        let mut names = self.names.iter().zip(&self.tensors).filter(|(_, buffer)| begins(buffer)).map(|(name, _)| name);
        names.next().filter(|_| names.next().is_none()).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buffers_that_live_together_never_share_memory(
            wanted in prop::collection::vec((1usize..5000, 0usize..20, 0usize..20), 1..40)
        ) {
            let mut plan = Plan::default();
            for (i, &(n, a, b)) in wanted.iter().enumerate() {
                plan.buffer(format!("{i}"), Dtype::F32, &[n], a.min(b)..=a.max(b));
            }
            plan.place();
            for (i, a) in plan.entries.iter().enumerate() {
                prop_assert!(a.offset + a.bytes() <= plan.bytes());
                for b in &plan.entries[i + 1..] {
                    let apart = a.offset + a.bytes() <= b.offset || b.offset + b.bytes() <= a.offset;
                    prop_assert!(apart || !a.lives_with(b));
                }
            }
            let most_alive = (0..20).map(|t| plan.entries.iter().filter(|e| e.life.contains(&t)).map(Entry::bytes).sum::<usize>()).max();
            prop_assert!(plan.bytes() >= most_alive.unwrap_or(0));
            prop_assert!(plan.bytes() <= plan.entries.iter().map(Entry::bytes).sum());
        }
    }

    #[test]
    fn buffers_that_never_meet_share_memory() {
        let mut plan = Plan::default();
        plan.buffer("a", Dtype::F32, &[1000], 0..=1);
        plan.buffer("b", Dtype::F32, &[1000], 2..=3);
        plan.place();
        assert_eq!(plan.bytes(), 4096);
    }
}
