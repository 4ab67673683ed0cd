//! What a card is: the numbers that the choice of kernels, the share of the peak and the plan of memory go by.
//!
//! [`Properties`] is what a device says of itself; [`Card`] is what NVIDIA publishes of a product, for machines where it
//! is not at hand and for what no driver says, its peak. Sources: the whitepapers of the architectures (A100, H100,
//! GA102, Ada, Blackwell RTX) and the data sheets of the products. Peaks are dense, without sparsity, products of bf16
//! with sums in f32; those of GeForce cards, whose tensor cores add f32 at half speed, are that half.

use std::fmt;

/// A compute capability, such as 8.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// The architecture: 8 is Ampere and Ada, 9 Hopper, 10 and 12 Blackwell.
    pub major: u32,
    /// The member of its family.
    pub minor: u32,
}

impl Capability {
    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What kernels are chosen by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Properties {
    /// What it can execute.
    pub capability: Capability,
    /// Multiprocessors (SMs).
    pub sms: usize,
    /// Threads that a multiprocessor holds at one time.
    pub threads_per_sm: usize,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_sm: usize,
    /// Bytes of shared memory that a block may ask for.
    pub shared_per_block: usize,
    /// Bytes of shared memory that each block takes beside its own.
    pub shared_reserved: usize,
    /// Bytes of the cache that all multiprocessors share.
    pub l2_bytes: usize,
    /// The highest clock of the multiprocessors in Hz.
    pub clock: f64,
}

impl Properties {
    /// Blocks of `threads` threads and `shared` bytes of dynamic shared memory that a multiprocessor holds at one time.
    /// `by_registers` is what registers allow at least: the blocks that the kernel was compiled for.
    pub fn blocks_per_sm(&self, threads: u32, shared: u32, by_registers: u32) -> usize {
        let by_threads = self.threads_per_sm / (threads as usize).max(1);
        let by_shared = self.shared_per_sm / (shared as usize + self.shared_reserved).max(1);
        by_threads.min(by_shared).min(by_registers as usize).max(1)
    }

    /// Blocks for a kernel whose blocks share `elements` of work, `each` at a time: as many as there is work for, but no
    /// more than run at one time.
    pub fn blocks(&self, elements: usize, each: usize) -> usize {
        // Of 256 threads, a multiprocessor of any capability runs six or eight.
        const AT_ONCE: usize = 8;
        elements.div_ceil(each).min(AT_ONCE * self.sms)
    }
}

/// A product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// What `--card` calls it: `h100`, `a100-40`.
    pub name: &'static str,
    /// What its driver's name has, word by word.
    has: &'static [&'static str],
    /// What its driver's name has not.
    lacks: &'static [&'static str],
    /// What it can execute.
    pub capability: Capability,
    /// Multiprocessors.
    pub sms: usize,
    /// Bytes of memory as its driver counts them. What the driver and its context take of them is not for programs: half
    /// a GiB to one.
    pub memory_bytes: usize,
    /// Bytes a second between memory and card.
    pub bandwidth: f64,
    /// Bytes of L2.
    pub l2_bytes: usize,
    /// The clock in Hz for which the peak is published.
    pub clock: f64,
    /// Floating-point operations a second of dense products of bf16 with f32 sums.
    pub dense_bf16_flops: f64,
}

const MIB: usize = 1 << 20;

/// `[sms, MiB of memory, GB/s, MiB of L2, MHz]`
const fn card(
    name: &'static str,
    [has, lacks]: [&'static [&'static str]; 2],
    (major, minor): (u32, u32),
    [sms, memory, gb_per_s, l2, mhz]: [usize; 5],
    tflops: f64,
) -> Card {
    Card {
        name,
        has,
        lacks,
        capability: Capability::new(major, minor),
        sms,
        memory_bytes: memory * MIB,
        bandwidth: gb_per_s as f64 * 1e9,
        l2_bytes: l2 * MIB,
        clock: mhz as f64 * 1e6,
        dense_bf16_flops: tflops * 1e12,
    }
}

/// The cards that are known.
pub const CARDS: &[Card] = &[
    card("a100", [&["A100"], &["40GB"]], (8, 0), [108, 81_920, 2039, 40, 1410], 312.0),
    card("a100-40", [&["A100", "40GB"], &[]], (8, 0), [108, 40_960, 1555, 40, 1410], 312.0),
    card("a30", [&["A30"], &[]], (8, 0), [56, 24_576, 933, 24, 1440], 165.0),
    card("a10", [&["A10"], &[]], (8, 6), [72, 23_028, 600, 6, 1695], 125.0),
    card("a10g", [&["A10G"], &[]], (8, 6), [80, 23_028, 600, 6, 1710], 70.0),
    card("a40", [&["A40"], &[]], (8, 6), [84, 46_068, 696, 6, 1740], 149.7),
    card("a6000", [&["RTX", "A6000"], &[]], (8, 6), [84, 49_140, 768, 6, 1800], 154.8),
    card("3090", [&["RTX", "3090"], &["Ti"]], (8, 6), [82, 24_576, 936, 6, 1695], 71.0),
    card("3090-ti", [&["RTX", "3090", "Ti"], &[]], (8, 6), [84, 24_564, 1008, 6, 1860], 80.0),
    card("4090", [&["RTX", "4090"], &["Laptop", "D"]], (8, 9), [128, 24_564, 1008, 72, 2520], 165.2),
    card("l4", [&["L4"], &[]], (8, 9), [58, 23_034, 300, 48, 2040], 121.0),
    card("l40", [&["L40"], &[]], (8, 9), [142, 46_068, 864, 96, 2490], 181.0),
    card("l40s", [&["L40S"], &[]], (8, 9), [142, 46_068, 864, 96, 2520], 362.0),
    card("6000-ada", [&["RTX", "6000", "Ada"], &[]], (8, 9), [142, 49_140, 960, 96, 2505], 364.2),
    card("h100", [&["H100"], &["PCIe", "NVL"]], (9, 0), [132, 81_559, 3350, 50, 1830], 989.4),
    card("h100-pcie", [&["H100", "PCIe"], &[]], (9, 0), [114, 81_559, 2000, 50, 1620], 756.0),
    card("h100-nvl", [&["H100", "NVL"], &[]], (9, 0), [132, 95_830, 3900, 50, 1545], 835.5),
    card("gh200", [&["GH200"], &[]], (9, 0), [132, 97_871, 4000, 50, 1830], 989.4),
    card("h200", [&["H200"], &["NVL"]], (9, 0), [132, 143_771, 4800, 50, 1830], 989.4),
    card("h200-nvl", [&["H200", "NVL"], &[]], (9, 0), [132, 143_771, 4800, 50, 1545], 835.5),
    card("b200", [&["B200"], &[]], (10, 0), [148, 183_359, 7700, 126, 1856], 2250.0),
    card("5090", [&["RTX", "5090"], &["Laptop", "D"]], (12, 0), [170, 32_607, 1792, 96, 2407], 209.5),
    card("pro-6000", [&["RTX", "PRO", "6000", "Blackwell"], &["Max"]], (12, 0), [188, 97_887, 1792, 128, 2617], 503.8),
];

impl Card {
    /// The card that `--card` calls so.
    pub fn named(name: &str) -> Option<&'static Self> {
        CARDS.iter().find(|card| card.name.eq_ignore_ascii_case(name))
    }

    /// The card whose driver calls it so: `NVIDIA A100-SXM4-40GB`. A part of a card (MIG) is not the card.
    pub fn matching(device: &str) -> Option<&'static Self> {
        let words: Vec<&str> = device.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let has = |part: &&str| words.iter().any(|word| word.eq_ignore_ascii_case(part));
        CARDS.iter().find(|card| !has(&"MIG") && card.has.iter().all(&has) && !card.lacks.iter().any(&has))
    }

    /// The names of all, for a message.
    pub fn names() -> String {
        CARDS.iter().map(|card| card.name).collect::<Vec<_>>().join(", ")
    }

    /// What its driver says of it, for planning without one. What is not in the table depends on its capability.
    pub fn properties(&self) -> Properties {
        let (threads_per_sm, shared_kib) = limits(self.capability);
        Properties {
            capability: self.capability,
            sms: self.sms,
            threads_per_sm,
            shared_per_sm: shared_kib << 10,
            shared_per_block: (shared_kib - 1) << 10,
            shared_reserved: 1 << 10,
            l2_bytes: self.l2_bytes,
            clock: self.clock,
        }
    }
}

/// Threads and KiB of shared memory of a multiprocessor (CUDA C++ programming guide, "Technical specifications per
/// compute capability"); of one that is not known, the least that a card of its kind has.
const fn limits(capability: Capability) -> (usize, usize) {
    match (capability.major, capability.minor) {
        (8, 0) => (2048, 164),
        (8, 7) => (1536, 164),
        (9, _) | (10, _) => (2048, 228),
        _ => (1536, 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_name_finds_its_card() {
        let cards = [
            ("NVIDIA A100-SXM4-80GB", "a100"),
            ("NVIDIA A100 80GB PCIe", "a100"),
            ("NVIDIA A100-SXM4-40GB", "a100-40"),
            ("NVIDIA A100-PCIE-40GB", "a100-40"),
            ("A100-SXM4-40GB", "a100-40"),
            ("NVIDIA A10", "a10"),
            ("NVIDIA A10G", "a10g"),
            ("NVIDIA A30", "a30"),
            ("NVIDIA A40", "a40"),
            ("NVIDIA RTX A6000", "a6000"),
            ("NVIDIA GeForce RTX 3090", "3090"),
            ("NVIDIA GeForce RTX 3090 Ti", "3090-ti"),
            ("NVIDIA GeForce RTX 4090", "4090"),
            ("NVIDIA GeForce RTX 5090", "5090"),
            ("NVIDIA L4", "l4"),
            ("NVIDIA L40", "l40"),
            ("NVIDIA L40S", "l40s"),
            ("NVIDIA RTX 6000 Ada Generation", "6000-ada"),
            ("NVIDIA H100 80GB HBM3", "h100"),
            ("NVIDIA H100 PCIe", "h100-pcie"),
            ("NVIDIA H100 NVL", "h100-nvl"),
            ("NVIDIA H200", "h200"),
            ("NVIDIA H200 NVL", "h200-nvl"),
            ("NVIDIA GH200 480GB", "gh200"),
            ("NVIDIA B200", "b200"),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "pro-6000"),
        ];
        for (device, name) in cards {
            assert_eq!(Card::matching(device).map(|card| card.name), Some(name), "{device}");
        }
        for unknown in [
            "PTX emulator",
            "Tesla V100-SXM2-16GB",
            "NVIDIA RTX A1000",
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA GeForce RTX 4080",
            "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        ] {
            assert_eq!(Card::matching(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn every_card_has_a_name_of_its_own_and_a_device_that_finds_it() {
        for (i, card) in CARDS.iter().enumerate() {
            assert_eq!(Card::named(card.name).map(|found| found.name), Some(card.name));
            assert_eq!(Card::named(&card.name.to_uppercase()), Some(card));
            assert!(CARDS[..i].iter().all(|other| other.name != card.name), "{}", card.name);
            let device = format!("NVIDIA {}", card.has.join(" "));
            assert_eq!(Card::matching(&device).map(|found| found.name), Some(card.name), "{device}");
            assert!(Card::names().contains(card.name));
        }
        assert_eq!(Card::named("h300"), None);
    }

    /// The published peak is the clock times what the multiprocessors' tensor cores do in one: a slip of the pen in a row
    /// of the table is far from that.
    #[test]
    fn peaks_follow_from_clocks() {
        for card in CARDS {
            // Multiply-adds a clock and multiprocessor count as two operations.
            let per_clock = card.dense_bf16_flops / (card.clock * card.sms as f64);
            let nearest = [512.0, 1024.0, 2048.0, 4096.0, 8192.0].map(|rate: f64| (per_clock / rate - 1.0).abs());
            let off = nearest.into_iter().fold(f64::INFINITY, f64::min);
            assert!(off < 0.02, "{}: {per_clock:.0} operations a clock and multiprocessor", card.name);
        }
    }

    #[test]
    fn blocks_share_a_multiprocessor() {
        let a100 = Card::named("a100").unwrap().properties();
        assert_eq!(a100.blocks_per_sm(128, 100_352, 2), 1);
        assert_eq!(a100.blocks_per_sm(128, 67_584, 2), 2);
        assert_eq!(a100.blocks_per_sm(512, 0, 99), 4);
        let ada = Card::named("4090").unwrap().properties();
        assert_eq!(ada.blocks_per_sm(128, 67_584, 2), 1);
        assert_eq!(a100.blocks(10_000, 1000), 10);
        assert_eq!(a100.blocks(usize::MAX >> 1, 1), 8 * 108);
    }
}
