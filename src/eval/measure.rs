use std::rc::Rc;

use super::table::MODEL;
use super::{Accuracy, Row};
use crate::baselines::Baselines;
use crate::error::Result;
use crate::model::{Capacity, Model, Workspace};
use crate::polar::{Pack, TemplateConfig, Triple, Wanted, encode_triple, pack};
use crate::rng;
use crate::tokenizer::Tokenizer;

/// A model that scores sequences of token ids, as many to a pass as fit.
pub struct Scorer {
    model: Rc<Model>,
    workspace: Workspace,
    pack: Pack,
}

impl Scorer {
    /// Plans passes of at most `tokens` tokens.
    pub fn new(model: Rc<Model>, tokens: usize) -> Result<Self> {
        let candidates = Capacity::candidates_for(tokens);
        let capacity = Capacity { tokens, selected: candidates, candidates };
        let workspace = Workspace::new(model.backend().as_ref(), model.config(), model.outputs(), capacity, false)?;
        Ok(Self { model, workspace, pack: Pack::default() })
    }

    /// Plans anew if a group of `candidates` candidates that takes `tokens` tokens does not fit a pass.
    fn make_room(&mut self, tokens: usize, candidates: usize) -> Result<()> {
        let room = self.workspace.capacity();
        if tokens > room.tokens || candidates > room.candidates {
            let candidates = candidates.max(room.candidates);
            let capacity = Capacity { tokens: tokens.max(room.tokens), selected: candidates, candidates };
            let (backend, model) = (self.model.backend().as_ref(), &self.model);
            self.workspace = Workspace::new(backend, model.config(), model.outputs(), capacity, false)?;
        }
        Ok(())
    }

    /// Scores groups of sequences, each group sharing its prefix; one score a sequence, in order.
    pub fn score(&mut self, groups: &[Vec<Vec<u32>>]) -> Result<Vec<f32>> {
        const WANTED: Wanted = Wanted { scores: true, next_tokens: false, share_prefix: true };
        let mut scores = Vec::with_capacity(groups.iter().map(Vec::len).sum());
        self.pack.clear();
        for group in groups {
            let sequences: Vec<&[u32]> = group.iter().map(Vec::as_slice).collect();
            let tokens = pack::packed_tokens(&sequences, WANTED);
            let (all, candidates) = (self.pack.tokens() + tokens, self.pack.candidates() + group.len());
            let room = self.workspace.capacity();
            if all > room.tokens || candidates > room.candidates {
                self.flush(&mut scores)?;
                self.make_room(tokens, group.len())?;
            }
            self.pack.push(&sequences, WANTED);
        }
        self.flush(&mut scores)?;
        Ok(scores)
    }

    fn flush(&mut self, scores: &mut Vec<f32>) -> Result<()> {
        if self.pack.candidates() > 0 {
            self.model.score(&mut self.workspace, &self.pack)?;
            self.model.read_scores(&self.workspace, self.pack.candidates(), scores)?;
            self.pack.clear();
        }
        Ok(())
    }
}

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
    columns.push("shuffled reference".into());
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
