//! `polar-raw score`: the scores of each row, in order.

mod partial;
mod progress;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::partial::{Partial, fingerprint};
use self::progress::Progress;
use super::device::{Device, DeviceParser};
use super::model::{self, Strings};
use super::places;
use super::trace::Trace;
use crate::data::{ScoreInput, ScoreRow, ScoreRows, Wrapper, files_of};
use crate::error::{Error, Result};
use crate::eval::{Normalise, Scorer};
use crate::model::Model;
use crate::polar::{CutReport, CutSide, Form, TemplateConfig, encode_as_client};
use crate::store::hub;

/// Score candidate answers by how close they are to a reference answer.
///
/// Reads rows {prompt, reference, output}; {prompt, reference, outputs} with a list of candidates, whose common
/// beginning is computed once; or {input_ids} with whole sequences of token ids that end with the score token. A reward
/// model of another family scores in its own form (--form), and needs no reference. Writes
/// a row {score} or {scores, best} for each, in the same order; best is the index of the highest. Higher is closer to
/// the policy of the reference; only scores of one prompt and reference can be compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  polar-raw score --model runs/quickstart/model --input rows.jsonl --output scores.jsonl")]
pub struct ScoreArgs {
    /// The model's folder, such as runs/NAME/model, or its name on the Hugging Face Hub, from the local cache.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows to score, as JSON Lines, a JSON array or Parquet, plain, zstd or gzip: a file, a folder of them, a pattern as
    /// in 'rows-*.jsonl', or - for standard input.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where to write, instead of standard output. The file appears when it is whole; until then FILE.partial and
    /// FILE.progress hold what is done.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on where an interrupted run with the same output stopped, if there was one.
    #[arg(long, requires = "output")]
    resume: bool,
    /// What the string of a candidate is. [default: what the model was trained on: polar, or else its chat template]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// How prompt and trajectory are joined in rows that do not say. [default: as in training; for plain
    /// text pretrain]
    #[arg(long, value_name = "sft|pretrain", value_parser = model::parse_wrapper)]
    wrapper: Option<Wrapper>,
    /// Which end of a reference or candidate that is too long is cut off.
    #[arg(long, value_enum, default_value_t)]
    cut_side: CutSide,
    /// The longest sequence in tokens; prompts are cut to it. [default: as in training]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// The longest reference or candidate in tokens, BOS included. [default: as in training]
    #[arg(long, value_name = "TOKENS")]
    max_response_length: Option<usize>,
    /// Add to each row how many tokens were cut off.
    #[arg(long)]
    report_cuts: bool,
    /// Add normalised scores to each row.
    #[arg(long, value_enum, default_value_t)]
    normalise: Normalise,
    /// What computes; one of the devices of this build.
    #[arg(long, default_value = "auto", value_parser = DeviceParser)]
    device: Device,
    /// Time each operation, which makes the command slower: print a line for each at the end, and write its calls to a
    /// new file for ui.perfetto.dev.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Tokens of one pass, at most, unless two of the longest sequences have more.
const PASS: usize = 4096;
/// Rows of a window, at most: they are read, scored and written together.
const ROWS: usize = 256;
/// Tokens of a row, at most: a window holds one whole row at least, and memory is to be bounded.
const ROW_IDS: usize = 1 << 26;
/// Candidates that a row may have whatever their length.
const ROW_CANDIDATES: usize = 1024;
/// Passes of a window, about.
const PASSES: usize = 16;

/// Takes the answers of a window, with the rows at its end and what was done up to there.
type Sink<'a> = dyn FnMut(&[u8], &ScoreRows, &Totals) -> Result<()> + 'a;

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Totals {
    rows: usize,
    candidates: usize,
    /// Candidates of which something was cut.
    cut: usize,
    cut_tokens: usize,
}

/// Scores every row of the input.
pub fn run(mut args: ScoreArgs) -> Result<()> {
    args.model = hub::locate(&args.model)?;
    let output = args.output.as_deref().map(partial::files);
    let trace = args.trace.as_deref().map(|path| ("--trace", path));
    let written: Vec<_> = output.iter().flatten().map(|path| ("--output", path.as_path())).chain(trace).collect();
    let files = files_of(&args.input)?;
    let inputs = files.iter().map(|path| ("--input", path.as_path())).chain([("--model", &*args.model)]);
    places::check_distinct(&inputs.collect::<Vec<_>>(), &written)?;
    let trace = Trace::to(args.trace.as_deref())?;
    let opened = model::open(&args.model, || trace.open(args.device))?;
    let own = opened.companion.template;
    let template = TemplateConfig {
        wrapper: args.wrapper.unwrap_or(own.wrapper),
        max_length: args.max_length.unwrap_or(own.max_length),
        max_response_length: args.max_response_length.unwrap_or(own.max_response_length),
    };
    template.check("--").map_err(dashes)?;
    let positions = opened.model.config().max_position_embeddings;
    if args.max_length.is_some_and(|length| length > positions) {
        let length = template.max_length;
        return Err(Error::user(format!("--max-length {length}: the model reads at most {positions} tokens")));
    }
    let rows = ScoreRows::open(&args.input)?;
    let progress = Progress::new(rows.bytes().1, args.output.is_none() && io::stdout().is_terminal());
    let mut job = Job {
        args: &args,
        template,
        strings: None,
        vocab: opened.model.config().vocab_size,
        most: positions,
        window: PASSES * PASS.max(2 * template.max_length),
        scorer: Scorer::new(opened.model.clone(), PASS.max(2 * template.max_length))?,
        model: &opened.model,
        progress,
        totals: Totals::default(),
    };
    let result = job.run(rows);
    job.progress.finish();
    result?;
    job.summary();
    trace.finish()
}

/// The options' own spelling of the template's keys.
fn dashes(error: Error) -> Error {
    Error::user(
        error.to_string().replace("max_length =", "max-length").replace("max_response_length =", "max-response-length"),
    )
}

struct Job<'a> {
    args: &'a ScoreArgs,
    template: TemplateConfig,
    /// Read when the first row of text comes: rows of ids need none.
    strings: Option<Strings>,
    vocab: usize,
    /// The longest sequence that the model reads.
    most: usize,
    /// Tokens of a window, about.
    window: usize,
    scorer: Scorer,
    model: &'a Model,
    progress: Progress,
    totals: Totals,
}

/// A row as it will be answered.
struct Encoded {
    place: String,
    sequences: Vec<Vec<u32>>,
    cuts: Vec<CutReport>,
    /// Whether the answer is `scores` or `score`.
    many: bool,
}

impl Job<'_> {
    fn run(&mut self, mut rows: ScoreRows) -> Result<()> {
        let Some(path) = &self.args.output else { return self.print(rows) };
        let settings = self.settings()?;
        let mut partial = if self.args.resume {
            let (partial, totals) = Partial::resume(path, settings, &mut rows)?;
            self.totals = totals;
            partial
        } else {
            Partial::create(path, settings)?
        };
        self.score(rows, &mut |answers, rows, totals| partial.step(answers, rows, totals))?;
        partial.commit()
    }

    fn print(&mut self, rows: ScoreRows) -> Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut gone = false;
        let result = self.score(rows, &mut |answers, _, _| {
            out.write_all(answers).and_then(|()| out.flush()).map_err(|e| {
                gone = e.kind() == io::ErrorKind::BrokenPipe;
                Error::machine(format!("cannot write to standard output: {e}"))
            })
        });
        // A reader that has gone away has seen what it wanted.
        if gone { Ok(()) } else { result }
    }

    /// What the scores depend on besides the rows.
    fn settings(&self) -> Result<Map<String, Value>> {
        let Self { args, template, .. } = self;
        let settings = [
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("model", json!(fingerprint(&args.model)?)),
            ("device", json!(self.model.backend().name())),
            ("form", json!(args.form)),
            ("wrapper", json!(template.wrapper)),
            ("max_length", json!(template.max_length)),
            ("max_response_length", json!(template.max_response_length)),
            ("cut_side", json!(args.cut_side)),
            ("report_cuts", json!(args.report_cuts)),
            ("normalise", json!(args.normalise)),
        ];
        Ok(settings.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
    }

    /// Scores window by window. Where a window ends depends on its own rows alone, so that whoever goes on at one
    /// computes the same passes.
    fn score(&mut self, mut rows: ScoreRows, write: &mut Sink<'_>) -> Result<()> {
        self.progress.begin(rows.bytes().0);
        loop {
            let mut window = Vec::new();
            let mut tokens = 0;
            while window.len() < ROWS && tokens < self.window {
                let Some(row) = rows.next() else { break };
                let row = self.encode(row?)?;
                tokens += row.sequences.iter().map(Vec::len).sum::<usize>();
                window.push(row);
            }
            if window.is_empty() {
                return Ok(());
            }
            let groups: Vec<_> = window.iter_mut().map(|row| std::mem::take(&mut row.sequences)).collect();
            let mut scores = &self.scorer.score(&groups)?[..];
            let mut answers = Vec::new();
            for (row, group) in window.iter().zip(&groups) {
                let (own, others) = scores.split_at(group.len());
                scores = others;
                let answer = self.answer(row, own)?;
                writeln!(answers, "{answer}").map_err(|e| Error::machine(e.to_string()))?;
            }
            write(&answers, &rows, &self.totals)?;
            self.progress.show(self.totals.rows, rows.bytes().0, self.scorer.computed_tokens());
        }
    }

    fn answer(&mut self, row: &Encoded, scores: &[f32]) -> Result<Value> {
        let normalise = self.args.normalise;
        if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
            let place = &row.place;
            return Err(Error::machine(format!("{place}: the score is {score}; the model's weights may be damaged")));
        }
        let normalised = normalise.apply(scores);
        let scores = if normalise == Normalise::Reference { &scores[..scores.len() - 1] } else { scores };
        let cuts = &row.cuts[..row.cuts.len().min(scores.len())];
        self.totals.rows += 1;
        self.totals.candidates += scores.len();
        for cut in cuts.iter().filter(|cut| cut.any()) {
            self.totals.cut += 1;
            self.totals.cut_tokens += cut.prompt + cut.reference + cut.candidates;
        }
        let cut = |cut: &CutReport| json!({"prompt": cut.prompt, "reference": cut.reference, "output": cut.candidates});
        let cuts = self.args.report_cuts.then(|| cuts.iter().map(cut).collect::<Vec<_>>());
        let mut answer = Map::new();
        if row.many {
            answer.insert("scores".into(), json!(scores));
            answer.extend(normalised.map(|values| ("normalised".into(), json!(values))));
            answer.insert("best".into(), json!(best(scores)));
            answer.extend(cuts.map(|cuts| ("cut".into(), json!(cuts))));
        } else {
            answer.insert("score".into(), json!(scores.first()));
            answer.extend(normalised.map(|values| ("normalised".into(), json!(values.first()))));
            answer.extend(cuts.map(|cuts| ("cut".into(), json!(cuts.first()))));
        }
        Ok(Value::Object(answer))
    }

    fn encode(&mut self, row: ScoreRow) -> Result<Encoded> {
        let place = row.place();
        self.encoded(row).map_err(|error| error.context(place))
    }

    fn encoded(&mut self, row: ScoreRow) -> Result<Encoded> {
        let (place, input) = (row.place(), row.input);
        let normalise = self.args.normalise;
        let many = matches!(input, ScoreInput::BestOf { .. });
        if normalise.needs_group() && !many {
            return Err(Error::user("--normalise z-score and rank compare candidates of one row: give it \"outputs\""));
        }
        let (prompt, messages, reference, outputs, wrapper) = match input {
            ScoreInput::Ids(ids) => {
                let sequences = vec![self.checked(ids)?];
                return Ok(Encoded { place, sequences, cuts: vec![CutReport::default()], many });
            }
            ScoreInput::Text { prompt, messages, reference, output, wrapper } => {
                (prompt, messages, reference, vec![output], wrapper)
            }
            ScoreInput::BestOf { prompt, messages, reference, outputs, wrapper } => {
                (prompt, messages, reference, outputs, wrapper)
            }
        };
        let template = TemplateConfig { wrapper: wrapper.unwrap_or(self.template.wrapper), ..self.template };
        let Strings { tokenizer, own, .. } = match &mut self.strings {
            Some(strings) => strings,
            empty => empty.insert(model::strings(&self.args.model, self.model, self.args.form)?),
        };
        if let Some(own) = own {
            if normalise == Normalise::Reference {
                return Err(Error::user(
                    "--normalise reference needs a model of POLAR's form: others compare with none",
                ));
            }
            let wrapper = wrapper.or(self.args.wrapper).unwrap_or(Wrapper::Pretrain);
            check_count(outputs.len(), self.most)?;
            let sequences: Vec<_> =
                outputs.iter().map(|output| own.encode(&messages, output, wrapper)).collect::<Result<_>>()?;
            let cuts = vec![CutReport::default(); sequences.len()];
            return Ok(Encoded { place, sequences, cuts, many });
        }
        let reference = reference.ok_or_else(|| {
            Error::user("missing key \"reference\": a model of POLAR's form compares candidates with a reference")
        })?;
        let mut candidates: Vec<&str> = outputs.iter().map(String::as_str).collect();
        if normalise == Normalise::Reference {
            candidates.push(&reference);
        }
        check_count(candidates.len(), template.max_length)?;
        let cut = encode_as_client(tokenizer, &prompt, &reference, &candidates, &template, self.args.cut_side)?;
        let (sequences, cuts) = cut.into_iter().map(|cut| (cut.ids, cut.cut)).unzip();
        Ok(Encoded { place, sequences, cuts, many })
    }

    fn checked(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        let (len, vocab, most) = (ids.len(), self.vocab, self.most);
        if self.args.normalise == Normalise::Reference {
            return Err(Error::user("--normalise reference needs the reference's text; input_ids has none"));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::user(format!("input_ids has {id}, not below vocab_size = {vocab}")));
        }
        if len > most {
            return Err(Error::user(format!("input_ids has {len} ids; the model reads at most {most}")));
        }
        if let Some(score) = self.model.config().special.reward.filter(|score| ids.last() != Some(score)) {
            return Err(Error::user(format!(
                "input_ids does not end with the score token, {score}, where the score is read"
            )));
        }
        Ok(ids)
    }

    /// What was done and cut.
    fn summary(&self) {
        let Totals { rows, candidates, cut, cut_tokens } = self.totals;
        let speed = self.scorer.computed_tokens() as f64 / self.progress.seconds();
        let cuts = match cut {
            0 => "nothing was cut".into(),
            _ => format!("{cut_tokens} tokens were cut off the texts of {cut} of them (--report-cuts says which)"),
        };
        tracing::info!(
            candidates,
            rows,
            cut,
            cut_tokens,
            "{candidates} candidates in {rows} rows, {speed:.0} tok/s; {cuts}"
        );
    }
}

/// Refuses a row of more candidates than memory is meant for, each of up to `longest` tokens.
fn check_count(count: usize, longest: usize) -> Result<()> {
    if count.saturating_mul(longest) > ROW_IDS && count > ROW_CANDIDATES {
        return Err(Error::user(format!(
            "{count} outputs of up to {longest} tokens are too many for one row: give at most {} a row",
            ROW_CANDIDATES.max(ROW_IDS / longest)
        )));
    }
    Ok(())
}

/// The index of the highest score, the first of equals.
fn best(scores: &[f32]) -> usize {
    scores.iter().enumerate().fold(0, |best, (i, score)| if *score > scores[best] { i } else { best })
}
