//! What the report of a run and the page of `eval` both show of an evaluation.

pub mod histogram;
pub mod judges;

use maud::{Markup, html};

use crate::eval::Accuracy;

/// `0.871`.
pub fn figure(accuracy: Option<&Accuracy>) -> String {
    format!("{:.3}", accuracy.copied().unwrap_or_default().value())
}

/// `[0.856, 0.885]`, not to be broken into lines.
pub fn bounds(accuracy: Option<&Accuracy>) -> Markup {
    let (low, high) = accuracy.copied().unwrap_or_default().interval();
    html! { span.bounds { (format!("[{low:.3}, {high:.3}]")) } }
}
