//! One file of tensors being written, in any format.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::gguf::{self, MetadataValue};
use super::{Encoding, Format, safetensors, torch};
use crate::error::{Error, Result};
use crate::files::Staged;

/// Elements converted at once: 256 KiB of f32, a whole number of any blocks.
const CHUNK: usize = 1 << 16;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its name in the file.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// The type in which it is stored.
    pub encoding: Encoding,
}

impl Piece {
    /// Its bytes in the file.
    ///
    /// # Errors
    /// The user's, when its rows are no whole blocks of the type.
    pub fn bytes(&self) -> Result<usize> {
        let row = self.shape.last().copied().unwrap_or(1);
        let bytes = self.encoding.bytes(row).and_then(|_| self.encoding.bytes(self.shape.iter().product()));
        bytes.ok_or_else(|| {
            let (name, encoding) = (&self.name, self.encoding);
            Error::user(format!(
                "tensor `{name}` has rows of {row} elements, no whole blocks of {encoding}: use another type"
            ))
        })
    }
}

/// A file that takes its tensors one after the other. Dropped before [`Writer::finish`], it vanishes.
pub struct Writer {
    path: PathBuf,
    out: Out,
    pieces: std::vec::IntoIter<Piece>,
}

enum Out {
    Safetensors(Staged),
    Torch(Box<torch::StorageWriter<Staged>>),
    Gguf(Staged),
}

impl Writer {
    /// Begins the file `path` of `pieces`; `metadata` are a GGUF file's keys.
    ///
    /// # Errors
    /// When the folder cannot be written, or a piece's type does not fit its shape or the format.
    pub fn create(path: &Path, format: Format, pieces: Vec<Piece>, metadata: &[(&str, MetadataValue)]) -> Result<Self> {
        pieces.iter().try_for_each(|piece| piece.bytes().map(drop))?;
        let refuse = |why: String| Error::user(format!("{}: {why}", path.display()));
        let all = || pieces.iter().map(|p| (p.name.as_str(), &p.shape[..], p.encoding));
        let mut staged = Staged::create(path)?;
        let out = match format {
            Format::Safetensors => {
                staged.append(&safetensors::write_header(all()).map_err(refuse)?)?;
                Out::Safetensors(staged)
            }
            Format::Torch => {
                let writer = torch::StorageWriter::new(staged, &all().collect::<Vec<_>>());
                Out::Torch(Box::new(writer.map_err(|e| Error::io("write", path, &e))?))
            }
            Format::Gguf => {
                staged.append(&gguf::write_header(metadata, &all().collect::<Vec<_>>()).map_err(refuse)?)?;
                Out::Gguf(staged)
            }
        };
        Ok(Self { path: path.to_path_buf(), out, pieces: pieces.into_iter() })
    }

    /// Writes the next piece.
    ///
    /// # Errors
    /// The user's, when a finite value is too large for the type; the machine's, when it is not the next piece's values
    /// or the disk is full.
    pub fn append(&mut self, values: &[f32]) -> Result<()> {
        let piece = self.pieces.next().ok_or_else(|| Error::machine("more tensors than were announced"))?;
        if values.len() != piece.shape.iter().product::<usize>() {
            let (given, name) = (values.len(), &piece.name);
            return Err(Error::machine(format!("{given} values for tensor `{name}` of shape {:?}", piece.shape)));
        }
        let size = piece.bytes()?;
        let failed = |e| Error::io("write", &self.path, &e);
        let out: &mut dyn Write = match &mut self.out {
            Out::Safetensors(staged) | Out::Gguf(staged) => staged,
            Out::Torch(writer) => {
                writer.next(size).map_err(failed)?;
                &mut **writer
            }
        };
        let mut bytes = Vec::new();
        for chunk in values.chunks(CHUNK) {
            bytes.clear();
            if !piece.encoding.encode(chunk, &mut bytes) {
                let (name, encoding) = (&piece.name, piece.encoding);
                return Err(Error::user(format!("tensor `{name}` holds values too large for {encoding}: use float32")));
            }
            out.write_all(&bytes).map_err(failed)?;
        }
        if matches!(self.out, Out::Gguf(_)) {
            let padding = size.next_multiple_of(gguf::ALIGNMENT) - size;
            self.out_mut().write_all(&vec![0; padding]).map_err(|e| Error::io("write", &self.path, &e))?;
        }
        Ok(())
    }

    fn out_mut(&mut self) -> &mut dyn Write {
        match &mut self.out {
            Out::Safetensors(staged) | Out::Gguf(staged) => staged,
            Out::Torch(writer) => &mut **writer,
        }
    }

    /// Ends the file. It takes its place with [`Staged::commit`].
    ///
    /// # Errors
    /// The machine's, when pieces are missing or the disk is full.
    pub fn finish(self) -> Result<Staged> {
        if self.pieces.len() > 0 {
            return Err(Error::machine("fewer tensors than were announced"));
        }
        let staged = match self.out {
            Out::Safetensors(staged) | Out::Gguf(staged) => staged,
            Out::Torch(writer) => writer.finish().map_err(|e| Error::io("write", &self.path, &e))?,
        };
        staged.sync()?;
        Ok(staged)
    }
}
