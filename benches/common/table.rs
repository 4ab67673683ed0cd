//! Tables in Markdown, which a terminal shows in columns as well.

/// Rows under a head.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(ToString::to_string).collect()])
    }

    pub fn push(&mut self, row: Vec<String>) {
        self.0.push(row);
    }

    /// Prints the table, numbers to the right, under a headline; nothing if it has no rows.
    pub fn print(&self, headline: &str) {
        let [head, rows @ ..] = self.0.as_slice() else { return };
        if rows.is_empty() {
            return;
        }
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let is_number = |cell: &String| cell.chars().all(|c| c.is_ascii_digit() || " .%-".contains(c));
        let number = |column: usize| rows.iter().all(|row| is_number(&row[column]));
        let right: Vec<bool> = (0..head.len()).map(number).collect();
        println!("\n## {headline}\n");
        for (i, row) in self.0.iter().enumerate() {
            let cells = row.iter().zip(&widths).zip(&right).map(|((cell, &width), &right)| {
                if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
            if i == 0 {
                let lines = widths.iter().zip(&right).map(|(&width, &right)| {
                    if right { format!("{}:", "-".repeat(width - 1)) } else { "-".repeat(width) }
                });
                println!("| {} |", lines.collect::<Vec<_>>().join(" | "));
            }
        }
    }
}

/// A number with spaces between thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(" ")
}
