//! Opening a trained model's folder.

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use crate::backend::Backend;
use crate::data::Wrapper;
use crate::error::{Error, Result};
use crate::eval::Companion;
use crate::model::config::Architecture;
use crate::model::{Model, OutputHeads};
use crate::polar::{Form, OwnForm};
use crate::store::{Pretrained, pretrained};
use crate::tokenizer::{Missing, Tokenizer};

/// A reward model, ready to score.
pub struct Opened {
    pub model: Rc<Model>,
    pub companion: Companion,
}

/// Reads configuration, weights and companion of a reward model, onto the backend that `device` opens.
pub fn open(dir: &Path, device: impl FnOnce() -> Result<Rc<dyn Backend>>) -> Result<Opened> {
    const REWARD: OutputHeads = OutputHeads { reward: true, lm: false };
    let started = Instant::now();
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
    let (parameters, ms) = (config.parameters(REWARD), started.elapsed().as_millis() as u64);
    tracing::debug!(parameters, ms, "read {}, {parameters} parameters, in {ms} ms", dir.display());
    Ok(Opened { model: Rc::new(model), companion })
}

/// How texts become the strings of a model.
pub struct Strings {
    pub tokenizer: Tokenizer,
    pub form: Form,
    /// The strings of a form that is not POLAR's.
    pub own: Option<OwnForm>,
}

/// The tokenizer of a model's folder and the form of its strings: `form`, or what the folder says.
pub fn strings(dir: &Path, model: &Model, form: Option<Form>) -> Result<Strings> {
    let tokenizer = tokenizer(dir, model)?;
    let strings = Form::of(&tokenizer, form).and_then(|form| {
        let most = model.config().max_position_embeddings;
        let own = (form != Form::Polar).then(|| OwnForm::new(&tokenizer, form, most)).transpose()?;
        Ok((form, own))
    });
    let (form, own) = strings.map_err(|error| error.context(dir.display()))?;
    Ok(Strings { tokenizer, form, own })
}

/// The tokenizer of a model's folder.
fn tokenizer(dir: &Path, model: &Model) -> Result<Tokenizer> {
    let tokenizer = pretrained::required_tokenizer(dir, Missing::Leave)?;
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
