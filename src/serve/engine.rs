//! One thread owns model and scorer; requests reach it through a queue and are computed together.
//!
//! A pass takes groups of sequences from the waiting requests in turn until it is full of tokens, so that a small
//! request does not wait for a large one, and sequences of many connections are computed at once. What has been
//! computed goes to a cache by weights and ids: a request that is sent again goes on where the first one stopped.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Instant;

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::lanes::Place;
use super::metrics::Metrics;
use super::{Info, Phase};
use crate::error::Error;
use crate::passes::{self, Capacity, Load, Wanted};

/// Scores groups of sequences, one score a sequence, in order: [`crate::eval::Scorer::score`], or what stands in for it.
pub type Score = Box<dyn FnMut(&[Vec<Vec<u32>>]) -> crate::Result<Vec<f32>>>;

/// BLAKE3 of ids, keyed by that of the weights.
type Key = [u8; blake3::OUT_LEN];

/// Why a request got no scores.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The engine cannot compute: the device failed, or the program ends.
    Engine(String),
    /// The score of the sequence with this index is infinite or not a number.
    NonFinite(usize),
}

/// The sequences of a request, prepared for the engine.
pub struct RequestSequences {
    ids: Vec<Vec<u32>>,
    keys: Vec<Key>,
    /// Sequences that share a prefix and fit a pass together, as indices.
    groups: VecDeque<Vec<usize>>,
}

impl RequestSequences {
    /// Hashes sequences and finds those that share their prompt and reference: the ids up to the separator.
    pub fn new(ids: Vec<Vec<u32>>, info: &Info, pack_length: usize) -> Self {
        let keys = ids.iter().map(|ids| key(&info.weights, ids)).collect();
        let capacity = Capacity::new(pack_length, Wanted::SCORES);
        let groups = group(&ids, info.tokenizer.specials().separator, capacity);
        Self { ids, keys, groups }
    }
}

fn key(weights: &blake3::Hash, ids: &[u32]) -> Key {
    let mut hasher = blake3::Hasher::new_keyed(weights.as_bytes());
    hasher.update(bytemuck::cast_slice(ids));
    *hasher.finalize().as_bytes()
}

/// Groups by the ids up to the separator, none larger than a pass. Sequences without a separator stand alone.
fn group(sequences: &[Vec<u32>], separator: Option<u32>, capacity: Capacity) -> VecDeque<Vec<usize>> {
    let mut alike: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    for (index, ids) in sequences.iter().enumerate() {
        let place = match ids.iter().position(|id| Some(*id) == separator) {
            Some(end) => *known.entry(&ids[..end]).or_insert(alike.len()),
            None => alike.len(),
        };
        if place == alike.len() {
            alike.push(Vec::new());
        }
        alike[place].push(index);
    }
    let rows = |places: Vec<usize>| {
        let ids: Vec<&[u32]> = places.iter().map(|&index| &sequences[index][..]).collect();
        let rows = passes::rows(&ids, capacity);
        rows.into_iter().map(move |row| row.members.into_iter().map(|member| places[member]).collect())
    };
    alike.into_iter().flat_map(rows).collect()
}

/// A request on its way through the engine.
pub struct Job {
    /// What to score.
    pub sequences: RequestSequences,
    /// Where the scores go; a receiver that is gone wants none.
    pub reply: oneshot::Sender<Result<Vec<f32>, Failure>>,
    /// The request's place in the queue, and its ids' in memory.
    pub permits: (Option<Place>, OwnedSemaphorePermit),
}

struct Active {
    job: Job,
    scores: Vec<f32>,
    /// Sequences of the pass that is being filled.
    taken: Vec<usize>,
}

/// The engine's thread.
pub struct Engine {
    score: Score,
    /// The largest pass, unless a sequence is longer.
    capacity: Capacity,
    cache: Option<LruCache<Key, f32>>,
    phase: watch::Sender<Phase>,
    metrics: Metrics,
    /// Why nothing can be computed any more.
    failed: Option<String>,
}

/// A pass as it is filled.
#[derive(Default)]
struct Batch {
    groups: Vec<Vec<Vec<u32>>>,
    keys: Vec<Key>,
    members: HashSet<Key>,
    load: Load,
}

impl Engine {
    /// An engine that remembers `cache` scores.
    pub fn new(score: Score, pack_length: usize, cache: usize, phase: watch::Sender<Phase>, metrics: Metrics) -> Self {
        let cache = NonZeroUsize::new(cache).map(LruCache::new);
        let capacity = Capacity::new(pack_length, Wanted::SCORES);
        Self { score, capacity, cache, phase, metrics, failed: None }
    }

    /// Computes what comes until nobody can send any more.
    pub fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut active = VecDeque::new();
        while let Ok(job) = jobs.recv() {
            active.push_back(Active::new(job));
            while !active.is_empty() {
                active.extend(jobs.try_iter().map(Active::new));
                active.retain(|active| !active.job.reply.is_closed());
                self.pass(&mut active);
            }
        }
    }

    fn pass(&mut self, active: &mut VecDeque<Active>) {
        let mut batch = Batch::default();
        let served = self.fill(&mut batch, active);
        let outcome = match (&self.failed, batch.keys.len()) {
            (Some(reason), _) => Err(reason.clone()),
            (None, 0) => Ok(Vec::new()),
            (None, wanted) => self.compute(&batch, wanted),
        };
        match outcome {
            Ok(scores) => {
                let computed: HashMap<Key, f32> = batch.keys.iter().copied().zip(scores).collect();
                if let Some(cache) = &mut self.cache {
                    for key in &batch.keys {
                        if computed[key].is_finite() {
                            cache.put(*key, computed[key]);
                        }
                    }
                }
                for active in active.iter_mut() {
                    for index in active.taken.drain(..) {
                        active.scores[index] = computed[&active.job.sequences.keys[index]];
                    }
                }
                active.rotate_left(served);
                answer(active);
            }
            Err(reason) => {
                for active in active.drain(..) {
                    let _ = active.job.reply.send(Err(Failure::Engine(reason.clone())));
                }
            }
        }
    }

    /// Takes groups from the requests in turn until the pass is full. Returns how many places the turn has moved on.
    fn fill(&mut self, batch: &mut Batch, active: &mut VecDeque<Active>) -> usize {
        loop {
            let mut gave = false;
            for (place, active) in active.iter_mut().enumerate() {
                match self.take_group(batch, active) {
                    Taken::Group => gave = true,
                    Taken::Nothing => {}
                    Taken::Full => return place,
                }
            }
            if !gave {
                return 0;
            }
        }
    }

    /// Moves a request's next group to the pass, less what the cache knows and what is in the pass already.
    fn take_group(&mut self, batch: &mut Batch, active: &mut Active) -> Taken {
        let Active { job: Job { sequences, .. }, scores, taken } = active;
        while let Some(group) = sequences.groups.front_mut() {
            group.retain(|&index| match self.cache.as_mut().and_then(|cache| cache.get(&sequences.keys[index])) {
                Some(score) => {
                    scores[index] = *score;
                    self.metrics.cache_hits.inc();
                    false
                }
                None => true,
            });
            let mut own = HashSet::new();
            let new: Vec<usize> = group
                .iter()
                .copied()
                .filter(|&index| {
                    let key = sequences.keys[index];
                    !batch.members.contains(&key) && own.insert(key)
                })
                .collect();
            let members: Vec<&[u32]> = new.iter().map(|&index| &sequences.ids[index][..]).collect();
            let load = passes::load(&members, Wanted::SCORES);
            if batch.load.tokens > 0 && !self.capacity.holds(batch.load + load) {
                return Taken::Full;
            }
            taken.append(group);
            sequences.groups.pop_front();
            if !new.is_empty() {
                batch.load += load;
                batch.members.extend(own);
                batch.keys.extend(new.iter().map(|&index| sequences.keys[index]));
                batch.groups.push(new.iter().map(|&index| std::mem::take(&mut sequences.ids[index])).collect());
                return Taken::Group;
            }
        }
        Taken::Nothing
    }

    /// Scores of a pass; after a failure nothing is computed any more.
    fn compute(&mut self, batch: &Batch, wanted: usize) -> Result<Vec<f32>, String> {
        self.metrics.batch_tokens.observe(batch.load.tokens as f64);
        self.metrics.computed_tokens.inc_by(batch.load.tokens as u64);
        let started = Instant::now();
        let score = &mut self.score;
        let outcome = catch_unwind(AssertUnwindSafe(|| score(&batch.groups)))
            .unwrap_or_else(|_| Err(Error::machine("the engine panicked; its message is in the server's log")))
            .and_then(|scores| match scores.len() {
                found if found == wanted => Ok(scores),
                found => Err(Error::machine(format!("the engine gave {found} scores for {wanted} sequences"))),
            });
        let (tokens, ms) = (batch.load.tokens, started.elapsed().as_secs_f64() * 1e3);
        tracing::debug!(sequences = wanted, tokens, ms, "a pass of {wanted} sequences, {tokens} tokens: {ms:.1} ms");
        outcome.map_err(|error| {
            let reason = error.to_string();
            tracing::error!("the engine failed, every request is refused from now on: {reason}");
            self.failed = Some(reason.clone());
            self.phase.send_if_modified(|phase| phase.fail(&reason));
            reason
        })
    }
}

enum Taken {
    Group,
    Nothing,
    Full,
}

impl Active {
    fn new(job: Job) -> Self {
        Self { scores: vec![f32::NAN; job.sequences.ids.len()], taken: Vec::new(), job }
    }
}

/// Sends the scores of requests that have all of them.
fn answer(active: &mut VecDeque<Active>) {
    for _ in 0..active.len() {
        let Some(next) = active.pop_front() else { return };
        if !next.job.sequences.groups.is_empty() {
            active.push_back(next);
            continue;
        }
        let Active { job, scores, .. } = next;
        let outcome = match scores.iter().position(|score| !score.is_finite()) {
            Some(index) => Err(Failure::NonFinite(index)),
            None => Ok(scores),
        };
        drop(job.permits);
        // Whoever asked may have gone away.
        let _ = job.reply.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use rand::RngExt;

    #[test]
    fn groups_hold_what_shares_its_beginning_and_fit_a_pass() {
        const SEPARATOR: u32 = 3;
        let mut random = rng::stream(1, "groups", 0);
        for _ in 0..200 {
            let pack_length = random.random_range(8..80);
            let sequences: Vec<Vec<u32>> = (0..random.random_range(1..40))
                .map(|_| {
                    let prompt = random.random_range(0..3);
                    let mut ids = vec![10 + prompt; 4 + prompt as usize];
                    if random.random_bool(0.9) {
                        ids.push(SEPARATOR);
                    }
                    let own = random.random_range(1..12);
                    ids.extend((0..own).map(|_| random.random_range(20..22)));
                    ids
                })
                .collect();
            let capacity = Capacity::new(pack_length, Wanted::SCORES);
            let groups = group(&sequences, Some(SEPARATOR), capacity);
            let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..sequences.len()).collect::<Vec<_>>(), "each sequence is in one group");
            for group in groups {
                let members: Vec<&[u32]> = group.iter().map(|&index| &sequences[index][..]).collect();
                let begin = |ids: &[u32]| ids.iter().position(|id| *id == SEPARATOR).map(|end| ids[..end].to_vec());
                assert!(members.iter().all(|ids| members.len() == 1 || begin(ids).is_some()));
                assert!(members.iter().all(|ids| begin(ids) == begin(members[0])));
                let equal = members.iter().all(|ids| ids == &members[0]);
                assert!(equal || capacity.holds(passes::load(&members, Wanted::SCORES)));
            }
        }
    }

    #[test]
    fn scores_are_remembered_by_weights_and_ids() {
        let [some, other] = [b"some", b"othr"].map(|weights| blake3::hash(weights));
        let all = [key(&some, &[1, 2]), key(&some, &[1, 3]), key(&some, &[1]), key(&other, &[1, 2])];
        assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
        assert_eq!(all[0], key(&some, &[1, 2]));
    }
}
