//! From examples to packs, ahead of the device: what a step trains on depends on the seed and the step alone, so that
//! resuming is a matter of one number.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::data::{Document, IdPair, Rows, Triple, TripleSource};
use crate::error::{Error, Result};
use crate::passes::{Capacity, InOrder, Pack, Wanted};
use crate::polar::{Identical, TemplateConfig, encode_document, encode_triple};
use crate::rng;
use crate::tokenizer::Tokenizer;
use crate::zoo::{Split, Zoo};

/// Where examples come from.
pub enum TrainingSource {
    /// The policy zoo: a new triple for every example.
    Zoo(Zoo),
    /// Trajectories of known policies, from which each epoch draws new triples.
    Trajectories(TripleSource),
    /// Ranked candidates.
    Preferences(Rows<Triple>),
    /// Ranked candidates as token ids.
    Pairs(Rows<IdPair>),
    /// Documents as token ids.
    Sequences(Rows<Vec<u32>>),
}

impl TrainingSource {
    /// Examples in an epoch; none for a source that never repeats.
    pub fn epoch_len(&self) -> Option<usize> {
        match self {
            Self::Zoo(_) => None,
            Self::Trajectories(source) => Some(source.len()),
            Self::Preferences(triples) => Some(triples.len()),
            Self::Pairs(pairs) => Some(pairs.len()),
            Self::Sequences(sequences) => Some(sequences.len()),
        }
    }
}

/// What makes packs of examples.
pub struct Feeder {
    /// The examples.
    pub source: TrainingSource,
    /// Text to ids; none for a model without one, which learns from ids.
    pub tokenizer: Option<Tokenizer>,
    /// How strings are built and cut.
    pub template: TemplateConfig,
    /// What rows are packed for.
    pub wanted: Wanted,
    /// The most that a pack may hold.
    pub capacity: Capacity,
    /// Token ids of the model.
    pub vocabulary: usize,
    /// Examples in a step.
    pub batch_size: usize,
    /// Examples in all, where the run is so many epochs long: the last step has what is left.
    pub examples: Option<u64>,
    /// Decides the order.
    pub seed: u64,
}

/// What one optimiser step trains on.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// One forward and backward pass each.
    pub packs: Vec<Pack>,
    /// Examples left out because they do not fit a pack.
    pub over_long: usize,
    /// Examples of which something was cut.
    pub cut: usize,
    /// Pairs in which sequences are the same; those without a difference are in no pack.
    pub identical: Identical,
}

impl Batch {
    /// Tokens to compute.
    pub fn tokens(&self) -> usize {
        self.packs.iter().map(|pack| pack.tokens()).sum()
    }

    /// Tokens that shared prefixes save.
    pub fn tokens_saved(&self) -> usize {
        self.packs.iter().map(|pack| pack.separate_tokens - pack.tokens()).sum()
    }

    /// Pairs compared.
    pub fn pairs(&self) -> usize {
        self.packs.iter().map(|pack| pack.pairs.len()).sum()
    }
}

/// A batch in the making.
struct Filling {
    packs: InOrder,
    over_long: usize,
    cut: usize,
    identical: Identical,
}

impl Filling {
    fn new(feeder: &Feeder) -> Self {
        Self {
            packs: InOrder::new(feeder.wanted, feeder.capacity, feeder.vocabulary),
            over_long: 0,
            cut: 0,
            identical: Identical::default(),
        }
    }

    fn push(&mut self, sequences: &[&[u32]], paired: bool) -> Result<()> {
        self.over_long += usize::from(!self.packs.push(sequences, paired)?);
        Ok(())
    }

    fn finish(self) -> Result<Batch> {
        let Self { packs, over_long, cut, identical } = self;
        Ok(Batch { packs: packs.finish()?, over_long, cut, identical })
    }
}

/// The order of examples in each epoch met so far, of which two are enough.
type Orders = HashMap<u64, Vec<u32>>;

impl Feeder {
    /// The tokenizer, for text.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::user("the model's folder has no tokenizer.json, which text needs"))
    }

    /// The batch of step `step`, counted from 0.
    pub fn batch(&self, step: u64) -> Result<Batch> {
        self.batch_with(step, &mut Orders::new())
    }

    /// What is the same in the pairs of the first `n` examples, and how many pairs these are; nothing of documents.
    ///
    /// # Errors
    /// When the data cannot be read any more.
    pub fn identical_among_first(&self, n: usize) -> Result<(usize, Identical)> {
        /// An order of the epoch is made for each of these.
        const PIECE: u64 = 64;
        if !self.wanted.scores {
            return Ok((0, Identical::default()));
        }
        let n = n.min(self.source.epoch_len().unwrap_or(n));
        let piece = |first: u64| {
            let (mut filling, mut orders) = (Filling::new(self), Orders::new());
            let mut indices = first..(first + PIECE).min(n as u64);
            indices.try_for_each(|index| self.add(index, &mut filling, &mut orders)).map(|()| filling.identical)
        };
        let pieces = (0..(n as u64).div_ceil(PIECE)).into_par_iter().map(|i| piece(i * PIECE));
        let found: Vec<Identical> = pieces.collect::<Result<_>>()?;
        let mut all = Identical::default();
        found.into_iter().for_each(|one| all.add_all(one));
        Ok((n, all))
    }

    /// Refuses data of which nothing in `steps` steps fits a pack.
    pub fn check(&self, steps: u64) -> Result<()> {
        let epoch = self.source.epoch_len().map_or(u64::MAX, |len| len.div_ceil(self.batch_size) as u64);
        let mut orders = Orders::new();
        let mut over_long = 0;
        for step in 0..steps.min(epoch) {
            let batch = self.batch_with(step, &mut orders)?;
            if !batch.packs.is_empty() {
                return Ok(());
            }
            over_long += batch.over_long;
        }
        if over_long == 0 {
            let TemplateConfig { max_response_length, max_length, .. } = self.template;
            return Err(Error::user(format!(
                "there is nothing to learn from: in every pair chosen and rejected are the same tokens, cut to \
                 data.max_response_length = {max_response_length} and data.max_length = {max_length}; raise these, or \
                 give pairs that differ"
            )));
        }
        Err(Error::user(format!(
            "every example is longer than data.pack_length = {}: raise it, or lower data.max_length",
            self.capacity.tokens
        )))
    }

    fn batch_with(&self, step: u64, orders: &mut Orders) -> Result<Batch> {
        let mut filling = Filling::new(self);
        for index in self.examples_of(step) {
            self.add(index, &mut filling, orders)?;
        }
        filling.finish()
    }

    /// The examples of step `step`.
    fn examples_of(&self, step: u64) -> Range<u64> {
        let first = step * self.batch_size as u64;
        first..(first + self.batch_size as u64).min(self.examples.unwrap_or(u64::MAX))
    }

    /// The examples of the first `steps` steps, in all.
    pub fn examples_before(&self, steps: u64) -> u64 {
        steps.saturating_mul(self.batch_size as u64).min(self.examples.unwrap_or(u64::MAX))
    }

    /// The first `n` different triples that are trained on; none where the source has no triples of text.
    ///
    /// # Errors
    /// When the data cannot be read any more.
    pub fn triples(&self, n: u64) -> Result<Vec<Triple>> {
        let mut orders = Orders::new();
        let n = match &self.source {
            // Every epoch has the same ones.
            TrainingSource::Preferences(triples) => n.min(triples.len() as u64),
            _ => n,
        };
        (0..n).map_while(|index| self.triple(index, &mut orders).transpose()).collect()
    }

    /// The triple that example `index` is, if it is one of text.
    fn triple(&self, index: u64, orders: &mut Orders) -> Result<Option<Triple>> {
        if !self.wanted.scores {
            return Ok(None);
        }
        let (epoch, len, position) = self.place(index);
        let mut row = || self.order(orders, epoch, len)[position] as usize;
        match &self.source {
            TrainingSource::Zoo(zoo) => Ok(Some(zoo.triple(Split::Train, index))),
            TrainingSource::Trajectories(source) => source.draw(row(), self.seed, epoch).map(Some),
            TrainingSource::Preferences(triples) => triples.get(row()).map(Some),
            TrainingSource::Pairs(_) | TrainingSource::Sequences(_) => Ok(None),
        }
    }

    /// Epoch, its length, and the place in it of example `index`.
    fn place(&self, index: u64) -> (u64, u64, usize) {
        let len = self.source.epoch_len().unwrap_or(usize::MAX).max(1) as u64;
        (index / len, len, (index % len) as usize)
    }

    fn add(&self, index: u64, filling: &mut Filling, orders: &mut Orders) -> Result<()> {
        if let Some(triple) = self.triple(index, orders)? {
            return self.add_triple(&triple, filling);
        }
        let (epoch, len, position) = self.place(index);
        match &self.source {
            TrainingSource::Zoo(zoo) => {
                let Triple { prompt, reference, .. } = zoo.triple(Split::Train, index);
                let document = Document { prompt, output: reference };
                for sequence in encode_document(self.tokenizer()?, &document, &self.template)? {
                    filling.push(&[&sequence], false)?;
                }
                Ok(())
            }
            TrainingSource::Pairs(pairs) => {
                let pair = pairs.get(self.order(orders, epoch, len)[position] as usize)?;
                self.add_pair(&pair.chosen, &pair.rejected, filling)
            }
            TrainingSource::Sequences(sequences) => {
                let sequence = sequences.get(self.order(orders, epoch, len)[position] as usize)?;
                filling.push(&[&sequence], false)
            }
            TrainingSource::Trajectories(_) | TrainingSource::Preferences(_) => {
                Err(Error::machine("triples without a ranking loss"))
            }
        }
    }

    fn add_triple(&self, triple: &Triple, filling: &mut Filling) -> Result<()> {
        let pair = encode_triple(self.tokenizer()?, triple, &self.template)?;
        filling.cut += usize::from(pair.cut.any());
        self.add_pair(&pair.chosen, &pair.rejected, filling)
    }

    /// A pair without a difference has no gradient, and its tie would count as a mistake.
    fn add_pair(&self, chosen: &[u32], rejected: &[u32], filling: &mut Filling) -> Result<()> {
        let specials = self.tokenizer.as_ref().map(Tokenizer::specials).unwrap_or_default();
        match filling.identical.add(chosen, rejected, specials) {
            true => Ok(()),
            false => filling.push(&[chosen, rejected], true),
        }
    }

    /// A permutation of an epoch's examples, drawn from the seed and the epoch.
    fn order<'a>(&self, orders: &'a mut Orders, epoch: u64, len: u64) -> &'a [u32] {
        orders.retain(|&known, _| known + 1 >= epoch);
        orders.entry(epoch).or_insert_with(|| {
            let mut order: Vec<u32> = (0..len as u32).collect();
            order.shuffle(&mut rng::stream(self.seed, "order of examples", epoch));
            order
        })
    }

    /// Batches from `step` on, made on a thread of their own, a few ahead.
    pub fn spawn(self: Arc<Self>, step: u64, steps: u64) -> Result<Feed> {
        const AHEAD: usize = 4;
        let (sender, receiver) = sync_channel(AHEAD);
        let work = move || {
            let mut orders = Orders::new();
            for step in step..steps {
                // The receiver is gone when training stops early.
                if sender.send(self.batch_with(step, &mut orders)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("feed".into())
            .spawn(work)
            .map_err(|e| Error::machine(format!("cannot start the thread that prepares data: {e}")))?;
        Ok(Feed { receiver: Some(receiver), thread: Some(thread) })
    }
}

/// Batches in the order of the steps.
pub struct Feed {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// The next batch.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let ended = || Error::machine("the thread that prepares data ended early");
        self.receiver.as_ref().ok_or_else(ended)?.recv().map_err(|_| ended())?
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}
