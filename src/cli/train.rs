//! `polar-raw train`: from data to a trained, evaluated reward model.

use std::path::{Path, PathBuf};

use super::device::{Device, DeviceParser};
use super::trace::Trace;
use super::{print, signals};
use crate::backend::Footprint;
use crate::config::Config;
use crate::cuda;
use crate::data::files_to_keep;
use crate::error::{Error, Result};
use crate::eval::warnings;
use crate::model::Keep;
use crate::run::config::RunConfig;
use crate::store::hub;
use crate::train::plan::{PlannedBuffer, Sizes, gib, memory_of};
use crate::train::run::{self, Ended, Request};
use crate::train::run_folder;
use crate::train::setup::{Setup, is_without_data, sizes_without_data};

/// The preset of a run that names none and has no data: the policy zoo.
const ZOO_PRESET: &str = "quickstart";
/// The preset of a run that names none and has data.
const FILES_PRESET: &str = "files";
/// The folder of runs that name none.
const RUNS: &str = "runs";

/// Train a reward model or a language model, evaluate it and write a report.
///
/// Without arguments this is the quick start: a small model learns, in minutes, to tell which of two answers was
/// written by the same policy as a reference, on policies made up for the purpose, and is measured on prompts and
/// policies that it has never seen. With --data it learns from your own rows, known by their keys: trajectories
/// {prompt, policy, output}, preferences {prompt, reference, chosen, rejected}, pairs of token ids {chosen_ids,
/// rejected_ids}, or, with --set objective.kind=lm, documents {prompt, output} or {text}.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polar-raw train
  polar-raw train --preset longer --run runs/my-longer-run
  polar-raw train --preset gsm8k --data train.jsonl --eval-data dev.jsonl
  polar-raw train --data trajectories.jsonl.zst --set train.steps=2000 --set optimizer.lr=1e-3
  polar-raw train --init runs/quickstart/model --data preferences.jsonl
  polar-raw train --init runs/quickstart/model --data preferences.jsonl --set train.lora.rank=8
  polar-raw train --run runs/my-run --resume

Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 saves and stops; --resume goes on from there, to the same weights bit for bit.")]
pub struct TrainArgs {
    /// A built-in configuration; see --list-presets. [default: quickstart, or with --data: files]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// A configuration in TOML; what it leaves out has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one value of the configuration, over preset or file, as in train.steps=2000. May be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Rows to train on, as JSON Lines, a JSON array or Parquet, plain, zstd or gzip: a file, a folder of them, or a pattern
    /// as in 'rows-*.jsonl'. May be given several times.
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Rows to evaluate on at the end, beside --data, each file for itself; without it a share of --data's prompts is held
    /// out.
    #[arg(long, value_name = "FILE")]
    eval_data: Vec<PathBuf>,
    /// References of rows to train on that have none, such as TRL's {prompt, chosen, rejected}: rows {id, reference} or
    /// {prompt, reference}.
    #[arg(long, value_name = "FILE")]
    references: Option<PathBuf>,
    /// Start from the weights, tokenizer and architecture in a model's folder, such as runs/NAME/model, or of a model's
    /// name on the Hugging Face Hub, from the local cache.
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,
    /// The run's folder. [default: runs/NAME, with a number if that exists]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Go on with an interrupted run; without --run, with the last of its name. --set then changes steps or epochs,
    /// learning rate, checkpoints, patience or evaluation of the run, and --data says where its data lie now.
    #[arg(long)]
    resume: bool,
    /// With --resume: go on on another device or with another number of threads, and so to weights with other bits.
    #[arg(long, requires = "resume")]
    accept_other_bits: bool,
    /// What computes; one of the devices of this build.
    #[arg(long, default_value = "auto", value_parser = DeviceParser)]
    device: Device,
    /// Time each operation, which makes the command slower: print a line for each at the end, and write its calls to a
    /// new file for ui.perfetto.dev.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "list_presets"])]
    trace: Option<PathBuf>,
    /// Print model, data, plan and memory, train nothing and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: plan for a card that need not be here: h100, a100, 4090, ..., or its memory, as in 24GiB.
    #[arg(long, value_name = "CARD", requires = "dry_run")]
    card: Option<String>,
    /// Print the built-in configurations, one a line.
    #[arg(long)]
    list_presets: bool,
}

/// Trains, or says what it would train.
pub fn run(args: TrainArgs) -> Result<()> {
    if args.list_presets {
        return Config::presets().try_for_each(|(name, about)| print(format_args!("{name:12} {about}")));
    }
    let folder = args.folder()?;
    let config = args.config(&folder)?;
    if args.dry_run {
        return dry_run(&args, &config, &folder);
    }
    let trace = Trace::to(args.trace.as_deref())?;
    let backend = trace.open(args.device)?;
    let stop = signals::stop_flag()?;
    tracing::info!("run folder: {}", folder.display());
    let (resume, accept_other_bits) = (args.resume, args.accept_other_bits);
    let request = Request { config, run: folder, resume, accept_other_bits, backend, stop };
    let ended = run::run(request);
    // What the run ends with comes first, and a run that fails leaves its trace too.
    let said = ended.and_then(say);
    let traced = trace.finish();
    said.and(traced)
}

/// Prints what a run ended with.
fn say(ended: Ended) -> Result<()> {
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Before { model, report } => {
            print("the run had finished before: nothing was changed")?;
            print(format_args!("model   {}", model.display()))?;
            print(format_args!("report  {}", report.display()))
        }
        Ended::Finished(outcome) => {
            print("")?;
            outcome.facts.iter().try_for_each(|(what, value)| print(format_args!("{what}: {value}")))?;
            print("")?;
            if !outcome.table.rows.is_empty() {
                print(&outcome.table)?;
                warnings(&outcome.table.rows).iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            print(format_args!("model   {}", outcome.model.display()))?;
            print(format_args!("report  {}", outcome.report.display()))
        }
    }
}

impl TrainArgs {
    /// The preset that is asked for, or the one for the kind of data.
    fn preset(&self) -> &str {
        let default = if self.data.is_empty() { ZOO_PRESET } else { FILES_PRESET };
        self.preset.as_deref().unwrap_or(default)
    }

    /// A name for what is run: the preset's or the configuration file's.
    fn name(&self) -> String {
        match &self.config {
            Some(file) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            None => self.preset().to_string(),
        }
    }

    /// Whether anything but the folder of a run to resume was given.
    fn describes_a_run(&self) -> bool {
        let files = !self.data.is_empty() || !self.eval_data.is_empty();
        let files = files || self.references.is_some() || self.init.is_some();
        self.preset.is_some() || self.config.is_some() || !self.set.is_empty() || files
    }

    fn folder(&self) -> Result<PathBuf> {
        if let Some(run) = &self.run {
            return Ok(run.clone());
        }
        let name = self.name();
        let numbered = |n: u64| Path::new(RUNS).join(if n == 1 { name.clone() } else { format!("{name}-{n}") });
        let number = |entry: std::fs::DirEntry| {
            let found = entry.file_name().into_string().ok()?;
            let rest = found.strip_prefix(&name)?;
            let number = if rest.is_empty() { 1 } else { rest.strip_prefix('-')?.parse().ok()? };
            let path = numbered(number);
            // To go on it takes a run; for a new one, whatever has the name is in the way.
            (path.ends_with(&found) && (!self.resume || run_folder::is_begun(&path))).then_some(number)
        };
        // Where there is not a folder of runs there is no run.
        let last = std::fs::read_dir(RUNS).ok().and_then(|entries| entries.flatten().filter_map(number).max());
        match (self.resume, last) {
            (true, None) => {
                Err(Error::user(format!("no run to resume at {}: give its folder with --run", numbered(1).display())))
            }
            (true, Some(last)) => Ok(numbered(last)),
            (false, last) => Ok(numbered(last.map_or(1, |last: u64| last.saturating_add(1)))),
        }
    }

    fn config(&self, folder: &Path) -> Result<Config> {
        let begun = self.resume && run_folder::is_begun(folder);
        if self.resume && !begun && !self.describes_a_run() {
            return Err(Error::user(format!(
                "{} holds no run to resume: begin one without --resume, or give another --run",
                folder.display()
            )));
        }
        let own = begun && self.config.is_none() && self.preset.is_none();
        let mut config = match &self.config {
            Some(file) => Config::load(file)?,
            None if own => RunConfig::read(folder)?.config,
            None => Config::preset(self.preset())?,
        };
        config.set_all(&self.set)?;
        // Over a run's own configuration they say where the same data lie now.
        let place = |files: &mut Vec<PathBuf>, given: &[PathBuf]| match own && !given.is_empty() {
            true => *files = given.to_vec(),
            false => files.extend_from_slice(given),
        };
        place(&mut config.data.train, &self.data);
        place(&mut config.data.eval, &self.eval_data);
        config.data.references = self.references.clone().or(config.data.references);
        // What a folder or a pattern stands for is settled when the run begins.
        for files in [&mut config.data.train, &mut config.data.eval] {
            *files = files_to_keep(files)?;
        }
        if let Some(init) = self.init.as_ref().or(config.train.init.as_ref().filter(|_| !own)) {
            // A run that has begun has its own copy, and compares the path alone: what it began with may be gone.
            let located = hub::locate(init).or_else(|error| if begun { Ok(init.clone()) } else { Err(error) });
            config.train.init = Some(located?);
        }
        config.validate()?;
        make_absolute(&mut config)?;
        Ok(config)
    }
}

/// Makes all paths absolute: a run may be resumed from another folder.
fn make_absolute(config: &mut Config) -> Result<()> {
    let files = config.data.train.iter_mut().chain(&mut config.data.eval).chain(&mut config.data.references);
    let files = files.chain(&mut config.tokenizer.path);
    for path in files.chain(&mut config.train.init) {
        *path = std::path::absolute(&path).map_err(|e| Error::io("find", path, &e))?;
    }
    Ok(())
}

/// Prints what would be trained and what it takes of the device's memory.
fn dry_run(args: &TrainArgs, config: &Config, folder: &Path) -> Result<()> {
    let place = Place::new(args)?;
    let start = run_folder::start(config, folder);
    if is_without_data(config) {
        let sizes = sizes_without_data(config, &start)?;
        print_model(&sizes)?;
        print("data      none: give --data FILE")?;
        return print_memory(&sizes, config, &place);
    }
    let setup = Setup::new(config, start)?;
    let sizes = setup.sizes();
    print_model(&sizes)?;
    for note in &setup.notes {
        print(note)?;
    }
    setup.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    for set in &setup.eval_sets {
        print(format_args!("evaluate  {} on {}", set.len(), set.name()))?;
    }
    let first = setup.feeder.batch(0)?;
    print(format_args!(
        "plan      {} steps of {}, in packs of at most {} tokens; the first step: {} packs, {} tokens, {} saved by shared prefixes",
        setup.steps,
        config.train.batch_size,
        config.data.pack_length,
        first.packs.len(),
        first.tokens(),
        first.tokens_saved()
    ))?;
    print(format_args!("run       would be written to {}", folder.display()))?;
    print_memory(&sizes, config, &place)
}

/// Where a run is planned for: a device that is here, or a card that need not be.
struct Place {
    name: String,
    footprint: Footprint,
    /// Bytes that the run can have; none where nothing is known to bound them.
    free: Option<usize>,
}

impl Place {
    fn new(args: &TrainArgs) -> Result<Self> {
        if let Some(card) = &args.card {
            return Ok(Self { name: card.clone(), footprint: cuda::footprint(), free: Some(memory_of(card)?) });
        }
        let backend = args.device.open()?;
        Ok(Self { name: backend.name(), footprint: backend.footprint(), free: backend.free_memory()? })
    }
}

fn print_model(sizes: &Sizes) -> Result<()> {
    let model = &sizes.config;
    print(format_args!(
        "model     {} parameters: {} layers, hidden {}, ffn {}, {} query and {} key/value heads of {}, {} ids",
        model.parameters(sizes.outputs),
        model.num_hidden_layers,
        model.hidden_size,
        model.intermediate_size,
        model.num_attention_heads,
        model.num_key_value_heads,
        model.head_dim,
        model.vocab_size
    ))?;
    let Some(lora) = &model.lora else { return Ok(()) };
    let trained = model.adapter_parameters(sizes.outputs);
    print(format_args!("trains    {trained} of them: the head, and {}", lora.describe()))
}

fn print_memory(sizes: &Sizes, config: &Config, place: &Place) -> Result<()> {
    let plan = sizes.choose(&place.footprint, config.train.keep, place.free);
    // What does not fit is shown too, as small as it gets.
    let shown = match &plan {
        Ok(plan) => plan.clone(),
        Err(_) => sizes.plan(&place.footprint, config.train.keep.policy().unwrap_or(Keep::Block)),
    };
    print(format_args!("memory    on {}, with packs of {} tokens", place.name, sizes.capacity.tokens))?;
    for PlannedBuffer { name, bytes } in &shown.parts {
        print(format_args!("          {name:<11} {:>9}", gib(*bytes)))?;
    }
    print(format_args!("          in all      {:>9}", gib(shown.total())))?;
    if shown.staging > 0 {
        print(format_args!("          and {} of the host's for copies", gib(shown.staging)))?;
    }
    for keep in Keep::ALL {
        let total = sizes.plan(&place.footprint, keep).total();
        let chosen = if keep == shown.keep { "  <" } else { "" };
        print(format_args!("keep      {:<11} {:>9}{chosen}", keep.to_string(), gib(total)))?;
    }
    let Some(free) = place.free else { return Ok(()) };
    plan?;
    print(format_args!("fits      {} can be used, {} of it stay free", gib(free), gib(free - shown.total())))
}
