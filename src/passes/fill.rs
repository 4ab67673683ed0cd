//! Which sequences go through the model together: in the order in which they come, as in training, or as few passes as
//! possible, as for scores.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::sharing::Distinct;
use super::{Capacity, Load, Pack, Packer, Wanted, load};
use crate::error::Result;

/// Fills packs with what comes, in order: what does not fit the pack at hand begins the next one.
pub struct InOrder {
    packer: Packer,
    wanted: Wanted,
    capacity: Capacity,
    vocabulary: usize,
    full: Vec<Pack>,
}

impl InOrder {
    /// Packs within `capacity`, of ids below `vocabulary`.
    pub fn new(wanted: Wanted, capacity: Capacity, vocabulary: usize) -> Self {
        Self { packer: Packer::new(wanted), wanted, capacity, vocabulary, full: Vec::new() }
    }

    /// Adds sequences that belong together, compared if they are `paired`, chosen first; false if they fit no pack, and
    /// are left out.
    ///
    /// # Errors
    /// For an empty sequence, and for ids that the vocabulary does not have.
    pub fn push(&mut self, sequences: &[&[u32]], paired: bool) -> Result<bool> {
        let load = load(sequences, self.wanted);
        if !self.capacity.holds(load) {
            return Ok(false);
        }
        if !self.capacity.holds(self.packer.load() + load) {
            self.full.push(self.packer.finish(self.vocabulary)?);
        }
        match sequences {
            [chosen, rejected] if paired => self.packer.push_pair(chosen, rejected)?,
            _ => {
                self.packer.push(sequences)?;
            }
        }
        Ok(true)
    }

    /// The packs that nothing will be added to, once each.
    pub fn take_full(&mut self) -> Vec<Pack> {
        std::mem::take(&mut self.full)
    }

    /// The packs that were not taken, the last one with them.
    ///
    /// # Errors
    /// For ids that the vocabulary does not have.
    pub fn finish(mut self) -> Result<Vec<Pack>> {
        if self.packer.load().tokens > 0 {
            self.full.push(self.packer.finish(self.vocabulary)?);
        }
        Ok(self.full)
    }
}

/// Sequences that are computed together, their beginning once.
#[derive(Clone, Debug)]
pub struct PassRow {
    /// Places among the sequences given; equal sequences stand in one row.
    pub members: Vec<usize>,
    /// What it takes of a pass.
    pub load: Load,
}

/// A row that still grows.
struct Open {
    /// Places among the distinct sequences.
    members: Vec<usize>,
    /// Ids that are shared; each sequence keeps its last id to itself.
    shared: usize,
    tokens: usize,
}

/// Divides sequences that may share their beginnings into rows for scores, none larger than a pass unless it is one
/// sequence: each goes where it costs the fewest tokens. Those whose beginnings differ, because their prompts are cut
/// differently, do not take the others' shared beginning away.
pub fn rows(sequences: &[&[u32]], capacity: Capacity) -> Vec<PassRow> {
    let distinct = Distinct::of(sequences);
    let mut rows: Vec<Open> = Vec::new();
    for (index, ids) in distinct.sequences.iter().enumerate() {
        let joined = |row: &Open| {
            let first = distinct.sequences[row.members[0]];
            let most = row.shared.min(ids.len().saturating_sub(1));
            let shared = first.iter().zip(*ids).take(most).take_while(|(a, b)| a == b).count();
            let added = ids.len() - shared + (row.shared - shared) * (row.members.len() - 1);
            (shared, row.tokens + added, added)
        };
        let best = rows
            .iter_mut()
            .map(|row| (joined(row), row))
            .filter(|((_, tokens, added), row)| {
                let load = Load { tokens: *tokens, candidates: row.members.len() + 1 };
                capacity.holds(load) && *added < ids.len()
            })
            .min_by_key(|((_, _, added), _)| *added);
        match best {
            Some(((shared, tokens, _), row)) => {
                row.members.push(index);
                (row.shared, row.tokens) = (shared, tokens);
            }
            None => {
                rows.push(Open { members: vec![index], shared: ids.len().saturating_sub(1), tokens: ids.len() });
            }
        }
    }
    let mut row_of = vec![0; distinct.sequences.len()];
    let mut closed: Vec<PassRow> = Vec::with_capacity(rows.len());
    for (row, open) in rows.iter().enumerate() {
        open.members.iter().for_each(|&member| row_of[member] = row);
        let load = Load { tokens: open.tokens, candidates: open.members.len() };
        closed.push(PassRow { members: Vec::new(), load });
    }
    for (given, &place) in distinct.places.iter().enumerate() {
        closed[row_of[place]].members.push(given);
    }
    closed
}

/// Rows that are computed together.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// Places among the rows given.
    pub rows: Vec<usize>,
    /// What they take together.
    pub load: Load,
}

/// Puts rows into few passes: best fit, the longest rows first. A row that is larger than a pass has one for itself.
pub fn best_fit(rows: &[Load], capacity: Capacity) -> Vec<Pass> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&row| Reverse(rows[row].tokens));
    let mut passes: Vec<Pass> = Vec::new();
    // Tokens that are free in each pass, and its number.
    let mut free = BTreeSet::new();
    for row in order {
        let load = rows[row];
        let fits = |&&(_, i): &&(usize, usize)| capacity.holds(passes[i].load + load);
        let index = match free.range((load.tokens, 0)..).find(fits).copied() {
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
        pass.load += load;
        pass.rows.push(row);
        if pass.load.candidates < capacity.candidates {
            free.insert((capacity.tokens.saturating_sub(pass.load.tokens), index));
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use rand::RngExt;

    fn slices(group: &[Vec<u32>]) -> Vec<&[u32]> {
        group.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn every_sequence_is_in_one_pass_that_holds_it() {
        let mut random = rng::stream(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64, "passes", 0);
        for _ in 0..300 {
            let (tokens, candidates) = (random.random_range(4..60), random.random_range(2..9));
            let capacity = Capacity { tokens, selected: candidates, candidates };
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
            let of_group = |(i, group): (usize, &Vec<Vec<u32>>)| {
                rows(&slices(group), capacity).into_iter().map(move |row| (i, row)).collect::<Vec<_>>()
            };
            let rows: Vec<(usize, PassRow)> = groups.iter().enumerate().flat_map(of_group).collect();
            let loads: Vec<Load> = rows.iter().map(|(_, row)| row.load).collect();
            let mut seen = Vec::new();
            for pass in best_fit(&loads, capacity) {
                let alone = pass.rows.len() == 1 && pass.load.candidates == 1;
                assert!(capacity.holds(pass.load) || alone, "{pass:?}");
                for (group, row) in pass.rows.iter().map(|&row| &rows[row]) {
                    let sequences: Vec<&[u32]> = row.members.iter().map(|&i| &groups[*group][i][..]).collect();
                    assert_eq!(row.load, load(&sequences, Wanted::SCORES));
                    seen.extend(row.members.iter().map(|&i| (*group, i)));
                }
                assert_eq!(pass.load.tokens, pass.rows.iter().map(|&row| loads[row].tokens).sum::<usize>());
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
        let rows = rows(&slices(&group), Capacity { tokens: 1000, selected: 100, candidates: 100 });
        assert_eq!(rows.iter().map(|row| row.members.len()).collect::<Vec<_>>(), [6, 2]);
        assert_eq!(rows.iter().map(|row| row.load.tokens).sum::<usize>(), 2 * 50 + 8 * 2);
    }

    #[test]
    fn passes_are_full() {
        let loads = [70, 10, 60, 30, 40, 90].map(|tokens| Load { tokens, candidates: 1 });
        let passes = best_fit(&loads, Capacity { tokens: 100, selected: 9, candidates: 9 });
        assert_eq!(passes.iter().map(|pass| pass.load.tokens).collect::<Vec<_>>(), [100; 3]);
    }

    #[test]
    fn what_comes_in_order_stays_in_order() {
        let capacity = Capacity { tokens: 10, selected: 4, candidates: 4 };
        let mut filling = InOrder::new(Wanted::SCORES, capacity, 100);
        let mut push =
            |length: usize, id: u32| filling.push(&[&vec![id; length], &vec![id + 1; length]], true).unwrap();
        assert!(push(2, 1) && push(3, 3), "ten tokens, four candidates");
        assert!(!push(6, 5), "too long for any pack, and closes none");
        assert!(push(1, 7) && push(1, 9) && push(1, 11), "the third pair has no candidates left");
        assert_eq!(filling.take_full().len(), 2);
        let packs = filling.finish().unwrap();
        assert_eq!(packs.iter().map(|pack| pack.ids[0]).collect::<Vec<_>>(), [11]);
    }
}
