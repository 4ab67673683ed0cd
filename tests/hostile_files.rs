//! Damaged files of weights: each reader refuses them with a reason or reads what is there, and never panics.
//!
//! Valid files of every format, in one piece and in shards, are mutated at random for a few seconds;
//! `POLAR_RAW_FUZZ_SECONDS` says how long instead.

#[path = "../fuzz/src/counting.rs"]
mod counting;

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use counting::{Counting, peak};
use polar_raw::config::ModelSection;
use polar_raw::formats::gguf::MetadataValue;
use polar_raw::formats::{Encoding, Format, Piece, TensorEntry, Tensors, Writer};
use polar_raw::model::ModelConfig;
use polar_raw::model::config::{Architecture, OutputHeads, SpecialIds};
use polar_raw::store::convert::{ModelFormat, convert};
use polar_raw::store::inspect::inspect;
use polar_raw::store::weights::{WriteOptions, write};
use polar_raw::store::{Family, Pretrained, pretrained};
use polar_raw::tensor::Dtype;
use polar_raw::tokenizer::Missing;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn model(dir: &Path) {
    let section = ModelSection {
        hidden_size: 32,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, 9, special, Architecture::CausalLm).unwrap();
    std::fs::create_dir(dir).unwrap();
    config.write(dir).unwrap();
    let target = WriteOptions::safetensors(Dtype::F32, usize::MAX);
    let heads = config.architecture.heads();
    write(dir, &config, heads, target, &mut |spec| Ok(vec![0.25; spec.elements()])).unwrap();
}

/// Changes a few bytes, mostly near the structures at the beginning and the end; cuts, repeats or inserts at times.
fn mutate(bytes: &mut Vec<u8>, random: &mut SmallRng) {
    const EDGES: [u64; 9] = [0, 1, 0x7f, 0x80, 0xff, 0xffff_ffff, 1 << 32, 1 << 62, u64::MAX];
    for _ in 0..random.random_range(1..5) {
        if bytes.is_empty() {
            return;
        }
        let near = bytes.len().min(3000);
        let place = match random.random_range(0..4) {
            0 => random.random_range(0..bytes.len()),
            1 => bytes.len() - 1 - random.random_range(0..near),
            _ => random.random_range(0..near),
        };
        match random.random_range(0..8) {
            0..4 => bytes[place] = random.random(),
            4 => bytes[place] ^= 1 << random.random_range(0..8),
            5 => {
                let edge = EDGES[random.random_range(0..EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.random_range(0..4)].min(bytes.len() - place);
                bytes[place..place + width].copy_from_slice(&edge[..width]);
            }
            6 => bytes.truncate(place),
            _ => {
                let piece = bytes[place..(place + random.random_range(1..40)).min(bytes.len())].to_vec();
                let to = random.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

#[test]
fn a_tensor_without_elements_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    for shape in ["[0,1099511627776]", "[1099511627776,0]"] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
        let figures = &inspect(&path, true).unwrap().tensors[0];
        assert_eq!(figures.statistics.as_ref().unwrap().rms, 0.0);
    }
}

/// A PyTorch file whose pickle makes one small tensor `count` times over, five bytes each, in a storage called `key`.
fn repeating(path: &Path, key: &str, count: usize) {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let mut pickle = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((".to_vec();
    pickle.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text(key), text("cpu")].concat());
    pickle.extend(b"K\x01tQK\x00(K\x01t(K\x01t\x89tq\x01");
    pickle.extend(b"h\x00h\x01R".repeat(count));
    pickle.extend(b"}.");
    torch_file(path, &pickle, key);
}

/// A PyTorch file of a pickle and one storage of four bytes, called `key`.
fn torch_file(path: &Path, pickle: &[u8], key: &str) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("data.pkl".into(), pickle), (format!("data/{key}"), &[0; 4])] {
        archive.start_file(format!("model/{name}"), stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn a_pickle_that_repeats_a_tensor_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    repeating(&path, &"0".repeat(64), 1000);
    assert!(inspect(&path, false).unwrap().tensors.is_empty());
    for (key, count, reason) in
        [("0".repeat(1000), 10, "does not build tensors"), ("0".into(), 70_000, "more than 65536")]
    {
        repeating(&path, &key, count);
        let refused = inspect(&path, false).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

/// A byte of a pickle can make a value that takes dozens of bytes of memory, and 8 MiB of them are read.
#[test]
fn a_pickle_of_nothing_but_one_opcode_is_refused_before_it_fills_memory() {
    const MOST: isize = 200 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    // What comes first, what is repeated, and what makes an empty dictionary of it, which would be a valid file.
    for (name, first, repeated, last) in [
        ("MEMOIZE", &b"N"[..], &b"\x94"[..], &b"}."[..]),
        ("EMPTY_TUPLE", b"", b")", b"}."),
        ("EMPTY_DICT", b"", b"}", b"."),
        ("NONE", b"", b"N", b"}."),
        ("MARK", b"", b"(", b"}."),
        ("SETITEM of NONE", b"}", b"NNs", b"."),
        ("SETITEM of EMPTY_TUPLE", b"}", b"))s", b"."),
    ] {
        let header = [b"\x80\x02", first].concat();
        let count = ((8 << 20) - header.len() - last.len()) / repeated.len();
        torch_file(&path, &[&header, &repeated.repeat(count), last].concat(), "0");
        let (read, most) = peak(|| inspect(&path, false));
        println!("{name}: {} MiB", most >> 20);
        let refused = read.map(drop).unwrap_err().to_string();
        assert!(refused.contains("its pickle") && refused.contains("more than"), "{name}: {refused}");
        assert!(most <= MOST, "{name}: {most} bytes of memory");
    }
}

/// A byte-level vocabulary, as the keys of a GGUF file.
fn byte_level() -> Vec<(&'static str, MetadataValue)> {
    let letters = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff).chain(0x100..0x144).filter_map(char::from_u32);
    let merges = ["1 2", "Ġ Ġ", "Ġ a", "a b", "Ã ©", "Ġ 1"].map(String::from);
    let named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"].map(String::from);
    let unions = merges.iter().map(|merge| merge.replace(' ', ""));
    let tokens: Vec<String> = named.into_iter().chain(letters.map(String::from)).chain(unions).collect();
    let kinds = (0..tokens.len()).map(|id| [3, 3, 3, 4].get(id).copied().unwrap_or(1)).collect();
    vec![
        ("tokenizer.ggml.model", MetadataValue::Text("gpt2".into())),
        ("tokenizer.ggml.pre", MetadataValue::Text("smollm".into())),
        ("tokenizer.ggml.bos_token_id", MetadataValue::Int(1)),
        ("tokenizer.ggml.eos_token_id", MetadataValue::Int(2)),
        ("tokenizer.ggml.unknown_token_id", MetadataValue::Int(0)),
        ("tokenizer.ggml.merges", MetadataValue::Texts(merges.to_vec())),
        ("tokenizer.ggml.token_type", MetadataValue::Ints(kinds)),
        ("tokenizer.ggml.tokens", MetadataValue::Texts(tokens)),
    ]
}

/// A SentencePiece vocabulary, as the keys of a GGUF file.
fn with_scores() -> Vec<(&'static str, MetadataValue)> {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let named = ["<unk>", "<s>", "</s>"].map(String::from);
    let words = ["<tool>", "a", "b", "▁", "▁a", "ab", "▁ab"].map(String::from);
    let tokens: Vec<String> = named.into_iter().chain(bytes).chain(words).collect();
    let kind = |id: usize| match id {
        0 => 2,
        1 | 2 => 3,
        3..=258 => 6,
        259 => 4,
        _ => 1,
    };
    vec![
        ("tokenizer.ggml.model", MetadataValue::Text("llama".into())),
        ("tokenizer.ggml.bos_token_id", MetadataValue::Int(1)),
        ("tokenizer.ggml.eos_token_id", MetadataValue::Int(2)),
        ("tokenizer.ggml.unknown_token_id", MetadataValue::Int(0)),
        ("tokenizer.ggml.add_bos_token", MetadataValue::Bool(true)),
        ("tokenizer.ggml.scores", MetadataValue::Floats((0..tokens.len()).map(|id| -(id as f32)).collect())),
        ("tokenizer.ggml.token_type", MetadataValue::Ints((0..tokens.len()).map(kind).collect())),
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
    assert!(pretrained::tokenizer(to, Missing::Leave).unwrap().is_some());
}

/// A model of every format, family and way of lying on the disk, in folders of their own: the files to damage.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let first = folder.join("first");
    model(&first);
    let mut files = vec![(first.clone(), "model.safetensors".to_string()), (first.clone(), "config.json".to_string())];
    for (name, kind, encoding, file) in [
        ("bin", ModelFormat::InternLm2Torch, None, "pytorch_model.bin"),
        ("llama", ModelFormat::HuggingFace(Family::Llama), None, "config.json"),
        ("f32", ModelFormat::Gguf, Some(Encoding::F32), "model.gguf"),
        ("q4", ModelFormat::Gguf, Some(Encoding::Q4_1), "model.gguf"),
    ] {
        let dir = folder.join(name);
        if kind == ModelFormat::Gguf {
            std::fs::create_dir(&dir).unwrap();
            convert(&first, &dir.join(file), kind, encoding, usize::MAX).unwrap();
        } else {
            convert(&first, &dir, kind, encoding, usize::MAX).unwrap();
        }
        files.push((dir, file.to_string()));
    }
    for (name, kind, format) in [
        ("shards", ModelFormat::InternLm2, Format::Safetensors),
        ("bin-shards", ModelFormat::InternLm2Torch, Format::Torch),
        ("llama-shards", ModelFormat::HuggingFace(Family::Llama), Format::Safetensors),
    ] {
        let dir = folder.join(name);
        convert(&first, &dir, kind, None, 8 << 10).unwrap();
        let count = Tensors::open(&dir).unwrap().file_count();
        assert!(count > 2, "{name}: {count} files");
        files.push((dir.clone(), format.index()));
        files.push((dir.clone(), format.shard(1, count)));
        files.push((dir, format.shard(count, count)));
    }
    for (name, vocabulary) in [("byte-level", byte_level()), ("sentencepiece", with_scores())] {
        let dir = folder.join(name);
        std::fs::create_dir(&dir).unwrap();
        add_vocabulary(&folder.join("f32/model.gguf"), &dir.join("model.gguf"), vocabulary);
        files.push((dir, "model.gguf".to_string()));
    }
    files
}

/// A file of the models above, in one word.
fn name(dir: &Path, file: &str) -> String {
    format!("{}-{file}", dir.file_name().unwrap_or_default().display())
}

/// All that is done with a model's folder before it computes.
fn look(dir: &Path) -> polar_raw::Result<()> {
    let _ = inspect(dir, true);
    if let Ok(Some(tokenizer)) = pretrained::tokenizer(dir, Missing::Leave)
        && let Ok(ids) = tokenizer.encode("ab  é 12 <s> <think>\n")
    {
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&ids);
    }
    let read = Pretrained::open(dir).and_then(|model| {
        model.read_into(OutputHeads { reward: true, lm: true }, &mut |spec, values| {
            assert_eq!(values.len(), spec.elements());
            Ok(())
        })
    });
    read.map(drop)
}

#[test]
fn mutated_files_are_read_or_refused() {
    let seconds = std::env::var("POLAR_RAW_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4.0);
    let seed = RandomState::new().hash_one(0);
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let originals: Vec<Vec<u8>> = files.iter().map(|(dir, file)| std::fs::read(dir.join(file)).unwrap()).collect();
    let (begin, mut counts) = (Instant::now(), vec![[0_u64; 2]; files.len()]);
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        let index = random.random_range(0..files.len());
        let (dir, file) = &files[index];
        let mut bytes = originals[index].clone();
        mutate(&mut bytes, &mut random);
        std::fs::write(dir.join(file), &bytes).unwrap();
        let outcome = std::panic::catch_unwind(|| look(dir).map_err(|error| assert!(!error.to_string().is_empty())));
        std::fs::write(dir.join(file), &originals[index]).unwrap();
        match outcome {
            Ok(read) => counts[index][usize::from(read.is_err())] += 1,
            Err(_) => {
                let kept = std::env::temp_dir().join(format!("polar-raw-{seed}-{}", name(dir, file)));
                std::fs::write(&kept, &bytes).unwrap();
                panic!("panicked on {}", kept.display());
            }
        }
    }
    for ((dir, file), [read, refused]) in files.iter().zip(&counts) {
        let name = name(dir, file);
        println!("{name}: {read} read, {refused} refused");
        // Damage in the values themselves can be read; damage in what describes them cannot.
        assert!(*refused > 0, "{name}");
    }
}
