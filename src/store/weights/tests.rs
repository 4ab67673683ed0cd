use super::*;
use crate::config::ModelSection;
use crate::model::config::{Architecture, SpecialIds};
use crate::store::pretrained::{Loaded, Pretrained};

const BOTH: OutputHeads = OutputHeads { reward: true, lm: true };
const REWARD: OutputHeads = OutputHeads { reward: true, lm: false };

fn config() -> ModelConfig {
    let section = ModelSection {
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..ModelSection::default()
    };
    ModelConfig::new(&section, 11, SpecialIds { bos: 1, eos: 2, pad: 2, reward: None }, Architecture::RewardModel)
        .unwrap()
}

/// Values that differ between tensors and places, all exact in bf16 and f16.
fn values(spec: &TensorSpec) -> Vec<f32> {
    (0..spec.elements()).map(|i| ((spec.offset / 16 + i) % 251) as f32 / 8.0 - 12.0).collect()
}

fn save(dir: &Path, heads: OutputHeads, dtype: Dtype, max_shard_bytes: usize) {
    config().write(dir).unwrap();
    let target = WriteOptions::safetensors(dtype, max_shard_bytes);
    write(dir, &config(), heads, target, &mut |spec| Ok(values(spec))).unwrap();
}

type Tensors = Vec<(TensorSpec, Vec<f32>)>;

fn load(dir: &Path, heads: OutputHeads) -> Result<(Loaded, Tensors)> {
    let mut tensors = Vec::new();
    let loaded = Pretrained::open(dir)?.read_into(heads, &mut |spec, values| {
        tensors.push((spec.clone(), values.to_vec()));
        Ok(())
    })?;
    Ok((loaded, tensors))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_type_and_sharding_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".model.safetensors.tmp-1"), "left by a killed process").unwrap();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for max_shard_bytes in [usize::MAX, 1000, 1] {
            save(folder.path(), BOTH, dtype, max_shard_bytes);
            let (loaded, tensors) = load(folder.path(), BOTH).unwrap();
            assert_eq!(loaded, Loaded { heads: BOTH, unused: vec![] });
            let expected: Vec<_> = config().tensors(BOTH).into_iter().map(|s| (s.clone(), values(&s))).collect();
            assert_eq!(tensors, expected);
            // Nothing of the former sharding and no temporary file remains.
            let files = names(folder.path());
            let shards = files.iter().filter(|n| n.ends_with(".safetensors")).count();
            assert_eq!(files.contains(&Format::Safetensors.index()), max_shard_bytes != usize::MAX);
            assert_eq!(files.len(), 1 + shards + usize::from(shards > 1), "{files:?}");
        }
    }
}

#[test]
fn heads_are_optional_and_what_is_not_read_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), REWARD, Dtype::F32, usize::MAX);
    assert_eq!(load(folder.path(), BOTH).unwrap().0, Loaded { heads: REWARD, unused: vec![] });
    let (loaded, tensors) = load(folder.path(), OutputHeads::default()).unwrap();
    assert_eq!(loaded, Loaded { heads: OutputHeads::default(), unused: vec!["v_head.weight".into()] });
    assert_eq!(tensors.len(), config().tensors(OutputHeads::default()).len());
}

#[test]
fn what_does_not_fit_the_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), REWARD, Dtype::F32, usize::MAX);
    let mut wider = config();
    wider.intermediate_size = 16;
    let mut deeper = config();
    deeper.num_hidden_layers = 3;
    for (config, reason) in [
        (
            wider,
            "tensor `model.layers.0.feed_forward.w1.weight` has shape [12, 8], but the configuration asks for [16, 8]",
        ),
        (deeper, "tensor `model.layers.2.attention_norm.weight` is missing"),
    ] {
        let mut passed = 0;
        config.write(folder.path()).unwrap();
        let error = Pretrained::open(folder.path())
            .unwrap()
            .read_into(REWARD, &mut |_, _| {
                passed += 1;
                Ok(())
            })
            .unwrap_err();
        assert!(error.to_string().contains(reason) && error.exit_code() == 2, "{error}");
        assert_eq!(passed, 0, "nothing is passed on before all is checked");
    }
}

#[test]
fn folders_without_usable_weights_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || load(folder.path(), REWARD).unwrap_err().to_string();
    assert!(refusal().contains("config.json"));
    config().write(folder.path()).unwrap();
    assert!(refusal().contains("holds no weights: neither model.safetensors or model.safetensors.index.json"));
    fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
    assert!(refusal().contains("pytorch_model.bin: it is not a zip archive"), "{}", refusal());

    for (index, reason) in [
        ("{", "EOF"),
        ("{}", "no object `weight_map`"),
        (r#"{"weight_map":{"a":"../x.safetensors"}}"#, "not a file name"),
        (r#"{"weight_map":{"a":7}}"#, "not a file name"),
        (r#"{"weight_map":{"a":"x.safetensors"}}"#, "x.safetensors"),
    ] {
        fs::write(folder.path().join(Format::Safetensors.index()), index).unwrap();
        assert!(refusal().contains(reason), "{}", refusal());
    }
    fs::remove_file(folder.path().join(Format::Safetensors.index())).unwrap();

    save(folder.path(), REWARD, Dtype::F32, 1000);
    let index = fs::read_to_string(folder.path().join(Format::Safetensors.index())).unwrap();
    fs::write(folder.path().join(Format::Safetensors.index()), index.replace("model.norm.weight", "model.form.weight"))
        .unwrap();
    assert!(refusal().contains("tensor `model.form.weight` is not in model-"), "{}", refusal());

    for bytes in [&b""[..], b"short", &[255; 64]] {
        fs::write(folder.path().join(SINGLE), bytes).unwrap();
        assert!(refusal().contains(SINGLE), "{}", refusal());
    }
    let entry = r#"{"model.tok_embeddings.weight":{"dtype":"F64","shape":[11,8],"data_offsets":[0,704]}}"#;
    let file = [&(entry.len() as u64).to_le_bytes()[..], entry.as_bytes(), &[0; 704]].concat();
    fs::write(folder.path().join(SINGLE), file).unwrap();
    assert!(refusal().contains("is stored as F64; supported are"), "{}", refusal());
}

#[test]
fn a_failure_while_writing_leaves_the_former_model() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), REWARD, Dtype::F32, usize::MAX);
    let before = fs::read(folder.path().join(SINGLE)).unwrap();
    let target = WriteOptions::safetensors(Dtype::F16, 1000);
    let overflow = write(folder.path(), &config(), REWARD, target, &mut |spec| {
        Ok(if spec.name == "model.norm.weight" { vec![1e6; 8] } else { values(spec) })
    });
    assert!(overflow.unwrap_err().to_string().contains("`model.norm.weight` holds values too large for F16"));
    let target = WriteOptions::safetensors(Dtype::F32, 1000);
    let short = write(folder.path(), &config(), REWARD, target, &mut |_| Ok(vec![0.0]));
    assert_eq!(short.unwrap_err().exit_code(), 1);
    assert_eq!(names(folder.path()), ["config.json", SINGLE]);
    assert_eq!(fs::read(folder.path().join(SINGLE)).unwrap(), before);
}
