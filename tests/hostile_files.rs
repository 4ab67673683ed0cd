//! Damaged files of weights: each reader refuses them with a reason or reads what is there, and never panics.
//!
//! Valid files of every format are mutated at random for a few seconds; `POLAR_RAW_FUZZ_SECONDS` says how long instead.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use polar_raw::config::ModelSection;
use polar_raw::formats::Element;
use polar_raw::model::config::{Architecture, Heads, SpecialIds, StorageDtype};
use polar_raw::model::convert::{Kind, convert};
use polar_raw::model::inspect::inspect;
use polar_raw::model::weights::{Target, write};
use polar_raw::model::{Family, ModelConfig, Pretrained};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

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
    let target = Target::safetensors(StorageDtype::F32, usize::MAX);
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
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("data.pkl".into(), &pickle[..]), (format!("data/{key}"), &[0; 4])] {
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

#[test]
fn mutated_files_are_read_or_refused() {
    let seconds = std::env::var("POLAR_RAW_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4.0);
    let seed = RandomState::new().hash_one(0);
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    model(&first);
    let mut files = vec![(first.clone(), "model.safetensors".to_string()), (first.clone(), "config.json".to_string())];
    for (name, kind, element, file) in [
        ("bin", Kind::InternLm2Torch, None, "pytorch_model.bin"),
        ("llama", Kind::HuggingFace(Family::Llama), None, "config.json"),
        ("f32", Kind::Gguf, Some(Element::F32), "model.gguf"),
        ("q4", Kind::Gguf, Some(Element::Q4_1), "model.gguf"),
    ] {
        let dir = folder.path().join(name);
        if kind == Kind::Gguf {
            std::fs::create_dir(&dir).unwrap();
            convert(&first, &dir.join(file), kind, element, usize::MAX).unwrap();
        } else {
            convert(&first, &dir, kind, element, usize::MAX).unwrap();
        }
        files.push((dir, file.to_string()));
    }
    let originals: Vec<Vec<u8>> = files.iter().map(|(dir, file)| std::fs::read(dir.join(file)).unwrap()).collect();
    let (begin, mut counts) = (Instant::now(), BTreeMap::<&str, [u64; 2]>::new());
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        let index = random.random_range(0..files.len());
        let (dir, file) = &files[index];
        let mut bytes = originals[index].clone();
        mutate(&mut bytes, &mut random);
        std::fs::write(dir.join(file), &bytes).unwrap();
        let outcome = std::panic::catch_unwind(|| {
            let _ = inspect(dir, true);
            let read = Pretrained::open(dir).and_then(|model| {
                model.read_into(Heads { reward: true, lm: true }, &mut |spec, values| {
                    assert_eq!(values.len(), spec.elements());
                    Ok(())
                })
            });
            read.map(drop).map_err(|error| assert!(!error.to_string().is_empty()))
        });
        std::fs::write(dir.join(file), &originals[index]).unwrap();
        match outcome {
            Ok(read) => counts.entry(file).or_default()[usize::from(read.is_err())] += 1,
            Err(_) => {
                let kept = std::env::temp_dir().join(format!("polar-raw-{seed}-{file}"));
                std::fs::write(&kept, &bytes).unwrap();
                panic!("panicked on {}", kept.display());
            }
        }
    }
    for (file, [read, refused]) in &counts {
        println!("{file}: {read} read, {refused} refused");
        // Damage in the values themselves can be read; damage in what describes them cannot.
        assert!(*refused > 0, "{file}");
    }
}
