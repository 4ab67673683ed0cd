//! The OpenAPI document: what it names is there, and what is there it names.

use std::collections::BTreeSet;

use polar_raw::serve::{Options, paths};
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
            if method != "options" {
                described.insert((method.clone(), path.clone()));
            }
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation} is named twice");
            if method == "options" {
                // No page may ask.
                assert_eq!(send(server.address, "OPTIONS", path, &PREFLIGHT, b"").status, 405, "{path}");
                continue;
            }
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

/// What a browser sends before a page of another origin asks.
const PREFLIGHT: [&str; 2] = ["origin: https://a.example", "access-control-request-method: POST"];

#[test]
fn what_pages_of_other_origins_are_told_is_in_the_document() {
    let server = Running::new(Options { cors: vec!["https://a.example".into()], ..options() });
    let document = polar_raw::serve::document();
    for (path, item) in document["paths"].as_object().unwrap() {
        let answer = send(server.address, "OPTIONS", path, &PREFLIGHT, b"");
        assert_eq!(answer.status, 204, "{path}: {answer:?}");
        for name in item["options"]["responses"]["204"]["headers"].as_object().unwrap().keys() {
            assert!(answer.header(&name.to_lowercase()).is_some(), "{path} lacks {name}: {answer:?}");
        }
    }
    let answer = send(server.address, "GET", "/health", &PREFLIGHT[..1], b"");
    let described = &document["paths"]["/health"]["get"]["responses"]["200"]["headers"];
    assert!(described["Access-Control-Allow-Origin"].is_object());
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
}

#[test]
fn a_head_that_is_too_large_is_in_the_document() {
    let server = Running::new(options());
    let large = format!("x: {}", "x".repeat(80 << 10));
    for (path, item) in polar_raw::serve::document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let status = send(server.address, &method.to_uppercase(), path, &[&large], b"").status;
            assert_eq!(status, 431, "{method} {path}");
            assert!(operation["responses"]["431"].is_object(), "{method} {path}");
        }
    }
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
