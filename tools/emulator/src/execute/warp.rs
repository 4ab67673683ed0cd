//! One warp: 32 lanes that execute together where they can. Where they part, those at the lowest instruction go first,
//! and paths that meet at an instruction are one again.

use super::copies::Copies;
use super::cta::{Scratch, Shared, WRITTEN, at_barrier, barrier_result};
use super::registers::{Lanes32, Lanes64, Registers};
use super::{Knowledge, Launch, Tally, mix};
use crate::decode::{BarrierKind, Barriers, Inst, MEMBERS, Op, Special};
use crate::detect::Fault;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Why a warp stopped.
pub(super) enum Stop {
    /// Its slice is over.
    Slice,
    /// All its lanes wait at barriers of the block.
    Waiting,
    /// All its lanes have ended.
    Done,
    /// A lane executed `trap`.
    Trap,
}

/// What lanes wait for.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    Nothing,
    /// Other lanes of the warp, at the same instruction.
    Lanes,
    /// A barrier of the block; its result goes to a slot.
    Barrier {
        number: usize,
        result: Option<(BarrierKind, u16)>,
    },
}

/// Lanes at an instruction.
#[derive(Clone, Copy)]
struct Path {
    pc: u32,
    mask: u32,
    wait: Wait,
}

pub(super) struct Warp {
    pub number: u32,
    /// The lanes that were there at the beginning, and those that are left.
    pub full: u32,
    pub live: u32,
    paths: Vec<Path>,
    /// Set when lanes have waited for others in vain: the next instruction takes whom it has.
    forced: bool,
    pub registers: Registers,
    /// Local memory, lane after lane.
    pub local: Vec<Scratch>,
    pub copies: Copies,
    /// Advances at everything that orders accesses.
    pub clock: u32,
    /// For each warp of the block, up to which of its clocks its accesses lie before those of this one.
    pub seen: Vec<u32>,
    /// For each lane (first index) and other lane of the warp the same.
    pub seen_lanes: Box<[[u32; 32]; 32]>,
    /// What is known of other blocks; what an atomic read has brought and a fence has not yet made good; what the last
    /// fence offers to others.
    pub known: Knowledge,
    pub acquired: Knowledge,
    pub offered: Option<Knowledge>,
}

impl Warp {
    pub fn new(launch: &Launch<'_>, block: [u32; 3], number: u32, count: u32, lanes: u32) -> Self {
        let program = launch.program;
        let mut registers = Registers {
            b32: vec![Lanes32([super::POISON; 32]); program.slots[0]],
            b64: vec![Lanes64([u64::from(super::POISON) << 32 | u64::from(super::POISON); 32]); program.slots[1]],
            pred: vec![0; program.slots[2]],
            perturb: launch.config.perturb.then_some(mix(launch.config.seed) as u32),
        };
        registers.pred[0] = u32::MAX;
        for &(slot, bits) in &program.literals32 {
            registers.b32[usize::from(slot)].0 = [bits; 32];
        }
        for &(slot, bits) in &program.literals64 {
            registers.b64[usize::from(slot)].0 = [bits; 32];
        }
        for &(slot, special) in &program.specials {
            let lanes = &mut registers.b32[usize::from(slot)].0;
            for (lane, value) in (0u32..).zip(lanes) {
                *value = special_value(special, launch, block, number, count, lane);
            }
        }
        let full = u32::MAX >> (32 - lanes);
        let layout = &program.layout;
        let local = if layout.local_end == 0 { 0 } else { lanes };
        let arrays = || layout.local.iter().map(|a| (a.start, a.size));
        let scratch = || {
            let mut scratch = Scratch::new(layout.local_end, arrays());
            layout.passed.iter().for_each(|a| scratch.states[a.start..a.start + a.size].fill(WRITTEN));
            scratch
        };
        Self {
            number,
            full,
            live: full,
            paths: vec![Path { pc: 0, mask: full, wait: Wait::Nothing }],
            forced: false,
            registers,
            local: (0..local).map(|_| scratch()).collect(),
            copies: Copies::default(),
            clock: 1,
            seen: vec![0; count as usize],
            seen_lanes: Box::new([[0; 32]; 32]),
            known: Knowledge::new(),
            acquired: Knowledge::new(),
            offered: None,
        }
    }

    pub fn can_run(&self) -> bool {
        self.paths.iter().any(|p| !matches!(p.wait, Wait::Barrier { .. }))
    }

    /// Where it stands, unless it has ended.
    pub fn position(&self) -> Option<u32> {
        // Those who wait at a barrier stand behind it already.
        let at = |p: &Path| if matches!(p.wait, Wait::Barrier { .. }) { p.pc.saturating_sub(1) } else { p.pc };
        self.paths.iter().map(at).min()
    }

    /// A barrier has opened.
    pub fn pass_barrier(&mut self, number: usize, joined: &[u32], count: u32, all: bool) {
        let mut passed = false;
        for path in self.paths.iter_mut().filter(|p| at_barrier(p.wait, number)) {
            passed = true;
            if let Wait::Barrier { result: Some((kind, slot)), .. } = path.wait {
                let value = barrier_result(kind, count, all);
                if kind == BarrierKind::Count {
                    let lanes = &mut self.registers.b32[usize::from(slot)].0;
                    (0..32).filter(|lane| path.mask >> lane & 1 != 0).for_each(|lane| lanes[lane] = value);
                } else {
                    let to = &mut self.registers.pred[usize::from(slot)];
                    *to = (*to & !path.mask) | (value & path.mask);
                }
            }
            path.wait = Wait::Nothing;
        }
        if passed {
            for (to, from) in self.seen.iter_mut().zip(joined) {
                *to = (*to).max(*from);
            }
            self.seen_lanes.iter_mut().flatten().for_each(|clock| *clock = self.clock);
            self.clock += 1;
        }
    }

    /// The lanes of a mask know of each other's accesses from here on.
    fn join_lanes(&mut self, mask: u32) {
        let inside = |lane: &usize| mask >> lane & 1 != 0;
        let mut joined = [0; 32];
        for lane in (0..32).filter(inside) {
            for (to, from) in joined.iter_mut().zip(&self.seen_lanes[lane]) {
                *to = (*to).max(*from);
            }
        }
        (0..32).filter(inside).for_each(|lane| joined[lane] = self.clock);
        (0..32).filter(inside).for_each(|lane| self.seen_lanes[lane] = joined);
        self.clock += 1;
    }

    /// Takes the path that is next: its instruction, its lanes, and the instruction at which another one waits for it.
    fn pick(&mut self) -> Option<(u32, u32, u32)> {
        let ready = |p: &Path| matches!(p.wait, Wait::Nothing);
        let pc = self.paths.iter().filter(|p| ready(p)).map(|p| p.pc).min()?;
        let mut mask = 0;
        self.paths.retain(|p| {
            let taken = ready(p) && p.pc == pc;
            mask |= if taken { p.mask } else { 0 };
            !taken
        });
        let limit = self.paths.iter().filter(|p| ready(p)).map(|p| p.pc).min().unwrap_or(u32::MAX);
        Some((pc, mask, limit))
    }

    fn put(&mut self, pc: u32, mask: u32, wait: Wait) {
        if mask != 0 {
            self.paths.push(Path { pc, mask, wait });
        }
    }

    /// Executes up to so many instructions.
    pub fn run(&mut self, cta: &mut Shared<'_>, tally: &mut Tally, slice: u64, executed: &mut u64) -> Stop {
        let program = cta.launch.program;
        let mut left = slice;
        loop {
            let Some((mut pc, mut mask, limit)) = self.pick() else {
                if self.paths.is_empty() {
                    return Stop::Done;
                }
                // Nobody can come any more: those who wait for lanes go on without.
                let stuck = self.paths.iter_mut().filter(|p| matches!(p.wait, Wait::Lanes)).min_by_key(|p| p.pc);
                let Some(stuck) = stuck else { return Stop::Waiting };
                stuck.wait = Wait::Nothing;
                self.forced = true;
                continue;
            };
            loop {
                if left == 0 {
                    self.put(pc, mask, Wait::Nothing);
                    return Stop::Slice;
                }
                left -= 1;
                *executed += 1;
                let inst = &program.insts[pc as usize];
                let on = mask & (self.registers.pred[usize::from(inst.guard)] ^ inst.flip);
                let count = &mut tally.executed[pc as usize];
                count[0] += 1;
                count[1] += u64::from(on.count_ones());
                match inst.op {
                    Op::Lanes(function) => {
                        // SAFETY: the function was chosen for this processor when the kernel was decoded.
                        unsafe { function(&mut self.registers, inst, on) };
                    }
                    Op::Load(access) => self.load(cta, tally, pc, inst, access, on),
                    Op::Store(access) => self.store(cta, tally, pc, inst, access, on),
                    Op::Branch => {
                        let target = inst.offset as u32;
                        if on == mask {
                            pc = target;
                            if pc >= limit {
                                self.put(pc, mask, Wait::Nothing);
                                break;
                            }
                            continue;
                        }
                        if on != 0 {
                            self.put(target, on, Wait::Nothing);
                            self.put(pc + 1, mask & !on, Wait::Nothing);
                            break;
                        }
                    }
                    Op::Collective(function) => {
                        match self.gather(cta, tally, pc, inst, mask, on) {
                            Some((all, together)) => {
                                mask = all;
                                let masks = self.members(inst);
                                for group in groups(&masks, together) {
                                    // SAFETY: as for `Lanes`.
                                    unsafe { function(&mut self.registers, inst, group) };
                                }
                            }
                            None => break,
                        }
                    }
                    Op::WarpBarrier => match self.gather(cta, tally, pc, inst, mask, on) {
                        Some((all, together)) => {
                            mask = all;
                            let masks = self.members(inst);
                            groups(&masks, together).for_each(|group| self.join_lanes(group));
                        }
                        None => break,
                    },
                    Op::Mma(mma) => match self.assemble(cta, tally, pc, mask, on, Fault::DivergentWarp) {
                        Some(all) => {
                            mask = all;
                            super::matrix::mma(&mut self.registers, inst, mma, cta.launch.config.mma);
                        }
                        None => break,
                    },
                    Op::Ldmatrix { .. } => match self.assemble(cta, tally, pc, mask, on, Fault::DivergentWarp) {
                        Some(all) => {
                            mask = all;
                            self.ldmatrix(cta, tally, pc, inst, mask);
                        }
                        None => break,
                    },
                    Op::Barrier(barriers) if on != 0 => {
                        let together = if barriers.aligned {
                            self.assemble(cta, tally, pc, mask, on, Fault::DivergentBarrier)
                        } else {
                            Some(mask)
                        };
                        match together {
                            Some(all) => mask = all,
                            None => break,
                        }
                        let on = mask & (self.registers.pred[usize::from(inst.guard)] ^ inst.flip);
                        if self.barrier(cta, tally, pc, inst, barriers, mask, on) {
                            break;
                        }
                    }
                    Op::Barrier(_) => {}
                    Op::CopyAsync(copy) => self.issue_copy(cta, tally, pc, inst, copy, on),
                    Op::CommitCopies => self.copies.commit(on),
                    Op::WaitCopies => self.wait_copies(cta, tally, inst.offset, on),
                    Op::Atomic(atomic) => self.atomic(cta, tally, pc, inst, atomic, on),
                    Op::BranchTable(list) => {
                        let targets = &program.targets[list as usize];
                        let index = self.registers.b32[usize::from(inst.slots[0])].0;
                        for (lane, &at) in index.iter().enumerate().filter(|(lane, _)| on >> lane & 1 != 0) {
                            match targets.get(at as usize) {
                                Some(&target) => self.put(target, 1 << lane, Wait::Nothing),
                                None => {
                                    tally.findings.add(Fault::OutOfBounds, pc, None, || {
                                        format!("target {at} of {} of a branch", targets.len())
                                    });
                                    self.end(cta, 1 << lane);
                                }
                            }
                        }
                        self.put(pc + 1, mask & !on, Wait::Nothing);
                        break;
                    }
                    Op::Exit => {
                        self.end(cta, on);
                        self.put(pc + 1, mask & !on, Wait::Nothing);
                        break;
                    }
                    Op::Fence { device } => self.fence(cta, device),
                    Op::Clock(clock) => {
                        let now = if clock.global { global_timer() } else { *executed };
                        let now = if clock.upper { now >> 32 } else { now };
                        if clock.wide {
                            self.registers.b64[usize::from(inst.slots[0])].0 = [now; 32];
                        } else {
                            self.registers.b32[usize::from(inst.slots[0])].0 = [now as u32; 32];
                        }
                    }
                    Op::Library(number) => {
                        let call = &program.library_calls[number as usize];
                        if on != 0 && !self.library(cta, tally, pc, call, on) {
                            return Stop::Trap;
                        }
                    }
                    Op::TooDeep => {
                        if on != 0 {
                            let thread = self.thread(cta, on.trailing_zeros() as usize);
                            tally.findings.add(Fault::StackOverflow, pc, None, || {
                                format!("{thread}: a function stands inside itself more than {} times", inst.offset)
                            });
                            return Stop::Trap;
                        }
                    }
                    Op::Trap => {
                        if on != 0 {
                            let block = cta.coordinates;
                            tally.findings.add(Fault::Trap, pc, None, || {
                                format!("warp {} of block {block:?}, lanes {on:#010x}", self.number)
                            });
                            return Stop::Trap;
                        }
                    }
                    Op::Nothing => {}
                }
                pc += 1;
                if pc >= limit {
                    self.put(pc, mask, Wait::Nothing);
                    break;
                }
            }
        }
    }

    /// The mask of each lane that an instruction names, of lanes that there are.
    fn members(&self, inst: &Inst) -> [u32; 32] {
        self.registers.b32[usize::from(inst.slots[MEMBERS])].0.map(|mask| mask & self.full)
    }

    /// Finds the groups of lanes that are here together: those that name one mask, all of whose lanes name it too. The
    /// others wait. `None` if nobody goes on; else the lanes that do, and those of them that execute the instruction.
    fn gather(
        &mut self,
        cta: &Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        inst: &Inst,
        mask: u32,
        on: u32,
    ) -> Option<(u32, u32)> {
        let masks = self.members(inst);
        if on == 0 || groups(&masks, on).all(|group| masks[group.trailing_zeros() as usize] == group) {
            return Some((mask, on));
        }
        let mask = self.join_waiting(pc, mask);
        let on = mask & (self.registers.pred[usize::from(inst.guard)] ^ inst.flip);
        let whole = groups(&masks, on).filter(|group| masks[group.trailing_zeros() as usize] == *group);
        let alone = on & !whole.fold(0, |lanes, group| lanes | group);
        if alone == 0 || std::mem::take(&mut self.forced) {
            if alone != 0 {
                self.report_alone(cta, tally, pc, &masks, alone, on);
            }
            return Some((mask, on));
        }
        self.put(pc, alone, Wait::Lanes);
        let going = mask & !alone;
        (going != 0).then_some((going, on & !alone))
    }

    /// Lanes that waited in vain for those that their masks name.
    fn report_alone(&self, cta: &Shared<'_>, tally: &mut Tally, pc: u32, masks: &[u32; 32], alone: u32, here: u32) {
        let (block, warp, live) = (cta.coordinates, self.number, self.live);
        for group in groups(masks, alone) {
            let named = masks[group.trailing_zeros() as usize];
            tally.findings.add(Fault::DivergentWarp, pc, None, || {
                let why = if group & !named != 0 {
                    format!("lanes {:#010x} do not name themselves", group & !named)
                } else if named & !live != 0 {
                    format!("lanes {:#010x} have ended", named & !live)
                } else if named & here & !group != 0 {
                    format!("lanes {:#010x} name another mask", named & here & !group)
                } else {
                    format!("lanes {:#010x} are not here", named & !here)
                };
                format!("warp {warp} of block {block:?}: lanes {group:#010x} name the lanes {named:#010x}, and {why}")
            });
        }
    }

    /// Lanes end: barriers no longer wait for them.
    fn end(&mut self, cta: &mut Shared<'_>, lanes: u32) {
        cta.end((self.live & lanes).count_ones());
        self.live &= !lanes;
    }

    /// Makes sure that the whole warp is here; at a barrier of the block, what is left of it.
    fn assemble(
        &mut self,
        cta: &Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        mask: u32,
        on: u32,
        fault: Fault,
    ) -> Option<u32> {
        let needed = if fault == Fault::DivergentBarrier { self.live } else { self.full };
        if on == needed {
            self.forced = false;
            return Some(mask);
        }
        let mask = self.wait_for(pc, mask, needed)?;
        let inst = &cta.launch.program.insts[pc as usize];
        let on = mask & (self.registers.pred[usize::from(inst.guard)] ^ inst.flip);
        if on != needed {
            let (block, warp) = (cta.coordinates, self.number);
            tally.findings.add(fault, pc, None, || {
                format!("warp {warp} of block {block:?}: of the lanes {needed:#010x} only {on:#010x} are here")
            });
        }
        Some(mask)
    }

    /// Joins those who wait at the same instruction; `None` if others are still to come, and these wait for them.
    fn wait_for(&mut self, pc: u32, mask: u32, needed: u32) -> Option<u32> {
        let mask = self.join_waiting(pc, mask);
        let coming = needed & self.live & !mask;
        if coming != 0 && !self.forced {
            self.put(pc, mask, Wait::Lanes);
            return None;
        }
        self.forced = false;
        Some(mask)
    }

    /// Adds those who stand at an instruction, waiting for lanes or not.
    fn join_waiting(&mut self, pc: u32, mut mask: u32) -> u32 {
        self.paths.retain(|p| {
            let joins = p.pc == pc && !matches!(p.wait, Wait::Barrier { .. });
            mask |= if joins { p.mask } else { 0 };
            !joins
        });
        mask
    }

    /// Arrives at a barrier of the block; true if the lanes now wait there.
    fn barrier(
        &mut self,
        cta: &mut Shared<'_>,
        tally: &mut Tally,
        pc: u32,
        inst: &Inst,
        barriers: Barriers,
        mask: u32,
        on: u32,
    ) -> bool {
        let first = on.trailing_zeros() as usize % 32;
        let number = self.registers.b32[usize::from(inst.slots[0])].0[first] as usize;
        let expected = if barriers.counted { self.registers.b32[usize::from(inst.slots[1])].0[first] } else { 0 };
        if number >= cta.barriers.len() || barriers.counted && (expected == 0 || expected % 32 != 0) {
            tally.findings.add(Fault::DivergentBarrier, pc, None, || {
                format!("barrier {number} for {expected} threads: there are 16, for multiples of 32 threads")
            });
            return false;
        }
        tally.counters.barriers += 1;
        let held = self.registers.pred[usize::from(inst.slots[3])] & on;
        cta.arrive(number, expected, self, on, held);
        if barriers.kind == BarrierKind::Arrive {
            self.clock += 1;
            return false;
        }
        let result = (barriers.kind != BarrierKind::Sync).then_some((barriers.kind, inst.slots[2]));
        self.put(pc + 1, on, Wait::Barrier { number, result });
        self.put(pc + 1, mask & !on, Wait::Nothing);
        true
    }

    /// What lies before a fence is offered to those who read what is written behind it.
    fn fence(&mut self, cta: &mut Shared<'_>, device: bool) {
        if !device {
            return;
        }
        for (known, clock) in self.acquired.drain() {
            let to = self.known.entry(known).or_insert(clock);
            *to = (*to).max(clock);
        }
        self.offered = Some(self.knowledge(cta));
        self.clock += 1;
    }

    /// All that this warp knows, its own accesses among it.
    pub fn knowledge(&self, cta: &Shared<'_>) -> Knowledge {
        let mut knowledge = cta.known.clone();
        for (&known, &clock) in &self.known {
            let to = knowledge.entry(known).or_insert(clock);
            *to = (*to).max(clock);
        }
        knowledge.extend((0u32..).zip(&self.seen).map(|(warp, &clock)| ((cta.number, warp), clock)));
        knowledge.insert((cta.number, self.number), self.clock);
        knowledge
    }
}

/// Nanoseconds of the device's timer: it goes on by the 32 that hardware's has as its step whenever somebody reads it,
/// so that it never goes back and whoever waits for it comes to an end.
fn global_timer() -> u64 {
    static TIMER: AtomicU64 = AtomicU64::new(1 << 40);
    TIMER.fetch_add(32, Relaxed)
}

/// The lanes that name each mask, mask by mask.
fn groups(masks: &[u32; 32], lanes: u32) -> impl Iterator<Item = u32> {
    let mut left = lanes;
    std::iter::from_fn(move || {
        let first = masks.get(left.trailing_zeros() as usize)?;
        let group = (0..32).filter(|&lane| masks[lane] == *first).fold(0, |group, lane| group | 1 << lane) & left;
        left &= !group;
        Some(group)
    })
}

fn special_value(special: Special, launch: &Launch<'_>, block: [u32; 3], warp: u32, warps: u32, lane: u32) -> u32 {
    let [x, y, _] = launch.block;
    let thread = 32 * warp + lane;
    match special {
        Special::Tid(axis) => [thread % x, thread / x % y, thread / x / y][axis],
        Special::Ntid(axis) => launch.block[axis],
        Special::Ctaid(axis) => block[axis],
        Special::Nctaid(axis) => launch.grid[axis],
        Special::Laneid => lane,
        Special::Warpid => warp,
        Special::Nwarpid => warps,
        Special::Gridid | Special::Smid => 0,
        Special::Nsmid => 1,
        Special::LaneMask(order, equal) => {
            use std::cmp::Ordering::{Equal, Greater, Less};
            let own = 1u32 << lane;
            let (below, above) = (own - 1, !(own - 1) & !own);
            match order {
                Equal => own,
                Less => below | if equal { own } else { 0 },
                Greater => above | if equal { own } else { 0 },
            }
        }
        Special::DynamicSharedBytes => launch.dynamic_shared,
        Special::TotalSharedBytes => launch.dynamic_shared + launch.program.layout.static_shared as u32,
    }
}
