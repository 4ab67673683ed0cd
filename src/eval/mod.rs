//! Evaluation: how often the chosen candidate scores strictly higher, beside chance, baselines and a control.

pub mod companion;
mod measure;
mod table;

pub use companion::Companion;
pub use measure::{Evaluation, Scorer, evaluate};
pub use table::{Accuracy, Example, Row, Table};
