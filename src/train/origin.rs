//! What a run began with, known by hashes: the files of `start/`, and the data, wherever they lie now.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files;

/// The file of hashes in `start/`.
const FILE: &str = "manifest.json";
/// Bytes of that file, at most.
const MAX_BYTES: u64 = 1 << 24;

/// The content of `start/manifest.json`. All hashes are BLAKE3, in hexadecimal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Each other file of the folder, by name.
    files: BTreeMap<String, String>,
    /// The data.
    data: DataHashes,
}

/// A hash of each file of data, in the order of the configuration: names and places do not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataHashes {
    train: Vec<String>,
    eval: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    references: Vec<String>,
}

impl DataHashes {
    /// Hashes the files that `config` names.
    ///
    /// # Errors
    /// The user's, for a file that cannot be read, or not a second time.
    pub fn of(config: &Config) -> Result<Self> {
        let hashes = |paths: &[PathBuf]| paths.iter().map(|path| files::hash(path)).collect::<Result<_>>();
        Ok(Self {
            train: hashes(&config.data.train)?,
            eval: hashes(&config.data.eval)?,
            references: hashes(config.data.references.as_slice())?,
        })
    }
}

impl Origin {
    /// Writes the hashes of what stands in `start`, and those of the data, into it.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn write(start: &Path, data: DataHashes) -> Result<()> {
        let json = serde_json::to_vec_pretty(&Self { files: hashes(start)?, data });
        files::write_atomic(&start.join(FILE), &json.map_err(|e| Error::machine(e.to_string()))?)
    }

    /// Reads the folder `start`, whose files must be those that were written.
    ///
    /// # Errors
    /// The user's, with the file that is changed, missing or new.
    pub fn read(start: &Path) -> Result<Self> {
        let path = start.join(FILE);
        let text = files::read_text(&path, MAX_BYTES)?;
        let origin: Self = serde_json::from_str(&text).map_err(|e| Error::user(format!("{}: {e}", path.display())))?;
        let found = hashes(start)?;
        let mut names = origin.files.keys().chain(found.keys());
        match names.find(|name| origin.files.get(*name) != found.get(*name)) {
            Some(name) => Err(Error::user(format!(
                "{} is not what it was when the run began: put it back, or begin another run with another --run",
                start.join(name).display()
            ))),
            None => Ok(origin),
        }
    }

    /// Checks that `now`, the hashes of the data of `config`, are those that the run began with.
    ///
    /// # Errors
    /// The user's, with the file that has other content.
    pub fn check_data(&self, config: &Config, now: &DataHashes) -> Result<()> {
        let sets = [
            ("data.train", &config.data.train[..], &self.data.train, &now.train),
            ("data.eval", &config.data.eval, &self.data.eval, &now.eval),
            ("data.references", config.data.references.as_slice(), &self.data.references, &now.references),
        ];
        for (key, paths, then, now) in sets {
            if then.len() != now.len() {
                return Err(Error::user(format!(
                    "{key} has {} files, and the run began with {}: give the same ones, in the same order",
                    now.len(),
                    then.len()
                )));
            }
            if let Some((path, _)) = paths.iter().zip(then.iter().zip(now)).find(|(_, (then, now))| then != now) {
                return Err(Error::user(format!(
                    "{} is not what it was when the run began: put it back, or begin another run with another --run",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

/// A hash of each file in `start` but the hashes' own.
fn hashes(start: &Path) -> Result<BTreeMap<String, String>> {
    let failed = |e| Error::io("read", start, &e);
    let mut hashes = BTreeMap::new();
    for entry in fs::read_dir(start).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != FILE {
            hashes.insert(name, files::hash(&entry.path())?);
        }
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_byte_or_of_a_name_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let begin = || {
            fs::write(path("weights"), "abcdefgh").unwrap();
            fs::write(path("tokens"), "x").unwrap();
            Origin::write(folder.path(), DataHashes { train: vec!["1".into()], eval: vec![], references: vec![] })
                .unwrap();
        };
        begin();
        let origin = Origin::read(folder.path()).unwrap();
        for bit in 0..64 {
            let mut content = *b"abcdefgh";
            content[bit / 8] ^= 1 << (bit % 8);
            fs::write(path("weights"), content).unwrap();
            let error = Origin::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("weights is not what it was"), "{error}");
        }
        begin();
        fs::remove_file(path("tokens")).unwrap();
        assert!(Origin::read(folder.path()).unwrap_err().to_string().contains("tokens is not what it was"));
        begin();
        fs::write(path("more"), "").unwrap();
        assert!(Origin::read(folder.path()).unwrap_err().to_string().contains("more is not what it was"));

        let mut config = Config::default();
        let now = |train: &[&str]| DataHashes {
            train: train.iter().map(|h| h.to_string()).collect(),
            eval: vec![],
            references: vec![],
        };
        config.data.train = vec!["moved".into()];
        origin.check_data(&config, &now(&["1"])).unwrap();
        let error = origin.check_data(&config, &now(&["2"])).unwrap_err().to_string();
        assert!(error.contains("moved is not what it was"), "{error}");
        let error = origin.check_data(&config, &now(&["1", "1"])).unwrap_err().to_string();
        assert!(error.contains("data.train has 2 files, and the run began with 1"), "{error}");
    }
}
