use super::*;
use proptest::prelude::*;

fn keys() -> Vec<(&'static str, MetadataValue)> {
    vec![
        ("general.architecture", MetadataValue::Text("llama".into())),
        ("an.integer", MetadataValue::Int(7)),
        ("a.negative", MetadataValue::Int(-7)),
        ("a.float", MetadataValue::Float(0.5)),
        ("a.truth", MetadataValue::Bool(true)),
        ("some.integers", MetadataValue::Ints(vec![1, -2, 3])),
        ("some.floats", MetadataValue::Floats(vec![0.25, -1.0])),
        ("some.texts", MetadataValue::Texts(vec!["a".into(), "é\n".into()])),
    ]
}

/// A small file with tensors of three types.
fn file() -> Vec<u8> {
    let tensors: [(&str, &[usize], Encoding); 3] =
        [("a", &[3, 5], Encoding::F32), ("b", &[2, 32], Encoding::Q8_0), ("c", &[7], Encoding::F16)];
    let mut file = write_header(&keys(), &tensors).unwrap();
    for (_, shape, encoding) in tensors {
        let bytes = encoding.bytes(shape.iter().product()).unwrap();
        file.resize(file.len() + bytes, 1);
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    }
    file
}

#[test]
fn what_is_written_reads_back() {
    let (tensors, metadata) = read(&file()).unwrap();
    assert_eq!(metadata, keys().into_iter().map(|(key, value)| (key.to_string(), value)).collect());
    let shapes: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.encoding, &t.shape[..])).collect();
    assert_eq!(
        shapes,
        [("a", Encoding::F32, &[3, 5][..]), ("b", Encoding::Q8_0, &[2, 32]), ("c", Encoding::F16, &[7])]
    );
    for tensor in tensors.values() {
        assert_eq!(tensor.bytes.start % ALIGNMENT, 0);
        assert_eq!(Some(tensor.bytes.len()), tensor.encoding.bytes(tensor.elements()));
    }
}

/// Replaces the first `from` in the file, which is there, by `to`.
fn replaced(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut file = file();
    let place = file.windows(from.len()).position(|window| window == from).unwrap();
    file[place..place + to.len()].copy_from_slice(to);
    file
}

/// The end of the header of tensor `name` with `dimensions`: dimensions, type and offset follow the name.
fn after(name: &str, dimensions: u32) -> Vec<u8> {
    let mut bytes = 1_u64.to_le_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.extend(dimensions.to_le_bytes());
    bytes
}

#[test]
fn hostile_files_are_refused_with_the_reason() {
    let with = |name: &str, dimensions: u32, rest: &[u8]| {
        let from = after(name, dimensions);
        let to = [&from[..], rest].concat();
        replaced(&from, &to)
    };
    let numbers = |all: &[u64]| all.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let mut longer = file();
    longer.extend([0; 40]);
    let mut twice = replaced(&after("b", 2), &after("a", 2));
    let huge = u64::MAX / 2;
    for (file, reason) in [
        (b"GGUf".to_vec(), "does not begin with GGUF"),
        (b"GG".to_vec(), "ends within its header"),
        (replaced(b"GGUF\x03\0\0\0", b"GGUF\x01\0\0\0"), "version 1 is not supported"),
        (replaced(b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), "big-endian"),
        (
            replaced(b"GGUF\x03\0\0\0\x03", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
            "claims 18446744073709551615",
        ),
        (replaced(b"an.integer\x04", b"an.integer\x4d"), "key `an.integer`: a value of the unknown type 77"),
        (replaced(b"some.integers\x09\0\0\0\x05", b"some.integers\x09\0\0\0\x09"), "array of arrays"),
        (
            replaced(b"some.floats\x09\0\0\0\x06\0\0\0\x02", b"some.floats\x09\0\0\0\x06\0\0\0\x02\0\0\xff"),
            "elements of an array",
        ),
        (replaced("é".as_bytes(), b"\xff\xff"), "not UTF-8"),
        (replaced(b"some.texts", b"some.float"), ""),
        (with("a", 2, &numbers(&[5, huge])), "cannot be stored as F32"),
        (with("a", 2, &numbers(&[huge, huge])), "cannot be stored as F32"),
        (with("a", 2, &numbers(&[5, 4])), "lies at offset"),
        (with("b", 2, &numbers(&[31, 2])), "cannot be stored as Q8_0"),
        (with("c", 1, &[&numbers(&[7])[..], &77_u32.to_le_bytes()].concat()), "unknown type 77"),
        (with("c", 1, &[&numbers(&[7])[..], &1_u32.to_le_bytes(), &numbers(&[0])].concat()), "lies at offset 0"),
        (with("c", 1, &numbers(&[7000])), "but the file ends at"),
        (replaced(&after("a", 2), &after("a", 9)), "has 9 dimensions"),
        (std::mem::take(&mut twice), "occurs twice"),
        (longer, "bytes follow the last tensor"),
    ] {
        let refusal = read(&file).map(drop).err();
        match (refusal, reason) {
            (None, "") => {}
            (Some(refusal), reason) => assert!(refusal.contains(reason), "{reason}: {refusal}"),
            (None, reason) => panic!("not refused: {reason}"),
        }
    }
    let whole = file();
    for length in 0..whole.len() - ALIGNMENT {
        assert!(read(&whole[..length]).is_err(), "cut to {length} bytes");
    }
}

proptest! {
    #[test]
    fn any_damage_is_consistent_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(255), Just(0)]), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok((tensors, _)) = read(&bytes) {
            for tensor in tensors.values() {
                prop_assert_eq!(Some(bytes[tensor.bytes.clone()].len()), tensor.encoding.bytes(tensor.elements()));
            }
        }
    }
}

#[test]
fn a_type_that_cannot_be_written_is_refused_by_name() {
    for (encoding, name) in [
        (Encoding::Plain(Dtype::F64), "F64"),
        (Encoding::Plain(Dtype::U32), "U32"),
        (encoding_of(12).unwrap(), "Q4_K"),
        (Encoding::Opaque(Opaque { name: "F8_E4M3", block: 1, bits: 8 }), "F8_E4M3"),
    ] {
        let refused = write_header(&[], &[("a.weight", &[2, 256], encoding)]).unwrap_err();
        assert_eq!(refused, format!("tensor `a.weight`: a GGUF file cannot be written with {name}"));
    }
}

#[test]
fn numbers_of_types_are_different() {
    for (place, (number, encoding)) in TYPES.iter().enumerate() {
        assert!(TYPES[..place].iter().all(|(n, e)| n != number && e != encoding), "{encoding}");
        assert_eq!(number_of(*encoding).ok(), encoding.is_writable().then_some(*number));
    }
}
