//! The pickle in a PyTorch file, by a machine that can build tensors and nothing else.
//!
//! A pickle is a program. This machine knows the opcodes that `torch.save` emits for a dictionary of tensors (protocols 2
//! to 4 of Python's `pickle`), and of the names that a pickle may call the few below, none of which does anything. Its
//! values lie in flat lists and refer to each other by number, so that no depth of nesting costs stack.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::{Encoding, Opaque};
use crate::tensor::Dtype;

/// Tensors, at most. Naming one again takes a few bytes of a pickle, and far more of memory.
const MAX_VIEWS: usize = 1 << 16;
/// Values on the stack and in memory, tuples and dictionaries, at most, each: a byte makes one, and it takes dozens.
/// A tensor needs about ten.
const MAX_VALUES: usize = 1 << 20;
/// Steps, at most: each may leave a value in a tuple or a dictionary. A tensor needs less than fifty.
const MAX_STEPS: usize = 1 << 22;
/// Bytes of a storage's name, at most: PyTorch's are numbers.
const MAX_KEY: usize = 64;
/// Dimensions of a tensor, at most.
const MAX_DIMENSIONS: usize = 8;

/// A tensor as a pickle describes it: a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The storage: the name of its file in the archive.
    pub key: String,
    /// Type of the storage's elements.
    pub encoding: Encoding,
    /// Number of the storage's elements.
    pub numel: usize,
    /// Elements before the first of the tensor.
    pub offset: usize,
    /// Shape.
    pub shape: Vec<usize>,
    /// Elements between neighbours of each dimension.
    pub strides: Vec<usize>,
}

/// Reads a pickle of a dictionary of tensors.
///
/// # Errors
/// The reason for which it is refused: another opcode, a name that tensors do not need, another structure, an early end.
pub fn read(pickle: &[u8]) -> Result<BTreeMap<String, View>, String> {
    Machine { code: pickle, ..Machine::default() }.run()
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Encoding),
}

impl Global {
    fn of(module: &str, name: &str) -> Result<Self, String> {
        let opaque = |name, bytes: usize| Self::Storage(Encoding::Opaque(Opaque { name, block: 1, bits: 8 * bytes }));
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(Encoding::F32),
            ("torch", "BFloat16Storage") => Self::Storage(Encoding::BF16),
            ("torch", "HalfStorage") => Self::Storage(Encoding::F16),
            ("torch", "DoubleStorage") => Self::Storage(Encoding::Plain(Dtype::F64)),
            ("torch", "LongStorage") => opaque("I64", 8),
            ("torch", "IntStorage") => opaque("I32", 4),
            ("torch", "ShortStorage") => opaque("I16", 2),
            ("torch", "CharStorage") => opaque("I8", 1),
            ("torch", "ByteStorage") => opaque("U8", 1),
            ("torch", "BoolStorage") => opaque("BOOL", 1),
            _ => {
                return Err(format!(
                    "its pickle names `{module}.{name}`, which tensors do not need; nothing of it was run"
                ));
            }
        })
    }
}

/// A value on the stack. The larger ones are numbers of places in the machine's lists.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    None,
    Bool,
    Int(i64),
    Text(Range<usize>),
    Tuple(usize),
    List,
    Dict(usize),
    Global(Global),
    Storage(usize),
    View(usize),
}

#[derive(Default)]
struct Machine<'a> {
    code: &'a [u8],
    place: usize,
    stack: Vec<Item>,
    marks: Vec<usize>,
    memo: HashMap<u32, Item>,
    tuples: Vec<Vec<Item>>,
    dicts: Vec<Vec<(Item, Item)>>,
    storages: Vec<(Encoding, Range<usize>, usize)>,
    views: Vec<View>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<BTreeMap<String, View>, String> {
        for _ in 0..MAX_STEPS {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.result();
            }
            self.step(opcode)?;
            let counts = [self.stack.len(), self.marks.len(), self.memo.len(), self.tuples.len(), self.dicts.len()];
            if counts.into_iter().any(|count| count > MAX_VALUES) {
                return Err(format!("its pickle makes more than {MAX_VALUES} values; {MAX_VIEWS} tensors need fewer"));
            }
        }
        Err(format!("its pickle has more than {MAX_STEPS} steps; {MAX_VIEWS} tensors need fewer"))
    }

    /// The dictionary on top of the stack.
    fn result(mut self) -> Result<BTreeMap<String, View>, String> {
        let Item::Dict(dict) = self.pop()? else {
            return Err("its pickle is not a dictionary of tensors: save model.state_dict() alone".into());
        };
        let mut views = BTreeMap::new();
        for (key, value) in &self.dicts[dict] {
            let (Item::Text(key), Item::View(view)) = (key, value) else {
                return Err(
                    "its pickle holds something other than tensors by name: save model.state_dict() alone".into()
                );
            };
            let name = self.text(key)?.to_string();
            if views.insert(name.clone(), self.views[*view].clone()).is_some() {
                return Err(format!("tensor `{name}` occurs twice"));
            }
        }
        Ok(views)
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            // PROTO, FRAME
            0x80 => match self.byte()? {
                2..=5 => {}
                other => return Err(format!("its pickle has protocol {other}")),
            },
            0x95 => {
                self.take(8)?;
            }
            // EMPTY_DICT, EMPTY_TUPLE, EMPTY_LIST, NONE, NEWTRUE, NEWFALSE
            b'}' => self.push_dict(),
            b')' => self.push_tuple(Vec::new()),
            b']' => self.stack.push(Item::List),
            b'N' => self.stack.push(Item::None),
            0x88 | 0x89 => self.stack.push(Item::Bool),
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.stack.push(Item::Int(number.into()));
            }
            b'K' => {
                let number = self.byte()?;
                self.stack.push(Item::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.stack.push(Item::Int(number.into()));
            }
            0x8a => self.long()?,
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.push_text(length as usize)?;
            }
            0x8c => {
                let length = self.byte()?;
                self.push_text(length.into())?;
            }
            // MARK, TUPLE, TUPLE1 to TUPLE3
            b'(' => self.marks.push(self.stack.len()),
            b't' => {
                let items = self.since_mark()?;
                self.push_tuple(items);
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let from =
                    self.stack.len().checked_sub(count).filter(|from| *from >= self.floor()).ok_or_else(short)?;
                let items = self.stack.split_off(from);
                self.push_tuple(items);
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let place = self.byte()?;
                self.remember(place.into())?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.array()?);
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let place = self.byte()?;
                self.recall(place.into())?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.array()?);
                self.recall(place)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = Global::of(self.text(&module)?, self.text(&name)?)?;
                self.stack.push(Item::Global(global));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Item::Text(module), Item::Text(name)) = (module, name) else { return Err(structure()) };
                let global = Global::of(self.text(&module)?, self.text(&name)?)?;
                self.stack.push(Item::Global(global));
            }
            // BINPERSID, REDUCE, BUILD
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            // The attributes of a dictionary, such as PyTorch's `_metadata`, do not touch its tensors.
            b'b' => {
                self.pop()?;
                match self.stack.last() {
                    Some(Item::Dict(_)) => {}
                    _ => return Err(structure()),
                }
            }
            // SETITEM, SETITEMS
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(items)?;
            }
            other => {
                return Err(format!("its pickle has opcode {other:#04x}, which tensors do not need; nothing was run"));
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<Range<usize>, String> {
        let end = self.place.checked_add(count).filter(|end| *end <= self.code.len());
        let range = self.place..end.ok_or("its pickle ends early")?;
        self.place = range.end;
        Ok(range)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let range = self.take(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.code[range]);
        Ok(bytes)
    }

    /// The rest of a line of text.
    fn line(&mut self) -> Result<Range<usize>, String> {
        let length = self.code[self.place..].iter().position(|b| *b == b'\n').ok_or("its pickle ends early")?;
        let line = self.take(length)?;
        self.place += 1;
        Ok(line)
    }

    fn text(&self, range: &Range<usize>) -> Result<&str, String> {
        std::str::from_utf8(&self.code[range.clone()]).map_err(|_| "its pickle has a text that is not UTF-8".into())
    }

    fn push_text(&mut self, length: usize) -> Result<(), String> {
        let range = self.take(length)?;
        self.stack.push(Item::Text(range));
        Ok(())
    }

    /// An integer of up to 8 bytes, in two's complement.
    fn long(&mut self) -> Result<(), String> {
        let count = usize::from(self.byte()?);
        let range = self.take(count)?;
        let bytes = self.code[range].to_vec();
        if bytes.len() > 8 {
            return Err("its pickle has an integer of more than 64 bits".into());
        }
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut number = [sign; 8];
        number[..bytes.len()].copy_from_slice(&bytes);
        self.stack.push(Item::Int(i64::from_le_bytes(number)));
        Ok(())
    }

    /// Where the values after the last mark begin: those before it are out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Item, String> {
        if self.stack.len() <= self.floor() {
            return Err(short());
        }
        self.stack.pop().ok_or_else(short)
    }

    fn since_mark(&mut self) -> Result<Vec<Item>, String> {
        let from = self.marks.pop().ok_or_else(short)?;
        Ok(self.stack.split_off(from))
    }

    fn push_tuple(&mut self, items: Vec<Item>) {
        self.tuples.push(items);
        self.stack.push(Item::Tuple(self.tuples.len() - 1));
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Item::Dict(self.dicts.len() - 1));
    }

    fn remember(&mut self, place: u32) -> Result<(), String> {
        let top = self.stack.last().ok_or_else(short)?;
        self.memo.insert(place, top.clone());
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let value = self.memo.get(&place).ok_or("its pickle recalls what it has not put down")?;
        self.stack.push(value.clone());
        Ok(())
    }

    fn set(&mut self, items: Vec<Item>) -> Result<(), String> {
        let (Some(Item::Dict(dict)), true) = (self.stack.last(), items.len().is_multiple_of(2)) else {
            return Err(structure());
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            self.dicts[*dict].push((key, value));
        }
        Ok(())
    }

    /// A storage is what a pickle refers to by `("storage", type, key, device, elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let Item::Tuple(id) = self.pop()? else { return Err(structure()) };
        let [
            Item::Text(kind),
            Item::Global(Global::Storage(encoding)),
            Item::Text(key),
            Item::Text(_),
            Item::Int(numel),
        ] = &self.tuples[id][..]
        else {
            return Err(structure());
        };
        if self.text(kind)? != "storage" || key.len() > MAX_KEY {
            return Err(structure());
        }
        let numel = usize::try_from(*numel).map_err(|_| structure())?;
        self.storages.push((*encoding, key.clone(), numel));
        self.stack.push(Item::Storage(self.storages.len() - 1));
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (Item::Tuple(arguments), Item::Global(global)) = (self.pop()?, self.pop()?) else {
            return Err(structure());
        };
        match (global, &self.tuples[arguments][..]) {
            (Global::OrderedDict, []) => self.push_dict(),
            (
                Global::RebuildTensor,
                [Item::Storage(storage), Item::Int(offset), Item::Tuple(shape), Item::Tuple(strides), ..],
            ) => {
                if self.views.len() == MAX_VIEWS {
                    return Err(format!("its pickle makes more than {MAX_VIEWS} tensors"));
                }
                let (encoding, key, numel) = &self.storages[*storage];
                let view = View {
                    key: self.text(key)?.to_string(),
                    encoding: *encoding,
                    numel: *numel,
                    offset: usize::try_from(*offset).map_err(|_| structure())?,
                    shape: self.sizes(*shape)?,
                    strides: self.sizes(*strides)?,
                };
                self.views.push(view);
                self.stack.push(Item::View(self.views.len() - 1));
            }
            (Global::RebuildParameter, [view @ Item::View(_), ..]) => {
                let view = view.clone();
                self.stack.push(view);
            }
            _ => return Err(structure()),
        }
        Ok(())
    }

    fn sizes(&self, tuple: usize) -> Result<Vec<usize>, String> {
        let size = |value: &Item| match value {
            Item::Int(n) => usize::try_from(*n).map_err(|_| structure()),
            _ => Err(structure()),
        };
        match &self.tuples[tuple][..] {
            sizes if sizes.len() <= MAX_DIMENSIONS => sizes.iter().map(size).collect(),
            _ => Err(structure()),
        }
    }
}

fn short() -> String {
    "its pickle takes more from its stack than it has put there".into()
}

fn structure() -> String {
    "its pickle does not build tensors as torch.save does".into()
}

/// The pickle of a dictionary of contiguous tensors, each in a storage of its own whose key is its number.
///
/// # Errors
/// Names the tensor whose type cannot be written.
pub fn write(tensors: &[(&str, &[usize], Encoding)]) -> Result<Vec<u8>, String> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (number, (name, shape, encoding)) in tensors.iter().enumerate() {
        let storage = match *encoding {
            Encoding::BF16 => "BFloat16Storage",
            Encoding::F16 => "HalfStorage",
            Encoding::F32 => "FloatStorage",
            other => return Err(format!("tensor `{name}`: a PyTorch file cannot be written with {other}")),
        };
        push_text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        push_text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}\n").as_bytes());
        push_text(&mut out, &number.to_string());
        push_text(&mut out, "cpu");
        push_int(&mut out, shape.iter().product());
        out.extend(b"tQK\x00(");
        shape.iter().for_each(|n| push_int(&mut out, *n));
        out.extend(b"t(");
        (0..shape.len()).for_each(|i| push_int(&mut out, shape[i + 1..].iter().product()));
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    Ok(out)
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_int(out: &mut Vec<u8>, number: usize) {
    match i32::try_from(number) {
        Ok(number) => {
            out.push(b'J');
            out.extend(number.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend((number as i64).to_le_bytes());
        }
    }
}
