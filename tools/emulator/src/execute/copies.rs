//! Asynchronous copies. They land at the last moment that the program allows: when it waits for them. Until then their
//! target holds nothing of use, and their source is read only then.

use super::Tally;
use super::access::{Touch, lanes_of};
use super::cta::{IN_FLIGHT, Shared};
use super::warp::Warp;
use crate::decode::{ADDRESS, CopyAsync, Inst, SOURCE};

/// A copy by one instruction.
struct Copy {
    pc: u32,
    /// The lanes whose copy has not landed, and those of them whose group is not closed.
    mask: u32,
    open: u32,
    bytes: usize,
    to: [u64; 32],
    from: [u64; 32],
    /// Bytes that are read; the others are zero.
    read: [u8; 32],
    group: [u32; 32],
}

/// The copies of a warp that are under way.
#[derive(Default)]
pub(super) struct Copies {
    list: Vec<Copy>,
    /// Groups that each lane has closed.
    groups: [u32; 32],
}

impl Copies {
    /// Closes a group.
    pub fn commit(&mut self, mask: u32) {
        for copy in self.list.iter_mut().filter(|c| c.open & mask != 0) {
            for lane in lanes_of(copy.open & mask) {
                copy.group[lane] = self.groups[lane];
            }
            copy.open &= !mask;
        }
        lanes_of(mask).for_each(|lane| self.groups[lane] += 1);
    }
}

impl Warp {
    pub(super) fn issue_copy(
        &mut self,
        cta: &mut Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        inst: &Inst,
        form: CopyAsync,
        mask: u32,
    ) {
        let bytes = usize::from(form.bytes);
        let to = self.addresses(inst.slots[ADDRESS], form.wide_to, i64::from(inst.offset as i32));
        let from = self.addresses(inst.slots[SOURCE], form.wide_from, inst.offset >> 32);
        let mut read = [form.bytes; 32];
        if form.sized {
            let sizes = &self.registers.b32[usize::from(inst.slots[0])].0;
            (0..32).for_each(|lane| read[lane] = sizes[lane].min(bytes as u32) as u8);
        }
        if form.ignorable {
            let ignored = self.registers.pred[usize::from(inst.slots[1])];
            lanes_of(ignored).for_each(|lane| read[lane] = 0);
        }
        let (mut good, mut targets, mut sources, mut counts) = (0, [0u32; 32], [0u64; 32], (0, 0));
        for lane in lanes_of(mask) {
            let touch = Touch { pc, lane, bytes, write: true, strong: false };
            if !self.check_shared_lane(cta, tally, to[lane], touch) {
                continue;
            }
            targets[counts.0] = to[lane] as u32;
            counts.0 += 1;
            if read[lane] > 0 {
                // The whole of the source has to be aligned, but only what is read has to be there.
                if !self.check_source(cta, tally, from[lane], bytes, read[lane], pc, lane) {
                    read[lane] = 0;
                } else {
                    sources[counts.1] = from[lane];
                    counts.1 += 1;
                }
            }
            let at = to[lane] as usize;
            cta.memory.states[at..at + bytes].fill(IN_FLIGHT);
            for word in cta.memory.bytes[at..at + bytes].chunks_exact_mut(4) {
                word.copy_from_slice(&super::POISON.to_le_bytes());
            }
            good |= 1 << lane;
        }
        if counts.0 > 0 {
            tally.counters.shared_stores.request(&targets[..counts.0], bytes as u32);
        }
        if counts.1 > 0 {
            tally.counters.loads.request(&sources[..counts.1], bytes as u64);
        }
        if good != 0 {
            self.copies.list.push(Copy { pc, mask: good, open: good, bytes, to, from, read, group: [0; 32] });
        }
    }

    /// Checks the source of a copy: its alignment, and the bytes that are read, in the largest pieces there are.
    fn check_source(
        &self,
        cta: &Shared<'_>,
        tally: &mut Tally,
        from: u64,
        bytes: usize,
        read: u8,
        pc: u32,
        lane: usize,
    ) -> bool {
        let read = usize::from(read);
        let touch = |bytes| Touch { pc, lane, bytes, write: false, strong: false };
        if read == bytes || !from.is_multiple_of(bytes as u64) {
            return self.check_global_lane(cta, tally, from, touch(bytes));
        }
        pieces(read).all(|(at, length)| self.check_global_lane(cta, tally, from + at as u64, touch(length)))
    }

    /// Lands all but the last `keep` groups; -1 lands everything.
    pub(super) fn wait_copies(&mut self, cta: &mut Shared<'_>, tally: &mut Tally, keep: i64, mask: u32) {
        let mut list = std::mem::take(&mut self.copies.list);
        for copy in &mut list {
            for lane in lanes_of(copy.mask & mask) {
                let closed = copy.open >> lane & 1 == 0;
                let old = closed && i64::from(copy.group[lane]) + keep < i64::from(self.copies.groups[lane]);
                if keep < 0 || old {
                    self.land(cta, tally, copy, lane);
                    copy.mask &= !(1 << lane);
                    copy.open &= !(1 << lane);
                }
            }
        }
        list.retain(|copy| copy.mask != 0);
        self.copies.list = list;
    }

    fn land(&mut self, cta: &mut Shared<'_>, tally: &mut Tally, copy: &Copy, lane: usize) {
        let (pc, bytes) = (copy.pc, copy.bytes);
        let mut value = [0u8; 16];
        let read = usize::from(copy.read[lane]);
        // The source is read now: whoever changed it since the copy began shows up here.
        if read > 0 && self.check_source(cta, tally, copy.from[lane], bytes, copy.read[lane], pc, lane) {
            for (at, length) in pieces(read) {
                let found = self.locate(cta, tally, copy.from[lane] + at as u64, length, pc);
                let Some((allocation, offset)) = found else { continue };
                value[at..at + length].copy_from_slice(&allocation.load(offset, length).to_le_bytes()[..length]);
            }
        }
        let at = copy.to[lane] as usize;
        // Landing is no second touch by this thread of what is in flight, but a write that others may race with.
        cta.memory.bytes[at..at + bytes].copy_from_slice(&value[..bytes]);
        cta.memory.states[at..at + bytes].fill(super::cta::WRITTEN);
        let touch = Touch { pc, lane, bytes, write: true, strong: false };
        self.check_shared_lane(cta, tally, copy.to[lane], touch);
    }
}

/// The largest aligned pieces of up to 8 bytes that make up the first `length` bytes: offset and length.
fn pieces(length: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let piece = [8, 4, 2, 1].into_iter().find(|p| at % p == 0 && at + p <= length)?;
        at += piece;
        Some((at - piece, piece))
    })
}
