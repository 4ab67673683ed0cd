use super::table::{CONTROL, MODEL};
use super::{Accuracy, Row, Scorer};
use crate::baselines::Baselines;
use crate::error::Result;
use crate::polar::{TemplateConfig, Triple, encode_triple};
use crate::rng;
use crate::tokenizer::Tokenizer;

/// What [`evaluate`] needs besides the pairs.
pub struct Evaluation<'a> {
    /// The model.
    pub scorer: &'a mut Scorer,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How strings are built and cut.
    pub template: TemplateConfig,
    /// What stands beside the model.
    pub baselines: Option<&'a Baselines>,
    /// Decides which reference takes which one's place in the control.
    pub seed: u64,
}

/// Judges a set of triples: the names of the judges, and how each did. The last one is the model with references of
/// other prompts, on no pair where there is no other.
pub fn evaluate(name: String, triples: &[Triple], e: &mut Evaluation) -> Result<(Vec<String>, Row)> {
    let mut row = Row::of_scores(name, &score_triples(triples, e)?);
    let mut columns = vec![MODEL.to_string()];
    for baseline in e.baselines.into_iter().flat_map(Baselines::iter) {
        columns.push(baseline.name().to_string());
        let score = |t: &Triple, candidate: &str| baseline.score(&t.prompt, &t.reference, candidate);
        row.accuracies.push(Accuracy::of(triples.iter().map(|t| score(t, &t.chosen) - score(t, &t.rejected))));
    }
    columns.push(CONTROL.into());
    let control = match triples {
        [] | [_] => Vec::new(),
        _ => score_triples(&shuffle_references(triples, e.seed), e)?,
    };
    row.accuracies.push(Accuracy::of_scores(&control));
    Ok((columns, row))
}

fn score_triples(triples: &[Triple], e: &mut Evaluation) -> Result<Vec<f32>> {
    let groups = triples
        .iter()
        .map(|triple| encode_triple(e.tokenizer, triple, &e.template).map(|pair| vec![pair.chosen, pair.rejected]))
        .collect::<Result<Vec<_>>>()?;
    e.scorer.score(&groups)
}

/// Every triple, of two or more, with the reference of another one, by turning the list by a random distance.
fn shuffle_references(triples: &[Triple], seed: u64) -> Vec<Triple> {
    use rand::RngExt;
    let n = triples.len();
    let distance = rng::stream(seed, "shuffled references", 0).random_range(1..n);
    let other = |i: usize| triples[(i + distance) % n].reference.clone();
    triples.iter().enumerate().map(|(i, t)| Triple { reference: other(i), ..t.clone() }).collect()
}
