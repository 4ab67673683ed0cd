//! The evaluation table: accuracies with confidence intervals.

use std::fmt;
use std::ops::Range;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// How many of how many pairs were ranked rightly. A tie is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// Pairs whose chosen candidate scored strictly higher.
    pub right: usize,
    /// All pairs.
    pub pairs: usize,
    /// How many independent pairs would say as much: fewer, where pairs of one row agree with each other.
    pub effective: f64,
}

impl Accuracy {
    /// Of pairs that have nothing to do with each other.
    pub fn of(right: usize, pairs: usize) -> Self {
        Self { right, pairs, effective: pairs as f64 }
    }

    /// Of rows `(right, pairs)`, each with one pair or several, that agree with each other as far as they do.
    ///
    /// The effective number of pairs is the one at which independent pairs have the variance of the ratio of two sums over
    /// rows (Kish, Survey Sampling, 1965), and is no less than the number of rows, nor more than that of pairs.
    pub fn of_rows(rows: &[(usize, usize)]) -> Self {
        let (right, pairs) = rows.iter().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
        let all = Self::of(right, pairs);
        let (n, p, count) = (pairs as f64, all.value(), rows.len() as f64);
        if rows.len() < 2 || rows.len() == pairs {
            return Self { effective: count, ..all };
        }
        let squares: f64 = rows.iter().map(|&(right, pairs)| (right as f64 - p * pairs as f64).powi(2)).sum();
        let variance = count / (count - 1.0) * squares / (n * n);
        // All right or all wrong: the rows say nothing of how pairs agree, and are taken for one pair each.
        let effective = if right == 0 || right == pairs { count } else { p * (1.0 - p) / variance };
        Self { effective: effective.clamp(count, n), ..all }
    }

    /// The share ranked rightly; 0 of no pairs.
    pub fn value(&self) -> f64 {
        self.right as f64 / self.pairs.max(1) as f64
    }

    /// Wilson's 95 % confidence interval (Wilson, JASA 22, 1927), of the effective number of pairs.
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.959_964;
        if self.pairs == 0 {
            return (0.0, 1.0);
        }
        let (n, p) = (self.effective, self.value());
        let center = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        ((center - half).max(0.0), (center + half).min(1.0))
    }
}

impl Serialize for Accuracy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Accuracy", 3)?;
        fields.serialize_field("right", &self.right)?;
        fields.serialize_field("pairs", &self.pairs)?;
        fields.serialize_field("interval", &self.interval())?;
        fields.end()
    }
}

/// The column of the model itself.
pub(super) const MODEL: &str = "model";
/// The column of the control.
pub(super) const CONTROL: &str = "shuffled reference";

/// One set of pairs, measured by everything that compares candidates.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TableRow {
    /// What the pairs are.
    pub name: String,
    /// One accuracy for each column of the table.
    pub accuracies: Vec<Accuracy>,
    /// What guessing reaches.
    pub chance: f64,
    /// The model's scores of the chosen candidates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<f32>,
    /// The model's scores of the rejected candidates, pair by pair.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<f32>,
}

/// A pair to read.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Example {
    /// The row that it is from.
    pub row: String,
    /// Prompt of all three.
    pub prompt: String,
    /// What the candidates are compared with.
    pub reference: String,
    /// The candidate that should score higher.
    pub chosen: String,
    /// The other.
    pub rejected: String,
    /// The model's scores, chosen first.
    pub scores: [f32; 2],
}

/// Rows of pairs against columns of judges: the model first, then baselines, then the control.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Table {
    /// Names of the judges.
    pub columns: Vec<String>,
    /// The sets of pairs.
    pub rows: Vec<TableRow>,
}

impl Table {
    /// The columns of the baselines.
    pub fn baselines(&self) -> Range<usize> {
        1..self.columns.len().saturating_sub(1).max(1)
    }

    /// The column of the baseline that does best on `row`; the first of equals.
    pub fn best_baseline(&self, row: &TableRow) -> Option<usize> {
        let right = |column: usize| row.accuracies.get(column).map(|a| a.right);
        self.baselines().filter(|&c| right(c).is_some()).reduce(|a, b| if right(b) > right(a) { b } else { a })
    }

    /// The column of the control: the model with references of other prompts.
    pub fn control(&self) -> Option<usize> {
        (self.columns.len() > 1).then(|| self.columns.len() - 1)
    }

    /// The table for a README; the best baseline of each row is in italics.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("| set | pairs | {} | chance |\n", self.columns.join(" | "));
        text.push_str("| --- | ---: |");
        text.push_str(&" ---: |".repeat(self.columns.len() + 1));
        for row in &self.rows {
            let best = self.best_baseline(row);
            let cells = row.accuracies.iter().enumerate().map(|(column, accuracy)| match Some(column) == best {
                true => format!("*{accuracy}*"),
                false => accuracy.to_string(),
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            text.push_str(&format!("\n| {} | {} | {cells} | {:.3} |", row.name, row.pairs(), row.chance));
        }
        text + "\n"
    }
}

impl TableRow {
    /// Pairs in the set.
    pub fn pairs(&self) -> usize {
        self.accuracies.first().map_or(0, |a| a.pairs)
    }
}

/// `0.871 ±.015`: the value, and how far the interval's farther end is.
impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pairs == 0 {
            return f.write_str("-");
        }
        let (low, high) = self.interval();
        let far = format!("{:.3}", (high - self.value()).max(self.value() - low));
        write!(f, "{:.3} ±{}", self.value(), far.trim_start_matches('0'))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As wide as `0.871 ±.015` and the mark of the best baseline.
        const CELL: usize = 12;
        let names = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max("accuracy".len());
        let width = |column: usize| self.columns.get(column).map_or(0, |name| name.chars().count() + 1).max(CELL);
        write!(f, "{:names$}  {:>6}", "accuracy", "pairs")?;
        for (column, name) in self.columns.iter().enumerate() {
            write!(f, "  {:>1$} ", name, width(column) - 1)?;
        }
        writeln!(f, "  chance")?;
        for row in &self.rows {
            write!(f, "{:names$}  {:>6}", row.name, row.pairs())?;
            let best = self.best_baseline(row);
            for (column, accuracy) in row.accuracies.iter().enumerate() {
                let mark = if Some(column) == best { '*' } else { ' ' };
                write!(f, "  {:>1$}{mark}", accuracy.to_string(), width(column) - 1)?;
            }
            writeln!(f, "   {:.3}", row.chance)?;
        }
        writeln!(
            f,
            "± to the farther end of the 95 % interval (Wilson); a tie is wrong; * the best baseline of the row"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    #[test]
    fn wilson_interval_of_a_known_case() {
        // 8 of 10: Wilson's interval is [0.4902, 0.9433].
        let (low, high) = Accuracy::of(8, 10).interval();
        assert_abs_diff_eq!([low, high][..], [0.4902, 0.9433][..], epsilon = 1e-4);
        assert_eq!(Accuracy::of(8, 10).to_string(), "0.800 ±.310");
        let (low, high) = Accuracy::of(0, 10).interval();
        assert!(low == 0.0 && high > 0.2);
    }

    #[test]
    fn pairs_of_one_row_count_as_far_as_they_disagree() {
        let effective = |rows: &[(usize, usize)]| Accuracy::of_rows(rows).effective;
        assert_eq!(Accuracy::of_rows(&[(1, 1), (0, 1), (1, 1)]), Accuracy::of(2, 3));
        assert_eq!(effective(&[(18, 18); 10]), 10.0, "all right");
        assert_eq!(effective(&[(9, 9), (0, 9), (9, 9), (0, 9)]), 4.0, "a row is right or wrong as a whole");
        assert_eq!(effective(&[(2, 4), (2, 4), (2, 4)]), 12.0, "rows do not differ");
        // Half of the pairs; rows 1, 2, 3 of 4 each: 3/2 (1 + 0 + 1) / 144 is the variance.
        assert_abs_diff_eq!(effective(&[(1, 4), (2, 4), (3, 4)]), 12.0, epsilon = 1e-9);
        assert_abs_diff_eq!(effective(&[(0, 4), (2, 4), (4, 4)]), 0.25 / (1.5 * 8.0 / 144.0), epsilon = 1e-9);
    }

    fn table() -> Table {
        let row = |name: &str, right: [usize; 4]| TableRow {
            name: name.into(),
            accuracies: right.map(|right| Accuracy::of(right, 2000)).into(),
            chance: 0.5,
            chosen: Vec::new(),
            rejected: Vec::new(),
        };
        Table {
            columns: ["model", "hand", "ngram", "shuffled reference"].map(String::from).into(),
            rows: vec![row("held-out prompts", [1742, 1024, 1540, 1007]), row("preferences", [1051, 1360, 1360, 990])],
        }
    }

    #[test]
    fn the_text_is_aligned_and_marks_the_best_baseline() {
        let text = table().to_string();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[0].chars().count();
        assert!(end <= 100 && lines[1..3].iter().all(|l| l.chars().count() == end), "{text}");
        assert!(lines[1].contains("0.871 ±.015 ") && lines[1].contains("0.770 ±.019*"), "{text}");
        assert!(lines[2].contains("0.680 ±.021*  0.680 ±.021 "), "the first of equals\n{text}");
        assert_eq!(text.matches('*').count(), 3, "{text}");
    }

    #[test]
    fn markdown_has_a_cell_for_every_judge() {
        let text = table().to_markdown();
        assert!(text.lines().all(|line| line.matches('|').count() == 8), "{text}");
        assert!(text.contains("| 0.871 ±.015 | 0.512 ±.022 | *0.770 ±.019* | 0.503 ±.022 | 0.500 |"), "{text}");
    }

    #[test]
    fn without_baselines_none_is_best() {
        let mut table = table();
        table.columns.truncate(1);
        assert_eq!(table.best_baseline(&table.rows[0]), None);
        assert_eq!(table.control(), None);
        assert_eq!(Table::default().baselines(), 1..1);
    }
}
