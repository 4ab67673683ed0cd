//! Adapters written as PEFT does: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The names are those of the families' layout in `transformers`, where every projection is a matrix of its own: also for
//! a model whose own layout fuses some, which is then what `convert --as llama` makes of it.

use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::files;
use crate::formats::{Format, Piece, Writer};
use crate::model::{ModelConfig, OutputHeads, Param, TensorSpec};
use crate::store::layout::REWARD_HEADS;
use crate::store::weights::ReadTensor;
use crate::tensor::Dtype;

/// The file of the adapters' settings.
pub const CONFIG: &str = "adapter_config.json";
/// The file of the adapters and the head.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What stands before every name.
const PREFIX: &str = "base_model.model.";

/// The name of a tensor that is trained, in PEFT's file.
fn name(param: Param) -> String {
    match param {
        Param::RewardHead => format!("{PREFIX}{}", REWARD_HEADS[0]),
        Param::LmHead => format!("{PREFIX}lm_head.weight"),
        _ => format!("{PREFIX}{param}"),
    }
}

/// Writes the adapters of a model and its head, which `source` gives, into the folder `dir`, in float32. `base` is the
/// folder of the model that they are for.
///
/// # Errors
/// When the folder cannot be written or the disk is full; what `source` returns.
pub fn write(
    dir: &Path,
    config: &ModelConfig,
    outputs: OutputHeads,
    base: Option<&Path>,
    source: &mut ReadTensor,
) -> Result<()> {
    let lora = config.lora.as_ref().ok_or_else(|| Error::machine("a model without adapters"))?;
    let specs = config.tensors(outputs);
    let trained: Vec<&TensorSpec> = specs.iter().filter(|spec| spec.param.is_trained_with_adapters()).collect();
    let piece =
        |spec: &&TensorSpec| Piece { name: name(spec.param), shape: spec.shape.clone(), encoding: Dtype::F32.into() };
    let pieces = trained.iter().map(piece).collect();
    let mut writer = Writer::create(&dir.join(WEIGHTS), Format::Safetensors, pieces, &[])?;
    for spec in trained {
        writer.append(&source(spec)?)?;
    }
    writer.finish()?.commit()?;
    let (task, head) = if outputs.reward { ("SEQ_CLS", "score") } else { ("CAUSAL_LM", "lm_head") };
    // A whole number is written as one, as PEFT has it.
    let alpha = match lora.alpha.fract() == 0.0 && lora.alpha < 1e15 {
        true => json!(lora.alpha as u64),
        false => json!(lora.alpha),
    };
    let settings = json!({
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "target_modules": lora.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
        "modules_to_save": [head],
    });
    files::write_atomic(&dir.join(CONFIG), format!("{settings:#}\n").as_bytes())
}
