//! `polar-raw eval`: how often a model ranks answers rightly, and whether another one does better.

use std::fs;
use std::path::{Path, PathBuf};

use super::device::{Device, DeviceParser};
use super::model::{self, Opened, Strings};
use super::places;
use super::trace::Trace;
use crate::baselines::{Baseline, Baselines, Length};
use crate::data::{ReferenceSource, SetFormat, Wrapper, files_of};
use crate::error::{Error, Result};
use crate::eval::compare::{adjust, compare};
use crate::eval::judge::{ModelJudge, lengths};
use crate::eval::outcome::{self, LengthTally, Part};
use crate::eval::reference::{References, Trials, trials};
use crate::eval::result::{
    Comparison, Data, EvalResult, ModelResult, ReferenceFacts, Task, VERSION, around_mean, measure, scored,
};
use crate::eval::sets::{self, Set};
use crate::eval::{Scorer, set_name, warnings, write_page};
use crate::files;
use crate::polar::Form;
use crate::store::hub;

/// Measure how often a model ranks answers rightly.
///
/// Reads trajectories, preferences, pairs of token ids, and rows of RewardBench, RewardBench 2, RM-Bench, JudgeBench and
/// RMB. A judgement is right when the better candidate scores strictly higher. Beside the model stand the baselines that
/// were fitted in its training, chance, and a control with the references of other prompts, which must fall to chance if
/// the model compares at all. With several models they are compared, judgement by judgement.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  polar-raw eval --model runs/quickstart/model --data preferences.jsonl --json result.json --html result.html
  polar-raw eval --model runs/a/model --model runs/b/model --data rm-bench.json
  polar-raw eval --model runs/a/model --data reward-bench.jsonl --references references.jsonl")]
pub struct EvalArgs {
    /// The model's folder, such as runs/NAME/model, or its name on the Hugging Face Hub, from the local cache; several
    /// are compared.
    #[arg(long, value_name = "DIR", required = true)]
    model: Vec<PathBuf>,
    /// What to judge, as JSON Lines, a JSON array or Parquet, plain, zstd or gzip: a file, a folder of them, a pattern as in
    /// 'rows-*.jsonl', or - for standard input.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What the rows are. [default: known by their keys]
    #[arg(long, value_enum)]
    format: Option<SetFormat>,
    /// What the string of a candidate is. [default: what each model was trained on: polar, or else its chat template]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Where the reference comes from; never the candidate itself. [default: file with --references, else none for a
    /// model that is not of POLAR's form, else the format's]
    #[arg(long, value_enum)]
    reference_source: Option<ReferenceSource>,
    /// References, as rows {id, reference} or {prompt, reference}.
    #[arg(long, value_name = "FILE")]
    references: Option<PathBuf>,
    /// Also write the result with every score as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How prompt and trajectory are joined in rows that do not say. [default: as in training]
    #[arg(long, value_name = "sft|pretrain", value_parser = model::parse_wrapper)]
    wrapper: Option<Wrapper>,
    /// Seed of the triples drawn from trajectories, of the control and of the bootstrap.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens of one pass, at most; more take more memory. Two longest sequences always fit.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pack_length: u32,
    /// What computes; one of the devices of this build.
    #[arg(long, default_value = "auto", value_parser = DeviceParser)]
    device: Device,
    /// Time each operation, which makes the command slower: print a line for each at the end, and write its calls to a
    /// new file for ui.perfetto.dev.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Evaluates, prints, and writes what was asked for.
pub fn run(mut args: EvalArgs) -> Result<()> {
    let labels = labels(&args.model);
    args.model = args.model.iter().map(|path| hub::locate(path)).collect::<Result<_>>()?;
    check_places(&args)?;
    // What cannot be written is said before anything is measured. What is dropped leaves nothing.
    args.json.iter().chain(&args.html).try_for_each(|path| files::Staged::create(path).map(drop))?;
    let trace = Trace::to(args.trace.as_deref())?;
    let open = |path: &Path| model::open(path, || trace.open(args.device));
    // What is wrong with the first model is said before the data are read.
    let mut first = args.model.first().map(|path| open(path)).transpose()?;
    let device = first.as_ref().map(|opened| opened.model.backend().name()).unwrap_or_default();
    let set = sets::read(&args.data, args.format, args.seed)?;
    let strings = match (&first, args.model.first()) {
        (Some(first), Some(path)) if set.format != SetFormat::Pairs => {
            Some(model::strings(path, &first.model, args.form)?)
        }
        _ => None,
    };
    let (source, default) = source(&args, set.format, strings.as_ref().map(|strings| strings.form))?;
    let references = args.references.as_deref().map_or_else(|| Ok(References::default()), References::read)?;
    let trials = trials(&set, source, references).map_err(|e| e.context(args.data.display()))?;
    let name = set_name(&args.data);

    let mut strings = strings;
    let mut models: Vec<ModelResult> = Vec::new();
    for (path, label) in args.model.iter().zip(labels) {
        let opened = first.take().map_or_else(|| open(path), Ok)?;
        let strings = match strings.take() {
            None if set.format != SetFormat::Pairs => Some(model::strings(path, &opened.model, args.form)?),
            strings => strings,
        };
        if source == ReferenceSource::None && strings.as_ref().is_none_or(|strings| strings.form == Form::Polar) {
            let path = path.display();
            return Err(Error::user(format!(
                "{path} is of POLAR's form, which compares with a reference: choose another \
                --reference-source than none"
            )));
        }
        models.push(measured(&args, Subject { path, label, opened, strings }, &name, &set, &trials)?);
    }
    let comparisons = comparisons(&models, &parts(&models, &name, &trials), args.seed);
    let result = EvalResult {
        version: VERSION,
        program: concat!("polar-raw ", env!("CARGO_PKG_VERSION")).into(),
        data: Data {
            file: args.data.display().to_string(),
            blake3: set.blake3,
            format: set.format,
            rows: set.rows,
            groups: set.groups.len(),
            judgements: trials.judgements(),
            notes: set.notes,
        },
        references: ReferenceFacts {
            source,
            default,
            file: args.references.as_ref().map(|path| path.display().to_string()),
            rule: source.rule(set.format),
            left_out_candidates: trials.left_out_candidates,
            left_out_groups: trials.left_out_groups,
        },
        seed: args.seed,
        device,
        pack_length: args.pack_length as usize,
        models,
        comparisons,
    };
    // Files first: they are to be there whatever becomes of the standard output.
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&result).map_err(|e| Error::machine(e.to_string()))?;
        files::write_atomic(path, &json)?;
    }
    args.html.as_ref().map_or(Ok(()), |path| write_page(path, &name, &result))?;
    super::print(&result)?;
    for model in &result.models {
        // The parts of a set are small as they are.
        warnings(model.table.rows.get(..1).unwrap_or_default())
            .iter()
            .for_each(|warning| tracing::warn!("{}: {warning}", model.name));
    }
    trace.finish()
}

/// No output takes the place of another file of the command.
fn check_places(args: &EvalArgs) -> Result<()> {
    let models = args.model.iter().map(|path| ("--model", path.as_path()));
    let of = |name: Option<&Path>| name.map(files_of).transpose().map(Option::unwrap_or_default);
    let (references, data) = (of(args.references.as_deref())?, of(Some(&args.data))?);
    let references = references.iter().map(|path| ("--references", path.as_path()));
    let inputs = models.chain(references).chain(data.iter().map(|path| ("--data", path.as_path())));
    let inputs: Vec<_> = inputs.collect();
    let outputs = [("--json", &args.json), ("--html", &args.html), ("--trace", &args.trace)];
    let outputs: Vec<_> = outputs.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?))).collect();
    places::check_distinct(&inputs, &outputs)
}

/// Where references come from, and whether that is the format's default.
fn source(args: &EvalArgs, format: SetFormat, form: Option<Form>) -> Result<(ReferenceSource, bool)> {
    let given = args.references.as_ref().map(|_| ReferenceSource::File);
    let needs_file = "give --references FILE with rows {id, reference} or {prompt, reference}";
    match (args.reference_source.or(given), format.default_source()) {
        (Some(ReferenceSource::File), _) if given.is_none() => {
            Err(Error::user(format!("--reference-source file: {needs_file}")))
        }
        (Some(source), _) if given.is_some() && source != ReferenceSource::File => {
            Err(Error::user(format!("--references goes with --reference-source file, not {}", source.name())))
        }
        (Some(source), _) => Ok((source, false)),
        // Trajectories are drawn as triples whatever the form.
        (None, _) if form.is_some_and(|form| form != Form::Polar) && format != SetFormat::Trajectories => {
            Ok((ReferenceSource::None, true))
        }
        (None, Some(source)) => Ok((source, true)),
        (None, None) => Err(Error::user(format!(
            "{}: {} rows have no reference, and POLAR needs one: {needs_file}; or choose another --reference-source",
            args.data.display(),
            format.name()
        ))),
    }
}

/// A model to measure.
struct Subject<'a> {
    path: &'a Path,
    label: String,
    opened: Opened,
    /// None where all rows are token ids.
    strings: Option<Strings>,
}

/// Measures one model and drops it.
fn measured(args: &EvalArgs, subject: Subject<'_>, name: &str, set: &Set, trials: &Trials) -> Result<ModelResult> {
    let Subject { path, label, opened, strings } = subject;
    let mut template = opened.companion.template;
    let own = strings.as_ref().and_then(|strings| strings.own.as_ref());
    template.wrapper = args.wrapper.unwrap_or(if own.is_some() { Wrapper::Pretrain } else { template.wrapper });
    let tokenizer = strings.as_ref().map(|strings| &strings.tokenizer);
    let mut scorer = Scorer::new(opened.model.clone(), (args.pack_length as usize).max(2 * template.max_length))?;
    let mut judge = ModelJudge::new(&mut scorer, opened.model.config(), tokenizer, own, template, &args.data);
    let learnt = opened.companion.baselines.iter().flat_map(Baselines::iter);
    let baselines = std::iter::once(&Length as &dyn Baseline).chain(learnt).collect();
    let task = Task { name, set, trials, baselines, seed: args.seed };
    let (mut scores, mut around, mut tally) = (Vec::new(), Vec::new(), LengthTally::default());
    // Of the group that was seen last: its trials stand together.
    let mut tokens: Option<(usize, Vec<usize>)> = None;
    let found = measure(&task, &mut judge, |question, found| {
        let (_, tokens) = match tokens.take().filter(|(group, _)| *group == question.at) {
            Some(known) => tokens.insert(known),
            None => tokens.insert((question.at, lengths(&question.group, tokenizer)?)),
        };
        tally.add(question, &found, tokens);
        around.extend(around_mean(question, &found, tokens));
        scores.push(scored(question, found, set.files > 1));
        Ok(())
    })?;
    if found.table.rows.is_empty() {
        return Err(Error::user(format!(
            "{}: nothing is left to judge: to {}, the candidates of all {} judgements are the same tokens, cut \
             to max_length = {} and max_response_length = {} as in its training",
            args.data.display(),
            path.display(),
            found.identical.pairs,
            template.max_length,
            template.max_response_length
        )));
    }
    Ok(ModelResult {
        name: label,
        path: path.display().to_string(),
        blake3: hash(path)?,
        form: strings.as_ref().map(|strings| strings.form),
        template,
        averages: outcome::averages(set.format, trials, &found.judged),
        length: tally.finish(),
        margins: outcome::margins(&found.judged),
        truncation: judge.truncation,
        identical: found.identical,
        scores,
        around_mean: around,
        table: found.table,
        judged: found.judged,
    })
}

fn parts(models: &[ModelResult], name: &str, trials: &Trials) -> Vec<Part> {
    models.first().map_or_else(Vec::new, |model| outcome::parts(name, trials, &model.judged))
}

fn comparisons(models: &[ModelResult], parts: &[Part], seed: u64) -> Vec<Comparison> {
    let pair = |(i, a): (usize, &ModelResult)| {
        let with = |b: &ModelResult| Comparison {
            a: a.name.clone(),
            b: b.name.clone(),
            rows: compare(parts, &a.judged, &b.judged, seed),
        };
        models[i + 1..].iter().map(with).collect::<Vec<_>>()
    };
    let mut comparisons: Vec<Comparison> = models.iter().enumerate().flat_map(pair).collect();
    // Two families of tests: each two models on all of the set, and on its parts.
    adjust(comparisons.iter_mut().flat_map(|c| c.rows.iter_mut().take(1)).collect());
    adjust(comparisons.iter_mut().flat_map(|c| c.rows.iter_mut().skip(1)).collect());
    comparisons
}

/// A short name for each folder, or the paths where short names are not different.
fn labels(paths: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| {
        let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        match &parts[..] {
            [.., run, last] if last == "model" => run.clone(),
            [.., last] => last.clone(),
            [] => String::new(),
        }
    };
    let names: Vec<String> = paths.iter().map(short).collect();
    let differ = names.iter().enumerate().all(|(i, name)| !names[..i].contains(name));
    if differ { names } else { paths.iter().map(|path| path.display().to_string()).collect() }
}

/// BLAKE3 over names and contents of the files of a model's folder, in the order of their names.
fn hash(path: &Path) -> Result<String> {
    let unread = |e| Error::io("read", path, &e);
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(unread)?.collect::<std::io::Result<Vec<_>>>().map_err(unread)?;
        files = entries.iter().map(fs::DirEntry::path).filter(|path| path.is_file()).collect();
        files.sort();
    }
    let mut hasher = blake3::Hasher::new();
    for file in &files {
        hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes()).update(&[0]);
        hasher.update_reader(files::open(file)?).map_err(|e| Error::io("read", file, &e))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn refusal(args: &[&str]) -> String {
        let given = ["eval", "--model", "no model", "--data", "no data"].iter().chain(args);
        let matches = EvalArgs::augment_args(Command::new("eval")).get_matches_from(given);
        run(EvalArgs::from_arg_matches(&matches).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn an_output_that_cannot_be_written_is_refused_before_the_model_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for option in ["--json", "--html"] {
            let message = refusal(&[option, &path("missing/result")]);
            assert!(message.contains("missing/result") && !message.contains("no model"), "{message}");
        }
        let message = refusal(&["--json", &path("result.json"), "--html", &path("result.html")]);
        assert!(message.contains("no model"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "trying leaves nothing");
    }
}
