//! The result as a page: headline, accuracies with their intervals, the models side by side, and the drawings that say
//! where a figure comes from.

use std::path::Path;

use maud::{Markup, html};

use super::outcome::Judged;
use super::result::{Comparison, EvalResult, ModelResult, p_value, percent};
use super::sections::{bounds, figure, histogram, judges};
use super::{Table, TableRow};
use crate::error::Result;
use crate::files;
use crate::page::frame;
use crate::page::plot::Plane;

/// Points in a drawing, at most.
const POINTS: usize = 3000;

/// Writes the page to `path` in one step.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, name: &str, result: &EvalResult) -> Result<()> {
    files::write_atomic(path, page(name, result).into_string().as_bytes())
}

fn page(name: &str, result: &EvalResult) -> Markup {
    let header = html! {
        h1 { (headline(name, result)) }
        @for model in &result.models { (reading(result, model)) }
        p {
            "Reference source: " b { (result.references.source.name()) } ", " (result.references.rule) "."
        }
    };
    let several = result.models.len() > 1;
    let main = html! {
        @if several { (side_by_side(result)) }
        @for model in &result.models {
            (judges::titled(&heading("Evaluation", model, several), &of_first_row(model)))
        }
        @if !several {
            @for model in &result.models {
                @if model.table.rows.len() > 1 {
                    (judges::parts("Parts of the set", &["model".to_string()], &mine(&model.table.rows[1..])))
                }
            }
        }
        (sections(result, several))
        (histogram::section(&scores(result)))
        (margins(result))
        (lengths(result))
        (truncation(result))
        (facts(result))
    };
    frame(&format!("evaluation of {name}"), &header, &main)
}

fn heading(what: &str, model: &ModelResult, several: bool) -> String {
    if several { format!("{what}: {}", model.name) } else { what.into() }
}

fn headline(name: &str, result: &EvalResult) -> Markup {
    match &result.models[..] {
        [model] => html! {
            "On " span { (name) } " the model is right in " (figure(first(model))) " of " (result.data.judgements)
            " judgements."
        },
        models => {
            let best = models.iter().reduce(|a, b| if right(b) > right(a) { b } else { a });
            let real = |c: &&Comparison| best.is_some_and(|m| c.a == m.name || c.b == m.name);
            let compared = result.comparisons.iter().filter(real);
            let beyond = compared.clone().filter(|c| c.rows.first().is_some_and(|row| row.is_real())).count();
            html! {
                @if let Some(best) = best {
                    "On " span { (name) } " " span { (best.name) } " is right most often, in " (figure(first(best)))
                    (match (beyond, compared.count()) {
                        (n, all) if n == all => ": more often than every other model by more than chance allows.",
                        (0, _) => ", but no difference from the others is more than chance allows.",
                        _ => "; not every difference is more than chance allows.",
                    })
                }
            }
        }
    }
}

fn first(model: &ModelResult) -> Option<&super::Accuracy> {
    model.table.rows.first().and_then(|row| row.accuracies.first())
}

fn right(model: &ModelResult) -> usize {
    first(model).map_or(0, |a| a.right)
}

/// The figures behind the headline.
fn reading(result: &EvalResult, model: &ModelResult) -> Markup {
    let Some(row) = model.table.rows.first() else { return html! {} };
    let of = |column: Option<usize>| {
        let column = column?;
        Some((model.table.columns.get(column)?, row.accuracies.get(column).filter(|a| a.pairs > 0)?))
    };
    let name = if result.models.len() > 1 { model.name.as_str() } else { "The model" };
    html! {
        p {
            b { (name) } " has an accuracy of " b { (figure(first(model))) } " " (bounds(first(model)))
            "; a guess has " (format!("{:.3}", row.chance)) ". "
            @if let Some(mean) = model.averages.by_section {
                "The mean of the set’s sections is " b { (format!("{mean:.3}")) } ". "
            }
            @if let Some((name, accuracy)) = of(model.table.best_baseline(row)) {
                "The best baseline, " (name) ", has " (figure(Some(accuracy))) " " (bounds(Some(accuracy))) ". "
            }
            @if let Some((_, accuracy)) = of(model.table.control()) {
                "With references of other prompts it has " (figure(Some(accuracy))) " " (bounds(Some(accuracy)))
                (if accuracy.interval().0 > row.chance {
                    ", above chance: part of its judgement does not need the right reference."
                } else {
                    "."
                })
            }
        }
    }
}

/// The first row of the table, with every judge.
fn of_first_row(model: &ModelResult) -> Table {
    Table { columns: model.table.columns.clone(), rows: model.table.rows.iter().take(1).cloned().collect() }
}

/// Rows with the model's own accuracy alone.
fn mine(rows: &[TableRow]) -> Vec<TableRow> {
    rows.iter()
        .map(|row| TableRow { accuracies: row.accuracies.iter().take(1).copied().collect(), ..row.clone() })
        .collect()
}

fn side_by_side(result: &EvalResult) -> Markup {
    let names: Vec<String> = result.models.iter().map(|model| model.name.clone()).collect();
    let Some(model) = result.models.first() else { return html! {} };
    let row = |(i, row): (usize, &TableRow)| {
        let accuracies = result.models.iter().filter_map(|m| m.table.rows.get(i)?.accuracies.first().copied());
        TableRow { accuracies: accuracies.collect(), ..row.clone() }
    };
    let rows: Vec<TableRow> = model.table.rows.iter().enumerate().map(row).collect();
    html! {
        (judges::parts("Side by side", &names, &rows))
        section {
            h2 { "Differences" }
            p {
                "The same judgements by two models. The interval is a paired bootstrap over rows of the file; where it "
                "leaves out zero and the sign test over rows has p < 0.05, times the number of parts or models that are "
                "compared (Holm), the difference is real and the line is bold. "
                "McNemar’s test takes judgements as independent."
            }
            @for comparison in &result.comparisons { (difference(comparison)) }
        }
    }
}

fn difference(comparison: &Comparison) -> Markup {
    html! {
        h3 { (comparison.b) " against " (comparison.a) }
        div.wide {
            table.plain {
                thead {
                    tr {
                        th scope="col" { "part" }
                        th scope="col" { "pairs" }
                        th scope="col" { "difference" }
                        th scope="col" { "95 % interval" }
                        th scope="col" { "only " (comparison.b) " / " (comparison.a) " right" }
                        th scope="col" { "McNemar’s p" }
                    }
                }
                tbody {
                    @for row in &comparison.rows {
                        tr class=[row.is_real().then_some("real")] {
                            th scope="row" { (row.name) }
                            td { (row.a.pairs) }
                            td { (signed(row.difference)) }
                            td { "[" (signed(row.interval.0)) ", " (signed(row.interval.1)) "]" }
                            td { (row.only_b) " / " (row.only_a) }
                            td { (p_value(row.mcnemar_p)) }
                        }
                    }
                }
            }
        }
    }
}

fn signed(value: f64) -> String {
    format!("{value:+.3}").replace('-', "−")
}

fn sections(result: &EvalResult, several: bool) -> Markup {
    html! {
        @for model in result.models.iter().filter(|model| model.averages.by_section.is_some()) {
            section {
                h2 { (heading("Averages", model, several)) }
                p { "As the set’s paper divides it; the mean of sections counts each alike." }
                dl {
                    dt { "by pairs" } dd { (format!("{:.3}", model.averages.by_pairs)) }
                    @if let Some(mean) = model.averages.by_section { dt { "by section" } dd { (format!("{mean:.3}")) } }
                    @for section in &model.averages.sections {
                        dt { (section.name) } dd { (format!("{:.3} of {}", section.accuracy, section.pairs)) }
                    }
                }
            }
        }
    }
}

/// A row of scores for each model, under its name.
fn scores(result: &EvalResult) -> Table {
    let row = |model: &ModelResult| {
        let row = model.table.rows.first()?;
        Some(TableRow { name: model.name.clone(), ..row.clone() })
    };
    Table { columns: Vec::new(), rows: result.models.iter().filter_map(row).collect() }
}

fn margins(result: &EvalResult) -> Markup {
    html! {
        section {
            h2 { "Margins" }
            p {
                "The share of judgements whose margin, the better score less the worse one, is below a value. At zero it is "
                "the share that is wrong; ties stand on the line."
            }
            div.figures { @for model in &result.models { (margin_curve(model)) } }
        }
    }
}

fn margin_curve(model: &ModelResult) -> Markup {
    let mut margins: Vec<f64> = model.judged.iter().map(Judged::margin).filter(|m| m.is_finite()).collect();
    margins.sort_unstable_by(f64::total_cmp);
    let Some((low, high)) = middle(&margins) else { return html! {} };
    let plane = Plane::new((low.min(0.0), high.max(0.0)), (0.0, 1.0));
    let stride = margins.len().div_ceil(POINTS / 6).max(1);
    let share = |i: usize| (i + 1) as f64 / margins.len() as f64;
    let last = margins.len() - 1;
    let points: Vec<(f64, f64)> = (0..last).step_by(stride).chain([last]).map(|i| (margins[i], share(i))).collect();
    let mean = model.margins.as_ref().map_or(0.0, |m| m.mean);
    let median = model.margins.as_ref().map_or(0.0, |m| m.quantiles[2]);
    let figures = format!("mean {mean:.3}, median {median:.3}").replace('-', "−");
    html! {
        figure {
            figcaption { b { (model.name) } span.figure { (figures) } }
            (plane.draw(&format!("distribution of margins of {}: {figures}", model.name), "margin", &html! {
                path.zero d=(plane.path(&[(0.0, 0.0), (0.0, 1.0)])) {}
                path.mean d=(plane.path(&points)) {}
            }))
        }
    }
}

fn lengths(result: &EvalResult) -> Markup {
    html! {
        section {
            h2 { "Length" }
            p {
                "Each point is a candidate: its length in tokens and its score, less the means of the candidates beside it. "
                "A judge that does not mind length has a cloud without a slope, unless the better answers are the longer ones."
            }
            div.figures { @for model in &result.models { (cloud(model)) } }
            @for model in &result.models {
                @if let Some(wins) = model.length.longer_wins {
                    p.note {
                        b { (model.name) } ": of " (model.length.pairs) " pairs of different length the longer one scores higher in "
                        (format!("{wins:.3}"))
                        @if let Some(share) = model.length.longer_is_better {
                            "; where quality differs too, it is the better one in " (format!("{share:.3}"))
                        }
                        "."
                    }
                }
            }
        }
    }
}

fn cloud(model: &ModelResult) -> Markup {
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let points: Vec<(f64, f64)> = model.around_mean.iter().filter(finite).copied().collect();
    let sorted = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = points.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        middle(&values)
    };
    let (Some(x), Some(y)) = (sorted(|p| p.0), sorted(|p| p.1)) else { return html! {} };
    let plane = Plane::new(x, y);
    let stride = points.len().div_ceil(POINTS).max(1);
    // Short strokes with round ends are dots.
    let inside = points.iter().step_by(stride).filter(|p| (x.0..=x.1).contains(&p.0) && (y.0..=y.1).contains(&p.1));
    let dots: String = inside.map(|&point| plane.path(&[point])).collect();
    let figures = model.length.spearman.map_or(String::new(), |r| format!("Spearman {}", signed(r)));
    html! {
        figure {
            figcaption { b { (model.name) } span.figure { (figures) } }
            (plane.draw(&format!("score against length of {}: {figures}", model.name), "tokens", &html! {
                path.zero d=(plane.path(&[(0.0, y.0), (0.0, y.1)])) {}
                path.zero d=(plane.path(&[(x.0, 0.0), (x.1, 0.0)])) {}
                path.points d=(dots) {}
            }))
        }
    }
}

/// The range of sorted values but for the wildest hundredth, with some air; `None` of nothing.
fn middle(sorted: &[f64]) -> Option<(f64, f64)> {
    let wild = sorted.len() / 200;
    let (low, high) = (sorted.get(wild)?, sorted.get(sorted.len().checked_sub(1 + wild)?)?);
    let air = 0.04 * (high - low);
    Some((low - air, high + air))
}

fn truncation(result: &EvalResult) -> Markup {
    html! {
        section {
            h2 { "Truncation" }
            div.wide {
                table.plain {
                    thead {
                        tr {
                            th scope="col" { "sequences cut" }
                            @for part in ["of", "any part", "prompt", "reference", "candidate", "candidate the same as reference"] { th scope="col" { (part) } }
                        }
                    }
                    tbody {
                        @for model in &result.models {
                            @let t = &model.truncation;
                            tr {
                                th scope="row" { (model.name) }
                                td { (t.sequences) }
                                @for part in [t.any, t.prompt, t.reference, t.candidate, t.same_as_reference] { td { (percent(part, t.sequences)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn facts(result: &EvalResult) -> Markup {
    let (data, references) = (&result.data, &result.references);
    html! {
        section {
            h2 { "What was measured" }
            dl {
                dt { "data" } dd { (data.file) ", " (data.rows) " rows of " (data.format.name()) }
                dt { "its BLAKE3" } dd { (data.blake3) }
                @for note in &data.notes { dt { "of the rows" } dd { (note) } }
                dt { "judgements" } dd { (data.judgements) " on " (data.groups) " prompts with candidates" }
                dt { "references" } dd {
                    (references.source.name()) @if references.default { ", the default" }
                    @if let Some(file) = &references.file { ", " (file) }
                }
                dt { "left out" } dd {
                    (references.left_out_candidates) " candidates with the reference’s text, "
                    (references.left_out_groups) " groups with nothing to judge"
                }
                dt { "seed" } dd { (result.seed) }
                dt { "device" } dd { (result.device) }
                @for model in &result.models {
                    dt { (model.name) } dd { (model.path) }
                    dt { "its BLAKE3" } dd { (model.blake3) }
                    dt { "its lengths" } dd {
                        (model.template.max_length) " tokens, " (model.template.max_response_length) " an answer"
                    }
                }
                dt { "program" } dd { (result.program) }
            }
            p.note {
                "Where rows give several judgements, intervals are those of as many independent ones as vary alike: "
                "between the number of rows and that of judgements. The comparison of models resamples rows."
            }
        }
    }
}
