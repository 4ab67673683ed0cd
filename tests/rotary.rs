//! Rotary frequencies and what hangs on them against those of PyTorch in `tests/golden/rotary`. Its `make.py` says how
//! they were made.

use std::path::Path;
use std::rc::Rc;

use polar_raw::backend::{Llama3, Rotary, rope_angle, rope_frequency};
use polar_raw::config::ModelSection;
use polar_raw::cpu::Cpu;
use polar_raw::eval::Scorer;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Model, ModelConfig, OutputHeads};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn figures<T: DeserializeOwned>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rotary").join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The frequencies of PyTorch: without vector instructions, and what other bits it gives with them.
#[derive(Deserialize)]
struct Frequencies {
    dim: usize,
    theta: f64,
    bits: Vec<u32>,
    avx2: Vec<(usize, u32)>,
    avx512: Vec<(usize, u32)>,
}

#[test]
fn frequencies_are_those_of_the_published_models() {
    let tables: Vec<Frequencies> = figures("frequencies.json");
    assert_eq!(tables.len(), 42);
    for Frequencies { dim, theta, bits, avx2, avx512 } in tables {
        let ours: Vec<u32> = (0..dim / 2).map(|i| rope_frequency(i, dim, theta).to_bits()).collect();
        assert_eq!(ours, bits, "heads of {dim}, theta {theta}");
        for (i, other) in avx2.iter().chain(&avx512) {
            // The power's last bit; where its reciprocal is just above a power of two, that is two of them.
            assert!(matches!(ours[*i].abs_diff(*other), 1 | 2), "heads of {dim}, theta {theta}, pair {i}");
        }
        // Heads as models have them: vector instructions change three entries at most.
        if dim <= 128 {
            assert!(avx2.len() <= 3 && avx512.len() <= 3, "heads of {dim}, theta {theta}");
        }
        let last = dim / 2 - 1;
        assert_eq!(rope_angle(16_384, last, dim, theta), 16_384.0 * f32::from_bits(bits[last]));
    }
}

#[derive(Deserialize)]
struct Scaled {
    dim: usize,
    theta: f64,
    factor: f64,
    original: u32,
    bits: Vec<u32>,
}

#[test]
fn llama3_frequencies_are_those_of_transformers() {
    let path = "../families/frequencies.json";
    let tables: Vec<Scaled> = figures(path);
    assert_eq!(tables.len(), 6);
    for Scaled { dim, theta, factor, original, bits } in tables {
        let llama3 = Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_length: original };
        let rotary = Rotary { theta, llama3: Some(llama3) };
        let ours: Vec<u32> = (0..dim / 2).map(|i| rope_frequency(i, dim, rotary).to_bits()).collect();
        assert_eq!(ours, bits, "heads of {dim}, factor {factor}");
        // Fast ones are left, slow ones divided, and some are neither.
        let plain: Vec<f32> = (0..dim / 2).map(|i| rope_frequency(i, dim, theta)).collect();
        let of = |ratio: f32| plain.iter().zip(&ours).filter(|(p, o)| f32::from_bits(**o) * ratio == **p).count();
        let (fast, slow) = (of(1.0), of(factor as f32));
        assert!(fast > 0 && slow > 0 && fast + slow < dim / 2, "{fast} fast, {slow} slow");
    }
}

#[derive(Deserialize)]
struct Scores {
    config: Config,
    scores: Vec<Score>,
}

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    rope_theta: f64,
    rms_norm_eps: f64,
    max_position_embeddings: usize,
}

#[derive(Deserialize)]
struct Score {
    length: usize,
    f32: f64,
    f64: f64,
}

/// As `noise` in `make.py`: SplitMix64 (Steele, Lea and Flood 2014) from the FNV-1a hash of the name.
fn noise(name: &str) -> impl Iterator<Item = u64> {
    let step = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    let mut state = name.bytes().fold(0xCBF2_9CE4_8422_2325, step);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// As `weights` in `make.py`.
fn weights(name: &str, count: usize) -> Vec<f32> {
    let (spread, middle) = match name {
        name if name.contains("norm") => (0.25, 1.0),
        name if name.contains("tok_embeddings") => (1.0, 0.0),
        name if name.contains("wqkv") => (0.25, 0.0),
        _ => (0.125, 0.0),
    };
    let signed = |bits: u64| ((bits >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32;
    noise(name).take(count).map(|bits| signed(bits) * spread + middle).collect()
}

fn model(c: &Config) -> Rc<Model> {
    let section = ModelSection {
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads,
        rope_theta: c.rope_theta,
        rms_norm_eps: c.rms_norm_eps,
        max_position_embeddings: c.max_position_embeddings,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, c.vocab_size, special, Architecture::RewardModel).unwrap();
    let model = Model::new(Rc::new(Cpu::new()), config, OutputHeads { reward: true, lm: false }).unwrap();
    for spec in model.specs() {
        model.set(spec, &weights(&spec.name, spec.elements())).unwrap();
    }
    Rc::new(model)
}

#[test]
fn scores_at_long_positions_are_pytorchs() {
    let Scores { config, scores } = figures("scores.json");
    assert!(scores.iter().any(|score| score.length > 8192));
    let vocabulary = config.vocab_size as u64;
    let ids = |length: usize| noise(&format!("ids {length}")).take(length).map(|id| (id % vocabulary) as u32).collect();
    let mut scorer = Scorer::new(model(&config), 16_384).unwrap();
    let groups: Vec<Vec<Vec<u32>>> = scores.iter().map(|score| vec![ids(score.length)]).collect();
    for (got, want) in scorer.score(&groups).unwrap().into_iter().map(f64::from).zip(&scores) {
        for (name, other) in [("float32", want.f32), ("float64", want.f64)] {
            let error = (got - other).abs();
            println!("{} tokens: {got}, {error:.1e} from PyTorch's {name}", want.length);
            assert!(error <= 1e-5 + 1e-5 * other.abs(), "{} tokens: {got}, PyTorch has {other} in {name}", want.length);
        }
    }
}
