//! Next-token logits of a language model that this library reads: a GGUF file, or a folder of the Llama, Qwen2 or
//! InternLM2 architecture.
//!
//! `cargo run --release --example logits -- MODEL IDS.jsonl LOGITS.bin` reads a list of token ids a line, and writes, for
//! each token of each line, the logits of the token after it: `vocab_size` little-endian f32 values.

use std::error::Error;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::rc::Rc;
use std::{env, fs};

use polar_raw::backend::Backend;
use polar_raw::cpu::Cpu;
use polar_raw::model::{Model, OutputHeads, Workspace};
use polar_raw::passes::{Capacity, Packer, Wanted};
use polar_raw::store::Pretrained;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, input, output] = &arguments[..] else {
        return Err("usage: logits MODEL IDS.jsonl LOGITS.bin".into());
    };
    let outputs = OutputHeads { reward: false, lm: true };
    let backend: Rc<dyn Backend> = Rc::new(Cpu::new());
    let pretrained = Pretrained::open(Path::new(folder))?;
    let config = pretrained.config().clone();
    let model = Model::new(backend.clone(), config.clone(), outputs)?;
    let loaded = pretrained.read_into(outputs, &mut |spec, values| model.set(spec, values))?;
    if !loaded.heads.lm {
        return Err(format!("{folder} has no next-token head").into());
    }

    let mut written = BufWriter::new(fs::File::create(output)?);
    for line in fs::read_to_string(input)?.lines() {
        let ids: Vec<u32> = serde_json::from_str(line)?;
        if ids.is_empty() || ids.iter().any(|&id| id as usize >= config.vocab_size) {
            return Err(format!("not a list of ids below {}: {line}", config.vocab_size).into());
        }
        // Scored, the last token is among the selected too.
        let mut packer = Packer::new(Wanted { scores: true, next_tokens: true, share_prefix: false });
        packer.push(&[&ids])?;
        let pack = packer.finish(config.vocab_size)?;
        let capacity = Capacity { tokens: ids.len(), selected: ids.len(), candidates: 1 };
        let mut workspace = Workspace::new(backend.as_ref(), &config, outputs, capacity, None)?;
        let mut bytes = Vec::new();
        model.logits(&mut workspace, &pack, &mut |row| bytes.extend(row.iter().flat_map(|v| v.to_le_bytes())))?;
        written.write_all(&bytes)?;
    }
    Ok(written.flush()?)
}
