//! ggml's K-quants: superblocks of 256 whose groups of 16 or 32 have scales (and minima) of 4 to 8 bits, themselves
//! scaled by one f16. Read as the package `gguf` reads them (`gguf.quants`), with every product, sum and difference
//! rounded to f32 in its order, so that the values are its values bit for bit; `tests/formats.rs` holds them to it.

use half::f16;

/// Encodings of a superblock.
pub const BLOCK: usize = 256;

/// `d q - m` in 16 groups of 16: 4 bits each of a scale and a minimum, 2 bits a level.
pub fn q2_k(block: &[u8; 84], out: &mut [f32; BLOCK]) {
    let (scales, levels) = (&block[..16], &block[16..80]);
    let (d, least) = (half_at(block, 80), half_at(block, 82));
    for (group, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, minimum) = (d * f32::from(scales[group] & 15), least * f32::from(scales[group] >> 4));
        each(values, 16 * group, |i| scale * f32::from(two_bits(levels, i)) - minimum);
    }
}

/// `d q` in 16 groups of 16: a signed scale of 6 bits, 3 bits a level, of which the highest, inverted, takes away 4.
pub fn q3_k(block: &[u8; 110], out: &mut [f32; BLOCK]) {
    let (high, levels, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (group, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let scale = low | (scales[8 + group % 4] >> (2 * (group / 4)) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        each(values, 16 * group, |i| {
            let level = f32::from(two_bits(levels, i)) - if high_bit(high, i) == 0 { 4.0 } else { 0.0 };
            scale * level
        });
    }
}

/// `d q - m` in 8 groups of 32: 6 bits each of a scale and a minimum, 4 bits a level.
pub fn q4_k(block: &[u8; 144], out: &mut [f32; BLOCK]) {
    let (d, least, scales, levels) = (half_at(block, 0), half_at(block, 2), &block[4..16], &block[16..]);
    for (group, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = six_bits(scales, group);
        let (scale, minimum) = (d * f32::from(scale), least * f32::from(minimum));
        each(values, 32 * group, |i| scale * f32::from(nibble(levels, i)) - minimum);
    }
}

/// As [`q4_k`] with a fifth bit of each level.
pub fn q5_k(block: &[u8; 176], out: &mut [f32; BLOCK]) {
    let (d, least, scales) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    let (high, levels) = (&block[16..48], &block[48..]);
    for (group, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = six_bits(scales, group);
        let (scale, minimum) = (d * f32::from(scale), least * f32::from(minimum));
        each(values, 32 * group, |i| scale * f32::from(nibble(levels, i) | high_bit(high, i) << 4) - minimum);
    }
}

/// `d (q - 32)` in 16 groups of 16: a signed scale of 8 bits, 6 bits a level.
pub fn q6_k(block: &[u8; 210], out: &mut [f32; BLOCK]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (group, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        each(values, 16 * group, |i| {
            // Nibbles in runs of 64: the low ones of 64 bytes, then their high ones.
            let level = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
            scale * (f32::from(level | two_bits(high, i) << 4) - 32.0)
        });
    }
}

/// The f16 at a place of a block.
pub fn half_at(block: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([block[place], block[place + 1]]).to_f32()
}

/// Sets `values`, the first of which is number `first` of the superblock.
fn each<const N: usize>(values: &mut [f32; N], first: usize, value: impl Fn(usize) -> f32) {
    values.iter_mut().enumerate().for_each(|(i, v)| *v = value(first + i));
}

/// Two bits of number `i`: 32 bytes have 128 numbers, the lowest bits the first 32 of them.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Four bits of number `i`: 32 bytes have 64 numbers, the low nibbles the first 32 of them.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

/// One bit of number `i`: 32 bytes have all 256, the lowest bits the first 32 of them.
fn high_bit(bytes: &[u8], i: usize) -> u8 {
    bytes[i % 32] >> (i / 32) & 1
}

/// Scale and minimum of a group, 6 bits each, of 12 bytes: the first four groups have theirs in the low bits of bytes 0
/// to 7, the others in bytes 8 to 11 and the high bits of the former.
fn six_bits(scales: &[u8], group: usize) -> (u8, u8) {
    let i = group % 4;
    let (scale, minimum, rest) = (scales[i], scales[4 + i], scales[8 + i]);
    match group {
        0..4 => (scale & 63, minimum & 63),
        _ => (rest & 15 | scale >> 2 & 48, rest >> 4 | minimum >> 2 & 48),
    }
}
