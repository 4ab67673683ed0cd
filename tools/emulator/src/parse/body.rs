//! Kernels and device functions: parameters, and bodies with their scopes.

use super::lexer::Token;
use super::{
    Base, DEEPEST, Function, Guard, Instruction, MOST_REGISTERS, Module, Operand, Parser, Place, RegisterId, Space,
    Type, Variable,
};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Names that one pair of braces declares.
#[derive(Default)]
struct Scope {
    outer: Option<usize>,
    registers: HashMap<String, RegisterId>,
    /// `%r<10>`: the first register and how many.
    ranges: HashMap<String, (u32, u32)>,
    labels: HashMap<String, Target>,
    /// Names of variables that are not what the text calls them, because another scope took the name.
    renamed: HashMap<String, String>,
}

#[derive(Clone, Copy)]
enum Target {
    Instruction(u32),
    List(u32),
}

/// A body in the making.
struct Body<'f> {
    function: &'f mut Function,
    scopes: Vec<Scope>,
    scope: usize,
    place: u32,
    /// The last place number of each file, line and column, to find where an inlined function was called from.
    seen: HashMap<(u32, u32, u32), u32>,
    /// Labels that are used: instruction, operand, name, scope, line.
    uses: Vec<(usize, usize, String, usize)>,
    /// Lists of branch targets: names with the scope they stand in.
    lists: Vec<(Vec<String>, usize, u32)>,
}

impl Parser<'_> {
    /// A kernel after `.entry`.
    pub(super) fn kernel(&mut self, module: &Module, line: u32) -> Result<Function> {
        let mut function = Function { line, ..Function::default() };
        function.name = self.word("the name of a kernel")?.to_owned();
        if module.kernels.iter().any(|k| k.name == function.name) {
            return Err(Error::at(line, format!("the kernel `{}` is defined twice", function.name)));
        }
        if self.take('(') {
            function.params = self.params()?;
        }
        self.directives_and_body(&mut function)?;
        Ok(function)
    }

    /// A device function after `.func`; `None` if it is only declared.
    pub(super) fn device_function(&mut self, module: &Module, line: u32) -> Result<Option<Function>> {
        let mut function = Function { line, ..Function::default() };
        if self.take('(') {
            function.returns = self.params()?;
        }
        function.name = self.word("the name of a function")?.to_owned();
        if self.take('(') {
            function.params = self.params()?;
        }
        while self.take_word(".noreturn") {}
        if self.take(';') {
            return Ok(None);
        }
        if module.functions.iter().any(|f| f.name == function.name) {
            return Err(Error::at(line, format!("the function `{}` is defined twice", function.name)));
        }
        self.directives_and_body(&mut function)?;
        Ok(Some(function))
    }

    /// Parameters up to and with the closing parenthesis.
    fn params(&mut self) -> Result<Vec<Variable>> {
        let mut params = Vec::new();
        while !self.take(')') {
            let line = self.line();
            if !self.take_word(".param") {
                return self.unexpected("`.param`");
            }
            let form = self.type_and_align()?;
            let param = self.variable(Space::Param, false, form)?;
            if !param.initial.is_empty() {
                return Err(Error::at(line, "a parameter may have no initial value"));
            }
            params.push(param);
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(params)
    }

    /// What stands between the parameters and the body, and the body.
    fn directives_and_body(&mut self, function: &mut Function) -> Result<()> {
        while !self.take('{') {
            let line = self.line();
            let directive = self.word("a directive or `{`")?;
            let mut figures = Vec::new();
            while matches!(self.peek(), Some(Token::Number(_))) {
                figures.push(self.bounded("a figure of a directive", u32::MAX as usize)?);
                if !self.take(',') {
                    break;
                }
            }
            match directive {
                ".maxntid" | ".reqntid" => {
                    function.max_threads = u32::try_from(figures.iter().fold(1usize, |a, &b| a.saturating_mul(b))).ok();
                }
                ".minnctapersm" | ".maxnreg" | ".noreturn" => {}
                ".pragma" => self.skip_line(line),
                _ => return Err(Error::at(line, format!("the directive `{directive}` is not supported"))),
            }
        }
        let mut body = Body {
            function,
            scopes: vec![Scope::default()],
            scope: 0,
            place: 0,
            seen: HashMap::new(),
            uses: Vec::new(),
            lists: Vec::new(),
        };
        self.block(&mut body, 0)?;
        body.resolve()
    }

    /// Statements up to and with the closing brace.
    fn block(&mut self, body: &mut Body<'_>, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::at(self.line(), "scopes nest too deep"));
        }
        while !self.take('}') {
            let line = self.line();
            match self.peek() {
                Some(Token::Mark('{')) => {
                    self.at += 1;
                    let outer = body.scope;
                    body.scopes.push(Scope { outer: Some(outer), ..Scope::default() });
                    body.scope = body.scopes.len() - 1;
                    self.block(body, depth + 1)?;
                    body.scope = outer;
                }
                Some(Token::Mark(';')) => self.at += 1,
                Some(Token::Word(word)) if word.starts_with('.') => {
                    self.at += 1;
                    self.body_directive(body, word, line)?;
                }
                Some(Token::Word(name))
                    if self.tokens.get(self.at + 1).is_some_and(|t| t.token == Token::Mark(':')) =>
                {
                    self.at += 2;
                    self.label(body, name, line)?;
                }
                Some(Token::Word(_) | Token::Mark('@')) => self.instruction(body, line)?,
                _ => return self.unexpected("a statement"),
            }
        }
        Ok(())
    }

    fn label(&mut self, body: &mut Body<'_>, name: &str, line: u32) -> Result<()> {
        // What a call through a register may call: the call itself is refused when it is decoded.
        if self.take_word(".callprototype") || self.take_word(".calltargets") {
            while self.next()? != Token::Mark(';') {}
            return Ok(());
        }
        let target = if self.take_word(".branchtargets") {
            let mut names = Vec::new();
            loop {
                names.push(self.word("a label")?.to_owned());
                if !self.take(',') {
                    break;
                }
            }
            self.expect(';')?;
            body.lists.push((names, body.scope, line));
            Target::List(body.lists.len() as u32 - 1)
        } else {
            Target::Instruction(body.function.body.len() as u32)
        };
        if body.scopes[body.scope].labels.insert(name.to_owned(), target).is_some() {
            return Err(Error::at(line, format!("the label `{name}` stands twice in one scope")));
        }
        Ok(())
    }

    fn body_directive(&mut self, body: &mut Body<'_>, word: &str, line: u32) -> Result<()> {
        match word {
            ".reg" => self.registers(body),
            ".shared" | ".local" | ".global" | ".const" | ".param" => {
                let space = match word {
                    ".shared" => Space::Shared,
                    ".local" => Space::Local,
                    ".global" => Space::Global,
                    ".const" => Space::Const,
                    _ => Space::Param,
                };
                let first = body.function.variables.len();
                self.variables(space, false, &mut body.function.variables)?;
                for at in first..body.function.variables.len() {
                    let name = body.function.variables[at].name.clone();
                    let taken = |v: &Variable| v.name == name;
                    let function = &body.function;
                    let mut others = function.variables[..at].iter().chain(&function.params).chain(&function.returns);
                    if others.any(taken) {
                        let unique = format!("{name}@{at}");
                        body.function.variables[at].name.clone_from(&unique);
                        body.scopes[body.scope].renamed.insert(name, unique);
                    }
                }
                Ok(())
            }
            ".loc" => {
                let mut figure = || self.bounded("a figure of .loc", u32::MAX as usize).map(|v| v as u32);
                let (file, at, column) = (figure()?, figure()?, figure()?);
                let mut inlined_at = 0;
                if self.take(',') {
                    if !self.take_word("function_name") {
                        return self.unexpected("`function_name`");
                    }
                    self.word("a label of .debug_str")?;
                    if self.take('+') {
                        self.integer()?;
                    }
                    self.expect(',')?;
                    if !self.take_word("inlined_at") {
                        return self.unexpected("`inlined_at`");
                    }
                    let mut figure = || self.bounded("a figure of .loc", u32::MAX as usize).map(|v| v as u32);
                    let call = (figure()?, figure()?, figure()?);
                    inlined_at = match body.seen.get(&call) {
                        Some(&place) => place,
                        None => body.place(Place { file: call.0, line: call.1, column: call.2, inlined_at: 0 }),
                    };
                }
                // Line 0 says that the compiler attributes what follows to no line: the last one is the better guide.
                if at != 0 {
                    body.place = body.place(Place { file, line: at, column, inlined_at });
                }
                Ok(())
            }
            ".pragma" => {
                while self.next()? != Token::Mark(';') {}
                Ok(())
            }
            _ => Err(Error::at(line, format!("the directive `{word}` is not supported in a kernel"))),
        }
    }

    fn registers(&mut self, body: &mut Body<'_>) -> Result<()> {
        let line = self.line();
        let mut word = self.word("a type")?;
        if matches!(word, ".v2" | ".v4") {
            return Err(Error::at(line, "vector registers are not supported"));
        }
        let ty = word
            .strip_prefix('.')
            .and_then(Type::named)
            .filter(|ty| ty.size() <= 8)
            .ok_or_else(|| Error::at(line, format!("`{word}` is not a type of a register")))?;
        loop {
            word = self.word("the name of a register")?;
            let first = body.function.registers.len();
            let count = if self.take('<') {
                let count = self.bounded("the number of registers", MOST_REGISTERS)?;
                self.expect('>')?;
                body.scopes[body.scope].ranges.insert(word.to_owned(), (first as u32, count as u32));
                count
            } else {
                body.scopes[body.scope].registers.insert(word.to_owned(), RegisterId(first as u32));
                1
            };
            if first + count > MOST_REGISTERS {
                return Err(Error::at(line, format!("more than {MOST_REGISTERS} registers")));
            }
            body.function.registers.resize(first + count, ty);
            if !self.take(',') {
                return self.expect(';');
            }
        }
    }

    fn instruction(&mut self, body: &mut Body<'_>, line: u32) -> Result<()> {
        let mut guard = None;
        if self.take('@') {
            let negated = self.take('!');
            let name = self.word("a predicate")?;
            let register = body.register(name);
            let register =
                register.ok_or_else(|| Error::at(line, format!("the predicate `{name}` is not declared")))?;
            guard = Some(Guard { register, negated });
        }
        let opcode = self.word("an instruction")?.to_owned();
        let mut operands = Vec::new();
        while !self.take(';') {
            let operand = self.operand(body, 0)?;
            // Labels are known only at the end of their scope.
            if let Operand::Symbol(name, 0) = &operand
                && matches!(opcode.split('.').next(), Some("bra" | "brx"))
            {
                body.uses.push((body.function.body.len(), operands.len(), name.clone(), body.scope));
            }
            operands.push(operand);
            if !self.take(',') && self.peek() != Some(Token::Mark(';')) {
                return self.unexpected(&format!("`,` or `;` after an operand of `{opcode}`"));
            }
        }
        body.function.body.push(Instruction { line, place: body.place, guard, opcode, operands, depth: 0 });
        Ok(())
    }

    fn operand(&mut self, body: &mut Body<'_>, depth: usize) -> Result<Operand> {
        let line = self.line();
        match self.peek() {
            Some(Token::Mark(open @ ('{' | '('))) => {
                if depth > 2 {
                    return Err(Error::at(line, "operands nest too deep"));
                }
                self.at += 1;
                let close = if open == '{' { '}' } else { ')' };
                let mut inner = Vec::new();
                while !self.take(close) {
                    inner.push(self.operand(body, depth + 1)?);
                    if !self.take(',') {
                        self.expect(close)?;
                        break;
                    }
                }
                Ok(Operand::Vector(inner))
            }
            Some(Token::Mark('[')) => {
                self.at += 1;
                let address = self.address(body)?;
                self.expect(']')?;
                Ok(address)
            }
            Some(Token::Mark('!')) => {
                self.at += 1;
                let name = self.word("a predicate")?;
                let register = body.register(name);
                register.map(Operand::Not).ok_or_else(|| Error::at(line, format!("`{name}` is not declared")))
            }
            Some(Token::Mark('-') | Token::Number(_)) => Ok(Operand::Literal(self.literal()?)),
            Some(Token::Word(name)) => {
                self.at += 1;
                let first = match body.register(name) {
                    Some(register) => Operand::Register(register),
                    None if name == "_" => Operand::Sink,
                    None if name.starts_with('%') => Operand::Special(name.to_owned()),
                    None if name == "WARP_SZ" => Operand::Literal(super::Literal::Integer(32)),
                    None => Operand::Symbol(body.symbol(name), self.offset()?),
                };
                if self.take('|') {
                    return Ok(Operand::Pair(Box::new(first), Box::new(self.operand(body, depth + 1)?)));
                }
                Ok(first)
            }
            _ => self.unexpected("an operand"),
        }
    }

    /// What stands between brackets.
    fn address(&mut self, body: &Body<'_>) -> Result<Operand> {
        let line = self.line();
        let base = match self.peek() {
            Some(Token::Word(name)) => {
                self.at += 1;
                match body.register(name) {
                    Some(register) => Base::Register(register),
                    None if name.starts_with('%') => {
                        return Err(Error::at(line, format!("the register `{name}` is not declared")));
                    }
                    None => Base::Symbol(body.symbol(name)),
                }
            }
            _ => return Ok(Operand::Address(Base::Absolute, self.integer()?)),
        };
        Ok(Operand::Address(base, self.offset()?))
    }

    /// `+16`, `+-4`, `-4`, or nothing.
    fn offset(&mut self) -> Result<i64> {
        if self.take('+') || self.peek() == Some(Token::Mark('-')) { self.integer() } else { Ok(0) }
    }
}

impl Body<'_> {
    /// The innermost register of a name.
    fn register(&self, name: &str) -> Option<RegisterId> {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let mut scope = Some(self.scope);
        while let Some(at) = scope {
            let known = &self.scopes[at];
            if let Some(&register) = known.registers.get(name) {
                return Some(register);
            }
            // `%rd1` may be number 1 of `%rd`, and number 11 of `%r` may be number 1 of `%r1`.
            for split in name.len() - digits..name.len() {
                let (prefix, number) = name.split_at(split);
                if let Some(&(first, count)) = known.ranges.get(prefix)
                    && let Ok(number) = number.parse::<u32>()
                    && number < count
                {
                    return Some(RegisterId(first + number));
                }
            }
            scope = known.outer;
        }
        None
    }

    /// The unique name of a variable.
    fn symbol(&self, name: &str) -> String {
        let mut scope = Some(self.scope);
        while let Some(at) = scope {
            if let Some(unique) = self.scopes[at].renamed.get(name) {
                return unique.clone();
            }
            scope = self.scopes[at].outer;
        }
        name.to_owned()
    }

    /// The number of a place, plus one.
    fn place(&mut self, place: Place) -> u32 {
        let number = match self.function.places.iter().rposition(|p| *p == place) {
            Some(at) => at,
            None => {
                self.function.places.push(place);
                self.function.places.len() - 1
            }
        } as u32
            + 1;
        self.seen.insert((place.file, place.line, place.column), number);
        number
    }

    /// Labels to numbers of instructions.
    fn resolve(mut self) -> Result<()> {
        for (names, scope, line) in std::mem::take(&mut self.lists) {
            let mut list = Vec::with_capacity(names.len());
            for name in names {
                match self.find(&name, scope) {
                    Some(Target::Instruction(at)) => list.push(at),
                    _ => return Err(Error::at(line, format!("there is no label `{name}`"))),
                }
            }
            self.function.targets.push(list);
        }
        for (instruction, operand, name, scope) in std::mem::take(&mut self.uses) {
            let target = self.find(&name, scope);
            let instruction = &mut self.function.body[instruction];
            instruction.operands[operand] = match target {
                Some(Target::Instruction(at)) => Operand::Label(at),
                Some(Target::List(list)) => Operand::Targets(list),
                None => return Err(Error::at(instruction.line, format!("there is no label `{name}`"))),
            };
        }
        Ok(())
    }

    fn find(&self, name: &str, scope: usize) -> Option<Target> {
        let mut scope = Some(scope);
        while let Some(at) = scope {
            if let Some(&target) = self.scopes[at].labels.get(name) {
                return Some(target);
            }
            scope = self.scopes[at].outer;
        }
        None
    }
}
