//! A SentencePiece model as a `tokenizer.json`, for readers that know no other form.
//!
//! It gives the same ids for ordinary text. It cannot say everything: where scores are equal, where spaces are taken
//! out beside user-defined pieces, and for unused pieces, the `tokenizer.model` beside it is what counts.

use serde_json::{Map, Value, json};

use super::SentencePiece;
use super::proto::Kind;
use crate::tokenizer::{Specials, own};

impl SentencePiece {
    pub(in crate::tokenizer) fn to_json(&self, specials: Specials) -> Value {
        let mut vocab = Map::new();
        let mut added = Vec::new();
        for (id, piece) in self.vocabulary.pieces() {
            vocab.insert(piece.text.clone(), id.into());
            let special = matches!(piece.kind, Kind::Control | Kind::Unknown);
            if special || piece.kind == Kind::UserDefined {
                added.push(json!({
                    "id": id, "content": piece.text, "special": special,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                }));
            }
        }
        let unknown = self.name(self.unknown);
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": self.normalizer.to_json(),
            "pre_tokenizer": null,
            "post_processor": specials.bos.and_then(|bos| Some(own::bos_first(self.name(bos)?, bos))),
            "decoder": self.normalizer.decoder(),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.bytes.is_some(),
                "ignore_merges": false, "vocab": vocab, "merges": self.ranked_merges(),
            },
        })
    }

    /// Every way to make a piece of two, the highest score first.
    fn ranked_merges(&self) -> Vec<[&str; 2]> {
        let mut merges = Vec::new();
        for (_, piece) in self.vocabulary.pieces().filter(|(_, piece)| piece.kind == Kind::Normal) {
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(left_id), Some(right_id)) = (self.vocabulary.id(left), self.vocabulary.id(right)) {
                    merges.push((piece.score, left_id, right_id, [left, right]));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
        merges.into_iter().map(|(.., parts)| parts).collect()
    }
}
