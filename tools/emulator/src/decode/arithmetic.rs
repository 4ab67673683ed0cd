//! Instructions that compute each lane for itself. The loops are made by the macros of `execute::registers`.

mod float;
mod integer;
mod scalar;

pub(super) use scalar::flush;

use super::{Decoder, File, Inst, Op, Opcode, WINDOW};
use crate::error::Result;
use crate::execute::registers::{COMBINE, LaneFn, Registers, compares, lanes};
use crate::parse::{Operand, Type};
use half::{bf16, f16};

/// The opposite of a predicate.
pub(super) fn not_pred(registers: &mut Registers, inst: &Inst, mask: u32) {
    logic(registers, inst, mask, |a, _| !a);
}

fn logic(registers: &mut Registers, inst: &Inst, mask: u32, f: impl Fn(u32, u32) -> u32) {
    let source = |at: usize| registers.pred[usize::from(inst.slots[at])];
    let value = f(source(1), source(2));
    let to = &mut registers.pred[usize::from(inst.slots[0])];
    *to = (*to & !mask) | (value & mask);
}

pub(super) fn low_half() -> LaneFn {
    lanes!(|a: u64| -> u32 { a as u32 })
}

pub(super) fn widened() -> LaneFn {
    lanes!(|a: u32| -> u64 { u64::from(a) })
}

pub(super) fn add_64() -> LaneFn {
    lanes!(|a: u64, b: u64| -> u64 { a.wrapping_add(b) })
}

/// Whether an address lies in the window that begins at the second source; 0 is where device memory's "window" begins,
/// and device memory is what lies in no window.
pub(super) fn in_window() -> LaneFn {
    compares!(|a: u64, window| if window == 0 {
        a.wrapping_sub(super::SHARED_WINDOW) >= 3 * (super::LOCAL_WINDOW - super::SHARED_WINDOW)
    } else {
        a.wrapping_sub(window) < WINDOW
    })
}

/// The comparisons of integers of two types of the same size.
macro_rules! integer_comparisons {
    ($name:expr, $ty:expr, $($pattern:pat => $t:ty),+) => {
        match $ty {
            $($pattern => Some(match $name {
                "eq" => compares!(|a: $t, b| a == b),
                "ne" => compares!(|a: $t, b| a != b),
                "lt" | "lo" => compares!(|a: $t, b| a < b),
                "le" | "ls" => compares!(|a: $t, b| a <= b),
                "gt" | "hi" => compares!(|a: $t, b| a > b),
                "ge" | "hs" => compares!(|a: $t, b| a >= b),
                _ => return None,
            }),)+
            _ => None,
        }
    };
}

/// The comparisons of floats. A comparison with a NaN is false, but for `ne` and the unordered ones, which end in `u`.
macro_rules! float_comparisons {
    ($name:expr, $t:ty, |$v:ident| $value:expr) => {
        Some(match $name {
            "eq" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x == y)),
            "ne" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x < y || x > y)),
            "lt" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x < y)),
            "le" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x <= y)),
            "gt" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x > y)),
            "ge" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x >= y)),
            "equ" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| !(x < y || x > y))),
            "neu" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x != y)),
            "ltu" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| !(x >= y))),
            "leu" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| !(x > y))),
            "gtu" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| !(x <= y))),
            "geu" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| !(x < y))),
            "num" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x == x && y == y)),
            "nan" => compares!(|a: $t, b| float_comparisons!(@ a, b, $v, $value, |x, y| x != x || y != y)),
            _ => return None,
        })
    };
    (@ $a:ident, $b:ident, $v:ident, $value:expr, |$x:ident, $y:ident| $held:expr) => {{
        let ($x, $y) = ({ let $v = $a; $value }, { let $v = $b; $value });
        $held
    }};
}

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

// The unordered comparisons are the negated ordered ones on purpose, and a NaN is what differs from itself.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::eq_op, clippy::nonminimal_bool, clippy::double_comparisons)]
fn comparison(name: &str, ty: Type, ftz: bool) -> Option<LaneFn> {
    match ty {
        Type::F(4) if ftz => float_comparisons!(name, f32, |v| flush(v)),
        Type::F(4) => float_comparisons!(name, f32, |v| v),
        Type::F(8) => float_comparisons!(name, f64, |v| v),
        Type::F(2) => float_comparisons!(name, f16, |v| v.to_f32()),
        Type::Bf16 => float_comparisons!(name, bf16, |v| v.to_f32()),
        _ => integer_comparisons!(name, ty,
            Type::U(2) | Type::B(2) => u16, Type::S(2) => i16,
            Type::U(4) | Type::B(4) => u32, Type::S(4) => i32,
            Type::U(8) | Type::B(8) => u64, Type::S(8) => i64),
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn arithmetic(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        match op.base {
            "mov" => return self.mov(op),
            "setp" => return self.setp(op),
            "set" => return self.set(op),
            "selp" | "slct" => return self.select(op),
            _ => {}
        }
        // A float instruction is one whose type is a float; conversions of formats of products have their own ways.
        let float = op
            .suffixes
            .iter()
            .any(|s| matches!(Type::named(s), Some(Type::F(_) | Type::Bf16 | Type::F16x2 | Type::Bf16x2)));
        if float && op.base != "mov" { self.float(op) } else { self.integer(op) }
    }

    /// Emits an instruction whose result and sources have one type.
    fn plain(&mut self, ty: Type, function: LaneFn, sources: usize) -> Result<()> {
        self.typed(ty, function, &[ty; 4][..sources])
    }

    /// Emits an instruction with a type for the result and one for each source.
    fn typed(&mut self, result: Type, function: LaneFn, sources: &[Type]) -> Result<()> {
        self.expect_operands(sources.len() + 1..=sources.len() + 1)?;
        let mut slots = [0; 15];
        slots[0] = self.result(result)?;
        for (at, &ty) in sources.iter().enumerate() {
            slots[at + 1] = self.source_at(at + 1, ty)?;
        }
        self.emit_inst(Inst { op: Op::Lanes(function), guard: 0, flip: 0, slots, offset: 0 });
        Ok(())
    }

    fn mov(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let ty = op.ty()?;
        op.done()?;
        if !matches!(ty, Type::Pred | Type::B(2..=8) | Type::U(2..=8) | Type::S(2..=8) | Type::F(4 | 8)) {
            return op.unsupported("values of this type are not moved as such");
        }
        self.expect_operands(2..=2)?;
        let (to, from) = (self.operand(0)?, self.operand(1)?);
        match (to, from) {
            (Operand::Vector(parts), _) => {
                let whole = self.source(from, ty)?;
                for (at, part) in parts.iter().enumerate() {
                    let size = self.part_size(ty, parts.len())?;
                    let part = self.destination(part, size)?;
                    let function = match (ty.size(), size.size()) {
                        (4, 2) => lanes!(|a: u32, n: u32| -> u16 { (a >> (16 * n)) as u16 }),
                        (8, 2) => lanes!(|a: u64, n: u32| -> u16 { (a >> (16 * n)) as u16 }),
                        _ => lanes!(|a: u64, n: u32| -> u32 { (a >> (32 * n)) as u32 }),
                    };
                    let number = self.constant(File::B32, at as u64)?;
                    self.emit(Op::Lanes(function), &[part, whole, number], 0);
                }
                Ok(())
            }
            (_, Operand::Vector(parts)) => {
                let whole = self.destination(to, ty)?;
                let size = self.part_size(ty, parts.len())?;
                let mut slots = [0; 15];
                slots[0] = whole;
                for (part, slot) in parts.iter().zip(&mut slots[1..]) {
                    *slot = self.source(part, size)?;
                }
                let function = match (ty.size(), size.size()) {
                    (4, 2) => lanes!(|a: u16, b: u16| -> u32 { u32::from(a) | u32::from(b) << 16 }),
                    (8, 2) => lanes!(|a: u16, b: u16, c: u16, d: u16| -> u64 {
                        u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
                    }),
                    _ => lanes!(|a: u32, b: u32| -> u64 { u64::from(a) | u64::from(b) << 32 }),
                };
                self.emit_inst(Inst { op: Op::Lanes(function), guard: 0, flip: 0, slots, offset: 0 });
                Ok(())
            }
            _ => {
                let function: LaneFn = match File::of(ty) {
                    File::Pred => |registers, inst, mask| logic(registers, inst, mask, |a, _| a),
                    File::B32 => lanes!(|a: u32| -> u32 { a }),
                    File::B64 => lanes!(|a: u64| -> u64 { a }),
                };
                self.plain(ty, function, 1)
            }
        }
    }

    /// The type of each of the parts that a value is packed from.
    fn part_size(&self, whole: Type, parts: usize) -> Result<Type> {
        match (whole.size(), parts) {
            (4, 2) | (8, 4) => Ok(Type::B(2)),
            (8, 2) => Ok(Type::B(4)),
            _ => self.wrong("a value is packed from parts of 16 or 32 bits"),
        }
    }

    /// The comparison of an opcode, the predicate operation if there is one, and the type.
    fn comparison_of(&mut self, op: &mut Opcode<'_>) -> Result<(LaneFn, i64, Type)> {
        let Some(name) = COMPARISONS.into_iter().find(|name| op.take(name)) else {
            return op.unsupported("it names no comparison");
        };
        let combine = COMBINE.into_iter().position(|name| op.take(name)).map_or(0, |at| at as i64 + 1);
        let ftz = op.take("ftz");
        let ty = op.ty()?;
        let defined = match ty {
            Type::B(_) => matches!(name, "eq" | "ne"),
            Type::S(_) => !matches!(name, "lo" | "ls" | "hi" | "hs"),
            _ => true,
        };
        match comparison(name, ty, ftz).filter(|_| defined) {
            Some(function) => Ok((function, combine, ty)),
            None => op.unsupported("this comparison is not defined for this type"),
        }
    }

    fn setp(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let (function, combine, ty) = self.comparison_of(op)?;
        op.done()?;
        self.expect_operands(3 + usize::from(combine > 0)..=3 + usize::from(combine > 0))?;
        let (held, opposite) = match self.operand(0)? {
            Operand::Pair(held, opposite) => (&**held, &**opposite),
            held => (held, &Operand::Sink),
        };
        let (held, opposite) = (self.destination(held, Type::Pred)?, self.destination(opposite, Type::Pred)?);
        let (left, right) = (self.source_at(1, ty)?, self.source_at(2, ty)?);
        let with = if combine > 0 { self.source_at(3, Type::Pred)? } else { 0 };
        self.emit(Op::Lanes(function), &[held, left, right, with, opposite], combine);
        Ok(())
    }

    /// `set`: all ones or 1.0 where a comparison holds.
    fn set(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let (function, combine, ty) = self.comparison_of(op)?;
        let result = op.ty()?;
        op.done()?;
        let yes = match result {
            Type::F(4) => 0x3f80_0000,
            Type::U(4) | Type::S(4) => 0xffff_ffff,
            _ => return op.unsupported("the result has to be .u32, .s32 or .f32"),
        };
        self.expect_operands(3 + usize::from(combine > 0)..=3 + usize::from(combine > 0))?;
        let held = self.fresh(File::Pred)?;
        let to = self.result(result)?;
        let (left, right) = (self.source_at(1, ty)?, self.source_at(2, ty)?);
        let with = if combine > 0 { self.source_at(3, Type::Pred)? } else { 0 };
        let (yes, no) = (self.constant(File::B32, yes)?, self.constant(File::B32, 0)?);
        self.emit(Op::Lanes(function), &[held, left, right, with, 1], combine);
        self.emit(Op::Lanes(select_32), &[to, yes, no, held], 0);
        Ok(())
    }

    fn select(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        if op.base == "selp" {
            let ty = op.ty()?;
            op.done()?;
            if !matches!(ty, Type::B(2..=8) | Type::U(2..=8) | Type::S(2..=8) | Type::F(4 | 8)) {
                return op.unsupported("values of this type are not selected");
            }
            self.expect_operands(4..=4)?;
            let to = self.result(ty)?;
            let (yes, no) = (self.source_at(1, ty)?, self.source_at(2, ty)?);
            let held = self.source_at(3, Type::Pred)?;
            let function: LaneFn = match File::of(ty) {
                File::B32 => select_32,
                File::B64 => select_64,
                File::Pred => return op.unsupported("predicates are not selected"),
            };
            self.emit(Op::Lanes(function), &[to, yes, no, held], 0);
            return Ok(());
        }
        let ftz = op.take("ftz");
        let by = op.ty()?;
        let ty = op.ty()?;
        op.done()?;
        if !matches!(ty, Type::B(2..=8) | Type::U(2..=8) | Type::S(2..=8) | Type::F(4 | 8)) {
            return op.unsupported("values of this type are not selected");
        }
        let function = match (File::of(ty), by) {
            (File::B32, Type::S(4)) => lanes!(|a: u32, b: u32, c: i32| -> u32 { if c >= 0 { a } else { b } }),
            (File::B64, Type::S(4)) => lanes!(|a: u64, b: u64, c: i32| -> u64 { if c >= 0 { a } else { b } }),
            (File::B32, Type::F(4)) if ftz => {
                lanes!(|a: u32, b: u32, c: f32| -> u32 { if flush(c) >= 0.0 { a } else { b } })
            }
            (File::B32, Type::F(4)) => lanes!(|a: u32, b: u32, c: f32| -> u32 { if c >= 0.0 { a } else { b } }),
            (File::B64, Type::F(4)) if ftz => {
                lanes!(|a: u64, b: u64, c: f32| -> u64 { if flush(c) >= 0.0 { a } else { b } })
            }
            (File::B64, Type::F(4)) => lanes!(|a: u64, b: u64, c: f32| -> u64 { if c >= 0.0 { a } else { b } }),
            _ => return op.unsupported("it selects by .s32 or .f32"),
        };
        self.typed(ty, function, &[ty, ty, by])
    }
}

fn select_32(registers: &mut Registers, inst: &Inst, mask: u32) {
    let held = registers.pred[usize::from(inst.slots[3])];
    let yes = registers.b32[usize::from(inst.slots[1])];
    let mut out = registers.b32[usize::from(inst.slots[2])];
    for (lane, (out, yes)) in out.0.iter_mut().zip(yes.0).enumerate() {
        let keep = Registers::spread(held, lane);
        *out = (*out & !keep) | (yes & keep);
    }
    <u32 as crate::execute::registers::Lane>::write(registers, inst.slots[0], &out.0, mask);
}

fn select_64(registers: &mut Registers, inst: &Inst, mask: u32) {
    let held = registers.pred[usize::from(inst.slots[3])];
    let yes = registers.b64[usize::from(inst.slots[1])];
    let mut out = registers.b64[usize::from(inst.slots[2])];
    for (lane, (out, yes)) in out.0.iter_mut().zip(yes.0).enumerate() {
        if held >> lane & 1 != 0 {
            *out = yes;
        }
    }
    <u64 as crate::execute::registers::Lane>::write(registers, inst.slots[0], &out.0, mask);
}
