//! Opening a trained model's folder.

use std::path::Path;
use std::rc::Rc;

use crate::backend::Backend;
use crate::data::Wrapper;
use crate::error::{Error, Result};
use crate::eval::Companion;
use crate::model::config::Architecture;
use crate::model::{Model, OutputHeads};
use crate::store::{Pretrained, pretrained};
use crate::tokenizer::Tokenizer;

/// A reward model, ready to score.
pub struct Opened {
    pub model: Rc<Model>,
    pub companion: Companion,
}

/// Reads configuration, weights and companion of a reward model, onto the backend that `device` opens.
pub fn open(dir: &Path, device: impl FnOnce() -> Result<Rc<dyn Backend>>) -> Result<Opened> {
    const REWARD: OutputHeads = OutputHeads { reward: true, lm: false };
    let pretrained = Pretrained::open(dir)?;
    let no_head = || {
        let dir = dir.display();
        Error::user(format!(
            "{dir} has no reward head (v_head.weight): it is a language model. Train one from it: polar-raw train --init \
             {dir} --data FILE"
        ))
    };
    let config = pretrained.config().clone();
    // Said before gigabytes are read.
    if !pretrained.check(&config.tensors(REWARD))?.heads.reward {
        return Err(match config.architecture {
            Architecture::RewardModel => pretrained.without_head(dir),
            Architecture::CausalLm => no_head(),
        });
    }
    let model = Model::new(device()?, config.clone(), REWARD)?;
    pretrained.read_into(REWARD, &mut |spec, values| model.set(spec, values))?;
    let companion = Companion::read(dir, &config)?;
    Ok(Opened { model: Rc::new(model), companion })
}

/// The tokenizer of a model's folder.
pub fn tokenizer(dir: &Path, model: &Model) -> Result<Tokenizer> {
    let tokenizer = pretrained::required_tokenizer(dir)?;
    if tokenizer.vocab_size() > model.config().vocab_size {
        return Err(Error::user(format!(
            "{}: the tokenizer has {} ids and the model {}; they do not belong together",
            dir.display(),
            tokenizer.vocab_size(),
            model.config().vocab_size
        )));
    }
    Ok(tokenizer)
}

/// `sft` or `pretrain`, for clap.
pub fn parse_wrapper(text: &str) -> std::result::Result<Wrapper, String> {
    match text {
        "sft" => Ok(Wrapper::Sft),
        "pretrain" => Ok(Wrapper::Pretrain),
        _ => Err("expected sft or pretrain".into()),
    }
}
