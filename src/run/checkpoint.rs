//! A checkpoint of a run as a model: its weights, and what stands beside it in the run's folder: architecture and tokenizer
//! in `start/`, how strings are built in `config.toml`.

use std::path::{Path, PathBuf};

use super::config::{CONFIG, RunConfig};
use super::manifest::Manifest;
use super::{CHECKPOINTS, COMPLETE, PARAMS, START};
use crate::error::{Error, Result};
use crate::formats::{Encoding, TensorEntry, Tensors};
use crate::model::ModelConfig;
use crate::objective;
use crate::polar::TemplateConfig;
use crate::tensor::Dtype;

/// The architecture of a model in its folder.
const ARCHITECTURE: &str = "config.json";

/// A checkpoint's folder, `RUN/checkpoints/step-…`.
#[derive(Debug)]
pub struct RunCheckpoint {
    folder: PathBuf,
    run: PathBuf,
}

impl RunCheckpoint {
    /// `path`, if that is the folder of a checkpoint.
    ///
    /// # Errors
    /// The user's, when it has been taken out of its run's folder.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        if !path.join(COMPLETE).is_file() {
            return Ok(None);
        }
        let folder = path.canonicalize().map_err(|e| Error::io("read", path, &e))?;
        let run = folder.parent().and_then(Path::parent).unwrap_or(&folder).to_path_buf();
        let missing = [run.join(START).join(ARCHITECTURE), run.join(CONFIG)].into_iter().find(|file| !file.is_file());
        match missing {
            None => Ok(Some(Self { folder: path.to_path_buf(), run })),
            Some(missing) => Err(Error::user(format!(
                "{} is a checkpoint, whose architecture and tokenizer are those of its run, and there is no {}: give it \
                 where it was made, as RUN/{CHECKPOINTS}/step-NUMBER",
                path.display(),
                missing.display()
            ))),
        }
    }

    /// The folder with architecture and tokenizer.
    pub fn start(&self) -> PathBuf {
        self.run.join(START)
    }

    /// How strings are built and cut for a model of `config`.
    ///
    /// # Errors
    /// The user's, when the run's configuration cannot be read.
    pub fn template(&self, config: &ModelConfig) -> Result<TemplateConfig> {
        let template = TemplateConfig::new(&RunConfig::read(&self.run)?.config.data)?;
        // Rows of token ids are not cut, and may say more than the model reads.
        Ok(TemplateConfig { max_length: template.max_length.min(config.max_position_embeddings), ..template })
    }

    /// The weights in full precision, which must have the checksums of the manifest.
    ///
    /// # Errors
    /// The user's, when they are damaged or not of `config`.
    pub fn tensors(&self, config: &ModelConfig) -> Result<Tensors> {
        let refuse = |why: String| Error::user(format!("{}: {why}", self.folder.display()));
        let files = Manifest::verified(&self.folder, PARAMS).map_err(refuse)?;
        let config_of_run = RunConfig::read(&self.run)?.config;
        if config_of_run.train.lora.rank > 0 {
            return Err(refuse(
                "holds adapters (train.lora.rank), and not the weights that they are of: give the model/ that the run ends \
                 with, where they are merged"
                    .into(),
            ));
        }
        let heads = objective::new(&config_of_run.objective).heads();
        let (size, elements) = (Dtype::F32.size(), config.buffer_elements(heads));
        let held: u64 = files.iter().map(|(_, file)| file.bytes / size as u64).sum();
        if held != elements as u64 {
            return Err(refuse(format!("holds {held} values, and the model of its run has {elements}")));
        }
        let entry = |start: usize, shape: &[usize], elements: usize| TensorEntry {
            encoding: Encoding::Plain(Dtype::F32),
            shape: shape.to_vec(),
            bytes: size * start..size * (start + elements),
            strides: None,
        };
        let mut homes = Vec::new();
        for spec in config.tensors(heads) {
            let home = files.iter().position(|(start, file)| {
                let (start, end) = (*start as usize, *start as usize + file.bytes as usize / size);
                (start..end).contains(&spec.offset) && spec.offset + spec.elements() <= end
            });
            let Some(home) = home else { return Err(refuse(format!("`{}` lies in no one file", spec.name))) };
            let start = spec.offset - files[home].0 as usize;
            homes.push((spec.name.clone(), home, entry(start, &spec.shape, spec.elements())));
        }
        let paths = files.iter().map(|(_, file)| self.folder.join(&file.name)).collect();
        Tensors::of_checkpoint(&self.folder, paths, homes)
    }
}
