//! PTX text to a [`Module`].
//!
//! What nvcc writes from C++ with inline assembly is understood: kernels, their parameters, variables of all spaces,
//! nested scopes of registers and labels, `.loc` and `.file`, device functions whose parameters lie in `.param`.

mod body;
mod lexer;
mod literal;
mod syntax;

pub use syntax::*;

use crate::error::{Error, Result};
use lexer::{Placed, Token};

/// The most registers of one kernel, and the largest variable in bytes: more is a mistake in the text.
const MOST_REGISTERS: usize = 1 << 20;
const LARGEST_VARIABLE: usize = 1 << 30;
/// How deep scopes and lists in braces may nest.
const DEEPEST: usize = 64;

/// Parses a module.
///
/// # Errors
/// Names the line and what was not understood there.
pub fn parse(source: &str) -> Result<Module> {
    let tokens = lexer::tokens(source)?;
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut module = Module::default();
    while parser.peek().is_some() {
        parser.item(&mut module)?;
    }
    Ok(module)
}

/// A place in the list of tokens.
struct Parser<'a> {
    tokens: &'a [Placed<'a>],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.token)
    }

    /// The line of the next token, or of the last.
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn next(&mut self) -> Result<Token<'a>> {
        let token = self.peek().ok_or_else(|| Error::at(self.line(), "the text ends in the middle of a statement"))?;
        self.at += 1;
        Ok(token)
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        Err(match self.peek() {
            Some(token) => Error::at(self.line(), format!("{wanted} expected, found {}", shown(token))),
            None => Error::at(self.line(), format!("{wanted} expected, but the text ends")),
        })
    }

    /// Takes a character if it comes next.
    fn take(&mut self, mark: char) -> bool {
        let there = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, mark: char) -> Result<()> {
        if self.take(mark) { Ok(()) } else { self.unexpected(&format!("`{mark}`")) }
    }

    /// Takes a given word if it comes next.
    fn take_word(&mut self, word: &str) -> bool {
        let there = self.peek() == Some(Token::Word(word));
        self.at += usize::from(there);
        there
    }

    fn word(&mut self, wanted: &str) -> Result<&'a str> {
        if let Some(Token::Word(word)) = self.peek() {
            self.at += 1;
            return Ok(word);
        }
        self.unexpected(wanted)
    }

    fn literal(&mut self) -> Result<Literal> {
        let line = self.line();
        let negative = self.take('-');
        let Some(Token::Number(text)) = self.peek() else { return self.unexpected("a number") };
        self.at += 1;
        let value = literal::literal(text, line)?;
        Ok(if negative { value.negated() } else { value })
    }

    fn integer(&mut self) -> Result<i64> {
        let line = self.line();
        match self.literal()? {
            Literal::Integer(v) => Ok(v),
            _ => Err(Error::at(line, "an integer expected, found a float")),
        }
    }

    /// An integer from 0 to `most`.
    fn bounded(&mut self, what: &str, most: usize) -> Result<usize> {
        let line = self.line();
        let v = self.integer()?;
        usize::try_from(v)
            .ok()
            .filter(|&v| v <= most)
            .ok_or_else(|| Error::at(line, format!("{what} is {v}, and must be from 0 to {most}")))
    }

    /// Passes over everything up to the brace that closes the one before.
    fn skip_block(&mut self) -> Result<()> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Passes over the rest of a line.
    fn skip_line(&mut self, line: u32) {
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    /// Something at the top level.
    fn item(&mut self, module: &mut Module) -> Result<()> {
        let line = self.line();
        let mut external = false;
        loop {
            match self.peek() {
                Some(Token::Word(".visible" | ".weak" | ".common")) => self.at += 1,
                Some(Token::Word(".extern")) => {
                    external = true;
                    self.at += 1;
                }
                _ => break,
            }
        }
        let word = self.word("a directive")?;
        match word {
            ".version" | ".target" => {
                let mut text = String::new();
                while let Some(Placed { token: Token::Word(t) | Token::Number(t), line: l }) = self.tokens.get(self.at)
                {
                    // Several directives may stand in one line.
                    if *l != line || t.starts_with('.') {
                        break;
                    }
                    text.push_str(t);
                    self.at += 1;
                    if self.take(',') {
                        text.push_str(", ");
                    }
                }
                if word == ".version" { module.version = text } else { module.target = text }
            }
            ".address_size" => {
                if self.integer()? != 64 {
                    return Err(Error::at(line, "only .address_size 64 is supported"));
                }
            }
            ".file" => {
                let number = self.bounded("the number of a file", u32::MAX as usize)? as u32;
                let Token::Text(path) = self.next()? else {
                    return Err(Error::at(line, "the path of a file expected in quotes"));
                };
                module.files.push((number, path.to_owned()));
                self.skip_line(line);
            }
            ".section" => {
                self.word("the name of a section")?;
                self.expect('{')?;
                self.skip_block()?;
            }
            ".entry" => {
                let kernel = self.kernel(module, line)?;
                module.kernels.push(kernel);
            }
            ".func" => {
                if let Some(function) = self.device_function(module, line)? {
                    module.functions.push(function);
                }
            }
            ".loc" | ".pragma" => self.skip_line(line),
            ".global" | ".const" | ".shared" => {
                let space = match word {
                    ".global" => Space::Global,
                    ".const" => Space::Const,
                    _ => Space::Shared,
                };
                self.variables(space, external, &mut module.variables)?;
            }
            _ => return Err(Error::at(line, format!("the directive `{word}` is not supported"))),
        }
        Ok(())
    }

    /// Variables after the name of their space, up to and with the semicolon.
    fn variables(&mut self, space: Space, external: bool, to: &mut Vec<Variable>) -> Result<()> {
        let (ty, align, count) = self.type_and_align()?;
        loop {
            to.push(self.variable(space, external, (ty, align, count))?);
            if !self.take(',') {
                return self.expect(';');
            }
        }
    }

    /// `.align 16 .b8`, with attributes between; the third figure is the length of a vector type.
    fn type_and_align(&mut self) -> Result<(Type, Option<usize>, usize)> {
        let (mut align, mut vector) = (None, 1);
        loop {
            let line = self.line();
            match self.word("a type")? {
                ".align" => {
                    let n = self.bounded("an alignment", 1 << 20)?;
                    if !n.is_power_of_two() {
                        return Err(Error::at(line, format!("an alignment of {n} is not a power of two")));
                    }
                    align = Some(n);
                }
                ".ptr" | ".global" | ".const" | ".shared" | ".local" => {}
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".attribute" => {
                    self.expect('(')?;
                    while !self.take(')') {
                        self.next()?;
                    }
                }
                word => match word.strip_prefix('.').and_then(Type::named) {
                    Some(ty) if ty != Type::Pred => return Ok((ty, align, vector)),
                    _ => return Err(Error::at(line, format!("`{word}` is not a type of a variable"))),
                },
            }
        }
    }

    /// The name of a variable, its dimensions and its initial value.
    fn variable(
        &mut self,
        space: Space,
        external: bool,
        (ty, align, vector): (Type, Option<usize>, usize),
    ) -> Result<Variable> {
        let line = self.line();
        let name = self.word("the name of a variable")?.to_owned();
        let (mut size, mut open) = (ty.size() * vector, false);
        while self.take('[') {
            if self.take(']') {
                open = true;
                continue;
            }
            size = size.saturating_mul(self.bounded("the length of an array", LARGEST_VARIABLE)?);
            self.expect(']')?;
        }
        let mut initial = Vec::new();
        if self.take('=') {
            self.initial(ty, &mut initial, 0)?;
            if open {
                size = initial.len();
            }
            if initial.len() > size {
                return Err(Error::at(line, format!("`{name}` begins with more bytes than it has")));
            }
        } else if open {
            if !external {
                return Err(Error::at(line, format!("`{name}` has neither a length nor an initial value")));
            }
            size = 0;
        }
        if size > LARGEST_VARIABLE {
            return Err(Error::at(line, format!("`{name}` is larger than {LARGEST_VARIABLE} bytes")));
        }
        let align = align.unwrap_or(ty.size() * vector);
        Ok(Variable { name, space, size, align, external, initial, line })
    }

    /// An initial value: a number, or several in braces.
    fn initial(&mut self, ty: Type, to: &mut Vec<u8>, depth: usize) -> Result<()> {
        let line = self.line();
        if self.take('{') {
            if depth > DEEPEST {
                return Err(Error::at(line, "braces nest too deep"));
            }
            while !self.take('}') {
                self.initial(ty, to, depth + 1)?;
                if !self.take(',') {
                    return self.expect('}');
                }
            }
            return Ok(());
        }
        if let Some(Token::Word(name)) = self.peek() {
            return Err(Error::at(line, format!("an initial value may not be the address of `{name}`")));
        }
        let bits = self
            .literal()?
            .bits(ty)
            .ok_or_else(|| Error::at(line, "an initial value that does not go with its type"))?;
        to.extend_from_slice(&bits.to_le_bytes()[..ty.size().min(8)]);
        to.resize(to.len() + ty.size().saturating_sub(8), 0);
        Ok(())
    }
}

fn shown(token: Token<'_>) -> String {
    match token {
        Token::Word(t) | Token::Number(t) => format!("`{t}`"),
        Token::Text(t) => format!("\"{t}\""),
        Token::Mark(c) => format!("`{c}`"),
    }
}
