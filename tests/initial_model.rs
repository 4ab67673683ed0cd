//! A reward model that starts from somebody else's language model: rows for the tokens that POLAR adds.

use approx::abs_diff_eq;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use polar_raw::config::Config;
use polar_raw::cpu::Cpu;
use polar_raw::model::{Model, TensorSpec};
use polar_raw::store::convert::{ModelFormat, convert};
use polar_raw::store::weights::{self, WriteOptions};
use polar_raw::store::{Family, Pretrained};
use polar_raw::tokenizer::{Missing, Tokenizer};
use polar_raw::train::setup::{Initial, Setup, Start};
use serde_json::{Map, Value, json};

const SMALL: &str = r#"
[model]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
[tokenizer]
vocab_size = 300
train_bytes = 20000
[data]
max_length = 128
max_response_length = 60
pack_length = 512
[zoo]
train_policies = 4
held_out_policies = 4
[train]
steps = 1
[eval]
pairs = 2
"#;

fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, format!("{SMALL}{text}")).unwrap();
    Config::load(&path).unwrap()
}

fn setup(config: &Config, start: Start, init: Option<&Path>) -> (Setup, Model, Vec<String>) {
    let setup = Setup::new(config, start).unwrap();
    let Initial { model, notes, .. } = setup.initial_model(Rc::new(Cpu::new()), init).unwrap();
    (setup, model, notes)
}

fn tensor(model: &Model, name: &str) -> Vec<f32> {
    let spec = model.specs().iter().find(|spec| spec.name == name).unwrap();
    model.get(model.params(), spec).unwrap()
}

/// A language model of this crate as a Llama folder whose tokenizer knows neither separator nor score token, with
/// `padding` rows of its embedding that no token has.
fn foreign(folder: &Path, padding: usize) -> PathBuf {
    foreign_of(Family::Llama, folder, padding)
}

/// As [`foreign`], of any family. Of a Qwen2 the biases of queries, keys and values are not zero.
fn foreign_of(family: Family, folder: &Path, padding: usize) -> PathBuf {
    let lm = config("[objective]\nkind = \"lm\"\n");
    let (mut setup, _, _) = setup(&lm, Start::Fresh, None);
    setup.model_config.vocab_size += padding;
    setup.model_config.bias = family == Family::Qwen2;
    setup.model_config.qk_norm = family == Family::Qwen3;
    let Initial { model, .. } = setup.initial_model(Rc::new(Cpu::new()), None).unwrap();
    let (own, theirs) = (folder.join("own"), folder.join(family.model_type()));
    fs::create_dir(&own).unwrap();
    setup.model_config.write(&own).unwrap();
    let target = WriteOptions::safetensors(setup.model_config.dtype, usize::MAX);
    let mut source = |spec: &TensorSpec| {
        let values = model.get(model.params(), spec)?;
        let bias = spec.name.ends_with("wqkv.bias") || spec.name.ends_with("q_norm.weight");
        Ok(if bias { (0..values.len()).map(|i| i as f32 / 64.0 - 0.2).collect() } else { values })
    };
    weights::write(&own, model.config(), model.outputs(), target, &mut source).unwrap();
    setup.feeder.tokenizer().unwrap().save(&own).unwrap();
    convert(&own, &theirs, ModelFormat::HuggingFace(family), None, usize::MAX).unwrap();
    fs::remove_file(theirs.join("tokenizer_config.json")).unwrap();
    let path = theirs.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let renamed = text.replace("<|reward|>", "<|a|>").replace("[UNUSED_TOKEN_130]", "<|b|>");
    assert_ne!(text, renamed);
    fs::write(path, renamed).unwrap();
    theirs
}

/// `LlamaForSequenceClassification` scores at the last token that is not the configuration's pad token, whatever its
/// tokenizer fills batches up with.
#[test]
fn the_pad_token_of_the_configuration_is_that_of_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let llama = foreign(folder.path(), 0);
    let settings = config("");
    let pad = |value: Value| {
        let json = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": value});
        fs::write(llama.join("tokenizer_config.json"), json.to_string()).unwrap();
        let (setup, _, _) = setup(&settings, Start::From(llama.clone()), Some(&llama));
        let tokenizer = setup.feeder.tokenizer().unwrap();
        assert_eq!(tokenizer.pad(), Some(setup.model_config.special.pad));
        setup.model_config.special.pad
    };
    assert_eq!([pad(json!("<|a|>")), pad(json!("<unk>")), pad(json!("[PAD]")), pad(Value::Null)], [3, 0, 2, 2]);
}

/// Runs the program in `folder`.
fn program(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polar-raw")).current_dir(folder).args(args).output().unwrap()
}

/// The tensors of a model on the disk.
fn tensors(dir: &Path) -> Vec<(String, Vec<f32>)> {
    let model = Pretrained::open(dir).unwrap();
    let mut all = Vec::new();
    let mut keep = |spec: &TensorSpec, values: &[f32]| {
        all.push((spec.name.clone(), values.to_vec()));
        Ok(())
    };
    model.read_into(model.heads(), &mut keep).unwrap();
    all
}

#[test]
fn tokens_that_are_new_to_a_model_start_as_the_mean_of_the_others() {
    for (padding, rows) in [(0, 302), (1, 302), (7, 307)] {
        let folder = tempfile::tempdir().unwrap();
        let llama = foreign(folder.path(), padding);
        let original = Pretrained::open(&llama).unwrap();
        let width = original.config().hidden_size;
        assert_eq!(original.config().vocab_size, 300 + padding);
        let config = config("[objective]\nlm_weight = 1.0\n");
        let (setup, model, notes) = setup(&config, Start::From(llama.clone()), Some(&llama));
        assert_eq!(setup.model_config.vocab_size, rows);
        let specials = setup.feeder.tokenizer().unwrap().specials();
        assert_eq!([specials.separator, specials.score], [Some(300), Some(301)]);
        assert!(notes.iter().any(|note| note.contains("[300, 301] are new")), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("reward head starts at zero")), "{notes:?}");
        assert!(tensor(&model, "v_head.weight").iter().all(|v| *v == 0.0));

        let mut compared = 0;
        original
            .read_into(original.heads(), &mut |spec, values| {
                let ours = tensor(&model, &spec.name);
                if !["model.tok_embeddings.weight", "output.weight"].contains(&spec.name.as_str()) {
                    assert_eq!(ours, values, "{}", spec.name);
                    return Ok(());
                }
                let known = &values[..300 * width];
                assert_eq!(&ours[..300 * width], known);
                for column in 0..width {
                    let mean = known.iter().skip(column).step_by(width).sum::<f32>() / 300.0;
                    for row in [300, 301] {
                        assert!(abs_diff_eq!(ours[row * width + column], mean, epsilon = 1e-6), "{} {row}", spec.name);
                    }
                }
                // Rows that no token has stay as they were.
                let rest = 302.min(values.len() / width) * width;
                assert_eq!(ours[302 * width..], values[rest..]);
                compared += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(compared, 2);
    }
}

#[test]
fn a_gguf_file_without_a_vocabulary_is_read_with_the_tokenizer_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let llama = foreign(folder.path(), 0);
    let gguf = folder.path().join("alone/model.gguf");
    fs::create_dir(gguf.parent().unwrap()).unwrap();
    convert(&llama, &gguf, ModelFormat::Gguf, None, usize::MAX).unwrap();
    assert!(polar_raw::store::pretrained::tokenizer(&gguf, Missing::Leave).unwrap().is_none());
    let refused = polar_raw::store::pretrained::required_tokenizer(&gguf, Missing::Leave).unwrap_err().to_string();
    assert!(refused.contains("has no vocabulary"), "{refused}");
    fs::copy(llama.join("tokenizer.json"), gguf.with_file_name("tokenizer.json")).unwrap();
    let (grown, _, notes) = setup(&config(""), Start::From(gguf.clone()), Some(&gguf));
    assert_eq!(grown.model_config.vocab_size, 302, "{notes:?}");
    let back = folder.path().join("back");
    convert(&gguf, &back, ModelFormat::InternLm2, None, usize::MAX).unwrap();
    assert_eq!(fs::read(back.join("tokenizer.json")).unwrap(), fs::read(llama.join("tokenizer.json")).unwrap());
}

#[test]
fn a_saved_model_knows_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let llama = foreign(folder.path(), 0);
    let config = config("");
    let (grown, model, _) = setup(&config, Start::From(llama.clone()), Some(&llama));
    let again = folder.path().join("again");
    fs::create_dir(&again).unwrap();
    grown.model_config.write(&again).unwrap();
    grown.feeder.tokenizer().unwrap().save(&again).unwrap();
    let target = WriteOptions::safetensors(grown.model_config.dtype, usize::MAX);
    let mut marked = |spec: &TensorSpec| {
        let mut values = model.get(model.params(), spec)?;
        if spec.name == "model.tok_embeddings.weight" {
            let from = values.len() - 16;
            values[from..].fill(7.0);
        }
        Ok(values)
    };
    weights::write(&again, model.config(), model.outputs(), target, &mut marked).unwrap();
    let (_, model, notes) = setup(&config, Start::From(again.clone()), Some(&again));
    assert!(!notes.iter().any(|note| note.contains("are new")), "{notes:?}");
    assert!(tensor(&model, "model.tok_embeddings.weight").ends_with(&[7.0; 16]));
}

#[test]
fn a_tokenizer_saved_with_more_ids_than_rows_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let llama = foreign(folder.path(), 0);
    Tokenizer::load(&llama, Missing::Add).unwrap().save(&llama).unwrap();
    let config = config("");
    let (grown, model, notes) = setup(&config, Start::From(llama.clone()), Some(&llama));
    assert_eq!(grown.model_config.vocab_size, 302);
    assert!(notes.iter().any(|note| note.contains("[300, 301] are new")), "{notes:?}");
    let table = tensor(&model, "model.tok_embeddings.weight");
    assert!(table[300 * 16..].iter().any(|v| *v != 0.0));
    assert_eq!(table[300 * 16..301 * 16], table[301 * 16..]);
}

#[test]
fn a_qwen2_language_model_brings_its_biases() {
    let folder = tempfile::tempdir().unwrap();
    let qwen = foreign_of(Family::Qwen2, folder.path(), 0);
    let stored = fs::read_to_string(qwen.join("config.json")).unwrap();
    assert!(stored.contains("Qwen2ForCausalLM") && !stored.contains("bias"), "{stored}");
    let (grown, model, notes) = setup(&config(""), Start::From(qwen.clone()), Some(&qwen));
    assert!(grown.model_config.bias);
    assert!(notes.iter().any(|note| note.contains("[300, 301] are new")), "{notes:?}");
    let original = tensors(&qwen);
    let (mut biases, mut others) = (0, 0);
    for (name, values) in &original {
        match name.as_str() {
            // Not trained here, and longer in the model by two tokens.
            "output.weight" => {}
            "model.tok_embeddings.weight" => assert_eq!(tensor(&model, name)[..values.len()], *values),
            name => {
                assert_eq!(tensor(&model, name), *values, "{name}");
                // Qwen2 has no bias behind attention: it is zero.
                let bias = name.ends_with("wqkv.bias");
                assert_eq!(values.iter().any(|v| *v != 0.0), !name.ends_with("wo.bias"), "{name}");
                (biases, others) = (biases + usize::from(bias), others + usize::from(!bias));
            }
        }
    }
    assert!(biases == 1 && others > 5, "{biases} biases, {others} other tensors");

    // The whole way: `--init`, three steps, and the model that is saved. The first step teaches the head alone, which
    // begins at zero and passes no gradient on.
    fs::write(folder.path().join("small.toml"), SMALL).unwrap();
    let sets = ["train.steps=3", "train.batch_size=4", "eval.baseline_triples=8"];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let args = ["train", "--config", "small.toml", "--init", "qwen2", "--run", "run", "--device", "cpu"];
    let output = program(folder.path(), &args.into_iter().chain(sets).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trained = tensors(&folder.path().join("run/model"));
    let found = |name: &str| &trained.iter().find(|(other, _)| other == name).unwrap().1;
    assert!(found("v_head.weight").iter().any(|v| *v != 0.0));
    let bias = "model.layers.0.attention.wqkv.bias";
    let before = &original.iter().find(|(name, _)| name == bias).unwrap().1;
    let moved: Vec<f32> = before.iter().zip(found(bias)).map(|(a, b)| (a - b).abs()).collect();
    // Learnt from where they were: by a few learning rates of 0.002.
    assert!(moved.iter().all(|by| *by < 0.02) && moved.iter().any(|by| *by > 0.0), "{moved:?}");
}

#[test]
fn a_qwen3_language_model_brings_its_norms_of_queries_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let qwen = foreign_of(Family::Qwen3, folder.path(), 0);
    let original = tensors(&qwen);
    fs::write(folder.path().join("small.toml"), SMALL).unwrap();
    let sets = ["train.steps=3", "train.batch_size=4", "eval.baseline_triples=8"];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let args = ["train", "--config", "small.toml", "--init", "qwen3", "--run", "run", "--device", "cpu"];
    let output = program(folder.path(), &args.into_iter().chain(sets).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trained = tensors(&folder.path().join("run/model"));
    let of = |tensors: &[(String, Vec<f32>)], name: &str| {
        tensors.iter().find(|(other, _)| other == name).map(|(_, values)| values.clone()).unwrap()
    };
    for name in ["model.layers.0.attention.q_norm.weight", "model.layers.0.attention.k_norm.weight"] {
        let (before, after) = (of(&original, name), of(&trained, name));
        let moved: Vec<f32> = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).collect();
        assert!(moved.iter().all(|by| *by < 0.02) && moved.iter().any(|by| *by > 0.0), "{name}: {moved:?}");
    }
    // InternLM2's own code would leave the norms out: the folder does not say that it is one of its models.
    let saved = fs::read_to_string(folder.path().join("run/model/config.json")).unwrap();
    assert!(saved.contains("\"polar_raw\"") && !saved.contains("InternLM2"), "{saved}");
    let row = json!({"prompt": "a", "reference": "b", "outputs": ["c", "dd"]});
    fs::write(folder.path().join("rows.jsonl"), format!("{row}\n")).unwrap();
    let args = ["score", "--device", "cpu", "--input", "rows.jsonl", "--model"];
    let convert = ["convert", "--from", "run/model", "--to", "back", "--as", "qwen3"];
    assert!(program(folder.path(), &convert).status.success());
    let [own, back] = ["run/model", "back"].map(|model| program(folder.path(), &[&args[..], &[model]].concat()));
    assert!(own.status.success() && !own.stdout.is_empty(), "{}", String::from_utf8_lossy(&own.stderr));
    assert_eq!(own.stdout, back.stdout, "{}", String::from_utf8_lossy(&back.stderr));
}

#[test]
fn a_declared_reward_model_needs_its_head_and_a_hub_name_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let llama = foreign(folder.path(), 0);
    let path = llama.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("LlamaForCausalLM", "LlamaForSequenceClassification")).unwrap();
    fs::write(folder.path().join("small.toml"), SMALL).unwrap();
    fs::write(folder.path().join("ids.jsonl"), "{\"input_ids\": [5, 6, 7]}\n").unwrap();
    let train = ["train", "--config", "small.toml", "--run", "run", "--device", "cpu", "--init"];
    let score = ["score", "--device", "cpu", "--input", "ids.jsonl", "--model"];
    for args in [&train[..], &score] {
        for (model, parts) in [
            ("llama", ["is declared as a reward model and has no reward head", "score.weight"]),
            ("org/model", ["there is no folder org/model", "`hf download org/model`"]),
        ] {
            let output = program(folder.path(), &[args, &[model]].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
            assert!(!folder.path().join("run").exists());
        }
    }
    // A name is the same as the folder in which the cache has it.
    let cached = folder.path().join("hub/models--org--model");
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::create_dir_all(cached.join("snapshots")).unwrap();
    fs::write(cached.join("refs/main"), "0a1b").unwrap();
    fs::rename(&llama, cached.join("snapshots/0a1b")).unwrap();
    let inspected = Command::new(env!("CARGO_BIN_EXE_polar-raw"))
        .env("HF_HUB_CACHE", folder.path().join("hub"))
        .args(["inspect", "org/model"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(inspected.status.success() && said.contains("reward model"), "{said}");
}

#[test]
fn dynamic_ntk_scaling_changes_nothing_within_the_trained_length() {
    const POSITIONS: usize = 64;
    let folder = tempfile::tempdir().unwrap();
    let (mut setup, _, _) = setup(&config(""), Start::Fresh, None);
    setup.model_config.max_position_embeddings = POSITIONS;
    // Attention that depends on where its tokens stand.
    setup.model_config.initializer_range = 0.3;
    let Initial { model, .. } = setup.initial_model(Rc::new(Cpu::new()), None).unwrap();
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    setup.model_config.write(&own).unwrap();
    let target = WriteOptions::safetensors(setup.model_config.dtype, usize::MAX);
    let mut source = |spec: &TensorSpec| model.get(model.params(), spec);
    weights::write(&own, model.config(), model.outputs(), target, &mut source).unwrap();
    convert(&own, &folder.path().join("llama"), ModelFormat::HuggingFace(Family::Llama), None, usize::MAX).unwrap();

    let score = setup.model_config.special.reward.unwrap();
    let row = |length: usize| {
        let ids: Vec<u32> = (0..length as u32 - 1).map(|i| 5 + (i * i + 7 * i) % 290).chain([score]).collect();
        format!("{}\n", json!({"input_ids": ids}))
    };
    fs::write(folder.path().join("rows.jsonl"), [2, 5, 33, POSITIONS - 1, POSITIONS].map(row).concat()).unwrap();
    fs::write(folder.path().join("beyond.jsonl"), [POSITIONS, POSITIONS + 1].map(row).concat()).unwrap();
    // The folder's scores of the rows with some keys of its configuration changed.
    let scores = |dir: &str, changes: Value, rows: &str| {
        let path = folder.path().join(dir).join("config.json");
        let before = fs::read_to_string(&path).unwrap();
        let mut keys: Map<String, Value> = serde_json::from_str(&before).unwrap();
        keys.remove("rope_scaling");
        keys.extend(changes.as_object().unwrap().clone());
        fs::write(&path, json!(keys).to_string()).unwrap();
        let output = program(folder.path(), &["score", "--device", "cpu", "--model", dir, "--input", rows]);
        fs::write(&path, before).unwrap();
        output
    };
    for dir in ["own", "llama"] {
        let plain = scores(dir, json!({}), "rows.jsonl");
        assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
        let turned = scores(dir, json!({"rope_theta": 20_000.0}), "rows.jsonl");
        assert!(turned.status.success());
        assert_ne!(turned.stdout, plain.stdout, "the scores do not depend on positions");
        for scaling in [json!({"type": "dynamic", "factor": 2.0}), json!({"rope_type": "dynamic", "factor": 8.0})] {
            let scaled = scores(dir, json!({"rope_scaling": scaling}), "rows.jsonl");
            assert!(scaled.status.success(), "{}", String::from_utf8_lossy(&scaled.stderr));
            assert_eq!(scaled.stdout, plain.stdout, "{dir}: {scaling}");
            let beyond = scores(dir, json!({"rope_scaling": scaling}), "beyond.jsonl");
            assert_eq!((beyond.status.code(), beyond.stdout.len()), (Some(2), 0), "{dir}: {scaling}");
            let said = String::from_utf8_lossy(&beyond.stderr).into_owned();
            for part in ["beyond.jsonl:2", "65 ids", "at most 64"] {
                assert!(said.contains(part), "{part} in {said}");
            }
        }
    }
}
