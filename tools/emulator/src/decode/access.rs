//! Instructions that read and write memory.

use super::{ADDRESS, Decoder, File, Inst, LOCAL_WINDOW, Op, Opcode, PARAM_WINDOW, SHARED_WINDOW, SOURCE, arithmetic};
use crate::error::Result;
use crate::parse::{Base, Operand, Space, Type};
use half::{bf16, f16};

/// How an access takes part in the ordering of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Order {
    /// Whether it may meet others at the same address: atomic, relaxed or volatile.
    pub strong: bool,
    pub acquire: bool,
    pub release: bool,
}

/// A load or a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub space: Space,
    /// Bytes of an element, and elements.
    pub bytes: u8,
    pub count: u8,
    /// Whether a loaded element is extended by its sign.
    pub signed: bool,
    /// Whether the address is in a 64-bit slot.
    pub wide_address: bool,
    /// For each element whether its register is one of 64 bits.
    pub wide: u8,
    pub order: Order,
}

/// `new = f(old, b, c)` on the bits of an element.
pub(crate) type AtomicFn = fn(u64, u64, u64) -> u64;

/// An atomic operation, with or without result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Atomic {
    pub space: Space,
    pub bytes: u8,
    pub wide_address: bool,
    pub function: AtomicFn,
    pub order: Order,
}

/// `cp.async` of some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyAsync {
    pub bytes: u8,
    /// Whether slot 0 says how many bytes are read; the others are zero.
    pub sized: bool,
    /// Whether slot 1 is a predicate that says to read nothing.
    pub ignorable: bool,
    pub wide_to: bool,
    pub wide_from: bool,
}

const SPACES: [(&str, Space); 7] = [
    ("global", Space::Global),
    ("const", Space::Const),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
];

/// Suffixes that guide caches and mean nothing else.
fn take_hints(op: &mut Opcode<'_>) {
    op.suffixes.retain(|s| {
        !(matches!(*s, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" | "level")
            || s.starts_with("L1::")
            || s.starts_with("L2::"))
    });
}

/// Takes out what says how an access is ordered.
fn take_order(op: &mut Opcode<'_>) -> Order {
    let mut order = Order::default();
    for (suffix, strong, acquire, release) in [
        ("weak", false, false, false),
        ("volatile", true, false, false),
        ("relaxed", true, false, false),
        ("acquire", true, true, false),
        ("release", true, false, true),
        ("acq_rel", true, true, true),
    ] {
        if op.take(suffix) {
            order = Order { strong, acquire, release };
        }
    }
    for scope in ["cta", "cluster", "gpu", "sys"] {
        op.take(scope);
    }
    order
}

impl<'a> Decoder<'a> {
    pub(super) fn access(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        match op.base {
            "ld" | "ldu" => self.load_or_store(op, true),
            "st" => self.load_or_store(op, false),
            "atom" | "red" => self.atomic(op),
            "cp" => self.copy(op),
            "ldmatrix" => self.ldmatrix(op),
            "cvta" => self.cvta(op),
            "isspacep" => self.isspacep(op),
            // Prefetches and hints change nothing that can be seen.
            _ => {
                self.emit(Op::Nothing, &[], 0);
                Ok(())
            }
        }
    }

    /// The slot of an address, whether it is one of 64 bits, and the offset.
    fn address(&mut self, at: usize) -> Result<(u16, bool, i64)> {
        let Operand::Address(base, offset) = self.operand(at)? else {
            return self.wrong("an address in brackets expected");
        };
        match base {
            Base::Register(register) => match File::of(self.type_of(*register)) {
                File::Pred => self.wrong("a predicate is not an address"),
                file => Ok((self.slot_of(*register), file == File::B64, *offset)),
            },
            Base::Symbol(name) => match self.symbols.get(name.as_str()) {
                Some(&address) => Ok((self.constant(File::B64, address)?, true, *offset)),
                None => self.wrong(&format!("`{name}` is not declared")),
            },
            Base::Absolute => Ok((self.constant(File::B64, 0)?, true, *offset)),
        }
    }

    /// Whether an address in `.param` is one of what calls pass, and not of the kernel's parameters: those a function
    /// does not see.
    fn is_passed(&self, at: usize) -> bool {
        match self.current.operands.get(at) {
            Some(Operand::Address(Base::Symbol(name), _)) => self.passed.contains_key(name.as_str()),
            _ => self.current.depth > 0,
        }
    }

    fn load_or_store(&mut self, op: &mut Opcode<'_>, load: bool) -> Result<()> {
        let mut space = op.take_any(&SPACES).unwrap_or(Space::Generic);
        if op.take("param::func") || space == Space::Param && self.is_passed(usize::from(load)) {
            space = Space::Local;
        }
        take_hints(op);
        if op.take("mmio") {
            return op.unsupported("there are no devices behind memory here");
        }
        let order = take_order(op);
        let count = op.take_any(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let ty = op.ty()?;
        op.done()?;
        if !matches!(ty, Type::B(1..=8) | Type::U(_) | Type::S(_) | Type::F(4 | 8)) {
            return op.unsupported("values of this type are not loaded or stored as such");
        }
        if count * ty.size() > 32 || count == 8 && ty.size() != 4 {
            return op.unsupported("the vector is too long");
        }
        self.expect_operands(2..=2)?;
        let (address, wide_address, offset) = self.address(usize::from(load))?;
        let elements = self.vector(usize::from(!load))?;
        if elements.len() != count {
            return self.wrong(&format!("it moves {count} elements, and {} registers are given", elements.len()));
        }
        let mut slots = [0; 15];
        let mut wide = 0;
        for (element, slot) in elements.iter().zip(&mut slots) {
            // A register may be wider than what is moved.
            let file = match element {
                Operand::Register(register) => File::of(self.type_of(*register)),
                _ => File::of(ty),
            };
            if file == File::Pred || file == File::B32 && ty.size() == 8 {
                return self.wrong("a register is too small for what is moved");
            }
            let of_file = if file == File::B64 { Type::B(8) } else { Type::B(4) };
            *slot = match (load, element) {
                (true, _) => self.destination(element, of_file)?,
                (false, Operand::Register(register)) => self.slot_of(*register),
                (false, _) => self.source(element, ty)?,
            };
            wide = wide << 1 | u8::from(file == File::B64);
        }
        // The first element is the lowest bit.
        let wide = wide.reverse_bits() >> (8 - count);
        slots[ADDRESS] = address;
        let signed = matches!(ty, Type::S(_));
        let access = Access { space, bytes: ty.size() as u8, count: count as u8, signed, wide_address, wide, order };
        let op = if load { Op::Load(access) } else { Op::Store(access) };
        self.emit_inst(Inst { op, guard: 0, flip: 0, slots, offset });
        Ok(())
    }

    fn atomic(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let result = op.base == "atom";
        let at = usize::from(result);
        let space = op.take_any(&SPACES).unwrap_or(Space::Generic);
        take_hints(op);
        let mut order = take_order(op);
        order.strong = true;
        op.take("noftz");
        let names = ["add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas"];
        // What exchanges is of no use without its result.
        let names = &names[..if result { 10 } else { 8 }];
        let Some(&name) = names.iter().find(|name| op.take(name)) else {
            return op.unsupported("this atomic operation is not known here");
        };
        let ty = op.ty()?;
        op.done()?;
        let Some(function) = atomic_function(name, ty) else {
            return op.unsupported("this atomic operation is not defined for this type");
        };
        let operands = at + 2 + usize::from(name == "cas");
        self.expect_operands(operands..=operands)?;
        let (address, wide_address, offset) = self.address(at)?;
        let mut slots = [0; 15];
        if result {
            slots[0] = self.result(ty)?;
        }
        slots[1] = self.source_at(at + 1, ty)?;
        if name == "cas" {
            slots[2] = self.source_at(at + 2, ty)?;
        } else {
            slots[2] = slots[1];
        }
        slots[ADDRESS] = address;
        let atomic = Atomic { space, bytes: ty.size() as u8, wide_address, function, order };
        self.emit_inst(Inst { op: Op::Atomic(atomic), guard: 0, flip: 0, slots, offset });
        Ok(())
    }

    fn copy(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        if !op.take("async") || op.take("bulk") || op.take("mbarrier") {
            return op.unsupported("of `cp` only cp.async, commit_group, wait_group and wait_all are known here");
        }
        if op.take("commit_group") {
            op.done()?;
            self.emit(Op::CommitCopies, &[], 0);
            return Ok(());
        }
        if op.take("wait_all") {
            op.done()?;
            self.emit(Op::WaitCopies, &[], -1);
            return Ok(());
        }
        if op.take("wait_group") {
            op.done()?;
            let Operand::Literal(crate::parse::Literal::Integer(n @ 0..)) = self.operand(0)? else {
                return self.wrong("the number of groups has to be a literal");
            };
            self.emit(Op::WaitCopies, &[], *n);
            return Ok(());
        }
        let cached_everywhere = op.take("ca");
        if !cached_everywhere && !op.take("cg") {
            return op.unsupported("either .ca or .cg is needed");
        }
        if !(op.take("shared") || op.take("shared::cta")) || !op.take("global") {
            return op.unsupported("only copies from global to shared memory are known here");
        }
        take_hints(op);
        op.done()?;
        self.expect_operands(3..=4)?;
        let Operand::Literal(crate::parse::Literal::Integer(bytes)) = *self.operand(2)? else {
            return self.wrong("the number of bytes has to be a literal");
        };
        if !(bytes == 16 || cached_everywhere && matches!(bytes, 4 | 8)) {
            return self.wrong("it copies 16 bytes, or with .ca 4 or 8");
        }
        let mut slots = [0; 15];
        let (to, wide_to, to_offset) = self.address(0)?;
        let (from, wide_from, from_offset) = self.address(1)?;
        slots[ADDRESS] = to;
        slots[SOURCE] = from;
        let (mut sized, mut ignorable) = (false, false);
        if let Some(operand) = self.current.operands.get(3) {
            let is_predicate = match operand {
                Operand::Register(register) | Operand::Not(register) => self.type_of(*register) == Type::Pred,
                _ => false,
            };
            if is_predicate {
                slots[1] = self.source(operand, Type::Pred)?;
                ignorable = true;
            } else {
                slots[0] = self.source(operand, Type::U(4))?;
                sized = true;
            }
        }
        // Both offsets are small: one in the high half, one in the low.
        let (Ok(high), Ok(low)) = (i32::try_from(from_offset), i32::try_from(to_offset)) else {
            return self.wrong("an offset is larger than 2 GiB");
        };
        let copy = CopyAsync { bytes: bytes as u8, sized, ignorable, wide_to, wide_from };
        let offset = i64::from(high) << 32 | i64::from(low as u32);
        self.emit_inst(Inst { op: Op::CopyAsync(copy), guard: 0, flip: 0, slots, offset });
        Ok(())
    }

    fn ldmatrix(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        for needed in ["sync", "aligned", "m8n8", "b16"] {
            if !op.take(needed) {
                return op.unsupported(&format!("`.{needed}` is needed"));
            }
        }
        let Some(count) = op.take_any(&[("x1", 1u8), ("x2", 2), ("x4", 4)]) else {
            return op.unsupported(".x1, .x2 or .x4 is needed");
        };
        let transposed = op.take("trans");
        if !(op.take("shared") || op.take("shared::cta")) {
            return op.unsupported("only shared memory is known here");
        }
        op.done()?;
        self.expect_operands(2..=2)?;
        let registers = self.vector(0)?;
        if registers.len() != usize::from(count) {
            return self.wrong(&format!("it loads {count} registers, and {} are given", registers.len()));
        }
        let mut slots = [0; 15];
        for (register, slot) in registers.iter().zip(&mut slots) {
            *slot = self.destination(register, Type::B(4))?;
        }
        let (address, wide_address, offset) = self.address(1)?;
        slots[ADDRESS] = address;
        self.emit_inst(Inst { op: Op::Ldmatrix { count, transposed, wide_address }, guard: 0, flip: 0, slots, offset });
        Ok(())
    }

    /// The start of the window of a space in generic addresses.
    fn window(op: &mut Opcode<'_>) -> Result<u64> {
        match op.take_any(&SPACES) {
            Some(Space::Shared) => Ok(SHARED_WINDOW),
            Some(Space::Local) => Ok(LOCAL_WINDOW),
            Some(Space::Param) => Ok(PARAM_WINDOW),
            Some(_) => Ok(0),
            None => op.unsupported("it names no space"),
        }
    }

    fn cvta(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let to = op.take("to");
        let window = Self::window(op)?;
        if op.ty()? != Type::U(8) {
            return op.unsupported("addresses have 64 bits");
        }
        op.done()?;
        self.expect_operands(2..=2)?;
        let result = self.result(Type::U(8))?;
        let source = self.source_at(1, Type::U(8))?;
        let shift = self.constant(File::B64, if to { window.wrapping_neg() } else { window })?;
        self.emit(Op::Lanes(arithmetic::add_64()), &[result, source, shift], 0);
        Ok(())
    }

    fn isspacep(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let window = Self::window(op)?;
        op.done()?;
        self.expect_operands(2..=2)?;
        let result = self.result(Type::Pred)?;
        let source = self.source_at(1, Type::U(8))?;
        let window = self.constant(File::B64, window)?;
        self.emit(Op::Lanes(arithmetic::in_window()), &[result, source, window, 0, 1], 0);
        Ok(())
    }
}

/// The function of an atomic operation on the bits of a type; `None` if PTX does not define it.
fn atomic_function(name: &str, ty: Type) -> Option<AtomicFn> {
    fn pair(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
        u64::from(f(a as u16, b as u16)) | u64::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
    }
    fn add_f16(a: u16, b: u16) -> u16 {
        (f16::from_bits(a) + f16::from_bits(b)).to_bits()
    }
    fn add_bf16(a: u16, b: u16) -> u16 {
        (bf16::from_bits(a) + bf16::from_bits(b)).to_bits()
    }
    let f: AtomicFn = match (name, ty) {
        ("add", Type::U(4) | Type::S(4)) => |a, b, _| u64::from((a as u32).wrapping_add(b as u32)),
        ("add", Type::U(8) | Type::S(8)) => |a, b, _| a.wrapping_add(b),
        ("add", Type::F(4)) => |a, b, _| u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits()),
        ("add", Type::F(8)) => |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        ("add", Type::F(2)) => |a, b, _| add_f16(a as u16, b as u16).into(),
        ("add", Type::Bf16) => |a, b, _| add_bf16(a as u16, b as u16).into(),
        ("add", Type::F16x2) => |a, b, _| pair(a, b, add_f16),
        ("add", Type::Bf16x2) => |a, b, _| pair(a, b, add_bf16),
        ("min", Type::U(4 | 8)) => |a, b, _| a.min(b),
        ("max", Type::U(4 | 8)) => |a, b, _| a.max(b),
        ("min", Type::S(4)) => |a, b, _| u64::from((a as i32).min(b as i32) as u32),
        ("max", Type::S(4)) => |a, b, _| u64::from((a as i32).max(b as i32) as u32),
        ("min", Type::S(8)) => |a, b, _| (a as i64).min(b as i64) as u64,
        ("max", Type::S(8)) => |a, b, _| (a as i64).max(b as i64) as u64,
        ("and", Type::B(4 | 8)) => |a, b, _| a & b,
        ("or", Type::B(4 | 8)) => |a, b, _| a | b,
        ("xor", Type::B(4 | 8)) => |a, b, _| a ^ b,
        ("exch", Type::B(4 | 8)) => |_, b, _| b,
        ("cas", Type::B(2 | 4 | 8) | Type::U(4 | 8) | Type::S(4 | 8)) => |a, b, c| if a == b { c } else { a },
        ("inc", Type::U(4)) => |a, b, _| if a >= b { 0 } else { a + 1 },
        ("dec", Type::U(4)) => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
        _ => return None,
    };
    Some(f)
}
