//! GGUF files, versions 2 and 3: what llama.cpp reads.
//!
//! Format (its specification in ggml's documentation): `GGUF`, a version, counts of tensors and of keys; the keys with
//! their typed values; name, dimensions, type and offset of each tensor; then the data, each tensor at a multiple of the
//! alignment. All numbers are little-endian, and dimensions are given with the fastest first.

use std::collections::BTreeMap;

use super::encoding::KQuant;
use super::{Encoding, Opaque, TensorEntry};
use crate::tensor::Dtype;

const MAGIC: &[u8; 4] = b"GGUF";
/// Bytes in front of the data, at most: vocabularies of half a million tokens take 20 MB.
const MAX_HEADER_BYTES: usize = 1 << 28;
/// Tensors and keys, at most.
const MAX_COUNT: u64 = 1 << 20;
/// Elements of an array, at most: more than any vocabulary has.
const MAX_ARRAY: u64 = 1 << 24;
/// Where tensors begin, unless `general.alignment` says otherwise.
pub const ALIGNMENT: usize = 32;

/// The keys of a file.
pub type Metadata = BTreeMap<String, MetadataValue>;

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// An integer of any width.
    Int(i128),
    /// A float of either width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// An array of integers.
    Ints(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f32>),
    /// An array of texts.
    Texts(Vec<String>),
}

/// Reads the file whose whole content is `file`: where its tensors lie, and its keys.
///
/// # Errors
/// The reason for which the file is refused: a length, count or offset beyond its end or the bounds above, tensors that
/// overlap or leave gaps, bytes after the last, a type that is not known, a name that occurs twice.
pub fn read(file: &[u8]) -> Result<(BTreeMap<String, TensorEntry>, Metadata), String> {
    let mut reader = Reader { file, place: 0 };
    if reader.take(4)? != MAGIC {
        return Err("the file does not begin with GGUF".into());
    }
    match reader.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => return Err("the file is big-endian".into()),
        version => return Err(format!("version {version} is not supported: must be 2 or 3")),
    }
    let tensors = reader.count("tensors", MAX_COUNT)?;
    let keys = reader.count("keys", MAX_COUNT)?;
    let mut metadata = Metadata::new();
    for _ in 0..keys {
        let key = reader.text()?;
        let value = reader.value().map_err(|why| format!("key `{key}`: {why}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("key `{key}` occurs twice"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(MetadataValue::Int(n)) if (1..=1 << 20).contains(n) && n.count_ones() == 1 => *n as usize,
        Some(other) => return Err(format!("general.alignment = {other:?}: must be a power of two")),
    };
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(reader.tensor()?);
    }
    let start = reader.place.next_multiple_of(alignment);
    Ok((places(infos, start, alignment, file.len())?, metadata))
}

/// Name, type, shape and offset of a tensor, as the file gives them.
struct Info {
    name: String,
    encoding: Encoding,
    shape: Vec<usize>,
    offset: u64,
    bytes: usize,
}

/// Checks that the tensors tile the data, which begins at `start` and ends with the file of `length` bytes.
fn places(
    mut infos: Vec<Info>,
    start: usize,
    alignment: usize,
    length: usize,
) -> Result<BTreeMap<String, TensorEntry>, String> {
    infos.sort_by_key(|info| (info.offset, info.bytes));
    let mut entries = BTreeMap::new();
    let mut end = start;
    for Info { name, encoding, shape, offset, bytes } in infos {
        let begin = end.next_multiple_of(alignment);
        let at = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
        if at != Some(begin) {
            let expected = begin - start;
            return Err(format!(
                "tensor `{name}` lies at offset {offset} of the data, and the one before ends at {expected}"
            ));
        }
        end = begin.checked_add(bytes).filter(|end| *end <= length).ok_or_else(|| {
            format!("tensor `{name}` takes {bytes} bytes from {begin}, but the file ends at {length}")
        })?;
        let entry = TensorEntry { encoding, shape, bytes: begin..end, strides: None };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format!("tensor `{name}` occurs twice"));
        }
    }
    match length > end.next_multiple_of(alignment) {
        true => Err(format!("{} bytes follow the last tensor", length - end)),
        false => Ok(entries),
    }
}

/// A place in the file, never beyond its end.
struct Reader<'a> {
    file: &'a [u8],
    place: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.place.checked_add(count).filter(|end| *end <= self.file.len());
        let end = end.ok_or_else(|| format!("the file ends within its header, at byte {}", self.file.len()))?;
        if end > MAX_HEADER_BYTES {
            return Err(format!("the header is longer than {MAX_HEADER_BYTES} bytes"));
        }
        let bytes = &self.file[self.place..end];
        self.place = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of at most `most`, and of no more than the bytes that are left.
    fn count(&mut self, what: &str, most: u64) -> Result<usize, String> {
        let (count, left) = (self.u64()?, (self.file.len() - self.place) as u64);
        match count <= most.min(left) {
            true => Ok(count as usize),
            false => Err(format!("the file claims {count} {what}, with {left} bytes left")),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.count("bytes of a text", MAX_HEADER_BYTES as u64)?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a text is not UTF-8".into())
    }

    fn value(&mut self) -> Result<MetadataValue, String> {
        let kind = self.u32()?;
        if kind == 9 { self.values() } else { self.scalar(kind) }
    }

    fn scalar(&mut self, kind: u32) -> Result<MetadataValue, String> {
        Ok(match kind {
            0 => MetadataValue::Int(u8::from_le_bytes(self.array()?).into()),
            1 => MetadataValue::Int(i8::from_le_bytes(self.array()?).into()),
            2 => MetadataValue::Int(u16::from_le_bytes(self.array()?).into()),
            3 => MetadataValue::Int(i16::from_le_bytes(self.array()?).into()),
            4 => MetadataValue::Int(self.u32()?.into()),
            5 => MetadataValue::Int(i32::from_le_bytes(self.array()?).into()),
            6 => MetadataValue::Float(f32::from_le_bytes(self.array()?).into()),
            7 => MetadataValue::Bool(self.array::<1>()? != [0]),
            8 => MetadataValue::Text(self.text()?),
            10 => MetadataValue::Int(self.u64()?.into()),
            11 => MetadataValue::Int(i64::from_le_bytes(self.array()?).into()),
            12 => MetadataValue::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value of the unknown type {other}")),
        })
    }

    /// An array. Arrays of arrays, which no model has, are refused, so that there is nothing to recurse into.
    fn values(&mut self) -> Result<MetadataValue, String> {
        let kind = self.u32()?;
        let count = self.count("elements of an array", MAX_ARRAY)?;
        match kind {
            0..=5 | 7 | 10 | 11 => {
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(match self.scalar(kind)? {
                        MetadataValue::Int(n) => i64::try_from(n).map_err(|_| format!("{n} is too large"))?,
                        other => i64::from(other == MetadataValue::Bool(true)),
                    });
                }
                Ok(MetadataValue::Ints(values))
            }
            6 | 12 => {
                let mut values = Vec::new();
                for _ in 0..count {
                    let MetadataValue::Float(number) = self.scalar(kind)? else { continue };
                    values.push(number as f32);
                }
                Ok(MetadataValue::Floats(values))
            }
            8 => (0..count).map(|_| self.text()).collect::<Result<_, _>>().map(MetadataValue::Texts),
            9 => Err("an array of arrays is not supported".into()),
            other => Err(format!("an array of the unknown type {other}")),
        }
    }

    fn tensor(&mut self) -> Result<Info, String> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(format!("tensor `{name}` has {dimensions} dimensions, more than 4"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).map_err(|_| format!("tensor `{name}` is too large"))?);
        }
        // A block of a quantised type lies within a row.
        let (kind, row) = (self.u32()?, shape.first().copied().unwrap_or(1));
        shape.reverse();
        let encoding = encoding_of(kind).ok_or_else(|| format!("tensor `{name}` has the unknown type {kind}"))?;
        let elements = shape.iter().try_fold(1_usize, |product, n| product.checked_mul(*n));
        let bytes = encoding.bytes(row).and(elements).and_then(|elements| encoding.bytes(elements));
        let bytes =
            bytes.ok_or_else(|| format!("tensor `{name}` of shape {shape:?} cannot be stored as {encoding}"))?;
        Ok(Info { name, encoding, shape, offset: self.u64()?, bytes })
    }
}

/// ggml's types and their numbers.
const TYPES: [(u32, Encoding); 22] = {
    const fn opaque(name: &'static str, block: usize, bytes: usize) -> Encoding {
        Encoding::Opaque(Opaque { name, block, bits: 8 * bytes })
    }
    [
        (0, Encoding::F32),
        (1, Encoding::F16),
        (2, Encoding::Q4_0),
        (3, Encoding::Q4_1),
        (6, opaque("Q5_0", 32, 22)),
        (7, opaque("Q5_1", 32, 24)),
        (8, Encoding::Q8_0),
        (9, opaque("Q8_1", 32, 36)),
        (10, Encoding::K(KQuant::Q2)),
        (11, Encoding::K(KQuant::Q3)),
        (12, Encoding::K(KQuant::Q4)),
        (13, Encoding::K(KQuant::Q5)),
        (14, Encoding::K(KQuant::Q6)),
        (15, opaque("Q8_K", 256, 292)),
        (20, opaque("IQ4_NL", 32, 18)),
        (23, opaque("IQ4_XS", 256, 136)),
        (24, opaque("I8", 1, 1)),
        (25, opaque("I16", 1, 2)),
        (26, opaque("I32", 1, 4)),
        (27, opaque("I64", 1, 8)),
        (28, Encoding::Plain(Dtype::F64)),
        (30, Encoding::BF16),
    ]
};

/// The type that ggml has the number `kind` for.
fn encoding_of(kind: u32) -> Option<Encoding> {
    TYPES.iter().find(|(number, _)| *number == kind).map(|(_, encoding)| *encoding)
}

/// The number that ggml has for a type that can be written.
///
/// # Errors
/// Names a type that cannot.
fn number_of(encoding: Encoding) -> Result<u32, String> {
    let number = TYPES.iter().find(|(_, known)| encoding.is_writable() && *known == encoding);
    number.map(|(number, _)| *number).ok_or_else(|| format!("a GGUF file cannot be written with {encoding}"))
}

/// The bytes in front of the data of a file of version 3, padded to the alignment. The data of each tensor, padded too,
/// follow in the order of `tensors`, which gives names, shapes and types.
///
/// # Errors
/// Names the tensor whose type cannot be written.
pub fn write_header(
    metadata: &[(&str, MetadataValue)],
    tensors: &[(&str, &[usize], Encoding)],
) -> Result<Vec<u8>, String> {
    let mut out = MAGIC.to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        write_value(&mut out, value);
    }
    let mut offset = 0;
    for (name, shape, encoding) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        let number = number_of(*encoding).map_err(|why| format!("tensor `{name}`: {why}"))?;
        out.extend(number.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        let bytes = encoding.bytes(shape.iter().product()).unwrap_or(0);
        offset += bytes.next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Integers that fit are u32 and floats f32, as llama.cpp asks for.
fn write_value(out: &mut Vec<u8>, value: &MetadataValue) {
    let mut array = |kind: u32, count: usize| {
        out.extend(9_u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        MetadataValue::Int(n) => match u32::try_from(*n) {
            Ok(n) => out.extend([4_u32, n].iter().flat_map(|n| n.to_le_bytes())),
            Err(_) => {
                out.extend(11_u32.to_le_bytes());
                out.extend((*n as i64).to_le_bytes());
            }
        },
        MetadataValue::Float(number) => {
            out.extend(6_u32.to_le_bytes());
            out.extend((*number as f32).to_le_bytes());
        }
        MetadataValue::Bool(truth) => {
            out.extend(7_u32.to_le_bytes());
            out.push(u8::from(*truth));
        }
        MetadataValue::Text(value) => {
            out.extend(8_u32.to_le_bytes());
            text(out, value);
        }
        MetadataValue::Ints(values) => {
            array(5, values.len());
            values.iter().for_each(|n| out.extend((*n as i32).to_le_bytes()));
        }
        MetadataValue::Floats(values) => {
            array(6, values.len());
            values.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        MetadataValue::Texts(values) => {
            array(8, values.len());
            values.iter().for_each(|value| text(out, value));
        }
    }
}

#[cfg(test)]
mod tests;
