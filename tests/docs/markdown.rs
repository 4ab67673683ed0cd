//! As much of Markdown as the documents use.

use std::collections::BTreeSet;

/// `[text](target)` on a line of a document, counted from 1.
#[derive(Debug, PartialEq)]
pub struct Link {
    pub line: usize,
    pub text: String,
    pub target: String,
}

/// A line outside of fenced code, or the content of a fence.
#[derive(Debug, PartialEq)]
pub enum Block<'a> {
    Line(&'a str),
    Code { language: &'a str, lines: Vec<&'a str> },
}

/// The parts of a document with the number of the line at which each begins.
pub fn blocks(text: &str) -> Vec<(usize, Block<'_>)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        match line.trim_start().strip_prefix("```") {
            Some(language) => {
                let closes = |(_, line): &(usize, &str)| line.trim_start().starts_with("```");
                let content = lines.by_ref().take_while(|line| !closes(line)).map(|(_, line)| line).collect();
                blocks.push((number + 1, Block::Code { language: language.trim(), lines: content }));
            }
            None => blocks.push((number + 1, Block::Line(line))),
        }
    }
    blocks
}

/// `line` with its code spans blanked, so that what only looks like a link is none; and the spans.
fn without_code(line: &str) -> (String, Vec<&str>) {
    let (mut text, mut spans) = (String::new(), Vec::new());
    for (i, piece) in line.split('`').enumerate() {
        if i % 2 == 1 {
            spans.push(piece);
            text.push_str(&format!("`{}`", "\u{1}".repeat(piece.chars().count())));
        } else {
            text.push_str(piece);
        }
    }
    (text, spans)
}

/// The code spans outside of fences, with their lines.
pub fn spans(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, block) in blocks(text) {
        if let Block::Line(line) = block {
            found.extend(line.split('`').skip(1).step_by(2).map(|span| (number, span)));
        }
    }
    found
}

/// The links outside of code. A link may go over the end of a line.
pub fn links(text: &str) -> Vec<Link> {
    // What is code is blanked; line ends stay, so that a place says its line.
    let mut prose = String::new();
    let mut spans = Vec::new();
    let mut at = 0;
    for (number, block) in blocks(text) {
        while at < number {
            prose.push('\n');
            at += 1;
        }
        if let Block::Line(line) = block {
            let (blanked, of_line) = without_code(line);
            spans.extend(of_line);
            prose.push_str(&blanked);
        }
    }
    let mut links = Vec::new();
    let mut rest = 0;
    while let Some(found) = prose[rest..].find("](") {
        let middle = rest + found;
        rest = middle + 2;
        let (Some(start), Some(end)) = (prose[..middle].rfind('['), prose[rest..].find(')')) else { continue };
        let line = prose[..start].matches('\n').count();
        // A code span in the text of a link gets its content back.
        let before = prose[..start].matches('`').count() / 2;
        let mut own = spans[before..].iter();
        let raw = &prose[start + 1..middle];
        let text: String = raw
            .split('`')
            .enumerate()
            .map(|(i, piece)| if i % 2 == 1 { own.next().map_or("", |span| span) } else { piece })
            .collect();
        links.push(Link { line, text: text.replace('\n', " "), target: prose[rest..rest + end].to_string() });
    }
    links
}

/// The anchors of a document's headings, as forges make them: lower case, without punctuation, spaces as hyphens.
pub fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |(_, block): (usize, Block<'_>)| match block {
        Block::Line(line) if line.starts_with('#') => Some(anchor(line.trim_start_matches('#').trim())),
        _ => None,
    };
    blocks(text).into_iter().filter_map(heading).collect()
}

fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_are_found_where_they_are() {
    let text =
        "# A Title: `x`, and more\n\n[a](b.md) `[no](link)` [two\nlines](c.md#d)\n```\n[no](code)\n```\n[`f`](g.rs)\n";
    let found = links(text);
    let targets: Vec<_> = found.iter().map(|link| (link.line, &link.text[..], &link.target[..])).collect();
    assert_eq!(targets, [(3, "a", "b.md"), (3, "two lines", "c.md#d"), (8, "f", "g.rs")]);
    assert_eq!(anchors(text), BTreeSet::from(["a-title-x-and-more".to_string()]));
    assert_eq!(spans(text), [(1, "x"), (3, "[no](link)"), (8, "f")]);
}
