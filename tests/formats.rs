//! Files that PyTorch and the package `gguf` have written, and what these read in them; see `tests/golden/formats/make.py`.

use std::path::{Path, PathBuf};

use polar_raw::formats::gguf::MetadataValue;
use polar_raw::formats::{Encoding, Tensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats").join(name)
}

fn bits(tensors: &Tensors, name: &str) -> Vec<u32> {
    let entry = tensors.get(name).unwrap();
    let mut values = vec![f32::NAN; entry.elements()];
    tensors.read_rows(name, 0..entry.rows(), &mut values).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn pytorch_files() {
    let expected = Tensors::open(&golden("torch.safetensors")).unwrap();
    assert_eq!(expected.iter().count(), 10);
    for name in ["torch.bin", "torch_protocol4.bin"] {
        let tensors = Tensors::open(&golden(name)).unwrap();
        for (name, entry) in expected.iter() {
            assert_eq!(tensors.get(name).unwrap().shape, entry.shape, "{name}");
            assert_eq!(bits(&tensors, name), bits(&expected, name), "{name}");
        }
        let kinds = ["f32", "f16", "bf16"].map(|name| tensors.get(name).unwrap().encoding);
        assert_eq!(kinds, [Encoding::F32, Encoding::F16, Encoding::BF16]);
        let integers = tensors.readable("integers").unwrap_err().to_string();
        assert!(integers.contains("tensor `integers` is stored as I64; supported are F32"), "{integers}");
    }
}

#[test]
fn pytorch_files_that_are_no_tensors() {
    for (name, reason) in [
        ("torch_evil.bin", "names `posix.system`, which tensors do not need; nothing of it was run"),
        ("torch_old.bin", "old format, without a zip archive: load it with torch.load and save it again"),
        ("torch_nested.bin", "something other than tensors by name: save model.state_dict() alone"),
    ] {
        let error = Tensors::open(&golden(name)).map(drop).unwrap_err();
        assert!(error.to_string().contains(reason) && error.exit_code() == 2, "{error}");
    }
    assert!(!Path::new("polar-raw-was-here").exists());
}

#[test]
fn gguf_blocks_bit_for_bit() {
    let (tensors, expected) = (Tensors::open(&golden("blocks.gguf")).unwrap(), golden("blocks.safetensors"));
    let expected = Tensors::open(&expected).unwrap();
    assert_eq!(expected.iter().count(), 11);
    for (name, entry) in expected.iter() {
        assert_eq!(tensors.get(name).unwrap().encoding.to_string(), name);
        assert_eq!(tensors.get(name).unwrap().shape, entry.shape);
        assert_eq!(bits(&tensors, name), bits(&expected, name), "{name}");
    }
    let other = tensors.readable("Q5_0").unwrap_err().to_string();
    assert!(other.contains("tensor `Q5_0` is stored as Q5_0; supported are F32"), "{other}");
    assert_eq!(tensors.metadata()["some.texts"], MetadataValue::Texts(vec!["a".into(), "é".into()]));
}
