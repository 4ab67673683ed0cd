//! Pages of one file: the frame, the style, drawings in SVG, and the sections that several pages have. Nothing outside
//! the file is needed, and the page follows the reader's choice of light or dark.

pub mod histogram;
pub mod judges;
pub mod plot;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::eval::Accuracy;

const STYLE: &str = include_str!("style.css");
/// The page may load nothing, whatever the texts that it shows contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A whole page: `title` for the browser, what stands at the top, and the sections.
pub fn frame(title: &str, header: &Markup, main: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – polar-raw" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.run { "polar-raw · " (title) }
                    (header)
                }
                main { (main) }
            }
        }
    }
}

/// `0.871`.
pub fn figure(accuracy: Option<&Accuracy>) -> String {
    format!("{:.3}", accuracy.copied().unwrap_or_default().value())
}

/// `[0.856, 0.885]`, not to be broken into lines.
pub fn bounds(accuracy: Option<&Accuracy>) -> Markup {
    let (low, high) = accuracy.copied().unwrap_or_default().interval();
    html! { span.bounds { (format!("[{low:.3}, {high:.3}]")) } }
}
