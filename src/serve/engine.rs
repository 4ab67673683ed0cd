//! One thread owns model and scorer; requests reach it through a queue and are computed together.
//!
//! A pass takes groups of sequences from the waiting requests in turn until it is full of tokens, so that a small
//! request does not wait for a large one, and sequences of many connections are computed at once. What has been
//! computed goes to a cache by weights and ids: a request that is sent again goes on where the first one stopped.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::metrics::Metrics;
use super::{Info, Phase};
use crate::error::Error;
use crate::model::Capacity;

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
pub struct Sequences {
    ids: Vec<Vec<u32>>,
    keys: Vec<Key>,
    /// Sequences that share a prefix and fit a pass together, as indices.
    groups: VecDeque<Vec<usize>>,
}

impl Sequences {
    /// Hashes sequences and finds those that share their prompt and reference: the ids up to the separator.
    pub fn new(ids: Vec<Vec<u32>>, info: &Info, pack_length: usize) -> Self {
        let keys = ids.iter().map(|ids| key(info, ids)).collect();
        let groups = group(&ids, info.tokenizer.specials().separator, pack_length);
        Self { ids, keys, groups }
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.iter().map(Vec::len).sum()
    }
}

fn key(info: &Info, ids: &[u32]) -> Key {
    let mut hasher = blake3::Hasher::new_keyed(info.weights.as_bytes());
    hasher.update(bytemuck::cast_slice(ids));
    *hasher.finalize().as_bytes()
}

/// Groups by the ids up to the separator, none larger than a pass. Sequences without a separator stand alone.
fn group(sequences: &[Vec<u32>], separator: u32, pack_length: usize) -> VecDeque<Vec<usize>> {
    struct Open {
        place: usize,
        tokens: usize,
        common: usize,
    }
    let most = Capacity::candidates_for(pack_length);
    let mut groups: VecDeque<Vec<usize>> = VecDeque::new();
    let mut open: HashMap<&[u32], Open> = HashMap::new();
    for (index, ids) in sequences.iter().enumerate() {
        let Some(end) = ids.iter().position(|id| *id == separator) else {
            groups.push_back(vec![index]);
            continue;
        };
        if let Some(group) = open.get_mut(&ids[..end]) {
            let members = &mut groups[group.place];
            let first = &sequences[members[0]];
            let common = first.iter().zip(ids).take(group.common).take_while(|(a, b)| a == b).count();
            let lost = (group.common - common) * (members.len() - 1);
            let tokens = group.tokens + lost + ids.len() - common;
            if tokens <= pack_length && members.len() < most {
                (group.tokens, group.common) = (tokens, common);
                members.push(index);
                continue;
            }
        }
        open.insert(&ids[..end], Open { place: groups.len(), tokens: ids.len(), common: ids.len() });
        groups.push_back(vec![index]);
    }
    groups
}

/// A request on its way through the engine.
pub struct Job {
    /// What to score.
    pub sequences: Sequences,
    /// Where the scores go; a receiver that is gone wants none.
    pub reply: oneshot::Sender<Result<Vec<f32>, Failure>>,
    /// The request's place in the queue.
    pub place: OwnedSemaphorePermit,
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
    /// The longest pass in tokens, unless a sequence is longer.
    pack_length: usize,
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
    tokens: usize,
}

impl Engine {
    /// An engine that remembers `cache` scores.
    pub fn new(score: Score, pack_length: usize, cache: usize, phase: watch::Sender<Phase>, metrics: Metrics) -> Self {
        let cache = NonZeroUsize::new(cache).map(LruCache::new);
        Self { score, pack_length, cache, phase, metrics, failed: None }
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
                    for (key, score) in computed.iter().filter(|(_, score)| score.is_finite()) {
                        cache.put(*key, *score);
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
            let tokens = packed_tokens(new.iter().map(|&index| &sequences.ids[index][..]));
            if batch.tokens > 0 && batch.tokens + tokens > self.pack_length {
                return Taken::Full;
            }
            taken.append(group);
            sequences.groups.pop_front();
            if !new.is_empty() {
                batch.tokens += tokens;
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
        self.metrics.batch_tokens.observe(batch.tokens as f64);
        self.metrics.computed_tokens.inc_by(batch.tokens as u64);
        let score = &mut self.score;
        let outcome = catch_unwind(AssertUnwindSafe(|| score(&batch.groups)))
            .unwrap_or_else(|_| Err(Error::machine("the engine panicked; its message is in the server's log")))
            .and_then(|scores| match scores.len() {
                found if found == wanted => Ok(scores),
                found => Err(Error::machine(format!("the engine gave {found} scores for {wanted} sequences"))),
            });
        outcome.map_err(|error| {
            let reason = error.to_string();
            eprintln!("error: the engine failed, every request is refused from now on: {reason}");
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
        drop(job.place);
        // Whoever asked may have gone away.
        let _ = job.reply.send(outcome);
    }
}

/// Tokens that sequences take in a pass, with what all of them begin with computed once.
fn packed_tokens<'a>(mut sequences: impl Iterator<Item = &'a [u32]>) -> usize {
    let Some(first) = sequences.next() else { return 0 };
    let (mut common, mut tokens, mut others) = (first.len() - 1, first.len(), 0);
    for ids in sequences {
        common = first.iter().zip(&ids[..ids.len() - 1]).take(common).take_while(|(a, b)| a == b).count();
        tokens += ids.len();
        others += 1;
    }
    tokens - others * common
}
