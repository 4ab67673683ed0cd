//! Floats. Approximate functions are computed as well as f64 allows, and then moved by the perturbation.

use super::super::exact::{BF16, Exact, F16, F32, Format, Rounding};
use super::super::{Decoder, File, Inst, Op, Opcode};
use super::scalar::{exp2, flush, max_f32, max_f64, min_f32, min_f64};
use crate::error::Result;
use crate::execute::registers::{LANES, Lane, LaneFn, Registers, lanes};
use crate::parse::Type;
use half::{bf16, f16};

/// An expression for f32, with operands and result flushed if asked for.
macro_rules! f32s {
    ($ftz:expr, |$($x:ident),+| $e:expr) => {
        if $ftz {
            lanes!(|$($x: f32),+| -> f32 {
                $(let $x = flush($x);)+
                flush($e)
            })
        } else {
            lanes!(|$($x: f32),+| -> f32 { $e })
        }
    };
}

/// An expression on f32 for halves of either format, single or in pairs. Sums, products and quotients of two halves
/// that are rounded to f32 and then to a half are rounded as if once: f32 has more than twice the bits and two.
macro_rules! halves {
    ($ty:expr, |$($x:ident),+| $e:expr) => {
        match $ty {
            Type::F(2) => Some(lanes!(|$($x: f16),+| -> f16 {
                $(let $x = $x.to_f32();)+
                f16::from_f32($e)
            })),
            Type::Bf16 => Some(lanes!(|$($x: bf16),+| -> bf16 {
                $(let $x = $x.to_f32();)+
                bf16::from_f32($e)
            })),
            Type::F16x2 => Some(lanes!(|$($x: u32),+| -> u32 {
                let low = { $(let $x = f16::from_bits($x as u16).to_f32();)+ f16::from_f32($e).to_bits() };
                let high = { $(let $x = f16::from_bits(($x >> 16) as u16).to_f32();)+ f16::from_f32($e).to_bits() };
                u32::from(low) | u32::from(high) << 16
            })),
            Type::Bf16x2 => Some(lanes!(|$($x: u32),+| -> u32 {
                let low = { $(let $x = f32::from_bits($x << 16);)+ bf16::from_f32($e).to_bits() };
                let high = { $(let $x = f32::from_bits($x & 0xffff_0000);)+ bf16::from_f32($e).to_bits() };
                u32::from(low) | u32::from(high) << 16
            })),
            _ => None,
        }
    };
}

/// An operation on bits that goes through every half of a register alike.
macro_rules! half_bits {
    ($ty:expr, |$($x:ident),+| $one:expr, $two:expr) => {
        match $ty {
            Type::F(2) | Type::Bf16 => Some(lanes!(|$($x: u16),+| -> u16 { $one })),
            Type::F16x2 | Type::Bf16x2 => Some(lanes!(|$($x: u32),+| -> u32 { $two })),
            _ => None,
        }
    };
}

/// A fused multiplication and addition of halves, rounded once.
fn fused(a: f32, b: f32, c: f32, format: Format) -> u16 {
    let [a, b, c] = [a, b, c].map(|v| Exact::f64(v.into()));
    a.times(b).plus(c, Rounding::Nearest).round(format, Rounding::Nearest) as u16
}

fn fused_halves(ty: Type) -> Option<LaneFn> {
    Some(match ty {
        Type::F(2) => lanes!(|a: f16, b: f16, c: f16| -> u16 { fused(a.to_f32(), b.to_f32(), c.to_f32(), F16) }),
        Type::Bf16 => lanes!(|a: bf16, b: bf16, c: bf16| -> u16 { fused(a.to_f32(), b.to_f32(), c.to_f32(), BF16) }),
        Type::F16x2 => lanes!(|a: u32, b: u32, c: u32| -> u32 {
            let half = |v: u32, n: u32| f16::from_bits((v >> (16 * n)) as u16).to_f32();
            let at = |n| u32::from(fused(half(a, n), half(b, n), half(c, n), F16)) << (16 * n);
            at(0) | at(1)
        }),
        Type::Bf16x2 => lanes!(|a: u32, b: u32, c: u32| -> u32 {
            let half = |v: u32, n: u32| bf16::from_bits((v >> (16 * n)) as u16).to_f32();
            let at = |n| u32::from(fused(half(a, n), half(b, n), half(c, n), BF16)) << (16 * n);
            at(0) | at(1)
        }),
        _ => return None,
    })
}

/// An expression on exact numbers, rounded to f32 in a direction.
macro_rules! directed {
    ($rounding:expr, $ftz:expr, |$($x:ident),+; $r:ident| $e:expr) => {
        match $rounding {
            Rounding::Zero => directed!(@ Rounding::Zero, $ftz, |$($x),+; $r| $e),
            Rounding::Down => directed!(@ Rounding::Down, $ftz, |$($x),+; $r| $e),
            _ => directed!(@ Rounding::Up, $ftz, |$($x),+; $r| $e),
        }
    };
    (@ $mode:expr, $ftz:expr, |$($x:ident),+; $r:ident| $e:expr) => {
        f32s!($ftz, |$($x),+| {
            let $r = $mode;
            $(let $x = Exact::f64(f64::from($x));)+
            f32::from_bits(Exact::round($e, F32, $r) as u32)
        })
    };
}

/// What the manual says of an approximate function of f32.
struct Approximation {
    name: &'static str,
    exact: fn(f64, f64) -> f64,
    /// The most that a result may be off, from the first operand and the exact result.
    bound: fn(f64, f64) -> f64,
    /// How many units in the last place results are moved at most.
    most: i32,
}

/// The bounds of the PTX manual, version 9. Those of sine and cosine are its bounds within two turns of zero.
const APPROXIMATIONS: [Approximation; 9] = [
    Approximation { name: "rcp", exact: |x, _| 1.0 / x, bound: |_, y| unit(y), most: 1 },
    Approximation { name: "div", exact: |x, d| x / d, bound: |_, y| 2.0 * unit(y), most: 2 },
    Approximation { name: "sqrt", exact: |x, _| x.sqrt(), bound: |_, y| y.abs() * 2f64.powi(-23), most: 1 },
    // 2^-22.9
    Approximation { name: "rsqrt", exact: |x, _| 1.0 / x.sqrt(), bound: |_, y| y.abs() * 1.277_703e-7, most: 2 },
    Approximation { name: "ex2", exact: |x, _| x.exp2(), bound: |_, y| 2.0 * unit(y), most: 2 },
    Approximation { name: "lg2", exact: |x, _| x.log2(), bound: logarithm_bound, most: 2 },
    // 2^-20.5
    Approximation { name: "sin", exact: |x, _| x.sin(), bound: |_, _| 6.743_495e-7, most: 2 },
    Approximation { name: "cos", exact: |x, _| x.cos(), bound: |_, _| 6.743_495e-7, most: 2 },
    Approximation { name: "tanh", exact: |x, _| x.tanh(), bound: |_, y| y.abs() * 2f64.powi(-11), most: 1 << 11 },
];

/// The unit in the last place of the f32 around a number.
fn unit(y: f64) -> f64 {
    let exponent = (y.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    2f64.powi(exponent.max(-126) - 23)
}

/// Absolute near one, relative elsewhere.
fn logarithm_bound(x: f64, y: f64) -> f64 {
    2f64.powi(-22) * if x > 0.5 && x < 2.0 { 1.0 } else { y.abs() }
}

/// Whether PTX's tables of special values have it: zeros, infinities and NaNs.
fn is_special(bits: u32) -> bool {
    bits << 1 == 0 || bits & 0x7f80_0000 == 0x7f80_0000
}

impl Approximation {
    /// A result moved by so many units, or by fewer: not out of the bound, across zero, or to a special value.
    fn moved(&self, value: u32, units: i32, operands: [f32; 2], ftz: bool) -> u32 {
        let [x, y] = operands.map(f64::from);
        let exact = (self.exact)(x, y);
        let bound = (self.bound)(x, exact);
        let allowed = |&bits: &u32| {
            let flushed = ftz && bits & 0x7f80_0000 == 0;
            let near = (f64::from(f32::from_bits(bits)) - exact).abs() <= bound;
            near && !flushed && !is_special(bits) && (bits ^ value) >> 31 == 0
        };
        let mut nearer = (1..=units.abs()).rev().map(|n| value.wrapping_add_signed(n * units.signum()));
        nearer.find(allowed).unwrap_or(value)
    }
}

/// Moves the results of an approximate function: slot 1 is the result, slots 2 and 3 are the operands, `offset` is the
/// place in [`APPROXIMATIONS`], times two, and one more for `.ftz`. Special values stay, as operands and as results.
/// How far a result moves depends on it and the seed alone, so that a function stays a function.
fn perturb(registers: &mut Registers, inst: &Inst, mask: u32) {
    let Some(seed) = registers.perturb else {
        let value = registers.b32[usize::from(inst.slots[1])].0;
        return <u32 as Lane>::write(registers, inst.slots[0], &value, mask);
    };
    let [result, first, second] = [1, 2, 3].map(|at| registers.b32[usize::from(inst.slots[at])].0);
    let to = usize::from(inst.slots[0]);
    let (approximation, ftz) = (&APPROXIMATIONS[(inst.offset >> 1) as usize], inst.offset & 1 != 0);
    // The CUDA library's `tanh` in double precision builds on powers of two being exact.
    let whole_is_exact = approximation.name == "ex2";
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let value = result[lane];
        let operands = [first[lane], second[lane]].map(f32::from_bits);
        let operands = if ftz { operands.map(flush) } else { operands };
        let special = is_special(value) || operands.iter().any(|x| is_special(x.to_bits()));
        registers.b32[to].0[lane] = if special || whole_is_exact && operands[0].fract() == 0.0 {
            value
        } else {
            let mixed = (value ^ seed).wrapping_mul(0x9e37_79b1);
            let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
            let most = approximation.most;
            approximation.moved(value, (mixed >> 8) as i32 % (2 * most + 1) - most, operands, ftz)
        };
    }
}

/// The quotient of `div.approx`: where the divisor is so large that its reciprocal is subnormal, it is lost.
#[inline(always)]
fn approximate_quotient(a: f32, b: f32) -> f32 {
    let exponent = b.to_bits() >> 23 & 255;
    if exponent == 253 || exponent == 254 { a * 0.0f32.copysign(b) } else { a / b }
}

/// A function of the upper 32 bits of an f64, in which 20 of the fraction lie, rounded to as many; subnormals are zeros.
#[inline(always)]
fn coarse(a: f64, f: impl Fn(f64) -> f64) -> f64 {
    const UPPER: u64 = 0xffff_ffff_0000_0000;
    let flush = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { x };
    if a.is_nan() {
        return f64::from_bits(0x7fff_ffff_0000_0000);
    }
    let y = flush(f(flush(f64::from_bits(a.to_bits() & UPPER))));
    if y.is_nan() { f64::from_bits(0x7fff_ffff_0000_0000) } else { f64::from_bits((y.to_bits() + (1 << 31)) & UPPER) }
}

impl<'a> Decoder<'a> {
    pub(super) fn float(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        if op.base == "testp" {
            return self.test(op);
        }
        let rounding = op.take_any(&[
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ]);
        let (approx, full) = (op.take("approx"), op.take("full"));
        let (ftz, sat, relu, nan) = (op.take("ftz"), op.take("sat"), op.take("relu"), op.take("NaN"));
        let ty = op.ty()?;
        op.done()?;
        let (function, sources) = match ty {
            Type::F(4) => Self::single(op, rounding, approx || full, ftz, nan)?,
            Type::F(8) if approx => Self::approximate_double(op, ftz)?,
            Type::F(8) if ftz || nan => return op.unsupported("f64 is not flushed, and has no .NaN"),
            Type::F(8) if matches!(rounding, None | Some(Rounding::Nearest)) && !full => Self::double(op)?,
            Type::F(8) => return op.unsupported("f64 is rounded to nearest only"),
            _ if ftz && op.base != "ex2" => return op.unsupported("halves are not flushed here"),
            _ => Self::half(op, ty, nan)?,
        };
        let approximate = (approx || full) && ty == Type::F(4);
        if approximate && !APPROXIMATIONS.iter().any(|a| a.name == op.base) {
            return op.unsupported("it has no approximate form");
        }
        if relu && (sat || ty.size() > 4) {
            return op.unsupported("these suffixes do not go together");
        }
        self.expect_operands(sources + 1..=sources + 1)?;
        let mut slots = [0; 15];
        for (at, slot) in slots.iter_mut().enumerate().skip(1).take(sources) {
            *slot = self.source_at(at, ty)?;
        }
        let result = self.result(ty)?;
        // With more steps to come the result goes to a slot of its own: a source may be the destination too.
        slots[0] = if approximate { self.fresh(File::B32)? } else { result };
        self.emit_inst(Inst { op: Op::Lanes(function), guard: 0, flip: 0, slots, offset: 0 });
        if approximate {
            let Some(place) = APPROXIMATIONS.iter().position(|a| a.name == op.base) else {
                return op.unsupported("it has no approximate form");
            };
            let offset = 2 * place as i64 + i64::from(ftz);
            self.emit(Op::Lanes(perturb), &[result, slots[0], slots[1], slots[sources]], offset);
        }
        if sat || relu {
            let top = if sat { 1.0 } else { f32::INFINITY };
            let bound = self.constant(File::B32, u64::from(top.to_bits()))?;
            let function = match ty {
                // A NaN saturates to zero, and stays one under relu.
                Type::F(4) if sat => Some(lanes!(|a: f32, top: f32| -> f32 {
                    if a.is_nan() || a <= 0.0 { 0.0 } else { min_f32(a, top) }
                })),
                Type::F(8) if sat => Some(lanes!(|a: f64, _top: u32| -> f64 {
                    if a.is_nan() || a <= 0.0 { 0.0 } else { min_f64(a, 1.0) }
                })),
                _ if sat => halves!(ty, |a| if a.is_nan() || a <= 0.0 { 0.0 } else { min_f32(a, 1.0) }),
                _ => halves!(ty, |a| if a.is_nan() { a } else { max_f32(a, 0.0) }),
            };
            let Some(function) = function else { return op.unsupported("these suffixes do not go together") };
            self.emit(Op::Lanes(function), &[result, result, bound], 0);
        }
        Ok(())
    }

    fn single(
        op: &Opcode<'_>,
        rounding: Option<Rounding>,
        approximate: bool,
        ftz: bool,
        nan: bool,
    ) -> Result<(LaneFn, usize)> {
        let nearest = matches!(rounding, None | Some(Rounding::Nearest));
        let direction = rounding.unwrap_or(Rounding::Nearest);
        let needs = |exact: bool| {
            if exact != approximate && (exact || approximate) {
                Ok(())
            } else {
                op.unsupported("its accuracy is missing or does not go with it")
            }
        };
        Ok(match op.base {
            "add" if nearest => (f32s!(ftz, |a, b| a + b), 2),
            "sub" if nearest => (f32s!(ftz, |a, b| a - b), 2),
            "mul" if nearest => (f32s!(ftz, |a, b| a * b), 2),
            "fma" | "mad" if nearest => (f32s!(ftz, |a, b, c| a.mul_add(b, c)), 3),
            "add" => (directed!(direction, ftz, |a, b; r| a.plus(b, r)), 2),
            "sub" => (directed!(direction, ftz, |a, b; r| a.plus(b.negated(), r)), 2),
            "mul" => (directed!(direction, ftz, |a, b; r| a.times(b)), 2),
            "fma" | "mad" => (directed!(direction, ftz, |a, b, c; r| a.times(b).plus(c, r)), 3),
            "div" if approximate => (f32s!(ftz, |a, b| approximate_quotient(a, b)), 2),
            "div" if nearest => (f32s!(ftz, |a, b| a / b), 2),
            "div" => (directed!(direction, ftz, |a, b; r| a.over(b)), 2),
            "rcp" if approximate || nearest => (f32s!(ftz, |a| 1.0 / a), 1),
            "rcp" => (directed!(direction, ftz, |a; r| Exact::integer(false, 1).over(a)), 1),
            "sqrt" if approximate || nearest => (f32s!(ftz, |a| a.sqrt()), 1),
            "sqrt" => (directed!(direction, ftz, |a; r| a.square_root()), 1),
            "min" if nan => (f32s!(ftz, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { min_f32(a, b) }), 2),
            "max" if nan => (f32s!(ftz, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { max_f32(a, b) }), 2),
            "min" => (f32s!(ftz, |a, b| min_f32(a, b)), 2),
            "max" => (f32s!(ftz, |a, b| max_f32(a, b)), 2),
            "neg" => (f32s!(ftz, |a| -a), 1),
            "abs" => (f32s!(ftz, |a| a.abs()), 1),
            "copysign" => (lanes!(|a: f32, b: f32| -> f32 { b.copysign(a) }), 2),
            "rsqrt" | "lg2" | "ex2" | "sin" | "cos" | "tanh" => {
                needs(false)?;
                let function = match op.base {
                    "rsqrt" => f32s!(ftz, |a| (1.0 / f64::from(a).sqrt()) as f32),
                    "lg2" => f32s!(ftz, |a| f64::from(a).log2() as f32),
                    "ex2" => f32s!(ftz, |a| exp2(a)),
                    "sin" => f32s!(ftz, |a| f64::from(a).sin() as f32),
                    "cos" => f32s!(ftz, |a| f64::from(a).cos() as f32),
                    _ => f32s!(ftz, |a| f64::from(a).tanh() as f32),
                };
                (function, 1)
            }
            _ => return op.unsupported("it is not known here"),
        })
    }

    fn double(op: &Opcode<'_>) -> Result<(LaneFn, usize)> {
        Ok(match op.base {
            "add" => (lanes!(|a: f64, b: f64| -> f64 { a + b }), 2),
            "sub" => (lanes!(|a: f64, b: f64| -> f64 { a - b }), 2),
            "mul" => (lanes!(|a: f64, b: f64| -> f64 { a * b }), 2),
            "fma" | "mad" => (lanes!(|a: f64, b: f64, c: f64| -> f64 { a.mul_add(b, c) }), 3),
            "div" => (lanes!(|a: f64, b: f64| -> f64 { a / b }), 2),
            "rcp" => (lanes!(|a: f64| -> f64 { 1.0 / a }), 1),
            "sqrt" => (lanes!(|a: f64| -> f64 { a.sqrt() }), 1),
            "min" => (lanes!(|a: f64, b: f64| -> f64 { min_f64(a, b) }), 2),
            "max" => (lanes!(|a: f64, b: f64| -> f64 { max_f64(a, b) }), 2),
            "neg" => (lanes!(|a: f64| -> f64 { -a }), 1),
            "abs" => (lanes!(|a: f64| -> f64 { a.abs() }), 1),
            "copysign" => (lanes!(|a: f64, b: f64| -> f64 { b.copysign(a) }), 2),
            _ => return op.unsupported("it is not known here"),
        })
    }

    /// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64` look at the upper 32 bits of the operand alone and give as many;
    /// `rsqrt.approx.f64` is a function of the compiler, and exact here.
    fn approximate_double(op: &Opcode<'_>, ftz: bool) -> Result<(LaneFn, usize)> {
        Ok(match (op.base, ftz) {
            ("rcp", true) => (lanes!(|a: f64| -> f64 { coarse(a, |x| 1.0 / x) }), 1),
            ("rsqrt", true) => (lanes!(|a: f64| -> f64 { coarse(a, |x| 1.0 / x.sqrt()) }), 1),
            ("rsqrt", false) => (lanes!(|a: f64| -> f64 { 1.0 / a.sqrt() }), 1),
            _ => return op.unsupported("it has no approximate form in f64"),
        })
    }

    fn half(op: &Opcode<'_>, ty: Type, nan: bool) -> Result<(LaneFn, usize)> {
        let found = match op.base {
            "add" => (halves!(ty, |a, b| a + b), 2),
            "sub" => (halves!(ty, |a, b| a - b), 2),
            "mul" => (halves!(ty, |a, b| a * b), 2),
            "fma" => (fused_halves(ty), 3),
            "min" if nan => (halves!(ty, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { min_f32(a, b) }), 2),
            "max" if nan => (halves!(ty, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { max_f32(a, b) }), 2),
            "min" => (halves!(ty, |a, b| min_f32(a, b)), 2),
            "max" => (halves!(ty, |a, b| max_f32(a, b)), 2),
            "neg" => (half_bits!(ty, |a| a ^ 0x8000, a ^ 0x8000_8000), 1),
            "abs" => (half_bits!(ty, |a| a & 0x7fff, a & 0x7fff_7fff), 1),
            "ex2" => (halves!(ty, |a| exp2(a)), 1),
            "tanh" => (halves!(ty, |a| f64::from(a).tanh() as f32), 1),
            _ => return op.unsupported("it is not known here"),
        };
        match found {
            (Some(function), sources) => Ok((function, sources)),
            _ => op.unsupported("it is not defined for this type"),
        }
    }

    /// `testp`: what kind of number a float is.
    fn test(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        use super::compares;
        let kinds = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let Some(kind) = kinds.into_iter().find(|kind| op.take(kind)) else {
            return op.unsupported("it names no kind of number");
        };
        let ty = op.ty()?;
        op.done()?;
        macro_rules! kinds {
            ($t:ty) => {
                match kind {
                    "finite" => compares!(|a: $t, _b| a.is_finite()),
                    "infinite" => compares!(|a: $t, _b| a.is_infinite()),
                    "number" => compares!(|a: $t, _b| !a.is_nan()),
                    "notanumber" => compares!(|a: $t, _b| a.is_nan()),
                    "normal" => compares!(|a: $t, _b| a.is_normal()),
                    _ => compares!(|a: $t, _b| a.is_subnormal()),
                }
            };
        }
        let function = match ty {
            Type::F(4) => kinds!(f32),
            Type::F(8) => kinds!(f64),
            _ => return op.unsupported("it is not defined for this type"),
        };
        self.expect_operands(2..=2)?;
        let (to, from) = (self.result(Type::Pred)?, self.source_at(1, ty)?);
        self.emit(Op::Lanes(function), &[to, from, from, 0, 1], 0);
        Ok(())
    }
}
