//! A parsed kernel to the compact form that is executed.
//!
//! Every register has a slot, and so has every literal, special register and address of a variable: those are filled
//! when a warp starts. So all operands of all instructions are slots, and executing one asks no questions about them.

mod access;
mod arithmetic;
mod control;
mod convert;
pub(crate) mod exact;
mod forms;
mod inline;
mod layout;

pub(crate) use access::{Access, Atomic, CopyAsync, Order};
pub use forms::forms;

pub(crate) use control::{BarrierKind, Barriers, Mma};
pub(crate) use layout::{Array, LOCAL_WINDOW, Layout, PARAM_WINDOW, RED_ZONE, SHARED_WINDOW, WINDOW, align_up};

use crate::error::{Error, Result};
use crate::execute::registers::LaneFn;
use crate::parse::{Function, Instruction, Literal, Module, Operand, RegisterId, Type};
use forms::Part;
use std::collections::HashMap;

/// What an instruction does.
#[derive(Clone, Copy)]
pub(crate) enum Op {
    /// Computes on registers, each lane for itself.
    Lanes(LaneFn),
    /// Computes on registers across the lanes of the mask in slot [`MEMBERS`], which have to be there together.
    Collective(LaneFn),
    /// Reads a clock into slot 0.
    Clock(Clock),
    /// Reads memory at slot [`ADDRESS`] plus `offset` into the first slots.
    Load(Access),
    /// Writes the first slots.
    Store(Access),
    Atomic(Atomic),
    CopyAsync(CopyAsync),
    /// Closes a group of asynchronous copies.
    CommitCopies,
    /// Waits until at most `offset` groups are under way; -1 waits for copies without a group too.
    WaitCopies,
    /// Reads 8x8 matrices of 16-bit elements from shared memory.
    Ldmatrix {
        count: u8,
        transposed: bool,
        wide_address: bool,
    },
    Mma(Mma),
    /// Goes to the instruction `offset`.
    Branch,
    /// Goes to where slot 0 says in a list of targets.
    BranchTable(u32),
    Exit,
    Barrier(Barriers),
    /// Waits for the lanes of the mask in slot [`MEMBERS`].
    WarpBarrier,
    /// Orders memory: for the block, or (`device`) for the whole device.
    Fence {
        device: bool,
    },
    Trap,
    /// Calls a function of the CUDA library: the number is that of [`Program::library_calls`].
    Library(u32),
    /// A function has called itself as often (`offset`) as there is room for.
    TooDeep,
    /// Nothing that the emulator could see: prefetches, sleeping.
    Nothing,
}

/// A clock, whether its upper half is asked for, and whether the slot has 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Of the whole device, in nanoseconds; or else of the block, in instructions.
    pub global: bool,
    pub upper: bool,
    pub wide: bool,
}

/// A call of a function of the CUDA library.
#[derive(Debug, Clone)]
pub(crate) struct LibraryCall {
    pub function: Library,
    /// Where each argument lies in local memory, and what is returned.
    pub arguments: Vec<usize>,
    pub result: Option<usize>,
}

/// The functions of the CUDA library that are there without being inlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    /// `int vprintf(const char *format, void *values)`
    Vprintf,
    /// `void __assertfail(const char *expression, const char *file, unsigned line, const char *function, size_t)`
    Assertfail,
}

/// The slot of an address.
pub(crate) const ADDRESS: usize = 8;
/// The slot of the address that a copy reads.
pub(crate) const SOURCE: usize = 9;
/// The slot of the mask of lanes that take part.
pub(crate) const MEMBERS: usize = 14;

/// One decoded instruction.
#[derive(Clone, Copy)]
pub(crate) struct Inst {
    pub op: Op,
    /// The predicate that guards it: slot 0 is true.
    pub guard: u16,
    /// All ones if the guard is negated.
    pub flip: u32,
    /// Registers; what each is depends on the operation.
    pub slots: [u16; 15],
    pub offset: i64,
}

/// A special register: the same for a whole run of a warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Laneid,
    Warpid,
    Nwarpid,
    Gridid,
    Smid,
    Nsmid,
    /// A mask of lanes by how they compare with the own: equal, less, less or equal, greater, greater or equal.
    LaneMask(std::cmp::Ordering, bool),
    DynamicSharedBytes,
    TotalSharedBytes,
}

/// A kernel that can be executed.
pub(crate) struct Program {
    pub name: String,
    pub insts: Vec<Inst>,
    /// For each decoded instruction the one of the PTX that it came from, and whether it is the one that counts as it.
    pub origins: Vec<(u32, bool)>,
    /// For each instruction of the PTX: its opcode, its line, and where in the source it comes from.
    pub ptx: Vec<Origin>,
    pub targets: Vec<Vec<u32>>,
    pub library_calls: Vec<LibraryCall>,
    /// Slots of each size, and what fills them.
    pub slots: [usize; 3],
    pub literals32: Vec<(u16, u32)>,
    pub literals64: Vec<(u16, u64)>,
    pub specials: Vec<(u16, Special)>,
    pub layout: Layout,
    pub max_threads: u32,
}

/// Where an instruction stands.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub opcode: String,
    pub line: u32,
    /// `file.cu:12`, and where it was inlined; empty if the compiler said nothing.
    pub source: String,
}

/// The file of slots that a value lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum File {
    B32,
    B64,
    Pred,
}

impl File {
    fn of(ty: Type) -> Self {
        match ty.size() {
            0 => Self::Pred,
            8 => Self::B64,
            _ => Self::B32,
        }
    }
}

/// A kernel in the making.
pub(crate) struct Decoder<'a> {
    function: &'a Function,
    module: &'a Module,
    symbols: HashMap<&'a str, u64>,
    /// The variables that calls pass their values in.
    passed: HashMap<&'a str, usize>,
    library_calls: Vec<LibraryCall>,
    /// The slot of each register.
    registers: Vec<u16>,
    counts: [usize; 3],
    literals: HashMap<(File, u64), u16>,
    specials: HashMap<Special, u16>,
    insts: Vec<Inst>,
    origins: Vec<(u32, bool)>,
    /// The instruction that is being decoded.
    current: &'a Instruction,
    index: u32,
    guard: (u16, u32),
}

/// What is said of an opcode, and not of its operands.
const NOT_SUPPORTED: &str = "is not supported";

/// An opcode taken apart. Suffixes are taken out one by one; what is left over is not supported.
pub(crate) struct Opcode<'a> {
    base: &'a str,
    suffixes: Vec<&'a str>,
    text: &'a str,
    line: u32,
}

impl<'a> Opcode<'a> {
    fn new(text: &'a str, line: u32) -> Self {
        let mut parts = text.split('.');
        Self { base: parts.next().unwrap_or(""), suffixes: parts.collect(), text, line }
    }

    /// Takes a suffix out, if it is there.
    fn take(&mut self, suffix: &str) -> bool {
        let at = self.suffixes.iter().position(|s| *s == suffix);
        at.map(|at| self.suffixes.remove(at)).is_some()
    }

    /// Takes out the first of some suffixes.
    fn take_any<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(suffix, _)| self.take(suffix)).map(|c| c.1)
    }

    /// Takes the last type out.
    fn ty(&mut self) -> Result<Type> {
        let at = self.suffixes.iter().rposition(|s| Type::named(s).is_some());
        match at.and_then(|at| Type::named(self.suffixes.remove(at))) {
            Some(ty) => Ok(ty),
            None => self.unsupported("it has no type"),
        }
    }

    /// An error unless everything was taken.
    fn done(&self) -> Result<()> {
        match self.suffixes.first() {
            Some(suffix) => self.unsupported(&format!("`.{suffix}` is not known here")),
            None => Ok(()),
        }
    }

    fn unsupported<T>(&self, why: &str) -> Result<T> {
        Err(Error::at(self.line, format!("the instruction `{}` {NOT_SUPPORTED}: {why}", self.text)))
    }
}

/// Decodes a kernel. `globals` are the addresses of the module's variables.
pub(crate) fn decode(module: &Module, kernel: &Function, globals: &HashMap<String, u64>) -> Result<Program> {
    let whole = inline::inlined(module, kernel)?;
    let function = &*whole;
    let layout = Layout::new(module, function)?;
    let mut symbols: HashMap<&str, u64> = globals.iter().map(|(name, &address)| (name.as_str(), address)).collect();
    symbols.extend(layout.symbols.iter().map(|(name, address)| (name.as_str(), *address)));
    // Instructions that stand behind the last one of the body would run off its end.
    let end = Instruction {
        line: function.line,
        place: 0,
        guard: None,
        opcode: "exit".into(),
        operands: Vec::new(),
        depth: 0,
    };
    let mut decoder = Decoder {
        function,
        module,
        symbols,
        passed: layout.passed.iter().map(|a| (a.name.as_str(), a.start)).collect(),
        library_calls: Vec::new(),
        registers: Vec::with_capacity(function.registers.len()),
        // Slot 0 of each file is where unwanted results go; of the predicates slot 0 is true and slot 1 unwanted.
        counts: [1, 1, 2],
        literals: HashMap::new(),
        specials: HashMap::new(),
        insts: Vec::with_capacity(function.body.len() + 1),
        origins: Vec::with_capacity(function.body.len() + 1),
        current: &end,
        index: 0,
        guard: (0, 0),
    };
    for &ty in &function.registers {
        let slot = decoder.fresh(File::of(ty))?;
        decoder.registers.push(slot);
    }
    let mut starts = Vec::with_capacity(function.body.len() + 1);
    let mut ptx = Vec::with_capacity(function.body.len() + 1);
    for (index, instruction) in function.body.iter().chain([&end]).enumerate() {
        starts.push(decoder.insts.len() as i64);
        decoder.current = instruction;
        decoder.index = index as u32;
        decoder.guard = match instruction.guard {
            Some(guard) if function.registers[guard.register.0 as usize] != Type::Pred => {
                return Err(Error::at(instruction.line, "the guard is not a predicate"));
            }
            Some(guard) => (decoder.slot_of(guard.register), 0u32.wrapping_sub(guard.negated.into())),
            None => (0, 0),
        };
        decoder.instruction(instruction)?;
        if let Some(last) = decoder.origins.last_mut() {
            last.1 |= last.0 == index as u32;
        }
        let source = source_of(module, function, instruction.place);
        ptx.push(Origin { opcode: instruction.opcode.clone(), line: instruction.line, source });
    }
    let slot_of_label = |label: u32| starts[label as usize];
    for inst in &mut decoder.insts {
        if matches!(inst.op, Op::Branch) {
            inst.offset = slot_of_label(inst.offset as u32);
        }
    }
    let targets = function.targets.iter();
    let targets = targets.map(|list| list.iter().map(|&l| slot_of_label(l) as u32).collect()).collect();
    let literals =
        |file| decoder.literals.iter().filter(move |(key, _)| key.0 == file).map(|(key, &slot)| (slot, key.1));
    Ok(Program {
        name: function.name.clone(),
        literals32: literals(File::B32).map(|(slot, bits)| (slot, bits as u32)).collect(),
        literals64: literals(File::B64).collect(),
        specials: decoder.specials.iter().map(|(&special, &slot)| (slot, special)).collect(),
        slots: decoder.counts,
        insts: decoder.insts,
        origins: decoder.origins,
        ptx,
        targets,
        library_calls: decoder.library_calls,
        layout,
        max_threads: function.max_threads.unwrap_or(1024).min(1024),
    })
}

/// `kernel.cu:12 (inlined at kernel.cu:40)`, with every call on the way.
fn source_of(module: &Module, function: &Function, mut place: u32) -> String {
    let mut text = String::new();
    // A chain that is longer than this goes round in circles.
    for depth in 0..16 {
        let Some(at) = (place as usize).checked_sub(1).and_then(|at| function.places.get(at)) else { break };
        let path = module.file(at.file);
        let name = path.rsplit('/').next().unwrap_or(&path);
        if depth > 0 {
            text.push_str(", inlined at ");
        }
        text.push_str(&format!("{name}:{}", at.line));
        place = at.inlined_at;
    }
    text
}

impl<'a> Decoder<'a> {
    /// A slot that nothing uses yet.
    fn fresh(&mut self, file: File) -> Result<u16> {
        let count = &mut self.counts[file as usize];
        *count += 1;
        u16::try_from(*count - 1)
            .map_err(|_| Error::at(self.current.line, format!("`{}` has too many registers", self.function.name)))
    }

    fn slot_of(&self, register: RegisterId) -> u16 {
        self.registers[register.0 as usize]
    }

    fn type_of(&self, register: RegisterId) -> Type {
        self.function.registers[register.0 as usize]
    }

    fn wrong<T>(&self, what: &str) -> Result<T> {
        Err(Error::at(self.current.line, format!("`{}`: {what}", self.current.opcode)))
    }

    fn emit(&mut self, op: Op, slots: &[u16], offset: i64) {
        let mut all = [0; 15];
        all[..slots.len()].copy_from_slice(slots);
        self.emit_inst(Inst { op, guard: 0, flip: 0, slots: all, offset });
    }

    /// Adds an instruction; the guard is filled in.
    fn emit_inst(&mut self, mut inst: Inst) {
        (inst.guard, inst.flip) = self.guard;
        self.insts.push(inst);
        self.origins.push((self.index, false));
    }

    /// The operand at a place.
    fn operand(&self, at: usize) -> Result<&'a Operand> {
        match self.current.operands.get(at) {
            Some(operand) => Ok(operand),
            None => self.wrong(&format!("operand {} is missing", at + 1)),
        }
    }

    fn expect_operands(&self, counts: std::ops::RangeInclusive<usize>) -> Result<()> {
        let n = self.current.operands.len();
        if counts.contains(&n) {
            return Ok(());
        }
        self.wrong(&format!("it has {n} operands, and should have {} to {}", counts.start(), counts.end()))
    }

    /// The slot of a value that is always the same.
    fn constant(&mut self, file: File, bits: u64) -> Result<u16> {
        if let Some(&slot) = self.literals.get(&(file, bits)) {
            return Ok(slot);
        }
        let slot = self.fresh(file)?;
        self.literals.insert((file, bits), slot);
        Ok(slot)
    }

    /// The slot of a source of a type.
    fn source(&mut self, operand: &'a Operand, ty: Type) -> Result<u16> {
        let file = File::of(ty);
        match operand {
            Operand::Register(register) => {
                let (slot, has) = (self.slot_of(*register), File::of(self.type_of(*register)));
                if has == file {
                    return Ok(slot);
                }
                if (has, file) == (File::B64, File::B32) {
                    let low = self.fresh(File::B32)?;
                    self.emit(Op::Lanes(arithmetic::low_half()), &[low, slot], 0);
                    return Ok(low);
                }
                self.wrong("a source register has another size than the instruction")
            }
            Operand::Not(register) if file == File::Pred && self.type_of(*register) == Type::Pred => {
                let slot = self.fresh(File::Pred)?;
                let from = self.slot_of(*register);
                self.emit(Op::Lanes(arithmetic::not_pred), &[slot, from], 0);
                Ok(slot)
            }
            Operand::Literal(literal) if file == File::Pred => match literal {
                Literal::Integer(0) => {
                    let slot = self.fresh(File::Pred)?;
                    self.emit(Op::Lanes(arithmetic::not_pred), &[slot, 0], 0);
                    Ok(slot)
                }
                _ => Ok(0),
            },
            Operand::Literal(literal) => match literal.bits(ty) {
                Some(bits) => self.constant(file, bits),
                None => self.wrong("a literal does not go with the type of the instruction"),
            },
            Operand::Special(name) => self.special(name, file),
            Operand::Symbol(name, offset) => match self.symbols.get(name.as_str()) {
                Some(address) => {
                    let address = address.wrapping_add_signed(*offset);
                    self.constant(file, if file == File::B32 { address & 0xffff_ffff } else { address })
                }
                None if self.module.functions.iter().any(|f| f.name == *name) => self.wrong(&format!(
                    "`{name}` is a function, and its address is of no use: calls through registers are not executed"
                )),
                None => self.wrong(&format!("`{name}` is not declared")),
            },
            _ => self.wrong("a register or a literal expected as a source"),
        }
    }

    /// The slot of the source at a place.
    fn source_at(&mut self, at: usize, ty: Type) -> Result<u16> {
        let operand = self.operand(at)?;
        self.source(operand, ty)
    }

    /// The slot of a special register; 64-bit destinations take the 32-bit ones widened.
    fn special(&mut self, name: &str, file: File) -> Result<u16> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let (register, component) = name.split_once('.').unwrap_or((name, "x"));
        let axis = match component {
            "x" => 0,
            "y" => 1,
            "z" => 2,
            _ => return self.wrong(&format!("`{name}` is not a special register that is supported")),
        };
        let special = match register {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            "%laneid" => Special::Laneid,
            "%warpid" => Special::Warpid,
            "%nwarpid" => Special::Nwarpid,
            "%gridid" => Special::Gridid,
            "%smid" => Special::Smid,
            "%nsmid" => Special::Nsmid,
            "%lanemask_eq" => Special::LaneMask(Equal, false),
            "%lanemask_lt" => Special::LaneMask(Less, false),
            "%lanemask_le" => Special::LaneMask(Less, true),
            "%lanemask_gt" => Special::LaneMask(Greater, false),
            "%lanemask_ge" => Special::LaneMask(Greater, true),
            "%dynamic_smem_size" => Special::DynamicSharedBytes,
            "%total_smem_size" => Special::TotalSharedBytes,
            "%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi" => {
                if file == File::Pred {
                    return self.wrong("a special register is not a predicate");
                }
                let slot = self.fresh(file)?;
                let clock = Clock {
                    global: register.starts_with("%globaltimer"),
                    upper: register.ends_with("_hi"),
                    wide: file == File::B64,
                };
                self.emit(Op::Clock(clock), &[slot], 0);
                return Ok(slot);
            }
            _ => return self.wrong(&format!("`{name}` is neither declared nor a special register that is supported")),
        };
        let narrow = match self.specials.get(&special) {
            Some(&slot) => slot,
            None => {
                let slot = self.fresh(File::B32)?;
                self.specials.insert(special, slot);
                slot
            }
        };
        match file {
            File::B32 => Ok(narrow),
            File::B64 => {
                let wide = self.fresh(File::B64)?;
                self.emit(Op::Lanes(arithmetic::widened()), &[wide, narrow], 0);
                Ok(wide)
            }
            File::Pred => self.wrong("a special register is not a predicate"),
        }
    }

    /// The slot of a destination of a type.
    fn destination(&mut self, operand: &Operand, ty: Type) -> Result<u16> {
        let file = File::of(ty);
        match operand {
            Operand::Register(register) if File::of(self.type_of(*register)) == file => Ok(self.slot_of(*register)),
            Operand::Register(_) => self.wrong("the destination has another size than the instruction"),
            Operand::Sink => Ok(u16::from(file == File::Pred)),
            _ => self.wrong("a register expected as the destination"),
        }
    }

    /// The slot of the destination of a type, which is the first operand.
    fn result(&mut self, ty: Type) -> Result<u16> {
        let operand = self.operand(0)?;
        self.destination(operand, ty)
    }

    /// The operands of a vector, or the one operand that stands for itself.
    fn vector(&self, at: usize) -> Result<&'a [Operand]> {
        Ok(match self.operand(at)? {
            Operand::Vector(inner) => inner,
            other => std::slice::from_ref(other),
        })
    }

    fn instruction(&mut self, instruction: &'a Instruction) -> Result<()> {
        let mut op = Opcode::new(&instruction.opcode, instruction.line);
        let Some((_, part, _)) = forms::MNEMONICS.iter().find(|row| row.0 == op.base) else {
            return op.unsupported("it is not known here");
        };
        match part {
            Part::Access => self.access(&mut op),
            Part::Control => self.control(&mut op),
            Part::Call => self.call(&mut op),
            Part::Convert => self.convert(&mut op),
            Part::Arithmetic => self.arithmetic(&mut op),
        }
    }
}
