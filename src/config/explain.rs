//! Turns what the TOML reader says into what the user needs: the key, what is wrong, the nearest known name.

use toml::Table;

use super::Config;

/// The message for `error`: `section.key: what is wrong`, with a suggestion where a name is unknown.
pub(super) fn error(error: &toml::de::Error) -> String {
    let path = path(error);
    let message = error.message();
    let (what, names) = match quoted(message) {
        Some((unknown, known)) if message.starts_with("unknown field") => {
            let kind = if path.is_empty() { "section" } else { "key" };
            let path = if path.is_empty() { unknown.to_string() } else { format!("{path}.{unknown}") };
            return match other_section(&path, unknown) {
                Some(home) => format!("{path}: unknown {kind}; did you mean `{home}`?"),
                None => format!("{path}: unknown {kind}{}", suggestion(unknown, &known)),
            };
        }
        Some((unknown, known)) if message.starts_with("unknown variant") => {
            (format!("`{unknown}` is not one of its values"), suggestion(unknown, &known))
        }
        _ => (message.to_string(), String::new()),
    };
    if path.is_empty() { format!("{what}{names}") } else { format!("{path}: {what}{names}") }
}

/// `; did you mean …? Known: …`.
pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    let list = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    match nearest(name, known) {
        Some(best) => format!("; did you mean `{best}`? Known: {list}"),
        None => format!("; known: {list}"),
    }
}

/// The name in `known` that `name` is most likely a misspelling of, if any is near.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |k: &str| strsim::jaro_winkler(&name.to_lowercase(), &k.to_lowercase());
    known.iter().copied().filter(|k| likeness(k) > 0.65).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// The dotted path of the key at fault: the reader knows it but gives it only as the last line of its display.
fn path(error: &toml::de::Error) -> String {
    let mut error = error.clone();
    error.set_input(None);
    let text = error.to_string();
    text.rsplit_once("\nin `").map(|(_, path)| path.trim_end().trim_end_matches('`').to_string()).unwrap_or_default()
}

/// The name and the known names in serde's ``unknown field `x`, expected one of `a`, `b` ``.
fn quoted(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut names = message.split('`').skip(1).step_by(2);
    Some((names.next()?, names.collect()))
}

/// `section.key` for a `key` that stands in the wrong section but is known in exactly one other.
fn other_section(path: &str, key: &str) -> Option<String> {
    if !path.contains('.') {
        return None;
    }
    let known = Table::try_from(Config::default()).ok()?;
    let mut homes = known.iter().filter(|(_, section)| section.get(key).is_some());
    match (homes.next(), homes.next()) {
        (Some((home, _)), None) => Some(format!("{home}.{key}")),
        _ => None,
    }
}
