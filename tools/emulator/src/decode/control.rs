//! Instructions that steer: branches, barriers, votes and shuffles, and the products of matrices.

use super::inline::Call;
use super::{ADDRESS, Decoder, Inst, Library, LibraryCall, MEMBERS, Op, Opcode};
use crate::error::Result;
use crate::execute::collective;
use crate::execute::registers::LaneFn;
use crate::parse::{Literal, Operand, Type};

/// A barrier of the block: slot 0 is its number, slot 1 how many threads it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Barriers {
    /// Whether a number of threads is given.
    pub counted: bool,
    pub kind: BarrierKind,
    /// Whether the lanes of a warp have to come together.
    pub aligned: bool,
}

/// What a barrier does besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    /// Does not wait.
    Arrive,
    /// Reduces the predicate in slot 3 into slot 2: a number of 32 bits, or a predicate.
    Count,
    All,
    Any,
}

/// A product of matrices by the tensor cores: slots 0-3 the result, 4-7 A, 8-9 B, 10-13 the addend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mma {
    Bf16K16,
    Bf16K8,
    F16K16,
    F16K8,
    Tf32K8,
    Tf32K4,
}

impl Mma {
    /// Multiplications and additions, each counted as one, of one instruction.
    pub fn operations(self) -> u64 {
        2 * 16 * 8 * self.depth() as u64
    }

    /// The length of the sums.
    pub fn depth(self) -> usize {
        match self {
            Self::Bf16K16 | Self::F16K16 => 16,
            Self::Bf16K8 | Self::F16K8 | Self::Tf32K8 => 8,
            Self::Tf32K4 => 4,
        }
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn control(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        match op.base {
            "bra" => {
                op.take("uni");
                op.done()?;
                let Operand::Label(label) = *self.operand(0)? else { return self.wrong("a label expected") };
                self.emit(Op::Branch, &[], label.into());
            }
            "brx" => {
                op.take("uni");
                if !op.take("idx") {
                    return op.unsupported("only brx.idx is known here");
                }
                op.done()?;
                let index = self.source_at(0, Type::U(4))?;
                let Operand::Targets(list) = *self.operand(1)? else {
                    return self.wrong("a list of branch targets expected");
                };
                self.emit(Op::BranchTable(list), &[index], 0);
            }
            "ret" | "exit" => {
                op.take("uni");
                op.done()?;
                // A function that stands in the place of its call goes on behind it.
                match self.current.operands.first() {
                    Some(&Operand::Label(behind)) => self.emit(Op::Branch, &[], behind.into()),
                    _ => self.emit(Op::Exit, &[], 0),
                }
            }
            "trap" | "brkpt" => {
                op.done()?;
                self.emit(Op::Trap, &[], 0);
            }
            "nanosleep" => {
                let ty = op.ty()?;
                op.done()?;
                if ty != Type::U(4) {
                    return op.unsupported("the type has to be .u32");
                }
                self.expect_operands(1..=1)?;
                self.source_at(0, ty)?;
                self.emit(Op::Nothing, &[], 0);
            }
            "pmevent" => self.emit(Op::Nothing, &[], 0),
            "membar" => {
                let Some(device) = op.take_any(&[("cta", false), ("gl", true), ("sys", true)]) else {
                    return op.unsupported("it names no scope");
                };
                op.done()?;
                self.emit(Op::Fence { device }, &[], 0);
            }
            "fence" => {
                for order in ["sc", "acq_rel", "acquire", "release"] {
                    op.take(order);
                }
                let Some(device) = op.take_any(&[("cta", false), ("cluster", true), ("gpu", true), ("sys", true)])
                else {
                    return op.unsupported("it names no scope");
                };
                op.done()?;
                self.emit(Op::Fence { device }, &[], 0);
            }
            "bar" | "barrier" => self.barrier(op)?,
            "mma" => self.mma(op)?,
            _ => self.collective(op)?,
        }
        Ok(())
    }

    /// What is left of calls once the bodies of functions stand in their places: the way of those who do not call, and
    /// the functions of the CUDA library.
    pub(super) fn call(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        op.take("uni");
        op.done()?;
        match *self.current.operands.as_slice() {
            [] => {
                self.emit(Op::Nothing, &[], 0);
                return Ok(());
            }
            [Operand::Label(behind)] => {
                self.emit(Op::Branch, &[], behind.into());
                return Ok(());
            }
            [Operand::Literal(Literal::Integer(most)), Operand::Symbol(..)] => {
                self.emit(Op::TooDeep, &[], most);
                return Ok(());
            }
            _ => {}
        }
        let Some(Call { returns, callee, arguments }) = Call::of(self.current) else {
            return self.wrong("a function expected");
        };
        let name = match callee {
            Operand::Symbol(name, 0) => name.as_str(),
            _ => return op.unsupported("it calls through a register; functions have to be called by their names"),
        };
        let (function, takes) = match name {
            "vprintf" => (Library::Vprintf, 2),
            "__assertfail" => (Library::Assertfail, 5),
            _ => {
                return self.wrong(&format!(
                    "the module does not say what `{name}` does, and of the functions of the CUDA library only \
                     `vprintf` and `__assertfail` are known here"
                ));
            }
        };
        if arguments.len() != takes || returns.len() > 1 {
            return self.wrong(&format!("`{name}` takes {takes} values, and {} are given", arguments.len()));
        }
        let place = |operand: &Operand| match operand {
            Operand::Symbol(name, 0) => self.passed.get(name.as_str()).copied(),
            _ => None,
        };
        let Some(places) = arguments.iter().map(place).collect::<Option<Vec<usize>>>() else {
            return self.wrong("values have to be given in variables in `.param`");
        };
        let result = returns.first().and_then(place);
        self.library_calls.push(LibraryCall { function, arguments: places, result });
        self.emit(Op::Library(self.library_calls.len() as u32 - 1), &[], 0);
        Ok(())
    }

    fn barrier(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        if op.take("warp") {
            if !op.take("sync") {
                return op.unsupported("only bar.warp.sync is known here");
            }
            op.done()?;
            let mut slots = [0; 15];
            slots[MEMBERS] = self.source_at(0, Type::B(4))?;
            self.emit_inst(Inst { op: Op::WarpBarrier, guard: 0, flip: 0, slots, offset: 0 });
            return Ok(());
        }
        op.take("cta");
        let aligned = op.take("aligned") || op.base == "bar";
        let all = Type::U(4);
        let mut slots = [0; 15];
        let (kind, counted, number) = if op.take("sync") {
            (BarrierKind::Sync, 1, 0)
        } else if op.take("arrive") {
            (BarrierKind::Arrive, 1, 0)
        } else if op.take("red") {
            let kinds = [("popc", BarrierKind::Count), ("and", BarrierKind::All), ("or", BarrierKind::Any)];
            let Some(kind) = op.take_any(&kinds) else { return op.unsupported("it names no reduction") };
            let ty = op.ty()?;
            if ty.size() != if kind == BarrierKind::Count { 4 } else { 0 } {
                return op.unsupported("the type does not go with the reduction");
            }
            op.done()?;
            slots[2] = self.result(ty)?;
            let predicate = self.current.operands.len().saturating_sub(1);
            slots[3] = self.source_at(predicate, Type::Pred)?;
            (kind, 2, 1)
        } else {
            return op.unsupported("of barriers only sync, arrive and red are known here");
        };
        op.done()?;
        let has_count = self.current.operands.len() > counted + usize::from(number == 1);
        slots[0] = self.source_at(number, all)?;
        if has_count {
            slots[1] = self.source_at(counted, all)?;
        } else if kind == BarrierKind::Arrive {
            return self.wrong("the number of threads is missing");
        }
        let op = Op::Barrier(Barriers { counted: has_count, kind, aligned });
        self.emit_inst(Inst { op, guard: 0, flip: 0, slots, offset: 0 });
        Ok(())
    }

    /// Instructions across the lanes of a warp.
    fn collective(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        let mut slots = [0; 15];
        if op.base == "activemask" {
            let ty = op.ty()?;
            op.done()?;
            if ty != Type::B(4) {
                return op.unsupported("the type has to be .b32");
            }
            slots[0] = self.result(ty)?;
            self.emit_inst(Inst { op: Op::Lanes(collective::activemask), guard: 0, flip: 0, slots, offset: 0 });
            return Ok(());
        }
        if !op.take("sync") {
            return op.unsupported("`.sync` is needed");
        }
        let bits = Type::B(4);
        let members;
        let function: LaneFn = match op.base {
            "shfl" => {
                let modes: [(&str, LaneFn); 4] = [
                    ("up", collective::shuffle_up),
                    ("down", collective::shuffle_down),
                    ("bfly", collective::shuffle_butterfly),
                    ("idx", collective::shuffle_index),
                ];
                let Some(function) = op.take_any(&modes) else { return op.unsupported("it names no mode") };
                if op.ty()? != bits {
                    return op.unsupported("the type has to be .b32");
                }
                op.done()?;
                // The second result says whether the source lane was in range.
                (slots[0], slots[1]) = match self.operand(0)? {
                    Operand::Pair(value, inside) => {
                        (self.destination(value, bits)?, self.destination(inside, Type::Pred)?)
                    }
                    value => (self.destination(value, bits)?, 1),
                };
                for (at, slot) in (1..=3).zip(2..) {
                    slots[slot] = self.source_at(at, bits)?;
                }
                members = 4;
                function
            }
            "vote" => {
                let modes: [(&str, LaneFn); 4] = [
                    ("all", collective::vote_all),
                    ("any", collective::vote_any),
                    ("uni", collective::vote_uniform),
                    ("ballot", collective::ballot),
                ];
                let ballot = op.suffixes.contains(&"ballot");
                let Some(function) = op.take_any(&modes) else { return op.unsupported("it names no mode") };
                let ty = op.ty()?;
                op.done()?;
                if ty != if ballot { bits } else { Type::Pred } {
                    return op.unsupported("the type does not go with the mode");
                }
                slots[0] = self.result(ty)?;
                slots[1] = self.source_at(1, Type::Pred)?;
                members = 2;
                function
            }
            "match" => {
                let any = op.take("any");
                if !any && !op.take("all") {
                    return op.unsupported("it names no mode");
                }
                let ty = op.ty()?;
                op.done()?;
                if !matches!(ty, Type::B(4 | 8)) {
                    return op.unsupported("the type has to be .b32 or .b64");
                }
                (slots[0], slots[2]) = match self.operand(0)? {
                    Operand::Pair(value, all) => (self.destination(value, bits)?, self.destination(all, Type::Pred)?),
                    value => (self.destination(value, bits)?, 1),
                };
                slots[1] = self.source_at(1, ty)?;
                members = 2;
                match (any, ty.size()) {
                    (true, 4) => collective::match_any_32,
                    (true, _) => collective::match_any_64,
                    (false, 4) => collective::match_all_32,
                    (false, _) => collective::match_all_64,
                }
            }
            "elect" => {
                op.done()?;
                (slots[0], slots[1]) = match self.operand(0)? {
                    Operand::Pair(leader, elected) => {
                        (self.destination(leader, bits)?, self.destination(elected, Type::Pred)?)
                    }
                    _ => return self.wrong("a pair `lane|predicate` expected as the destination"),
                };
                members = 1;
                collective::elect
            }
            "redux" => {
                let (absolute, nan) = (op.take("abs"), op.take("NaN"));
                let names = ["add", "min", "max", "and", "or", "xor"];
                let Some(name) = names.into_iter().find(|name| op.take(name)) else {
                    return op.unsupported("it names no operation");
                };
                let ty = op.ty()?;
                if ty != Type::F(4) && (absolute || nan) {
                    return op.unsupported(".abs and .NaN go with .f32");
                }
                op.done()?;
                let function: LaneFn = match (name, ty) {
                    ("min" | "max", Type::F(4)) => collective::float_reduction(name == "max", absolute, nan),
                    ("add", Type::U(4) | Type::S(4)) => collective::reduce_add,
                    ("min", Type::U(4)) => collective::reduce_min_unsigned,
                    ("max", Type::U(4)) => collective::reduce_max_unsigned,
                    ("min", Type::S(4)) => collective::reduce_min_signed,
                    ("max", Type::S(4)) => collective::reduce_max_signed,
                    ("and", Type::B(4)) => collective::reduce_and,
                    ("or", Type::B(4)) => collective::reduce_or,
                    ("xor", Type::B(4)) => collective::reduce_xor,
                    _ => return op.unsupported("the operation is not defined for this type"),
                };
                slots[0] = self.result(ty)?;
                slots[1] = self.source_at(1, ty)?;
                members = 2;
                function
            }
            _ => return op.unsupported("it is not known here"),
        };
        op.done()?;
        self.expect_operands(members + 1..=members + 1)?;
        slots[MEMBERS] = self.source_at(members, bits)?;
        self.emit_inst(Inst { op: Op::Collective(function), guard: 0, flip: 0, slots, offset: 0 });
        Ok(())
    }

    fn mma(&mut self, op: &mut Opcode<'_>) -> Result<()> {
        const FORMS: [(&str, Mma, usize, usize); 6] = [
            ("m16n8k16.row.col.f32.bf16.bf16.f32", Mma::Bf16K16, 4, 2),
            ("m16n8k8.row.col.f32.bf16.bf16.f32", Mma::Bf16K8, 2, 1),
            ("m16n8k16.row.col.f32.f16.f16.f32", Mma::F16K16, 4, 2),
            ("m16n8k8.row.col.f32.f16.f16.f32", Mma::F16K8, 2, 1),
            ("m16n8k8.row.col.f32.tf32.tf32.f32", Mma::Tf32K8, 4, 2),
            ("m16n8k4.row.col.f32.tf32.tf32.f32", Mma::Tf32K4, 2, 1),
        ];
        let form = op.text.strip_prefix("mma.sync.aligned.").and_then(|rest| FORMS.iter().find(|f| f.0 == rest));
        let Some(&(_, mma, a, b)) = form else {
            return op
                .unsupported("of the shapes and types m16n8k16 and k8 in bf16 and f16, and k8 and k4 in tf32, to f32");
        };
        self.expect_operands(4..=4)?;
        let mut slots = [0; 15];
        for (at, first, length) in [(0, 0, 4), (1, 4, a), (2, ADDRESS, b), (3, 10, 4)] {
            let registers = self.vector(at)?;
            if registers.len() != length {
                return self.wrong(&format!("operand {} has {} registers, not {length}", at + 1, registers.len()));
            }
            for (register, slot) in registers.iter().zip(&mut slots[first..]) {
                *slot = match register {
                    Operand::Literal(Literal::F32(_)) | Operand::Register(_) if at > 0 => {
                        self.source(register, if at == 3 { Type::F(4) } else { Type::B(4) })?
                    }
                    _ => self.destination(register, Type::B(4))?,
                };
            }
        }
        self.emit_inst(Inst { op: Op::Mma(mma), guard: 0, flip: 0, slots, offset: 0 });
        Ok(())
    }
}
