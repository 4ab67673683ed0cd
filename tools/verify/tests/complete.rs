//! The table and the trait name the same operations.

use std::collections::BTreeSet;

/// Functions of the trait that are not operations on numbers.
const MEMORY: [&str; 10] =
    ["name", "float", "accumulator", "footprint", "free_memory", "allocate", "reserve", "logit_rows", "write", "read"];

fn operations_of_the_trait() -> BTreeSet<&'static str> {
    let source = include_str!("../../../src/backend.rs");
    let (_, body) = source.split_once("pub trait Backend {\n").expect("the trait");
    let (body, _) = body.split_once("\n}\n").expect("the end of the trait");
    let functions = body.lines().filter_map(|line| line.strip_prefix("    fn ")?.split('(').next());
    functions.filter(|name| !MEMORY.contains(name)).collect()
}

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let rows: BTreeSet<&str> = verify::rows::table().iter().map(|row| row.operation).collect();
    assert_eq!(operations_of_the_trait(), rows);
}

#[test]
fn labels_name_one_case() {
    for row in verify::rows::table() {
        let specs = (row.cases)();
        let labels: BTreeSet<&str> = specs.iter().map(|spec| spec.label.as_str()).collect();
        assert_eq!(labels.len(), specs.len(), "{}", row.operation);
        assert!(specs.iter().any(|spec| spec.quick), "{} has no quick case", row.operation);
        assert!(labels.iter().all(|label| !label.contains('\'')), "{}", row.operation);
    }
}
