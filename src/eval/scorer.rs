use std::rc::Rc;

use crate::error::{Error, Result};
use crate::model::{Model, Workspace};
use crate::passes::{self, Capacity, Load, Pack, Packer, Wanted};

/// A model that scores sequences of token ids, as many to a pass as fit.
pub struct Scorer {
    model: Rc<Model>,
    /// For passes of `tokens` tokens, or for the longest sequence so far, if that is longer.
    workspace: Option<Workspace>,
    tokens: usize,
    computed: u64,
}

impl Scorer {
    /// Plans passes of at most `tokens` tokens.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(model: Rc<Model>, tokens: usize) -> Result<Self> {
        let workspace = Some(plan(&model, tokens)?);
        Ok(Self { model, workspace, tokens, computed: 0 })
    }

    /// Scores groups of sequences; one score a sequence, in order.
    ///
    /// What sequences of a group have in common at their start is computed once; a group that fits no pass is split,
    /// and computes it once in each. Equal sequences of a group are one sequence and get one score, to the last bit:
    /// rounding makes no winner of a tie. Passes are filled with rows of all groups, whatever their order, and depend on
    /// these groups alone: the same groups get the same bits.
    ///
    /// # Errors
    /// The user's for an empty sequence, and what the backend reports.
    pub fn score(&mut self, groups: &[Vec<Vec<u32>>]) -> Result<Vec<f32>> {
        if let Some(group) = groups.iter().position(|group| group.iter().any(Vec::is_empty)) {
            return Err(Error::user(format!("group {group} has an empty sequence; it needs at least the score token")));
        }
        let capacity = Capacity::new(self.tokens, Wanted::SCORES);
        let mut rows = Vec::new();
        for (group, sequences) in groups.iter().enumerate() {
            let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
            rows.extend(passes::rows(&sequences, capacity).into_iter().map(|row| (group, row)));
        }
        let loads: Vec<Load> = rows.iter().map(|(_, row)| row.load).collect();
        let mut scores: Vec<Vec<f32>> = groups.iter().map(|group| vec![f32::NAN; group.len()]).collect();
        let (mut of_pass, mut candidates) = (Vec::new(), Vec::new());
        for pass in passes::best_fit(&loads, capacity) {
            let mut packer = Packer::new(Wanted::SCORES);
            candidates.clear();
            for (group, row) in pass.rows.iter().map(|&row| &rows[row]) {
                let sequences: Vec<&[u32]> = row.members.iter().map(|&i| &groups[*group][i][..]).collect();
                let places = row.members.iter().map(|&member| (*group, member));
                candidates.extend(places.zip(packer.push(&sequences)?));
            }
            of_pass.clear();
            self.compute(&packer.finish(self.model.config().vocab_size)?, &mut of_pass)?;
            for &((group, member), candidate) in &candidates {
                scores[group][member] = of_pass[candidate as usize];
            }
        }
        Ok(scores.into_iter().flatten().collect())
    }

    /// Tokens that were computed so far.
    pub fn computed_tokens(&self) -> u64 {
        self.computed
    }

    fn compute(&mut self, pack: &Pack, scores: &mut Vec<f32>) -> Result<()> {
        let tokens = pack.tokens();
        // One that is too small is given back before there is another.
        let workspace = match self.workspace.take().filter(|workspace| tokens <= workspace.capacity().tokens) {
            Some(workspace) => workspace,
            None => plan(&self.model, tokens.max(self.tokens))?,
        };
        let workspace = self.workspace.insert(workspace);
        self.model.score(workspace, pack)?;
        let first = scores.len();
        self.model.read_scores(workspace, pack.candidates(), scores)?;
        let map = self.model.config().score;
        scores[first..].iter_mut().for_each(|score| *score = map.apply(*score));
        self.computed += tokens as u64;
        Ok(())
    }
}

fn plan(model: &Model, tokens: usize) -> Result<Workspace> {
    let capacity = Capacity::new(tokens, Wanted::SCORES);
    Workspace::new(model.backend().as_ref(), model.config(), model.outputs(), capacity, None)
}
