//! Loading a model takes the memory of one tensor beside the model's own, whatever its format.
//!
//! Every allocation of the process is counted, the model's parameters among them. The files are mapped, and not
//! allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use polar_raw::config::ModelSection;
use polar_raw::cpu::Cpu;
use polar_raw::eval::Companion;
use polar_raw::formats::gguf::MetadataValue;
use polar_raw::formats::{Encoding, Format, Piece, TensorEntry, Tensors, Writer};
use polar_raw::model::config::{Architecture, OutputHeads, SpecialIds};
use polar_raw::model::{Model, ModelConfig};
use polar_raw::store::convert::{ModelFormat, convert};
use polar_raw::store::weights::{WriteOptions, write};
use polar_raw::store::{Family, Pretrained, pretrained};
use polar_raw::tensor::Dtype;
use polar_raw::tokenizer::{Missing, Tokenizer};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(size: usize) {
    PEAK.fetch_max(LIVE.fetch_add(size, Relaxed) + size, Relaxed);
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was allocated at once during `work`, beyond what was before.
fn peak(work: impl FnOnce()) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

/// Headers, names and buffers of the writers.
const SLACK: usize = 1 << 20;

fn model(dir: &Path) -> ModelConfig {
    let section = ModelSection {
        hidden_size: 256,
        intermediate_size: 1024,
        num_hidden_layers: 3,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, 8192, special, Architecture::CausalLm).unwrap();
    std::fs::create_dir(dir).unwrap();
    config.write(dir).unwrap();
    let heads = config.architecture.heads();
    let value = |i: usize| (i % 97) as f32 / 97.0 - 0.5;
    let target = WriteOptions::safetensors(Dtype::F32, usize::MAX);
    write(dir, &config, heads, target, &mut |spec| Ok((0..spec.elements()).map(value).collect())).unwrap();
    config
}

/// A SentencePiece vocabulary of `count` tokens, as the keys of a GGUF file: bytes, and words of one to three letters.
fn vocabulary(count: usize) -> Vec<(&'static str, MetadataValue)> {
    let named = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    let lengths = (1..4).map(|length| (length, 26_usize.pow(length)));
    let words = lengths.flat_map(|(length, many)| {
        (0..many).map(move |n| (0..length).map(|place| letter(n / 26_usize.pow(place))).collect::<String>())
    });
    let tokens: Vec<String> = named.into_iter().chain(bytes).chain(words).take(count).collect();
    assert_eq!(tokens.len(), count);
    let kind = |id: usize| match id {
        0 => 2,
        1 | 2 => 3,
        3..=258 => 6,
        _ => 1,
    };
    vec![
        ("tokenizer.ggml.model", MetadataValue::Text("llama".into())),
        ("tokenizer.ggml.bos_token_id", MetadataValue::Int(1)),
        ("tokenizer.ggml.eos_token_id", MetadataValue::Int(2)),
        ("tokenizer.ggml.unknown_token_id", MetadataValue::Int(0)),
        ("tokenizer.ggml.scores", MetadataValue::Floats((0..count).map(|id| -(id as f32)).collect())),
        ("tokenizer.ggml.token_type", MetadataValue::Ints((0..count).map(kind).collect())),
        ("tokenizer.ggml.tokens", MetadataValue::Texts(tokens)),
    ]
}

/// Writes the GGUF file `from` again, with a vocabulary among its keys.
fn add_vocabulary(from: &Path, to: &Path, vocabulary: Vec<(&'static str, MetadataValue)>) {
    let tensors = Tensors::open(from).unwrap();
    let own = tensors.metadata().iter().filter(|(key, _)| !key.starts_with("tokenizer."));
    let keys: Vec<_> = own.map(|(key, value)| (key.as_str(), value.clone())).chain(vocabulary).collect();
    let piece = |(name, entry): (&str, &TensorEntry)| {
        let TensorEntry { encoding, shape, .. } = entry.clone();
        Piece { name: name.into(), shape, encoding }
    };
    let mut writer = Writer::create(to, Format::Gguf, tensors.iter().map(piece).collect(), &keys).unwrap();
    for (name, entry) in tensors.iter() {
        let mut values = vec![0.0; entry.elements()];
        tensors.read_rows(name, 0..entry.rows(), &mut values).unwrap();
        writer.append(&values).unwrap();
    }
    writer.finish().unwrap().commit().unwrap();
}

/// Does what the program does before it scores: configuration, weights, how strings are built, and the tokenizer.
fn load(path: &Path, heads: OutputHeads) -> (Model, Option<Tokenizer>) {
    let pretrained = Pretrained::open(path).unwrap();
    let model = Model::new(Rc::new(Cpu::new()), pretrained.config().clone(), heads).unwrap();
    pretrained.read_into(heads, &mut |spec, values| model.set(spec, values)).unwrap();
    drop(pretrained);
    Companion::read(path, model.config()).unwrap();
    let tokenizer = pretrained::tokenizer(path, Missing::Leave).unwrap();
    (model, tokenizer)
}

#[test]
fn one_tensor_beyond_the_model() {
    const TOKENS: usize = 4000;
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let config = model(&first);
    let heads = config.architecture.heads();
    let largest = config.tensors(heads).iter().map(|spec| 4 * spec.elements()).max().unwrap();
    assert_eq!(largest, 8 << 20);
    let own = 4 * config.buffer_elements(heads);
    let mut paths = Vec::new();
    for (kind, encoding) in [
        (ModelFormat::InternLm2, None),
        (ModelFormat::InternLm2, Some(Encoding::BF16)),
        (ModelFormat::InternLm2Torch, Some(Encoding::F16)),
        (ModelFormat::HuggingFace(Family::Llama), None),
        (ModelFormat::Gguf, Some(Encoding::F32)),
        (ModelFormat::Gguf, Some(Encoding::Q8_0)),
        (ModelFormat::Gguf, Some(Encoding::Q4_0)),
    ] {
        let name = format!("{kind:?}-{encoding:?}.gguf");
        let path = folder.path().join(&name);
        let converting = peak(|| drop(convert(&first, &path, kind, encoding, usize::MAX).unwrap()));
        // Whatever is split is read as a whole, and then written part by part.
        println!("{name}: converting took {converting} bytes");
        assert!(converting <= largest + SLACK, "{name}: converting took {converting} bytes");
        if (kind, encoding) == (ModelFormat::Gguf, Some(Encoding::F32)) {
            let with_vocabulary = folder.path().join("vocabulary.gguf");
            add_vocabulary(&path, &with_vocabulary, vocabulary(TOKENS));
            paths.push((with_vocabulary, TOKENS));
        }
        paths.push((path, 0));
    }
    for (path, tokens) in paths {
        let name = path.file_name().unwrap().display();
        let mut loaded = None;
        let loading = peak(|| loaded = Some(load(&path, heads)));
        println!("{name}: {loading} bytes, {own} of them the model; the largest tensor has {largest}");
        let (model, tokenizer) = loaded.unwrap();
        // What came after the first tensor is there, and the vocabulary was read.
        assert!(model.get(model.params(), model.specs().last().unwrap()).unwrap().iter().any(|v| *v != 0.0));
        assert!(tokenizer.map_or(0, |tokenizer| tokenizer.vocab_size()) >= tokens);
        assert!(loading >= own + largest, "{name}: not everything was counted");
        assert!(loading <= own + largest + SLACK / 2, "{name}: loading took {loading} bytes");
    }
}
