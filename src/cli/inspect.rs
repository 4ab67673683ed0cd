//! `polar-raw inspect`: what is in a model's folder or file.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::print;
use crate::error::{Error, Result};
use crate::store::hub;
use crate::store::inspect::{Inspection, inspect};

/// Show what is in a model's folder, a GGUF file, or a file of tensors.
///
/// Format, architecture, sizes, tokenizer, how strings are built, what is missing or not needed, and every tensor.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A folder or file, or a model's name on the Hugging Face Hub, from the local cache.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Read every tensor for its least, greatest and mean value, its root mean square and the number of values that are
    /// not finite.
    #[arg(long)]
    statistics: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Looks and prints.
pub fn run(args: InspectArgs) -> Result<()> {
    let inspection = inspect(&hub::locate(&args.path)?, args.statistics)?;
    if args.json {
        return print(serde_json::to_string(&inspection).map_err(|e| Error::machine(e.to_string()))?);
    }
    print(table(&inspection).trim_end())
}

fn table(inspection: &Inspection) -> String {
    let mut text = String::new();
    let mut row = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<16}{value}");
    };
    row(
        "format",
        format!("{}, {} file{}", inspection.format, inspection.files, if inspection.files == 1 { "" } else { "s" }),
    );
    if let Some(m) = &inspection.model {
        row("architecture", format!("{}, tensors named as {}'s", m.architecture, m.names));
        row("parameters", format!("{:.3}M", m.parameters as f64 / 1e6));
        row("layers", format!("{} of {}, feed-forward {}", m.num_hidden_layers, m.hidden_size, m.intermediate_size));
        let heads = format!("{} query, {} key/value, of {}", m.num_attention_heads, m.num_key_value_heads, m.head_dim);
        let norms = if m.qk_norm { ", with norms of queries and keys" } else { "" };
        row("attention", format!("{heads}{}{norms}", if m.bias { ", with biases" } else { "" }));
        let scaling = match (m.llama3_factor, m.dynamic_ntk_factor) {
            (Some(factor), _) => format!(", Llama 3.1's scaling of factor {factor}"),
            (None, Some(factor)) => format!(", dynamic NTK of factor {factor} beyond"),
            (None, None) => String::new(),
        };
        row("positions", format!("{}, rotary base {}{scaling}", m.max_position_embeddings, m.rope_theta));
        row("vocabulary", m.vocab_size.to_string());
        let tied = if m.tied { ", which is the embedding" } else { "" };
        row(
            "heads",
            match (m.reward_head, m.lm_head) {
                (true, true) => format!("reward and next token{tied}"),
                (true, false) => "reward".into(),
                (false, true) => format!("next token{tied}"),
                (false, false) => "none".into(),
            },
        );
        if (m.score_bias, m.score_mean, m.score_std) != (0.0, 0.0, 1.0) {
            let (bias, mean, std) = (m.score_bias, m.score_mean, m.score_std);
            row("scores", format!("of the head's product: plus the bias {bias}, minus {mean}, over {std}"));
        }
        if let (Some(length), Some(wrapper)) = (m.max_length, &m.wrapper) {
            row("strings", format!("{wrapper} wrapper, at most {length} tokens"));
        }
    }
    match &inspection.tokenizer {
        Some(t) => {
            let id = |id: Option<u32>| id.map_or("none".into(), |id| id.to_string());
            row("tokenizer", format!("{}, {} ids", t.kind, t.vocab_size));
            let new = if t.new.is_empty() { "" } else { ", without rows of their own yet" };
            let (bos, eos) = (id(t.bos), id(t.eos));
            row("special ids", format!("BOS {bos}, EOS {eos}, separator {}, score {}{new}", t.separator, t.score));
        }
        None => row("tokenizer", inspection.tokenizer_error.clone().unwrap_or_else(|| "none".into())),
    }
    for problem in &inspection.problems {
        row("problem", problem.clone());
    }
    if !inspection.unused.is_empty() {
        row("not needed", inspection.unused.join(", "));
    }
    let width = inspection.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
    text.push('\n');
    for tensor in &inspection.tensors {
        let shape = format!("{:?}", tensor.shape);
        let _ = write!(text, "{:<width$}  {:<5} {shape:<16}", tensor.name, tensor.dtype);
        if let Some(s) = &tensor.statistics {
            let _ =
                write!(text, " min {:<11.4e} max {:<11.4e} mean {:<11.4e} rms {:<11.4e}", s.min, s.max, s.mean, s.rms);
            if s.non_finite > 0 {
                let _ = write!(text, " {} not finite", s.non_finite);
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
