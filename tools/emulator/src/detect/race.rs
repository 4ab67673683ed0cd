//! Races: two accesses to the same bytes by different threads, one of them a write, that nothing puts in an order.
//!
//! For every two bytes of memory three records are kept: the last write, and two reads since. Order comes from clocks:
//! a warp's clock advances at each barrier, and each warp (and within it each lane) knows up to which clock the
//! accesses of the others lie before its own. This is the scheme of FastTrack (Flanagan and Freund, PLDI 2009), with
//! barriers in place of locks. Between the blocks of a launch order comes only from fences with atomics.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Who accessed, when and where, in 64 bits; 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record(pub u64);

const CLOCK_BITS: u32 = 16;

impl Record {
    /// `block` counts from 1. What does not fit is cut off: more than a million blocks or 65,536 barriers could hide a
    /// race, or rarely show one that is none.
    pub fn new(block: u32, warp: u32, clock: u32, pc: u32, strong: bool) -> Self {
        let block = u64::from((block - 1) % 0xf_ffff + 1);
        let clock = u64::from(clock.min((1 << CLOCK_BITS) - 1));
        Self(
            block << 44
                | u64::from(warp & 31) << 39
                | clock << 18
                | u64::from(pc & 0xffff) << 2
                | u64::from(strong) << 1,
        )
    }

    pub fn with_lane(self, lane: usize) -> Self {
        Self(self.0 | (lane as u64) << 34)
    }

    pub fn block(self) -> u32 {
        (self.0 >> 44) as u32
    }

    pub fn warp(self) -> usize {
        (self.0 >> 39 & 31) as usize
    }

    pub fn lane(self) -> usize {
        (self.0 >> 34 & 31) as usize
    }

    pub fn clock(self) -> u32 {
        (self.0 >> 18) as u32 & 0xffff
    }

    pub fn pc(self) -> u32 {
        (self.0 >> 2) as u32 & 0xffff
    }

    pub fn strong(self) -> bool {
        self.0 & 2 != 0
    }

    /// Block, warp and lane.
    fn thread(self) -> u64 {
        self.0 >> 34
    }

    /// A write that another one has overwritten without being ordered after it.
    fn overwritten(self) -> Self {
        Self(self.0 | 1)
    }

    fn is_overwritten(self) -> bool {
        self.0 & 1 != 0
    }

    fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// The last write and two reads since. In place of the first read may lie a write that the last one has not come to
/// know of, as atomics leave them: who knows of the last one alone races with it.
pub(crate) type Cell = [u64; 3];

/// Enters an access into a cell; returns the record that it races with. `ordered` says whether a record lies before the
/// present access.
#[inline(always)]
pub(crate) fn enter(cell: &mut Cell, now: Record, write: bool, ordered: impl Fn(Record) -> bool) -> Option<Record> {
    let [last, first, second] = cell.map(Record);
    let same = |r: Record| r.thread() == now.thread();
    let harmless = |r: Record| !r.is_some() || same(r) || r.strong() && now.strong() || ordered(r);
    let conflicts = |r: Record| !harmless(r);
    let clash = conflicts(last).then_some(last);
    if write {
        let clash = clash.or_else(|| [first, second].into_iter().find(|&r| conflicts(r)));
        let hides = |r: Record| r.is_some() && r.strong() && now.strong() && !same(r) && !ordered(r);
        let hidden = if hides(last) { last.overwritten() } else { first };
        let kept = if hidden.is_overwritten() && hides(hidden) { hidden.0 } else { 0 };
        *cell = [now.0, kept, 0];
        return clash;
    }
    let clash = clash.or_else(|| (first.is_overwritten() && conflicts(first)).then_some(first));
    if first.is_overwritten() {
        cell[2] = now.0;
    } else if !first.is_some() || same(first) || ordered(first) {
        cell[1] = now.0;
    } else if !second.is_some()
        || same(second)
        || ordered(second)
        // Two readers of different warps are worth more than two of one.
        || (second.0 >> 39 == first.0 >> 39 && now.0 >> 39 != first.0 >> 39)
    {
        cell[2] = now.0;
    }
    clash
}

/// Bytes that one chunk of cells covers.
const CHUNK: u64 = 4096;

/// The cells of an allocation, made when they are needed.
pub(crate) struct GlobalCells {
    chunks: Box<[OnceLock<Chunk>]>,
}

struct Chunk {
    /// Whether the current launch has entered anything.
    used: AtomicBool,
    cells: Box<[[AtomicU64; 3]]>,
}

impl GlobalCells {
    pub fn new(size: u64) -> Self {
        Self { chunks: (0..size.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect() }
    }

    pub fn clear(&self) {
        for chunk in self.chunks.iter().filter_map(OnceLock::get).filter(|chunk| chunk.used.swap(false, Relaxed)) {
            chunk.cells.as_flattened().iter().for_each(|cell| cell.store(0, Relaxed));
        }
    }

    /// Enters an access to the two bytes at an offset.
    #[inline(always)]
    pub fn enter(&self, offset: u64, now: Record, write: bool, ordered: impl Fn(Record) -> bool) -> Option<Record> {
        let chunk = self.chunks[(offset / CHUNK) as usize].get_or_init(|| Chunk {
            used: AtomicBool::new(false),
            cells: (0..CHUNK / 2).map(|_| [0; 3].map(AtomicU64::new)).collect(),
        });
        if !chunk.used.load(Relaxed) {
            chunk.used.store(true, Relaxed);
        }
        let cells = &chunk.cells[(offset % CHUNK / 2) as usize];
        // Two blocks that write at once: the exchange lets one of them see the other.
        let last = if write { cells[0].swap(now.0, Relaxed) } else { cells[0].load(Relaxed) };
        let before = [last, cells[1].load(Relaxed), cells[2].load(Relaxed)];
        let mut cell = before;
        let clash = enter(&mut cell, now, write, ordered);
        for at in 1..3 {
            if cell[at] != before[at] {
                cells[at].store(cell[at], Relaxed);
            }
        }
        clash
    }
}
