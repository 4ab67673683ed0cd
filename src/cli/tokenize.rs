//! `polar-raw tokenize`: text to token ids and back, row by row.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{places, written};
use crate::data::{Complaints, Lines, STDIN, fault, files_of};
use crate::error::{Error, Result};
use crate::files::Staged;
use crate::store::{hub, pretrained};
use crate::tokenizer::{Missing, Tokenizer};

/// Turn text into token ids, or ids into text.
///
/// Reads rows {text}, or bare JSON strings, and writes a row {ids} for each, in the same order: the ids of the text
/// alone, without BOS, and never those of a special token. With --decode it reads rows {ids}, or bare lists, and writes
/// rows {text}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  polar-raw tokenize --model DIR --input texts.jsonl
  polar-raw tokenize --model DIR --input ids.jsonl --decode
  polar-raw tokenize --model DIR --specials")]
pub struct TokenizeArgs {
    /// A model's folder, its tokenizer.json or tokenizer.model, a GGUF file, or a model's name on the Hugging Face Hub,
    /// from the local cache.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Rows, as JSON Lines or Parquet, plain, zstd or gzip: a file, a folder of them, a pattern as in 'rows-*.jsonl', or -
    /// for standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "specials")]
    input: Option<PathBuf>,
    /// Where to write, instead of standard output. The file appears when it is whole.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read ids and write text.
    #[arg(long)]
    decode: bool,
    /// Print the ids of the special tokens and the size of the vocabulary instead.
    #[arg(long, conflicts_with_all = ["input", "output", "decode"])]
    specials: bool,
}

/// Encodes or decodes every row of the input.
pub fn run(mut args: TokenizeArgs) -> Result<()> {
    args.model = hub::locate(&args.model)?;
    let files = args.input.as_deref().map(files_of).transpose()?.unwrap_or_default();
    let inputs = files.iter().map(|path| ("--input", path.as_path())).chain([("--model", &*args.model)]);
    let inputs: Vec<_> = inputs.collect();
    let output: Vec<_> = args.output.as_deref().map(|path| ("--output", path)).into_iter().collect();
    places::check_distinct(&inputs, &output)?;
    let ending = args.model.extension().and_then(OsStr::to_str);
    let tokenizer = match ending {
        Some("json" | "model") if args.model.is_file() => Tokenizer::load_file(&args.model)?,
        _ => pretrained::required_tokenizer(&args.model, Missing::Leave)?,
    };
    if args.specials {
        let specials = tokenizer.specials();
        return super::print(json!({
            "bos": specials.bos, "eos": specials.eos, "separator": specials.separator, "score": specials.score,
            "vocab_size": tokenizer.vocab_size(),
        }));
    }
    match &args.output {
        Some(path) => {
            let mut staged = BufWriter::new(Staged::create(path)?);
            convert(&tokenizer, &files, args.decode, &mut |row| {
                writeln!(staged, "{row}").map_err(|error| Error::io("write", path, &error))
            })?;
            staged.into_inner().map_err(|error| Error::io("write", path, error.error()))?.commit()
        }
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            convert(&tokenizer, &files, args.decode, &mut |row| written(writeln!(out, "{row}")))?;
            written(out.flush())
        }
    }
}

/// Writes a row for each, up to the first that is wrong; then what is wrong with those behind it is found too.
fn convert(
    tokenizer: &Tokenizer,
    files: &[PathBuf],
    decode: bool,
    write: &mut dyn FnMut(&Value) -> Result<()>,
) -> Result<()> {
    let convert = |line: &str| {
        let row = serde_json::from_str(line);
        let row: Value = row.map_err(|error| Error::user(format!("not JSON: {}", fault(line, &error))))?;
        if decode { text(tokenizer, &row) } else { ids(tokenizer, &row) }
    };
    let mut complaints = Complaints::default();
    for file in files {
        let mut lines = Lines::open(file)?;
        loop {
            let row = lines.next().map(|line| line.map(|line| (!line.trim().is_empty()).then(|| convert(line))));
            match row {
                Ok(None) => break,
                Ok(Some(None)) => continue,
                Ok(Some(Some(Ok(row)))) if complaints.is_empty() => write(&row)?,
                Ok(Some(Some(Ok(_)))) => {}
                Ok(Some(Some(Err(error)))) => complaints.add_at(&lines.place(), error)?,
                Err(error) if lines.can_go_on() => complaints.add(error)?,
                Err(error) => return Err(complaints.with(error)),
            }
            // Whoever writes into a pipe may wait for an answer before more rows come.
            if file == Path::new(STDIN) && !complaints.is_empty() {
                return complaints.finish();
            }
        }
    }
    complaints.finish()
}

fn ids(tokenizer: &Tokenizer, row: &Value) -> Result<Value> {
    let text = row.as_str().or_else(|| row["text"].as_str());
    let text = text.ok_or_else(|| Error::user("expected a string, or an object with the key \"text\""))?;
    Ok(json!({ "ids": tokenizer.encode(text)? }))
}

fn text(tokenizer: &Tokenizer, row: &Value) -> Result<Value> {
    let bad = || Error::user("expected a list of ids, or an object with the key \"ids\" (with --decode, rows are ids)");
    let ids = row.as_array().or_else(|| row["ids"].as_array()).ok_or_else(bad)?;
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(bad);
    let ids = ids.iter().map(id).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "text": tokenizer.decode(&ids)? }))
}
