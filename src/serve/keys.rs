//! Keys of a request beside those that an endpoint reads: what each may hold without changing the answer.
//!
//! The original servers drop keys that they do not know. Here a key that would change what is computed or how it is
//! answered is refused by name, and so is one of which nothing is known: no meaning is dropped without a word.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::ApiError;

/// What a key that is not read may hold.
enum Holds {
    /// Anything: it says something about the request, and nothing about the answer.
    Anything,
    /// One of these, with which the answer is what it is here. `null`, and a list or object without content, ask for
    /// nothing and are taken in any case.
    Only(&'static [Plain<'static>]),
}

/// A value as far as it is looked at: no tree is made of it.
#[derive(Debug, PartialEq)]
enum Plain<'a> {
    Flag(bool),
    Text(Cow<'a, str>),
    /// `null`, or a list or object without content.
    Nothing,
    /// Any other.
    Other,
}

const fn text(text: &'static str) -> Plain<'static> {
    Plain::Text(Cow::Borrowed(text))
}

const OFF: Holds = Holds::Only(&[Plain::Flag(false)]);
const ON: Holds = Holds::Only(&[Plain::Flag(true)]);
const NONE: Holds = Holds::Only(&[]);

/// The keys of SGLang's, vLLM's and LMDeploy's requests, and of those of training frameworks.
const KEYS: [(&str, Holds); 49] = [
    ("model", Holds::Anything),
    ("user", Holds::Anything),
    ("rid", Holds::Anything),
    ("request_id", Holds::Anything),
    ("priority", Holds::Anything),
    ("cache_salt", Holds::Anything),
    ("metadata", Holds::Anything),
    ("sampling_params", Holds::Anything),
    ("background", OFF),
    ("log_metrics", Holds::Anything),
    ("return_bytes", OFF),
    ("http_worker_ipc", NONE),
    ("data_parallel_rank", Holds::Anything),
    ("routed_dp_rank", Holds::Anything),
    ("custom_labels", Holds::Anything),
    ("encoding_format", Holds::Only(&[text("float")])),
    ("embed_dtype", Holds::Only(&[text("float32")])),
    ("endianness", Holds::Only(&[text("native"), text("little")])),
    ("task", Holds::Only(&[text("classify"), text("token_classify"), text("encode"), text("reward")])),
    ("add_special_tokens", ON),
    ("truncate_prompt_tokens", NONE),
    ("truncation_side", NONE),
    ("max_length", NONE),
    ("dimensions", NONE),
    ("activation", OFF),
    ("use_activation", OFF),
    ("softmax", OFF),
    ("normalize", OFF),
    ("step_tag_id", NONE),
    ("returned_token_ids", NONE),
    ("return_token_ids", OFF),
    ("return_pooled_hidden_states", OFF),
    ("return_prompt_token_ids", OFF),
    ("stream", OFF),
    ("is_cross_encoder_request", OFF),
    ("embed_overrides", NONE),
    ("input_embeds", NONE),
    ("messages", NONE),
    ("chat_template", NONE),
    ("chat_template_kwargs", NONE),
    ("add_generation_prompt", OFF),
    ("continue_final_message", OFF),
    ("mm_processor_kwargs", NONE),
    ("modalities", NONE),
    ("images", NONE),
    ("image_data", NONE),
    ("audio_data", NONE),
    ("video_data", NONE),
    ("lora_path", NONE),
];

impl<'de> Deserialize<'de> for Plain<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PlainVisitor;

        impl<'de> Visitor<'de> for PlainVisitor {
            type Value = Plain<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Plain::Nothing)
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
                Ok(Plain::Flag(flag))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Plain::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Plain::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Plain::Other)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Plain::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Plain::Text(Cow::Owned(text.into())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut plain = Plain::Nothing;
                while let Some(IgnoredAny) = seq.next_element()? {
                    plain = Plain::Other;
                }
                Ok(plain)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut plain = Plain::Nothing;
                while let Some((IgnoredAny, IgnoredAny)) = map.next_entry()? {
                    plain = Plain::Other;
                }
                Ok(plain)
            }
        }

        deserializer.deserialize_any(PlainVisitor)
    }
}

/// Refuses a body with a key beside `own` that is unknown, or holds what would change the answer.
pub fn check(body: &str, own: &[&str]) -> Result<(), ApiError> {
    let mut json = serde_json::Deserializer::from_str(body);
    json.deserialize_map(Keys { own }).map_err(|error| ApiError::invalid(error.to_string()))?.map_or(Ok(()), Err)
}

struct Keys<'a> {
    own: &'a [&'a str],
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = Option<ApiError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut refused = None;
        let mut seen = Vec::new();
        while let Some(Plain::Text(key)) = map.next_key()? {
            if self.own.contains(&&*key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let known = KEYS.iter().position(|(name, _)| *name == key);
            let value: Plain = map.next_value()?;
            if known.is_some_and(|known| seen.contains(&known)) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            seen.extend(known);
            let holds = known.and_then(|known| KEYS.get(known)).map(|(_, holds)| holds);
            refused = refused.or_else(|| refusal(&key, &value, holds));
        }
        Ok(refused)
    }
}

/// Why a key cannot be taken, if it cannot.
fn refusal(key: &str, value: &Plain, holds: Option<&Holds>) -> Option<ApiError> {
    let key: String = key.chars().take(64).collect();
    match holds {
        None => Some(ApiError::invalid(format!(
            "{key}: this key is not known here, and so not what it would change; leave it out"
        ))),
        Some(Holds::Anything) => None,
        Some(Holds::Only(allowed)) => (*value != Plain::Nothing && !allowed.contains(value)).then(|| {
            let allowed: Vec<String> = allowed.iter().map(Plain::spelt).collect();
            let only = if allowed.is_empty() { String::new() } else { format!("say {}, or ", allowed.join(" or ")) };
            ApiError::invalid(format!("{key}: this server does not do what this asks for; {only}leave it out"))
        }),
    }
}

impl Plain<'_> {
    fn spelt(&self) -> String {
        match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Nothing | Self::Other => "null".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEYS, check};

    #[test]
    fn every_key_is_there_once() {
        let mut names: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        let refused = |body: &str| check(body, &["input"]).err().map(|error| format!("{error:?}"));
        for good in [
            r#"{"input": [1, {"softmax": true}], "user": {"a": [1]}, "encoding_format": "float"}"#,
            r#"{"add_special_tokens": true, "softmax": false, "truncate_prompt_tokens": null, "images": []}"#,
            r#"{"\u0075ser": "a"}"#,
        ] {
            assert_eq!(refused(good), None, "{good}");
        }
        for (bad, part) in [
            (
                r#"{"add_special_tokens": false}"#,
                "add_special_tokens: this server does not do what this asks for; say true",
            ),
            (r#"{"truncate_prompt_tokens": 5, "user": 1}"#, "truncate_prompt_tokens: "),
            (r#"{"encoding_format": "base64"}"#, r#"encoding_format: "#),
            (r#"{"soft\u006dax": true}"#, "softmax: "),
            (r#"{"images": ["a"]}"#, "images: "),
            (r#"{"inputs": 1}"#, "inputs: this key is not known here"),
            (r#"{"user": 1, "user": 2}"#, "duplicate field `user`"),
        ] {
            assert!(refused(bad).is_some_and(|message| message.contains(part)), "{bad}: {:?}", refused(bad));
        }
    }
}
