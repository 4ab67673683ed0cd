//! Device memory: allocations at virtual addresses with nothing between them, and for each byte whether it was ever
//! written. Addresses are not used twice, so what is freed stays known as freed.

use crate::detect::race::GlobalCells;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// What memory holds that nobody has written: a NaN in f32, bf16 and f16, and as an integer an index far outside.
pub(crate) const POISON: u32 = 0x7fc1_7fc1;
/// Where the first allocation lies.
const FIRST: u64 = 0x7100_0000_0000;
/// Addresses between allocations that belong to nobody.
const RED_ZONE: u64 = 4096;
/// The alignment that a GPU promises for an allocation.
const ALIGNMENT: u64 = 256;

/// One allocation. Several threads read and write it at once, as those of a GPU do: all accesses are atomic to Rust.
pub(crate) struct Allocation {
    pub base: u64,
    pub size: u64,
    data: Box<[AtomicU64]>,
    /// For each byte 255 if it was written, else 0.
    written: Box<[AtomicU64]>,
    /// Whether all of it was written.
    pub complete: AtomicBool,
    pub cells: GlobalCells,
    /// A bit for each 32 bytes that the current launch has read, or written.
    pub read_sectors: Box<[AtomicU64]>,
    pub written_sectors: Box<[AtomicU64]>,
}

fn words(count: usize, value: u64) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(value)).collect()
}

impl Allocation {
    fn new(base: u64, size: u64) -> Self {
        let length = size.div_ceil(8) as usize;
        let sectors = size.div_ceil(32 * 64) as usize;
        Self {
            base,
            size,
            data: words(length, u64::from(POISON) << 32 | u64::from(POISON)),
            written: words(length, 0),
            complete: AtomicBool::new(false),
            cells: GlobalCells::new(size),
            read_sectors: words(sectors, 0),
            written_sectors: words(sectors, 0),
        }
    }

    /// Reads 1, 2, 4 or 8 bytes at an aligned offset.
    #[inline(always)]
    pub fn load(&self, offset: u64, bytes: usize) -> u64 {
        read(&self.data, offset, bytes)
    }

    /// Writes 1, 2, 4 or 8 bytes at an aligned offset.
    #[inline(always)]
    pub fn store(&self, offset: u64, bytes: usize, value: u64) {
        write(&self.data, offset, bytes, value);
        if !self.complete.load(Relaxed) {
            write(&self.written, offset, bytes, u64::MAX);
        }
    }

    /// Whether bytes at an aligned offset were all written.
    #[inline(always)]
    pub fn is_written(&self, offset: u64, bytes: usize) -> bool {
        self.complete.load(Relaxed) || read(&self.written, offset, bytes) == u64::MAX >> (64 - 8 * bytes)
    }

    /// `new = f(old)` in one step; returns the old value.
    pub fn update(&self, offset: u64, bytes: usize, f: impl Fn(u64) -> u64) -> u64 {
        let at = &self.data[(offset / 8) as usize];
        let shift = 8 * (offset % 8);
        let mask = (u64::MAX >> (64 - 8 * bytes)) << shift;
        let old = at
            .fetch_update(Relaxed, Relaxed, |word| Some((word & !mask) | (f((word & mask) >> shift) << shift & mask)));
        if !self.complete.load(Relaxed) {
            write(&self.written, offset, bytes, u64::MAX);
        }
        (old.unwrap_or_else(|word| word) & mask) >> shift
    }

    /// Copies from the host.
    fn put(&self, offset: u64, bytes: &[u8]) {
        if offset == 0 && bytes.len() as u64 == self.size {
            self.complete.store(true, Relaxed);
        }
        let before = (offset.next_multiple_of(8) - offset).min(bytes.len() as u64);
        let (first, rest) = bytes.split_at(before as usize);
        let (words, last) = rest.as_chunks::<8>();
        let middle = offset + before;
        let behind = middle + 8 * words.len() as u64;
        for (at, &byte) in (offset..).zip(first).chain((behind..).zip(last)) {
            self.store(at, 1, byte.into());
        }
        for (at, &word) in (middle..).step_by(8).zip(words) {
            self.store(at, 8, u64::from_le_bytes(word));
        }
    }

    /// Copies to the host.
    fn get(&self, offset: u64, to: &mut [u8]) {
        for (at, to) in (offset..).zip(to) {
            *to = (self.data[(at / 8) as usize].load(Relaxed) >> (8 * (at % 8))) as u8;
        }
    }

    /// Forgets what the last launch left behind.
    fn begin_launch(&self) {
        self.cells.clear();
        for word in self.read_sectors.iter().chain(&self.written_sectors) {
            word.store(0, Relaxed);
        }
    }
}

/// Marks everything as written.
fn write_all(written: &[AtomicU64]) {
    written.iter().for_each(|word| word.store(u64::MAX, Relaxed));
}

#[inline(always)]
fn read(data: &[AtomicU64], offset: u64, bytes: usize) -> u64 {
    assert!(offset + bytes as u64 <= 8 * data.len() as u64 && offset.is_multiple_of(bytes as u64));
    let at = data.as_ptr().cast::<u8>().wrapping_add(offset as usize).cast_mut();
    // SAFETY: the bytes lie within `data`, which is aligned to 8, and the offset is aligned to their number. The memory
    // is only ever accessed through atomics. That they differ in size is outside what Rust promises, and what every
    // processor that this runs on does as one would think.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(at).load(Relaxed).into(),
            2 => AtomicU16::from_ptr(at.cast()).load(Relaxed).into(),
            4 => AtomicU32::from_ptr(at.cast()).load(Relaxed).into(),
            _ => AtomicU64::from_ptr(at.cast()).load(Relaxed),
        }
    }
}

#[inline(always)]
fn write(data: &[AtomicU64], offset: u64, bytes: usize, value: u64) {
    assert!(offset + bytes as u64 <= 8 * data.len() as u64 && offset.is_multiple_of(bytes as u64));
    let at = data.as_ptr().cast::<u8>().wrapping_add(offset as usize).cast_mut();
    // SAFETY: as in `read`.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(at).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(at.cast()).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(at.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(at.cast()).store(value, Relaxed),
        }
    }
}

/// The memory of a device.
#[derive(Default)]
pub struct Memory {
    /// In order of their addresses.
    pub(crate) allocations: Vec<Allocation>,
    freed: Vec<(u64, u64)>,
    end: u64,
}

impl Memory {
    /// Allocates bytes, which hold nothing that may be read yet. The address is aligned to 256 and to no more.
    ///
    /// # Errors
    /// Refuses 0 bytes, and more than 1 TiB.
    pub fn allocate(&mut self, bytes: usize) -> Result<u64> {
        if bytes == 0 || bytes > 1 << 40 {
            return Err(Error::new(format!("an allocation of {bytes} bytes of device memory")));
        }
        let base = (self.end.max(FIRST) + RED_ZONE).next_multiple_of(2 * ALIGNMENT) + ALIGNMENT;
        self.end = base + bytes as u64;
        self.allocations.push(Allocation::new(base, bytes as u64));
        Ok(base)
    }

    /// Frees an allocation.
    ///
    /// # Errors
    /// Refuses an address that no allocation begins at.
    pub fn free(&mut self, address: u64) -> Result<()> {
        match self.allocations.binary_search_by_key(&address, |a| a.base) {
            Ok(at) => {
                let gone = self.allocations.remove(at);
                self.freed.push((gone.base, gone.size));
                Ok(())
            }
            Err(_) => Err(Error::new(format!("free of {address:#x}, where {}", self.describe(address)))),
        }
    }

    /// Copies from the host.
    ///
    /// # Errors
    /// Refuses bytes outside of one allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let (allocation, offset) = self.range(address, bytes.len())?;
        allocation.put(offset, bytes);
        Ok(())
    }

    /// Writes the same bytes `count` times.
    ///
    /// # Errors
    /// Refuses bytes outside of one allocation.
    pub fn fill(&self, address: u64, pattern: &[u8], count: usize) -> Result<()> {
        let bytes = pattern.len().saturating_mul(count);
        let (allocation, offset) = self.range(address, bytes)?;
        if offset == 0 && bytes as u64 == allocation.size {
            allocation.complete.store(true, Relaxed);
        }
        // In pieces, each of whole patterns.
        let piece = pattern.repeat(count.min(4096));
        for start in (0..bytes).step_by(piece.len().max(1)) {
            allocation.put(offset + start as u64, &piece[..piece.len().min(bytes - start)]);
        }
        Ok(())
    }

    /// Copies to the host; what was never written reads as NaNs.
    ///
    /// # Errors
    /// Refuses bytes outside of one allocation.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<()> {
        let (allocation, offset) = self.range(address, to.len())?;
        allocation.get(offset, to);
        Ok(())
    }

    /// Copies within the device, and with the bytes whether they were written.
    ///
    /// # Errors
    /// Refuses bytes outside of one allocation.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let (source, from) = self.range(from, bytes)?;
        let (target, to) = self.range(to, bytes)?;
        let mut all = vec![0; bytes];
        source.get(from, &mut all);
        let known: Vec<bool> = if source.complete.load(Relaxed) {
            Vec::new()
        } else {
            (from..).take(bytes).map(|at| source.is_written(at, 1)).collect()
        };
        target.put(to, &all);
        for (at, _) in (to..).zip(known).filter(|(_, written)| !written) {
            if target.complete.swap(false, Relaxed) {
                write_all(&target.written);
            }
            write(&target.written, at, 1, 0);
        }
        Ok(())
    }

    fn range(&self, address: u64, bytes: usize) -> Result<(&Allocation, u64)> {
        match self.find(address) {
            Some(at) if bytes as u64 <= self.allocations[at].size - (address - self.allocations[at].base) => {
                Ok((&self.allocations[at], address - self.allocations[at].base))
            }
            _ => Err(Error::new(format!("{bytes} bytes at {address:#x}, where {}", self.describe(address)))),
        }
    }

    /// The number of the allocation that an address lies in.
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        let at = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        (address - self.allocations[at].base < self.allocations[at].size).then_some(at)
    }

    /// What lies at or near an address.
    pub(crate) fn describe(&self, address: u64) -> String {
        if let Some(at) = self.find(address) {
            let a = &self.allocations[at];
            return format!("byte {} of the {} bytes at {:#x} is", address - a.base, a.size, a.base);
        }
        if let Some((base, size)) = self.freed.iter().find(|(base, size)| address.wrapping_sub(*base) < *size) {
            return format!("{size} bytes at {base:#x} were freed");
        }
        let before = self.allocations.partition_point(|a| a.base <= address).checked_sub(1);
        let before = before.map(|at| &self.allocations[at]).map(|a| {
            let behind = address - a.base - a.size;
            (behind, format!("{behind} bytes behind the {} bytes at {:#x}", a.size, a.base))
        });
        let after = self.allocations.get(self.allocations.partition_point(|a| a.base <= address)).map(|a| {
            let ahead = a.base - address;
            (ahead, format!("{ahead} bytes before the {} bytes at {:#x}", a.size, a.base))
        });
        match before.into_iter().chain(after).min() {
            Some((distance, text)) if distance < 1 << 30 => format!("nothing is, {text}"),
            _ => "nothing is".to_owned(),
        }
    }

    /// Forgets what the last launch left behind.
    pub(crate) fn begin_launch(&self) {
        self.allocations.iter().for_each(Allocation::begin_launch);
    }
}
