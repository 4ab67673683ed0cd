//! Pages of one file: the frame, the style, and drawings in SVG. Nothing outside the file is needed, and the
//! page follows the reader's choice of light or dark.

pub mod plot;

use maud::{DOCTYPE, Markup, PreEscaped, html};

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
