//! PyTorch's `.bin` and `.pt` files: a zip archive of a pickle, `NAME/data.pkl`, and the storages `NAME/data/KEY` that it
//! refers to.
//!
//! The archive is never unpacked: its entries are stored, not compressed, and lie in the map.

use std::collections::BTreeMap;
use std::io::{Cursor, Error, ErrorKind, Seek, Write};
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::pickle::{self, View};
use super::{Encoding, TensorEntry};

/// Bytes of a pickle, at most: a thousand tensors take 200 KB.
const MAX_PICKLE_BYTES: usize = 1 << 23;
/// Where PyTorch begins storages.
const ALIGNMENT: u16 = 64;

/// Reads the file whose whole content is `file`: where its tensors lie.
///
/// # Errors
/// The reason for which the file is refused: no zip archive, an entry that is compressed, overlaps another or is missing,
/// a pickle that does anything but build tensors, a tensor beyond its storage.
pub fn read(file: &[u8]) -> Result<BTreeMap<String, TensorEntry>, String> {
    if file.starts_with(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.") {
        return Err("it is in PyTorch's old format, without a zip archive: load it with torch.load and save it again \
                    with torch.save of version 1.6 or newer"
            .into());
    }
    let mut archive = ZipArchive::new(Cursor::new(file)).map_err(|e| format!("it is not a zip archive: {e}"))?;
    if archive.has_overlapping_entries().map_err(|e| format!("its zip archive is damaged: {e}"))? {
        return Err("entries of its zip archive overlap".into());
    }
    let (prefix, entries) = entries(&mut archive, file)?;
    if entries.get("byteorder").is_some_and(|range| file[range.clone()].trim_ascii() != b"little") {
        return Err("it was saved on a big-endian machine".into());
    }
    let pickle = entries.get("data.pkl").ok_or_else(|| format!("its zip archive has no {prefix}/data.pkl"))?;
    if pickle.len() > MAX_PICKLE_BYTES {
        return Err(format!("its pickle has {} bytes, more than {MAX_PICKLE_BYTES}", pickle.len()));
    }
    let views = pickle::read(&file[pickle.clone()])?;
    let place = |(name, view): (String, View)| {
        let storage = entries.get(&format!("data/{}", view.key)).ok_or("has no storage in the archive".to_string());
        let entry =
            storage.and_then(|storage| entry(&view, storage)).map_err(|why| format!("tensor `{name}` {why}"))?;
        Ok((name, entry))
    };
    views.into_iter().map(place).collect()
}

/// The entries of the archive below its one folder, by their names there.
fn entries(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    file: &[u8],
) -> Result<(String, BTreeMap<String, Range<usize>>), String> {
    let damaged = |e: &dyn std::fmt::Display| format!("its zip archive is damaged: {e}");
    let mut prefix = String::new();
    let mut entries = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| damaged(&e))?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let (folder, inner) = name.split_once('/').ok_or_else(|| format!("its zip archive holds `{name}`"))?;
        if index == 0 {
            prefix = folder.to_string();
        }
        if prefix != folder {
            return Err(format!("its zip archive has two folders, `{prefix}` and `{folder}`"));
        }
        if entry.compression() != CompressionMethod::Stored
            || entry.encrypted()
            || entry.size() != entry.compressed_size()
        {
            return Err(format!("`{name}` in its zip archive is compressed or encrypted: save it with torch.save"));
        }
        let range = entry.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
            (end <= file.len()).then_some(start..end)
        });
        let range = range.ok_or_else(|| format!("`{name}` in its zip archive lies beyond the end of the file"))?;
        if entries.insert(inner.to_string(), range).is_some() {
            return Err(format!("its zip archive holds `{name}` twice"));
        }
    }
    Ok((prefix, entries))
}

/// A view's place in the file, whose bytes `storage` are its storage.
fn entry(view: &View, storage: &Range<usize>) -> Result<TensorEntry, String> {
    let View { encoding, numel, offset, shape, strides, .. } = view;
    if encoding.bytes(*numel) != Some(storage.len()) {
        return Err(format!(
            "has a storage of {numel} {encoding}, which is not the {} bytes in the archive",
            storage.len()
        ));
    }
    if shape.len() != strides.len() {
        return Err(format!("has the shape {shape:?} and the strides {strides:?}"));
    }
    let elements = shape.iter().try_fold(1_usize, |product, n| product.checked_mul(*n)).ok_or("is too large")?;
    // One more than the last element that is reached, from the offset on.
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(1_usize, |reach, (n, stride)| reach.checked_add(n.saturating_sub(1).checked_mul(*stride)?));
    let reach = if elements == 0 { Some(0) } else { reach };
    let end = reach.and_then(|reach| reach.checked_add(*offset)).filter(|end| *end <= *numel);
    let end = end.ok_or_else(|| format!("reaches beyond its storage of {numel} elements"))?;
    // What repeats elements could be of any size, and no weight does.
    if elements > end - offset {
        return Err("repeats elements of its storage (an expanded view): save a copy of it".into());
    }
    // The product of sizes behind an empty dimension may overflow.
    let contiguous = elements == 0
        || (0..shape.len()).all(|i| shape[i] <= 1 || strides[i] == shape[i + 1..].iter().product::<usize>());
    let [begin, end] = [*offset, end].map(|at| encoding.bytes(at).map(|bytes| storage.start + bytes));
    let bytes = begin.zip(end).map(|(begin, end)| begin..end).ok_or("is too large")?;
    let strides = (!contiguous).then(|| strides.clone());
    Ok(TensorEntry { encoding: *encoding, shape: shape.clone(), bytes, strides })
}

/// A file being written, one storage after the other.
pub struct StorageWriter<W: Write + Seek> {
    archive: ZipWriter<W>,
    written: usize,
}

impl<W: Write + Seek> StorageWriter<W> {
    /// Begins a file of `tensors`, given by name, shape and type (F32, BF16 or F16), whose data follow in that order.
    ///
    /// # Errors
    /// When `out` fails, or names the tensor whose type cannot be written.
    pub fn new(out: W, tensors: &[(&str, &[usize], Encoding)]) -> std::io::Result<Self> {
        let mut writer = Self { archive: ZipWriter::new(out), written: 0 };
        let pickle = pickle::write(tensors).map_err(|why| Error::new(ErrorKind::InvalidInput, why))?;
        writer.entry("data.pkl", &pickle)?;
        writer.entry("byteorder", b"little")?;
        Ok(writer)
    }

    /// Begins the data of the next tensor, which are then written to the writer itself.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn next(&mut self, bytes: usize) -> std::io::Result<()> {
        let options = options().large_file(bytes as u64 >= u64::from(u32::MAX));
        self.archive.start_file(format!("model/data/{}", self.written), options)?;
        self.written += 1;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.entry("version", b"3\n")?;
        Ok(self.archive.finish()?)
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.archive.start_file(format!("model/{name}"), options())?;
        self.archive.write_all(bytes)
    }
}

impl<W: Write + Seek> Write for StorageWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.archive.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.archive.flush()
    }
}

fn options() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(ALIGNMENT)
}

#[cfg(test)]
mod tests;
