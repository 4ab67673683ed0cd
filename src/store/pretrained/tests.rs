use std::fs;
use std::hash::{BuildHasher, RandomState};

use serde_json::json;

use super::*;
use crate::backend::Llama3;
use crate::config::ModelSection;
use crate::formats::Encoding;
use crate::model::config::{Architecture, ScoreMap, SpecialIds};
use crate::rng;
use crate::store::convert::{ModelFormat, convert};
use crate::store::inspect::inspect;
use crate::store::weights::{WriteOptions, write};
use crate::tensor::Dtype;
use rand::RngExt;

/// A model of ragged sizes whose rows are whole blocks where `width` is 32.
fn config(width: usize, bias: bool, architecture: Architecture) -> ModelConfig {
    let section = ModelSection {
        hidden_size: 2 * width,
        intermediate_size: 3 * width,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(12) };
    ModelConfig { bias, ..ModelConfig::new(&section, 13, special, architecture).unwrap() }
}

/// Another one in each run.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// Fresh values, of the output's bias zero, which Qwen2 does not have.
fn values(seed: u64, spec: &TensorSpec) -> Vec<f32> {
    let mut stream = rng::stream(seed, &spec.name, 0);
    let scale = if spec.name.ends_with("wo.bias") { 0.0 } else { 2.0 };
    (0..spec.elements()).map(|_| scale * (stream.random::<f32>() - 0.5)).collect()
}

fn save(dir: &Path, config: &ModelConfig, seed: u64) {
    fs::create_dir_all(dir).unwrap();
    config.write(dir).unwrap();
    let target = WriteOptions::safetensors(config.dtype, usize::MAX);
    write(dir, config, config.architecture.heads(), target, &mut |spec| Ok(values(seed, spec))).unwrap();
}

type Tensors = Vec<(String, Vec<f32>)>;

fn load(path: &Path) -> (Loaded, Tensors) {
    let model = Pretrained::open(path).unwrap();
    let mut tensors = Vec::new();
    let loaded = model
        .read_into(OutputHeads { reward: true, lm: true }, &mut |spec, values| {
            tensors.push((spec.name.clone(), values.to_vec()));
            Ok(())
        })
        .unwrap();
    (loaded, tensors)
}

#[test]
fn every_way_there_and_back_changes_nothing() {
    let seed = fresh_seed();
    let kinds = [
        ModelFormat::InternLm2,
        ModelFormat::InternLm2Torch,
        ModelFormat::HuggingFace(Family::Llama),
        ModelFormat::HuggingFace(Family::Qwen2),
        ModelFormat::Gguf,
    ];
    for architecture in [Architecture::RewardModel, Architecture::CausalLm] {
        for bias in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let first = folder.path().join("first");
            save(&first, &config(12, bias, architecture), seed);
            fs::write(first.join("tokenizer.json"), "{}").unwrap();
            let original = load(&first);
            assert!(original.0.unused.is_empty());
            for kind in kinds {
                for max_shard_bytes in [usize::MAX, 3000] {
                    let there = folder.path().join(format!("{kind:?}-{max_shard_bytes}.gguf"));
                    convert(&first, &there, kind, None, max_shard_bytes).unwrap();
                    let back = folder.path().join(format!("{kind:?}-{max_shard_bytes}-back"));
                    convert(&there, &back, ModelFormat::InternLm2, None, usize::MAX).unwrap();
                    let (loaded, tensors) = load(&back);
                    // What has no biases comes back from Qwen2 with biases that are zero.
                    let (zero, rest): (Vec<_>, Vec<_>) =
                        tensors.into_iter().partition(|(name, _)| name.ends_with(".bias") && !bias);
                    assert!(zero.iter().all(|(_, values)| values.iter().all(|v| *v == 0.0)));
                    assert_eq!(zero.is_empty(), kind != ModelFormat::HuggingFace(Family::Qwen2) || bias, "{kind:?}");
                    assert_eq!((loaded.heads, rest), (original.0.heads, original.1.clone()), "{kind:?} {bias}");
                    let kept = ModelConfig { bias, ..read_config(&back).unwrap() };
                    let mut expected = config(12, bias, architecture);
                    if kind == ModelFormat::Gguf {
                        // It has no key for the score token, nor a tokenizer here.
                        expected.special = kept.special;
                    } else {
                        assert_eq!(fs::read_to_string(there.join("tokenizer.json")).unwrap(), "{}");
                    }
                    assert_eq!(kept, expected, "{kind:?}");
                }
            }
        }
    }
}

#[test]
fn quantised_files_hold_what_their_blocks_say() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    save(&first, &config(32, false, Architecture::CausalLm), fresh_seed());
    let exact = load(&first).1;
    for (encoding, error) in [
        (Encoding::BF16, 0.004),
        (Encoding::F16, 5e-4),
        (Encoding::Q8_0, 0.005),
        (Encoding::Q4_0, 0.14),
        (Encoding::Q4_1, 0.07),
    ] {
        let path = folder.path().join(format!("{encoding}.gguf"));
        convert(&first, &path, ModelFormat::Gguf, Some(encoding), usize::MAX).unwrap();
        for ((name, exact), (_, read)) in exact.iter().zip(load(&path).1) {
            let most = exact.iter().zip(&read).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            let vector = name.contains("norm");
            assert!(most <= if vector { 0.0 } else { error }, "{encoding} {name}: {most}");
            assert_eq!(most == 0.0, vector, "{encoding} {name}");
        }
        let refused = convert(
            &first,
            &folder.path().join(format!("{encoding}")),
            ModelFormat::InternLm2,
            Some(encoding),
            usize::MAX,
        );
        assert_eq!(refused.is_err(), ![Encoding::BF16, Encoding::F16].contains(&encoding));
    }
    let ragged = folder.path().join("ragged");
    save(&ragged, &config(12, false, Architecture::CausalLm), 1);
    let refused = convert(&ragged, &folder.path().join("r.gguf"), ModelFormat::Gguf, Some(Encoding::Q8_0), usize::MAX);
    assert!(refused.unwrap_err().to_string().contains("has rows of 24 elements, no whole blocks of Q8_0"));
    assert!(!folder.path().join("r.gguf").exists());
}

#[test]
fn what_cannot_be_represented_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let config = config(12, true, Architecture::RewardModel);
    save(&first, &config, 3);
    let target = WriteOptions::safetensors(Dtype::F32, usize::MAX);
    write(&first, &config, config.architecture.heads(), target, &mut |spec| Ok(vec![0.5; spec.elements()])).unwrap();
    for kind in [ModelFormat::HuggingFace(Family::Qwen2), ModelFormat::Gguf] {
        let to = folder.path().join("to");
        let refused = convert(&first, &to, kind, None, usize::MAX).unwrap_err();
        assert!(refused.to_string().contains("`model.layers.0.attention.wo.bias` is not zero"), "{refused}");
    }
    assert!(
        convert(&first, &first, ModelFormat::InternLm2, None, usize::MAX)
            .unwrap_err()
            .to_string()
            .contains("exists already")
    );
    // A reward model without its head would start at random elsewhere.
    write(&first, &config, OutputHeads::default(), target, &mut |spec| Ok(values(3, spec))).unwrap();
    let refused = convert(&first, &folder.path().join("to"), ModelFormat::InternLm2, None, usize::MAX).unwrap_err();
    assert!(refused.to_string().contains("has no head"), "{refused}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A configuration as `transformers` writes it.
fn llama(model_type: &str) -> Value {
    let class = Family::of(model_type).unwrap().class(Architecture::CausalLm);
    json!({
        "architectures": [class], "model_type": model_type, "hidden_size": 24, "intermediate_size": 30,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 13,
        "rope_theta": 5e4, "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": "bfloat16", "hidden_act": "silu", "tie_word_embeddings": false,
    })
}

#[test]
fn configurations_of_other_families() {
    let with = |model_type: &str, key: &str, value: Value| {
        let mut config = llama(model_type);
        config[key] = value;
        parse(&config.to_string())
    };
    assert!(!with("llama", "mlp_bias", json!(false)).unwrap().0.bias);
    assert!(with("llama", "attention_bias", json!(true)).unwrap().0.bias);
    assert!(with("qwen2", "sliding_window", json!(4096)).unwrap().0.bias);
    assert!(with("llama", "tie_word_embeddings", json!(true)).unwrap().1.tied);
    assert_eq!(with("llama", "eos_token_id", json!([7, 8])).unwrap().0.special.eos, 7);
    assert_eq!(with("qwen2", "bos_token_id", Value::Null).unwrap().0.special.bos, 2);
    assert_eq!(with("llama", "head_dim", json!(6)).unwrap().0.head_dim, 6);
    for (scaling, factor) in [
        (json!({"type": "dynamic", "factor": 2.0}), Some(2.0)),
        (json!({"rope_type": "default"}), None),
        (json!({"rope_type": "linear", "factor": 1.0}), None),
    ] {
        assert_eq!(with("llama", "rope_scaling", scaling).unwrap().0.rope_scaling_factor, factor);
    }
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_length: 8192 };
    assert_eq!(with("llama", "rope_scaling", scaling.clone()).unwrap().0.rope_llama3, Some(llama3));
    assert_eq!(with("qwen3", "rope_parameters", scaling).unwrap().0.rope_llama3, Some(llama3));
    assert_eq!(with("llama", "head_dim", json!(8)).unwrap().0.head_dim, 8);
    let config = with("qwen3", "head_dim", Value::Null).unwrap().0;
    assert_eq!((config.head_dim, config.qk_norm, config.bias), (128, true, false));
    assert!(with("qwen3", "attention_bias", json!(true)).unwrap().0.bias);
    // A window shortens what is taken, and does nothing within it.
    for (family, key, value, positions) in [
        ("mistral", "sliding_window", json!(100), 100),
        ("mistral", "sliding_window", json!(4096), 512),
        ("mistral", "sliding_window", Value::Null, 512),
        ("mistral", "max_position_embeddings", json!(32_768), 4096),
        ("qwen2", "sliding_window", json!(100), 512),
        ("llama", "sliding_window", json!(100), 512),
    ] {
        assert_eq!(with(family, key, value).unwrap().0.max_position_embeddings, positions, "{family} {key}");
    }
    let mut windowed = llama("qwen2");
    (windowed["use_sliding_window"], windowed["sliding_window"]) = (json!(true), json!(64));
    assert_eq!(parse(&windowed.to_string()).unwrap().0.max_position_embeddings, 64);
    let score = |config: Value| parse(&config.to_string()).unwrap().0.score;
    let mut normalised = llama("llama");
    assert_eq!(score(normalised.clone()), ScoreMap::IDENTITY);
    (normalised["mean"], normalised["std"]) = (json!(0.5), json!(2.0));
    assert_eq!(score(normalised.clone()), ScoreMap::IDENTITY);
    normalised["normalize_reward"] = json!(true);
    assert_eq!(score(normalised), ScoreMap { bias: 0.0, mean: 0.5, std: 2.0 });
    let parameters = json!({"rope_type": "default", "rope_theta": 7e3});
    assert_eq!(with("llama", "rope_parameters", parameters).unwrap().0.rope_theta, 7e3);
    let parameters = json!({"rope_type": "dynamic", "factor": 2.0, "partial_rotary_factor": 1.0});
    let config = with("llama", "rope_parameters", parameters).unwrap().0;
    assert_eq!((config.rope_theta, config.rope_scaling_factor), (5e4, Some(2.0)));
    for (key, value, reason) in [
        ("head_dim", json!(7), "head_dim = 7: must be an even number"),
        ("head_dim", json!(0), "head_dim = 0: must be an even number"),
        ("num_attention_heads", json!(5), "num_attention_heads = 5: must be a divisor of hidden_size"),
        (
            "value_head_prefix",
            json!("head"),
            "value_head_prefix = \"head\" is not supported: must be score, value_head",
        ),
        ("mlp_bias", json!(true), "mlp_bias = true is not supported"),
        ("hidden_act", json!("gelu"), "hidden_act = \"gelu\""),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor is missing"),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
                "original_max_position_embeddings": 8192}),
            "rope_scaling of the type \"llama3\": factor = 8 must be 1 or above, and low_freq_factor = 4 below",
        ),
        ("rope_scaling", json!({"rope_type": "longrope", "factor": 8.0}), "rope_scaling = {"),
        ("model_type", json!("gemma2"), "model_type = \"gemma2\" is not supported: beside what Gemma has, it caps"),
        ("model_type", json!("gemma"), "model_type = \"gemma\" is not supported: its norms add 1"),
        ("model_type", json!("phi3"), "model_type = \"phi3\" is not supported: its projections are fused"),
        ("model_type", json!("mixtral"), "model_type = \"mixtral\" is not supported: it is a mixture of experts"),
        ("model_type", json!("strange"), "model_type = \"strange\" is not supported; must be \"internlm2\", \"llama\""),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling = {"),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 7e3, "factor": 4.0}), "rope_scaling = {"),
        ("rope_parameters", json!({"rope_type": "yarn", "factor": 4}), "rope_scaling = {"),
        ("rope_parameters", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5 is not supported"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor = 0.5 is not supported"),
        ("architectures", json!(["LlamaForQuestionAnswering"]), "architectures = [\"LlamaForQuestionAnswering\"]"),
        ("vocab_size", Value::Null, "vocab_size is missing"),
        ("hidden_size", json!(u64::MAX), "hidden_size = 18446744073709551615"),
        ("num_attention_heads", json!(0), "num_attention_heads = 0"),
        ("eos_token_id", json!([99]), "eos_token_id = 99: must be below vocab_size"),
    ] {
        let error = with("llama", key, value).map(drop).unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn a_tied_head_is_a_copy_of_the_embedding() {
    let folder = tempfile::tempdir().unwrap();
    let (first, tied) = (folder.path().join("first"), folder.path().join("tied"));
    save(&first, &config(12, false, Architecture::CausalLm), 5);
    convert(&first, &tied, ModelFormat::HuggingFace(Family::Llama), None, usize::MAX).unwrap();
    let path = tied.join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true")).unwrap();
    let (loaded, tensors) = load(&tied);
    let get = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, values)| values.clone()).unwrap();
    assert_eq!(get("output.weight"), get("model.tok_embeddings.weight"));
    assert_eq!(loaded, Loaded { heads: OutputHeads { reward: false, lm: true }, unused: vec![] });
    let parameters = |path: &Path| inspect(path, false).unwrap().model.unwrap().parameters;
    assert_eq!(parameters(&first) - parameters(&tied), 13 * 24);
}

#[test]
fn a_reward_model_without_a_next_token_head_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    save(&first, &config(12, false, Architecture::RewardModel), 7);
    for (name, kind) in [("llama", ModelFormat::HuggingFace(Family::Llama)), ("model.gguf", ModelFormat::Gguf)] {
        let (there, back) = (folder.path().join(name), folder.path().join(format!("{name}-back")));
        convert(&first, &there, kind, None, usize::MAX).unwrap();
        if there.is_dir() {
            let text = fs::read_to_string(there.join(FILE)).unwrap();
            let tied = text.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
            assert_ne!(tied, text);
            fs::write(there.join(FILE), tied).unwrap();
        }
        convert(&there, &back, ModelFormat::InternLm2, None, usize::MAX).unwrap();
        for path in [there, back] {
            assert_eq!(Pretrained::open(&path).unwrap().heads(), OutputHeads { reward: true, lm: false }, "{name}");
        }
    }
}

#[test]
fn without_a_type_nothing_is_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let (first, half) = (folder.path().join("first"), folder.path().join("half"));
    save(&first, &config(12, false, Architecture::CausalLm), fresh_seed());
    // What the configuration says of the type is not what the file holds.
    ModelConfig { dtype: Dtype::Bf16, ..read_config(&first).unwrap() }.write(&first).unwrap();
    let to = folder.path().join("to");
    convert(&first, &to, ModelFormat::HuggingFace(Family::Llama), None, usize::MAX).unwrap();
    assert_eq!((load(&to).1, read_config(&to).unwrap().dtype), (load(&first).1, Dtype::F32));
    // Matrices of a GGUF file in float16 stand beside vectors in float32.
    let gguf = folder.path().join("half.gguf");
    convert(&first, &gguf, ModelFormat::Gguf, Some(Encoding::F16), usize::MAX).unwrap();
    convert(&gguf, &half, ModelFormat::InternLm2, None, usize::MAX).unwrap();
    assert_eq!((load(&half).1, read_config(&half).unwrap().dtype), (load(&gguf).1, Dtype::F32));
    let (bf16, again) = (folder.path().join("bf16"), folder.path().join("again"));
    convert(&first, &bf16, ModelFormat::InternLm2Torch, Some(Encoding::BF16), usize::MAX).unwrap();
    convert(&bf16, &again, ModelFormat::InternLm2, None, usize::MAX).unwrap();
    assert_eq!((load(&again).1, read_config(&again).unwrap().dtype), (load(&bf16).1, Dtype::Bf16));
}

#[test]
fn a_bias_that_a_family_has_may_not_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, llama) = (folder.path().join("plain"), folder.path().join("llama"));
    save(&plain, &config(12, false, Architecture::CausalLm), 9);
    convert(&plain, &llama, ModelFormat::HuggingFace(Family::Qwen2), None, usize::MAX).unwrap();
    // Qwen2's biases under Llama's name: all but that of attention's output.
    let mut keys: Value = serde_json::from_str(&fs::read_to_string(llama.join(FILE)).unwrap()).unwrap();
    for (key, value) in [
        ("model_type", json!("llama")),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("attention_bias", json!(true)),
    ] {
        keys[key] = value;
    }
    fs::write(llama.join(FILE), keys.to_string()).unwrap();
    let model = Pretrained::open(&llama).unwrap();
    let refused = model.check(&model.config().tensors(model.heads())).unwrap_err();
    assert!(refused.to_string().contains("`model.layers.0.self_attn.o_proj.bias` is missing"), "{refused}");
}

#[test]
fn no_tensor_is_left_out_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path, name: &str| {
        let model = Pretrained::open(path).unwrap();
        let specs = model.config().tensors(model.config().architecture.heads());
        let refusal = model.check(&specs).unwrap_err().to_string();
        assert!(refusal.contains(&format!("tensor `{name}` is not part of this network")), "{refusal}");
        let seen = inspect(path, false).unwrap();
        assert!(seen.problems.iter().any(|problem| problem.contains(name)), "{:?}", seen.problems);
        let to = folder.path().join("never");
        assert!(convert(path, &to, ModelFormat::InternLm2, None, usize::MAX).is_err() && !to.exists());
    };
    for (bias, from, to) in [
        (false, "blk.0.attn_q.weight", "blk.0.attn_qkv.bias"),
        (false, "blk.1.attn_norm.weight", "blk.1.attn_qkv.bias."),
        (true, "blk.0.ffn_up.weight", "blk.0.attn_qkv.bias"),
        // llama.cpp's Qwen2 has none of attention's output.
        (false, "blk.0.ffn_up.weight", "blk.0.attn_q_norm.w"),
    ] {
        let (first, file) = (folder.path().join(format!("{bias}")), folder.path().join(format!("{to}-{bias}.gguf")));
        save(&first, &config(12, bias, Architecture::CausalLm), 11);
        convert(&first, &file, ModelFormat::Gguf, None, usize::MAX).unwrap();
        assert_eq!(Pretrained::open(&file).unwrap().config().bias, bias);
        let mut bytes = fs::read(&file).unwrap();
        // One tensor more than the file says: the name of one is changed, which is then missing as well.
        let place = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&file, bytes).unwrap();
        let (_, unknown) = Pretrained::open(&file).unwrap().account(&[]);
        assert!(unknown.iter().any(|name| name.starts_with(to.trim_end_matches('.'))), "{unknown:?}");
    }
    let llama = folder.path().join("llama");
    save(&folder.path().join("own"), &config(12, false, Architecture::RewardModel), 12);
    convert(&folder.path().join("own"), &llama, ModelFormat::HuggingFace(Family::Llama), None, usize::MAX).unwrap();
    for name in
        ["model.layers.0.self_attn.q_norm.weight", "score.0.weight", "model.layers.1.self_attn.q_proj.bias", "x"]
    {
        with_tensor(&llama, name, &[12], 0.5);
        refused(&llama, name);
        with_tensor(&llama, name, &[], 0.0);
    }
    // Two heads: which one is meant?
    with_tensor(&llama, "v_head.weight", &[1, 24], 0.5);
    refused(&llama, "v_head.weight");
    with_tensor(&llama, "v_head.weight", &[], 0.0);
    for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"] {
        with_tensor(&llama, name, &[13, 24], 0.5);
        assert_eq!(load_reward(&llama).0.unused, [name]);
        with_tensor(&llama, name, &[], 0.0);
    }
}

/// Adds a tensor of one value to a folder's only file, or takes it out where `shape` is empty.
fn with_tensor(dir: &Path, name: &str, shape: &[usize], value: f32) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), shape.iter().product()).flatten().collect();
    let mut all: Vec<(String, safetensors::tensor::TensorView)> =
        stored.tensors().into_iter().filter(|(other, _)| other != name).collect();
    if !shape.is_empty() {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &values).unwrap();
        all.push((name.into(), view));
    }
    let written = safetensors::serialize(all, None).unwrap();
    fs::write(&path, written).unwrap();
}

fn load_reward(path: &Path) -> (Loaded, Tensors) {
    let model = Pretrained::open(path).unwrap();
    let mut tensors = Vec::new();
    let mut keep = |spec: &TensorSpec, values: &[f32]| {
        tensors.push((spec.name.clone(), values.to_vec()));
        Ok(())
    };
    let loaded = model.read_into(OutputHeads { reward: true, lm: false }, &mut keep).unwrap();
    (loaded, tensors)
}

#[test]
fn what_becomes_of_the_heads_product_goes_along() {
    let folder = tempfile::tempdir().unwrap();
    let (own, llama) = (folder.path().join("own"), folder.path().join("llama"));
    save(&own, &config(12, false, Architecture::RewardModel), 14);
    convert(&own, &llama, ModelFormat::HuggingFace(Family::Llama), None, usize::MAX).unwrap();
    let score = |path: &Path| Pretrained::open(path).unwrap().config().score;
    let to = |name: &str, kind: ModelFormat| convert(&llama, &folder.path().join(name), kind, None, usize::MAX);
    assert_eq!(score(&llama), ScoreMap::IDENTITY);
    let set = |keys: Value| {
        let path = llama.join(FILE);
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs::write(path, config.to_string()).unwrap();
    };
    // OpenRLHF writes them in any case.
    set(json!({"mean": 0.25, "std": 4.0, "normalize_reward": false}));
    assert_eq!(score(&llama), ScoreMap::IDENTITY);
    set(json!({"normalize_reward": true}));
    let normalised = ScoreMap { bias: 0.0, mean: 0.25, std: 4.0 };
    assert_eq!(score(&llama), normalised);
    assert_eq!(normalised.apply(1.0), 0.1875);
    to("same", ModelFormat::HuggingFace(Family::Llama)).unwrap();
    assert_eq!(score(&folder.path().join("same")), normalised);
    assert!(to("a.gguf", ModelFormat::Gguf).unwrap_err().to_string().contains("mean and std"));
    with_tensor(&llama, "score.bias", &[1], -1.5);
    let all = ScoreMap { bias: -1.5, ..normalised };
    assert_eq!(score(&llama), all);
    let notes = to("back", ModelFormat::InternLm2).unwrap();
    assert!(notes.iter().any(|note| note.contains("is not InternLM2's network")), "{notes:?}");
    assert_eq!(score(&folder.path().join("back")), all);
    assert!(fs::read_to_string(folder.path().join("back/config.json")).unwrap().contains("PolarRawForRewardModel"));
    let refused = to("biased", ModelFormat::HuggingFace(Family::Llama)).unwrap_err().to_string();
    assert!(refused.contains("score.bias"), "{refused}");
    with_tensor(&llama, "score.bias", &[2], 1.0);
    assert!(Pretrained::open(&llama).err().unwrap().to_string().contains("`score.bias` has more than one number"));
    with_tensor(&llama, "score.bias", &[1], f32::NAN);
    assert!(Pretrained::open(&llama).err().unwrap().to_string().contains("must be finite"));
    with_tensor(&llama, "score.bias", &[], 0.0);
    set(json!({"std": 0.0}));
    assert!(Pretrained::open(&llama).err().unwrap().to_string().contains("std = 0"));
}

#[test]
fn a_head_under_another_name_is_the_head_of_a_reward_model() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    save(&own, &config(12, false, Architecture::RewardModel), 15);
    let expected = load(&own).1;
    for (name, prefix) in
        [("value_head.weight", None), ("v_head.weight", None), ("value_head.weight", Some("value_head"))]
    {
        let llama = folder.path().join(format!("{name}{prefix:?}"));
        convert(&own, &llama, ModelFormat::HuggingFace(Family::Llama), None, usize::MAX).unwrap();
        let path = llama.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let renamed = stored
            .tensors()
            .into_iter()
            .map(|(other, view)| (if other == "score.weight" { name.to_string() } else { other }, view));
        let written = safetensors::serialize(renamed.collect::<Vec<_>>(), None).unwrap();
        fs::write(&path, written).unwrap();
        let mut keys: Value = serde_json::from_str(&fs::read_to_string(llama.join(FILE)).unwrap()).unwrap();
        if let Some(prefix) = prefix {
            (keys["value_head_prefix"], keys["architectures"]) = (json!(prefix), json!(["RewardModel"]));
        }
        fs::write(llama.join(FILE), keys.to_string()).unwrap();
        assert_eq!(
            load_reward(&llama),
            (Loaded { heads: OutputHeads { reward: true, lm: false }, unused: vec![] }, expected.clone())
        );
        if prefix.is_some() {
            continue;
        }
        // Of a language model it may be anything.
        keys["architectures"] = json!(["LlamaForCausalLM"]);
        fs::write(llama.join(FILE), keys.to_string()).unwrap();
        let model = Pretrained::open(&llama).unwrap();
        let refused = model.check(&model.config().tensors(OutputHeads { reward: true, lm: false })).unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
    }
}

#[test]
fn a_network_with_norms_of_queries_and_keys_goes_every_way_that_holds_it() {
    let seed = fresh_seed();
    for (bias, architecture) in [(false, Architecture::RewardModel), (true, Architecture::CausalLm)] {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("first");
        let llama3 = Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_length: 8192 };
        let head_dim = 10;
        let own = ModelConfig { qk_norm: true, head_dim, rope_llama3: Some(llama3), ..config(12, bias, architecture) };
        save(&first, &own, seed);
        assert_eq!(read_config(&first).unwrap(), own);
        let original = load(&first).1;
        assert!(original.iter().any(|(name, values)| name.ends_with("k_norm.weight") && values.len() == head_dim));
        for (kind, holds) in [
            (ModelFormat::InternLm2, true),
            (ModelFormat::InternLm2Torch, true),
            (ModelFormat::HuggingFace(Family::Qwen3), true),
            (ModelFormat::Gguf, !bias),
            (ModelFormat::HuggingFace(Family::Llama), false),
            (ModelFormat::HuggingFace(Family::Qwen2), false),
        ] {
            let (there, back) =
                (folder.path().join(format!("{kind:?}.gguf")), folder.path().join(format!("{kind:?}-back")));
            let converted = convert(&first, &there, kind, None, usize::MAX);
            assert_eq!(converted.is_ok(), holds, "{kind:?} {converted:?}");
            if !holds {
                assert!(!there.exists());
                continue;
            }
            convert(&there, &back, ModelFormat::InternLm2, None, usize::MAX).unwrap();
            assert_eq!(load(&back).1, original, "{kind:?}");
            let kept = read_config(&back).unwrap();
            let mut expected = own.clone();
            if kind == ModelFormat::Gguf {
                expected.special = kept.special;
            }
            assert_eq!(kept, expected, "{kind:?}");
        }
    }
    // And what has none is not Qwen3's.
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    save(&first, &config(12, false, Architecture::CausalLm), seed);
    let to = folder.path().join("to");
    let refused = convert(&first, &to, ModelFormat::HuggingFace(Family::Qwen3), None, usize::MAX).unwrap_err();
    assert!(refused.to_string().contains("without norms of queries and keys"), "{refused}");
}
