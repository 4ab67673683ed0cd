//! Evaluation: how often the chosen candidate scores strictly higher, beside chance, baselines and a control.

pub mod companion;
mod measure;
pub mod normalise;
mod scorer;
mod table;

pub use companion::Companion;
pub use measure::{Evaluation, evaluate};
pub use normalise::Normalise;
pub use scorer::Scorer;
pub use table::{Accuracy, Example, Row, Table};

/// What a file of evaluation data is called in tables: its name without `.jsonl` and `.zst`.
pub fn set_name(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    name.strip_suffix(".jsonl").unwrap_or(name).to_string()
}
