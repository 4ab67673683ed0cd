//! Every path that the server knows: one table, of which router and OpenAPI document are made.

use super::compat;
use super::error::ApiError;
use super::native;
use super::rewards;
use super::work::{Context, ScoreWork};

/// A path with what it does.
pub struct Route {
    /// The path.
    pub path: &'static str,
    /// A line about it.
    pub summary: &'static str,
    /// What answers.
    pub action: Action,
}

/// What answers a path.
#[derive(Clone, Copy)]
pub enum Action {
    /// `POST`: sequences to score; with the names of the schemas of request and answer.
    Score {
        /// Makes work of a body.
        endpoint: Endpoint,
        /// Schema of the body.
        request: &'static str,
        /// Schema of the answer.
        reply: &'static str,
    },
    /// `GET`: something about the server.
    Get(About),
}

/// Makes work of a body.
pub type Endpoint = fn(&Context, &[u8]) -> Result<ScoreWork, ApiError>;

/// What a `GET` tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// That the process lives.
    Health,
    /// Whether requests would be answered.
    Ready,
    /// The model.
    Models,
    /// The model, in SGLang's form.
    ModelInfo,
    /// Whether the engine computes.
    Generate,
    /// Counters.
    Metrics,
    /// The OpenAPI document.
    OpenApi,
}

const fn score(
    path: &'static str,
    summary: &'static str,
    endpoint: Endpoint,
    request: &'static str,
    reply: &'static str,
) -> Route {
    Route { path, summary, action: Action::Score { endpoint, request, reply } }
}

const fn get(path: &'static str, summary: &'static str, about: About) -> Route {
    Route { path, summary, action: Action::Get(about) }
}

/// All of them.
pub const ROUTES: [Route; 16] = [
    score("/v1/score", "Candidates of a prompt and reference", native::score, "ScoreRequest", "ScoreReply"),
    score("/classify", "SGLang's form, or vLLM's, by the key", compat::classify, "ClassifyRequest", "ClassifyReply"),
    score("/sglang/classify", "As /classify", compat::classify, "ClassifyRequest", "ClassifyReply"),
    score("/vllm/classify", "As /classify", compat::classify, "ClassifyRequest", "ClassifyReply"),
    score("/pooling", "vLLM's form or LMDeploy's, by --compat", compat::pooling, "PoolingRequest", "PoolingReply"),
    score("/vllm/pooling", "vLLM's form", compat::vllm_pooling, "PoolingRequest", "PoolingReply"),
    score("/lmdeploy/pooling", "LMDeploy's form", compat::lmdeploy_pooling, "PoolingRequest", "PoolingReply"),
    score("/get_reward", "OpenRLHF's remote reward model", rewards::openrlhf, "QueryRequest", "QueryReply"),
    score("/reward", "One response; the answer is a number", rewards::reward, "RewardRequest", "RewardReply"),
    get("/v1/models", "The model that is served", About::Models),
    get("/get_model_info", "The model, in SGLang's form", About::ModelInfo),
    get("/health", "200 while the process lives", About::Health),
    get("/ready", "200 once the model is loaded and until the server stops", About::Ready),
    get("/health_generate", "200 once a sequence has gone through the engine", About::Generate),
    get("/metrics", "Counters for Prometheus", About::Metrics),
    get("/openapi.json", "This document", About::OpenApi),
];

/// Method and path of all of them.
pub fn paths() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|route| (if matches!(route.action, Action::Score { .. }) { "POST" } else { "GET" }, route.path))
}

/// What makes work of a body that is posted to `path`.
pub fn endpoint(path: &str) -> Option<Endpoint> {
    ROUTES.iter().find(|route| route.path == path).and_then(|route| match route.action {
        Action::Score { endpoint, .. } => Some(endpoint),
        Action::Get(_) => None,
    })
}

/// The table's own string for a path, or `other`.
pub fn known(path: &str) -> &'static str {
    ROUTES.iter().find(|route| route.path == path).map_or("other", |route| route.path)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::{Action, ROUTES};
    use crate::data::Wrapper;
    use crate::polar::TemplateConfig;
    use crate::serve::work::{Compat, Context};
    use crate::serve::{Info, Normalisation};
    use crate::tokenizer::{Names, Tokenizer};

    #[test]
    fn every_endpoint_ends_its_work_once_nobody_waits_for_it() {
        let tokenizer = Tokenizer::bytes(Names::default()).unwrap();
        let info = Info {
            vocab_size: tokenizer.vocab_size(),
            tokenizer,
            form: crate::polar::Form::Polar,
            template: TemplateConfig { wrapper: Wrapper::Sft, max_length: 64, max_response_length: 20 },
            max_length: 64,
            weights: blake3::hash(b""),
            parameters: 1,
            device: "cpu".into(),
        };
        let body = r#"{"prompt": "p", "reference": "r", "candidates": ["c"], "label": "r", "labels": ["r"],
            "response": "c", "query": ["pc"], "prompts": ["p"], "text": "r<|reward|>c[UNUSED_TOKEN_130]"}"#;
        let given_up = Arc::new(AtomicBool::new(true));
        let (info, compat) = (Arc::new(info), Compat::Vllm);
        let (normalise, running) = (Normalisation::Raw, Arc::default());
        let context = Context { info, model: "m".into(), compat, normalise, running, given_up };
        for route in &ROUTES {
            let Action::Score { endpoint, .. } = route.action else { continue };
            let keys: &[&str] = match route.path {
                "/v1/score" => &["prompt", "reference", "candidates"],
                "/get_reward" => &["query", "prompts", "labels"],
                "/reward" => &["prompt", "response", "label"],
                _ => &["text"],
            };
            let all: serde_json::Value = serde_json::from_str(body).unwrap();
            let mut own: serde_json::Map<_, _> = keys.iter().map(|key| (key.to_string(), all[key].clone())).collect();
            if route.path.ends_with("pooling") {
                own.insert("input".into(), own["text"].clone());
                own.remove("text");
            }
            let body = serde_json::to_vec(&own).unwrap();
            let error = endpoint(&context, &body).map(|_| ()).unwrap_err();
            assert!(format!("{error:?}").contains("given_up"), "{}: {error:?}", route.path);
        }
    }
}
