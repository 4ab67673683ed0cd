//! Instructions across the lanes of a warp. Each is given the mask of the lanes that execute it together.

use super::registers::{LANES, Lane, LaneFn, Registers};
use crate::decode::Inst;

fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}

fn write_all(registers: &mut Registers, slot: u16, value: u32, mask: u32) {
    <u32 as Lane>::write(registers, slot, &[value; LANES], mask);
}

fn write_pred(registers: &mut Registers, slot: u16, value: u32, mask: u32) {
    let to = &mut registers.pred[usize::from(slot)];
    *to = (*to & !mask) | (value & mask);
}

pub(crate) fn activemask(registers: &mut Registers, inst: &Inst, mask: u32) {
    write_all(registers, inst.slots[0], mask, mask);
}

/// `shfl`: slot 2 is what is moved, slot 3 the distance or lane, slot 4 the bound and the mask of segments. `from` says
/// the source of a lane from (lane, distance, least lane of the segment, greatest lane), and whether it is in range.
fn shuffle(
    registers: &mut Registers,
    inst: &Inst,
    mask: u32,
    from: impl Fn(usize, usize, usize, usize) -> (usize, bool),
) {
    let [value, distance, control] = [2, 3, 4].map(|at| registers.b32[usize::from(inst.slots[at])].0);
    let (mut out, mut inside) = ([0; LANES], 0);
    for lane in lanes_of(mask) {
        let (segments, clamp) = (control[lane] as usize >> 8 & 31, control[lane] as usize & 31);
        let least = lane & segments;
        let greatest = least | (clamp & !segments);
        let (source, found) = from(lane, distance[lane] as usize & 31, least, greatest);
        // What a lane that does not take part holds is not defined.
        let there = mask >> source & 1 != 0;
        out[lane] = match (found, there) {
            (false, _) => value[lane],
            (true, true) => value[source],
            (true, false) => super::POISON,
        };
        inside |= u32::from(found) << lane;
    }
    <u32 as Lane>::write(registers, inst.slots[0], &out, mask);
    write_pred(registers, inst.slots[1], inside, mask);
}

pub(crate) fn shuffle_up(registers: &mut Registers, inst: &Inst, mask: u32) {
    // The bound of `up` is the least lane of the segment.
    shuffle(registers, inst, mask, |lane, n, _, greatest| match lane.checked_sub(n) {
        Some(source) if source >= greatest => (source, true),
        _ => (lane, false),
    });
}

pub(crate) fn shuffle_down(registers: &mut Registers, inst: &Inst, mask: u32) {
    shuffle(
        registers,
        inst,
        mask,
        |lane, n, _, greatest| {
            if lane + n <= greatest { (lane + n, true) } else { (lane, false) }
        },
    );
}

pub(crate) fn shuffle_butterfly(registers: &mut Registers, inst: &Inst, mask: u32) {
    shuffle(
        registers,
        inst,
        mask,
        |lane, n, _, greatest| {
            if lane ^ n <= greatest { (lane ^ n, true) } else { (lane, false) }
        },
    );
}

pub(crate) fn shuffle_index(registers: &mut Registers, inst: &Inst, mask: u32) {
    let control = registers.b32[usize::from(inst.slots[4])].0;
    shuffle(registers, inst, mask, |lane, n, least, greatest| {
        let segments = control[lane] as usize >> 8 & 31;
        let source = least | (n & !segments);
        if source <= greatest { (source, true) } else { (lane, false) }
    });
}

fn predicate(registers: &Registers, inst: &Inst, mask: u32) -> u32 {
    registers.pred[usize::from(inst.slots[1])] & mask
}

pub(crate) fn vote_all(registers: &mut Registers, inst: &Inst, mask: u32) {
    let all = predicate(registers, inst, mask) == mask;
    write_pred(registers, inst.slots[0], 0u32.wrapping_sub(all.into()), mask);
}

pub(crate) fn vote_any(registers: &mut Registers, inst: &Inst, mask: u32) {
    let any = predicate(registers, inst, mask) != 0;
    write_pred(registers, inst.slots[0], 0u32.wrapping_sub(any.into()), mask);
}

pub(crate) fn vote_uniform(registers: &mut Registers, inst: &Inst, mask: u32) {
    let held = predicate(registers, inst, mask);
    write_pred(registers, inst.slots[0], 0u32.wrapping_sub((held == 0 || held == mask).into()), mask);
}

pub(crate) fn ballot(registers: &mut Registers, inst: &Inst, mask: u32) {
    let held = predicate(registers, inst, mask);
    write_all(registers, inst.slots[0], held, mask);
}

fn match_any<T: Lane<Bits: PartialEq>>(registers: &mut Registers, inst: &Inst, mask: u32) {
    let values = *T::slot(registers, inst.slots[1]);
    let mut out = [0; LANES];
    for lane in lanes_of(mask) {
        out[lane] = lanes_of(mask).filter(|&other| values[other] == values[lane]).fold(0, |m, other| m | 1 << other);
    }
    <u32 as Lane>::write(registers, inst.slots[0], &out, mask);
}

fn match_all<T: Lane<Bits: PartialEq>>(registers: &mut Registers, inst: &Inst, mask: u32) {
    let values = *T::slot(registers, inst.slots[1]);
    let first = mask.trailing_zeros() as usize % LANES;
    let all = lanes_of(mask).all(|lane| values[lane] == values[first]);
    write_all(registers, inst.slots[0], if all { mask } else { 0 }, mask);
    write_pred(registers, inst.slots[2], 0u32.wrapping_sub(all.into()), mask);
}

pub(crate) fn match_any_32(registers: &mut Registers, inst: &Inst, mask: u32) {
    match_any::<u32>(registers, inst, mask);
}

pub(crate) fn match_any_64(registers: &mut Registers, inst: &Inst, mask: u32) {
    match_any::<u64>(registers, inst, mask);
}

pub(crate) fn match_all_32(registers: &mut Registers, inst: &Inst, mask: u32) {
    match_all::<u32>(registers, inst, mask);
}

pub(crate) fn match_all_64(registers: &mut Registers, inst: &Inst, mask: u32) {
    match_all::<u64>(registers, inst, mask);
}

macro_rules! reductions {
    ($($name:ident, $t:ty, |$a:ident, $b:ident| $e:expr;)+) => {$(
        pub(crate) fn $name(registers: &mut Registers, inst: &Inst, mask: u32) {
            let values = registers.b32[usize::from(inst.slots[1])].0;
            let reduced = lanes_of(mask).map(|lane| values[lane] as $t).reduce(|$a, $b| $e).unwrap_or_default();
            write_all(registers, inst.slots[0], reduced as u32, mask);
        }
    )+};
}

reductions! {
    reduce_add, u32, |a, b| a.wrapping_add(b);
    reduce_min_unsigned, u32, |a, b| a.min(b);
    reduce_max_unsigned, u32, |a, b| a.max(b);
    reduce_min_signed, i32, |a, b| a.min(b);
    reduce_max_signed, i32, |a, b| a.max(b);
    reduce_and, u32, |a, b| a & b;
    reduce_or, u32, |a, b| a | b;
    reduce_xor, u32, |a, b| a ^ b;
}

/// The greatest or smallest f32 of the lanes. A NaN counts for nothing, or (`NAN_WINS`) is the result, as it is where
/// there is nothing else; -0 is less than +0 (PTX ISA, redux.sync).
fn reduce_floats<const GREATEST: bool, const ABSOLUTE: bool, const NAN_WINS: bool>(
    registers: &mut Registers,
    inst: &Inst,
    mask: u32,
) {
    let values = registers.b32[usize::from(inst.slots[1])].0;
    let values =
        || lanes_of(mask).map(|lane| f32::from_bits(if ABSOLUTE { values[lane] & 0x7fff_ffff } else { values[lane] }));
    let numbers = values().filter(|x| !x.is_nan());
    let best = if GREATEST { numbers.max_by(f32::total_cmp) } else { numbers.min_by(f32::total_cmp) };
    let reduced = match best {
        Some(best) if !NAN_WINS || !values().any(f32::is_nan) => best.to_bits(),
        _ => 0x7fff_ffff,
    };
    write_all(registers, inst.slots[0], reduced, mask);
}

pub(crate) fn float_reduction(greatest: bool, absolute: bool, nan_wins: bool) -> LaneFn {
    match (greatest, absolute, nan_wins) {
        (false, false, false) => reduce_floats::<false, false, false>,
        (false, false, true) => reduce_floats::<false, false, true>,
        (false, true, false) => reduce_floats::<false, true, false>,
        (false, true, true) => reduce_floats::<false, true, true>,
        (true, false, false) => reduce_floats::<true, false, false>,
        (true, false, true) => reduce_floats::<true, false, true>,
        (true, true, false) => reduce_floats::<true, true, false>,
        (true, true, true) => reduce_floats::<true, true, true>,
    }
}

/// `elect`: the lowest lane of the group leads; slot 0 is its number, and the predicate in slot 1 holds for it alone.
pub(crate) fn elect(registers: &mut Registers, inst: &Inst, mask: u32) {
    let leader = mask.trailing_zeros();
    write_all(registers, inst.slots[0], leader, mask);
    write_pred(registers, inst.slots[1], 1u32.checked_shl(leader).unwrap_or(0), mask);
}
