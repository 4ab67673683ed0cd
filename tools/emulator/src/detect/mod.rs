//! What the emulator finds wrong with a kernel.

pub(crate) mod race;

use crate::decode::Program;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// Two threads access the same bytes, one of them writes, and nothing orders the two.
    Race,
    /// An access outside of every allocation or array.
    OutOfBounds,
    /// An address that is no multiple of the size of the access.
    Misaligned,
    /// Memory is read that was never written.
    Uninitialised,
    /// The target of an asynchronous copy is touched before the copy was waited for.
    CopyInFlight,
    /// A barrier that not all threads reach together.
    DivergentBarrier,
    /// An instruction for several lanes that not all of them execute together.
    DivergentWarp,
    /// Nothing can go on.
    Deadlock,
    /// More instructions than a launch is allowed.
    Hang,
    /// The kernel executed `trap`.
    Trap,
    /// An `assert` of the kernel does not hold.
    Assert,
    /// Functions call each other deeper than there is room for.
    StackOverflow,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Race => "race",
            Self::OutOfBounds => "out of bounds",
            Self::Misaligned => "misaligned access",
            Self::Uninitialised => "uninitialised read",
            Self::CopyInFlight => "asynchronous copy in flight",
            Self::DivergentBarrier => "divergent barrier",
            Self::DivergentWarp => "divergent warp",
            Self::Deadlock => "deadlock",
            Self::Hang => "hang",
            Self::Trap => "trap",
            Self::Assert => "assertion failed",
            Self::StackOverflow => "stack overflow",
        })
    }
}

/// A fault at an instruction, however often it occurred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind it is.
    pub fault: Fault,
    /// The kernel.
    pub kernel: String,
    /// The opcode of the instruction.
    pub opcode: String,
    /// Its line in the PTX, from 1.
    pub line: u32,
    /// Its place in the source, and where that was inlined; empty if the PTX does not say.
    pub source: String,
    /// The other instruction of a race: its line in the PTX and its place in the source.
    pub other: Option<(u32, String)>,
    /// How often it occurred.
    pub count: u64,
    /// Threads and addresses of one occurrence.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at PTX line {} (`{}`", self.kernel, self.fault, self.line, self.opcode)?;
        if !self.source.is_empty() {
            write!(f, ", {}", self.source)?;
        }
        f.write_str(")")?;
        if let Some((line, source)) = &self.other {
            write!(f, " with PTX line {line}")?;
            if !source.is_empty() {
                write!(f, " ({source})")?;
            }
        }
        write!(f, ", {} times: {}", self.count, self.detail)
    }
}

/// Findings of one worker: by fault and instructions, with the count and the first detail.
#[derive(Default)]
pub(crate) struct Findings {
    found: HashMap<(Fault, u32, Option<u32>), (u64, String)>,
}

impl Findings {
    /// Adds an occurrence; the detail is asked for once.
    pub fn add(&mut self, fault: Fault, pc: u32, other: Option<u32>, detail: impl FnOnce() -> String) {
        self.found.entry((fault, pc, other)).or_insert_with(|| (0, detail())).0 += 1;
    }

    pub fn merge(&mut self, other: Self) {
        for (key, (count, detail)) in other.found {
            self.found.entry(key).or_insert((0, detail)).0 += count;
        }
    }

    /// With the places in the text of a program, in their order.
    pub fn report(self, program: &Program) -> Vec<Finding> {
        let origin = |pc: u32| program.origins.get(pc as usize).map(|o| &program.ptx[o.0 as usize]);
        let mut merged: HashMap<_, Finding> = HashMap::new();
        for ((fault, pc, other), (count, detail)) in self.found {
            let Some(at) = origin(pc) else { continue };
            let other = other.and_then(origin).map(|o| (o.line, o.source.clone()));
            let key = (fault, at.line, other.as_ref().map(|o| o.0));
            let finding = merged.entry(key).or_insert_with(|| Finding {
                fault,
                kernel: program.name.clone(),
                opcode: at.opcode.clone(),
                line: at.line,
                source: at.source.clone(),
                other,
                count: 0,
                detail,
            });
            finding.count += count;
        }
        let mut all: Vec<_> = merged.into_values().collect();
        all.sort_by_key(|f| (f.line, f.fault, f.other.as_ref().map(|o| o.0)));
        all
    }
}
