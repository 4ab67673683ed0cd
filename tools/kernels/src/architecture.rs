//! What a multiprocessor of each architecture has, and how many blocks of a kernel share it. The numbers are those of the
//! CUDA C++ programming guide, "Technical specifications per compute capability".

/// One architecture.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// As ptxas calls it.
    pub name: &'static str,
    /// Threads that a multiprocessor holds.
    threads: u32,
    /// Blocks that it holds.
    blocks: u32,
    /// Bytes of its shared memory.
    shared: u32,
}

/// 32-bit registers of a multiprocessor.
const REGISTERS: u32 = 65_536;
/// Registers are given to a warp in pieces of so many.
const REGISTERS_AT_ONCE: u32 = 256;
/// Shared memory that each block takes beside its own, and in pieces of how many bytes.
const SHARED_RESERVED: u32 = 1024;
const SHARED_AT_ONCE: u32 = 128;

/// All that are checked: A100, RTX 30, RTX 40, H100, B200, RTX 50.
pub const ALL: [Architecture; 6] = [
    Architecture { name: "sm_80", threads: 2048, blocks: 32, shared: 164 << 10 },
    Architecture { name: "sm_86", threads: 1536, blocks: 16, shared: 100 << 10 },
    Architecture { name: "sm_89", threads: 1536, blocks: 24, shared: 100 << 10 },
    Architecture { name: "sm_90", threads: 2048, blocks: 32, shared: 228 << 10 },
    Architecture { name: "sm_100", threads: 2048, blocks: 32, shared: 228 << 10 },
    Architecture { name: "sm_120", threads: 1536, blocks: 24, shared: 100 << 10 },
];

impl Architecture {
    /// Those that take PTX for `target`: all from it on; only itself, if it is of one capability alone, as `sm_90a`.
    pub fn that_take(target: &str) -> Vec<Self> {
        let number =
            |name: &str| name.trim_start_matches("sm_").trim_end_matches('a').parse::<u32>().unwrap_or(u32::MAX);
        let takes = |architecture: &&Self| match target.ends_with('a') {
            true => number(architecture.name) == number(target),
            false => number(architecture.name) >= number(target),
        };
        ALL.iter().filter(takes).copied().collect()
    }

    /// As ptxas is to be asked for it, to compile PTX for `target`.
    pub fn for_target<'a>(&self, target: &'a str) -> &'a str
    where
        Self: 'a,
    {
        if target.ends_with('a') { target } else { self.name }
    }

    /// Blocks that share a multiprocessor, of `threads` threads with `registers` each and `shared` bytes of shared memory,
    /// static and dynamic together. 0: a block does not fit.
    pub fn blocks(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let of_a_warp = (32 * registers.max(1)).next_multiple_of(REGISTERS_AT_ONCE);
        // Each of the four schedulers has a quarter of the registers, and a warp stays with one of them.
        let by_registers = 4 * (REGISTERS / 4 / of_a_warp) / warps;
        let by_shared = self.shared / (shared + SHARED_RESERVED).next_multiple_of(SHARED_AT_ONCE);
        by_registers.min(by_shared).min(self.threads / (32 * warps)).min(self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Architecture {
        ALL.into_iter().find(|architecture| architecture.name == name).unwrap()
    }

    #[test]
    fn occupancy_is_that_of_the_scarcest() {
        let (a100, ada, h100) = (named("sm_80"), named("sm_89"), named("sm_90"));
        // Registers: 128 threads of 255 take half of them.
        assert_eq!(a100.blocks(128, 255, 0), 2);
        assert_eq!(a100.blocks(256, 236, 98_304), 1);
        // Shared memory: two blocks of 98 KB and the KB that each takes beside them are more than 164 KB.
        assert_eq!(a100.blocks(128, 247, 100_352), 1);
        assert_eq!(h100.blocks(128, 247, 100_352), 2);
        assert_eq!(ada.blocks(128, 228, 67_584), 1);
        assert_eq!(ada.blocks(256, 240, 147_456), 0);
        // Threads, and blocks.
        assert_eq!(a100.blocks(1024, 16, 0), 2);
        assert_eq!(ada.blocks(1024, 16, 0), 1);
        assert_eq!(named("sm_86").blocks(32, 16, 0), 16);
    }

    #[test]
    fn ptx_goes_to_what_is_newer() {
        let names = |target| Architecture::that_take(target).iter().map(|a| a.for_target(target)).collect::<Vec<_>>();
        assert_eq!(names("sm_80"), ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]);
        assert_eq!(names("sm_90a"), ["sm_90a"]);
    }
}
