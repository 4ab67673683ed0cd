//! Reading a model takes the memory of one tensor beside the model's own, whatever its format.
//!
//! Every allocation of the process is counted. The files are mapped, and not allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use polar_raw::config::ModelSection;
use polar_raw::formats::Element;
use polar_raw::model::config::{Architecture, Heads, SpecialIds, StorageDtype};
use polar_raw::model::convert::{Kind, convert};
use polar_raw::model::weights::{Target, write};
use polar_raw::model::{Family, ModelConfig, Pretrained};

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
    let target = Target::safetensors(StorageDtype::F32, usize::MAX);
    write(dir, &config, heads, target, &mut |spec| Ok((0..spec.elements()).map(value).collect())).unwrap();
    config
}

#[test]
fn one_tensor_beyond_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let config = model(&first);
    let heads = Heads { reward: true, lm: true };
    let largest = config.tensors(heads).iter().map(|spec| 4 * spec.elements()).max().unwrap();
    assert_eq!(largest, 8 << 20);
    let mut destination = vec![0.0_f32; config.buffer_elements(heads)];
    for (kind, element) in [
        (Kind::InternLm2, None),
        (Kind::InternLm2, Some(Element::Bf16)),
        (Kind::InternLm2Torch, Some(Element::F16)),
        (Kind::HuggingFace(Family::Llama), None),
        (Kind::Gguf, Some(Element::F32)),
        (Kind::Gguf, Some(Element::Q8_0)),
        (Kind::Gguf, Some(Element::Q4_0)),
    ] {
        let path = folder.path().join(format!("{kind:?}-{element:?}.gguf"));
        let converting = peak(|| drop(convert(&first, &path, kind, element, usize::MAX).unwrap()));
        // Whatever is split is read as a whole, and then written part by part.
        assert!(converting <= largest + SLACK, "{kind:?} {element:?}: converting took {converting} bytes");
        let reading = peak(|| {
            let mut set = |spec: &polar_raw::model::TensorSpec, values: &[f32]| {
                destination[spec.offset..spec.offset + values.len()].copy_from_slice(values);
                Ok(())
            };
            Pretrained::open(&path).unwrap().read_into(heads, &mut set).unwrap();
        });
        println!(
            "{kind:?} {element:?}: {reading} bytes beside the model, converting {converting}; the largest tensor has {largest}"
        );
        assert!(reading >= largest, "nothing was counted");
        assert!(reading <= largest + SLACK / 4, "{kind:?} {element:?}: reading took {reading} bytes");
    }
}
