//! The configuration of a run: TOML sections, presets, `--set section.key=value`.

mod check;
mod explain;
mod presets;
mod sections;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::files;

pub use explain::nearest;
pub use sections::*;

/// Bytes of a configuration file, at most.
const MAX_BYTES: u64 = 1 << 20;

impl Config {
    /// Reads a TOML file; keys that it leaves out have their defaults.
    ///
    /// # Errors
    /// Names file, line and key of what is malformed, unknown, of the wrong type or out of range.
    pub fn load(path: &Path) -> Result<Self> {
        let text = files::read_text(path, MAX_BYTES)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads TOML text; `source` names it in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, source: &str) -> Result<Self> {
        let place = |error: &toml::de::Error| match error.span() {
            Some(span) => format!("{source}:{}", files::line_of(text.as_bytes(), span.start)),
            None => source.to_string(),
        };
        let refuse = |error: toml::de::Error| Error::user(explain::error(&error)).context(place(&error));
        toml::from_str::<Self>(text).map_err(refuse)?;
        // Read a second time through a table, which also refuses a list with too many elements.
        let table: Table = toml::from_str(text).map_err(refuse)?;
        let given = |key: &str| table.get("train").is_some_and(|train| train.get(key).is_some());
        let lengths = ["steps", "epochs"].map(given);
        let mut config = Value::Table(table).try_into::<Self>().map_err(refuse)?;
        config.settle_length(lengths);
        config.validate().map_err(|e| e.context(source))?;
        Ok(config)
    }

    /// The preset called `name`; [`Config::presets`] lists them.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn preset(name: &str) -> Result<Self> {
        match presets::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::parse(text, &format!("preset {name}")),
            None => {
                let names = presets::ALL.map(|(known, _)| known);
                Err(Error::user(format!("there is no preset `{name}`{}", explain::suggestion(name, &names))))
            }
        }
    }

    /// Name and one-line summary of every preset.
    pub fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
        presets::ALL.into_iter().map(|(name, text)| (name, text.lines().next().unwrap_or("").trim_start_matches("# ")))
    }

    /// Sets one value: `assignment` is `section.key=value`, the value in TOML's notation; what is no TOML value is
    /// taken as a string. Ranges are left to [`Config::validate`], since several assignments may belong together.
    ///
    /// # Errors
    /// When section or key are unknown or the value has the wrong type.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let refuse = |why: String| Error::user(format!("--set {assignment}: {why}"));
        let Some((path, value)) = assignment.split_once('=') else {
            return Err(refuse("expected section.key=value".into()));
        };
        let Some((section, key)) = path.trim().rsplit_once('.') else {
            return Err(refuse(format!("`{}` names no section; expected section.key=value", path.trim())));
        };
        let mut table = Table::try_from(&*self).map_err(|e| refuse(e.to_string()))?;
        let mut keys = &mut table;
        for name in section.split('.') {
            let entry = keys.entry(name).or_insert_with(|| Value::Table(Table::new()));
            let Some(inner) = entry.as_table_mut() else { return Err(refuse(format!("`{section}` is not a section"))) };
            keys = inner;
        }
        keys.insert(key.to_string(), parse_value(value.trim()));
        *self = Self::deserialize(Value::Table(table)).map_err(|e| refuse(explain::error(&e)))?;
        Ok(())
    }

    /// [`Config::set`] of all `assignments`, of which one of `train.steps` or `train.epochs` takes the place of the other.
    ///
    /// # Errors
    /// As [`Config::set`].
    pub fn set_all(&mut self, assignments: &[String]) -> Result<()> {
        assignments.iter().try_for_each(|assignment| self.set(assignment))?;
        let key = |assignment: &String| assignment.split_once('=').map(|(key, _)| key.trim().to_string());
        let keys: Vec<String> = assignments.iter().filter_map(key).collect();
        self.settle_length(["train.steps", "train.epochs"].map(|length| keys.iter().any(|key| key == length)));
        Ok(())
    }

    /// Of the two keys that say how long a run is, the one that was `given`, steps first, holds and not what the other one
    /// was before. Where both were given, [`Config::validate`] says so.
    fn settle_length(&mut self, given: [bool; 2]) {
        match given {
            [false, true] if self.train.epochs > 0 => self.train.steps = 0,
            [true, false] => self.train.epochs = 0,
            _ => {}
        }
    }

    /// The configuration as TOML with every key. Reading it gives an equal configuration.
    ///
    /// # Errors
    /// When a path is not UTF-8, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::user(format!("the configuration cannot be saved as TOML: {e}")))
    }

    /// The JSON Schema (draft 2020-12) of a configuration file: keys, types, names, defaults. Ranges are left to
    /// [`Config::validate`].
    pub fn schema() -> serde_json::Value {
        let mut schema = schemars::schema_for!(Self);
        schema.insert("title".into(), "configuration of polar-raw train".into());
        schema.to_value()
    }

    /// The keys in which this one differs from `other`.
    ///
    /// # Errors
    /// As [`Config::to_toml`].
    pub fn differences(&self, other: &Self) -> Result<Vec<Difference>> {
        let values = |config: &Self| -> Result<BTreeMap<String, Value>> {
            let mut values = BTreeMap::new();
            flatten("", Table::try_from(config).map_err(|e| Error::user(e.to_string()))?, &mut values);
            Ok(values)
        };
        let (here, there) = (values(self)?, values(other)?);
        let show = |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
        let names: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        // What is kept for the backward pass changes no bit, and a run may go on on another card.
        let differ = names.into_iter().filter(|key| *key != "train.keep" && here.get(*key) != there.get(*key));
        let difference = |key: &String| {
            let (here, there) = (show(here.get(key)), show(there.get(key)));
            Difference { key: key.clone(), here, there }
        };
        Ok(differ.map(difference).collect())
    }
}

/// A value that is not the same in two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name, `section.key` if it is of a configuration.
    pub key: String,
    /// The value in the one, in TOML if it is of a configuration.
    pub here: String,
    /// The value in the other.
    pub there: String,
}

impl Difference {
    /// Whether a run may go on with another value of this key: it decides what is still to come, and nothing that was.
    pub fn may_change(&self) -> bool {
        let whole = |section: &str| self.key.starts_with(section);
        let keys = ["steps", "epochs", "checkpoint_every", "keep_best", "patience"].map(|key| format!("train.{key}"));
        keys.contains(&self.key) || self.key == "optimizer.lr" || whole("schedule.") || whole("eval.")
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} instead of {}", self.key, self.here, self.there)
    }
}

/// Puts every value of `table` into `values`, under its name with those of the sections around it.
fn flatten(section: &str, table: Table, values: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let name = if section.is_empty() { key } else { format!("{section}.{key}") };
        match value {
            Value::Table(inner) => flatten(&name, inner, values),
            value => drop(values.insert(name, value)),
        }
    }
}

/// `text` as a TOML value, or as a string when it is none.
fn parse_value(text: &str) -> Value {
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value"),
        _ => None,
    }
    .unwrap_or_else(|| Value::String(text.to_string()))
}

#[cfg(test)]
mod tests;
