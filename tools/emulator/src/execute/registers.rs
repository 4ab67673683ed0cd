//! The registers of a warp: for each register the values of its 32 lanes side by side, so that one instruction is one
//! loop that the compiler vectorises.

use half::{bf16, f16};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// A 32-bit register of all lanes.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes32(pub [u32; LANES]);

/// A 64-bit register of all lanes.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes64(pub [u64; LANES]);

/// The registers of one warp. Narrow values lie in the low bits of a 32-bit slot; what is above them means nothing.
pub(crate) struct Registers {
    pub b32: Vec<Lanes32>,
    pub b64: Vec<Lanes64>,
    /// A bit for each lane.
    pub pred: Vec<u32>,
    /// The seed of the perturbation of approximate functions; `None` leaves them as they are.
    pub perturb: Option<u32>,
}

impl Registers {
    /// One bit of a mask for each lane, as all ones or all zeros.
    #[inline(always)]
    pub fn spread(mask: u32, lane: usize) -> u32 {
        0u32.wrapping_sub(mask >> lane & 1)
    }
}

/// A type that a lane of a register can be read and written as.
pub(crate) trait Lane: Copy + Default {
    /// What a slot holds: `u32` or `u64`.
    type Bits: Copy + Default;

    fn of(bits: Self::Bits) -> Self;
    fn bits(self) -> Self::Bits;
    fn slot(registers: &Registers, slot: u16) -> &[Self::Bits; LANES];
    /// Writes the lanes of a mask.
    fn write(registers: &mut Registers, slot: u16, values: &[Self::Bits; LANES], mask: u32);
}

macro_rules! lane_types {
    ($bits:ident, $file:ident: $($ty:ty, |$b:ident| $of:expr, |$v:ident| $to:expr;)+) => {$(
        impl Lane for $ty {
            type Bits = $bits;

            #[inline(always)]
            fn of($b: $bits) -> Self {
                $of
            }

            #[inline(always)]
            fn bits(self) -> $bits {
                let $v = self;
                $to
            }

            #[inline(always)]
            fn slot(registers: &Registers, slot: u16) -> &[$bits; LANES] {
                &registers.$file[usize::from(slot)].0
            }

            #[inline(always)]
            fn write(registers: &mut Registers, slot: u16, values: &[$bits; LANES], mask: u32) {
                let to = &mut registers.$file[usize::from(slot)].0;
                if mask == u32::MAX {
                    *to = *values;
                    return;
                }
                for lane in 0..LANES {
                    let keep = $bits::from(mask >> lane & 1).wrapping_sub(1);
                    to[lane] = (to[lane] & keep) | (values[lane] & !keep);
                }
            }
        }
    )+};
}

lane_types! { u32, b32:
    u32, |b| b, |v| v;
    i32, |b| b as i32, |v| v as u32;
    f32, |b| f32::from_bits(b), |v| v.to_bits();
    u16, |b| b as u16, |v| u32::from(v);
    i16, |b| b as i16, |v| v as u32;
    u8, |b| b as u8, |v| u32::from(v);
    i8, |b| b as i8, |v| v as u32;
    f16, |b| f16::from_bits(b as u16), |v| u32::from(v.to_bits());
    bf16, |b| bf16::from_bits(b as u16), |v| u32::from(v.to_bits());
}

lane_types! { u64, b64:
    u64, |b| b, |v| v;
    i64, |b| b as i64, |v| v as u64;
    f64, |b| f64::from_bits(b), |v| v.to_bits();
}

/// What an instruction on registers does for the lanes of a mask.
///
/// # Safety
/// The processor must have the features that [`wide_vectors`] asks for, if the function was made for them; the macros
/// below choose.
pub(crate) type LaneFn = unsafe fn(&mut Registers, &crate::decode::Inst, u32);

/// Whether the processor has the vector instructions that the wide versions are compiled for.
pub(crate) fn wide_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Two versions of `body(registers, inst, mask)`: for any processor, and for one with AVX2.
macro_rules! two_versions {
    ($body:ident) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        fn wide(registers: &mut $crate::execute::registers::Registers, inst: &$crate::decode::Inst, mask: u32) {
            $body(registers, inst, mask);
        }
        #[cfg(not(target_arch = "x86_64"))]
        use $body as wide;
        let chosen: $crate::execute::registers::LaneFn =
            if $crate::execute::registers::wide_vectors() { wide } else { $body };
        chosen
    }};
}

/// An instruction that computes each lane from the same lane of up to four sources: slot 0 is written, the sources
/// follow.
macro_rules! lanes {
    (|$($x:ident: $t:ty),+| -> $o:ty $body:block) => {{
        #[inline(always)]
        fn body(registers: &mut $crate::execute::registers::Registers, inst: &$crate::decode::Inst, mask: u32) {
            use $crate::execute::registers::{LANES, Lane};
            let mut out = [<$o as Lane>::Bits::default(); LANES];
            {
                let mut source = 0;
                $(
                    source += 1;
                    let $x = <$t as Lane>::slot(registers, inst.slots[source]);
                )+
                for lane in 0..LANES {
                    $(let $x = <$t as Lane>::of($x[lane]);)+
                    let value: $o = $body;
                    out[lane] = Lane::bits(value);
                }
            }
            <$o as Lane>::write(registers, inst.slots[0], &out, mask);
        }
        $crate::execute::registers::two_versions!(body)
    }};
}

/// A comparison of two sources into a predicate: slot 0 is written; slot 3 is a predicate to combine with, by the
/// function in `offset`, and slot 4 takes the opposite outcome.
macro_rules! compares {
    (|$a:ident: $t:ty, $b:ident| $body:expr) => {{
        #[inline(always)]
        fn body(registers: &mut $crate::execute::registers::Registers, inst: &$crate::decode::Inst, mask: u32) {
            use $crate::execute::registers::{LANES, Lane};
            let mut held = 0u32;
            {
                let left = <$t as Lane>::slot(registers, inst.slots[1]);
                let right = <$t as Lane>::slot(registers, inst.slots[2]);
                for lane in 0..LANES {
                    let ($a, $b) = (<$t as Lane>::of(left[lane]), <$t as Lane>::of(right[lane]));
                    held |= u32::from($body) << lane;
                }
            }
            $crate::execute::registers::outcome(registers, inst, mask, held);
        }
        $crate::execute::registers::two_versions!(body)
    }};
}

pub(crate) use {compares, lanes, two_versions};

/// How `setp` combines its comparison with a predicate; what [`compares`] finds in `offset`.
pub(crate) const COMBINE: [&str; 3] = ["and", "or", "xor"];

/// Writes the result of a comparison.
#[inline(always)]
pub(crate) fn outcome(registers: &mut Registers, inst: &crate::decode::Inst, mask: u32, held: u32) {
    let with = registers.pred[usize::from(inst.slots[3])];
    let combine = |held: u32| match inst.offset {
        1 => held & with,
        2 => held | with,
        3 => held ^ with,
        _ => held,
    };
    for (slot, value) in [(inst.slots[4], combine(!held)), (inst.slots[0], combine(held))] {
        let to = &mut registers.pred[usize::from(slot)];
        *to = (*to & !mask) | (value & mask);
    }
}
