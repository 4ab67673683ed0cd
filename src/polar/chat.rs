//! Chat templates: conversations as the strings that a model was trained on, as `transformers` renders them
//! (`transformers/utils/chat_template_utils.py`).

use std::fmt::Write as _;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::data::Message;
use crate::{Error, Result};

/// Bytes of a template, at most.
const MAX_TEMPLATE: usize = 1 << 20;
/// Steps of a rendering and bytes of its values, at most: a template may loop, and double a text each time.
const FUEL: u64 = 1_000_000;
/// More of them for each byte of the conversation.
const FUEL_PER_BYTE: u64 = 256;
/// Bytes that a template may add to the conversation.
const MAX_ADDED: usize = 16 << 20;
/// The name of the template in messages.
const NAME: &str = "chat_template";

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// What templates call the special tokens, such as `bos_token`, and how these are spelt.
    tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// Compiles `template`; `tokens` are special tokens by what it calls them, such as `bos_token`.
    ///
    /// # Errors
    /// The user's: a template that is too long or is not one, with its line.
    pub fn new(template: &str, tokens: Vec<(&'static str, String)>) -> Result<Self> {
        if template.len() > MAX_TEMPLATE {
            let len = template.len();
            return Err(Error::user(format!("the chat template has {len} bytes; at most {MAX_TEMPLATE} are read")));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| refused("cannot be read", &error))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        let template = without_generation(template);
        environment.add_template_owned(NAME, template).map_err(|error| refused("cannot be read", &error))?;
        Ok(Self { environment, tokens })
    }

    /// The string of a whole conversation.
    ///
    /// # Errors
    /// The user's: what the template itself refuses, such as two messages of one role; one that does not end.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        // A token that the tokenizer does not have is not defined.
        let tokens = Value::from_pairs(self.tokens.iter().map(|(key, name)| (*key, name.as_str())));
        let messages_value = Value::from(Serde(messages));
        let context = context! { messages => messages_value, add_generation_prompt => false, ..tokens };
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL.saturating_add(FUEL_PER_BYTE.saturating_mul(bytes as u64))));
        let template = environment.get_template(NAME).map_err(|error| refused("cannot be read", &error))?;
        let mut text = Bounded { bytes: Vec::new(), left: bytes.saturating_mul(2).saturating_add(MAX_ADDED) };
        template.render_captured_to(context, &mut text).map_err(|error| refused("fails", &error))?;
        String::from_utf8(text.bytes).map_err(|_| Error::machine("a chat template gave a text that is not UTF-8"))
    }
}

/// The error with its causes: what a template raises is one of them.
fn refused(what: &str, error: &minijinja::Error) -> Error {
    let mut message = format!("the chat template {what}: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let _ = write!(message, ": {inner}");
        cause = inner.source();
    }
    Error::user(message)
}

/// Takes so many bytes and no more.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("the text has no end"))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The template without the tags of `transformers`' own that mark what the model said: their content stays.
fn without_generation(template: &str) -> String {
    let mut template = template.to_owned();
    for (tag, stand_in) in [("generation", "if true"), ("endgeneration", "endif")] {
        for open in ["{%", "{%-", "{%+"] {
            for close in ["%}", "-%}", "+%}"] {
                template = template.replace(&format!("{open} {tag} {close}"), &format!("{open} {stand_in} {close}"));
            }
        }
    }
    template
}

/// What a template calls where it cannot do with the conversation.
fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in the format of C's `strftime`.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {format:?} is not a format of time"))
    })?;
    Ok(text)
}

/// As `json.dumps(value, ensure_ascii=False, indent=indent)`: minijinja's own filter escapes for HTML.
fn tojson(value: &Value, kwargs: Kwargs) -> std::result::Result<String, minijinja::Error> {
    const MAX_INDENT: usize = 16;
    let failed = |message: String| minijinja::Error::new(ErrorKind::InvalidOperation, message);
    let indent: Option<usize> = kwargs.get("indent")?;
    // What says how text is escaped and keys are sorted is taken as Python's default.
    let _: (Option<bool>, Option<bool>) = (kwargs.get("ensure_ascii")?, kwargs.get("sort_keys")?);
    kwargs.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(MAX_INDENT));
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
    };
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
}

/// JSON with a space after commas and colons, as Python writes it.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> [Message; 2] {
        [("user", "hi <b>"), ("assistant", "yo")]
            .map(|(role, content)| Message { role: role.into(), content: content.into() })
    }

    fn render(template: &str) -> Result<String> {
        ChatTemplate::new(template, vec![("bos_token", "<s>".into())])?.render(&conversation())
    }

    /// The right values are those that `transformers` 5.24 renders.
    #[test]
    fn a_template_gives_the_string_of_transformers() {
        for (template, right) in [
            (
                "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{% endfor %}",
                "<s>[user]hi <b>[assistant]yo",
            ),
            ("  {% for m in messages %}\n  {{ m.content }}\n  {% endfor %}\n", "  hi <b>\n  yo\n"),
            ("{{ messages[0] | tojson }}", "{\"role\": \"user\", \"content\": \"hi <b>\"}"),
            (
                "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content.upper()[:2] }}{% endfor %}",
                "HI",
            ),
            ("{% generation %}{{ messages[-1].content.strip() }}{%- endgeneration -%}", "yo"),
            ("{{ messages[1:] | length }}{% if eos_token is defined or tools is defined %}x{% endif %}", "1"),
        ] {
            assert_eq!(render(template).unwrap(), right, "{template}");
        }
        let year = render("{{ strftime_now('%Y') }}").unwrap();
        assert!(year.len() == 4 && year.starts_with("20"), "{year}");
    }

    #[test]
    fn what_a_template_cannot_do_is_said_and_bounded() {
        for (template, part) in [
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% for m in messages %}", "cannot be read"),
            ("{{ strftime_now('%!') }}", "not a format of time"),
            ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "fuel"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails"),
            ("{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}", "fails"),
            ("{{ messages.missing.content }}", "fails"),
        ] {
            let error = render(template).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{template}: {error}");
        }
        assert!(ChatTemplate::new(&" ".repeat(MAX_TEMPLATE + 1), Vec::new()).is_err());
    }
}
