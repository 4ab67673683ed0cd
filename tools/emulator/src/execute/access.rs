//! Loads, stores and atomics, with all that is checked about them.

use super::cta::{IN_FLIGHT, NOBODY, Shared, WRITTEN};
use super::warp::Warp;
use super::{Knowledge, Tally};
use crate::decode::{ADDRESS, Access, Atomic, Inst, LOCAL_WINDOW, Order, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use crate::detect::Fault;
use crate::detect::race::{Record, enter};
use crate::parse::Space;
use std::sync::atomic::Ordering::Relaxed;

/// The lanes of a mask.
pub(super) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    std::iter::successors((mask != 0).then_some(mask), |m| Some(m & (m - 1)).filter(|&m| m != 0))
        .map(|m| m.trailing_zeros() as usize)
}

/// One access of a lane.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    pub pc: u32,
    pub lane: usize,
    pub bytes: usize,
    pub write: bool,
    pub strong: bool,
}

impl Warp {
    /// The addresses of all lanes.
    pub(super) fn addresses(&self, slot: u16, wide: bool, offset: i64) -> [u64; 32] {
        if wide {
            self.registers.b64[usize::from(slot)].0.map(|a| a.wrapping_add_signed(offset))
        } else {
            self.registers.b32[usize::from(slot)].0.map(|a| u64::from(a.wrapping_add(offset as u32)))
        }
    }

    /// Splits the lanes of a generic access by the space that each address lies in, and makes the addresses those of
    /// that space.
    fn spaces(&self, space: Space, addresses: &mut [u64; 32], mask: u32) -> [(Space, u32); 4] {
        let mut masks = [(Space::Global, 0), (Space::Shared, 0), (Space::Local, 0), (Space::Param, 0)];
        if space != Space::Generic {
            masks[0] = (space, mask);
            return masks;
        }
        for lane in lanes_of(mask) {
            let windows = [(1, SHARED_WINDOW), (2, LOCAL_WINDOW), (3, PARAM_WINDOW)];
            let found = windows.into_iter().find(|(_, start)| addresses[lane].wrapping_sub(*start) < WINDOW);
            let (at, start) = found.unwrap_or((0, 0));
            masks[at].1 |= 1 << lane;
            addresses[lane] -= start;
        }
        masks
    }

    pub(super) fn load(
        &mut self,
        cta: &mut Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        inst: &Inst,
        access: Access,
        mask: u32,
    ) {
        let mut addresses = self.addresses(inst.slots[ADDRESS], access.wide_address, inst.offset);
        let total = usize::from(access.bytes) * usize::from(access.count);
        let mut values = [[0u64; 32]; 8];
        for (space, mask) in self.spaces(access.space, &mut addresses, mask) {
            if mask == 0 {
                continue;
            }
            let touch = Touch { pc, lane: 0, bytes: total, write: false, strong: access.order.strong };
            let each = usize::from(access.bytes);
            match space {
                Space::Global | Space::Const | Space::Generic => {
                    let mask = self.check_global(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        let found = self.locate(cta, tally, addresses[lane], total, pc);
                        let Some((allocation, offset)) = found else { continue };
                        for (n, value) in values.iter_mut().enumerate().take(usize::from(access.count)) {
                            value[lane] = allocation.load(offset + (n * each) as u64, each);
                        }
                    }
                    if access.order.strong {
                        self.acquire(cta, &addresses, mask, access.order);
                    }
                }
                Space::Shared => {
                    let mask = self.check_shared(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        let at = addresses[lane] as usize;
                        for (n, value) in values.iter_mut().enumerate().take(usize::from(access.count)) {
                            value[lane] = cta.memory.load(at + n * each, each);
                        }
                    }
                }
                Space::Local => {
                    let mask = self.check_local(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        let at = addresses[lane] as usize;
                        for (n, value) in values.iter_mut().enumerate().take(usize::from(access.count)) {
                            value[lane] = self.local[lane].load(at + n * each, each);
                        }
                    }
                }
                Space::Param => {
                    let params = cta.launch.params;
                    for lane in lanes_of(mask) {
                        let at = addresses[lane] as usize;
                        if addresses[lane] + total as u64 > params.len() as u64 || !at.is_multiple_of(total) {
                            tally.findings.add(Fault::OutOfBounds, pc, None, || {
                                format!("{total} bytes at {at} of the {} bytes of parameters", params.len())
                            });
                            continue;
                        }
                        for (n, value) in values.iter_mut().enumerate().take(usize::from(access.count)) {
                            let mut bytes = [0; 8];
                            bytes[..each].copy_from_slice(&params[at + n * each..at + (n + 1) * each]);
                            value[lane] = u64::from_le_bytes(bytes);
                        }
                    }
                }
            }
        }
        let shift = 64 - 8 * u32::from(access.bytes);
        for (n, values) in values.iter_mut().enumerate().take(usize::from(access.count)) {
            if access.signed {
                values.iter_mut().for_each(|v| *v = ((*v << shift) as i64 >> shift) as u64);
            }
            let slot = usize::from(inst.slots[n]);
            if access.wide >> n & 1 != 0 {
                let to = &mut self.registers.b64[slot].0;
                lanes_of(mask).for_each(|lane| to[lane] = values[lane]);
            } else if mask == u32::MAX {
                self.registers.b32[slot].0 = values.map(|v| v as u32);
            } else {
                let to = &mut self.registers.b32[slot].0;
                lanes_of(mask).for_each(|lane| to[lane] = values[lane] as u32);
            }
        }
    }

    pub(super) fn store(
        &mut self,
        cta: &mut Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        inst: &Inst,
        access: Access,
        mask: u32,
    ) {
        let mut addresses = self.addresses(inst.slots[ADDRESS], access.wide_address, inst.offset);
        let each = usize::from(access.bytes);
        let count = usize::from(access.count);
        let mut values = [[0u64; 32]; 8];
        for (n, values) in values.iter_mut().enumerate().take(count) {
            let slot = usize::from(inst.slots[n]);
            *values = if access.wide >> n & 1 != 0 {
                self.registers.b64[slot].0
            } else {
                self.registers.b32[slot].0.map(u64::from)
            };
        }
        let touch = Touch { pc, lane: 0, bytes: each * count, write: true, strong: access.order.strong };
        for (space, mask) in self.spaces(access.space, &mut addresses, mask) {
            if mask == 0 {
                continue;
            }
            match space {
                Space::Global | Space::Generic => {
                    if access.order.strong {
                        self.release(cta, &addresses, mask, access.order);
                    }
                    let mask = self.check_global(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        let found = self.locate(cta, tally, addresses[lane], each * count, pc);
                        let Some((allocation, offset)) = found else { continue };
                        for (n, value) in values.iter().enumerate().take(count) {
                            allocation.store(offset + (n * each) as u64, each, value[lane]);
                        }
                    }
                }
                Space::Shared => {
                    let mask = self.check_shared(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        for (n, value) in values.iter().enumerate().take(count) {
                            cta.memory.store(addresses[lane] as usize + n * each, each, value[lane]);
                        }
                    }
                }
                Space::Local => {
                    let mask = self.check_local(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        for (n, value) in values.iter().enumerate().take(count) {
                            self.local[lane].store(addresses[lane] as usize + n * each, each, value[lane]);
                        }
                    }
                }
                Space::Const | Space::Param => {
                    tally.findings.add(Fault::OutOfBounds, pc, None, || "constant memory is not written".into());
                }
            }
        }
    }

    pub(super) fn atomic(
        &mut self,
        cta: &mut Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        inst: &Inst,
        atomic: Atomic,
        mask: u32,
    ) {
        let mut addresses = self.addresses(inst.slots[ADDRESS], atomic.wide_address, inst.offset);
        let bytes = usize::from(atomic.bytes);
        let touch = Touch { pc, lane: 0, bytes, write: true, strong: true };
        let of = |slot: u16| -> [u64; 32] {
            if bytes == 8 {
                self.registers.b64[usize::from(slot)].0
            } else {
                let narrow = u64::MAX >> (64 - 8 * bytes);
                self.registers.b32[usize::from(slot)].0.map(|v| u64::from(v) & narrow)
            }
        };
        let (b, c) = (of(inst.slots[1]), of(inst.slots[2]));
        let mut old = [0; 32];
        for (space, mask) in self.spaces(atomic.space, &mut addresses, mask) {
            if mask == 0 {
                continue;
            }
            match space {
                Space::Global | Space::Generic => {
                    self.release(cta, &addresses, mask, atomic.order);
                    let mask = self.check_global(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        tally.counters.global_atomics += 1;
                        let found = self.locate(cta, tally, addresses[lane], bytes, pc);
                        let Some((allocation, offset)) = found else { continue };
                        old[lane] = allocation.update(offset, bytes, |a| (atomic.function)(a, b[lane], c[lane]));
                    }
                    self.acquire(cta, &addresses, mask, atomic.order);
                }
                Space::Shared => {
                    let mask = self.check_shared(cta, tally, &addresses, mask, touch);
                    for lane in lanes_of(mask) {
                        let at = addresses[lane] as usize;
                        old[lane] = cta.memory.load(at, bytes);
                        cta.memory.store(at, bytes, (atomic.function)(old[lane], b[lane], c[lane]));
                    }
                }
                Space::Local | Space::Const | Space::Param => {
                    tally.findings.add(Fault::OutOfBounds, pc, None, || "no atomics in this space".into());
                }
            }
        }
        let slot = usize::from(inst.slots[0]);
        for lane in lanes_of(mask) {
            if bytes == 8 {
                self.registers.b64[slot].0[lane] = old[lane];
            } else {
                self.registers.b32[slot].0[lane] = old[lane] as u32;
            }
        }
    }

    /// The allocation of an address and the offset in it, by way of where this instruction was last.
    #[inline(always)]
    pub(super) fn locate<'m>(
        &self,
        cta: &Shared<'m>,
        tally: &mut Tally,
        address: u64,
        bytes: usize,
        pc: u32,
    ) -> Option<(&'m crate::memory::Allocation, u64)> {
        let memory = cta.launch.memory;
        let hint = &mut tally.hints[pc as usize];
        let inside = |at: usize| {
            let allocation = memory.allocations.get(at)?;
            let offset = address.wrapping_sub(allocation.base);
            (offset < allocation.size && bytes as u64 <= allocation.size - offset).then_some((allocation, offset))
        };
        if let Some(found) = inside(*hint as usize) {
            return Some(found);
        }
        let at = memory.find(address)?;
        *hint = at as u32;
        inside(at)
    }

    /// Checks accesses to device memory and counts them; returns the lanes whose access can be made.
    fn check_global(
        &mut self,
        cta: &Shared<'_>,
        tally: &mut Tally,
        addresses: &[u64; 32],
        mask: u32,
        touch: Touch,
    ) -> u32 {
        let (mut good, mut list, mut length) = (0, [0u64; 32], 0);
        for lane in lanes_of(mask) {
            if self.check_global_lane(cta, tally, addresses[lane], Touch { lane, ..touch }) {
                good |= 1 << lane;
                list[length] = addresses[lane];
                length += 1;
            }
        }
        let traffic = if touch.write { &mut tally.counters.stores } else { &mut tally.counters.loads };
        if length > 0 {
            traffic.request(&list[..length], touch.bytes as u64);
        }
        good
    }

    /// Checks one access to device memory: false if it cannot be made.
    pub(super) fn check_global_lane(&self, cta: &Shared<'_>, tally: &mut Tally, address: u64, touch: Touch) -> bool {
        let Touch { pc, lane, bytes, write, strong } = touch;
        let Some((allocation, offset)) = self.locate(cta, tally, address, bytes, pc) else {
            let thread = self.thread(cta, lane);
            let what = cta.launch.memory.describe(address);
            tally
                .findings
                .add(Fault::OutOfBounds, pc, None, || format!("{bytes} bytes at {address:#x} by {thread}: {what}"));
            return false;
        };
        if !address.is_multiple_of(bytes as u64) {
            let thread = self.thread(cta, lane);
            tally.findings.add(Fault::Misaligned, pc, None, || format!("{bytes} bytes at {address:#x} by {thread}"));
            return false;
        }
        let config = cta.launch.config;
        if !write && config.uninitialised && !allocation.complete.load(Relaxed) {
            let unwritten = (0..bytes).step_by(8).any(|n| !allocation.is_written(offset + n as u64, bytes.min(8)));
            if unwritten {
                let thread = self.thread(cta, lane);
                let what = cta.launch.memory.describe(address);
                tally.findings.add(Fault::Uninitialised, pc, None, || format!("{bytes} bytes by {thread}: {what}"));
            }
        }
        let sectors = if write { &allocation.written_sectors } else { &allocation.read_sectors };
        let (word, bit) = ((offset / 2048) as usize, 1u64 << (offset / 32 % 64));
        if sectors[word].load(Relaxed) & bit == 0 {
            sectors[word].fetch_or(bit, Relaxed);
        }
        if config.races {
            let clock = if strong && write { self.release_clock(cta) } else { self.clock };
            let now = Record::new(cta.number, self.number, clock, pc, strong).with_lane(lane);
            let end = offset + bytes as u64;
            for at in (offset..end).step_by(2) {
                let clash = allocation.cells.enter(at, now, write, |other| self.ordered(cta, other, now));
                if let Some(other) = clash {
                    self.report_race(cta, tally, now, other, || cta.launch.memory.describe(address));
                    break;
                }
            }
        }
        true
    }

    /// Checks accesses to shared memory and counts them; returns the lanes whose access can be made.
    fn check_shared(
        &mut self,
        cta: &mut Shared<'_>,
        tally: &mut Tally,
        addresses: &[u64; 32],
        mask: u32,
        touch: Touch,
    ) -> u32 {
        let (mut good, mut list, mut length) = (0, [0u32; 32], 0);
        for lane in lanes_of(mask) {
            if self.check_shared_lane(cta, tally, addresses[lane], Touch { lane, ..touch }) {
                good |= 1 << lane;
                list[length] = addresses[lane] as u32;
                length += 1;
            }
        }
        let banks = if touch.write { &mut tally.counters.shared_stores } else { &mut tally.counters.shared_loads };
        if length > 0 {
            banks.request(&list[..length], touch.bytes as u32);
        }
        good
    }

    /// Checks one access to shared memory: false if it cannot be made.
    pub(super) fn check_shared_lane(
        &self,
        cta: &mut Shared<'_>,
        tally: &mut Tally,
        address: u64,
        touch: Touch,
    ) -> bool {
        let Touch { pc, lane, bytes, write, strong } = touch;
        let states = usize::try_from(address).ok().and_then(|at| cta.memory.states.get(at..at.checked_add(bytes)?));
        let Some(states) = states.filter(|states| !states.contains(&NOBODY)) else {
            let thread = self.thread(cta, lane);
            let arrays = shared_arrays(cta);
            tally.findings.add(Fault::OutOfBounds, pc, None, || {
                format!("{bytes} bytes at {address:#x} of shared memory by {thread}; there are {arrays}")
            });
            return false;
        };
        if !address.is_multiple_of(bytes as u64) {
            let thread = self.thread(cta, lane);
            tally.findings.add(Fault::Misaligned, pc, None, || {
                format!("{bytes} bytes at {address:#x} of shared memory by {thread}")
            });
            return false;
        }
        if states.iter().any(|&s| s != WRITTEN) {
            let thread = self.thread(cta, lane);
            if states.contains(&IN_FLIGHT) {
                tally.findings.add(Fault::CopyInFlight, pc, None, || {
                    format!("{bytes} bytes at {address:#x} of shared memory by {thread}")
                });
            } else if !write && cta.launch.config.uninitialised {
                tally.findings.add(Fault::Uninitialised, pc, None, || {
                    format!("{bytes} bytes at {address:#x} of shared memory by {thread}")
                });
            }
        }
        if cta.launch.config.races {
            let now = Record::new(cta.number, self.number, self.clock, pc, strong).with_lane(lane);
            let at = address as usize;
            for cell in at / 2..(at + bytes).div_ceil(2) {
                let mut held = cta.cells[cell];
                let clash = enter(&mut held, now, write, |other| self.ordered(cta, other, now));
                cta.cells[cell] = held;
                if let Some(other) = clash {
                    self.report_race(cta, tally, now, other, || format!("address {address:#x} of shared memory"));
                    break;
                }
            }
        }
        true
    }

    fn check_local(
        &mut self,
        cta: &Shared<'_>,
        tally: &mut Tally,
        addresses: &[u64; 32],
        mask: u32,
        touch: Touch,
    ) -> u32 {
        let Touch { pc, bytes, write, .. } = touch;
        let mut good = 0;
        for lane in lanes_of(mask) {
            let address = addresses[lane];
            let thread = || self.thread(cta, lane);
            let states = self.local.get(lane).map_or(&[][..], |l| &l.states);
            let states = usize::try_from(address).ok().and_then(|at| states.get(at..at.checked_add(bytes)?));
            let Some(states) = states.filter(|states| !states.contains(&NOBODY)) else {
                tally.findings.add(Fault::OutOfBounds, pc, None, || {
                    format!("{bytes} bytes at {address:#x} of local memory by {}", thread())
                });
                continue;
            };
            if !address.is_multiple_of(bytes as u64) {
                tally.findings.add(Fault::Misaligned, pc, None, || {
                    format!("{bytes} bytes at {address:#x} of local memory by {}", thread())
                });
                continue;
            }
            if !write && cta.launch.config.uninitialised && states.iter().any(|&s| s != WRITTEN) {
                tally.findings.add(Fault::Uninitialised, pc, None, || {
                    format!("{bytes} bytes at {address:#x} of local memory by {}", thread())
                });
            }
            good |= 1 << lane;
        }
        good
    }

    /// Whether a record lies before the present access.
    #[inline(always)]
    fn ordered(&self, cta: &Shared<'_>, other: Record, now: Record) -> bool {
        let (warp, clock) = (other.warp(), other.clock());
        if other.block() != now.block() {
            let key = (other.block(), warp as u32);
            let known = |k: &Knowledge| k.get(&key).is_some_and(|&up_to| clock <= up_to);
            return known(&self.known) || known(&cta.known);
        }
        if warp == now.warp() {
            return clock <= self.seen_lanes[now.lane()][other.lane()];
        }
        self.seen.get(warp).is_some_and(|&up_to| clock <= up_to)
    }

    fn report_race(
        &self,
        cta: &Shared<'_>,
        tally: &mut Tally,
        now: Record,
        other: Record,
        place: impl FnOnce() -> String,
    ) {
        let before = if other.block() == now.block() {
            format!("warp {} lane {}", other.warp(), other.lane())
        } else {
            format!("warp {} lane {} of block number {}", other.warp(), other.lane(), other.block() - 1)
        };
        let thread = self.thread(cta, now.lane());
        tally.findings.add(Fault::Race, now.pc(), Some(other.pc()), || format!("{}: {thread} and {before}", place()));
    }

    /// A lane's name in messages.
    pub(super) fn thread(&self, cta: &Shared<'_>, lane: usize) -> String {
        format!("warp {} lane {lane} of block {:?}", self.number, cta.coordinates)
    }

    /// The clock of a strong write: right behind a fence that of the fence, as the write that completes a release is
    /// itself ordered before what acquires it.
    fn release_clock(&self, cta: &Shared<'_>) -> u32 {
        let fence = self.offered.as_ref().and_then(|offered| offered.get(&(cta.number, self.number)));
        fence.copied().filter(|clock| clock + 1 == self.clock).unwrap_or(self.clock)
    }

    /// A strong write publishes what the last fence offers, or all there is if it releases by itself.
    fn release(&mut self, cta: &Shared<'_>, addresses: &[u64; 32], mask: u32, order: Order) {
        if order.release {
            self.offered = Some(self.knowledge(cta));
            self.clock += 1;
        }
        let Some(offered) = &self.offered else { return };
        let mut published = super::lock(&cta.launch.published);
        for lane in lanes_of(mask) {
            let to = published.entry(addresses[lane]).or_default();
            for (&known, &clock) in offered {
                let to = to.entry(known).or_insert(clock);
                *to = (*to).max(clock);
            }
        }
    }

    /// A strong read brings what was published at its address; a fence, or the read itself if it acquires, makes it
    /// good.
    fn acquire(&mut self, cta: &Shared<'_>, addresses: &[u64; 32], mask: u32, order: Order) {
        let published = super::lock(&cta.launch.published);
        if published.is_empty() {
            return;
        }
        for lane in lanes_of(mask) {
            let Some(brought) = published.get(&addresses[lane]) else { continue };
            let to = if order.acquire { &mut self.known } else { &mut self.acquired };
            for (&known, &clock) in brought.iter().filter(|(key, _)| key.0 != cta.number) {
                let to = to.entry(known).or_insert(clock);
                *to = (*to).max(clock);
            }
        }
    }
}

/// The arrays of shared memory, in words.
fn shared_arrays(cta: &Shared<'_>) -> String {
    let layout = &cta.launch.program.layout;
    let mut names: Vec<String> =
        layout.shared.iter().map(|a| format!("`{}` with {} bytes at {:#x}", a.name, a.size, a.start)).collect();
    if let Some(start) = layout.dynamic {
        names.push(format!("{} dynamic bytes at {start:#x}", cta.launch.dynamic_shared));
    }
    if names.is_empty() { "no arrays".into() } else { names.join(", ") }
}
