//! Weights written as a Hugging Face folder: one file, or shards with an index.
//!
//! Tensors pass one at a time, so that writing needs memory for the largest tensor beside the parameters.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::files::{self, Staged};
use crate::formats::{Encoding, Format, Piece, Writer};
use crate::model::TensorSpec;
use crate::model::config::{ModelConfig, OutputHeads};
use crate::store::layout::Layout;
use crate::tensor::Dtype;

/// The file of a model in one piece.
pub const SINGLE: &str = "model.safetensors";

/// How weights are written.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// The files' format.
    pub format: Format,
    /// Names and order.
    pub layout: Layout,
    /// The type of every tensor.
    pub dtype: Dtype,
    /// Bytes of data in a file, at most; a larger tensor has a file of its own.
    pub max_shard_bytes: usize,
}

impl WriteOptions {
    /// InternLM2's layout as safetensors.
    pub fn safetensors(dtype: Dtype, max_shard_bytes: usize) -> Self {
        Self { format: Format::Safetensors, layout: Layout::INTERNLM2, dtype, max_shard_bytes }
    }
}

/// Gives one tensor of this network as f32.
pub type ReadTensor<'a> = dyn FnMut(&TensorSpec) -> Result<Vec<f32>> + 'a;

/// Writes the tensors `config.tensors(heads)`, which `source` gives in that order, into the folder `dir`.
///
/// Every file is complete on the disk before the first takes its place; files of a former model are then removed.
///
/// # Errors
/// When a finite value overflows the type, the layout cannot hold the model, the folder cannot be written or the disk is
/// full; what `source` returns.
pub fn write(
    dir: &Path,
    config: &ModelConfig,
    heads: OutputHeads,
    target: WriteOptions,
    source: &mut ReadTensor,
) -> Result<()> {
    let specs = config.tensors(heads);
    let shards = split(&specs, target.dtype, target.max_shard_bytes);
    let mut staged = Vec::new();
    let mut names = Vec::new();
    let mut weight_map = serde_json::Map::new();
    let mut total = 0;
    for (index, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => target.format.single().to_string(),
            count => target.format.shard(index + 1, count),
        };
        let pieces = pieces(shard, config, target.layout, |_| target.dtype.into());
        for piece in &pieces {
            weight_map.insert(piece.name.clone(), json!(name));
            total += piece.bytes()?;
        }
        let mut writer = Writer::create(&dir.join(&name), target.format, pieces, &[])?;
        shard.iter().try_for_each(|spec| write_tensor(&mut writer, spec, config, target.layout, source))?;
        staged.push(writer.finish()?);
        names.push(name);
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        let name = target.format.index();
        let mut file = Staged::create(&dir.join(&name))?;
        file.append(format!("{index:#}\n").as_bytes())?;
        staged.push(file);
        names.push(name);
    }
    for file in staged {
        file.commit()?;
    }
    remove_former(dir, &names)
}

/// What a layout makes of the tensors `specs`, in their order; `encoding` says in which type.
pub fn pieces(
    specs: &[TensorSpec],
    config: &ModelConfig,
    layout: Layout,
    encoding: impl Fn(&TensorSpec) -> Encoding,
) -> Vec<Piece> {
    let all = specs.iter().flat_map(|spec| {
        let parts = layout.parts(spec, config.attention_heads());
        let encoding = encoding(spec);
        parts.into_iter().map(move |(name, shape)| Piece { name, shape, encoding })
    });
    all.collect()
}

/// Writes the pieces of one tensor.
///
/// # Errors
/// The user's, when the layout has no place for it and it is not zero.
pub fn write_tensor(
    writer: &mut Writer,
    spec: &TensorSpec,
    config: &ModelConfig,
    layout: Layout,
    source: &mut ReadTensor,
) -> Result<()> {
    let values = source(spec)?;
    if !layout.holds(spec.param) && values.iter().any(|v| *v != 0.0) {
        return Err(Error::user(format!(
            "tensor `{}` is not zero, and Qwen2 has no such bias: convert to internlm2 or llama",
            spec.name
        )));
    }
    layout.split(spec, config.attention_heads(), &values, &mut |part| writer.append(part))
}

/// Consecutive tensors that share a file.
fn split(specs: &[TensorSpec], dtype: Dtype, max_bytes: usize) -> Vec<&[TensorSpec]> {
    let mut shards = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, spec) in specs.iter().enumerate() {
        let size = spec.elements() * dtype.size();
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
        let whole = name == SINGLE || name == Format::Safetensors.index();
        if (shard || unfinished || whole) && !names.contains(&name) {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, &e))?;
        }
    }
    files::sync_folder(dir)
}

/// `values` as they are once written as `dtype` and read again; `None` when a finite one becomes infinite.
pub fn rounded(values: &[f32], dtype: Dtype) -> Option<Vec<f32>> {
    let (mut bytes, mut rounded) = (Vec::new(), vec![0.0; values.len()]);
    let fits = Encoding::from(dtype).encode(values, &mut bytes);
    Encoding::from(dtype).decode(&bytes, &mut rounded);
    fits.then_some(rounded)
}

#[cfg(test)]
mod tests;
