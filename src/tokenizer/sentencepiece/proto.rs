//! The part of SentencePiece's `tokenizer.model`, a protocol buffer (`sentencepiece_model.proto`), that decides about ids.
//! What is not listed is skipped.

/// The file.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct ModelProto {
    /// By id.
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub normalizer: Option<NormalizerSpec>,
    #[prost(message, optional, tag = "5")]
    pub denormalizer: Option<NormalizerSpec>,
}

/// An entry of the vocabulary.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct Piece {
    #[prost(string, optional, tag = "1")]
    pub piece: Option<String>,
    /// The highest is merged first.
    #[prost(float, optional, tag = "2")]
    pub score: Option<f32>,
    #[prost(enumeration = "Kind", optional, tag = "3")]
    pub kind: Option<i32>,
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(in crate::tokenizer) enum Kind {
    /// What merges make.
    Normal = 1,
    /// What no other piece covers.
    Unknown = 2,
    /// Never made from text.
    Control = 3,
    /// Taken out of the text before any merge.
    UserDefined = 4,
    /// Merged on the way to others, and taken apart again in the end.
    Unused = 5,
    /// A byte of what no other piece covers.
    Byte = 6,
}

/// How the model was trained, as far as it is about encoding.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct TrainerSpec {
    /// 1 Unigram, 2 BPE, 3 words, 4 characters.
    #[prost(int32, optional, tag = "3", default = "1")]
    pub model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    pub treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    pub byte_fallback: Option<bool>,
    /// What the token for unknown characters is decoded to.
    #[prost(string, optional, tag = "44", default = " \u{2047} ")]
    pub unk_surface: Option<String>,
    #[prost(string, optional, tag = "46", default = "<s>")]
    pub bos_piece: Option<String>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    pub eos_piece: Option<String>,
}

/// What happens to text before it is split.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct NormalizerSpec {
    /// Replacements of characters, compiled; empty for none.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub precompiled_charsmap: Option<Vec<u8>>,
    /// A space at the start of every text.
    #[prost(bool, optional, tag = "3", default = "true")]
    pub add_dummy_prefix: Option<bool>,
    /// No space at both ends and no two in a row.
    #[prost(bool, optional, tag = "4", default = "true")]
    pub remove_extra_whitespaces: Option<bool>,
    /// Spaces become U+2581.
    #[prost(bool, optional, tag = "5", default = "true")]
    pub escape_whitespaces: Option<bool>,
}
