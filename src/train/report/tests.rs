use super::*;
use crate::config::ObjectiveKind;
use crate::eval::{Accuracy, TableRow};
use crate::objective::ScoreStats;
use crate::page::plot;
use crate::rng::stream;
use crate::train::metrics::EvalMetrics;
use crate::train::rate::Share;
use rand::RngExt;

/// A run with everything that a page can show.
struct Sample {
    config: Config,
    steps: Vec<StepMetrics>,
    table: Table,
    examples: Vec<Example>,
    watched: Vec<ScoredExamples>,
    ended: Option<&'static str>,
}

impl Sample {
    fn new() -> Self {
        let rows = [
            row("held-out prompts", [1742, 1024, 1221, 1540, 1007]),
            row("held-out policies", [1702, 1013, 1240, 1551, 962]),
            row("preferences", [1051, 1024, 1130, 1360, 990]),
        ];
        let columns = ["model", "hand", "bag", "ngram", "shuffled reference"].map(String::from).into();
        let table = Table { columns, rows: rows.into() };
        let examples = vec![example("What is 2 + 2?")];
        Self { config: Config::default(), steps: steps(1000), table, examples, watched: vec![], ended: None }
    }

    fn page(&self) -> String {
        let facts = [("parameters".into(), "1.311M".into()), ("device".into(), "cpu <2 cores>".into())];
        let notes = ["3 pairs were left out & counted.".to_string()];
        let report = Report {
            title: "quickstart",
            config: &self.config,
            facts: &facts,
            steps: &self.steps,
            ended: self.ended,
            table: &self.table,
            chosen_by: self.ended,
            examples: &self.examples,
            watched: &self.watched,
            notes: &notes,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        write(&path, &report).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    fn headline(&self) -> String {
        let page = self.page();
        let (_, rest) = page.split_once("<h1>").unwrap();
        rest.split_once("</h1>").unwrap().0.replace("<span>", "").replace("</span>", "")
    }
}

fn row(name: &str, right: [usize; 5]) -> TableRow {
    let mut rng = stream(1, name, 0);
    let mut scores =
        |mean: f32| (0..2000).map(|_| mean + (0..6).map(|_| rng.random_range(-1.0..1.0)).sum::<f32>()).collect();
    TableRow {
        name: name.into(),
        accuracies: right.map(|right| Accuracy::of(right, 2000)).into(),
        chance: 0.5,
        chosen: scores(0.9),
        rejected: scores(-0.7),
    }
}

fn steps(n: u64) -> Vec<StepMetrics> {
    let mut rng = stream(1, "steps", 0);
    let mut step = |step: u64| {
        let done = step as f64 / n as f64;
        let noise: f64 = rng.random_range(-1.0..1.0);
        let learnt = 1.0 / (1.0 + (-12.0 * (done - 0.35)).exp());
        let accuracy = ((0.5 + 0.36 * learnt + 0.3 * noise) * 8.0).round().clamp(0.0, 8.0) / 8.0;
        StepMetrics {
            step,
            loss: 0.693 - 0.36 * learnt + 0.15 * noise,
            scores: Some(ScoreStats { accuracy, margin: 2.0 * learnt - 0.5 * noise, ..Default::default() }),
            grad_norm: 0.4 + 1.2 * learnt * rng.random_range(0.5..1.5) + if step == 3 { 40.0 } else { 0.0 },
            lr: 2e-3 * (20.0 * done).min(0.55 + 0.45 * (std::f64::consts::PI * done).cos()),
            tokens: 2000,
            seconds: 0.16,
            tokens_per_s: 12_500.0 + 900.0 * noise,
            share: Share::RateShare(0.5),
            ..Default::default()
        }
    };
    (1..=n).map(&mut step).collect()
}

fn example(prompt: &str) -> Example {
    Example {
        row: "held-out prompts".into(),
        prompt: prompt.into(),
        reference: "then hm\n* ok next 2 is two".into(),
        chosen: "then ah\n* um next 3 is three".into(),
        rejected: "well eh\n  = is next 4".into(),
        scores: [1.25, -0.5],
    }
}

#[test]
fn the_headline_says_who_is_ahead() {
    let mut sample = Sample::new();
    assert_eq!(
        sample.headline(),
        "The model beats every baseline on held-out prompts and held-out policies and loses to the best baseline on \
         preferences."
    );
    sample.table.rows[0].accuracies[0].right = 1560;
    sample.table.rows.truncate(1);
    assert_eq!(sample.headline(), "The model is level with the best baseline on held-out prompts.");
    assert!(sample.page().contains("ahead, but the intervals overlap."));
    sample.table.columns.truncate(1);
    assert_eq!(sample.headline(), "The model is above chance on held-out prompts.");
}

#[test]
fn the_readings_give_the_figures_and_judge_the_control() {
    let mut sample = Sample::new();
    let page = sample.page();
    assert!(page.contains("<b>0.871</b> <span class=\"bounds\">[0.856, 0.885]</span>"));
    assert!(page.contains("The best baseline, ngram, has 0.770"));
    // The intervals of the third set are 0.504 to 0.547, and 0.473 to 0.517.
    assert_eq!(page.matches("which is chance: its judgement needs").count(), 2);
    assert!(
        page.contains("which is chance, but the intervals overlap: whether its judgement needs the right reference is")
    );
    sample.table.rows[1].accuracies[0].right = 1003;
    assert_eq!(sample.page().matches("which is chance: its judgement needs").count(), 1, "a model at chance has none");
    sample.table.rows[0].accuracies[4].right = 1200;
    assert!(sample.page().contains("above chance: part of its judgement does not need the right reference."));
}

#[test]
fn texts_cannot_break_the_page() {
    let mut sample = Sample::new();
    let hostile = "</script></style></div><b>\"'&<img src=x onerror=alert(1)>\n\n  two  spaces";
    let plain = sample.page();
    sample.examples = vec![Example {
        row: hostile.into(),
        reference: hostile.into(),
        chosen: hostile.into(),
        rejected: hostile.into(),
        ..example(hostile)
    }];
    sample.table.columns[0] = hostile.into();
    sample.table.rows[0].name = hostile.into();
    sample.config.tokenizer.path = Some(hostile.into());
    let page = sample.page();
    for tag in ["<b>", "</b>", "<div", "</div>", "</style>", "<svg", "<section"] {
        assert_eq!(page.matches(tag).count(), plain.matches(tag).count(), "{tag}");
    }
    assert!(!page.contains("<img") && !page.contains("<script") && !page.contains("onerror=alert(1)>"));
    assert!(page.contains("&lt;/script&gt;") && page.contains("\n\n  two  spaces"));
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let page = Sample::new().page();
    for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    assert!(page.contains("cpu &lt;2 cores&gt;") && page.contains("left out &amp; counted"));
    assert!(page.contains("weight_decay = 0.0"), "the configuration is shown");
}

#[test]
fn whatever_is_missing_or_no_number_leaves_a_page() {
    let nan =
        StepMetrics { step: 2, loss: f64::NAN, grad_norm: f64::INFINITY, tokens_per_s: -0.0, ..Default::default() };
    for steps in [vec![], steps(1), vec![nan.clone()], [steps(1), vec![nan]].concat(), steps(2)] {
        let (table, config) = (Table::default(), Config::default());
        let page = Sample { steps, examples: vec![], watched: vec![], ended: None, table, config }.page();
        assert!(!page.contains("<h2>Evaluation"));
        drawings_are_finite(&page);
    }
    let mut sample = Sample::new();
    sample.table.rows[0].chosen = vec![f32::NAN, 1.0, f32::INFINITY];
    sample.table.rows[0].rejected = vec![1.0];
    sample.table.rows[1].chosen = vec![2.0; 5];
    sample.table.rows[1].rejected = vec![2.0; 5];
    sample.table.rows[1].accuracies = vec![Accuracy::default(); 5];
    sample.table.rows[2] =
        TableRow { name: "empty".into(), accuracies: vec![], chance: 0.5, chosen: vec![], rejected: vec![] };
    sample.examples[0].scores = [f32::NAN, 0.0];
    let page = sample.page();
    assert!(page.contains("not scored: too long"));
    drawings_are_finite(&page);
}

/// No `NaN` or `inf` in any attribute of the drawings.
fn drawings_are_finite(page: &str) {
    for drawing in page.split("<svg").skip(1).filter_map(|rest| rest.split_once("</svg>")) {
        assert!(!drawing.0.contains("NaN") && !drawing.0.contains("inf"), "{}", drawing.0);
    }
}

#[test]
fn a_language_model_has_its_own_headline_and_curves() {
    let mut sample = Sample::new();
    sample.config.objective.kind = ObjectiveKind::Lm;
    sample.table = Table::default();
    for m in &mut sample.steps {
        (m.scores, m.lm_loss) = (None, Some(m.loss));
    }
    assert!(sample.headline().starts_with("The next-token loss went from 0.6"), "{}", sample.headline());
    let page = sample.page();
    assert!(page.contains("<b>loss</b>") && !page.contains("<b>next-token loss</b>"), "one curve, not the same twice");
    assert!(!page.contains("<b>accuracy</b>") && !page.contains("ln 2"));
    sample.config.objective.kind = ObjectiveKind::Polar;
    sample.steps.iter_mut().for_each(|m| m.scores = Some(ScoreStats::default()));
    assert!(sample.page().contains("<b>next-token loss</b>"), "beside the ranking loss");
}

#[test]
fn evaluations_while_training_are_shown_with_the_scores_of_the_same_pairs() {
    let mut sample = Sample::new();
    let losses = [0.7, 0.4, 0.45, 0.5];
    for (i, loss) in losses.into_iter().enumerate() {
        let best = i < 2;
        let found = EvalMetrics { loss, accuracy: Some(0.8), pairs: 50, seconds: 1.5, best, ..Default::default() };
        sample.steps[250 * i + 249].evaluation = Some(found);
        let scores = [i as f32, -1.0];
        sample.watched.push(ScoredExamples {
            step: 250 * (i as u64 + 1),
            examples: vec![Example { scores, ..example("<b>Again?") }],
        });
    }
    // It went on after step 500.
    sample.steps[499].ended = Some("no lower held-out loss".into());
    assert!(!sample.page().contains("The run ended early"));
    sample.ended = Some("no lower held-out loss");
    let page = sample.page();
    for part in [
        "4 evaluations took 6.0 s, the last one on 50 held-out pairs or documents. The lowest loss was <b>0.4000</b> at \
         step 500, the last one <b>0.5000</b> at step 1000. The run ended early: no lower held-out loss.",
        "Chosen and rejected by step: 250: +0.00 and −1.00; 500: +1.00 and −1.00; 750: +2.00 and −1.00; 1000: +3.00 and \
         −1.00.",
        "&lt;b&gt;Again?",
        "<b>held-out loss</b>",
        "<b>held-out accuracy</b>",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    drawings_are_finite(&page);
    // Evaluations on other data, or of other pairs, are no part of it.
    sample.watched[2].examples.insert(0, example("another"));
    let page = sample.page();
    assert!(page.contains("250: +0.00 and −1.00; 500: +1.00 and −1.00; 750: +2.00 and −1.00; 1000"), "{page}");
    if let Some(found) = &mut sample.steps[749].evaluation {
        (found.first, found.best) = (true, true);
    }
    let page = sample.page();
    assert!(page.contains("2 evaluations took 3.0 s") && page.contains("by step: 750: +2.00 and"), "{page}");
    sample.steps[749].evaluation = None;
    // Of many evaluations some are shown, the last one among them.
    let line = sample.watched[0].clone();
    sample.watched = (1..=100).map(|step| ScoredExamples { step, ..line.clone() }).collect();
    let page = sample.page();
    let (_, by_step) = page.split_once("by step: ").unwrap();
    let by_step = by_step.split_once(".</p>").unwrap().0;
    assert!(by_step.split("; ").count() <= 8 && by_step.contains("; 100: "), "{by_step}");
}

#[test]
fn long_runs_are_drawn_in_few_points() {
    let mut sample = Sample::new();
    sample.steps = steps(30_000);
    let long = sample.page().len();
    assert!(long < 300_000, "{long} bytes");
}

#[test]
fn ticks_are_round_and_within() {
    assert_eq!(plot::ticks(0.0, 1.0, 2), [0.0, 0.5, 1.0]);
    assert_eq!(plot::ticks(1.0, 1000.0, 4), [200.0, 400.0, 600.0, 800.0, 1000.0]);
    assert!(plot::ticks(1e300, 1e300, 4).is_empty() && plot::ticks(0.0, f64::INFINITY, 4).is_empty());
    assert_eq!(
        [plot::label(0.0015, 0.0005), plot::label(12_500.0, 500.0), plot::label(-0.2, 0.1)],
        ["1.5e−3", "12.5k", "−0.2"]
    );
}
