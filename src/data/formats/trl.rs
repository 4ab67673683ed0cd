//! TRL's preferences: `{prompt, chosen, rejected}`, whose texts are conversations, and whose prompt may be the messages
//! that chosen and rejected begin with.

use serde_json::Value;

use super::{RowFormat, each_row, read};
use crate::data::Message;
use crate::data::group::{Candidate, Group, Rule};
use crate::data::groups::GroupMaker;
use crate::data::row::Row;
use crate::data::store::Raw;
use crate::error::{Error, Result};

/// Rows {chosen, rejected} of messages.
pub struct Trl;

impl RowFormat for Trl {
    fn name(&self) -> &'static str {
        "trl"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["chosen", "rejected"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &["prompt", "id", "prompt_id", "subset"]
    }

    fn shape(&self) -> String {
        "{chosen: [{role, content}, ..], rejected: [..]}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        let conversation = |key: &str| {
            row.value(&[key]).and_then(Value::as_array).is_some_and(|list| list.iter().any(Value::is_object))
        };
        !row.has_values(&["reference"]) && conversation("chosen") && conversation("rejected")
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(group, |raw| read(raw, group)))
    }
}

/// Reads a row. What both conversations begin with is of the prompt: all of it if there is none, or if it ends as the
/// prompt does and begins with a turn that a prompt begins with, and else what follows the prompt.
fn group(row: &mut Row, raw: Raw) -> Result<Group> {
    let (chosen, rejected) = (row.messages("chosen", "assistant")?, row.messages("rejected", "assistant")?);
    // The last message is the answer, though it be the same.
    let most = chosen.len().min(rejected.len()).saturating_sub(1);
    let common = (0..most).take_while(|&i| chosen[i] == rejected[i]).count();
    let before = joined(&chosen[..common]);
    let prompt = match row.value(&["prompt"]) {
        None if common == 0 => {
            return Err(Error::user(
                "chosen and rejected begin with different messages, and there is no key \"prompt\": give the prompt",
            ));
        }
        None => before,
        Some(_) => match row.text("prompt")? {
            prompt if common == 0 => prompt,
            prompt if chosen[0].role != "assistant" && (0..common).any(|i| joined(&chosen[i..common]) == prompt) => {
                before
            }
            prompt => [prompt, before].join("\n"),
        },
    };
    let answer = |messages: &[Message], gain| Candidate::new(joined(&messages[common..]), gain);
    Ok(Group {
        id: row.label(&["id", "prompt_id"]),
        subset: row.label(&["subset"]).unwrap_or_default(),
        ..Group::new(prompt, vec![answer(&chosen, 1.0), answer(&rejected, 0.0)], Rule::Pairs).at(raw)
    })
}

fn joined(messages: &[Message]) -> String {
    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
}
