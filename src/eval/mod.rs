//! Evaluation: how often the chosen candidate scores strictly higher, beside chance, baselines and a control.

pub mod companion;
pub mod compare;
pub mod judge;
pub mod judgement;
pub mod normalise;
pub mod outcome;
mod page;
pub mod reference;
pub mod result;
mod scorer;
pub mod sections;
pub mod sets;
mod table;
mod warnings;

pub use companion::Companion;
pub use normalise::Normalise;
pub use page::write as write_page;
pub use scorer::Scorer;
pub use table::{Accuracy, Example, Table, TableRow};
pub use warnings::warnings;

/// What a file of evaluation data is called in tables: its name without `.jsonl`, `.json` and `.zst`.
pub fn set_name(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    name.strip_suffix(".jsonl").or_else(|| name.strip_suffix(".json")).unwrap_or(name).to_string()
}
