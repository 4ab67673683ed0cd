//! The forms of SGLang, vLLM and LMDeploy, in which the official client asks.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::input::{Input, parse};
use super::work::{Compat, Context, ScoreWork, Usage};

/// `{text}` or `{input_ids}` in SGLang's form, `{input}` in vLLM's.
#[derive(Deserialize)]
struct Classify {
    text: Option<Input>,
    input_ids: Option<Input>,
    input: Option<Input>,
}

/// `{input}`.
#[derive(Deserialize)]
struct Pooling {
    input: Input,
}

/// `POST /classify`: SGLang's form, or vLLM's, told apart by the key.
pub fn classify(context: &Context, body: &[u8]) -> Result<ScoreWork, ApiError> {
    match parse(body, &["text", "input_ids", "input"])? {
        Classify { text: Some(input @ (Input::Text(_) | Input::Texts(_))), input_ids: None, input: None } => {
            sglang(context, "text", input)
        }
        Classify { text: Some(_), input_ids: None, input: None } => {
            Err(ApiError::invalid("text: expected a string or a list of strings; ids go under input_ids"))
        }
        Classify { text: None, input_ids: Some(input @ (Input::Ids(_) | Input::Sequences(_))), input: None } => {
            sglang(context, "input_ids", input)
        }
        Classify { text: None, input_ids: Some(_), input: None } => {
            Err(ApiError::invalid("input_ids: expected token ids; strings go under text"))
        }
        Classify { text: None, input_ids: None, input: Some(input) } => {
            let reply = |context: &Context, scores: &[f32], usage: &Usage| {
                let data = numbered(
                    scores,
                    |index, score| json!({"index": index, "label": null, "probs": [score], "num_classes": 1}),
                );
                listed(context, "classify", data, usage)
            };
            Ok(ScoreWork::new(sequences(context, "input", input)?, reply))
        }
        Classify { text: None, input_ids: None, input: None } => {
            Err(ApiError::invalid("there is nothing to score: give \"text\" (SGLang's form) or \"input\" (vLLM's)"))
        }
        _ => Err(ApiError::invalid("give one of the keys text, input_ids and input, not several")),
    }
}

/// SGLang answers an object for one input and a list for a list.
fn sglang(context: &Context, key: &str, input: Input) -> Result<ScoreWork, ApiError> {
    let single = matches!(input, Input::Text(_) | Input::Ids(_));
    let reply = move |context: &Context, scores: &[f32], usage: &Usage| {
        let entry = |(score, tokens): (&f32, &usize)| {
            json!({
                "embedding": [score],
                "meta_info": {
                    "id": context.id("classify"), "finish_reason": null, "prompt_tokens": tokens, "e2e_latency": null,
                },
            })
        };
        let mut all: Vec<Value> = scores.iter().zip(&usage.tokens).map(entry).collect();
        if single { all.pop().unwrap_or_default() } else { Value::Array(all) }
    };
    Ok(ScoreWork::new(sequences(context, key, input)?, reply))
}

/// `POST /pooling` as the server's `--compat` says.
pub fn pooling(context: &Context, body: &[u8]) -> Result<ScoreWork, ApiError> {
    match context.compat {
        Compat::Vllm => vllm_pooling(context, body),
        Compat::Lmdeploy => lmdeploy_pooling(context, body),
        Compat::Sglang => Err(ApiError::invalid(
            "this server stands in for SGLang, which has no /pooling: use /vllm/pooling or /lmdeploy/pooling, or start \
             it with --compat vllm or --compat lmdeploy",
        )),
    }
}

/// vLLM's `/pooling`: a list of vectors for each sequence. vLLM gives one for each token; here is only the last, at
/// the score token, which is the one that the client reads.
pub fn vllm_pooling(context: &Context, body: &[u8]) -> Result<ScoreWork, ApiError> {
    Ok(ScoreWork::new(pooled(context, body)?, |context, scores, usage| {
        let entry = |index, score| json!({"index": index, "object": "pooling", "data": [[score]]});
        listed(context, "pool", numbered(scores, entry), usage)
    }))
}

/// LMDeploy's `/pooling`: a number for each sequence.
pub fn lmdeploy_pooling(context: &Context, body: &[u8]) -> Result<ScoreWork, ApiError> {
    Ok(ScoreWork::new(pooled(context, body)?, |context, scores, usage| {
        let entry = |index, score| json!({"index": index, "object": "pooling", "data": score});
        listed(context, "pool", numbered(scores, entry), usage)
    }))
}

fn pooled(context: &Context, body: &[u8]) -> Result<Vec<Vec<u32>>, ApiError> {
    let Pooling { input } = parse(body, &["input"])?;
    sequences(context, "input", input)
}

fn numbered(scores: &[f32], entry: impl Fn(usize, f32) -> Value) -> Vec<Value> {
    scores.iter().enumerate().map(|(index, score)| entry(index, *score)).collect()
}

/// The frame that vLLM and LMDeploy took from OpenAI.
fn listed(context: &Context, kind: &str, data: Vec<Value>, usage: &Usage) -> Value {
    json!({
        "id": context.id(kind),
        "object": "list",
        "created": super::work::now(),
        "model": *context.model,
        "data": data,
        "usage": usage.to_json(),
    })
}

/// The sequences that an input stands for.
fn sequences(context: &Context, key: &str, input: Input) -> Result<Vec<Vec<u32>>, ApiError> {
    let text = |place: String, text: &str| {
        context.short(&place, text)?;
        let ids = context.string(&place, text)?;
        context.fits(&place, &ids)?;
        Ok(ids)
    };
    let given = |place: String, ids: Vec<u32>| {
        context.ids(&place, &ids)?;
        Ok(ids)
    };
    let place = |index| format!("{key}[{index}]");
    match input {
        Input::Text(one) => Ok(vec![text(key.into(), &one)?]),
        Input::Texts(all) => all.iter().enumerate().map(|(i, one)| text(place(i), one)).collect(),
        Input::Ids(ids) => Ok(vec![given(key.into(), ids)?]),
        Input::Sequences(all) => all.into_iter().enumerate().map(|(i, ids)| given(place(i), ids)).collect(),
    }
}
