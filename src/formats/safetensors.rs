//! The header of a safetensors file, read with distrust.
//!
//! Format: a little-endian u64, that many bytes of JSON (`name -> {dtype, shape, data_offsets}`), then the data,
//! which the tensors tile without gap or overlap (`safetensors` format documentation).

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::{Encoding, Opaque, TensorEntry};

/// Bytes of the JSON header, at most; the `safetensors` crate has the same bound.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// Bytes of the length in front of the header.
const PREFIX: usize = 8;

/// Reads the header of the safetensors file whose whole content is `file`.
///
/// # Errors
/// The reason for which the file is refused: a length or an offset beyond its end, offsets that overlap or leave
/// gaps, a size that does not follow from dtype and shape, a name that occurs twice, malformed JSON.
pub fn read_header(file: &[u8]) -> Result<BTreeMap<String, TensorEntry>, String> {
    let Some((prefix, rest)) = file.split_first_chunk::<PREFIX>() else {
        return Err(format!("the file has {} bytes, too few for a safetensors header", file.len()));
    };
    let length = u64::from_le_bytes(*prefix);
    let Some(length) = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER_BYTES && *n <= rest.len()) else {
        return Err(format!("the header claims {length} bytes, but {} follow", rest.len()));
    };
    let (header, data) = rest.split_at(length);
    let header: Header = serde_json::from_slice(header).map_err(|e| format!("the header is malformed: {e}"))?;
    let mut tensors = header.0;
    for (name, info) in &tensors {
        let (begin, end) = info.data_offsets;
        if begin > end || end > data.len() {
            return Err(format!("tensor `{name}` claims bytes {begin}..{end} of {}", data.len()));
        }
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let metadata = Metadata::new(None, tensors).map_err(|e| format!("the header is inconsistent: {e}"))?;
    if metadata.data_len() != data.len() {
        return Err(format!("the tensors take {} bytes, but {} follow the header", metadata.data_len(), data.len()));
    }
    let start = PREFIX + length;
    let entry = |info: &TensorInfo| {
        let (begin, end) = info.data_offsets;
        let (encoding, bytes) = (encoding_of(info.dtype), start + begin..start + end);
        TensorEntry { encoding, shape: info.shape.clone(), bytes, strides: None }
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

/// What is known here of a type of safetensors.
fn encoding_of(dtype: Dtype) -> Encoding {
    let opaque = |name| Encoding::Opaque(Opaque { name, block: 1, bits: dtype.bitsize() });
    match dtype {
        Dtype::F32 => Encoding::F32,
        Dtype::BF16 => Encoding::BF16,
        Dtype::F16 => Encoding::F16,
        Dtype::F64 => Encoding::Plain(crate::tensor::Dtype::F64),
        Dtype::U32 => Encoding::Plain(crate::tensor::Dtype::U32),
        Dtype::I64 => opaque("I64"),
        Dtype::I32 => opaque("I32"),
        Dtype::U8 => opaque("U8"),
        Dtype::BOOL => opaque("BOOL"),
        _ => opaque("a type other than these"),
    }
}

/// The name that safetensors has for a type that can be written.
///
/// # Errors
/// Names a type that cannot.
fn dtype_of(encoding: Encoding) -> Result<Dtype, String> {
    match encoding {
        Encoding::F32 => Ok(Dtype::F32),
        Encoding::BF16 => Ok(Dtype::BF16),
        Encoding::F16 => Ok(Dtype::F16),
        other => Err(format!("a safetensors file cannot be written with {other}")),
    }
}

/// The bytes in front of the data: length and JSON header, padded so that the data begins at a multiple of 8.
/// `tensors` gives names, shapes and types in the order in which their data follows.
///
/// # Errors
/// Names the tensor whose type cannot be written.
pub fn write_header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize], Encoding)>,
) -> Result<Vec<u8>, String> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut end = 0;
    for (name, shape, encoding) in tensors {
        let begin = end;
        end += encoding.bytes(shape.iter().product()).unwrap_or(0);
        let dtype = dtype_of(encoding).map_err(|why| format!("tensor `{name}`: {why}"))?;
        header.insert(name.into(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }));
    }
    let mut json = serde_json::Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}

/// Names and places in the order of the file. A plain map would silently keep the last of two equal names.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to their places")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` occurs twice")));
            }
            if name == "__metadata__" {
                map.next_value::<HashMap<String, String>>()?;
            } else {
                let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
                tensors.push((name, info));
            }
        }
        Ok(Header(tensors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with the given header and `data` bytes of data.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut bytes = write_header([("a", &[2, 3][..], Encoding::F32), ("b", &[5], Encoding::BF16)]).unwrap();
        assert_eq!(bytes.len() % 8, 0);
        let start = bytes.len();
        bytes.resize(start + 34, 0);
        let entry =
            |encoding, shape: &[usize], bytes| TensorEntry { encoding, shape: shape.to_vec(), bytes, strides: None };
        let tensors = read_header(&bytes).unwrap();
        assert_eq!(tensors["a"], entry(Encoding::F32, &[2, 3], start..start + 24));
        assert_eq!(tensors["b"], entry(Encoding::BF16, &[5], start + 24..start + 34));
        assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok());
    }

    #[test]
    fn hostile_headers_are_refused_with_the_reason() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let two = |first: &str, second: &str| {
            let [a, b] = [first, second].map(|o| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{o}}}"#));
            format!(r#"{{"a":{a},"b":{b}}}"#)
        };
        let huge = usize::MAX - 100;
        for (header, data, reason) in [
            (one("F32", "[2]", "[0,8]"), 7, "claims bytes 0..8 of 7"),
            (one("F32", "[2]", "[0,8]"), 9, "take 8 bytes, but 9 follow"),
            (one("F32", "[3]", "[0,8]"), 8, "inconsistent"),
            (one("F16", "[2]", "[0,8]"), 8, "inconsistent"),
            (one("F32", "[4294967296,4294967296]", "[0,8]"), 8, "inconsistent"),
            (one("U8", &format!("[{huge}]"), &format!("[0,{huge}]")), 8, "claims bytes"),
            (one("F32", "[2]", "[8,0]"), 8, "claims bytes 8..0"),
            (one("F32", "[2]", "[-8,0]"), 8, "malformed"),
            (one("F32", "[NaN]", "[0,8]"), 8, "malformed"),
            (one("X9", "[2]", "[0,8]"), 8, "tensor `a`: unknown variant"),
            (two("[0,4]", "[2,6]"), 6, "inconsistent"),
            (two("[0,4]", "[5,9]"), 9, "inconsistent"),
            (two("[0,4]", "[4,8]").replace("\"b\"", "\"a\""), 8, "`a` occurs twice"),
            ("[]".into(), 0, "malformed"),
            ("{".into(), 0, "malformed"),
            ("[".repeat(100_000), 0, "malformed"),
        ] {
            let refusal = read_header(&file(&header, data)).unwrap_err();
            assert!(refusal.contains(reason), "{reason}: {refusal}");
        }
        assert!(read_header(&file(&two("[4,8]", "[0,4]"), 8)).is_ok(), "any order of names is allowed");
        assert!(read_header(b"1234567").unwrap_err().contains("too few"));
        assert!(read_header(&u64::MAX.to_le_bytes()).unwrap_err().contains("claims 18446744073709551615"));
    }

    /// Pieces that headers are made of, right and wrong.
    fn header_like() -> impl Strategy<Value = String> {
        let number = prop_oneof![0u64..40, any::<u64>()];
        let tensor = (
            prop::sample::select(vec!["F32", "BF16", "F16", "U8", "F4", "F64", "BOOL", "?"]),
            prop::collection::vec(number.clone(), 0..4),
            (number.clone(), number),
        )
            .prop_map(|(dtype, shape, (begin, end))| {
                format!(r#"{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
            });
        let value = prop_oneof![8 => tensor, 1 => Just("{\"format\":\"pt\"}".to_string()), 1 => ".{0,5}"];
        let name = prop::sample::select(vec!["a", "b", "c", "__metadata__", "\\u0000", "\\ud800"]);
        let pair = (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        prop::collection::vec(pair, 0..4).prop_map(|pairs| format!("{{{}}}", pairs.join(",")))
    }

    proptest! {
        #[test]
        fn any_header_is_consistent_or_refused(header in header_like(), data in 0usize..64) {
            let bytes = file(&header, data);
            if let Ok(tensors) = read_header(&bytes) {
                let total: usize = tensors.values().map(|t| bytes[t.bytes.clone()].len()).sum();
                prop_assert_eq!(total, data);
            }
        }

        #[test]
        fn any_damage_is_consistent_or_refused(
            sizes in prop::collection::vec(1usize..5, 1..4),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let names: Vec<(String, [usize; 1])> = sizes.iter().map(|&n| (format!("t{n}"), [n])).collect();
            let mut bytes = write_header(names.iter().map(|(name, shape)| (name.as_str(), &shape[..], Encoding::F32))).unwrap();
            bytes.resize(bytes.len() + 4 * sizes.iter().sum::<usize>(), 1);
            for (place, value) in damage {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(tensors) = read_header(&bytes) {
                for tensor in tensors.values() {
                    prop_assert_eq!(Some(bytes[tensor.bytes.clone()].len()), tensor.encoding.bytes(tensor.elements()));
                }
            }
        }
    }
}
