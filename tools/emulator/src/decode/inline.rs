//! Puts the bodies of device functions in the places of their calls, so that lanes meet again behind a call by the same
//! rule as behind a branch, and a call costs what its instructions cost.
//!
//! What is passed and returned lies in `.param` variables of the caller; the function's own names of them stand for
//! these. A function that calls itself is repeated as often as there is room, and what goes deeper is found when it is
//! executed.

use crate::error::{Error, Result};
use crate::parse::{Base, Function, Guard, Instruction, Literal, Module, Operand, Place, RegisterId, Space, Variable};
use std::borrow::Cow;
use std::collections::HashMap;

/// The most instructions that a kernel may have with all that it calls, and the most registers.
const MOST_INSTRUCTIONS: usize = 40_000;
const MOST_REGISTERS: usize = 40_000;
/// How often a function may stand inside itself: the first of these for which there is room.
const DEPTHS: [u32; 12] = [64, 48, 32, 24, 16, 12, 10, 8, 6, 4, 3, 2];

/// A call taken apart.
pub(super) struct Call<'i> {
    pub returns: &'i [Operand],
    pub callee: &'i Operand,
    pub arguments: &'i [Operand],
}

impl<'i> Call<'i> {
    /// `call (returns), callee, (arguments)`, of which returns and arguments may be missing.
    pub fn of(instruction: &'i Instruction) -> Option<Self> {
        if instruction.opcode.split('.').next() != Some("call") {
            return None;
        }
        let (returns, rest) = match instruction.operands.as_slice() {
            [Operand::Vector(returns), rest @ ..] => (&returns[..], rest),
            rest => (&[][..], rest),
        };
        let (callee, rest) = rest.split_first()?;
        let arguments = match rest.first() {
            Some(Operand::Vector(arguments)) => &arguments[..],
            _ => &[],
        };
        matches!(callee, Operand::Symbol(..) | Operand::Register(_)).then_some(Self { returns, callee, arguments })
    }

    /// The function of the module that it calls.
    fn function<'m>(&self, module: &'m Module) -> Option<&'m Function> {
        let Operand::Symbol(name, 0) = self.callee else { return None };
        module.functions.iter().find(|f| f.name == *name)
    }
}

/// A kernel with the functions of its module in the places of their calls.
///
/// # Errors
/// If what is passed to a function is not what it takes, or if there is no room.
pub(super) fn inlined<'f>(module: &Module, kernel: &'f Function) -> Result<Cow<'f, Function>> {
    if !kernel.body.iter().any(|i| Call::of(i).is_some_and(|call| call.function(module).is_some())) {
        return Ok(Cow::Borrowed(kernel));
    }
    for most in DEPTHS {
        let mut inliner = Inliner { module, most, recursive: false, out: start(kernel), frames: HashMap::new() };
        let names = kernel.variables.iter().map(|v| (v.name.clone(), v.name.clone())).collect();
        let frame = Frame { registers: 0, names };
        let complete = inliner.expand(kernel, &frame, 0, &mut vec![(&kernel.name, 0)])?;
        if complete {
            return Ok(Cow::Owned(inliner.out));
        }
        if !inliner.recursive {
            break;
        }
    }
    let what = format!(
        "`{}` has more than {MOST_INSTRUCTIONS} instructions or {MOST_REGISTERS} registers with all that it calls",
        kernel.name
    );
    Err(Error::at(kernel.line, what))
}

/// The kernel without its body.
fn start(kernel: &Function) -> Function {
    Function { body: Vec::new(), targets: Vec::new(), ..kernel.clone() }
}

/// Where the registers and variables of one call of a function are.
#[derive(Clone)]
struct Frame {
    registers: u32,
    names: HashMap<String, String>,
}

struct Inliner<'m> {
    module: &'m Module,
    /// How often a function may stand inside itself.
    most: u32,
    /// Whether one does.
    recursive: bool,
    out: Function,
    /// The registers of a function at a depth, and its variables where it stands inside itself: calls beside each other
    /// are never under way together.
    frames: HashMap<(String, usize), Frame>,
}

impl<'m> Inliner<'m> {
    /// Appends the body of a function; false if there is no room. `stack` are the functions around, with the place of
    /// each call.
    fn expand(
        &mut self,
        function: &'m Function,
        frame: &Frame,
        around: u32,
        stack: &mut Vec<(&'m str, u32)>,
    ) -> Result<bool> {
        let depth = stack.len() as u32 - 1;
        let lists = self.out.targets.len() as u32;
        self.out.targets.extend(function.targets.iter().cloned());
        // The places of a kernel are there already; those of a function are seen from where it is called.
        let places = if depth == 0 { 0 } else { self.out.places.len() as u32 };
        if depth > 0 {
            self.out.places.extend(function.places.iter().map(|place| Place {
                inlined_at: if place.inlined_at == 0 { around } else { places + place.inlined_at },
                ..*place
            }));
        }
        let (mut starts, mut own) = (Vec::with_capacity(function.body.len() + 1), Vec::new());
        for instruction in &function.body {
            starts.push(self.out.body.len() as u32);
            let place = if instruction.place == 0 { around } else { places + instruction.place };
            let guard = instruction.guard.map(|g| Guard { register: frame.register(g.register), ..g });
            let mut copy = Instruction {
                place,
                guard,
                depth,
                operands: instruction.operands.iter().map(|o| frame.operand(o, lists)).collect(),
                ..instruction.clone()
            };
            let callee = Call::of(instruction).and_then(|call| call.function(self.module));
            if let Some(callee) = callee {
                if !self.call(&copy, callee, stack)? {
                    return Ok(false);
                }
                continue;
            }
            if depth > 0 && instruction.opcode.split('.').next() == Some("ret") {
                copy.operands = vec![Operand::Label(function.body.len() as u32)];
            }
            own.push(self.out.body.len());
            self.out.body.push(copy);
            if self.out.body.len() > MOST_INSTRUCTIONS {
                return Ok(false);
            }
        }
        starts.push(self.out.body.len() as u32);
        for at in own {
            for operand in &mut self.out.body[at].operands {
                if let Operand::Label(label) = operand {
                    *label = starts[*label as usize];
                }
            }
        }
        for list in &mut self.out.targets[lists as usize..][..function.targets.len()] {
            list.iter_mut().for_each(|label| *label = starts[*label as usize]);
        }
        Ok(true)
    }

    /// Appends what a call calls; false if there is no room.
    fn call(&mut self, call: &Instruction, callee: &'m Function, stack: &mut Vec<(&'m str, u32)>) -> Result<bool> {
        let Some(Call { returns, arguments, .. }) = Call::of(call) else { return Ok(true) };
        let bound = self.bind(call, callee, "takes", &callee.params, arguments)?;
        let returned = self.bind(call, callee, "returns", &callee.returns, returns)?;
        let around = stack.iter().filter(|(name, _)| *name == callee.name).count() as u32;
        self.recursive |= around > 0;
        if around >= self.most {
            let name = Operand::Symbol(callee.name.clone(), 0);
            let operands = vec![Operand::Literal(Literal::Integer(self.most.into())), name];
            self.out.body.push(Instruction { operands, ..call.clone() });
            return Ok(true);
        }
        // Who does not call goes behind what is called.
        let at = self.out.body.len();
        let guard = call.guard.map(|g| Guard { negated: !g.negated, ..g });
        self.out.body.push(Instruction { guard, operands: Vec::new(), ..call.clone() });
        let key = (callee.name.clone(), stack.len());
        let known = self.frames.get(&key).cloned();
        let registers = known.as_ref().map_or(self.out.registers.len() as u32, |frame| frame.registers);
        if known.is_none() {
            self.out.registers.extend(&callee.registers);
            if self.out.registers.len() > MOST_REGISTERS {
                return Ok(false);
            }
        }
        let mut frame = match known {
            Some(frame) if around > 0 => frame,
            _ => Frame { registers, names: self.variables(callee, at) },
        };
        self.frames.insert(key, frame.clone());
        frame.names.extend(bound.into_iter().chain(returned));
        stack.push((&callee.name, call.place));
        let complete = self.expand(callee, &frame, call.place, stack)?;
        stack.pop();
        if guard.is_some() {
            self.out.body[at].operands = vec![Operand::Label(self.out.body.len() as u32)];
        }
        Ok(complete)
    }

    /// The variables of the caller that a function's names of its parameters stand for.
    fn bind(
        &self,
        call: &Instruction,
        callee: &Function,
        verb: &str,
        params: &[Variable],
        given: &[Operand],
    ) -> Result<Vec<(String, String)>> {
        let wrong = |what: String| Err(Error::at(call.line, format!("`{}`: {what}", call.opcode)));
        if params.len() != given.len() {
            let (name, wanted) = (&callee.name, params.len());
            return wrong(format!("`{name}` {verb} {wanted} values, and {} are given", given.len()));
        }
        let mut bound = Vec::with_capacity(params.len());
        for (param, given) in params.iter().zip(given) {
            let variable = match given {
                Operand::Symbol(name, 0) => self.out.variables.iter().find(|v| v.name == *name),
                _ => None,
            };
            match variable.filter(|v| v.space == Space::Param) {
                Some(variable) if variable.size >= param.size => {
                    bound.push((param.name.clone(), variable.name.clone()));
                }
                Some(variable) => {
                    let (name, has, wanted) = (&variable.name, variable.size, param.size);
                    return wrong(format!("`{name}` has {has} bytes, and `{}` has {wanted}", param.name));
                }
                None => return wrong(format!("`{}` has to be given in a variable in `.param`", param.name)),
            }
        }
        Ok(bound)
    }

    /// Adds the variables of a function for a call; what is in shared memory is there once.
    fn variables(&mut self, callee: &Function, at: usize) -> HashMap<String, String> {
        let mut names = HashMap::new();
        for variable in &callee.variables {
            let name = match variable.space {
                Space::Local | Space::Param => format!("{} of {} at {at}", variable.name, callee.name),
                _ => format!("{} of {}", variable.name, callee.name),
            };
            names.insert(variable.name.clone(), name.clone());
            if !self.out.variables.iter().any(|v| v.name == name) {
                self.out.variables.push(Variable { name, ..variable.clone() });
            }
        }
        names
    }
}

impl Frame {
    fn register(&self, register: RegisterId) -> RegisterId {
        RegisterId(self.registers + register.0)
    }

    fn name(&self, name: &str) -> String {
        self.names.get(name).map_or(name, String::as_str).to_owned()
    }

    /// An operand as the kernel has it, but for labels.
    fn operand(&self, operand: &Operand, lists: u32) -> Operand {
        match operand {
            Operand::Register(register) => Operand::Register(self.register(*register)),
            Operand::Not(register) => Operand::Not(self.register(*register)),
            Operand::Symbol(name, offset) => Operand::Symbol(self.name(name), *offset),
            Operand::Address(Base::Register(register), offset) => {
                Operand::Address(Base::Register(self.register(*register)), *offset)
            }
            Operand::Address(Base::Symbol(name), offset) => Operand::Address(Base::Symbol(self.name(name)), *offset),
            Operand::Vector(inner) => Operand::Vector(inner.iter().map(|o| self.operand(o, lists)).collect()),
            Operand::Pair(a, b) => Operand::Pair(Box::new(self.operand(a, lists)), Box::new(self.operand(b, lists))),
            Operand::Targets(list) => Operand::Targets(lists + list),
            Operand::Special(_)
            | Operand::Literal(_)
            | Operand::Address(Base::Absolute, _)
            | Operand::Label(_)
            | Operand::Sink => operand.clone(),
        }
    }
}
