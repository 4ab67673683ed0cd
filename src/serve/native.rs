//! `POST /v1/score`: a prompt, a reference and any number of candidates.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::input::{Many, Text, parse};
use super::normalise::Normalisation;
use super::work::{Context, ScoreWork, Usage, bounded};
use crate::data::Wrapper;
use crate::polar::{ClientEncoder, Cut, CutReport, CutSide, TemplateConfig};

/// The request; what is not given is as the model was trained.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Score {
    model: Option<String>,
    prompt: Text,
    reference: Text,
    candidates: Many<Text>,
    wrapper: Option<Wrapper>,
    max_length: Option<usize>,
    max_response_length: Option<usize>,
    #[serde(default)]
    cut_side: CutSide,
    normalise: Option<Normalisation>,
}

const KEYS: &[&str] = &[
    "model",
    "prompt",
    "reference",
    "candidates",
    "wrapper",
    "max_length",
    "max_response_length",
    "cut_side",
    "normalise",
];

/// Scores all candidates with their common prefix computed once.
pub fn score(context: &Context, body: &[u8]) -> Result<ScoreWork, ApiError> {
    let request: Score = parse(body, KEYS)?;
    if let Some(model) = request.model.as_deref().filter(|model| **model != *context.model) {
        return Err(ApiError::new(
            axum::http::StatusCode::NOT_FOUND,
            "model_not_found",
            format!("model: {model:?} is not served here; {:?} is", context.model),
        ));
    }
    context.polar()?;
    let template = template(context, &request)?;
    let Score { prompt, reference, candidates, cut_side, normalise, .. } = request;
    let normalise = normalise.unwrap_or(context.normalise);
    for (index, candidate) in candidates.0.iter().enumerate() {
        context.short(format_args!("candidates[{index}]"), &candidate.0)?;
    }
    let [prompt, own] =
        [("prompt", &prompt.0), ("reference", &reference.0)].map(|(key, text)| context.encode(key, text));
    let tokenizer = &context.info.tokenizer;
    let mut encoder = ClientEncoder::new(tokenizer, prompt?, own?, &template, cut_side);
    let mut sequences = Vec::new();
    let mut cuts = Vec::new();
    let mut tokens = 0;
    let mut add = |place: String, text: &str| {
        context.go_on()?;
        let Cut { ids, cut } = encoder.encode(text).map_err(|error| ApiError::text(place, &error))?;
        // Each candidate brings its own copy of the prompt: the sequences can be far larger than the body.
        tokens += ids.len();
        bounded(tokens)?;
        sequences.push(ids);
        cuts.push(cut);
        Ok::<_, ApiError>(())
    };
    for (index, candidate) in candidates.0.iter().enumerate() {
        add(format!("candidates[{index}]"), &candidate.0)?;
    }
    if normalise == Normalisation::Reference {
        add("reference".into(), &reference.0)?;
    }
    cuts.truncate(candidates.0.len());
    let count = cuts.len();
    let reply =
        move |context: &Context, scores: &[f32], usage: &Usage| answer(context, normalise, &cuts, scores, usage);
    Ok(ScoreWork::new(sequences, reply).normalising(count))
}

/// The model's template with the request's own values.
fn template(context: &Context, request: &Score) -> Result<TemplateConfig, ApiError> {
    let own = context.info.template;
    let template = TemplateConfig {
        wrapper: request.wrapper.unwrap_or(own.wrapper),
        max_length: request.max_length.unwrap_or(own.max_length),
        max_response_length: request.max_response_length.unwrap_or(own.max_response_length),
    };
    template.check("").map_err(|error| ApiError::invalid(error.to_string()))?;
    let most = context.info.max_length;
    if template.max_length > most {
        let wanted = template.max_length;
        return Err(ApiError::invalid(format!("max_length = {wanted}: this server takes at most {most}")));
    }
    Ok(template)
}

/// `scores` has the reference's own at its end where that is what is taken off.
fn answer(context: &Context, normalise: Normalisation, cuts: &[CutReport], scores: &[f32], usage: &Usage) -> Value {
    let normalised = normalise.apply(scores, &context.running);
    let entry = |(index, (cut, score)): (usize, (&CutReport, &f32))| {
        let cut = json!({"prompt": cut.prompt, "reference": cut.reference, "candidate": cut.candidates});
        let mut entry = json!({"index": index, "score": score, "cut": cut});
        if let Some(values) = &normalised {
            entry["normalised"] = values[index].into();
        }
        entry
    };
    json!({
        "id": context.id("score"),
        "object": "list",
        "created": super::work::now(),
        "model": *context.model,
        "data": cuts.iter().zip(scores).enumerate().map(entry).collect::<Vec<_>>(),
        "usage": usage.to_json(),
    })
}
