//! `polar-raw zoo`: writes any amount of the built-in policy zoo as JSONL.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::written;
use crate::config::ZooSection;
use crate::data::Triple;
use crate::files::Staged;
use crate::zoo::{Sample, Split, Zoo};
use crate::{Error, Result};

/// Policies that answer each prompt in `--kind trajectories`.
const POLICIES_PER_PROMPT: usize = 2;
/// Samples of each of them: two, so that every policy can give a reference and a chosen trajectory.
const SAMPLES_PER_POLICY: usize = 2;
/// Zstandard's own default level.
const COMPRESSION_LEVEL: i32 = 3;

/// Write rows of the built-in training data, the policy zoo.
///
/// A policy is a writer: what gives answers. The zoo's policies are stochastic writers that solve small tasks (sums,
/// sorting, weekdays, units ...). Each has its own habits, order of work, skills and randomness; all use the same words
/// and symbols and differ in where they put them. Every row is a function of the seed, the split and its number: the
/// same arguments give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  Read a few rows:
    polar-raw zoo --count 8
  Write a training set, for polar-raw train --data zoo.jsonl.zst:
    polar-raw zoo --count 100000 --output zoo.jsonl.zst
  Write an evaluation set, for polar-raw eval --model DIR --data eval.jsonl:
    polar-raw zoo --kind preferences --split held-out-policies --output eval.jsonl")]
pub struct ZooArgs {
    /// What a row is.
    #[arg(long, value_enum, default_value_t = Kind::Trajectories)]
    kind: Kind,
    /// Rows to write. Trajectories come in groups of four for each prompt; a count that four does not divide cuts the
    /// last group short.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: u64,
    /// Which policies answer which prompts. No held-out prompt occurs in the training split, whatever the count.
    #[arg(long, value_enum, default_value_t = SplitName::Train)]
    split: SplitName,
    /// Seed of policies and prompts; `zoo.seed` of a run's configuration.
    #[arg(long, value_name = "S", default_value_t = ZooSection::default().seed)]
    seed: u64,
    /// Where to write, instead of standard output. A name that ends in .zst is compressed. The file appears under
    /// its name only when it is whole.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The kinds of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// {prompt, policy, output, correct}: for each prompt two samples of each of two policies
    Trajectories,
    /// {prompt, reference, chosen, rejected}: a right and a wrong answer of one policy, beside a right one of another
    Preferences,
    /// {prompt, reference, chosen, rejected}: two samples of one policy, and one of another
    Triples,
}

/// [`Split`] as the command line spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SplitName {
    /// Training policies on training prompts
    Train,
    /// Training policies on prompts that are never trained on
    HeldOutPrompts,
    /// Policies that are never trained on, on held-out prompts
    HeldOutPolicies,
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::HeldOutPrompts => Self::HeldOutPrompts,
            SplitName::HeldOutPolicies => Self::HeldOutPolicies,
        }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// A file that cannot be written. A reader of standard output that has gone away is no error.
pub fn run(args: ZooArgs) -> Result<()> {
    let zoo = Zoo::new(&ZooSection { seed: args.seed, ..ZooSection::default() })?;
    match &args.output {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            written(write_rows(&zoo, &args, &mut out).and_then(|()| out.flush()))
        }
        Some(path) => write_file(path, |out| write_rows(&zoo, &args, out)),
    }
}

fn write_rows(zoo: &Zoo, args: &ZooArgs, out: &mut dyn Write) -> io::Result<()> {
    let split = args.split.into();
    let group = (POLICIES_PER_PROMPT * SAMPLES_PER_POLICY) as u64;
    let mut samples = Vec::new();
    for row in 0..args.count {
        let value = match args.kind {
            Kind::Trajectories => {
                if row % group == 0 {
                    samples = zoo.trajectories(split, row / group, POLICIES_PER_PROMPT, SAMPLES_PER_POLICY);
                }
                trajectory_row(&samples[(row % group) as usize])
            }
            Kind::Preferences => triple_row(&zoo.preference(split, row)),
            Kind::Triples => triple_row(&zoo.triple(split, row)),
        };
        writeln!(out, "{value}")?;
    }
    Ok(())
}

fn trajectory_row(sample: &Sample) -> Value {
    let t = &sample.trajectory;
    json!({ "prompt": t.prompt, "policy": t.policy, "output": t.output, "correct": sample.correct })
}

fn triple_row(t: &Triple) -> Value {
    json!({ "prompt": t.prompt, "reference": t.reference, "chosen": t.chosen, "rejected": t.rejected })
}

/// Writes a file that appears when it is whole, compressed where its name says so.
fn write_file(path: &Path, rows: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut staged = Staged::create(path)?;
    let compressed = path.extension().is_some_and(|e| e == "zst");
    write_rows_to(BufWriter::new(&mut staged), compressed, rows).map_err(|e| Error::io("write", path, &e))?;
    staged.commit()
}

fn write_rows_to(
    mut file: impl Write,
    compressed: bool,
    rows: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if compressed {
        let mut encoder = zstd::Encoder::new(&mut file, COMPRESSION_LEVEL)?;
        rows(&mut encoder)?;
        encoder.finish()?;
    } else {
        rows(&mut file)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        zoo: ZooArgs,
    }

    fn args(line: &str) -> ZooArgs {
        Program::try_parse_from(std::iter::once("zoo").chain(line.split_whitespace())).expect("valid arguments").zoo
    }

    fn rows(text: &[u8]) -> Vec<Value> {
        text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
    }

    #[test]
    fn trajectories_train_as_polar_trajectories() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zoo.jsonl");
        run(args(&format!("--count 8 --output {}", path.display()))).unwrap();
        let rows = rows(&std::fs::read(&path).unwrap());
        assert_eq!(rows.len(), 8);
        for group in rows.chunks(4) {
            assert!(group.iter().all(|r| r["prompt"] == group[0]["prompt"] && r["correct"].is_boolean()));
            assert_eq!(group[0]["policy"], group[1]["policy"]);
            assert_eq!(group[2]["policy"], group[3]["policy"]);
            assert_ne!(group[0]["policy"], group[2]["policy"]);
        }
    }

    #[test]
    fn compressed_and_plain_files_hold_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("a.jsonl"), folder.path().join("a.jsonl.zst"));
        for path in [&plain, &packed] {
            run(args(&format!("--kind preferences --split held-out-policies --count 50 --output {}", path.display())))
                .unwrap();
        }
        let plain = std::fs::read(plain).unwrap();
        assert_eq!(rows(&plain).len(), 50);
        assert_eq!(zstd::decode_all(File::open(packed).unwrap()).unwrap(), plain);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file was left");
    }

    #[test]
    fn an_output_that_cannot_be_written_is_the_users_error() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing/zoo.jsonl")] {
            let error = run(args(&format!("--count 1 --output {}", path.display()))).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
