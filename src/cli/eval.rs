//! `polar-raw eval`: how often a model ranks pairs rightly.

use std::path::PathBuf;

use super::device::Device;
use super::model;
use crate::error::{Error, Result};
use crate::eval::{Evaluation, Row, Scorer, Table, evaluate, set_name};
use crate::files;
use crate::model::ModelConfig;
use crate::polar::{IdPair, Records, TripleSource, Wrapper, read};

/// Measure how often a model ranks pairs of answers rightly.
///
/// A pair counts as right when the chosen candidate scores strictly higher. Beside the model stand the baselines that
/// were fitted in its training, chance, and a control with the references of other rows, which must fall to chance if
/// the model compares at all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  polar-raw eval --model runs/quickstart/model --data preferences.jsonl --json result.json")]
pub struct EvalArgs {
    /// The model's folder, such as runs/NAME/model.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Trajectories, preferences or pairs of token ids, as JSONL, plain or zstd.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Also write table and scores as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How prompt and trajectory are joined in rows that do not say. [default: as in training]
    #[arg(long, value_name = "sft|pretrain", value_parser = model::parse_wrapper)]
    wrapper: Option<Wrapper>,
    /// Seed of the triples drawn from trajectories, and of the control.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens of one pass, at most; more take more memory. Two longest sequences always fit.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pack_length: u32,
    /// What computes; one of the devices of this build.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// Evaluates and prints the table.
pub fn run(args: EvalArgs) -> Result<()> {
    let opened = model::open(&args.model, args.device)?;
    let records = read(&args.data)?;
    let mut template = opened.companion.template;
    template.wrapper = args.wrapper.unwrap_or(template.wrapper);
    let mut scorer = Scorer::new(opened.model.clone(), (args.pack_length as usize).max(2 * template.max_length))?;
    let name = set_name(&args.data);
    let triples = match records {
        Records::Preferences(triples) => triples,
        Records::Trajectories(rows) => {
            let source = TripleSource::new(rows).map_err(|e| e.context(args.data.display()))?;
            super::print(source.summary())?;
            source.epoch(args.seed, 0).collect()
        }
        Records::Pairs(pairs) => {
            let table = evaluate_ids(&mut scorer, name, &pairs, opened.model.config())?;
            return print(&args, &table);
        }
        Records::Documents(_) => {
            return Err(Error::user(format!(
                "{} holds documents, which cannot be ranked: give trajectories or preferences",
                args.data.display()
            )));
        }
    };
    let tokenizer = model::tokenizer(&args.model, &opened.model)?;
    let mut evaluation = Evaluation {
        scorer: &mut scorer,
        tokenizer: &tokenizer,
        template,
        baselines: opened.companion.baselines.as_ref(),
        seed: args.seed,
    };
    let (columns, row) = evaluate(name, &triples, &mut evaluation)?;
    print(&args, &Table { columns, rows: vec![row] })
}

fn evaluate_ids(scorer: &mut Scorer, name: String, pairs: &[IdPair], model: &ModelConfig) -> Result<Table> {
    pairs.iter().try_for_each(|pair| pair.check(model))?;
    let groups: Vec<_> = pairs.iter().map(|pair| vec![pair.chosen.clone(), pair.rejected.clone()]).collect();
    let scores = scorer.score(&groups)?;
    Ok(Table::of_row(Row::of_scores(name, &scores)))
}

fn print(args: &EvalArgs, table: &Table) -> Result<()> {
    super::print(table)?;
    match &args.json {
        Some(path) => {
            let json = serde_json::to_vec_pretty(table).map_err(|e| Error::machine(e.to_string()))?;
            files::write_atomic(path, &json)
        }
        None => Ok(()),
    }
}
