//! The merges of a BPE trained here, applied to text: what the `tokenizers` crate does with the same file, without
//! the offsets, strings and normalised copies that it keeps along the way.

use regex::Regex;
use serde_json::Value;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::bytes;
use super::own::OWN_COUNT;
use super::pipeline::Pipeline;
use crate::{Error, Result};

/// Words of more bytes are left to the `tokenizers` crate, whose time does not grow with the square of the length.
const LONG_WORD: usize = 64;

/// A byte-level BPE.
#[derive(Debug)]
pub(super) struct Merges {
    split: Regex,
    /// The id of each byte.
    bytes: Vec<u32>,
    /// Of a pair of neighbouring ids, its rank (the lowest is merged first) and the id of its union.
    pairs: HashMap<u64, (u32, u32), BuildHasherDefault<PairHasher>>,
}

/// A multiplicative hash: a lookup for each pair of neighbours is most of what encoding costs.
#[derive(Debug, Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 over the golden ratio.
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

pub(super) fn key(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

impl Merges {
    /// Takes the merges of a `tokenizer.json`'s model that joins within the matches of `split`, which cover any text.
    pub(super) fn new(split: &str, model: &Value) -> Result<Self> {
        let damaged = |what: &str| Error::user(format!("key \"model\": {what}; save the tokenizer again"));
        let id = |token: &str| model["vocab"][token].as_u64().and_then(|id| u32::try_from(id).ok());
        let byte = |letter: char| id(letter.encode_utf8(&mut [0; 4])).ok_or_else(|| damaged("a byte has no id"));
        let merges = model["merges"].as_array().ok_or_else(|| damaged("there are no merges"))?;
        let pair = |(rank, merge): (usize, &Value)| {
            let (left, right) = (merge[0].as_str()?, merge[1].as_str()?);
            Some((key(id(left)?, id(right)?), (u32::try_from(rank).ok()?, id(&[left, right].concat())?)))
        };
        let pairs: Option<Vec<_>> = merges.iter().enumerate().map(pair).collect();
        let pairs = pairs.ok_or_else(|| damaged("a merge is not of two known tokens"))?;
        Ok(Self {
            split: Regex::new(split).map_err(|error| Error::machine(error.to_string()))?,
            bytes: bytes::alphabet().into_iter().map(byte).collect::<Result<_>>()?,
            // Text may spell a special token ("##", say, often enough to be merged), but never becomes it.
            pairs: pairs.into_iter().filter(|(_, (_, union))| *union >= OWN_COUNT).collect(),
        })
    }

    /// Ids of `text`; long words go through `pipeline`, which has the same merges.
    pub(super) fn encode(&self, text: &str, pipeline: &Pipeline) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 2);
        let mut ranks = Vec::new();
        for word in self.split.find_iter(text) {
            if word.len() > LONG_WORD {
                ids.extend(pipeline.encode(word.as_str())?);
            } else {
                self.encode_word(word.as_str(), &mut ids, &mut ranks);
            }
        }
        Ok(ids)
    }

    /// Appends the ids of a word. `ranks` is scratch space: the rank of each id with its right neighbour.
    fn encode_word(&self, word: &str, ids: &mut Vec<u32>, ranks: &mut Vec<u32>) {
        let start = ids.len();
        ids.extend(word.bytes().map(|byte| self.bytes[usize::from(byte)]));
        ranks.clear();
        ranks.extend(ids[start..].windows(2).map(|pair| self.rank(pair[0], pair[1])));
        // The first of the lowest.
        while let Some((at, &rank)) = ranks.iter().enumerate().min_by_key(|(_, rank)| **rank) {
            let left = start + at;
            let Some(&(_, union)) =
                (rank != u32::MAX).then(|| self.pairs.get(&key(ids[left], ids[left + 1]))).flatten()
            else {
                break;
            };
            ids[left] = union;
            ids.remove(left + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = self.rank(ids[left - 1], union);
            }
            if at < ranks.len() {
                ranks[at] = self.rank(union, ids[left + 1]);
            }
        }
    }

    fn rank(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(&key(left, right)).map_or(u32::MAX, |(rank, _)| *rank)
    }
}
