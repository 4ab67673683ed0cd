//! `POST /v1/score`: a prompt, a reference and any number of candidates.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::input::{Many, Text, parse};
use super::work::{Context, Usage, Work};
use crate::polar::{CutReport, EncodedCandidates, TemplateConfig, Wrapper, encode_candidates};

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
    normalize: Normalize,
}

/// What is done to the scores of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Normalize {
    /// Nothing.
    #[default]
    None,
    /// Mean 0, standard deviation 1.
    Zscore,
    /// From 0 for the lowest to 1 for the highest; equal scores share their mean rank.
    Rank,
    /// Less the score of the reference itself as a candidate.
    Reference,
}

/// Scores all candidates with their common prefix computed once.
pub fn score(context: &Context, body: &[u8]) -> Result<Work, ApiError> {
    let request: Score = parse(body)?;
    if let Some(model) = request.model.as_deref().filter(|model| **model != *context.model) {
        return Err(ApiError::new(
            axum::http::StatusCode::NOT_FOUND,
            "model_not_found",
            format!("model: {model:?} is not served here; {:?} is", context.model),
        ));
    }
    let template = template(context, &request)?;
    let Score { prompt, reference, candidates, normalize, .. } = request;
    context.short("prompt", &prompt.0)?;
    context.short("reference", &reference.0)?;
    for (index, candidate) in candidates.0.iter().enumerate() {
        context.short(format_args!("candidates[{index}]"), &candidate.0)?;
    }
    let mut texts: Vec<&str> = candidates.0.iter().map(|text| text.0.as_str()).collect();
    if normalize == Normalize::Reference {
        texts.push(&reference.0);
    }
    let EncodedCandidates { sequences, cut } =
        encode_candidates(&context.info.tokenizer, &prompt.0, &reference.0, &texts, &template)
            .map_err(|error| ApiError::text("candidates", &error))?;
    Ok(Work::new(sequences, move |context, scores, usage| answer(context, normalize, cut, scores, usage)))
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

fn answer(context: &Context, normalize: Normalize, cut: CutReport, scores: &[f32], usage: &Usage) -> Value {
    let (scores, normalized) = normalized(normalize, scores);
    let entry = |(index, score): (usize, &f32)| match &normalized {
        Some(values) => json!({"index": index, "score": score, "normalized": values[index]}),
        None => json!({"index": index, "score": score}),
    };
    json!({
        "id": context.id("score"),
        "object": "list",
        "created": super::work::now(),
        "model": *context.model,
        "data": scores.iter().enumerate().map(entry).collect::<Vec<_>>(),
        "cut": {"prompt": cut.prompt, "reference": cut.reference, "candidates": cut.candidates},
        "usage": usage.to_json(),
    })
}

/// The candidates' scores, and what the request wants made of them.
fn normalized(normalize: Normalize, scores: &[f32]) -> (&[f32], Option<Vec<f32>>) {
    match (normalize, scores.split_last()) {
        (Normalize::Reference, Some((reference, scores))) => {
            (scores, Some(scores.iter().map(|score| score - reference).collect()))
        }
        (Normalize::Zscore, _) => (scores, Some(zscores(scores))),
        (Normalize::Rank, _) => (scores, Some(ranks(scores))),
        _ => (scores, None),
    }
}

fn zscores(scores: &[f32]) -> Vec<f32> {
    let count = scores.len() as f64;
    let mean = scores.iter().map(|score| f64::from(*score)).sum::<f64>() / count;
    let variance = scores.iter().map(|score| (f64::from(*score) - mean).powi(2)).sum::<f64>() / count;
    let scale = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    scores.iter().map(|score| ((f64::from(*score) - mean) / scale) as f32).collect()
}

fn ranks(scores: &[f32]) -> Vec<f32> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let most = (scores.len() - 1).max(1) as f32;
    let rank = |score: &f32| {
        let below = sorted.partition_point(|other| other < score);
        let equal = sorted[below..].partition_point(|other| other <= score);
        (below as f32 + (equal as f32 - 1.0) / 2.0) / most
    };
    scores.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisers() {
        let (scores, values) = normalized(Normalize::Reference, &[1.0, -2.0, 0.5]);
        assert_eq!((scores, values), (&[1.0, -2.0][..], Some(vec![0.5, -2.5])));
        assert_eq!(ranks(&[3.0, 1.0, 1.0, 7.0]), [2.0 / 3.0, 0.5 / 3.0, 0.5 / 3.0, 1.0]);
        assert_eq!(zscores(&[2.0, 4.0]), [-1.0, 1.0]);
        assert_eq!(zscores(&[5.0]), [0.0]);
        assert_eq!(normalized(Normalize::None, &[1.0]).1, None);
    }
}
