use super::*;
use proptest::prelude::*;

fn refusal(text: &str) -> String {
    Config::parse(text, "run.toml").expect_err(text).to_string()
}

#[test]
fn every_preset_is_valid_and_survives_saving() {
    for (name, summary) in Config::presets() {
        let config = Config::preset(name).unwrap();
        assert!(summary.len() > 20, "{name}: {summary}");
        assert_eq!(Config::parse(&config.to_toml().unwrap(), name).unwrap(), config);
    }
}

#[test]
fn every_file_of_presets_can_be_named_and_is_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    for file in root.join("presets").read_dir().unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(Config::preset(name).is_ok(), "{name}");
        assert!(reference.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn published_presets_have_the_published_shapes() {
    let large = Config::preset("polar-7b").unwrap();
    assert_eq!((large.model.hidden_size, large.model.num_hidden_layers, large.train.batch_size), (4096, 32, 4343));
    assert_eq!((large.model.rope_theta, large.optimizer.lr), (5e7, 1.67e-5));
    let small = Config::preset("polar-1.8b").unwrap();
    assert_eq!((small.model.hidden_size, small.model.num_hidden_layers, small.train.batch_size), (2048, 24, 1940));
    assert_eq!((small.tokenizer.vocab_size, small.optimizer.lr), (92_544, 1.4e-5));
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let expect = |text: &str, start: &str| {
        let message = refusal(text);
        assert!(message.starts_with(start), "{message}");
    };
    expect(
        "\n[optimizer]\nweight_decy = 0.1",
        "run.toml:3: optimizer.weight_decy: unknown key; did you mean `weight_decay`?",
    );
    expect("[optimzer]\nlr = 1", "run.toml:1: optimzer: unknown section; did you mean `optimizer`?");
    expect("[train]\nlr = 1", "run.toml:2: train.lr: unknown key; did you mean `optimizer.lr`?");
    expect(
        "[schedule]\nkind = 'cosin'",
        "run.toml:2: schedule.kind: `cosin` is not one of its values; did you mean `cosine`?",
    );
    let message = Config::preset("quickstat").unwrap_err().to_string();
    assert!(message.starts_with("there is no preset `quickstat`; did you mean `quickstart`?"), "{message}");
}

#[test]
fn wrong_types_and_ranges_name_key_and_what_is_allowed() {
    let cases = [
        ("[optimizer]\nlr = 'x'", "run.toml:2: optimizer.lr: invalid type"),
        ("[train]\nseed = -1", "run.toml:2: train.seed: invalid value: integer `-1`"),
        ("[optimizer]\nbetas = [0.9, 0.9, 0.9]", "run.toml: optimizer.betas: invalid length 3"),
        ("[optimizer]\nbetas = [0.9, 1.0]", "run.toml: optimizer.betas = [0.9, 1]: must be two numbers"),
        ("[optimizer]\nlr = nan", "run.toml: optimizer.lr = NaN: must be a finite number above 0"),
        ("[optimizer]\nlr = -1", "run.toml: optimizer.lr = -1: must be"),
        ("[train]\nkeep_checkpoints = 0", "run.toml: train.keep_checkpoints = 0: must be between 1 and"),
        ("[train]\nseed = 18446744073709551615", "run.toml"),
        ("[schedule]\nwarmup_ratio = 1.5", "run.toml: schedule.warmup_ratio = 1.5: must be between 0 and 1"),
        (
            "[model]\nnum_attention_heads = 3",
            "run.toml: model.num_attention_heads = 3: must be a divisor of hidden_size",
        ),
        ("[model]\nnum_attention_heads = 128", "run.toml: model.num_attention_heads = 128: must be a divisor"),
        ("[model]\nnum_key_value_heads = 3", "run.toml: model.num_key_value_heads = 3: must be a divisor"),
        ("[model]\nhidden_size = 0", "run.toml: model.hidden_size = 0: must be between"),
        ("[tokenizer]\nkind = 'file'", "run.toml: tokenizer.path is missing"),
        ("[tokenizer]\npath = 'a'", "run.toml: tokenizer.path = \"a\" is read only with"),
        ("[train.lora]\nrnk = 8", "run.toml:2: train.lora.rnk: unknown key; did you mean `rank`?"),
        ("[train.lora]\nalpha = -1", "run.toml: train.lora.alpha = -1: must be a finite number above 0"),
        ("[train]\nseed = 1\nseed = 2", "run.toml:3: duplicate key"),
        ("[train", "run.toml:1: unclosed table"),
    ];
    for (text, start) in cases {
        let message = refusal(text);
        assert!(message.starts_with(start), "{text:?} gave: {message}");
    }
}

#[test]
fn assignments_are_toml_or_strings() {
    let mut config = Config::default();
    for assignment in [
        "optimizer.lr=1e-3",
        "optimizer.betas=[0.8, 0.9]",
        "data.train=['a.jsonl', 'b.jsonl']",
        "train.steps = 7",
        "schedule.kind=wsd",
        "data.share_prefix=false",
        "tokenizer.kind=file",
        "tokenizer.path=a b=c.json",
    ] {
        config.set(assignment).unwrap();
    }
    assert_eq!((config.optimizer.lr, config.optimizer.betas, config.train.steps), (1e-3, [0.8, 0.9], 7));
    assert_eq!(config.data.train, ["a.jsonl", "b.jsonl"].map(std::path::PathBuf::from));
    assert_eq!((config.schedule.kind, config.data.share_prefix), (ScheduleKind::Wsd, false));
    assert_eq!(config.tokenizer.path.as_deref(), Some(Path::new("a b=c.json")));
    config.validate().unwrap();
}

#[test]
fn bad_assignments_change_nothing() {
    for (assignment, reason) in [
        ("lr=1", "names no section"),
        ("optimizer.lr", "expected section.key=value"),
        ("optimizer.lr=fast", "optimizer.lr: invalid type: string \"fast\""),
        ("optimizr.lr=1", "optimizr: unknown section; did you mean `optimizer`?"),
        ("train.step=1", "train.step: unknown key; did you mean `steps`?"),
        ("optimizer.betas=[0.1]", "optimizer.betas: invalid length 1"),
        ("optimizer.betas=[0.1,0.2,0.3]", "optimizer.betas: invalid length 3"),
        ("train.steps=1\ntrain.seed=2", "train.steps: invalid type: string"),
    ] {
        let mut config = Config::default();
        let message = config.set(assignment).unwrap_err().to_string();
        assert!(message.starts_with(&format!("--set {assignment}: ")) && message.contains(reason), "{message}");
        assert_eq!(config, Config::default());
    }
}

#[test]
fn differences_name_key_and_both_values() {
    let mut other = Config::default();
    other.set("train.seed=7").unwrap();
    other.set("tokenizer.path=a.json").unwrap();
    let differences = Config::default().differences(&other).unwrap();
    let differences: Vec<_> = differences.iter().map(Difference::to_string).collect();
    assert_eq!(differences, ["tokenizer.path: nothing instead of \"a.json\"", "train.seed: 1 instead of 7"]);
    assert!(other.differences(&other).unwrap().is_empty());
    // Keys of a section within one are told apart, and PEFT's names are the projections'.
    let mut adapted = Config::default();
    adapted.set("train.lora.rank=8").unwrap();
    adapted.set("train.lora.targets=['v_proj', 'q']").unwrap();
    assert_eq!(adapted.train.lora.targets, [Projection::V, Projection::Q]);
    let differences = adapted.differences(&Config::default()).unwrap();
    let differences: Vec<_> = differences.iter().map(Difference::to_string).collect();
    assert_eq!(differences[0], "train.lora.rank: 8 instead of 0");
    assert!(differences.len() == 2 && differences[1].starts_with("train.lora.targets: [\"v\", \"q\"] instead of"));
    // What is kept for the backward pass changes no bit: a run may go on with another choice.
    let mut kept = other.clone();
    kept.set("train.keep=block").unwrap();
    assert!(kept.differences(&other).unwrap().is_empty());
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("no/such.toml")).unwrap_err();
    assert!(error.to_string().contains("no/such.toml"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

/// TOML-like text: known and unknown names, values of every type, stray characters.
fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "[model]\n",
            "[train]\n",
            "[optimizer]\n",
            "[data]\n",
            "[[x]]\n",
            "seed",
            "lr",
            "betas",
            "kind",
            "train",
            "hidden_size",
            " = ",
            ".",
            "\n",
            "-1",
            "18446744073709551615",
            "1e999",
            "nan",
            "[0.9, ",
            "]",
            "{",
            "}",
            "\"",
            "'''",
            "true",
            "1979-05-27",
            "#",
            "\u{0}",
            "=",
        ])
        .prop_map(String::from),
        ".{0,6}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in toml_like()) {
        match Config::parse(&text, "f") {
            Ok(config) => prop_assert_eq!(Config::parse(&config.to_toml().unwrap(), "g").unwrap(), config),
            Err(error) => prop_assert!(error.exit_code() == 2 && error.to_string().starts_with('f')),
        }
    }

    #[test]
    fn any_assignment_is_taken_or_refused(text in toml_like(), path in "(optimizer\\.lr|train\\.(seed|steps)|data\\.train|x\\.y)") {
        let mut config = Config::default();
        if config.set(&format!("{path}={text}")).is_ok() && config.validate().is_ok() {
            prop_assert_eq!(Config::parse(&config.to_toml().unwrap(), "g").unwrap(), config);
        }
    }

    #[test]
    fn saving_keeps_every_bit(lr in 1e-300..1e300f64, eps in f64::MIN_POSITIVE..1.0, seed in 0..i64::MAX as u64) {
        let mut config = Config::default();
        (config.optimizer.lr, config.optimizer.eps, config.train.seed) = (lr, eps, seed);
        prop_assert_eq!(Config::parse(&config.to_toml().unwrap(), "g").unwrap(), config);
    }
}
