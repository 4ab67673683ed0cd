//! Families of models that are not read, and why.

use crate::error::Error;

/// What the families are that are read.
const READ: &str = "\"internlm2\", \"llama\", \"mistral\", \"qwen2\" or \"qwen3\"";

const EXPERTS: &str = "it is a mixture of experts";
const LAYER_NORM: &str = "its norms are LayerNorm and its feed-forward network has no gate";
const ENCODER: &str = "it is an encoder, in which tokens see those after them";
const GEMMA: &str = "its norms add 1 to their weights, its embeddings are scaled, and its gate is GELU";
const FUSED: &str =
    "its projections are fused in another order, and its rotary embedding may be partial or of two lengths";

/// Families, by the beginning of `model_type`, with what this network does not have. The first that fits counts.
const FAMILIES: [(&str, &str); 24] = [
    ("gemma2", "beside what Gemma has, it caps the logits of attention and output, and norms after each block"),
    ("gemma", GEMMA),
    ("phi3", FUSED),
    ("phi", LAYER_NORM),
    ("mixtral", EXPERTS),
    ("qwen2_moe", EXPERTS),
    ("qwen3_moe", EXPERTS),
    ("qwen3_next", EXPERTS),
    ("deepseek", "its attention is latent (MLA), and most of its models are mixtures of experts"),
    ("gpt_oss", EXPERTS),
    ("llama4", EXPERTS),
    ("cohere", "its norms are LayerNorm, and attention and feed-forward network run in parallel"),
    ("olmo2", "its norms stand after attention and feed-forward network, and those of queries span all heads"),
    ("olmo", LAYER_NORM),
    ("internlm", "its projections are not fused as InternLM2's, and have biases"),
    ("chatglm", FUSED),
    ("glm", FUSED),
    ("gpt", LAYER_NORM),
    ("falcon", LAYER_NORM),
    ("opt", LAYER_NORM),
    ("bloom", LAYER_NORM),
    ("modernbert", ENCODER),
    ("bert", ENCODER),
    ("deberta", ENCODER),
];

/// The refusal of a `model_type`.
pub(super) fn refuse(model_type: &str) -> Error {
    let reason = FAMILIES.iter().find(|(family, _)| model_type.starts_with(family));
    let reason = reason.map_or(String::new(), |(_, reason)| format!(": {reason}"));
    Error::user(format!("model_type = {model_type:?} is not supported{reason}; must be {READ}"))
}
