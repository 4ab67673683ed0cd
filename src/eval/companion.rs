//! What a trained model takes along besides weights and tokenizer: how strings are built for it, and the baselines that
//! learnt from the same triples, so that it can be measured beside them anywhere.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::baselines::Baselines;
use crate::data::Wrapper;
use crate::error::{Error, Result};
use crate::files;
use crate::model::ModelConfig;
use crate::polar::TemplateConfig;
use crate::run::RunCheckpoint;

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
    /// Reads it from a model's folder. A checkpoint of a run has that of the run, without baselines, which are fitted at
    /// the end. A model from elsewhere has none: it gets the official client's lengths.
    pub fn read(dir: &Path, model: &ModelConfig) -> Result<Self> {
        if let Some(checkpoint) = RunCheckpoint::at(dir)? {
            return Ok(Self { template: checkpoint.template(model)?, baselines: None });
        }
        let path = dir.join(FILE);
        if !path.exists() {
            let max_length = model.max_position_embeddings.min(16_384);
            let template = TemplateConfig { wrapper: Wrapper::Sft, max_length, max_response_length: 4096 };
            template.check("").map_err(|e| e.context(format!("{}: too few positions", dir.display())))?;
            return Ok(Self { template, baselines: None });
        }
        let text = files::read_text(&path, MAX_BYTES)?;
        Self::parse(&text, model).map_err(|e| e.context(path.display()))
    }

    /// Reads the text of the file and refuses what would not do for `model`.
    fn parse(text: &str, model: &ModelConfig) -> Result<Self> {
        let companion: Self = serde_json::from_str(text).map_err(|e| Error::user(e.to_string()))?;
        companion.template.check("template.")?;
        let (wanted, most) = (companion.template.max_length, model.max_position_embeddings);
        if wanted > most {
            return Err(Error::user(format!(
                "template.max_length = {wanted}: the model reads at most max_position_embeddings = {most}"
            )));
        }
        companion
            .baselines
            .as_ref()
            .map_or(Ok(()), |baselines| baselines.check().map_err(|e| e.context("baselines")))?;
        Ok(companion)
    }

    /// Writes it into a model's folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|e| Error::machine(e.to_string()))?;
        files::write_atomic(&dir.join(FILE), &json)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::ModelSection;
    use crate::data::Triple;
    use crate::model::config::{Architecture, SpecialIds};

    fn model() -> ModelConfig {
        let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
        ModelConfig::new(&ModelSection::default(), 300, special, Architecture::RewardModel).unwrap()
    }

    fn triples() -> Vec<Triple> {
        let text = |i: usize| format!("{i} is a number, {} too", i * i);
        let triple = |i| Triple {
            prompt: text(i),
            reference: text(i + 1),
            chosen: text(i + 2),
            rejected: format!("No: {i}"),
            wrapper: None,
        };
        (0..20).map(triple).collect()
    }

    fn whole() -> Value {
        let template = TemplateConfig { wrapper: Wrapper::Sft, max_length: 512, max_response_length: 100 };
        let baselines = Some(Baselines::fit(&triples(), 1).unwrap());
        serde_json::to_value(Companion { template, baselines }).unwrap()
    }

    #[test]
    fn what_is_written_reads_back_and_is_the_same_each_time() {
        let written = whole().to_string();
        assert_eq!(written, whole().to_string());
        let read = Companion::parse(&written, &model()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap().to_string(), written);
    }

    #[test]
    fn what_would_not_do_is_named() {
        let cases = [
            ("/template/max_length", json!(0), "max_length = 0"),
            ("/template/max_length", json!(5000), "max_position_embeddings = 4096"),
            ("/template/max_response_length", json!(1), "max_response_length = 1"),
            ("/baselines/ngram/length", json!(0), "ngram: length = 0"),
            ("/baselines/hand/weights", json!([1.0]), "hand: 1 weights"),
            ("/baselines/bag/features", json!("Hand"), "bag: "),
        ];
        for (place, value, part) in cases {
            let mut companion = whole();
            *companion.pointer_mut(place).unwrap() = value;
            let message = Companion::parse(&companion.to_string(), &model()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    proptest! {
        /// Whatever stands in the numbers of the file: it is refused, or everything that it says can be used.
        #[test]
        fn any_numbers_are_safe_or_refused(
            length in any::<u16>(), response in any::<u16>(), gram in 0u64..9, weight in any::<f64>(), text in ".*",
        ) {
            let mut companion = whole();
            companion["template"]["max_length"] = json!(length);
            companion["template"]["max_response_length"] = json!(response);
            companion["baselines"]["ngram"]["length"] = json!(gram);
            companion["baselines"]["hand"]["weights"][3] = json!(weight);
            if let Ok(companion) = Companion::parse(&companion.to_string(), &model()) {
                for baseline in companion.baselines.iter().flat_map(Baselines::iter) {
                    baseline.score(&text, "a reference", &text);
                }
                let tokenizer = crate::tokenizer::Tokenizer::bytes(Default::default()).unwrap();
                let long = text.repeat(40);
                let (ids, _) =
                    crate::polar::encode_candidate(&tokenizer, &long, &long, &text, &companion.template).unwrap();
                prop_assert!(ids.len() <= companion.template.max_length);
            }
        }
    }
}
