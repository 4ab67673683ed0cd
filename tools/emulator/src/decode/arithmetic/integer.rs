//! Integers and bits.

use super::super::{Decoder, Opcode};
use super::scalar::{PERMUTES, extract, insert, lop3, permute, permute_mode};
use super::{logic, not_pred};
use crate::error::Result;
use crate::execute::registers::{LaneFn, lanes};
use crate::parse::Type;

/// An expression for integers of 16, 32 and 64 bits, without a sign and with one; untyped bits have none.
macro_rules! integers {
    ($ty:expr, |$($x:ident),+| $e:expr) => {
        match $ty {
            Type::U(2) | Type::B(2) => Some(lanes!(|$($x: u16),+| -> u16 { $e })),
            Type::S(2) => Some(lanes!(|$($x: i16),+| -> i16 { $e })),
            Type::U(4) | Type::B(4) => Some(lanes!(|$($x: u32),+| -> u32 { $e })),
            Type::S(4) => Some(lanes!(|$($x: i32),+| -> i32 { $e })),
            Type::U(8) | Type::B(8) => Some(lanes!(|$($x: u64),+| -> u64 { $e })),
            Type::S(8) => Some(lanes!(|$($x: i64),+| -> i64 { $e })),
            _ => None,
        }
    };
}

/// An expression for the bits of 16, 32 and 64.
macro_rules! bits {
    ($ty:expr, |$($x:ident),+| $e:expr) => {
        match $ty.size() {
            2 => Some(lanes!(|$($x: u16),+| -> u16 { $e })),
            4 => Some(lanes!(|$($x: u32),+| -> u32 { $e })),
            8 => Some(lanes!(|$($x: u64),+| -> u64 { $e })),
            _ => None,
        }
    };
}

/// The product of two integers of twice the size: the type of the result and of the addend, and the functions.
macro_rules! wide_product {
    ($ty:expr, $($pattern:pat => $t:ty, $w:ty, $result:expr),+) => {
        match $ty {
            $($pattern => Some((
                $result,
                lanes!(|a: $t, b: $t| -> $w { <$w>::from(a) * <$w>::from(b) }),
                lanes!(|a: $t, b: $t, c: $w| -> $w { (<$w>::from(a) * <$w>::from(b)).wrapping_add(c) }),
            )),)+
            _ => None,
        }
    };
}

/// The upper half of a product.
macro_rules! high_product {
    ($ty:expr, $($pattern:pat => $t:ty, $w:ty),+) => {
        match $ty {
            $($pattern => Some((
                lanes!(|a: $t, b: $t| -> $t { ((a as $w * b as $w) >> <$t>::BITS) as $t }),
                lanes!(|a: $t, b: $t, c: $t| -> $t { (((a as $w * b as $w) >> <$t>::BITS) as $t).wrapping_add(c) }),
            )),)+
            _ => None,
        }
    };
}

impl<'a> Decoder<'a> {
    pub(super) fn integer(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        match op.base {
            "mul" | "mad" => return self.product(op),
            "shl" | "shr" => return self.shift(op),
            "shf" => return self.funnel(op),
            "popc" | "clz" | "bfind" => return self.count(op),
            "bfe" | "bfi" | "szext" | "prmt" | "lop3" => return self.field(op),
            "dp4a" | "dp2a" => return self.dot(op),
            _ => {}
        }
        let saturated = op.take("sat");
        let ty = op.ty()?;
        op.done()?;
        if ty == Type::Pred {
            let function: LaneFn = match op.base {
                "and" => |registers, inst, mask| logic(registers, inst, mask, |a, b| a & b),
                "or" => |registers, inst, mask| logic(registers, inst, mask, |a, b| a | b),
                "xor" => |registers, inst, mask| logic(registers, inst, mask, |a, b| a ^ b),
                "not" => not_pred,
                _ => return op.unsupported("it is not defined for predicates"),
            };
            return self.plain(ty, function, if op.base == "not" { 1 } else { 2 });
        }
        if saturated && (ty != Type::S(4) || !matches!(op.base, "add" | "sub")) {
            return op.unsupported("only .s32 is saturated");
        }
        // PTX ISA: what has a sign or none where it matters, and bits where it does not.
        let number = matches!(ty, Type::U(2 | 4 | 8) | Type::S(2 | 4 | 8));
        let defined = match op.base {
            "and" | "or" | "xor" | "not" | "cnot" => matches!(ty, Type::B(2 | 4 | 8)),
            "brev" => matches!(ty, Type::B(4 | 8)),
            "neg" | "abs" => matches!(ty, Type::S(2 | 4 | 8)),
            _ => number,
        };
        if !defined {
            return op.unsupported("it is not defined for this type");
        }
        let (function, sources) = match op.base {
            "add" if saturated => (Some(lanes!(|a: i32, b: i32| -> i32 { a.saturating_add(b) })), 2),
            "sub" if saturated => (Some(lanes!(|a: i32, b: i32| -> i32 { a.saturating_sub(b) })), 2),
            "add" => (bits!(ty, |a, b| a.wrapping_add(b)), 2),
            "sub" => (bits!(ty, |a, b| a.wrapping_sub(b)), 2),
            "neg" => (bits!(ty, |a| a.wrapping_neg()), 1),
            "abs" => (
                match ty {
                    Type::S(2) => Some(lanes!(|a: i16| -> i16 { a.wrapping_abs() })),
                    Type::S(4) => Some(lanes!(|a: i32| -> i32 { a.wrapping_abs() })),
                    Type::S(8) => Some(lanes!(|a: i64| -> i64 { a.wrapping_abs() })),
                    _ => None,
                },
                1,
            ),
            "min" => (integers!(ty, |a, b| a.min(b)), 2),
            "max" => (integers!(ty, |a, b| a.max(b)), 2),
            // What a division by zero gives is left open by PTX; all ones is what GPUs give.
            "div" => (integers!(ty, |a, b| if b == 0 { !b } else { a.wrapping_div(b) }), 2),
            "rem" => (integers!(ty, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }), 2),
            "sad" => (
                match ty {
                    Type::U(2) => Some(lanes!(|a: u16, b: u16, c: u16| -> u16 { c.wrapping_add(a.abs_diff(b)) })),
                    Type::S(2) => Some(lanes!(|a: i16, b: i16, c: u16| -> u16 { c.wrapping_add(a.abs_diff(b)) })),
                    Type::U(4) => Some(lanes!(|a: u32, b: u32, c: u32| -> u32 { c.wrapping_add(a.abs_diff(b)) })),
                    Type::S(4) => Some(lanes!(|a: i32, b: i32, c: u32| -> u32 { c.wrapping_add(a.abs_diff(b)) })),
                    Type::U(8) => Some(lanes!(|a: u64, b: u64, c: u64| -> u64 { c.wrapping_add(a.abs_diff(b)) })),
                    Type::S(8) => Some(lanes!(|a: i64, b: i64, c: u64| -> u64 { c.wrapping_add(a.abs_diff(b)) })),
                    _ => None,
                },
                3,
            ),
            "and" => (bits!(ty, |a, b| a & b), 2),
            "or" => (bits!(ty, |a, b| a | b), 2),
            "xor" => (bits!(ty, |a, b| a ^ b), 2),
            "not" => (bits!(ty, |a| !a), 1),
            "cnot" => (integers!(ty, |a| (a == 0).into()), 1),
            "brev" => (bits!(ty, |a| a.reverse_bits()), 1),
            _ => return op.unsupported("it is not known here"),
        };
        match function {
            Some(function) => self.plain(ty, function, sources),
            None => op.unsupported("it is not defined for this type"),
        }
    }

    fn product(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let add = op.base == "mad";
        let part = op.take_any(&[("lo", 0), ("hi", 1), ("wide", 2)]);
        let ty = op.ty()?;
        op.done()?;
        if !matches!(ty, Type::U(2 | 4 | 8) | Type::S(2 | 4 | 8)) {
            return op.unsupported("it is not defined for this type");
        }
        match part {
            Some(2) => {
                let found = wide_product!(ty,
                    Type::U(2) => u16, u32, Type::U(4),
                    Type::S(2) => i16, i32, Type::S(4),
                    Type::U(4) => u32, u64, Type::U(8),
                    Type::S(4) => i32, i64, Type::S(8));
                match found {
                    Some((wide, _, function)) if add => self.typed(wide, function, &[ty, ty, wide]),
                    Some((wide, function, _)) => self.typed(wide, function, &[ty, ty]),
                    None => op.unsupported("it is not defined for this type"),
                }
            }
            Some(1) => {
                let found = high_product!(ty,
                    Type::U(2) => u16, u32, Type::S(2) => i16, i32,
                    Type::U(4) => u32, u64, Type::S(4) => i32, i64,
                    Type::U(8) => u64, u128, Type::S(8) => i64, i128);
                match found {
                    Some((_, function)) if add => self.plain(ty, function, 3),
                    Some((function, _)) => self.plain(ty, function, 2),
                    None => op.unsupported("it is not defined for this type"),
                }
            }
            Some(_) => {
                let function = if add {
                    bits!(ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c))
                } else {
                    bits!(ty, |a, b| a.wrapping_mul(b))
                };
                match function {
                    Some(function) => self.plain(ty, function, 2 + usize::from(add)),
                    None => op.unsupported("it is not defined for this type"),
                }
            }
            None => op.unsupported(".lo, .hi or .wide is needed"),
        }
    }

    /// Shifts by more than the width give zeros, or the sign.
    fn shift(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let ty = op.ty()?;
        op.done()?;
        if op.base == "shl" && !matches!(ty, Type::B(2 | 4 | 8)) {
            return op.unsupported("it is not defined for this type");
        }
        let function = match (op.base, ty) {
            ("shl", _) => bits!(ty, |a, n| a.checked_shl(n as u32).unwrap_or(0)),
            (_, Type::S(2)) => Some(lanes!(|a: i16, n: u32| -> i16 { a >> n.min(15) })),
            (_, Type::S(4)) => Some(lanes!(|a: i32, n: u32| -> i32 { a >> n.min(31) })),
            (_, Type::S(8)) => Some(lanes!(|a: i64, n: u32| -> i64 { a >> n.min(63) })),
            (_, Type::U(2) | Type::B(2)) => Some(lanes!(|a: u16, n: u32| -> u16 { a.checked_shr(n).unwrap_or(0) })),
            (_, Type::U(4) | Type::B(4)) => Some(lanes!(|a: u32, n: u32| -> u32 { a.checked_shr(n).unwrap_or(0) })),
            (_, Type::U(8) | Type::B(8)) => Some(lanes!(|a: u64, n: u32| -> u64 { a.checked_shr(n).unwrap_or(0) })),
            _ => None,
        };
        // The amount has 32 bits, whatever the type.
        let function = match (op.base, ty.size()) {
            ("shl", 2) => Some(lanes!(|a: u16, n: u32| -> u16 { a.checked_shl(n).unwrap_or(0) })),
            ("shl", 8) => Some(lanes!(|a: u64, n: u32| -> u64 { a.checked_shl(n).unwrap_or(0) })),
            _ => function,
        };
        match function {
            Some(function) => self.typed(ty, function, &[ty, Type::U(4)]),
            None => op.unsupported("it is not defined for this type"),
        }
    }

    /// 64 bits in two registers, shifted: the upper half to the left, the lower half to the right.
    fn funnel(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let left = op.take("l");
        if !left && !op.take("r") {
            return op.unsupported(".l or .r is needed");
        }
        let wrap = op.take("wrap");
        if !wrap && !op.take("clamp") {
            return op.unsupported(".clamp or .wrap is needed");
        }
        let ty = op.ty()?;
        op.done()?;
        if ty != Type::B(4) {
            return op.unsupported("the type has to be .b32");
        }
        let function = match (left, wrap) {
            (true, true) => lanes!(|a: u32, b: u32, n: u32| -> u32 {
                (((u64::from(b) << 32 | u64::from(a)) << (n & 31)) >> 32) as u32
            }),
            (true, false) => lanes!(|a: u32, b: u32, n: u32| -> u32 {
                (((u64::from(b) << 32 | u64::from(a)) << n.min(32)) >> 32) as u32
            }),
            (false, true) => {
                lanes!(|a: u32, b: u32, n: u32| -> u32 { ((u64::from(b) << 32 | u64::from(a)) >> (n & 31)) as u32 })
            }
            (false, false) => {
                lanes!(|a: u32, b: u32, n: u32| -> u32 { ((u64::from(b) << 32 | u64::from(a)) >> n.min(32)) as u32 })
            }
        };
        self.plain(ty, function, 3)
    }

    fn count(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let as_shift = op.take("shiftamt");
        let ty = op.ty()?;
        op.done()?;
        let function = match (op.base, ty, as_shift) {
            ("popc", Type::B(4), false) => lanes!(|a: u32| -> u32 { a.count_ones() }),
            ("popc", Type::B(8), false) => lanes!(|a: u64| -> u32 { a.count_ones() }),
            ("clz", Type::B(4), false) => lanes!(|a: u32| -> u32 { a.leading_zeros() }),
            ("clz", Type::B(8), false) => lanes!(|a: u64| -> u32 { a.leading_zeros() }),
            // The highest bit that differs from the sign, or all ones if there is none.
            ("bfind", Type::U(4), false) => lanes!(|a: u32| -> u32 { 31u32.wrapping_sub(a.leading_zeros()) }),
            ("bfind", Type::S(4), false) => {
                lanes!(|a: i32| -> u32 { 31u32.wrapping_sub((a ^ a >> 31).leading_zeros()) })
            }
            ("bfind", Type::U(8), false) => lanes!(|a: u64| -> u32 { 63u32.wrapping_sub(a.leading_zeros()) }),
            ("bfind", Type::S(8), false) => {
                lanes!(|a: i64| -> u32 { 63u32.wrapping_sub((a ^ a >> 63).leading_zeros()) })
            }
            ("bfind", Type::S(4), true) => lanes!(|a: i32| -> u32 {
                let a = a ^ a >> 31;
                if a == 0 { u32::MAX } else { a.leading_zeros() }
            }),
            ("bfind", Type::U(8), true) => {
                lanes!(|a: u64| -> u32 { if a == 0 { u32::MAX } else { a.leading_zeros() } })
            }
            ("bfind", Type::S(8), true) => lanes!(|a: i64| -> u32 {
                let a = a ^ a >> 63;
                if a == 0 { u32::MAX } else { a.leading_zeros() }
            }),
            ("bfind", Type::U(4), true) => {
                lanes!(|a: u32| -> u32 { if a == 0 { u32::MAX } else { a.leading_zeros() } })
            }
            _ => return op.unsupported("it is not defined for this type"),
        };
        self.typed(Type::U(4), function, &[ty])
    }

    fn field(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let word = Type::U(4);
        if op.base == "prmt" {
            let mode = PERMUTES.into_iter().position(|name| name != "b32" && op.take(name));
            let ty = op.ty()?;
            op.done()?;
            if ty != Type::B(4) {
                return op.unsupported("the type has to be .b32");
            }
            let function = match mode {
                None => lanes!(|a: u32, b: u32, c: u32| -> u32 { permute(a, b, c) }),
                Some(0) => lanes!(|a: u32, b: u32, c: u32| -> u32 { permute_mode(0, a, b, c) }),
                Some(1) => lanes!(|a: u32, b: u32, c: u32| -> u32 { permute_mode(1, a, b, c) }),
                Some(2) => lanes!(|a: u32, b: u32, c: u32| -> u32 { permute_mode(2, a, b, c) }),
                Some(3) => lanes!(|a: u32, b: u32, c: u32| -> u32 { permute_mode(3, a, b, c) }),
                Some(4) => lanes!(|a: u32, b: u32, c: u32| -> u32 { permute_mode(4, a, b, c) }),
                Some(_) => lanes!(|a: u32, b: u32, c: u32| -> u32 { permute_mode(5, a, b, c) }),
            };
            return self.plain(ty, function, 3);
        }
        let mode = op.take_any(&[("clamp", false), ("wrap", true)]);
        let ty = op.ty()?;
        op.done()?;
        if let Some(wrap) = mode {
            // szext: the low bits, extended; more bits than there are leave the value as it is.
            let function = match (op.base, wrap, ty) {
                ("szext", false, Type::U(4)) => {
                    lanes!(|a: u32, n: u32| -> u32 { extract(a.into(), 32, 0, n.min(32), false) as u32 })
                }
                ("szext", true, Type::U(4)) => {
                    lanes!(|a: u32, n: u32| -> u32 { extract(a.into(), 32, 0, n & 31, false) as u32 })
                }
                ("szext", false, Type::S(4)) => {
                    lanes!(|a: u32, n: u32| -> u32 { extract(a.into(), 32, 0, n.min(32), true) as u32 })
                }
                ("szext", true, Type::S(4)) => {
                    lanes!(|a: u32, n: u32| -> u32 { extract(a.into(), 32, 0, n & 31, true) as u32 })
                }
                _ => return op.unsupported("it is not defined for this type"),
            };
            return self.typed(ty, function, &[ty, word]);
        }
        match (op.base, ty) {
            ("lop3", Type::B(4)) => {
                self.plain(ty, lanes!(|a: u32, b: u32, c: u32, t: u32| -> u32 { lop3(a, b, c, t) }), 4)
            }
            ("bfe", Type::U(4)) => {
                let f = lanes!(|a: u32, s: u32, n: u32| -> u32 { extract(a.into(), 32, s, n, false) as u32 });
                self.typed(ty, f, &[ty, word, word])
            }
            ("bfe", Type::S(4)) => {
                let f = lanes!(|a: u32, s: u32, n: u32| -> u32 { extract(a.into(), 32, s, n, true) as u32 });
                self.typed(ty, f, &[ty, word, word])
            }
            ("bfe", Type::U(8)) => self.typed(
                ty,
                lanes!(|a: u64, s: u32, n: u32| -> u64 { extract(a, 64, s, n, false) }),
                &[ty, word, word],
            ),
            ("bfe", Type::S(8)) => self.typed(
                ty,
                lanes!(|a: u64, s: u32, n: u32| -> u64 { extract(a, 64, s, n, true) }),
                &[ty, word, word],
            ),
            ("bfi", Type::B(4)) => {
                let f = lanes!(|a: u32, b: u32, s: u32, n: u32| -> u32 { insert(a.into(), b.into(), 32, s, n) as u32 });
                self.typed(ty, f, &[ty, ty, word, word])
            }
            ("bfi", Type::B(8)) => {
                let f = lanes!(|a: u64, b: u64, s: u32, n: u32| -> u64 { insert(a, b, 64, s, n) });
                self.typed(ty, f, &[ty, ty, word, word])
            }
            _ => op.unsupported("it is not defined for this type"),
        }
    }

    /// Sums of four products of bytes; `dp2a` multiplies two 16-bit values by two of the bytes.
    fn dot(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let high = op.take("hi");
        let low = op.take("lo");
        let (b, a) = (op.ty()?, op.ty()?);
        op.done()?;
        if (op.base == "dp2a") != (high || low) {
            return op.unsupported("dp2a needs .lo or .hi, dp4a none");
        }
        if !matches!((a, b), (Type::U(4) | Type::S(4), Type::U(4) | Type::S(4))) {
            return op.unsupported("both types have to be .u32 or .s32");
        }
        let signs = (matches!(a, Type::S(4)), matches!(b, Type::S(4)));
        fn byte(x: u32, n: u32, signed: bool) -> i32 {
            let x = (x >> (8 * n)) as u8;
            if signed { i32::from(x as i8) } else { i32::from(x) }
        }
        fn word(x: u32, n: u32, signed: bool) -> i32 {
            let x = (x >> (16 * n)) as u16;
            if signed { i32::from(x as i16) } else { i32::from(x) }
        }
        macro_rules! four {
            ($s:expr, $t:expr) => {
                lanes!(|a: u32, b: u32, c: u32| -> u32 {
                    (0..4).fold(c, |sum, n| sum.wrapping_add((byte(a, n, $s) * byte(b, n, $t)) as u32))
                })
            };
        }
        macro_rules! two {
            ($s:expr, $t:expr, $first:expr) => {
                lanes!(|a: u32, b: u32, c: u32| -> u32 {
                    (0..2).fold(c, |sum, n| sum.wrapping_add((word(a, n, $s) * byte(b, n + $first, $t)) as u32))
                })
            };
        }
        let function = match (op.base, signs, high) {
            ("dp4a", (false, false), _) => four!(false, false),
            ("dp4a", (false, true), _) => four!(false, true),
            ("dp4a", (true, false), _) => four!(true, false),
            ("dp4a", (true, true), _) => four!(true, true),
            (_, (false, false), false) => two!(false, false, 0),
            (_, (false, true), false) => two!(false, true, 0),
            (_, (true, false), false) => two!(true, false, 0),
            (_, (true, true), false) => two!(true, true, 0),
            (_, (false, false), true) => two!(false, false, 2),
            (_, (false, true), true) => two!(false, true, 2),
            (_, (true, false), true) => two!(true, false, 2),
            (_, (true, true), true) => two!(true, true, 2),
        };
        self.plain(Type::U(4), function, 3)
    }
}
