//! The readers of untrusted bytes, each as a function that takes any bytes, says whether they were read or refused, and
//! panics where the reader broke a promise. `fuzz/run` feeds them with mutated inputs, `tests/fuzz_corpus.rs` with the
//! committed ones.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use polar_raw::config::{Config, ModelSection};
use polar_raw::data::{Message, Records, ScoreRows, SetFormat, Wrapper};
use polar_raw::eval::reference::References;
use polar_raw::eval::{Companion, sets};
use polar_raw::formats::{Tensors, gguf, safetensors, torch};
use polar_raw::model::ModelConfig;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::polar::{ChatTemplate, Form, TemplateConfig};
use polar_raw::run::config::RunConfig;
use polar_raw::run::manifest::Manifest;
use polar_raw::serve::{self, Info};
use polar_raw::store::inspect::inspect;
use polar_raw::store::pretrained;
use polar_raw::tokenizer::{Missing, Names, Tokenizer};
use polar_raw::train::evaluation::ScoredExamples;
use polar_raw::train::metrics::StepMetrics;
use polar_raw::train::origin::Origin;
use polar_raw::train::step_log::{self, StepLine};

/// A reader.
pub struct Target {
    /// Its name, and that of its folder of inputs.
    pub name: &'static str,
    /// Bytes that it may take, whatever the input: buffers, tables, a compiled template.
    pub base: usize,
    /// Bytes that it may take beyond them for each of the input.
    pub factor: usize,
    /// The longest input that is made.
    pub max_len: usize,
    /// Reads the bytes; files that it needs are written to the folder. Whether they were not refused.
    pub read: fn(&[u8], &Path) -> bool,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const fn target(name: &'static str, base: usize, max_len: usize, read: fn(&[u8], &Path) -> bool) -> Target {
    Target { name, base, factor: 20, max_len, read }
}

/// All of them.
pub const TARGETS: [Target; 21] = [
    target("rows", 2 * MIB, 4 * KIB, rows),
    target("zstd", 66 * MIB, 4 * KIB, zstd),
    target("safetensors", MIB, 4 * KIB, tensors::<{ SAFETENSORS }>),
    target("gguf", 4 * MIB, 8 * KIB, tensors::<{ GGUF }>),
    target("torch", MIB, 4 * KIB, tensors::<{ TORCH }>),
    target("pickle", MIB, 2 * KIB, pickle),
    target("shards", MIB, 2 * KIB, shards),
    target("tokenizer_json", 4 * MIB, 8 * KIB, tokenizer_json),
    target("tokenizer_config", 4 * MIB, 2 * KIB, tokenizer_config),
    target("sentencepiece", 4 * MIB, 12 * KIB, sentencepiece),
    target("config_json", MIB, 4 * KIB, config_json),
    target("config_toml", MIB, 4 * KIB, config_toml),
    target("chat_template", 40 * MIB, 2 * KIB, chat_template),
    target("requests", MIB, 4 * KIB, requests),
    target("request_keys", MIB, 2 * KIB, request_keys),
    target("ptx", 40 * MIB, 4 * KIB, ptx),
    target("metrics", MIB, 4 * KIB, metrics),
    target("checkpoint", MIB, 2 * KIB, checkpoint),
    target("run_config", MIB, 4 * KIB, run_config),
    target("origin", MIB, 2 * KIB, origin),
    target("companion", 4 * MIB, 16 * KIB, companion),
];

const TEXTS: [&str; 4] =
    ["ab  é 12 <s> <think>\n", "", "The quick brown fox, aaaaaaaaaaaaaaaa", "\u{2581}日本 \u{0}語"];

/// Writes the input as the file `name` of the folder.
fn put(dir: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// A refusal has to say something.
fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The first byte says as what the rest is read.
fn rows(bytes: &[u8], dir: &Path) -> bool {
    const SETS: [Option<SetFormat>; 8] = [
        None,
        Some(SetFormat::RewardBench),
        Some(SetFormat::RewardBench2),
        Some(SetFormat::RmBench),
        Some(SetFormat::JudgeBench),
        Some(SetFormat::RmbPairs),
        Some(SetFormat::RmbBestOfN),
        Some(SetFormat::RmbRanked),
    ];
    let Some((way, bytes)) = bytes.split_first() else { return false };
    let way = usize::from(way % 12);
    if way == 0 {
        let path = put(dir, "rows.txt", bytes);
        return said(polar_raw::data::read(&path)).is_some_and(|records| all(&records));
    }
    let path = put(dir, "rows.jsonl", bytes);
    match way {
        1 => said(polar_raw::data::read(&path)).is_some_and(|records| all(&records)),
        2 => said(ScoreRows::open(&path)).is_some_and(|rows| rows.map(said).all(|row| row.is_some())),
        3 => said(References::read(&path)).is_some(),
        way => said(sets::read(&path, SETS[way - 4], 0)).is_some_and(|set| {
            assert!(set.groups.iter().all(|group| said(group).is_some()), "a row that was read once is refused");
            true
        }),
    }
}

/// Every row that was read once can be read again.
fn all(records: &Records) -> bool {
    assert!(!records.is_empty(), "a file without rows is read");
    let again = match records {
        Records::Trajectories(rows) => rows.iter().all(|row| row.is_ok()),
        Records::Preferences(rows) => rows.iter().all(|row| row.is_ok()),
        Records::Pairs(rows) => rows.iter().all(|row| row.is_ok()),
        Records::Documents(rows) => rows.iter().all(|row| row.is_ok()),
    };
    assert!(again, "a row that was read once is refused");
    true
}

/// What a frame of zstd holds, as rows or as plain text.
fn zstd(bytes: &[u8], _: &Path) -> bool {
    let Some((way, bytes)) = bytes.split_first() else { return false };
    let name = if way % 2 == 0 { "rows.jsonl.zst" } else { "rows.txt.zst" };
    let frame = [&[0x28, 0xB5, 0x2F, 0xFD], bytes].concat();
    said(polar_raw::data::read_from(Path::new(name), Cursor::new(frame))).is_some_and(|records| all(&records))
}

const SAFETENSORS: u8 = 0;
const TORCH: u8 = 1;
const GGUF: u8 = 2;

/// A file of tensors: its description, then each tensor's values, and the vocabulary that it may hold.
fn tensors<const FORMAT: u8>(bytes: &[u8], dir: &Path) -> bool {
    let (name, described) = match FORMAT {
        SAFETENSORS => ("model.safetensors", said(safetensors::read_header(bytes)).is_some()),
        TORCH => ("pytorch_model.bin", said(torch::read(bytes)).is_some()),
        _ => ("model.gguf", said(gguf::read(bytes)).is_some()),
    };
    if !described {
        return false;
    }
    let path = put(dir, name, bytes);
    let _ = said(inspect(&path, true));
    if FORMAT == GGUF
        && let Some(Some(tokenizer)) = said(pretrained::tokenizer(&path, Missing::Leave))
    {
        encode(&tokenizer);
    }
    true
}

/// The input as the pickle of a PyTorch file with the storages of the committed ones.
fn pickle(bytes: &[u8], dir: &Path) -> bool {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    const STORAGES: [usize; 8] = [60, 12, 14, 4, 16, 32, 24, 12];
    let storages = STORAGES.iter().enumerate();
    let storages = storages.map(|(key, length)| (format!("model/data/{key}"), &[0; 64][..*length]));
    for (name, content) in [("model/data.pkl".into(), bytes)].into_iter().chain(storages) {
        archive.start_file(name, stored).expect("a name");
        archive.write_all(content).expect("memory");
    }
    tensors::<TORCH>(&archive.finish().expect("an archive").into_inner(), dir)
}

/// The input as the index of a model in pieces, of which one is there.
fn shards(bytes: &[u8], dir: &Path) -> bool {
    let dir = dir.join("shards");
    let shard = dir.join("model-00001-of-00001.safetensors");
    if !shard.exists() {
        fs::create_dir_all(&dir).expect("a folder");
        let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        fs::write(&shard, [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat()).expect("a file");
    }
    put(&dir, "model.safetensors.index.json", bytes);
    let _ = said(inspect(&dir, true));
    said(Tensors::open(&dir)).is_some_and(|tensors| {
        tensors.iter().all(|(name, entry)| {
            said(tensors.read_rows(name, 0..entry.rows(), &mut vec![0.0; entry.elements()])).is_some()
        })
    })
}

/// Texts of a tokenizer that was read, there and back.
fn encode(tokenizer: &Tokenizer) {
    for text in TEXTS {
        for ids in [tokenizer.encode(text), tokenizer.encode_spelt(text, true)].into_iter().filter_map(said) {
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()), "{ids:?}");
            said(tokenizer.decode(&ids));
        }
    }
}

fn tokenizer_json(bytes: &[u8], dir: &Path) -> bool {
    let path = put(dir, "tokenizer.json", bytes);
    let read = said(Tokenizer::from_file(&path, Names::default()));
    read.inspect(encode).is_some()
}

/// The input beside a tokenizer that is in order.
fn tokenizer_config(bytes: &[u8], dir: &Path) -> bool {
    let dir = dir.join("configured");
    if !dir.exists() {
        fs::create_dir_all(&dir).expect("a folder");
        let tokenizer = Tokenizer::bytes(Names::default()).expect("a tokenizer");
        tokenizer.save(&dir).expect("a folder");
    }
    put(&dir, "tokenizer_config.json", bytes);
    let read = said(Tokenizer::load(&dir, Missing::Leave));
    read.inspect(|tokenizer| {
        encode(tokenizer);
        said(tokenizer.chat_template());
    })
    .is_some()
}

fn sentencepiece(bytes: &[u8], dir: &Path) -> bool {
    let path = put(dir, "tokenizer.model", bytes);
    let read = said(Tokenizer::from_file(&path, Names::default()));
    read.inspect(encode).is_some()
}

fn config_json(bytes: &[u8], _: &Path) -> bool {
    let Some(text) = text(bytes) else { return false };
    let _ = said(ModelConfig::parse(text));
    said(pretrained::parse(text)).is_some()
}

/// What is read is written so that it is read again.
fn config_toml(bytes: &[u8], _: &Path) -> bool {
    let Some(text) = text(bytes) else { return false };
    let Some(config) = said(Config::parse(text, "config.toml")) else { return false };
    if said(config.validate()).is_none() {
        return false;
    }
    let written = config.to_toml().expect("a configuration that was text");
    assert_eq!(Config::parse(&written, "again.toml").expect("what was written"), config);
    true
}

fn chat_template(bytes: &[u8], _: &Path) -> bool {
    let Some(text) = text(bytes) else { return false };
    let tokens = vec![("bos_token", "<s>".to_string()), ("eos_token", "</s>".to_string())];
    let Some(template) = said(ChatTemplate::new(text, tokens)) else { return false };
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    said(template.render(&[message("user", "Hi {{ x }}"), message("assistant", "a\nb")])).is_some()
}

/// A model of bytes that does not compute.
fn info() -> Arc<Info> {
    static INFO: OnceLock<Arc<Info>> = OnceLock::new();
    let make = || {
        let tokenizer = Tokenizer::bytes(Names::default()).expect("a tokenizer");
        Arc::new(Info {
            vocab_size: tokenizer.vocab_size(),
            tokenizer,
            form: Form::Polar,
            template: TemplateConfig { wrapper: Wrapper::Sft, max_length: 1024, max_response_length: 256 },
            max_length: 1024,
            weights: serve_hash(),
            parameters: 1,
            device: "cpu".into(),
        })
    };
    INFO.get_or_init(make).clone()
}

fn serve_hash() -> blake3::Hash {
    blake3::hash(b"")
}

/// The first byte says to which path the rest is sent.
fn requests(bytes: &[u8], _: &Path) -> bool {
    let Some((path, body)) = bytes.split_first() else { return false };
    let paths: Vec<&str> = serve::paths().filter(|(method, _)| *method == "POST").map(|(_, path)| path).collect();
    let sequences = said(serve::sequences(&info(), paths[usize::from(*path) % paths.len()], body));
    if let Some(sequences) = &sequences {
        let [length, vocab] = [info().max_length, info().vocab_size];
        assert!(sequences.iter().all(|ids| !ids.is_empty() && ids.len() <= length), "a sequence that does not fit");
        assert!(sequences.iter().flatten().all(|id| (*id as usize) < vocab), "an id beyond the vocabulary");
    }
    sequences.is_some()
}

/// The input as keys of a request that are not read.
fn request_keys(bytes: &[u8], _: &Path) -> bool {
    let body = [br#"{"text":"a<|reward|>b[UNUSED_TOKEN_130]","#, bytes, b"}"].concat();
    said(serve::sequences(&info(), "/classify", &body)).is_some()
}

fn ptx(bytes: &[u8], _: &Path) -> bool {
    let Some(text) = text(bytes) else { return false };
    let mut device = emulator::Device::new(emulator::Config::default());
    let Some(module) = said(device.load(text)) else { return false };
    module.kernels().all(|name| said(module.kernel(name)).is_some())
}

fn metrics(bytes: &[u8], dir: &Path) -> bool {
    put(dir, StepMetrics::FILE, bytes);
    let _ = said(step_log::check::<StepMetrics>(dir, 3));
    put(dir, ScoredExamples::FILE, bytes);
    let examples = said(step_log::read::<ScoredExamples>(dir)).is_some();
    said(step_log::read::<StepMetrics>(dir)).is_some() || examples
}

fn checkpoint(bytes: &[u8], _: &Path) -> bool {
    text(bytes).is_some_and(|text| said(Manifest::parse(text)).is_some())
}

/// The configuration of a run with the hash that belongs to it.
fn run_config(bytes: &[u8], dir: &Path) -> bool {
    let hash = format!("# blake3: {}\n", blake3::hash(bytes).to_hex());
    put(dir, "config.toml", &[bytes, hash.as_bytes()].concat());
    said(RunConfig::read(dir)).is_some()
}

fn origin(bytes: &[u8], dir: &Path) -> bool {
    let start = dir.join("start");
    if !start.exists() {
        fs::create_dir_all(&start).expect("a folder");
    }
    put(&start, "manifest.json", bytes);
    said(Origin::read(&start)).is_some()
}

/// What a model takes along: how strings are built, and baselines.
fn companion(bytes: &[u8], dir: &Path) -> bool {
    static MODEL: OnceLock<ModelConfig> = OnceLock::new();
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let model = MODEL.get_or_init(|| {
        ModelConfig::new(&ModelSection::default(), 300, special, Architecture::RewardModel).expect("a model")
    });
    put(dir, "polar_raw.json", bytes);
    said(Companion::read(dir, model)).is_some()
}
