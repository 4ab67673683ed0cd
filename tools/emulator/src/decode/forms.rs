//! The table of what is decoded: every mnemonic, and what its forms are told apart by. A mnemonic that is not here is not
//! decoded, so that a test can go through all forms there are.

use super::inline::Call;
use super::{NOT_SUPPORTED, decode};
use crate::parse::{Function, Instruction, Module};
use std::collections::{BTreeSet, HashMap};

/// The types that suffixes name; `T` in the table stands for them.
const TYPES: &str = "pred b8 b16 b32 b64 b128 u8 u16 u32 u64 s8 s16 s32 s64 f16 f32 f64 bf16 f16x2 bf16x2 tf32";

/// The part of the decoder that a mnemonic belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Access,
    Control,
    Call,
    Convert,
    Arithmetic,
}

use Part::{Access, Arithmetic, Control, Convert};

/// Mnemonics, with the suffixes of which each form has one of each list; `-` is none.
#[rustfmt::skip]
pub(super) const MNEMONICS: &[(&str, Part, &[&str])] = &[
    ("abs", Arithmetic, &["T"]),
    ("activemask", Control, &["T"]),
    ("add", Arithmetic, &["T"]),
    ("and", Arithmetic, &["T"]),
    ("applypriority", Access, &[]),
    ("atom", Access, &["add min max and or xor exch cas inc dec", "T"]),
    ("bar", Control, &["sync arrive red.popc red.and red.or warp"]),
    ("barrier", Control, &["sync arrive red.popc red.and red.or"]),
    ("bfe", Arithmetic, &["T"]),
    ("bfi", Arithmetic, &["T"]),
    ("bfind", Arithmetic, &["- shiftamt", "T"]),
    ("bra", Control, &[]),
    ("brev", Arithmetic, &["T"]),
    ("brkpt", Control, &[]),
    ("brx", Control, &["idx"]),
    ("call", Part::Call, &[]),
    ("clz", Arithmetic, &["T"]),
    ("cnot", Arithmetic, &["T"]),
    ("copysign", Arithmetic, &["T"]),
    ("cos", Arithmetic, &["T"]),
    ("cp", Access, &["async.ca async.cg async.commit_group async.wait_group async.wait_all"]),
    ("cvt", Convert, &["T", "T"]),
    ("cvta", Access, &["- to", "global shared local const param"]),
    ("discard", Access, &[]),
    ("div", Arithmetic, &["T"]),
    ("dp2a", Arithmetic, &["lo hi", "T", "T"]),
    ("dp4a", Arithmetic, &["T", "T"]),
    ("elect", Control, &["sync"]),
    ("ex2", Arithmetic, &["T"]),
    ("exit", Control, &[]),
    ("fence", Control, &["sc acq_rel acquire release"]),
    ("fma", Arithmetic, &["T"]),
    ("isspacep", Access, &["global shared local const param"]),
    ("ld", Access, &["T"]),
    ("ld", Access, &["global shared local const param"]),
    ("ld", Access, &["v2 v4 v8"]),
    ("ldmatrix", Access, &["x1 x2 x4", "- trans"]),
    ("ldu", Access, &["T"]),
    ("lg2", Arithmetic, &["T"]),
    ("lop3", Arithmetic, &["T"]),
    ("mad", Arithmetic, &["- lo hi wide", "T"]),
    ("match", Control, &["any all", "T"]),
    ("max", Arithmetic, &["T"]),
    ("membar", Control, &["cta gl sys"]),
    ("min", Arithmetic, &["T"]),
    ("mma", Control, &["m16n8k16 m16n8k8 m16n8k4", "bf16.bf16 f16.f16 tf32.tf32"]),
    ("mov", Arithmetic, &["T"]),
    ("mul", Arithmetic, &["- lo hi wide", "T"]),
    ("nanosleep", Control, &["T"]),
    ("neg", Arithmetic, &["T"]),
    ("not", Arithmetic, &["T"]),
    ("or", Arithmetic, &["T"]),
    ("pmevent", Control, &[]),
    ("popc", Arithmetic, &["T"]),
    ("prefetch", Access, &[]),
    ("prefetchu", Access, &[]),
    ("prmt", Arithmetic, &["T", "- f4e b4e rc8 ecl ecr rc16"]),
    ("rcp", Arithmetic, &["T"]),
    ("red", Access, &["add min max and or xor inc dec", "T"]),
    ("redux", Control, &["add min max and or xor", "- abs", "- NaN", "T"]),
    ("rem", Arithmetic, &["T"]),
    ("ret", Control, &[]),
    ("rsqrt", Arithmetic, &["T"]),
    ("sad", Arithmetic, &["T"]),
    ("selp", Arithmetic, &["T"]),
    ("set", Arithmetic, &["T", "T"]),
    ("setp", Arithmetic, &["eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan", "T"]),
    ("shf", Arithmetic, &["l r", "wrap clamp", "T"]),
    ("shfl", Control, &["up down bfly idx", "T"]),
    ("shl", Arithmetic, &["T"]),
    ("shr", Arithmetic, &["T"]),
    ("sin", Arithmetic, &["T"]),
    ("slct", Arithmetic, &["T", "T"]),
    ("sqrt", Arithmetic, &["T"]),
    ("st", Access, &["T"]),
    ("st", Access, &["global shared local"]),
    ("st", Access, &["v2 v4 v8"]),
    ("sub", Arithmetic, &["T"]),
    ("szext", Arithmetic, &["wrap clamp", "T"]),
    ("tanh", Arithmetic, &["T"]),
    ("testp", Arithmetic, &["finite infinite number notanumber normal subnormal", "T"]),
    ("trap", Control, &[]),
    ("vote", Control, &["all any uni ballot", "T"]),
    ("xor", Arithmetic, &["T"]),
];

/// What has to stand beside the suffixes of the table so that an opcode is whole: behind the mnemonic and at the end.
const BEHIND: [&str; 10] =
    ["", ".rn", ".rzi", ".rna", ".approx", ".approx.ftz", ".sync", ".sync.aligned", ".lt", ".eq"];
const AT_THE_END: [&str; 7] = ["", ".b32", ".u64", ".pred", ".gpu", ".shared.global", ".shared.b16"];

/// Whether an opcode is decoded, given the operands that it wants.
fn accepts(opcode: &str) -> bool {
    let instruction =
        Instruction { line: 1, place: 0, guard: None, opcode: opcode.to_owned(), operands: Vec::new(), depth: 0 };
    debug_assert!(Call::of(&instruction).is_none());
    let kernel = Function { body: vec![instruction], ..Function::default() };
    match decode(&Module::default(), &kernel, &HashMap::new()) {
        Ok(_) => true,
        Err(error) => !error.message.contains(NOT_SUPPORTED),
    }
}

/// Every form of every instruction that is decoded: its mnemonic, and of its suffixes those that say what it does and
/// to which types, without roundings and the like.
pub fn forms() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (mnemonic, _, lists) in MNEMONICS {
        let mut found = vec![String::new()];
        for list in *lists {
            let list = if *list == "T" { TYPES } else { list };
            let with = |form: &String| -> Vec<String> {
                let suffix = |s: &str| if s == "-" { form.clone() } else { format!("{form}.{s}") };
                list.split(' ').map(suffix).collect()
            };
            found = found.iter().flat_map(with).collect();
        }
        for form in found {
            let whole = |behind: &&str, end: &&str| match *mnemonic {
                "mma" => {
                    let at = form.rfind('.').and_then(|at| form[..at].rfind('.')).unwrap_or(0);
                    format!("mma.sync.aligned{}.row.col.f32{}.f32", &form[..at], &form[at..])
                }
                "ldmatrix" => format!("ldmatrix.sync.aligned.m8n8{form}.shared.b16"),
                _ => format!("{mnemonic}{behind}{form}{end}"),
            };
            if BEHIND.iter().any(|behind| AT_THE_END.iter().any(|end| accepts(&whole(behind, end)))) {
                all.insert(format!("{mnemonic}{form}"));
            }
        }
    }
    all
}
