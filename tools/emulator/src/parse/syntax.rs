//! What a parsed module consists of. Names of registers and labels are resolved; opcodes are still text.

/// The type of a register or variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// A predicate.
    Pred,
    /// Untyped bits of this many bytes.
    B(u8),
    /// An unsigned integer of this many bytes.
    U(u8),
    /// A signed integer of this many bytes.
    S(u8),
    /// A float of this many bytes.
    F(u8),
    /// A bfloat16.
    Bf16,
    /// Two halves of 16 bits.
    F16x2,
    /// Two bfloat16s.
    Bf16x2,
    /// A TF32 in 32 bits.
    Tf32,
}

impl Type {
    /// The type that a suffix names, without its dot.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B(1),
            "b16" => Self::B(2),
            "b32" => Self::B(4),
            "b64" => Self::B(8),
            "b128" => Self::B(16),
            "u8" => Self::U(1),
            "u16" => Self::U(2),
            "u32" => Self::U(4),
            "u64" => Self::U(8),
            "s8" => Self::S(1),
            "s16" => Self::S(2),
            "s32" => Self::S(4),
            "s64" => Self::S(8),
            "f16" => Self::F(2),
            "f32" => Self::F(4),
            "f64" => Self::F(8),
            "bf16" => Self::Bf16,
            "f16x2" => Self::F16x2,
            "bf16x2" => Self::Bf16x2,
            "tf32" => Self::Tf32,
            _ => return None,
        })
    }

    /// Bytes that a value takes in memory; a predicate has none.
    pub fn size(self) -> usize {
        match self {
            Self::Pred => 0,
            Self::B(n) | Self::U(n) | Self::S(n) | Self::F(n) => usize::from(n),
            Self::Bf16 => 2,
            Self::F16x2 | Self::Bf16x2 | Self::Tf32 => 4,
        }
    }
}

/// The number of a register within its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegisterId(pub u32);

/// A literal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Literal {
    /// An integer, as 64 bits of two's complement.
    Integer(i64),
    /// The bits of an f32 (`0f…`).
    F32(u32),
    /// The bits of an f64 (`0d…`, and decimal fractions).
    F64(u64),
}

/// What an address starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// A register that holds an address.
    Register(RegisterId),
    /// A variable or parameter.
    Symbol(String),
    /// Nothing: the offset is the address.
    Absolute,
}

/// An operand of an instruction.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register.
    Register(RegisterId),
    /// A predicate register, negated.
    Not(RegisterId),
    /// A special register with its component, such as `%tid.x`.
    Special(String),
    /// A literal.
    Literal(Literal),
    /// The address of a variable, plus an offset.
    Symbol(String, i64),
    /// Memory at a base plus an offset.
    Address(Base, i64),
    /// Operands in braces.
    Vector(Vec<Operand>),
    /// Two destinations, `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// The number of an instruction to go to.
    Label(u32),
    /// A list of labels (`.branchtargets`), by its number in the function.
    Targets(u32),
    /// `_`: a result that nobody wants.
    Sink,
}

/// `@p` or `@!p` in front of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub register: RegisterId,
    /// Whether the instruction executes where it is false.
    pub negated: bool,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Its line in the PTX, from 1.
    pub line: u32,
    /// Its number in [`Function::places`] plus one; 0 if the compiler gave none.
    pub place: u32,
    /// Its guard.
    pub guard: Option<Guard>,
    /// The opcode with all suffixes.
    pub opcode: String,
    /// Destination first.
    pub operands: Vec<Operand>,
    /// How many calls lie around it once the bodies of functions stand in the places of their calls; the parser says 0.
    pub depth: u32,
}

/// A place in a source file, as `.loc` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The number of the file in [`Module::files`].
    pub file: u32,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// Where the function that this line belongs to was inlined: a number in [`Function::places`] plus one, or 0.
    pub inlined_at: u32,
}

/// Where a variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory.
    Global,
    /// Constant memory.
    Const,
    /// Memory of a block.
    Shared,
    /// Memory of a thread.
    Local,
    /// Parameters of a kernel.
    Param,
    /// An address that says itself which space it belongs to.
    Generic,
}

/// A variable or parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Its size in bytes; 0 for an `extern` array without a length.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Whether it is `extern`: dynamic shared memory.
    pub external: bool,
    /// The bytes that it begins with; shorter than `size` means zeros behind them.
    pub initial: Vec<u8>,
    /// Its line in the PTX.
    pub line: u32,
}

/// A kernel, or a device function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its line in the PTX.
    pub line: u32,
    /// Its parameters in order.
    pub params: Vec<Variable>,
    /// What a device function returns; kernels return nothing.
    pub returns: Vec<Variable>,
    /// Variables that are declared inside it.
    pub variables: Vec<Variable>,
    /// The type of each register.
    pub registers: Vec<Type>,
    /// Its instructions.
    pub body: Vec<Instruction>,
    /// The lists of `.branchtargets`.
    pub targets: Vec<Vec<u32>>,
    /// The places in the source that instructions come from.
    pub places: Vec<Place>,
    /// `.maxntid` or `.reqntid`: the most threads that a block may have, if given.
    pub max_threads: Option<u32>,
}

/// A parsed file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Module {
    /// `.version`, as it is written.
    pub version: String,
    /// `.target`, as it is written.
    pub target: String,
    /// Variables of the module.
    pub variables: Vec<Variable>,
    /// Kernels.
    pub kernels: Vec<Function>,
    /// Device functions that have a body.
    pub functions: Vec<Function>,
    /// Source files by the number that `.file` gives them.
    pub files: Vec<(u32, String)>,
}

impl Module {
    /// The path of a source file; the number where it has none.
    pub fn file(&self, number: u32) -> String {
        self.files.iter().find(|(n, _)| *n == number).map_or_else(|| format!("file {number}"), |(_, path)| path.clone())
    }
}
