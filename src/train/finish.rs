//! The end of a run: the model as a Hugging Face folder, the evaluation, the report.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::baselines::Baselines;
use crate::data::{ReferenceSource, SetFormat};
use crate::error::{Error, Result};
use crate::eval::judge::ModelJudge;
use crate::eval::reference::{References, trials_if_any};
use crate::eval::result::{Task, example, measure};
use crate::eval::{Companion, Example, Scorer, Table};
use crate::files::{self, StagedFolder};
use crate::model::{Model, ModelConfig, TensorSpec, Workspace};
use crate::passes::{Capacity, InOrder, Pack, Wanted};
use crate::store::weights::WriteOptions;
use crate::store::{adapter, weights};
use crate::tensor::Dtype;
use crate::train::evaluation::ScoredExamples;
use crate::train::feed::Feeder;
use crate::train::metrics::StepMetrics;
use crate::train::rate::Ceiling;
use crate::train::report::{self, Report};
use crate::train::setup::{EvalSet, Setup};
use crate::train::state::Masters;
use crate::train::totals::Totals;
use crate::train::{Trainer, evaluation, step_log};

/// The final model in a run's folder.
pub const MODEL: &str = "model";
/// The adapters that the final model was made with, as PEFT has them.
pub const ADAPTER: &str = "adapter";
/// The page.
pub const REPORT: &str = "report.html";
/// The table as data.
pub const EVALUATION: &str = "evaluation.json";
/// The table to paste into a document.
pub const MARKDOWN: &str = "evaluation.md";
/// Examples to read of each set.
const EXAMPLES: usize = 4;
/// Bytes of one file of weights, at most, as Hugging Face writes them.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// What a finished run leaves.
pub struct Outcome {
    /// The final model's folder.
    pub model: PathBuf,
    /// The page to read.
    pub report: PathBuf,
    /// The evaluation.
    pub table: Table,
    /// One line each: what was computed, what was left out, what the next-token loss is.
    pub facts: Vec<(String, String)>,
}

/// How far training came.
pub struct Trained<'a> {
    /// The run's counters.
    pub totals: &'a Totals,
    /// Steps done.
    pub step: u64,
    /// Steps after which the model was as it is saved.
    pub exported: u64,
    /// Why the run ended before its last step.
    pub ended: Option<String>,
}

/// Saves, evaluates and reports a trained model; `None` if `stop` was set before the report was written.
pub fn finish(
    run: &Path,
    setup: Setup,
    trainer: Trainer,
    trained: &Trained,
    ceiling: Ceiling,
    stop: &AtomicBool,
) -> Result<Option<Outcome>> {
    // The workspace and the moments of training are not needed any more, and the evaluation plans its own.
    let (model, state) = trainer.into_parts();
    let weights = TrainedWeights { model: &model, masters: state.into_masters() };
    let baselines = setup.baselines(trained.step)?;
    let folder = run.join(MODEL);
    let companion = Companion { template: setup.feeder.template, baselines };
    let dtype = weights.dtype()?;
    if model.config().lora.is_some() {
        weights.save_adapters(&run.join(ADAPTER), setup.config.train.init.as_deref())?;
    }
    weights.save(&folder, dtype, &setup.feeder, &companion)?;
    let model = Rc::new(weights.into_model(dtype)?);

    let mut facts = facts(&setup, &model, trained.totals, ceiling);
    facts.extend(trained.ended.iter().map(|why| ("ended early".into(), why.clone())));
    facts.extend(evaluation::facts(&trained.totals.standing, trained.step, trained.exported, run));
    let chosen_by = chosen_by(&setup, trained);
    facts.extend(chosen_by.iter().map(|why| ("what the figures mean".into(), why.clone())));
    if dtype != model.config().dtype {
        facts.push(("weights".into(), format!("saved as {dtype}: some are too large for {}", model.config().dtype)));
    }
    let mut scorer = Scorer::new(model.clone(), setup.feeder.capacity.tokens)?;
    let mut table = Table::default();
    let mut examples: Vec<Example> = Vec::new();
    for set in setup.eval_sets {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match set {
            EvalSet::Ranked(name, set) => {
                let Some(trials) = trials_if_any(&set, ReferenceSource::Field, References::default())? else {
                    let why = "not measured: in every row a candidate's text is the reference's";
                    facts.push((format!("accuracy on {name}"), why.into()));
                    continue;
                };
                let (tokenizer, template) = (setup.feeder.tokenizer().ok(), setup.feeder.template);
                let mut judge =
                    ModelJudge::new(&mut scorer, model.config(), tokenizer, None, template, Path::new(&name));
                let baselines = companion.baselines.iter().flat_map(Baselines::iter).collect();
                let seed = setup.config.train.seed;
                let task = Task { name: &name, set: &set, trials: &trials, baselines, seed };
                let most = examples.len() + EXAMPLES;
                let found = measure(&task, &mut judge, |question, scores| {
                    examples.extend(example(&name, question, &scores).filter(|_| examples.len() < most));
                    Ok(())
                })?;
                let same = found.identical.sentences("better answer", "worse one");
                facts.extend(same.into_iter().map(|sentence| (format!("the same tokens in {name}"), sentence)));
                // Of a set in which nothing differs no row is left.
                let Some(row) = found.table.rows.into_iter().next() else { continue };
                if set.format == SetFormat::Pairs {
                    let accuracy = format!("{} of {} pairs", row.accuracies[0], row.pairs());
                    facts.push((format!("accuracy on {name}"), accuracy));
                } else {
                    table.columns = found.table.columns;
                    table.rows.push(row);
                }
                if trials.left_out_groups > 0 {
                    let rows =
                        format!("{} rows with a candidate whose text is the reference's", trials.left_out_groups);
                    facts.push((format!("left out of {name}"), rows));
                }
            }
            EvalSet::Sequences(name, sequences) => {
                let loss = next_token_loss(&model, &setup.feeder, &sequences)?;
                facts.push((
                    format!("next-token loss on {name}"),
                    format!("{loss:.4} nats, perplexity {:.2}", loss.exp()),
                ));
            }
        }
    }
    files::write_atomic(&run.join(MARKDOWN), table.to_markdown().as_bytes())?;
    let json = serde_json::to_vec_pretty(&table).map_err(|e| Error::machine(e.to_string()))?;
    files::write_atomic(&run.join(EVALUATION), &json)?;

    let steps: Vec<StepMetrics> = step_log::read(run)?;
    let watched: Vec<ScoredExamples> = step_log::read(run)?;
    let page = run.join(REPORT);
    let report = Report {
        title: &run.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned()),
        config: &setup.config,
        facts: &facts,
        steps: &steps,
        ended: trained.ended.as_deref(),
        table: &table,
        examples: &examples,
        watched: &watched,
        chosen_by: chosen_by.as_deref(),
        notes: &[&setup.warnings[..], &setup.notes].concat(),
    };
    report::write(&page, &report)?;
    Ok(Some(Outcome { model: folder, report: page, table, facts }))
}

/// Why the figures at the end flatter the model, if evaluations on what they are measured on have chosen it.
fn chosen_by(setup: &Setup, trained: &Trained) -> Option<String> {
    trained.totals.standing.best?;
    let key = setup.config.needs_evaluations()?;
    Some(format!(
        "{key}: the model was chosen by evaluations on a part of the sets on which it is measured here, which flatters it; \
         for a figure of its own measure it on other data, with polar-raw eval"
    ))
}

/// What was trained, in the most precise form that there is.
struct TrainedWeights<'a> {
    model: &'a Model,
    masters: Masters,
}

impl TrainedWeights<'_> {
    /// One tensor of the final model, into which adapters are merged.
    fn get(&self, spec: &TensorSpec) -> Result<Vec<f32>> {
        let get = |spec: &TensorSpec| self.masters.get(self.model, spec);
        let mut values = get(spec)?;
        self.model.merge_adapters(spec, &mut values, &get)?;
        Ok(values)
    }

    /// The tensors of the final model.
    fn specs(&self) -> Vec<TensorSpec> {
        self.model.config().merged().tensors(self.model.outputs())
    }

    /// The dtype in which it is saved: float32 if some weight is too large for the one of the configuration.
    fn dtype(&self) -> Result<Dtype> {
        let wanted = self.model.config().dtype;
        for spec in self.specs().iter().filter(|_| wanted != Dtype::F32) {
            if weights::rounded(&self.get(spec)?, wanted).is_none() {
                return Ok(Dtype::F32);
            }
        }
        Ok(wanted)
    }

    /// Writes weights, configuration and tokenizer into a folder of another name, then puts it in its place.
    fn save(&self, folder: &Path, dtype: Dtype, feeder: &Feeder, companion: &Companion) -> Result<()> {
        let staged = StagedFolder::replacing(folder)?;
        let config = ModelConfig { dtype, ..self.model.config().merged() };
        config.write(staged.path())?;
        if let Some(tokenizer) = &feeder.tokenizer {
            tokenizer.save(staged.path())?;
        }
        companion.write(staged.path())?;
        let options = WriteOptions::safetensors(dtype, SHARD_BYTES);
        weights::write(staged.path(), &config, self.model.outputs(), options, &mut |spec| self.get(spec))?;
        staged.commit()
    }

    /// Writes the adapters and the head for PEFT, likewise; `base` is what the run was started from.
    fn save_adapters(&self, folder: &Path, base: Option<&Path>) -> Result<()> {
        let staged = StagedFolder::replacing(folder)?;
        let mut get = |spec: &TensorSpec| self.masters.get(self.model, spec);
        adapter::write(staged.path(), self.model.config(), self.model.outputs(), base, &mut get)?;
        staged.commit()
    }

    /// The final model, its weights rounded to the dtype in which they are saved, so that what is evaluated is what is
    /// saved. It has the memory of the one in training; that of the masters is free again.
    fn into_model(self, dtype: Dtype) -> Result<Model> {
        let merges = self.model.config().lora.is_some();
        // Of the masters, where they are the model's own, nothing is left to be done.
        for spec in self.specs().iter().filter(|_| merges || dtype != Dtype::F32) {
            let values = weights::rounded(&self.get(spec)?, dtype);
            self.model.set(spec, &values.ok_or_else(|| Error::machine(format!("{} overflows {dtype}", spec.name)))?)?;
        }
        self.model.merged()
    }
}

/// The mean next-token loss of sequences, in nats a token.
fn next_token_loss(model: &Rc<Model>, feeder: &Feeder, sequences: &[Vec<u32>]) -> Result<f64> {
    const WANTED: Wanted = Wanted { scores: false, next_tokens: true, share_prefix: false };
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let tokens = feeder.capacity.tokens.max(longest);
    let capacity = Capacity { candidates: 2, ..Capacity::new(tokens, WANTED) };
    let mut workspace = Workspace::new(model.backend().as_ref(), model.config(), model.outputs(), capacity, None)?;
    model.zero_losses(&workspace)?;
    let mut filling = InOrder::new(WANTED, capacity, model.config().vocab_size);
    let mut predicted = 0.0;
    let mut compute = |packs: Vec<Pack>| {
        packs.iter().try_for_each(|pack| {
            predicted += pack.predicted_tokens();
            model.next_token_loss(&mut workspace, pack, 1.0)
        })
    };
    for sequence in sequences {
        filling.push(&[sequence], false)?;
        compute(filling.take_full())?;
    }
    compute(filling.finish()?)?;
    Ok(model.losses(&workspace)?.1 / predicted)
}

fn facts(setup: &Setup, model: &Model, totals: &Totals, ceiling: Ceiling) -> Vec<(String, String)> {
    let separate = totals.tokens + totals.tokens_saved;
    let saved = 100.0 * totals.tokens_saved as f64 / separate.max(1) as f64;
    let mut facts = vec![
        ("parameters".into(), format!("{:.3}M", model.config().parameters(model.outputs()) as f64 / 1e6)),
        ("device".into(), format!("{}, {}", model.backend().name(), ceiling.describe())),
        ("updates".into(), format!("{} of {} steps", totals.updates, setup.steps)),
        (
            "tokens computed".into(),
            format!(
                "{:.2}M, and {:.2}M ({saved:.0} %) saved by shared prefixes",
                totals.tokens as f64 / 1e6,
                totals.tokens_saved as f64 / 1e6
            ),
        ),
        (
            "training time".into(),
            format!("{:.0} s, {:.0} tokens/s", totals.seconds, totals.tokens as f64 / totals.seconds.max(1e-9)),
        ),
    ];
    if let Some(lora) = &setup.model_config.lora {
        let trained = setup.model_config.adapter_parameters(setup.outputs);
        facts.push(("trained".into(), format!("{:.3}M: the head, and {}", trained as f64 / 1e6, lora.describe())));
    }
    if totals.over_long > 0 {
        let what = format!("{} did not fit data.pack_length = {}", totals.over_long, setup.config.data.pack_length);
        facts.push(("left out".into(), what));
    }
    if totals.cut > 0 {
        facts.push(("cut to data.max_response_length or data.max_length".into(), format!("{} pairs", totals.cut)));
    }
    let same = totals.identical.sentences("chosen", "rejected");
    facts.extend(same.into_iter().map(|sentence| ("the same tokens".into(), sentence)));
    facts
}
