//! Executes a kernel: blocks on all cores, the warps of a block in turns, the lanes of a warp together.

mod access;
pub(crate) mod collective;
mod copies;
mod cta;
mod library;
mod matrix;
mod printf;
pub(crate) mod registers;
mod warp;

pub(crate) use crate::memory::POISON;
pub(crate) use printf::Printed;

use crate::counters::Counters;
use crate::decode::{Op, Program};
use crate::detect::{Finding, Findings};
use crate::error::{Error, Result};
use crate::memory::Memory;
use cta::Cta;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// How tensor cores add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MmaMode {
    /// In f32, one product after the other: fast, and no worse than any hardware.
    #[default]
    Fast,
    /// As those of Ampere do, bit by bit: sums of eight products (four in TF32) with 24 bits of fraction.
    Ampere,
    /// As those of Hopper do, bit by bit: sums of sixteen products (eight in TF32) with 25 bits of fraction.
    Hopper,
}

/// How strict the emulator is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Decides the order of blocks and warps, and how approximate functions err.
    pub seed: u64,
    /// Whether races are looked for.
    pub races: bool,
    /// Whether reads of memory that nobody wrote are looked for.
    pub uninitialised: bool,
    /// Whether approximate functions are moved by up to two units in the last place.
    pub perturb: bool,
    /// How tensor cores add.
    pub mma: MmaMode,
    /// Instructions of warps that a block may execute before it counts as hanging.
    pub most_instructions: u64,
    /// The compute capability, major and minor, of the device that it stands in for: what PTX it loads, and what the
    /// library form says of itself.
    pub capability: (u32, u32),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            races: true,
            uninitialised: true,
            perturb: true,
            mma: MmaMode::Fast,
            most_instructions: 200_000_000,
            capability: (8, 0),
        }
    }
}

impl Config {
    /// Changes a setting by its name and a value in words: `seed` and `most_instructions` take a number, `races`,
    /// `uninitialised` and `perturb` take `on` or `off`, `mma` takes `fast`, `ampere` or `hopper`, and `capability` takes one
    /// such as `9.0`.
    ///
    /// # Errors
    /// Says which settings there are, or what a setting takes.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let number = || value.parse().map_err(|_| Error::new(format!("`{name}` takes a number, not `{value}`")));
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(Error::new(format!("`{name}` takes `on` or `off`, not `{value}`"))),
        };
        match name {
            "seed" => self.seed = number()?,
            "most_instructions" => self.most_instructions = number()?,
            "races" => self.races = switch()?,
            "uninitialised" => self.uninitialised = switch()?,
            "perturb" => self.perturb = switch()?,
            "mma" => {
                self.mma = match value {
                    "fast" => MmaMode::Fast,
                    "ampere" => MmaMode::Ampere,
                    "hopper" => MmaMode::Hopper,
                    _ => return Err(Error::new(format!("`mma` takes `fast`, `ampere` or `hopper`, not `{value}`"))),
                }
            }
            "capability" => {
                let parsed = value.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                let wrong = || Error::new(format!("`capability` takes one such as 9.0, not `{value}`"));
                self.capability = parsed.filter(|&(major, _)| major >= 8).ok_or_else(wrong)?;
            }
            _ => {
                return Err(Error::new(format!(
                    "there is no setting `{name}`; there are seed, most_instructions, races, uninitialised, perturb, mma, \
                     capability"
                )));
            }
        }
        Ok(())
    }
}

/// What a launch did and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The kernel.
    pub kernel: String,
    /// Blocks, in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// What it did.
    pub counters: Counters,
    /// What is wrong, in the order of the PTX.
    pub findings: Vec<Finding>,
}

/// Everything that the blocks of a launch share.
pub(crate) struct Launch<'l> {
    pub program: &'l Program,
    pub memory: &'l Memory,
    pub config: &'l Config,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: &'l [u8],
    /// What a block that reads an atomic variable learns of the others: by address.
    pub published: Mutex<HashMap<u64, Knowledge>>,
    /// What its threads print.
    pub printed: Mutex<Printed>,
}

/// Clocks of warps of other blocks, by block (from 1) and warp, up to which their accesses lie before one's own.
pub(crate) type Knowledge = HashMap<(u32, u32), u32>;

/// What one worker counts and finds.
pub(crate) struct Tally {
    /// For each instruction how often warps executed it, and lanes.
    pub executed: Vec<[u64; 2]>,
    /// For each instruction the allocation that it met last.
    pub hints: Vec<u32>,
    pub counters: Counters,
    pub findings: Findings,
}

/// Instructions of warps after which a block makes room for another, which it may be waiting for.
const TURN: u64 = 2_000_000;
/// Blocks that may be under way at once.
const RESIDENT: usize = 256;

/// Launches a kernel and waits for it.
pub(crate) fn launch(launch: &Launch<'_>) -> Result<Report> {
    let Launch { program, grid, block, dynamic_shared, .. } = *launch;
    check(launch)?;
    launch.memory.begin_launch();
    let blocks = grid.iter().map(|&n| u64::from(n)).product::<u64>() as u32;
    let order = shuffled(blocks, launch.config.seed);
    let fresh = Mutex::new(order.into_iter());
    let waiting: Mutex<VecDeque<Cta<'_>>> = Mutex::default();
    let total = Mutex::new(Tally::new(program));
    let work = || {
        let mut tally = Tally::new(program);
        loop {
            let mut cta = {
                let mut waiting = lock(&waiting);
                let next = if waiting.len() < RESIDENT { lock(&fresh).next() } else { None };
                match next {
                    Some(number) => Cta::new(launch, number),
                    None => match waiting.pop_front() {
                        Some(cta) => cta,
                        None => break,
                    },
                }
            };
            if !cta.run(&mut tally, TURN) {
                lock(&waiting).push_back(cta);
            }
        }
        lock(&total).merge(tally);
    };
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads().min(blocks as usize) {
            scope.spawn(|_| work());
        }
    });
    let tally = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Report {
        kernel: program.name.clone(),
        grid,
        block,
        dynamic_shared,
        counters: tally.counters(program, launch.memory),
        findings: tally.findings.report(program),
    })
}

/// What a launch may ask for.
fn check(launch: &Launch<'_>) -> Result<()> {
    let Launch { program, grid, block, .. } = launch;
    let name = &program.name;
    let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
    if threads == 0 || threads > u64::from(program.max_threads) || block[2] > 64 {
        let most = program.max_threads;
        return Err(Error::new(format!(
            "`{name}` is launched with blocks of {block:?}, and takes 1 to {most} threads"
        )));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
        return Err(Error::new(format!("`{name}` is launched with a grid of {grid:?} blocks")));
    }
    if grid.iter().map(|&n| u64::from(n)).product::<u64>() > u64::from(u32::MAX - 1) {
        return Err(Error::new(format!("`{name}` is launched with more than {} blocks", u32::MAX - 1)));
    }
    let shared = program.layout.static_shared as u64 + u64::from(launch.dynamic_shared);
    if shared > 227 << 10 {
        return Err(Error::new(format!(
            "`{name}` is launched with {shared} bytes of shared memory; no block has more than 227 KiB"
        )));
    }
    if launch.params.len() != program.layout.param_bytes {
        let (given, wanted) = (launch.params.len(), program.layout.param_bytes);
        return Err(Error::new(format!("`{name}` has {wanted} bytes of parameters, and {given} were given")));
    }
    Ok(())
}

/// What a lock guards, also after a panic of another thread: counters and queues are whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Tally {
    fn new(program: &Program) -> Self {
        Self {
            executed: vec![[0; 2]; program.insts.len()],
            hints: vec![0; program.insts.len()],
            counters: Counters::default(),
            findings: Findings::default(),
        }
    }

    fn merge(&mut self, other: Self) {
        for (to, from) in self.executed.iter_mut().zip(other.executed) {
            to[0] += from[0];
            to[1] += from[1];
        }
        self.counters.merge(&other.counters);
        self.findings.merge(other.findings);
    }

    /// The counters, with what follows from how often each instruction was executed.
    fn counters(&self, program: &Program, memory: &Memory) -> Counters {
        let mut counters = self.counters.clone();
        for ((&[warps, lanes], &(origin, counts)), inst) in
            self.executed.iter().zip(&program.origins).zip(&program.insts)
        {
            if warps == 0 || !counts {
                continue;
            }
            counters.instructions += warps;
            counters.lane_instructions += lanes;
            *counters.mix.entry(program.ptx[origin as usize].opcode.clone()).or_default() += warps;
            if let Op::Mma(mma) = inst.op {
                counters.mma += warps;
                counters.mma_operations += warps * mma.operations();
            }
        }
        for allocation in &memory.allocations {
            let count = |words: &[std::sync::atomic::AtomicU64]| -> u64 {
                words.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum()
            };
            counters.loads.footprint_sectors += count(&allocation.read_sectors);
            counters.stores.footprint_sectors += count(&allocation.written_sectors);
        }
        counters
    }
}

/// The numbers below `count` in an order that the seed decides.
pub(crate) fn shuffled(count: u32, seed: u64) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    let mut state = mix(seed);
    for at in (1..numbers.len()).rev() {
        state = mix(state);
        numbers.swap(at, (state % (at as u64 + 1)) as usize);
    }
    numbers
}

/// A step of SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
