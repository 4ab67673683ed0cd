//! What a colleague would say of a table before somebody believes it.

use super::table::TableRow;

/// Pairs below which an accuracy says little.
const FEW: usize = 100;

/// Warnings about `rows` of a table, each of which names its row: too few pairs, every pair right.
pub fn warnings(rows: &[TableRow]) -> Vec<String> {
    let mut warnings = Vec::new();
    for row in rows {
        let Some(model) = row.accuracies.first().filter(|accuracy| accuracy.pairs > 0) else { continue };
        let (low, high) = model.interval();
        if model.pairs < FEW {
            warnings.push(format!(
                "{}: {} pairs say little, the accuracy may be anything from {low:.2} to {high:.2}: measure on {FEW} or more",
                row.name, model.pairs
            ));
        }
        if model.right == model.pairs && model.pairs >= FEW {
            warnings.push(format!(
                "{}: every one of {} pairs is ranked rightly, which real preferences seldom allow: see whether these pairs \
                 were trained on, and whether something plain, as the length, tells chosen from rejected",
                row.name, model.pairs
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Accuracy;

    fn of(right: usize, pairs: usize) -> Vec<String> {
        let accuracies = vec![Accuracy::of(right, pairs)];
        let row = TableRow { name: "set".into(), accuracies, chance: 0.5, chosen: Vec::new(), rejected: Vec::new() };
        warnings(&[row])
    }

    #[test]
    fn few_pairs_and_all_right_are_said() {
        assert!(of(60, 100).is_empty() && of(0, 0).is_empty() && of(999, 1000).is_empty());
        let few = of(30, 50);
        assert_eq!(
            few,
            ["set: 50 pairs say little, the accuracy may be anything from 0.46 to 0.72: measure on 100 or more"]
        );
        assert_eq!(of(50, 50).len(), 1, "that all of a few are right is no wonder");
        assert!(of(200, 200)[0].starts_with("set: every one of 200 pairs"), "{:?}", of(200, 200));
    }
}
