//! The values of requests, read as what they are: no JSON tree is made of a body of many megabytes.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::error::ApiError;
use super::keys;
use crate::data::known_fault;

/// Sequences of one request, at most.
pub const MAX_SEQUENCES: usize = 1 << 16;

/// Parses a body; what is wrong is named by key and index. `own` are the keys that `T` has: others are refused unless
/// they change nothing.
pub fn parse<T: DeserializeOwned>(body: &[u8], own: &[&str]) -> Result<T, ApiError> {
    // The parser looks at the strings that it keeps alone.
    let body = std::str::from_utf8(body).map_err(|error| {
        ApiError::invalid(format!("the body is not UTF-8 at byte {}: encode it as UTF-8", error.valid_up_to()))
    })?;
    let mut json = serde_json::Deserializer::from_str(body);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        let found = known_fault(body, error.inner());
        ApiError::invalid(found.unwrap_or_else(|| format!("{place}{}", error.inner())))
    })?;
    json.end().map_err(|error| ApiError::invalid(format!("after the JSON object: {error}")))?;
    keys::check(body, own)?;
    Ok(value)
}

/// A struct that only an object stands for: what serde derives takes a list of the fields' values too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// What the original servers take to score: encoded strings, or whole sequences of ids; one or many.
#[derive(Debug, PartialEq)]
pub enum Input {
    /// One string.
    Text(String),
    /// Many strings.
    Texts(Vec<String>),
    /// One sequence.
    Ids(Vec<u32>),
    /// Many sequences.
    Sequences(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;

        impl<'de> Visitor<'de> for InputVisitor {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of strings, a list of token ids, or a list of lists of token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.into()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Input, E> {
                Ok(Input::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
                match seq.next_element()? {
                    None => Err(A::Error::custom("an empty list: there is nothing to score")),
                    Some(Item::Text(first)) => rest(seq, first, MAX_SEQUENCES).map(Input::Texts),
                    Some(Item::Id(first)) => rest(seq, first, usize::MAX).map(Input::Ids),
                    Some(Item::Ids(first)) => rest(seq, first, MAX_SEQUENCES).map(Input::Sequences),
                }
            }
        }

        deserializer.deserialize_any(InputVisitor)
    }
}

fn rest<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(mut seq: A, first: T, most: usize) -> Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(next) = seq.next_element()? {
        if all.len() == most {
            return Err(A::Error::custom(format_args!("more than {most} sequences in one request: send several")));
        }
        all.push(next);
    }
    Ok(all)
}

/// The first element of a list, which says what the others are.
enum Item {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.into()))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Item, E> {
                let unexpected = de::Unexpected::Unsigned(id);
                u32::try_from(id).map(Item::Id).map_err(|_| E::invalid_value(unexpected, &"a token id"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Item::Ids(ids))
            }
        }

        deserializer.deserialize_any(ElementVisitor)
    }
}

/// A prompt or a trajectory: a string, or messages, whose contents are joined by newlines and whose roles are dropped,
/// as POLAR's client does.
#[derive(Debug, PartialEq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Message {
            content: Content,
        }

        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of messages {\"role\", \"content\"}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.into()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                let Some(Object(Message { content: Content(mut text) })) = seq.next_element()? else {
                    return Err(A::Error::custom("an empty list of messages"));
                };
                while let Some(Object(Message { content: Content(content) })) = seq.next_element()? {
                    text.push('\n');
                    text.push_str(&content);
                }
                Ok(Text(text))
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// The content of a message: a string, or parts, whose texts are put together.
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Part {
            r#type: String,
            text: Option<String>,
        }

        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of parts {\"type\": \"text\", \"text\"}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.into()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
                Ok(Content(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut text = String::new();
                while let Some(Object(Part { r#type: kind, text: part })) = seq.next_element()? {
                    match part {
                        Some(part) if kind == "text" => text.push_str(&part),
                        None if kind == "text" => return Err(A::Error::missing_field("text")),
                        _ => {
                            return Err(A::Error::custom(format_args!(
                                "a part of the type {kind:?}: only texts can be scored; take it out"
                            )));
                        }
                    }
                }
                Ok(Content(text))
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

/// A list of at least one and not more than [`MAX_SEQUENCES`].
#[derive(Debug)]
pub struct Many<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ManyVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ManyVisitor<T> {
            type Value = Many<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Many<T>, A::Error> {
                match seq.next_element()? {
                    None => Err(A::Error::custom("an empty list: there is nothing to score")),
                    Some(first) => rest(seq, first, MAX_SEQUENCES).map(Many),
                }
            }
        }

        deserializer.deserialize_seq(ManyVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_input() {
        let read = |text: &str| serde_json::from_str::<Input>(text).unwrap();
        assert_eq!(read("\"a\""), Input::Text("a".into()));
        assert_eq!(read("[\"a\", \"\\n\"]"), Input::Texts(vec!["a".into(), "\n".into()]));
        assert_eq!(read("[1, 2]"), Input::Ids(vec![1, 2]));
        assert_eq!(read("[[1], [2, 3]]"), Input::Sequences(vec![vec![1], vec![2, 3]]));
    }

    #[derive(Debug, Deserialize)]
    struct Body {
        #[expect(dead_code, reason = "only errors are looked at")]
        input: Input,
    }

    #[test]
    fn what_is_wrong_is_named_by_key_and_index() {
        for (body, part) in [
            ("{\"input\": [\"a\", 3]}", "input[1]: invalid type: integer `3`, expected a string"),
            ("{\"input\": [1, -3]}", "input[1]: "),
            ("{\"input\": [1, 4294967296]}", "input[1]: "),
            ("{\"input\": [4294967296]}", "input[0]: "),
            ("{\"input\": [[1], [2, \"x\"]]}", "input[1][1]: "),
            ("{\"input\": []}", "input: an empty list"),
            ("{\"input\": null}", "input: invalid type: null"),
            ("{\"input\": [\"a\", \"x \\ud83d\"]}", "key \\\"input[1]\\\": found half a surrogate pair (\\\\ud83d)"),
            ("{\"input\": NaN}", "key \\\"input\\\": found NaN, which is no number of JSON"),
            ("{\"input\": {\"a\": 1}}", "input: invalid type: map"),
            ("{}", "missing field `input`"),
            ("[1, 2", "invalid type: sequence, expected an object"),
            (" [\"a\"]", "invalid type: sequence, expected an object"),
            ("", "EOF"),
            ("{\"input\": \"a\"} x", "after the JSON object"),
            ("{\"input\": \"a\", \"input\": \"b\"}", "duplicate field `input`"),
        ] {
            let message = format!("{:?}", parse::<Body>(body.as_bytes(), &["input"]).unwrap_err());
            assert!(message.contains(part), "{body}: {message}");
        }
    }

    #[test]
    fn messages_are_joined() {
        let read = |text: &str| serde_json::from_str::<Text>(text).map(|text| text.0);
        assert_eq!(read("[{\"role\": \"user\", \"content\": \"a\"}, {\"content\": \"b\"}]").unwrap(), "a\nb");
        assert_eq!(read("\"é\"").unwrap(), "é");
        let parts = "[{\"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"text\": \"b\", \"type\": \"text\"}]}, {\"content\": []}]";
        assert_eq!(read(parts).unwrap(), "ab\n");
        for bad in ["[]", "[\"a\"]", "[[\"a\"]]", "[{\"role\": \"user\"}]", "3", "[{\"content\": null}]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for (part, wanted) in [
            (
                "{\"type\": \"image_url\", \"image_url\": {}}",
                "a part of the type \"image_url\": only texts can be scored",
            ),
            ("{\"type\": \"text\"}", "missing field `text`"),
            ("{\"text\": \"a\"}", "missing field `type`"),
            ("\"a\"", "expected an object"),
        ] {
            let error = read(&format!("[{{\"content\": [{part}]}}]")).unwrap_err().to_string();
            assert!(error.contains(wanted), "{part}: {error}");
        }
    }
}
