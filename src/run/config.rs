//! `config.toml` in a run's folder: the configuration, and below it, in comments, what computes the run, what was changed
//! on the way, and a hash of all that. It is one file, so that it is replaced in one step.

use std::fmt::{self, Display, Formatter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::config::{Config, Difference};
use crate::error::{Error, Result};
use crate::files;

/// The file's name.
pub const CONFIG: &str = "config.toml";
/// Bytes of the file, at most.
const MAX_BYTES: u64 = 1 << 20;
const ADVICE: &str = "# To change a value: polar-raw train --run DIR --resume --set SECTION.KEY=VALUE\n";
const MACHINE: &str = "# computed with: ";
const CHANGE: &str = "# changed: ";
const HASH: &str = "# blake3: ";

/// A run's configuration, with what else decides its bits.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The values that hold now.
    pub config: Config,
    /// What computes.
    pub machine: Machine,
    /// What held before, the oldest first.
    pub changes: Vec<Change>,
}

/// A value that was changed between two steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Steps that were done with the value before.
    pub after_step: u64,
    /// Its name, `section.key`.
    pub key: String,
    /// The value before, in TOML.
    pub from: String,
    /// The value since, in TOML.
    pub to: String,
}

impl Change {
    /// Of a value that is `difference.here` since `after_step` steps were done.
    pub fn new(after_step: u64, difference: &Difference) -> Self {
        let Difference { key, here, there } = difference.clone();
        Self { after_step, key, from: there, to: here }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}, was {}", self.key, self.to, self.from)
    }
}

/// What decides the bits of a run beside its configuration and data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// [`Backend::name`].
    device: String,
    /// [`Backend::float`].
    float: String,
    /// [`Backend::accumulator`].
    accumulator: String,
    /// Threads of the [`Backend::host`].
    threads: Option<usize>,
    /// Its vector instructions.
    instructions: Option<String>,
}

impl Machine {
    /// Of a device.
    pub fn of(backend: &dyn Backend) -> Self {
        Self {
            device: backend.name(),
            float: backend.float().to_string(),
            accumulator: backend.accumulator().to_string(),
            threads: backend.host().map(|host| host.threads),
            instructions: backend.host().map(|host| host.instructions.into()),
        }
    }

    /// In what this machine differs from `then`.
    pub fn differences(&self, then: &Self) -> Vec<Difference> {
        let values = |m: &Self| {
            let threads = m.threads.map_or("any number".into(), |threads| threads.to_string());
            [
                ("device", m.device.clone()),
                ("float", m.float.clone()),
                ("accumulator", m.accumulator.clone()),
                ("threads", threads),
                ("instructions", m.instructions.clone().unwrap_or_else(|| "any".into())),
            ]
        };
        let pairs = values(self).into_iter().zip(values(then));
        let differ = pairs.filter(|((_, here), (_, there))| here != there);
        differ.map(|((key, here), (_, there))| Difference { key: key.into(), here, there }).collect()
    }
}

impl RunConfig {
    /// Reads the file in the folder `run`.
    ///
    /// # Errors
    /// The user's, when it is not as the run wrote it.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join(CONFIG);
        let text = files::read_text(&path, MAX_BYTES)?;
        let changed = || {
            Error::user(format!(
                "{} is not what the run wrote: it was edited or damaged, or an earlier version began the run. Put it \
                 back; a value is changed with --resume --set SECTION.KEY=VALUE, the place of data with --resume \
                 --data FILE",
                path.display()
            ))
        };
        let (body, hash) = text.trim_end().rsplit_once(HASH).ok_or_else(changed)?;
        if blake3::hash(body.as_bytes()).to_hex().as_str() != hash {
            return Err(changed());
        }
        // The configuration ends with numbers, so that what follows it are comments and no part of a value.
        let comments: Vec<&str> = body.lines().rev().take_while(|line| line.starts_with('#')).collect();
        let place = |e: serde_json::Error| Error::user(format!("{}: {e}", path.display()));
        let machine = comments.iter().find_map(|line| line.strip_prefix(MACHINE)).ok_or_else(changed)?;
        let changes = comments.iter().rev().filter_map(|line| line.strip_prefix(CHANGE));
        Ok(Self {
            config: Config::parse(body, &path.display().to_string())?,
            machine: serde_json::from_str(machine).map_err(place)?,
            changes: changes.map(|json| serde_json::from_str(json).map_err(place)).collect::<Result<_>>()?,
        })
    }

    /// Replaces the file in the folder `run`.
    ///
    /// # Errors
    /// The user's for a path that is not UTF-8, and the machine's when the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let failed = |e: serde_json::Error| Error::machine(e.to_string());
        let mut text = self.config.to_toml()?;
        let machine = serde_json::to_string(&self.machine).map_err(failed)?;
        let _ = write!(text, "\n{ADVICE}{MACHINE}{machine}\n");
        for change in &self.changes {
            let _ = writeln!(text, "{CHANGE}{}", serde_json::to_string(change).map_err(failed)?);
        }
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let _ = writeln!(text, "{HASH}{hash}");
        files::write_atomic(&run.join(CONFIG), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_reads_back_and_every_edit_is_found() {
        let run = tempfile::tempdir().unwrap();
        let machine = Machine {
            device: "a \"card\"".into(),
            float: "f32".into(),
            accumulator: "f64".into(),
            threads: Some(2),
            instructions: None,
        };
        let change =
            |after_step, key: &str| Change { after_step, key: key.into(), from: "\"#\n\"".into(), to: "2".into() };
        let mut config = Config::default();
        config.data.train.push("a\n# blake3: b".into());
        let written = RunConfig { config, machine: machine.clone(), changes: vec![change(3, "a"), change(5, "b")] };
        written.write(run.path()).unwrap();
        assert_eq!(RunConfig::read(run.path()).unwrap(), written);
        let path = run.path().join(CONFIG);
        assert_eq!(Config::load(&path).unwrap(), written.config);

        let text = fs::read_to_string(&path).unwrap();
        let edits =
            [("seed = 1\n", "seed = 2\n"), ("\"threads\":2", "\"threads\":3"), ("# changed", "# Changed"), (HASH, "")];
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let error = RunConfig::read(run.path()).unwrap_err().to_string();
            assert!(error.contains("is not what the run wrote") && error.contains("--resume --set"), "{error}");
        }
        let other = Machine { threads: None, instructions: Some("avx2".into()), ..machine.clone() };
        let differences: Vec<_> = other.differences(&machine).iter().map(Difference::to_string).collect();
        assert_eq!(differences, ["threads: any number instead of 2", "instructions: avx2 instead of any"]);
    }
}
