use super::*;
use crate::config::ModelSection;
use crate::model::config::OutputHeads;
use proptest::prelude::*;

fn tiny() -> ModelConfig {
    let section = ModelSection {
        hidden_size: 12,
        intermediate_size: 5,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(6) };
    ModelConfig::new(&section, 7, special, Architecture::RewardModel).unwrap()
}

#[test]
fn what_is_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny();
    for dtype in Dtype::STORED {
        config.dtype = dtype;
        config.rope_scaling_factor = (dtype == Dtype::F16).then_some(2.0);
        config.bias = dtype == Dtype::Bf16;
        config.write(folder.path()).unwrap();
        assert_eq!(ModelConfig::read(folder.path()).unwrap(), config);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let good: Map<String, Value> = serde_json::from_str(&tiny().to_json()).unwrap();
    for (key, value, reason) in [
        ("hidden_size", json!(0), "hidden_size = 0: must be between"),
        ("hidden_size", json!(-4), "hidden_size: invalid value"),
        ("hidden_size", json!("12"), "hidden_size: invalid type"),
        ("hidden_size", json!(u64::MAX), "hidden_size = 18446744073709551615: must be between"),
        ("hidden_size", Value::Null, "hidden_size is missing"),
        ("num_attention_heads", json!(4), "num_attention_heads = 4: must be a divisor"),
        ("num_key_value_heads", json!(2), "num_key_value_heads = 2: must be a divisor"),
        ("num_hidden_layers", json!(100_000), "num_hidden_layers = 100000: must be between"),
        ("vocab_size", json!(6), "reward_token_id = 6: must be below vocab_size = 6"),
        ("bias", Value::Null, "bias is missing"),
        ("tie_word_embeddings", json!(true), "tie_word_embeddings = true"),
        ("hidden_act", json!("gelu"), "hidden_act = \"gelu\""),
        ("model_type", json!("gpt2"), "model_type = \"gpt2\""),
        ("architectures", json!(["LlamaForCausalLM"]), "architectures = [\"LlamaForCausalLM\"]"),
        ("architectures", json!([]), "architectures = []"),
        ("torch_dtype", json!("float64"), "torch_dtype = \"float64\""),
        ("rope_scaling", json!({ "type": "linear", "factor": 2.0 }), "rope_scaling = {"),
        ("rope_scaling", json!({ "type": "dynamic", "factor": 0.5 }), "rope_scaling = {"),
        ("rope_theta", json!(-1.0), "rope_theta = -1"),
        ("rms_norm_eps", json!(0), "rms_norm_eps = 0"),
    ] {
        let mut bad = good.clone();
        bad.insert(key.into(), value);
        let error = ModelConfig::parse(&serde_json::to_string(&bad).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn a_malformed_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ModelConfig::read(folder.path()).unwrap_err().to_string().contains(FILE));
    for bytes in [&b"{\"hidden_size\": NaN}"[..], b"[]", b"", b"{\"a\": \xff}"] {
        std::fs::write(folder.path().join(FILE), bytes).unwrap();
        let error = ModelConfig::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains(FILE) && error.exit_code() == 2, "{error}");
    }
}

/// A JSON value of any kind, numbers at the edges included.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..200_000u64).prop_map(Value::from),
        prop::sample::select(vec![0, 1, 1 << 17, 1 << 20, 1 << 22, u64::MAX]).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({ "type": "dynamic", "factor": 1e308 })),
    ]
}

proptest! {
    #[test]
    fn any_config_is_valid_or_refused(changes in prop::collection::vec((0usize..22, any_value()), 0..4), cut in prop::option::of(0usize..700)) {
        let mut keys: Map<String, Value> = serde_json::from_str(&tiny().to_json()).unwrap();
        for (index, value) in changes {
            let key = keys.keys().nth(index % keys.len()).unwrap().clone();
            keys.insert(key, value);
        }
        let text = serde_json::to_string(&keys).unwrap();
        let text: String = text.chars().take(cut.unwrap_or(usize::MAX)).collect();
        if let Ok(config) = ModelConfig::parse(&text) {
            prop_assert_eq!(config.head_dim % 2, 0);
            let heads = OutputHeads { reward: true, lm: true };
            prop_assert!(config.buffer_elements(heads) >= config.parameters(heads));
            prop_assert_eq!(ModelConfig::parse(&config.to_json()).unwrap(), config);
        }
    }
}
