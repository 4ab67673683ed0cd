//! The table has every operation of the runtime.

use std::collections::BTreeSet;

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let rows: BTreeSet<&str> = verify::rows::table().iter().map(|row| row.operation).collect();
    assert_eq!(polar_raw::ops::NAMES.iter().copied().collect::<BTreeSet<_>>(), rows);
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
