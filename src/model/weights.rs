//! Weights as a Hugging Face folder: `model.safetensors`, or shards with `model.safetensors.index.json`.
//!
//! Tensors pass one at a time, so that reading and writing need memory for the largest tensor beside the parameters.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::files::{self, Staged};
use crate::formats::Element;
use crate::formats::safetensors::write_header;
use crate::model::config::{Heads, ModelConfig, StorageDtype, TensorSpec};

/// The file of a model in one piece.
pub const SINGLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";
/// Elements converted at once while writing: 256 KiB of f32.
const CHUNK: usize = 1 << 16;

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
        file.append(&write_header(shard.iter().map(|s| (s.name.as_str(), &s.shape[..], dtype))))?;
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
        if !Element::from(dtype).encode(chunk, &mut bytes) {
            return Err(Error::user(format!("tensor `{}` holds values too large for {dtype}: use float32", spec.name)));
        }
        file.append(&bytes)?;
    }
    Ok(())
}

/// `values` as they are once written as `dtype` and read again; `None` when a finite one becomes infinite.
pub fn rounded(values: &[f32], dtype: StorageDtype) -> Option<Vec<f32>> {
    let (mut bytes, mut rounded) = (Vec::new(), vec![0.0; values.len()]);
    let fits = Element::from(dtype).encode(values, &mut bytes);
    Element::from(dtype).decode(&bytes, &mut rounded);
    fits.then_some(rounded)
}

#[cfg(test)]
mod tests;
