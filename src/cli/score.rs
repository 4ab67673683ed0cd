//! `polar-raw score`: one score a row, in order.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde_json::json;

use super::device::Device;
use super::model;
use crate::error::{Error, Result};
use crate::eval::Scorer;
use crate::files::Staged;
use crate::polar::{ScoreInput, ScoreRow, ScoreRows, TemplateConfig, Wrapper, encode_candidate};
use crate::tokenizer::Tokenizer;

/// Score candidate answers by how close they are to a reference answer.
///
/// Reads rows {prompt, reference, output}, or {input_ids} with whole sequences of token ids that end with the score
/// token, and writes a row {score} for each, in the same order. Higher is closer to the policy of the reference; only
/// scores of one prompt and reference can be compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  polar-raw score --model runs/quickstart/model --input rows.jsonl --output scores.jsonl")]
pub struct ScoreArgs {
    /// The model's folder, such as runs/NAME/model.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows to score, as JSONL, plain or zstd.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where to write, instead of standard output. The file appears when it is whole.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How prompt and trajectory are joined in rows that do not say. [default: as in training]
    #[arg(long, value_name = "sft|pretrain", value_parser = model::parse_wrapper)]
    wrapper: Option<Wrapper>,
    /// What computes; one of the devices of this build.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// Tokens of one pass, at most, unless a sequence is longer.
const PASS: usize = 4096;
/// Rows read before they are scored.
const ROWS: usize = 256;

/// Scores every row of the input.
pub fn run(args: ScoreArgs) -> Result<()> {
    let opened = model::open(&args.model, args.device)?;
    let mut template = opened.companion.template;
    template.wrapper = args.wrapper.unwrap_or(template.wrapper);
    let most = opened.model.config().max_position_embeddings.max(template.max_length);
    let mut job = Job {
        args: &args,
        template,
        tokenizer: None,
        vocab: opened.model.config().vocab_size,
        most,
        scorer: Scorer::new(opened.model.clone(), PASS.max(template.max_length))?,
        model: &opened.model,
    };
    let rows = ScoreRows::open(&args.input)?;
    match &args.output {
        Some(path) => {
            let mut staged = Staged::create(path)?;
            job.score(rows, &mut |bytes| staged.append(bytes))?;
            staged.commit()
        }
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            let result = job.score(rows, &mut |bytes| {
                out.write_all(bytes).map_err(|e| Error::machine(format!("cannot write to standard output: {e}")))
            });
            // A reader that has gone away has seen what it wanted.
            match out.flush() {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                Err(e) => Err(Error::machine(format!("cannot write to standard output: {e}"))),
                Ok(()) => result,
            }
        }
    }
}

struct Job<'a> {
    args: &'a ScoreArgs,
    template: TemplateConfig,
    /// Read when the first row of text comes: rows of ids need none.
    tokenizer: Option<Tokenizer>,
    vocab: usize,
    /// The longest sequence that the model reads.
    most: usize,
    scorer: Scorer,
    model: &'a crate::model::Model,
}

impl Job<'_> {
    fn score(&mut self, mut rows: ScoreRows, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            let chunk = rows.by_ref().take(ROWS).collect::<Result<Vec<_>>>()?;
            if chunk.is_empty() {
                return Ok(());
            }
            let groups = chunk.into_iter().map(|row| Ok(vec![self.ids(row)?])).collect::<Result<Vec<_>>>()?;
            for score in self.scorer.score(&groups)? {
                write(format!("{}\n", json!({ "score": score })).as_bytes())?;
            }
        }
    }

    fn ids(&mut self, row: ScoreRow) -> Result<Vec<u32>> {
        let place = format!("{}:{}", self.args.input.display(), row.line);
        match row.input {
            ScoreInput::Ids(ids) => {
                if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab) {
                    let vocab = self.vocab;
                    return Err(Error::user(format!("{place}: input_ids has {id}, not below vocab_size = {vocab}")));
                }
                if ids.len() > self.most {
                    let (len, most) = (ids.len(), self.most);
                    return Err(Error::user(format!(
                        "{place}: input_ids has {len} ids; the model reads at most {most}"
                    )));
                }
                Ok(ids)
            }
            ScoreInput::Text { prompt, reference, output, wrapper } => {
                let template = TemplateConfig { wrapper: wrapper.unwrap_or(self.template.wrapper), ..self.template };
                let tokenizer = match &mut self.tokenizer {
                    Some(tokenizer) => tokenizer,
                    empty => empty.insert(model::tokenizer(&self.args.model, self.model)?),
                };
                encode_candidate(tokenizer, &prompt, &reference, &output, &template)
                    .map(|(ids, _)| ids)
                    .map_err(|e| e.context(place))
            }
        }
    }
}
