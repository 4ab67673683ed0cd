//! Literals: PTX manual, section "Constants".

use super::syntax::{Literal, Type};
use crate::error::{Error, Result};

/// Reads an unsigned literal as it is written.
pub(super) fn literal(text: &str, line: u32) -> Result<Literal> {
    let bad = || Error::at(line, format!("`{text}` is not a number"));
    let bits = |digits: &str, length: usize| {
        if digits.len() == length { u64::from_str_radix(digits, 16).map_err(|_| bad()) } else { Err(bad()) }
    };
    let integer = |digits: &str, radix| u64::from_str_radix(digits, radix).map_err(|_| bad());
    let trimmed = text.trim_end_matches('U');
    let is = |prefix: &str| text.len() >= 2 && text[..2].eq_ignore_ascii_case(prefix);
    Ok(Literal::Integer(if is("0f") {
        return Ok(Literal::F32(bits(&text[2..], 8)? as u32));
    } else if is("0d") {
        return Ok(Literal::F64(bits(&text[2..], 16)?));
    } else if is("0x") {
        integer(&trimmed[2..], 16)?
    } else if is("0b") {
        integer(&trimmed[2..], 2)?
    } else if text.contains(['.', 'e', 'E']) {
        return Ok(Literal::F64(text.parse::<f64>().map_err(|_| bad())?.to_bits()));
    } else if trimmed.len() > 1 && trimmed.starts_with('0') {
        integer(trimmed, 8)?
    } else {
        integer(trimmed, 10)?
    } as i64))
}

impl Literal {
    /// The literal with a minus in front.
    pub(super) fn negated(self) -> Self {
        match self {
            Self::Integer(v) => Self::Integer(v.wrapping_neg()),
            Self::F32(v) => Self::F32(v ^ 1 << 31),
            Self::F64(v) => Self::F64(v ^ 1 << 63),
        }
    }

    /// Its bits as a value of a type, in the low bits; `None` if the two do not go together.
    pub fn bits(self, ty: Type) -> Option<u64> {
        match (self, ty) {
            (Self::Integer(v), Type::F(4)) => Some(u64::from((v as f32).to_bits())),
            (Self::Integer(v), Type::F(8)) => Some((v as f64).to_bits()),
            (Self::Integer(v), _) => match ty.size() {
                0 => Some(u64::from(v != 0)),
                size @ (1 | 2 | 4) => Some(v as u64 & ((1 << (8 * size)) - 1)),
                _ => Some(v as u64),
            },
            (Self::F32(v), Type::F(4) | Type::B(4) | Type::Tf32) => Some(u64::from(v)),
            (Self::F32(v), Type::F(8)) => Some(f64::from(f32::from_bits(v)).to_bits()),
            (Self::F64(v), Type::F(4) | Type::Tf32) => Some(u64::from((f64::from_bits(v) as f32).to_bits())),
            (Self::F64(v), Type::F(8) | Type::B(8)) => Some(v),
            (Self::F32(_) | Self::F64(_), _) => None,
        }
    }
}
