//! Weights as a Hugging Face folder: `model.safetensors`, or shards with `model.safetensors.index.json`.
//!
//! Tensors pass one at a time, so that reading and writing need memory for the largest tensor beside the parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files::{self, Staged};
use crate::model::config::{Heads, ModelConfig, StorageDtype, TensorSpec};
use crate::model::safetensors::{Entry, read_header, write_header};

/// The file of a model in one piece.
pub const SINGLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";
/// Bytes of an index, at most.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Elements converted at once while writing: 256 KiB of f32.
const CHUNK: usize = 1 << 16;

/// What a folder held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The heads that were asked for and found.
    pub heads: Heads,
    /// Tensors of the folder that were not read, by name.
    pub unused: Vec<String>,
}

/// Reads the weights in the folder `dir` and gives every tensor of `config.tensors(heads)` to `sink`, in that order
/// and converted to f32. A head that the folder lacks is left out; [`Loaded::heads`] says which were found.
///
/// The files are memory-mapped: another program must not shorten them meanwhile.
///
/// # Errors
/// Names the file and the tensor that is missing, malformed, or of a shape or type that does not fit `config`; what
/// `sink` returns.
pub fn read_into(
    dir: &Path,
    config: &ModelConfig,
    heads: Heads,
    sink: &mut dyn FnMut(&TensorSpec, &[f32]) -> Result<()>,
) -> Result<Loaded> {
    let folder = Folder::open(dir)?;
    let mut unused: BTreeSet<&str> = folder.names().collect();
    let mut loaded = Heads::default();
    let specs = config.tensors(heads);
    // All tensors are checked before the first is passed on.
    let mut found = Vec::with_capacity(specs.len());
    for spec in &specs {
        match (folder.find(&spec.name), spec.name.as_str()) {
            (Some((shard, entry)), name) => {
                loaded.reward |= name == "v_head.weight";
                loaded.lm |= name == "output.weight";
                unused.remove(name);
                found.push((spec, shard, entry, shard.check(spec, entry)?));
            }
            (None, "v_head.weight" | "output.weight") => {}
            (None, name) => {
                return Err(Error::user(format!("{}: tensor `{name}` is missing", folder.path.display())));
            }
        }
    }
    let mut values = Vec::new();
    for (spec, shard, entry, dtype) in found {
        decode(&shard.map[entry.bytes.clone()], dtype, &mut values);
        if values.iter().any(|v| !v.is_finite()) {
            let (dir, name) = (folder.path.display(), &spec.name);
            return Err(Error::user(format!("{dir}: tensor `{name}` holds a value that is not finite: get it again")));
        }
        sink(spec, &values)?;
    }
    Ok(Loaded { heads: loaded, unused: unused.into_iter().map(String::from).collect() })
}

/// Writes the tensors `config.tensors(heads)`, which `source` gives as f32 in that order, into the folder `dir` as
/// `dtype`: one file, or shards of at most `max_shard_bytes` of data (a larger tensor has its own) with an index.
///
/// Every file is complete on the disk before the first takes its place; files of a former model are then removed.
///
/// # Errors
/// When a finite value overflows `dtype`, the folder cannot be written or the disk is full; what `source` returns.
pub fn write(
    dir: &Path,
    config: &ModelConfig,
    heads: Heads,
    dtype: StorageDtype,
    max_shard_bytes: usize,
    source: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>>,
) -> Result<()> {
    let specs = config.tensors(heads);
    let shards = split(&specs, dtype, max_shard_bytes);
    let mut staged = Vec::new();
    let mut names = Vec::new();
    let mut weight_map = serde_json::Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => SINGLE.to_string(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let mut file = Staged::create(&dir.join(&name))?;
        file.append(&write_header(shard.iter().map(|s| (s.name.as_str(), &s.shape[..], stored(dtype)))))?;
        for spec in *shard {
            weight_map.insert(spec.name.clone(), json!(name));
            write_tensor(&mut file, spec, &source(spec)?, dtype)?;
        }
        file.sync()?;
        staged.push(file);
        names.push(name);
    }
    if shards.len() > 1 {
        let total: usize = specs.iter().map(|s| s.elements() * dtype.bytes()).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        let mut file = Staged::create(&dir.join(INDEX))?;
        file.append(format!("{index:#}\n").as_bytes())?;
        staged.push(file);
        names.push(INDEX.to_string());
    }
    for file in staged {
        file.commit()?;
    }
    remove_former(dir, &names)
}

/// Consecutive tensors that share a file.
fn split(specs: &[TensorSpec], dtype: StorageDtype, max_bytes: usize) -> Vec<&[TensorSpec]> {
    let mut shards = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, spec) in specs.iter().enumerate() {
        let size = spec.elements() * dtype.bytes();
        if index > begin && bytes + size > max_bytes {
            shards.push(&specs[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += size;
    }
    shards.push(&specs[begin..]);
    shards
}

/// Removes the weight files in `dir` that are not among `names`, which a reader would take for part of the model, and
/// what an interrupted write left behind.
fn remove_former(dir: &Path, names: &[String]) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|e| Error::io("read", dir, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read", dir, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        let unfinished = name.starts_with(".model") && name.contains(".safetensors") && name.contains(".tmp-");
        if (shard || unfinished || name == SINGLE || name == INDEX) && !names.contains(&name) {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, &e))?;
        }
    }
    files::sync_folder(dir)
}

fn write_tensor(file: &mut Staged, spec: &TensorSpec, values: &[f32], dtype: StorageDtype) -> Result<()> {
    if values.len() != spec.elements() {
        let (given, name) = (values.len(), &spec.name);
        return Err(Error::machine(format!("{given} values for tensor `{name}` of shape {:?}", spec.shape)));
    }
    let mut bytes = Vec::with_capacity(CHUNK * dtype.bytes());
    for chunk in values.chunks(CHUNK) {
        bytes.clear();
        if !encode(chunk, dtype, &mut bytes) {
            return Err(Error::user(format!("tensor `{}` holds values too large for {dtype}: use float32", spec.name)));
        }
        file.append(&bytes)?;
    }
    Ok(())
}

/// `values` as they are once written as `dtype` and read again; `None` when a finite one becomes infinite.
pub fn rounded(values: &[f32], dtype: StorageDtype) -> Option<Vec<f32>> {
    let (mut bytes, mut rounded) = (Vec::new(), Vec::new());
    let fits = encode(values, dtype, &mut bytes);
    decode(&bytes, dtype, &mut rounded);
    fits.then_some(rounded)
}

/// Appends `values` as little-endian `dtype`, rounded to nearest even. False when a finite value became infinite.
fn encode(values: &[f32], dtype: StorageDtype, bytes: &mut Vec<u8>) -> bool {
    let fits = |value: f32, stored: f32| stored.is_finite() || !value.is_finite();
    match dtype {
        StorageDtype::F32 => {
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            true
        }
        StorageDtype::Bf16 => {
            bytes.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
            values.iter().all(|&v| fits(v, bf16::from_f32(v).to_f32()))
        }
        StorageDtype::F16 => {
            bytes.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()));
            values.iter().all(|&v| fits(v, f16::from_f32(v).to_f32()))
        }
    }
}

/// Replaces `values` by the little-endian numbers in `bytes`.
fn decode(bytes: &[u8], dtype: StorageDtype, values: &mut Vec<f32>) {
    values.clear();
    match dtype {
        StorageDtype::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        StorageDtype::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        StorageDtype::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
    }
}

/// The name that safetensors has for `dtype`.
fn stored(dtype: StorageDtype) -> Dtype {
    match dtype {
        StorageDtype::F32 => Dtype::F32,
        StorageDtype::Bf16 => Dtype::BF16,
        StorageDtype::F16 => Dtype::F16,
    }
}

/// One mapped file and its checked header.
struct Shard {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, Entry>,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|e| Error::io("read", &path, &e))?;
        // SAFETY: the map is read-only. That nobody shortens the file meanwhile is the documented condition of
        // `read_into`, as it is of every reader of mapped weights.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", &path, &e))?;
        let entries = read_header(&map).map_err(|why| Error::user(format!("{}: {why}", path.display())))?;
        Ok(Self { path, map, entries })
    }

    /// The type of `entry`, when it is what `spec` asks for.
    fn check(&self, spec: &TensorSpec, entry: &Entry) -> Result<StorageDtype> {
        let refuse = |why: String| Error::user(format!("{}: tensor `{}` {why}", self.path.display(), spec.name));
        if entry.shape != spec.shape {
            return Err(refuse(format!(
                "has shape {:?}, but {} asks for {:?}",
                entry.shape,
                crate::model::config::FILE,
                spec.shape
            )));
        }
        match entry.dtype {
            Dtype::F32 => Ok(StorageDtype::F32),
            Dtype::BF16 => Ok(StorageDtype::Bf16),
            Dtype::F16 => Ok(StorageDtype::F16),
            other => Err(refuse(format!("is stored as {other:?}; supported are F32, BF16 and F16"))),
        }
    }
}

/// The weight files of a folder.
struct Folder {
    /// The file to name when a tensor is missing.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Which shard holds a tensor; every name is in that shard's header.
    homes: BTreeMap<String, usize>,
}

impl Folder {
    fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        // The order of `transformers`: a whole file comes before shards.
        if single.is_file() {
            let shard = Shard::open(single.clone())?;
            let homes = shard.entries.keys().map(|name| (name.clone(), 0)).collect();
            return Ok(Self { path: single, shards: vec![shard], homes });
        }
        if index.is_file() {
            return Self::open_shards(dir, index);
        }
        let pickled = dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists();
        let hint = if pickled { "; pytorch_model*.bin must be converted to safetensors first" } else { "" };
        Err(Error::user(format!("{} holds neither {SINGLE} nor {INDEX}{hint}", dir.display())))
    }

    fn open_shards(dir: &Path, index: PathBuf) -> Result<Self> {
        let refuse = |why: String| Error::user(format!("{}: {why}", index.display()));
        let text = files::read_text(&index, MAX_INDEX_BYTES)?;
        let content: Value = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
        let Some(weight_map) = content.get("weight_map").and_then(Value::as_object) else {
            return Err(refuse("there is no object `weight_map`".into()));
        };
        let mut shards: Vec<Shard> = Vec::new();
        let mut opened = BTreeMap::new();
        let mut homes = BTreeMap::new();
        for (name, file) in weight_map {
            let Some(file) = file.as_str().filter(|f| is_plain_name(f)) else {
                return Err(refuse(format!("tensor `{name}` lies in {file}, which is no file name")));
            };
            let home = match opened.get(file) {
                Some(&home) => home,
                None => {
                    shards.push(Shard::open(dir.join(file))?);
                    opened.insert(file, shards.len() - 1);
                    shards.len() - 1
                }
            };
            if !shards[home].entries.contains_key(name) {
                return Err(refuse(format!("tensor `{name}` is not in {file}")));
            }
            homes.insert(name.clone(), home);
        }
        Ok(Self { path: index, shards, homes })
    }

    fn find(&self, name: &str) -> Option<(&Shard, &Entry)> {
        let shard = &self.shards[*self.homes.get(name)?];
        Some((shard, &shard.entries[name]))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.homes.keys().map(String::as_str)
    }
}

/// A name without a folder in it, so that an index cannot point elsewhere.
fn is_plain_name(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests;
