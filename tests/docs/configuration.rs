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

/// Every section with its defaults, those within another one too: `train.lora`.
fn sections(defaults: &Table) -> Vec<(String, Table)> {
    let table = |name: &str| defaults.get(name).and_then(Value::as_table).cloned().unwrap_or_default();
    let outer = known("no_such_section = 1").into_iter().map(|name| (name.clone(), table(&name)));
    let with_inner = |(name, keys): (String, Table)| {
        let inner = keys.clone().into_iter().filter_map(|(key, value)| Some((key, value.as_table()?.clone())));
        let inner: Vec<_> = inner.map(|(key, keys)| (format!("{name}.{key}"), keys)).collect();
        std::iter::once((name, keys)).chain(inner)
    };
    outer.flat_map(with_inner).collect()
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let documented = documented();
    let defaults: Table = Config::default().to_toml().unwrap().parse().unwrap();
    let mut faults = Vec::new();
    let mut all = BTreeSet::new();
    for (section, defaults) in sections(&defaults) {
        for key in known(&format!("[{section}]\nno_such_key = 1")) {
            let value = defaults.get(&key);
            if value.is_some_and(Value::is_table) {
                continue;
            }
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

/// The part of the schema that a property leads to.
fn resolved<'a>(schema: &'a serde_json::Value, property: &'a serde_json::Value) -> &'a serde_json::Value {
    let named = property
        .get("$ref")
        .or_else(|| property.pointer("/allOf/0/$ref"))
        .or_else(|| property.pointer("/anyOf/0/$ref"));
    match named.and_then(|name| name.as_str()) {
        Some(name) => schema.pointer(name.trim_start_matches('#')).unwrap(),
        None => property,
    }
}

#[test]
fn the_schema_has_every_key_with_its_default_and_every_name() {
    let schema = Config::schema();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let sections = schema["properties"].as_object().unwrap();
    assert_eq!(sections.keys().cloned().collect::<BTreeSet<_>>(), known("no_such_section = 1"));
    let inner = sections.iter().flat_map(|(section, property)| {
        let keys = resolved(&schema, property)["properties"].as_object().unwrap();
        let inner = keys.iter().filter(|(_, property)| resolved(&schema, property).get("properties").is_some());
        inner.map(move |(key, property)| (format!("{section}.{key}"), property))
    });
    let all: Vec<_> = sections.iter().map(|(name, property)| (name.clone(), property)).chain(inner).collect();
    assert!(all.iter().any(|(name, _)| name == "train.lora"));
    let targets = known("[train.lora]\ntargets = ['no-such-name']");
    let listed = schema["$defs"]["Projection"]["enum"].as_array().unwrap().iter();
    assert_eq!(listed.map(|name| name.as_str().unwrap().to_string()).collect::<BTreeSet<_>>(), targets);
    for (section, property) in all {
        let section_schema = resolved(&schema, property);
        assert_eq!(section_schema["additionalProperties"], false, "{section}");
        let keys = section_schema["properties"].as_object().unwrap();
        let expected = known(&format!("[{section}]\nno_such_key = 1"));
        assert_eq!(keys.keys().cloned().collect::<BTreeSet<_>>(), expected, "{section}");
        for (key, property) in keys {
            assert!(property["description"].is_string(), "{section}.{key}");
            let place = format!("/{}/{key}", section.replace('.', "/"));
            let default = defaults.pointer(&place).unwrap_or(&serde_json::Value::Null);
            assert_eq!(property.get("default").unwrap_or(&serde_json::Value::Null), default, "{section}.{key}");
            // A name that is wrong is refused with all that are right.
            if let Some(name) = default.as_str()
                && let Ok(names) = std::panic::catch_unwind(|| known(&format!("[{section}]\n{key} = \"no-such-name\"")))
            {
                let part = resolved(&schema, property);
                let listed: BTreeSet<String> = match part["enum"].as_array() {
                    Some(names) => names.iter().map(|name| name.as_str().unwrap().to_string()).collect(),
                    None => {
                        let consts =
                            part["oneOf"].as_array().unwrap_or_else(|| panic!("{section}.{key}: {part}")).iter();
                        consts.map(|part| part["const"].as_str().unwrap().to_string()).collect()
                    }
                };
                assert!(listed.contains(name), "{section}.{key}");
                assert_eq!(listed, names, "{section}.{key}");
            }
        }
    }
}
