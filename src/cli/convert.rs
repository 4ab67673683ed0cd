//! `polar-raw convert`: a model from one family and format to another.

use std::path::PathBuf;

use clap::ValueEnum;

use super::print;
use crate::error::Result;
use crate::formats::Encoding;
use crate::store::Family;
use crate::store::convert::{ModelFormat, convert};
use crate::store::hub;
use crate::train::finish::SHARD_BYTES;

/// Convert a model between families and formats.
///
/// Reads InternLM2 (POLAR's), Llama, Mistral, Qwen2 and Qwen3 models: Hugging Face folders with safetensors or PyTorch
/// files, and GGUF files in F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q2_K to Q6_K. The tokenizer goes along. The result is
/// whole or absent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  polar-raw convert --from SmolLM2-135M-Instruct.Q4_1.gguf --to smollm2
  polar-raw convert --from POLAR-1_8B --to polar.safetensors.d --dtype bfloat16
  polar-raw convert --from runs/quickstart/model --to reward.gguf --as gguf --dtype q8_0")]
pub struct ConvertArgs {
    /// The model: a folder, a GGUF file, or a name on the Hugging Face Hub, from the local cache.
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// Where to write: a folder, or for --as gguf a file, that does not exist yet.
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// What to make of it.
    #[arg(long = "as", value_enum, default_value_t)]
    target: TargetArg,
    /// The type of the weights. [default: the one that all have; float32 if they are quantised or differ]
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// Bytes of weights in a file, at most.
    #[arg(long, value_name = "BYTES", default_value_t = SHARD_BYTES, value_parser = super::positive)]
    max_shard_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum TargetArg {
    /// This program's own, and POLAR's: InternLM2, safetensors
    #[default]
    Internlm2,
    /// InternLM2 as PyTorch files
    Internlm2Bin,
    /// A folder of transformers' Llama; a reward model becomes LlamaForSequenceClassification
    Llama,
    /// A folder of transformers' Qwen2
    Qwen2,
    /// A folder of transformers' Qwen3
    Qwen3,
    /// A GGUF file
    Gguf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeArg {
    #[value(alias = "f32")]
    Float32,
    #[value(alias = "bf16")]
    Bfloat16,
    #[value(aliases = ["f16", "fp16"])]
    Float16,
    /// Of GGUF files
    #[value(name = "q8_0")]
    Q8_0,
    /// Of GGUF files
    #[value(name = "q4_0")]
    Q4_0,
    /// Of GGUF files
    #[value(name = "q4_1")]
    Q4_1,
}

/// Converts, and says what a person wants to know.
pub fn run(args: ConvertArgs) -> Result<()> {
    let kind = match args.target {
        TargetArg::Internlm2 => ModelFormat::InternLm2,
        TargetArg::Internlm2Bin => ModelFormat::InternLm2Torch,
        TargetArg::Llama => ModelFormat::HuggingFace(Family::Llama),
        TargetArg::Qwen2 => ModelFormat::HuggingFace(Family::Qwen2),
        TargetArg::Qwen3 => ModelFormat::HuggingFace(Family::Qwen3),
        TargetArg::Gguf => ModelFormat::Gguf,
    };
    let encoding = args.dtype.map(|dtype| match dtype {
        DtypeArg::Float32 => Encoding::F32,
        DtypeArg::Bfloat16 => Encoding::BF16,
        DtypeArg::Float16 => Encoding::F16,
        DtypeArg::Q8_0 => Encoding::Q8_0,
        DtypeArg::Q4_0 => Encoding::Q4_0,
        DtypeArg::Q4_1 => Encoding::Q4_1,
    });
    for note in convert(&hub::locate(&args.from)?, &args.to, kind, encoding, args.max_shard_bytes)? {
        print(note)?;
    }
    print(format!("wrote {}", args.to.display()))
}
