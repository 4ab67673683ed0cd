//! A reward model that starts from somebody else's language model: rows for the tokens that POLAR adds.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use polar_raw::config::Config;
use polar_raw::cpu::Cpu;
use polar_raw::model::convert::{Kind, convert};
use polar_raw::model::{Family, Model, Pretrained};
use polar_raw::tokenizer::Tokenizer;
use polar_raw::train::setup::{Setup, Start};

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
    let (model, notes) = setup.initial_model(Rc::new(Cpu::new()), init).unwrap();
    (setup, model, notes)
}

fn tensor(model: &Model, name: &str) -> Vec<f32> {
    let spec = model.specs().iter().find(|spec| spec.name == name).unwrap();
    model.get(model.params(), spec).unwrap()
}

/// A language model of this crate as a Llama folder whose tokenizer knows neither separator nor score token, with
/// `padding` rows of its embedding that no token has.
fn foreign(folder: &Path, padding: usize) -> std::path::PathBuf {
    let lm = config("[objective]\nkind = \"lm\"\n");
    let (mut setup, _, _) = setup(&lm, Start::Fresh, None);
    setup.model_config.vocab_size += padding;
    let (model, _) = setup.initial_model(Rc::new(Cpu::new()), None).unwrap();
    let (own, llama) = (folder.join("own"), folder.join("llama"));
    fs::create_dir(&own).unwrap();
    setup.model_config.write(&own).unwrap();
    let target = polar_raw::model::weights::Target::safetensors(setup.model_config.dtype, usize::MAX);
    let mut source = |spec: &polar_raw::model::TensorSpec| model.get(model.params(), spec);
    polar_raw::model::weights::write(&own, model.config(), model.outputs(), target, &mut source).unwrap();
    setup.feeder.tokenizer().unwrap().save(&own).unwrap();
    convert(&own, &llama, Kind::HuggingFace(Family::Llama), None, usize::MAX).unwrap();
    fs::remove_file(llama.join("tokenizer_config.json")).unwrap();
    let path = llama.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let renamed = text.replace("<|reward|>", "<|a|>").replace("[UNUSED_TOKEN_130]", "<|b|>");
    assert_ne!(text, renamed);
    fs::write(path, renamed).unwrap();
    llama
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
        assert_eq!([specials.separator, specials.score], [300, 301]);
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
                        assert!((ours[row * width + column] - mean).abs() < 1e-6, "{} {row}", spec.name);
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
    convert(&llama, &gguf, Kind::Gguf, None, usize::MAX).unwrap();
    assert!(polar_raw::model::pretrained::tokenizer(&gguf).unwrap().is_none());
    let refused = polar_raw::model::pretrained::required_tokenizer(&gguf).unwrap_err().to_string();
    assert!(refused.contains("has no vocabulary"), "{refused}");
    fs::copy(llama.join("tokenizer.json"), gguf.with_file_name("tokenizer.json")).unwrap();
    let (grown, _, notes) = setup(&config(""), Start::From(gguf.clone()), Some(&gguf));
    assert_eq!(grown.model_config.vocab_size, 302, "{notes:?}");
    let back = folder.path().join("back");
    convert(&gguf, &back, Kind::InternLm2, None, usize::MAX).unwrap();
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
    let target = polar_raw::model::weights::Target::safetensors(grown.model_config.dtype, usize::MAX);
    let mut marked = |spec: &polar_raw::model::TensorSpec| {
        let mut values = model.get(model.params(), spec)?;
        if spec.name == "model.tok_embeddings.weight" {
            let from = values.len() - 16;
            values[from..].fill(7.0);
        }
        Ok(values)
    };
    polar_raw::model::weights::write(&again, model.config(), model.outputs(), target, &mut marked).unwrap();
    let (_, model, notes) = setup(&config, Start::From(again.clone()), Some(&again));
    assert!(!notes.iter().any(|note| note.contains("are new")), "{notes:?}");
    assert!(tensor(&model, "model.tok_embeddings.weight").ends_with(&[7.0; 16]));
}

#[test]
fn a_tokenizer_saved_with_more_ids_than_rows_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let llama = foreign(folder.path(), 0);
    Tokenizer::load(&llama).unwrap().save(&llama).unwrap();
    let config = config("");
    let (grown, model, notes) = setup(&config, Start::From(llama.clone()), Some(&llama));
    assert_eq!(grown.model_config.vocab_size, 302);
    assert!(notes.iter().any(|note| note.contains("[300, 301] are new")), "{notes:?}");
    let table = tensor(&model, "model.tok_embeddings.weight");
    assert!(table[300 * 16..].iter().any(|v| *v != 0.0));
    assert_eq!(table[300 * 16..301 * 16], table[301 * 16..]);
}
