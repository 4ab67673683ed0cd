//! The tensors of a folder or file, mapped.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use serde_json::Value;

use super::{Encoding, TensorEntry, gguf, safetensors, torch};
use crate::error::{Error, Result};
use crate::files;

/// Bytes of an index of shards, at most.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// A format of weight files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Hugging Face's safetensors.
    Safetensors,
    /// What `torch.save` writes: a zip archive with a pickle.
    Torch,
    /// What llama.cpp reads.
    Gguf,
}

impl Format {
    /// The formats of a Hugging Face folder, in the order in which `transformers` looks for them.
    const IN_FOLDERS: [Self; 2] = [Self::Safetensors, Self::Torch];

    /// The name of the file of a model in one piece, in a Hugging Face folder.
    pub fn single(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors",
            Self::Torch => "pytorch_model.bin",
            Self::Gguf => "model.gguf",
        }
    }

    /// The name of the file that says which shard holds which tensor.
    pub fn index(self) -> String {
        format!("{}.index.json", self.single())
    }

    /// The name of shard `number`, from 1, of `count`.
    pub fn shard(self, number: usize, count: usize) -> String {
        let (stem, ending) = self.single().split_once('.').unwrap_or((self.single(), ""));
        format!("{stem}-{number:05}-of-{count:05}.{ending}")
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Safetensors => ".safetensors",
            Self::Torch => ".bin",
            Self::Gguf => ".gguf",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Torch => "PyTorch",
            Self::Gguf => "GGUF",
        })
    }
}

/// The tensors of a folder or file by name.
pub struct Tensors {
    path: PathBuf,
    /// None of a checkpoint of a run, which has them one after the other without names.
    format: Option<Format>,
    files: Vec<Mapped>,
    /// Each tensor's file and its place there.
    homes: BTreeMap<String, (usize, TensorEntry)>,
    metadata: gguf::Metadata,
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    fn open(path: PathBuf) -> Result<Self> {
        let file = files::open(&path)?;
        // SAFETY: the map is read-only. That nobody shortens the file meanwhile is the documented condition of
        // `Tensors::open`, as it is of every reader of mapped weights.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", &path, &e))?;
        Ok(Self { path, map })
    }

    fn entries(&self, format: Format) -> Result<(BTreeMap<String, TensorEntry>, gguf::Metadata)> {
        match format {
            Format::Safetensors => safetensors::read_header(&self.map).map(|entries| (entries, BTreeMap::new())),
            Format::Torch => torch::read(&self.map).map(|entries| (entries, BTreeMap::new())),
            Format::Gguf => gguf::read(&self.map),
        }
        .map_err(|why| Error::user(format!("{}: {why}", self.path.display())))
    }
}

impl Tensors {
    /// Maps the weight files of a Hugging Face folder, or one file of any format: a GGUF file is known by its ending
    /// `.gguf`, a PyTorch file by `.bin`, `.pt` or `.pth`, any other is read as safetensors.
    ///
    /// Another program must not shorten the files while they are mapped.
    ///
    /// # Errors
    /// The user's: no weights, a file that is damaged or hostile, an index that does not fit.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let format = match path.extension().and_then(|ending| ending.to_str()) {
                Some("gguf") => Format::Gguf,
                Some("bin" | "pt" | "pth") => Format::Torch,
                _ => Format::Safetensors,
            };
            return Self::open_single(path.to_path_buf(), format);
        }
        for format in Format::IN_FOLDERS {
            // A whole file comes before shards.
            let (single, index) = (path.join(format.single()), path.join(format.index()));
            if single.is_file() {
                return Self::open_single(single, format);
            }
            if index.is_file() {
                return Self::open_shards(path, index, format);
            }
        }
        let names = Format::IN_FOLDERS.map(|format| format!("{} or {}", format.single(), format.index()));
        Err(Error::user(format!("{} holds no weights: neither {}", path.display(), names.join(" nor "))))
    }

    fn open_single(path: PathBuf, format: Format) -> Result<Self> {
        let file = Mapped::open(path.clone())?;
        let (entries, metadata) = file.entries(format)?;
        let homes = entries.into_iter().map(|(name, entry)| (name, (0, entry))).collect();
        Ok(Self { path, format: Some(format), files: vec![file], homes, metadata })
    }

    fn open_shards(dir: &Path, index: PathBuf, format: Format) -> Result<Self> {
        let refuse = |why: String| Error::user(format!("{}: {why}", index.display()));
        let text = files::read_text(&index, MAX_INDEX_BYTES)?;
        let content: Value = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
        let Some(weight_map) = content.get("weight_map").and_then(Value::as_object) else {
            return Err(refuse("there is no object `weight_map`".into()));
        };
        let mut shards: Vec<(Mapped, BTreeMap<String, TensorEntry>)> = Vec::new();
        let mut opened = BTreeMap::new();
        let mut homes = BTreeMap::new();
        for (name, file) in weight_map {
            let Some(file) = file.as_str().filter(|file| is_plain_name(file, format)) else {
                return Err(refuse(format!("tensor `{name}` lies in {file}, which is not a file name")));
            };
            let home = match opened.get(file) {
                Some(&home) => home,
                None => {
                    let shard = Mapped::open(dir.join(file))?;
                    let (entries, _) = shard.entries(format)?;
                    shards.push((shard, entries));
                    opened.insert(file, shards.len() - 1);
                    shards.len() - 1
                }
            };
            match shards[home].1.remove(name) {
                Some(entry) => homes.insert(name.clone(), (home, entry)),
                None => return Err(refuse(format!("tensor `{name}` is not in {file}"))),
            };
        }
        let files = shards.into_iter().map(|(shard, _)| shard).collect();
        Ok(Self { path: index, format: Some(format), files, homes, metadata: BTreeMap::new() })
    }

    /// Maps the files of weights of the checkpoint in `folder`, which the caller has verified: `homes` has the name of each
    /// tensor, the place of its file in `files`, and where it lies there.
    ///
    /// # Errors
    /// When a file cannot be read, or ends before a tensor does.
    pub(crate) fn of_checkpoint(
        folder: &Path,
        files: Vec<PathBuf>,
        homes: Vec<(String, usize, TensorEntry)>,
    ) -> Result<Self> {
        let files = files.into_iter().map(Mapped::open).collect::<Result<Vec<_>>>()?;
        if let Some((name, ..)) = homes.iter().find(|(_, home, entry)| entry.bytes.end > files[*home].map.len()) {
            return Err(Error::user(format!("{}: the file ends before tensor `{name}`", folder.display())));
        }
        let homes = homes.into_iter().map(|(name, home, entry)| (name, (home, entry))).collect();
        Ok(Self { path: folder.to_path_buf(), format: None, files, homes, metadata: BTreeMap::new() })
    }

    /// The file to name when a tensor is missing: of shards, the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the format.
    pub fn format(&self) -> String {
        self.format.map_or_else(|| "checkpoint of a run".into(), |format| format.to_string())
    }

    /// Number of files that hold tensors.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// What a GGUF file says besides its tensors; empty for other formats.
    pub fn metadata(&self) -> &gguf::Metadata {
        &self.metadata
    }

    /// Every tensor, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.homes.iter().map(|(name, (_, entry))| (name.as_str(), entry))
    }

    /// One tensor's place.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.homes.get(name).map(|(_, entry)| entry)
    }

    /// The refusal of a tensor, with its file and name.
    pub fn refuse(&self, name: &str, why: impl fmt::Display) -> Error {
        let path = self.homes.get(name).map_or(&self.path, |(home, _)| &self.files[*home].path);
        Error::user(format!("{}: tensor `{name}` {why}", path.display()))
    }

    /// Refuses a tensor that is missing or of a type that cannot be read.
    pub fn readable(&self, name: &str) -> Result<&TensorEntry> {
        let entry = self.get(name).ok_or_else(|| self.refuse(name, "is missing"))?;
        let types = format!("supported are {}", Encoding::READABLE);
        match entry.encoding.is_readable() {
            true => Ok(entry),
            false => Err(self.refuse(name, format!("is stored as {}; {types}", entry.encoding))),
        }
    }

    /// Replaces `values` by the rows `rows` of a tensor, converted to f32.
    ///
    /// # Errors
    /// The user's: a tensor that is missing or whose type cannot be read. The machine's: not as many values as rows.
    pub fn read_rows(&self, name: &str, rows: Range<usize>, values: &mut [f32]) -> Result<()> {
        let entry = self.readable(name)?;
        if rows.end > entry.rows() || rows.len() * entry.row() != values.len() {
            return Err(Error::machine(format!("{} values for rows {rows:?} of tensor `{name}`", values.len())));
        }
        let file = &self.files[self.homes[name].0].map;
        entry.decode(file, rows, values).ok_or_else(|| {
            self.refuse(name, format!("has rows of {} elements, no whole blocks of {}", entry.row(), entry.encoding))
        })
    }

    /// Tells the system that a tensor has been read: its pages need not stay in memory.
    pub fn release(&self, name: &str) {
        let Some((home, entry)) = self.homes.get(name) else { return };
        let (start, length) = (entry.bytes.start, entry.bytes.len());
        // SAFETY: the map is of a file, read-only: pages that are dropped and needed again are read again. That it
        // fails only costs memory.
        let _ = unsafe { self.files[*home].map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
    }
}

/// A name without a folder in it, so that an index cannot point elsewhere.
fn is_plain_name(name: &str, format: Format) -> bool {
    name.ends_with(format.ending()) && !name.contains(['/', '\\', '\0'])
}

/// The only GGUF file in a folder without a `config.json`.
pub(crate) fn lone_gguf(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut found = entries.filter(|path| path.extension().is_some_and(|ending| ending == "gguf"));
    found.next().filter(|_| found.next().is_none())
}
