//! The pieces of a SentencePiece model by id, with what a `tokenizer_config.json` puts in their places.

use serde_json::{Map, Value};
use std::collections::HashMap;

use super::proto::{self, Kind};
use crate::{Error, Result};

/// Bytes of a piece that is given whole, at most: the longest of public vocabularies have some hundred.
const MAX_PIECE: usize = 4096;
/// Bytes of a piece that merges make, at most: SentencePiece's trainer stops at 16 characters unless told otherwise.
const MAX_MERGED: usize = 256;

/// An entry of the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Vocabulary {
    pieces: Vec<Piece>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// The pieces of the file. As in SentencePiece each is there once, and none is empty.
    pub(super) fn new(pieces: &[proto::Piece]) -> Result<Self> {
        let mut vocabulary = Self::default();
        for (id, piece) in pieces.iter().enumerate() {
            let bad = |why: &str| Error::user(format!("piece {id}, {:?}: {why}", piece.piece()));
            let kind = Kind::try_from(piece.kind.unwrap_or(Kind::Normal as i32))
                .map_err(|_| bad("its type is none of SentencePiece's"))?;
            if !piece.score().is_finite() {
                return Err(bad("its score is not a number"));
            }
            vocabulary.push(Piece { text: piece.piece().to_owned(), score: piece.score(), kind })?;
        }
        if vocabulary.pieces().filter(|(_, piece)| piece.kind == Kind::Unknown).count() != 1 {
            return Err(Error::user("one piece has to be the one for unknown characters"));
        }
        Ok(vocabulary)
    }

    pub(super) fn push(&mut self, piece: Piece) -> Result<u32> {
        let merged = matches!(piece.kind, Kind::Normal | Kind::Unused);
        let most = if merged { MAX_MERGED } else { MAX_PIECE };
        if piece.text.is_empty() || piece.text.len() > most {
            let (id, bytes) = (self.pieces.len(), piece.text.len());
            return Err(Error::user(format!("piece {id} has {bytes} bytes, which must be 1 to {most}")));
        }
        let id = self.len();
        if let Some(other) = self.ids.insert(piece.text.clone(), id) {
            return Err(Error::user(format!("pieces {other} and {id} are both {:?}", piece.text)));
        }
        self.pieces.push(piece);
        Ok(id)
    }

    /// Puts another piece in the place of `id`, or behind the last.
    fn replace(&mut self, id: u32, piece: Piece) -> Result<()> {
        if id == self.len() {
            return self.push(piece).map(drop);
        }
        let Some(old) = self.pieces.get_mut(id as usize) else {
            return Err(Error::user(format!("id {id} for {:?} leaves a gap in the ids", piece.text)));
        };
        self.ids.remove(&old.text);
        if let Some(other) = self.ids.insert(piece.text.clone(), id) {
            return Err(Error::user(format!("{:?} would have the ids {other} and {id}", piece.text)));
        }
        *old = piece;
        Ok(())
    }

    /// Applies `added_tokens_decoder` of a `tokenizer_config.json`: special tokens are never made from text, others are
    /// taken out of it whole.
    pub(super) fn apply(&mut self, config: &Map<String, Value>) -> Result<()> {
        let Some(Value::Object(added)) = config.get("added_tokens_decoder") else {
            return Ok(());
        };
        let bad = |id: &str, why: &str| {
            Error::user(format!("tokenizer_config.json, key \"added_tokens_decoder\", id {id:?}: {why}"))
        };
        let mut tokens = Vec::new();
        for (key, token) in added {
            let id: u32 = key.parse().map_err(|_| bad(key, "not an id"))?;
            let text = token["content"].as_str().ok_or_else(|| bad(key, "there is no \"content\""))?;
            let special = token["special"].as_bool().unwrap_or(false);
            if !special && ["lstrip", "rstrip", "single_word"].iter().any(|flag| token[*flag] == true) {
                return Err(bad(key, "lstrip, rstrip and single_word are read for special tokens alone"));
            }
            tokens.push((id, text, special));
        }
        tokens.sort_unstable();
        for (id, text, special) in tokens {
            let kind = match self.get(id) {
                Some(piece) if piece.kind == Kind::Unknown && piece.text == text => Kind::Unknown,
                _ if special => Kind::Control,
                _ => Kind::UserDefined,
            };
            let score = self.get(id).map_or(0.0, |piece| piece.score);
            let piece = Piece { text: text.to_owned(), score, kind };
            self.replace(id, piece).map_err(|error| bad(&id.to_string(), &error.to_string()))?;
        }
        Ok(())
    }

    /// Makes `name` a token that no text yields: the piece of that name, or a new one.
    pub(super) fn reserve(&mut self, name: &str) -> Result<u32> {
        let Some(id) = self.id(name) else {
            return self.push(Piece { text: name.to_owned(), score: 0.0, kind: Kind::Control });
        };
        let piece = &mut self.pieces[id as usize];
        if matches!(piece.kind, Kind::Unknown | Kind::Byte) {
            return Err(Error::user(format!("{name:?} is a byte or the token for unknown characters")));
        }
        piece.kind = Kind::Control;
        Ok(id)
    }

    pub(super) fn len(&self) -> u32 {
        self.pieces.len() as u32
    }

    pub(super) fn get(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(id as usize)
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The pieces with their ids.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u32, &Piece)> {
        (0u32..).zip(&self.pieces)
    }
}
