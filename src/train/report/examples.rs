//! Scored pairs to read.

use maud::{Markup, html};

use crate::eval::Example;

/// The section; nothing where there is nothing to read.
pub fn section(examples: &[Example]) -> Markup {
    html! {
        @if !examples.is_empty() {
            section {
                h2 { "Examples" }
                p { "The first pairs of each set, not the best ones." }
                @for example in examples { (article(example)) }
            }
        }
    }
}

fn article(example: &Example) -> Markup {
    let [chosen, rejected] = example.scores;
    let verdict = if chosen > rejected {
        "ranked rightly"
    } else if chosen < rejected {
        "ranked wrongly"
    } else if chosen == rejected {
        "a tie"
    } else {
        "not scored: too long"
    };
    html! {
        article {
            h3 {
                (example.row) ": " (verdict)
                @if (chosen - rejected).is_finite() { span.figure { "margin " (signed(chosen - rejected)) } }
            }
            (text("prompt", None, &example.prompt))
            (text("reference", None, &example.reference))
            div.pair {
                (text("chosen", Some(chosen), &example.chosen))
                (text("rejected", Some(rejected), &example.rejected))
            }
        }
    }
}

/// A text as it is, white space included. It can be scrolled, by keyboard too, where it is long.
pub fn text(role: &str, score: Option<f32>, text: &str) -> Markup {
    html! {
        div class=(role) {
            h4 { (role) @if let Some(score) = score.filter(|s| s.is_finite()) { span.figure { (signed(score)) } } }
            div.text dir="auto" tabindex="0" { (text) }
        }
    }
}

/// A score with its sign, to two places.
pub fn signed(value: f32) -> String {
    format!("{value:+.2}").replace('-', "−")
}
