use super::*;
use crate::config::Config;
use crate::model::Param;
use crate::model::params::ALIGNMENT;
use approx::abs_diff_eq;

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
fn tensors_tile_the_flat_buffer() {
    let config = tiny();
    let both = OutputHeads { reward: true, lm: true };
    let tensors = config.tensors(both);
    let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(
        names[..3],
        ["model.tok_embeddings.weight", "model.layers.0.attention_norm.weight", "model.layers.0.attention.wqkv.weight"]
    );
    assert_eq!(names[names.len() - 3..], ["model.norm.weight", "v_head.weight", "output.weight"]);
    assert_eq!(tensors[2].shape, [20, 12]);
    let mut end = 0_usize;
    for tensor in &tensors {
        // One matrix product reads w1 and w3, so nothing may lie between them.
        let alignment = if tensor.param.follows_at_once() { 1 } else { ALIGNMENT };
        assert_eq!(tensor.offset, end.next_multiple_of(alignment), "{}", tensor.name);
        end = tensor.offset + tensor.elements();
    }
    assert_eq!(config.buffer_elements(both), end.next_multiple_of(ALIGNMENT));
    assert_eq!(config.parameters(both), 7 * 12 + 2 * (12 + 240 + 144 + 12 + 3 * 60) + 12 + 12 + 84);
    let reward = config.architecture.heads();
    assert!(config.tensors(reward).iter().all(|t| t.param != Param::LmHead));
}

#[test]
fn a_bias_follows_the_weight_that_it_belongs_to() {
    let config = ModelConfig { bias: true, ..tiny() };
    let heads = config.architecture.heads();
    let tensors = config.tensors(heads);
    let place = |name: &str| tensors.iter().position(|t| t.name == name).unwrap();
    for layer in 0..2 {
        for (name, elements) in [("wqkv", 20), ("wo", 12)] {
            let weight = place(&format!("model.layers.{layer}.attention.{name}.weight"));
            let bias = &tensors[weight + 1];
            assert_eq!(bias.name, format!("model.layers.{layer}.attention.{name}.bias"));
            assert_eq!(bias.shape, [elements]);
            assert_eq!(bias.offset % ALIGNMENT, 0);
        }
    }
    assert_eq!(config.parameters(heads), tiny().parameters(heads) + 2 * (20 + 12));
}

#[test]
fn published_sizes_have_the_published_parameters() {
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(92_527) };
    // 7.36e9 and 1.70e9 parameters, by the sum over InternLM2.5's tensors without the language-model head.
    for (name, parameters) in [("polar-7b", 7.36e9), ("polar-1.8b", 1.70e9), ("polar-50m", 5.09e7)] {
        let preset = Config::preset(name).unwrap();
        let vocab = preset.tokenizer.vocab_size.max(92_544);
        let config = ModelConfig::new(&preset.model, vocab, special, Architecture::RewardModel).unwrap();
        let surplus = (vocab - preset.tokenizer.vocab_size) * config.hidden_size;
        let count = (config.parameters(config.architecture.heads()) - surplus) as f64;
        assert!(abs_diff_eq!(count / parameters, 1.0, epsilon = 2e-3), "{name}: {count}");
    }
}
