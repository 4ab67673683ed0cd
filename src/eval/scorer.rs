use std::rc::Rc;

use crate::error::Result;
use crate::model::{Capacity, Model, Workspace};
use crate::polar::{Pack, Wanted, pack};

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
