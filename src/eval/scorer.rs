use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::model::{Model, Workspace};
use crate::passes::{Capacity, Pack, Wanted};

const WANTED: Wanted = Wanted { scores: true, next_tokens: false, share_prefix: true };

/// A model that scores sequences of token ids, as many to a pass as fit.
pub struct Scorer {
    model: Rc<Model>,
    /// For passes of `tokens` tokens, or for the longest sequence so far, if that is longer.
    workspace: Option<Workspace>,
    pack: Pack,
    tokens: usize,
    computed: u64,
}

/// The sequences of a group, each once.
struct Distinct<'a> {
    sequences: Vec<&'a [u32]>,
    /// For each of the group its place in `sequences`.
    places: Vec<usize>,
}

impl<'a> Distinct<'a> {
    fn of(group: &'a [Vec<u32>]) -> Self {
        let (mut sequences, mut known) = (Vec::new(), HashMap::new());
        let mut place = |ids: &'a Vec<u32>| {
            *known.entry(&ids[..]).or_insert_with(|| {
                sequences.push(&ids[..]);
                sequences.len() - 1
            })
        };
        let places = group.iter().map(&mut place).collect();
        Self { sequences, places }
    }
}

/// Sequences of one group that are computed together, their beginning once.
struct Row {
    group: usize,
    members: Vec<usize>,
    /// Ids that are shared; each sequence keeps its last id to itself.
    shared: usize,
    /// Ids to compute.
    tokens: usize,
}

/// Rows that are computed together.
#[derive(Default)]
struct Pass {
    rows: Vec<Row>,
    tokens: usize,
    candidates: usize,
}

impl Scorer {
    /// Plans passes of at most `tokens` tokens.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(model: Rc<Model>, tokens: usize) -> Result<Self> {
        let workspace = Some(plan(&model, tokens)?);
        Ok(Self { model, workspace, pack: Pack::default(), tokens, computed: 0 })
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
        let most = Capacity::candidates_for(self.tokens);
        let groups: Vec<Distinct> = groups.iter().map(|group| Distinct::of(group)).collect();
        let of_group = |(i, group): (usize, &Distinct)| rows(i, &group.sequences, self.tokens, most);
        let rows = groups.iter().enumerate().flat_map(of_group).collect();
        let mut scores: Vec<Vec<f32>> = groups.iter().map(|group| vec![f32::NAN; group.sequences.len()]).collect();
        let mut of_pass = Vec::new();
        for pass in passes(rows, self.tokens, most) {
            self.pack.clear();
            for row in &pass.rows {
                let sequences: Vec<&[u32]> = row.members.iter().map(|&i| groups[row.group].sequences[i]).collect();
                self.pack.push(&sequences, WANTED);
            }
            of_pass.clear();
            self.compute(&mut of_pass)?;
            let places = pass.rows.iter().flat_map(|row| row.members.iter().map(|&i| (row.group, i)));
            places.zip(&of_pass).for_each(|((group, i), score)| scores[group][i] = *score);
        }
        Ok(groups.iter().zip(&scores).flat_map(|(group, scores)| group.places.iter().map(|&i| scores[i])).collect())
    }

    /// Tokens that were computed so far.
    pub fn computed_tokens(&self) -> u64 {
        self.computed
    }

    fn compute(&mut self, scores: &mut Vec<f32>) -> Result<()> {
        let tokens = self.pack.tokens();
        // One that is too small is given back before there is another.
        let workspace = match self.workspace.take().filter(|workspace| tokens <= workspace.capacity().tokens) {
            Some(workspace) => workspace,
            None => plan(&self.model, tokens.max(self.tokens))?,
        };
        let workspace = self.workspace.insert(workspace);
        self.model.score(workspace, &self.pack)?;
        self.model.read_scores(workspace, self.pack.candidates(), scores)?;
        self.computed += tokens as u64;
        Ok(())
    }
}

fn plan(model: &Model, tokens: usize) -> Result<Workspace> {
    let candidates = Capacity::candidates_for(tokens);
    let capacity = Capacity { tokens, selected: candidates, candidates };
    Workspace::new(model.backend().as_ref(), model.config(), model.outputs(), capacity, None)
}

/// Puts each sequence of a group where it costs the fewest tokens: sequences whose beginnings differ, because their
/// prompts are cut differently, do not take the others' shared beginning away.
fn rows(group: usize, sequences: &[&[u32]], tokens: usize, candidates: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (index, ids) in sequences.iter().enumerate() {
        let joined = |row: &Row| {
            let first = &sequences[row.members[0]];
            let most = row.shared.min(ids.len() - 1);
            let shared = first.iter().zip(*ids).take(most).take_while(|(a, b)| a == b).count();
            let added = ids.len() - shared + (row.shared - shared) * (row.members.len() - 1);
            (shared, row.tokens + added, added)
        };
        let best = rows
            .iter_mut()
            .filter(|row| row.members.len() < candidates)
            .map(|row| (joined(row), row))
            .filter(|((_, all, added), _)| *all <= tokens && *added < ids.len())
            .min_by_key(|((_, _, added), _)| *added);
        match best {
            Some(((shared, all, _), row)) => {
                row.members.push(index);
                (row.shared, row.tokens) = (shared, all);
            }
            None => rows.push(Row { group, members: vec![index], shared: ids.len() - 1, tokens: ids.len() }),
        }
    }
    rows
}

/// Best fit, the longest rows first. A row that is longer than a pass has one for itself.
fn passes(mut rows: Vec<Row>, tokens: usize, candidates: usize) -> Vec<Pass> {
    rows.sort_by_key(|row| std::cmp::Reverse(row.tokens));
    let mut passes: Vec<Pass> = Vec::new();
    // Tokens that are free in each pass, and its number.
    let mut free = BTreeSet::new();
    for row in rows {
        let fits = |&&(_, i): &&(usize, usize)| passes[i].candidates + row.members.len() <= candidates;
        let index = match free.range((row.tokens, 0)..).find(fits).copied() {
            Some(place) => {
                free.remove(&place);
                place.1
            }
            None => {
                passes.push(Pass::default());
                passes.len() - 1
            }
        };
        let pass = &mut passes[index];
        pass.tokens += row.tokens;
        pass.candidates += row.members.len();
        pass.rows.push(row);
        if pass.candidates < candidates {
            free.insert((tokens.saturating_sub(pass.tokens), index));
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::packed_tokens;
    use crate::rng;
    use rand::RngExt;

    fn slices(group: &[Vec<u32>]) -> Vec<&[u32]> {
        group.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn equal_sequences_are_one() {
        let group = [vec![1, 2], vec![1], vec![1, 2], vec![2, 1], vec![1]];
        let Distinct { sequences, places } = Distinct::of(&group);
        assert_eq!(sequences, [&[1, 2][..], &[1], &[2, 1]]);
        assert_eq!(places, [0, 1, 0, 2, 1]);
    }

    #[test]
    fn every_sequence_is_in_one_pass_that_holds_it() {
        let mut random = rng::stream(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64, "passes", 0);
        for _ in 0..300 {
            let (tokens, candidates) = (random.random_range(4..60), random.random_range(2..9));
            let groups: Vec<Vec<Vec<u32>>> = (0..random.random_range(0..6))
                .map(|_| {
                    let sequence = |random: &mut rand_chacha::ChaCha8Rng| {
                        let prefix = vec![random.random_range(0..2); random.random_range(0..30)];
                        let own = (0..random.random_range(1..10)).map(|_| random.random_range(3..6));
                        prefix.into_iter().chain(own).collect()
                    };
                    (0..random.random_range(1..12)).map(|_| sequence(&mut random)).collect()
                })
                .collect();
            let of_group = |(i, group): (usize, &Vec<Vec<u32>>)| rows(i, &slices(group), tokens, candidates);
            let rows = groups.iter().enumerate().flat_map(of_group).collect();
            let mut seen = Vec::new();
            for pass in passes(rows, tokens, candidates) {
                assert!(pass.candidates <= candidates);
                assert!(pass.tokens <= tokens || pass.rows.len() == 1 && pass.rows[0].members.len() == 1);
                for row in &pass.rows {
                    let sequences: Vec<&[u32]> = row.members.iter().map(|&i| &groups[row.group][i][..]).collect();
                    assert_eq!(row.tokens, packed_tokens(&sequences, WANTED));
                    seen.extend(row.members.iter().map(|&i| (row.group, i)));
                }
                assert_eq!(pass.tokens, pass.rows.iter().map(|row| row.tokens).sum::<usize>());
            }
            seen.sort_unstable();
            let all = groups.iter().enumerate().flat_map(|(i, group)| (0..group.len()).map(move |j| (i, j)));
            assert_eq!(seen, all.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_beginning_of_its_own_does_not_end_the_others_sharing() {
        let sequence = |prefix: u32, own: u32| [vec![prefix; 50], vec![own; 2]].concat();
        let group: Vec<_> = (0..8).map(|i| sequence(u32::from(i % 4 == 3), 10 + i)).collect();
        let rows = rows(0, &slices(&group), 1000, 100);
        assert_eq!(rows.iter().map(|row| row.members.len()).collect::<Vec<_>>(), [6, 2]);
        assert_eq!(rows.iter().map(|row| row.tokens).sum::<usize>(), 2 * 50 + 8 * 2);
    }

    #[test]
    fn passes_are_full() {
        let sequences: Vec<_> = [70, 10, 60, 30, 40, 90].map(|length| vec![7; length]).into();
        let all = sequences.iter().enumerate().flat_map(|(i, ids)| rows(i, &[ids], 100, 9));
        let tokens: Vec<usize> = passes(all.collect(), 100, 9).iter().map(|pass| pass.tokens).collect();
        assert_eq!(tokens, [100; 3]);
    }
}
