//! What a trained model takes along besides weights and tokenizer: how strings are built for it, and the baselines that
//! learnt from the same triples, so that it can be measured beside them anywhere.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::baselines::Baselines;
use crate::error::{Error, Result};
use crate::files;
use crate::model::ModelConfig;
use crate::polar::{TemplateConfig, Wrapper};

/// The file in a model's folder. Other programs ignore it.
pub const FILE: &str = "polar_raw.json";
/// Bytes of the file, at most.
const MAX_BYTES: u64 = 256 << 20;

/// The contents of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// How strings were built and cut in training.
    pub template: TemplateConfig,
    /// Fitted baselines, if the training data was text.
    pub baselines: Option<Baselines>,
}

impl Companion {
    /// Reads it from a model's folder. A model from elsewhere has none: it gets the official client's lengths.
    pub fn read(dir: &Path, model: &ModelConfig) -> Result<Self> {
        let path = dir.join(FILE);
        if !path.exists() {
            let max_length = model.max_position_embeddings.min(16_384);
            let template = TemplateConfig { wrapper: Wrapper::Sft, max_length, max_response_length: 4096 };
            return Ok(Self { template, baselines: None });
        }
        let text = files::read_text(&path, MAX_BYTES)?;
        serde_json::from_str(&text).map_err(|e| Error::user(format!("{}: {e}", path.display())))
    }

    /// Writes it into a model's folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|e| Error::machine(e.to_string()))?;
        files::write_atomic(&dir.join(FILE), &json)
    }
}
