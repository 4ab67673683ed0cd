//! Ids to text, as SentencePiece's `Decode` does.

use super::proto::Kind;
use super::{SPACE, SentencePiece};

impl SentencePiece {
    /// The text of `ids`. Control pieces and ids outside of the vocabulary are left out; each byte that is not part of
    /// a character becomes U+FFFD; unknown characters become what the model says, by default " ⁇ ".
    pub(in crate::tokenizer) fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut bytes = Vec::new();
        // What encoding put in front comes off the first piece that has any text; where encoding takes spaces out, all
        // spaces before the text do.
        let strip_all = self.normalizer.remove_extra_whitespaces;
        let mut at_start = strip_all || self.normalizer.add_dummy_prefix;
        for piece in ids.iter().filter_map(|id| self.vocabulary.get(*id)) {
            if piece.kind == Kind::Byte {
                bytes.extend(self.byte(&piece.text));
                continue;
            }
            push_bytes(&mut bytes, &mut text);
            at_start &= text.is_empty();
            let surface = match piece.kind {
                Kind::Control => continue,
                Kind::Unknown => {
                    text.push_str(&self.unknown_surface);
                    continue;
                }
                _ => &*piece.text,
            };
            let (surface, stripped) = match surface.strip_prefix(SPACE) {
                Some(rest) if at_start => (rest, true),
                _ => (surface, false),
            };
            at_start &= !stripped || strip_all;
            text.push_str(&surface.replace(SPACE, " "));
        }
        push_bytes(&mut bytes, &mut text);
        text
    }

    fn byte(&self, name: &str) -> Option<u8> {
        u8::from_str_radix(name.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
    }
}

/// Appends what `bytes` spell, and empties them.
fn push_bytes(bytes: &mut Vec<u8>, text: &mut String) {
    let mut rest = &bytes[..];
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                break;
            }
            Err(error) => {
                let (valid, broken) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &broken[1..];
            }
        }
    }
    bytes.clear();
}
