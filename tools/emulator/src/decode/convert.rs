//! `cvt`: between all types that have registers. The conversions that kernels are full of have loops of their own; all
//! others go through exact numbers.

use super::arithmetic::flush;
use super::exact::{BF16, Exact, F16, F32, F64, Format, Rounding, TF32};
use super::{Decoder, File, Inst, Op, Opcode};
use crate::error::Result;
use crate::execute::registers::{LANES, LaneFn, Registers, lanes};
use crate::parse::{Operand, Type};
use half::f16;

/// What `offset` of a conversion says: both types, the rounding, and what is done besides.
#[derive(Clone, Copy)]
struct Conversion {
    from: Type,
    to: Type,
    rounding: Rounding,
    /// Whether a float is rounded to an integer first.
    whole: bool,
    ftz: bool,
    saturate: bool,
    relu: bool,
    /// Whether what is too large becomes the largest finite number.
    finite: bool,
}

const TYPES: [Type; 15] = [
    Type::U(1),
    Type::S(1),
    Type::U(2),
    Type::S(2),
    Type::U(4),
    Type::S(4),
    Type::U(8),
    Type::S(8),
    Type::F(2),
    Type::Bf16,
    Type::F(4),
    Type::Tf32,
    Type::F(8),
    Type::F16x2,
    Type::Bf16x2,
];
const ROUNDINGS: [Rounding; 5] = [Rounding::Nearest, Rounding::Away, Rounding::Zero, Rounding::Down, Rounding::Up];

impl Conversion {
    fn pack(self) -> Option<i64> {
        let number = |ty: Type| TYPES.iter().position(|&t| t == ty).map(|n| n as i64);
        let rounding = ROUNDINGS.iter().position(|&r| r == self.rounding)? as i64;
        let flags = [self.whole, self.ftz, self.saturate, self.relu, self.finite];
        let flags = flags.iter().rev().fold(0, |bits, &flag| bits << 1 | i64::from(flag));
        Some(number(self.from)? | number(self.to)? << 8 | rounding << 16 | flags << 24)
    }

    fn unpack(bits: i64) -> Self {
        let field = |at: u32| (bits >> at & 255) as usize;
        let flag = |at: u32| bits >> (24 + at) & 1 != 0;
        Self {
            from: TYPES[field(0)],
            to: TYPES[field(8)],
            rounding: ROUNDINGS[field(16)],
            whole: flag(0),
            ftz: flag(1),
            saturate: flag(2),
            relu: flag(3),
            finite: flag(4),
        }
    }

    /// One value, bits to bits.
    fn convert(self, bits: u64) -> u64 {
        let mut value = match self.from {
            Type::U(n) => Exact::integer(false, u128::from(bits) & ((1 << (8 * n)) - 1)),
            Type::S(n) => {
                let shift = 64 - 8 * u32::from(n);
                let v = (bits << shift) as i64 >> shift;
                Exact::integer(v < 0, v.unsigned_abs().into())
            }
            Type::F(4) if self.ftz => Exact::f64(flush(f32::from_bits(bits as u32)).into()),
            from => Exact::of(bits, format(from)),
        };
        if matches!(self.to, Type::U(_) | Type::S(_)) {
            return self.to_integer(value);
        }
        if self.whole {
            value = whole(value, self.rounding);
        }
        if self.saturate {
            value = match value {
                Exact::Nan | Exact::Infinite { negative: true } | Exact::Finite { negative: true, .. } => {
                    Exact::integer(false, 0)
                }
                Exact::Infinite { negative: false } => Exact::integer(false, 1),
                // Larger than one: the top bit is worth two or more, or there is something below a top bit worth one.
                Exact::Finite { significand, exponent, .. } => {
                    let top = 127 - significand.leading_zeros() as i32 + exponent;
                    if significand != 0 && top >= 0 { Exact::integer(false, 1) } else { value }
                }
            };
        }
        if self.relu && matches!(value, Exact::Finite { negative: true, .. } | Exact::Infinite { negative: true }) {
            value = Exact::integer(false, 0);
        }
        let to = format(self.to);
        let mut rounded = value.round(to, self.rounding);
        let infinity = ((1u64 << to.exponent) - 1) << to.fraction;
        let magnitude = (1u64 << (to.exponent + to.fraction)) - 1;
        if self.finite && rounded & magnitude == infinity {
            rounded -= 1;
        }
        match self.to {
            Type::F(4) if self.ftz => u64::from(flush(f32::from_bits(rounded as u32)).to_bits()),
            // TF32 lies in the upper bits of an f32.
            Type::Tf32 => rounded << 13,
            _ => rounded,
        }
    }

    /// To an integer: too large a number becomes the nearest there is, if it comes from a float or is to be saturated.
    fn to_integer(self, value: Exact) -> u64 {
        let bits = 8 * self.to.size() as u32;
        let signed = matches!(self.to, Type::S(_));
        let (least, most) =
            if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
        let value = whole(value, self.rounding);
        let from_float = !matches!(self.from, Type::U(_) | Type::S(_));
        let integer = match value {
            Exact::Nan if self.from == Type::F(8) || bits == 64 => 1i128 << (bits - 1),
            Exact::Nan => 0,
            Exact::Infinite { negative } => {
                if negative {
                    least
                } else {
                    most
                }
            }
            Exact::Finite { negative, significand, exponent, .. } => {
                let size = 128 - significand.leading_zeros() as i32 + exponent;
                let magnitude = match exponent {
                    _ if significand == 0 => 0,
                    _ if size > 100 => i128::MAX >> 1,
                    0.. => (significand << exponent) as i128,
                    _ => significand.checked_shr(exponent.unsigned_abs()).unwrap_or(0) as i128,
                };
                let v = if negative { -magnitude } else { magnitude };
                if from_float || self.saturate { v.clamp(least, most) } else { v }
            }
        };
        integer as u64
    }
}

/// The format of a float type.
fn format(ty: Type) -> Format {
    match ty {
        Type::F(2) | Type::F16x2 => F16,
        Type::Bf16 | Type::Bf16x2 => BF16,
        Type::Tf32 => TF32,
        Type::F(8) => F64,
        _ => F32,
    }
}

/// The nearest integer in a direction; ties of `Nearest` go to even.
fn whole(value: Exact, rounding: Rounding) -> Exact {
    let Exact::Finite { negative, significand, exponent, sticky } = value else { return value };
    if exponent >= 0 || significand == 0 {
        return value;
    }
    let shift = exponent.unsigned_abs();
    let (kept, half, rest) = if shift > 127 {
        (0, false, true)
    } else {
        let half = 1u128 << (shift - 1);
        (significand >> shift, significand & half != 0, significand & (half - 1) != 0 || sticky)
    };
    let up = match rounding {
        Rounding::Nearest => half && (rest || kept & 1 != 0),
        Rounding::Away => half,
        Rounding::Zero => false,
        Rounding::Down => negative && (half || rest),
        Rounding::Up => !negative && (half || rest),
    };
    Exact::integer(negative, kept + u128::from(up))
}

/// Any conversion of one value.
fn any(registers: &mut Registers, inst: &Inst, mask: u32) {
    let conversion = Conversion::unpack(inst.offset);
    let (to, from) = (usize::from(inst.slots[0]), usize::from(inst.slots[1]));
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let bits = if conversion.from.size() == 8 {
            registers.b64[from].0[lane]
        } else {
            u64::from(registers.b32[from].0[lane])
        };
        let result = conversion.convert(bits);
        if conversion.to.size() == 8 {
            registers.b64[to].0[lane] = result;
        } else {
            registers.b32[to].0[lane] = result as u32;
        }
    }
}

/// Any conversion of two values into the halves of one; the first source becomes the upper half.
fn any_pair(registers: &mut Registers, inst: &Inst, mask: u32) {
    let conversion = Conversion::unpack(inst.offset);
    let [to, high, low] = [0, 1, 2].map(|n| usize::from(inst.slots[n]));
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let half = |from: usize| conversion.convert(u64::from(registers.b32[from].0[lane])) as u32;
        registers.b32[to].0[lane] = half(high) << 16 | half(low);
    }
}

/// The loops of the common conversions.
fn common(c: Conversion) -> Option<LaneFn> {
    if c.ftz || c.saturate || c.relu || c.finite {
        return None;
    }
    Some(match (c.to, c.from, c.rounding, c.whole) {
        (Type::U(8) | Type::S(8), Type::U(4), _, _) => lanes!(|a: u32| -> u64 { a.into() }),
        (Type::U(8) | Type::S(8), Type::S(4), _, _) => lanes!(|a: i32| -> i64 { a.into() }),
        (Type::U(4) | Type::S(4), Type::U(8) | Type::S(8), _, _) => lanes!(|a: u64| -> u32 { a as u32 }),
        (Type::U(4) | Type::S(4), Type::U(2), _, _) => lanes!(|a: u16| -> u32 { a.into() }),
        (Type::U(4) | Type::S(4), Type::S(2), _, _) => lanes!(|a: i16| -> i32 { a.into() }),
        (Type::U(2) | Type::S(2), Type::U(4) | Type::S(4), _, _) => lanes!(|a: u32| -> u16 { a as u16 }),
        (Type::F(4), Type::U(4), Rounding::Nearest, _) => lanes!(|a: u32| -> f32 { a as f32 }),
        (Type::F(4), Type::S(4), Rounding::Nearest, _) => lanes!(|a: i32| -> f32 { a as f32 }),
        (Type::F(4), Type::Bf16, _, false) => lanes!(|a: u32| -> u32 { a << 16 }),
        (Type::F(4), Type::F(2), _, false) => lanes!(|a: f16| -> f32 { a.to_f32() }),
        (Type::Bf16, Type::F(4), Rounding::Nearest, false) => lanes!(|a: f32| -> u32 { to_bf16(a) }),
        (Type::F(2), Type::F(4), Rounding::Nearest, false) => lanes!(|a: f32| -> f16 { f16::from_f32(a) }),
        (Type::F(8), Type::F(4), _, false) => lanes!(|a: f32| -> f64 { a.into() }),
        (Type::F(4), Type::F(8), Rounding::Nearest, false) => lanes!(|a: f64| -> f32 { a as f32 }),
        (Type::S(4), Type::F(4), Rounding::Zero, _) => lanes!(|a: f32| -> i32 { a as i32 }),
        (Type::U(4), Type::F(4), Rounding::Zero, _) => lanes!(|a: f32| -> u32 { a as u32 }),
        (Type::S(4), Type::F(4), Rounding::Nearest, _) => lanes!(|a: f32| -> i32 { a.round_ties_even() as i32 }),
        (Type::Bf16x2, Type::F(4), Rounding::Nearest, false) => {
            lanes!(|a: f32, b: f32| -> u32 { to_bf16(a) << 16 | to_bf16(b) })
        }
        (Type::F16x2, Type::F(4), Rounding::Nearest, false) => lanes!(|a: f32, b: f32| -> u32 {
            u32::from(f16::from_f32(a).to_bits()) << 16 | u32::from(f16::from_f32(b).to_bits())
        }),
        _ => return None,
    })
}

/// The nearest bfloat16, ties to even; NaN is the one that GPUs make.
#[inline(always)]
fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
}

impl<'a> Decoder<'a> {
    pub(super) fn convert(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let whole = op.take_any(&[
            ("rni", Rounding::Nearest),
            ("rzi", Rounding::Zero),
            ("rmi", Rounding::Down),
            ("rpi", Rounding::Up),
        ]);
        let rounding = op.take_any(&[
            ("rn", Rounding::Nearest),
            ("rna", Rounding::Away),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ]);
        let (ftz, saturate, relu) = (op.take("ftz"), op.take("sat"), op.take("relu"));
        let finite = op.take("satfinite");
        let from = op.ty()?;
        let to = op.ty()?;
        op.done()?;
        let conversion = Conversion {
            from,
            to,
            rounding: whole.or(rounding).unwrap_or(Rounding::Nearest),
            whole: whole.is_some(),
            ftz,
            saturate,
            relu,
            finite,
        };
        let integer = |ty: Type| matches!(ty, Type::U(_) | Type::S(_));
        let pair = matches!(to, Type::F16x2 | Type::Bf16x2);
        if pair && from != Type::F(4) || matches!(from, Type::F16x2 | Type::Bf16x2 | Type::B(_) | Type::Pred) {
            return op.unsupported("it is not defined for these types");
        }
        if from == Type::Tf32 || to == Type::Tf32 && from != Type::F(4) || pair && integer(from) {
            return op.unsupported("it is not defined for these types");
        }
        if integer(to) != integer(from) && whole.or(rounding).is_none() {
            return op.unsupported("a rounding is needed");
        }
        let Some(packed) = conversion.pack() else { return op.unsupported("it is not defined for these types") };
        let function = common(conversion).unwrap_or(if pair { any_pair } else { any });
        let sources = 1 + usize::from(pair);
        self.expect_operands(sources + 1..=sources + 1)?;
        let mut slots = [0; 15];
        for (at, slot) in slots.iter_mut().enumerate().skip(1).take(sources) {
            *slot = self.source_at(at, from)?;
        }
        // The destination may be wider than the type: it is then extended, as the type has a sign or not.
        let wide = match self.operand(0)? {
            Operand::Register(register) => File::of(self.type_of(*register)) == File::B64 && to.size() < 8,
            _ => false,
        };
        slots[0] = if wide { self.fresh(File::B32)? } else { self.result(to)? };
        self.emit_inst(Inst { op: Op::Lanes(function), guard: 0, flip: 0, slots, offset: packed });
        if wide {
            let Operand::Register(register) = self.operand(0)? else { return Ok(()) };
            let result = self.slot_of(*register);
            let widened = match to {
                Type::S(1) => lanes!(|a: i8| -> i64 { a.into() }),
                Type::U(1) => lanes!(|a: u8| -> u64 { a.into() }),
                Type::S(2) => lanes!(|a: i16| -> i64 { a.into() }),
                Type::U(2) => lanes!(|a: u16| -> u64 { a.into() }),
                Type::S(4) => lanes!(|a: i32| -> i64 { a.into() }),
                _ => lanes!(|a: u32| -> u64 { a.into() }),
            };
            self.emit(Op::Lanes(widened), &[result, slots[0]], 0);
        } else if to.size() < 4 && integer(to) {
            self.extend_in_place(to, slots[0]);
        }
        Ok(())
    }

    /// Extends a narrow integer to the 32 bits of its slot, in case its register has them.
    fn extend_in_place(&mut self, ty: Type, slot: u16) {
        let function = match ty {
            Type::S(1) => lanes!(|a: i8| -> i8 { a }),
            Type::U(1) => lanes!(|a: u8| -> u8 { a }),
            Type::S(2) => lanes!(|a: i16| -> i16 { a }),
            _ => lanes!(|a: u16| -> u16 { a }),
        };
        self.emit(Op::Lanes(function), &[slot, slot], 0);
    }
}
