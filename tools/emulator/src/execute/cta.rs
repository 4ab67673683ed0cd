//! One block: its warps, its memory, its barriers.

use super::warp::{Stop, Wait, Warp};
use super::{Knowledge, Launch, POISON, Tally, mix};
use crate::decode::{Array, BarrierKind, RED_ZONE, align_up};
use crate::detect::Fault;
use crate::detect::race::Cell;

/// What is known of a byte of shared or local memory.
pub(super) const NOBODY: u8 = 0;
pub(super) const UNWRITTEN: u8 = 1;
pub(super) const WRITTEN: u8 = 2;
/// An asynchronous copy is under way to it.
pub(super) const IN_FLIGHT: u8 = 3;

/// Memory with a state for each byte; what lies between arrays belongs to nobody.
pub(super) struct Scratch {
    pub bytes: Vec<u8>,
    pub states: Vec<u8>,
}

impl Scratch {
    pub fn new(end: usize, arrays: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut scratch =
            Self { bytes: POISON.to_le_bytes().repeat(end.div_ceil(4)), states: vec![NOBODY; end.next_multiple_of(4)] };
        for (start, size) in arrays {
            scratch.states[start..start + size].fill(UNWRITTEN);
        }
        scratch
    }

    /// Reads up to 8 bytes.
    #[inline(always)]
    pub fn load(&self, at: usize, bytes: usize) -> u64 {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&self.bytes[at..at + bytes]);
        u64::from_le_bytes(value)
    }

    /// Writes up to 8 bytes.
    #[inline(always)]
    pub fn store(&mut self, at: usize, bytes: usize, value: u64) {
        self.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        self.states[at..at + bytes].fill(WRITTEN);
    }
}

/// A barrier that some have arrived at.
#[derive(Default)]
pub(super) struct Barrier {
    /// Threads, those that have ended among them where the rest of their warp is here.
    arrived: u32,
    /// Threads that have not ended.
    lanes: u32,
    /// How many threads it is for; 0 means all.
    expected: u32,
    /// What is known of each warp by those who arrived.
    joined: Vec<u32>,
    known: Knowledge,
    count: u32,
    all: bool,
}

/// What the warps of a block share.
pub(super) struct Shared<'l> {
    pub launch: &'l Launch<'l>,
    /// The number of the block, from 1, and its coordinates.
    pub number: u32,
    pub coordinates: [u32; 3],
    pub memory: Scratch,
    /// Two bytes each.
    pub cells: Vec<Cell>,
    pub barriers: Vec<Barrier>,
    /// Warps and threads that have not ended.
    pub running: u32,
    alive: u32,
    completed: Vec<usize>,
    /// What the block knows of others.
    pub known: Knowledge,
}

pub(super) struct Cta<'l> {
    shared: Shared<'l>,
    warps: Vec<Warp>,
    executed: u64,
    state: u64,
}

impl<'l> Cta<'l> {
    pub fn new(launch: &'l Launch<'l>, number: u32) -> Self {
        let [x, y, _] = launch.grid;
        let coordinates = [number % x, number / x % y, number / x / y];
        let layout = &launch.program.layout;
        let dynamic = layout.dynamic.map(|start| (start, launch.dynamic_shared as usize));
        let end = dynamic.map_or(layout.shared_end, |(start, size)| align_up(start + size, 16) + RED_ZONE);
        let place = |a: &Array| (a.start, a.size);
        let memory = Scratch::new(end, layout.shared.iter().map(place).chain(dynamic));
        let cells = if launch.config.races { vec![[0; 3]; end.div_ceil(2)] } else { Vec::new() };
        let threads: u32 = launch.block.iter().product();
        let count = threads.div_ceil(32);
        let warps = (0..count).map(|w| Warp::new(launch, coordinates, w, count, (threads - 32 * w).min(32))).collect();
        let shared = Shared {
            launch,
            number: number + 1,
            coordinates,
            memory,
            cells,
            barriers: (0..16).map(|_| Barrier::default()).collect(),
            running: count,
            alive: threads,
            completed: Vec::new(),
            known: Knowledge::new(),
        };
        Self { shared, warps, executed: 0, state: mix(launch.config.seed ^ u64::from(number) << 20) }
    }

    /// Executes about so many instructions of warps; true when nothing is left to do.
    pub fn run(&mut self, tally: &mut Tally, turn: u64) -> bool {
        let until = self.executed + turn;
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        loop {
            for at in (1..order.len()).rev() {
                self.state = mix(self.state);
                order.swap(at, (self.state % (at as u64 + 1)) as usize);
            }
            let mut moved = false;
            for &w in &order {
                if !self.warps[w].can_run() {
                    continue;
                }
                moved = true;
                // Slices of different lengths, so that warps meet in many ways.
                self.state = mix(self.state);
                let slice = 64 << (self.state % 8);
                let stop = self.warps[w].run(&mut self.shared, tally, slice, &mut self.executed);
                match stop {
                    Stop::Slice | Stop::Waiting => {}
                    Stop::Done => self.shared.running -= 1,
                    Stop::Trap => return true,
                }
                self.open_barriers();
            }
            if self.shared.running == 0 {
                return true;
            }
            if !moved {
                self.deadlock(tally);
                return true;
            }
            if self.executed > self.shared.launch.config.most_instructions {
                let pcs = self.positions();
                let pc = pcs.first().map_or(0, |p| p.0);
                let block = self.shared.coordinates;
                tally.findings.add(Fault::Hang, pc, None, || {
                    format!("block {block:?} executed {} instructions of warps and goes on", self.executed)
                });
                return true;
            }
            if self.executed >= until {
                return false;
            }
        }
    }

    /// Where the warps that have not ended are: instruction and warp.
    fn positions(&self) -> Vec<(u32, usize)> {
        self.warps.iter().enumerate().filter_map(|(w, warp)| warp.position().map(|pc| (pc, w))).collect()
    }

    fn deadlock(&self, tally: &mut Tally) {
        for (pc, w) in self.positions() {
            let block = self.shared.coordinates;
            tally.findings.add(Fault::Deadlock, pc, None, || {
                format!("warp {w} of block {block:?} waits here for ever: what it waits for can no longer come")
            });
        }
    }

    /// Lets those go on who wait at barriers that are complete.
    fn open_barriers(&mut self) {
        while let Some(number) = self.shared.completed.pop() {
            let barrier = std::mem::take(&mut self.shared.barriers[number]);
            for (known, clock) in barrier.known {
                let to = self.shared.known.entry(known).or_insert(clock);
                *to = (*to).max(clock);
            }
            for warp in &mut self.warps {
                warp.pass_barrier(number, &barrier.joined, barrier.count, barrier.all);
            }
        }
    }
}

impl Shared<'_> {
    /// So many threads end: barriers for all threads do not wait for them.
    pub fn end(&mut self, threads: u32) {
        self.alive -= threads;
        for (number, barrier) in self.barriers.iter().enumerate() {
            let complete = barrier.lanes > 0 && barrier.expected == 0 && barrier.lanes >= self.alive;
            if complete && !self.completed.contains(&number) {
                self.completed.push(number);
            }
        }
    }

    /// A warp's lanes arrive at a barrier; all that are left of it count for the whole warp.
    pub fn arrive(&mut self, number: usize, expected: u32, warp: &mut Warp, lanes: u32, held: u32) {
        let barrier = &mut self.barriers[number];
        if barrier.arrived == 0 {
            barrier.all = true;
            barrier.joined = vec![0; warp.seen.len()];
        }
        barrier.expected = expected;
        barrier.arrived += if lanes == warp.live { 32 } else { lanes.count_ones() };
        barrier.lanes += lanes.count_ones();
        barrier.count += held.count_ones();
        barrier.all &= held == lanes;
        for (to, from) in barrier.joined.iter_mut().zip(&warp.seen) {
            *to = (*to).max(*from);
        }
        let own = &mut barrier.joined[warp.number as usize];
        *own = (*own).max(warp.clock);
        for (&known, &clock) in &warp.known {
            let to = barrier.known.entry(known).or_insert(clock);
            *to = (*to).max(clock);
        }
        let complete = if expected == 0 { barrier.lanes >= self.alive } else { barrier.arrived >= expected };
        if complete {
            self.completed.push(number);
        }
    }
}

/// The result of a barrier for those who wait at it.
pub(super) fn barrier_result(kind: BarrierKind, count: u32, all: bool) -> u32 {
    match kind {
        BarrierKind::Count => count,
        BarrierKind::All => 0u32.wrapping_sub(all.into()),
        BarrierKind::Any => 0u32.wrapping_sub((count > 0).into()),
        BarrierKind::Sync | BarrierKind::Arrive => 0,
    }
}

/// What a path of a warp waits for at a barrier.
pub(super) fn at_barrier(wait: Wait, number: usize) -> bool {
    matches!(wait, Wait::Barrier { number: n, .. } if n == number)
}
