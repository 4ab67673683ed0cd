//! The OpenAPI document: what it names is there, and what is there it names.

use std::collections::BTreeSet;

use polar_raw::serve::paths;
use serde_json::{Value, json};

use super::client::{get, send};
use super::fixture::{Running, options};

/// Every `$ref` beneath a value.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(String::from));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_route_is_in_the_document_and_the_other_way_round() {
    let server = Running::new(options());
    let document = get(server.address, "/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let mut described = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described.insert((method.clone(), path.clone()));
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation} is named twice");
            assert!(operation["responses"].as_object().unwrap().contains_key("200"));
            // The router knows the path by this method and by no other.
            let upper = method.to_uppercase();
            let status = send(server.address, &upper, path, &[], b"{}").status;
            assert!(status == 200 || (method == "post" && status == 400), "{upper} {path}: {status}");
            let other = if method == "post" { "GET" } else { "POST" };
            assert_eq!(send(server.address, other, path, &[], b"{}").status, 405, "{other} {path}");
        }
    }
    let routed: BTreeSet<_> = paths().map(|(method, path)| (method.to_lowercase(), path.to_string())).collect();
    assert_eq!(described, routed);
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = polar_raw::serve::document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in &found {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
    }
    assert_ne!(document["components"]["schemas"], json!({}));
}
