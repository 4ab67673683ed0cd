//! Files of weights as named tensors: safetensors, PyTorch's `.bin`, GGUF.
//!
//! Each format has a reader that takes the whole content of a file and says where its tensors lie, or why it is refused.
//! The files are memory-mapped and tensors converted a few rows at a time, so that reading takes no memory but the
//! destination's.

mod encoding;
pub mod gguf;
mod k_quants;
mod pickle;
pub mod safetensors;
mod stored;
pub mod torch;
mod writer;

pub use encoding::{Encoding, KQuant, Opaque};
pub(crate) use stored::lone_gguf;
pub use stored::{Format, Tensors};
pub use writer::{Piece, Writer};

use std::ops::Range;

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Type of its elements.
    pub encoding: Encoding,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file and within it.
    pub bytes: Range<usize>,
    /// Elements between neighbours of each dimension, where they are not those of the shape. All of them lie in `bytes`.
    pub strides: Option<Vec<usize>>,
}

impl TensorEntry {
    /// Elements of one row: all dimensions but the first.
    pub fn row(&self) -> usize {
        self.shape.iter().skip(1).fold(1, |product, n| product.saturating_mul(*n))
    }

    /// Number of rows; a scalar has one.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        if self.shape.contains(&0) { 0 } else { self.rows().saturating_mul(self.row()) }
    }

    /// Reads rows out of the content of the file. `None` when they are not whole blocks of a quantised type.
    fn decode(&self, file: &[u8], rows: Range<usize>, values: &mut [f32]) -> Option<()> {
        let bytes = &file[self.bytes.clone()];
        let Some(strides) = &self.strides else {
            let [begin, end] = [rows.start, rows.end].map(|row| self.encoding.bytes(row * self.row()));
            self.encoding.decode(&bytes[begin?..end?], values);
            return Some(());
        };
        let size = self.encoding.bytes(1)?;
        let mut place = vec![0; self.shape.len()];
        for (i, value) in values.iter_mut().enumerate() {
            let mut rest = i + rows.start * self.row();
            for (index, extent) in place.iter_mut().zip(&self.shape).rev() {
                *index = rest % extent;
                rest /= extent;
            }
            let at = size * place.iter().zip(strides).map(|(index, stride)| index * stride).sum::<usize>();
            self.encoding.decode(&bytes[at..at + size], std::slice::from_mut(value));
        }
        Some(())
    }
}
