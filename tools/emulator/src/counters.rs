//! What a launch did, in numbers that do not depend on time.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Accesses to device memory of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Instructions of warps.
    pub requests: u64,
    /// Bytes that lanes asked for; an address that several lanes of a request share counts once.
    pub bytes: u64,
    /// Sectors of 32 bytes that the requests touched.
    pub sectors: u64,
    /// The fewest sectors that could hold those bytes, request by request.
    pub fewest_sectors: u64,
    /// Different sectors that the whole launch touched: what caches of endless size would move.
    pub footprint_sectors: u64,
}

/// Accesses to shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Banks {
    /// Instructions of warps.
    pub requests: u64,
    /// Turns that the 32 banks take for them.
    pub wavefronts: u64,
    /// Turns beyond those that the same bytes would take without conflicts.
    pub conflicts: u64,
}

/// The counters of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// How often each opcode was executed by a warp.
    pub mix: BTreeMap<String, u64>,
    /// Instructions executed by warps.
    pub instructions: u64,
    /// Instructions executed by lanes.
    pub lane_instructions: u64,
    /// `mma` instructions.
    pub mma: u64,
    /// Multiplications and additions of the `mma` instructions, each counted as one.
    pub mma_operations: u64,
    /// Loads from device memory, those of asynchronous copies among them.
    pub loads: Traffic,
    /// Stores to device memory.
    pub stores: Traffic,
    /// Atomic operations of lanes on device memory.
    pub global_atomics: u64,
    /// Loads from shared memory, `ldmatrix` among them.
    pub shared_loads: Banks,
    /// Stores to shared memory, those of asynchronous copies among them.
    pub shared_stores: Banks,
    /// Barriers that warps arrived at.
    pub barriers: u64,
}

impl Counters {
    pub(crate) fn merge(&mut self, other: &Self) {
        for (opcode, count) in &other.mix {
            *self.mix.entry(opcode.clone()).or_default() += count;
        }
        for (to, from) in [
            (&mut self.instructions, other.instructions),
            (&mut self.lane_instructions, other.lane_instructions),
            (&mut self.mma, other.mma),
            (&mut self.mma_operations, other.mma_operations),
            (&mut self.global_atomics, other.global_atomics),
            (&mut self.barriers, other.barriers),
        ] {
            *to += from;
        }
        for (to, from) in [(&mut self.loads, other.loads), (&mut self.stores, other.stores)] {
            to.requests += from.requests;
            to.bytes += from.bytes;
            to.sectors += from.sectors;
            to.fewest_sectors += from.fewest_sectors;
            to.footprint_sectors += from.footprint_sectors;
        }
        for (to, from) in [(&mut self.shared_loads, other.shared_loads), (&mut self.shared_stores, other.shared_stores)]
        {
            to.requests += from.requests;
            to.wavefronts += from.wavefronts;
            to.conflicts += from.conflicts;
        }
    }
}

impl Traffic {
    /// Adds a request of lanes at aligned addresses, `bytes` each, at most 32.
    pub(crate) fn request(&mut self, addresses: &[u64], bytes: u64) {
        let mut sorted = [0; 32];
        let sorted = &mut sorted[..addresses.len()];
        sorted.copy_from_slice(addresses);
        if !sorted.is_sorted() {
            sorted.sort_unstable();
        }
        let distinct = |shift: u32| {
            let changes = sorted.windows(2).filter(|w| w[0] >> shift != w[1] >> shift).count() as u64;
            changes + u64::from(!sorted.is_empty())
        };
        self.requests += 1;
        self.sectors += distinct(5);
        let unique = distinct(0) * bytes;
        self.bytes += unique;
        self.fewest_sectors += unique.div_ceil(32);
    }
}

impl Banks {
    /// Adds a request of lanes at aligned addresses, `bytes` each. The hardware serves so many lanes at a time as ask
    /// for 128 bytes together.
    pub(crate) fn request(&mut self, addresses: &[u32], bytes: u32) {
        self.requests += 1;
        let words = bytes.div_ceil(4);
        for lanes in addresses.chunks((32 / words.max(1)) as usize) {
            let turns = Self::turns(lanes, words);
            self.wavefronts += turns;
            self.conflicts += turns - 1;
        }
    }

    /// How many different words the busiest bank has to deliver.
    fn turns(addresses: &[u32], words: u32) -> u64 {
        // Each bank has a chain of the words that were asked of it.
        let (mut seen, mut next) = ([0u32; 32], [0u8; 32]);
        let (mut first, mut length) = ([u8::MAX; 32], [0u8; 32]);
        let mut used = 0;
        for address in addresses {
            for word in address / 4..address / 4 + words {
                let bank = (word % 32) as usize;
                let mut at = first[bank];
                while at != u8::MAX && seen[usize::from(at)] != word {
                    at = next[usize::from(at)];
                }
                if at == u8::MAX && used < 32 {
                    seen[used] = word;
                    next[used] = first[bank];
                    first[bank] = used as u8;
                    length[bank] += 1;
                    used += 1;
                }
            }
        }
        u64::from(length.into_iter().max().unwrap_or(1).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_coalesced_strided_and_shared_addresses() {
        let mut traffic = Traffic::default();
        let addresses: Vec<u64> = (0..32).map(|n| 4096 + 4 * n).collect();
        traffic.request(&addresses, 4);
        assert_eq!((traffic.sectors, traffic.fewest_sectors, traffic.bytes), (4, 4, 128));
        let addresses: Vec<u64> = (0..32).rev().map(|n| 4096 + 64 * n).collect();
        traffic.request(&addresses, 4);
        assert_eq!((traffic.sectors, traffic.fewest_sectors), (4 + 32, 4 + 4));
        traffic.request(&[4096; 32], 4);
        assert_eq!((traffic.sectors, traffic.fewest_sectors, traffic.bytes), (37, 9, 260));
    }

    #[test]
    fn turns_of_banks() {
        let turns = |addresses: Vec<u32>, bytes| {
            let mut banks = Banks::default();
            banks.request(&addresses, bytes);
            (banks.wavefronts, banks.conflicts)
        };
        assert_eq!(turns((0..32).map(|n| 4 * n).collect(), 4), (1, 0));
        assert_eq!(turns((0..32).map(|n| 8 * n).collect(), 4), (2, 1));
        assert_eq!(turns((0..32).map(|n| 128 * n).collect(), 4), (32, 31));
        assert_eq!(turns(vec![64; 32], 4), (1, 0));
        assert_eq!(turns((0..32).map(|n| 8 * n).collect(), 8), (2, 0));
        assert_eq!(turns((0..32).map(|n| 16 * n).collect(), 16), (4, 0));
        assert_eq!(turns((0..32).map(|n| 128 * n).collect(), 16), (32, 28));
        assert_eq!(turns((0..32).map(|n| 2 * n).collect(), 2), (1, 0));
    }
}
