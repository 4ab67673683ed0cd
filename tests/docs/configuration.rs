use std::collections::{BTreeMap, BTreeSet};

use polar_raw::config::Config;
use toml::{Table, Value};

use super::{none, read};

/// The names that serde knows at a place of the schema, out of what it says of one that it does not know.
fn known(text: &str) -> BTreeSet<String> {
    let error = toml::from_str::<Config>(text).unwrap_err();
    let (_, names) = error.message().split_once("expected").unwrap();
    names.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

/// Section, key -> default as the reference shows it.
fn documented() -> BTreeMap<(String, String), String> {
    let mut section = String::new();
    let mut keys = BTreeMap::new();
    for line in read("docs/configuration.md").lines() {
        if let Some(name) = line.strip_prefix("`[").and_then(|rest| rest.split_once("]`")) {
            section = name.0.to_string();
        } else if let Some(name) = line.strip_prefix("## ") {
            section = name.trim_matches(['`', '[', ']']).to_string();
        }
        // A pipe within a cell is escaped.
        let cells: Vec<String> =
            line.replace("\\|", "\u{1}").split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
        if let [_, key, default, _, _] = &cells[..]
            && let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'))
        {
            let before = keys.insert((section.clone(), key.to_string()), default.trim_matches('`').to_string());
            assert!(before.is_none(), "{section}.{key} stands twice in docs/configuration.md");
        }
    }
    keys
}

/// Whether the reference's `shown` is the default `value`; no value is `none`.
fn same(shown: &str, value: Option<&Value>) -> bool {
    let Some(value) = value else { return shown == "none" };
    let Ok(parsed) = format!("x = {shown}").parse::<Table>() else { return false };
    let number = |value: &Value| value.as_float().or(value.as_integer().map(|i| i as f64));
    match (number(&parsed["x"]), number(value)) {
        (Some(a), Some(b)) => a == b,
        _ => parsed["x"] == *value,
    }
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let documented = documented();
    let defaults: Table = Config::default().to_toml().unwrap().parse().unwrap();
    let mut faults = Vec::new();
    let mut all = BTreeSet::new();
    for section in known("no_such_section = 1") {
        for key in known(&format!("[{section}]\nno_such_key = 1")) {
            let value = defaults.get(&section).and_then(|section| section.get(&key));
            match documented.get(&(section.clone(), key.clone())) {
                None => faults.push(format!("docs/configuration.md lacks {section}.{key}, by default {value:?}")),
                Some(shown) if !same(shown, value) => {
                    faults.push(format!("docs/configuration.md: {section}.{key} is {value:?} and not {shown}"));
                }
                Some(_) => {}
            }
            all.insert((section.clone(), key));
        }
    }
    assert!(all.len() > 40, "{all:?}");
    faults.extend(documented.keys().filter(|key| !all.contains(key)).map(|(s, k)| format!("there is no {s}.{k}")));
    none(&faults);
}
