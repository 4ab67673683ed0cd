//! The merges of a SentencePiece BPE.
//!
//! As in SentencePiece, any two neighbours whose union is a piece may be merged, the union with the highest score
//! first, and of equal scores the leftmost. (A `tokenizer.json` lists merges one by one, each with a rank of its own:
//! where scores are equal, or a piece can be made in two ways, its order is another.)

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::ops::Range;

use super::SPACE;
use super::proto::Kind;
use super::vocabulary::Vocabulary;
use crate::tokenizer::merges::{PairHasher, key};

/// The symbol of a character that is in no piece: it is merged with nothing.
const FOREIGN: u32 = u32::MAX;
/// Symbols in a run up to which looking at all of them is faster than a heap.
const SHORT: usize = 24;

#[derive(Debug)]
pub(super) struct Merges {
    /// The symbol of each character that occurs in a piece: its id if it is one, else a number beyond the ids.
    chars: HashMap<char, u32>,
    /// Of two neighbouring symbols, the rank of their union (the lowest is merged first) and its id.
    pairs: HashMap<u64, (u32, u32), BuildHasherDefault<PairHasher>>,
    /// Whether no piece has a space after another character. Then nothing is merged across the start of a word, and
    /// words can be merged one by one.
    by_words: bool,
    /// Pieces that are taken apart in the end.
    unused: HashSet<u32>,
}

/// A run of characters that have become one symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub symbol: u32,
    /// The bytes of the text that it covers.
    pub start: u32,
    pub end: u32,
    previous: u32,
    next: u32,
}

/// No neighbour on that side.
const NONE: u32 = u32::MAX;

/// A union that may be made: its rank, where its left part begins, where its parts meet and end, and its id. Ordered by
/// rank, then from the left.
type Candidate = Reverse<(u32, u32, u32, u32, u32)>;

/// Memory that encoding uses again and again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    nodes: Vec<Node>,
    ranks: Vec<(u32, u32)>,
    heap: BinaryHeap<Candidate>,
    /// How each unused piece was last offered: its left part, that one's bytes, its right part.
    parts: HashMap<u32, (u32, u32, u32)>,
    /// What is left to take apart.
    stack: Vec<Node>,
}

impl Merges {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let mergeable = || vocabulary.pieces().filter(|(_, piece)| matches!(piece.kind, Kind::Normal | Kind::Unused));
        let mut symbols: HashMap<&str, u32> = mergeable().map(|(id, piece)| (piece.text.as_str(), id)).collect();
        let mut next = vocabulary.len();
        for (_, piece) in mergeable() {
            for (at, char) in piece.text.char_indices() {
                symbols.entry(&piece.text[at..at + char.len_utf8()]).or_insert_with(|| {
                    next += 1;
                    next - 1
                });
            }
        }
        let mut scores: Vec<f32> = mergeable().map(|(_, piece)| piece.score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.dedup();
        let mut pairs = HashMap::default();
        for (id, piece) in mergeable() {
            let rank = scores.partition_point(|score| *score > piece.score) as u32;
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(&left), Some(&right)) = (symbols.get(left), symbols.get(right)) {
                    pairs.insert(key(left, right), (rank, id));
                }
            }
        }
        let char = |(text, symbol): (&str, u32)| {
            let mut chars = text.chars();
            chars.next().filter(|_| chars.as_str().is_empty()).map(|char| (char, symbol))
        };
        let unused: HashSet<u32> =
            mergeable().filter(|(_, piece)| piece.kind == Kind::Unused).map(|(id, _)| id).collect();
        let inner_space = |text: &str| text.trim_start_matches(SPACE).contains(SPACE);
        Self {
            chars: symbols.into_iter().filter_map(char).collect(),
            pairs,
            // An unused piece is taken apart as it was last made, wherever in the text that was.
            by_words: unused.is_empty() && !mergeable().any(|(_, piece)| inner_space(&piece.text)),
            unused,
        }
    }

    /// Splits `text` into symbols and hands each to `emit` with the bytes that it covers. `user_defined` are the places
    /// of what is not to be split and merged, with its id, in order.
    pub(super) fn split(
        &self,
        text: &str,
        user_defined: impl Iterator<Item = (Range<usize>, u32)>,
        scratch: &mut Scratch,
        emit: &mut impl FnMut(u32, &str),
    ) {
        scratch.parts.clear();
        let mut at = 0;
        for (range, id) in user_defined {
            self.push_text(text, at..range.start, scratch, emit);
            scratch.push(id, range.start, range.end);
            at = range.end;
        }
        self.push_text(text, at..text.len(), scratch, emit);
        self.flush(text, scratch, emit);
    }

    fn push_text(&self, text: &str, range: Range<usize>, scratch: &mut Scratch, emit: &mut impl FnMut(u32, &str)) {
        let mut after_space = true;
        for (at, char) in text[range.clone()].char_indices() {
            let is_space = SPACE.starts_with(char);
            if self.by_words && is_space && !after_space {
                self.flush(text, scratch, emit);
            }
            after_space = is_space;
            let start = range.start + at;
            let symbol = self.chars.get(&char).copied().unwrap_or(FOREIGN);
            scratch.push(symbol, start, start + char.len_utf8());
        }
    }

    /// Merges what was pushed, and emits it.
    fn flush(&self, text: &str, scratch: &mut Scratch, emit: &mut impl FnMut(u32, &str)) {
        if scratch.nodes.len() > SHORT || !self.unused.is_empty() {
            self.merge_long(scratch);
        } else {
            self.merge_short(scratch);
        }
        let Scratch { nodes, parts, stack, .. } = scratch;
        let mut at = 0;
        while let Some(&node) = nodes.get(at as usize) {
            at = node.next;
            stack.push(node);
            while let Some(node) = stack.pop() {
                let covered = &text[node.start as usize..node.end as usize];
                if !self.unused.contains(&node.symbol) {
                    emit(node.symbol, covered);
                    continue;
                }
                // An unused piece that was not merged is a character: it is as good as unknown.
                let Some(&(left, bytes, right)) = parts.get(&node.symbol) else {
                    emit(FOREIGN, covered);
                    continue;
                };
                let meet = node.start + bytes;
                stack.push(Node { symbol: right, start: meet, ..node });
                stack.push(Node { symbol: left, end: meet, ..node });
            }
        }
        nodes.clear();
    }

    /// The rank and id of the union of two neighbours.
    fn union(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.pairs.get(&key(left, right)).copied()
    }

    /// The first of the lowest ranks, again and again.
    fn merge_short(&self, scratch: &mut Scratch) {
        const NO_UNION: (u32, u32) = (u32::MAX, 0);
        let Scratch { nodes, ranks, .. } = scratch;
        let union = |left: &Node, right: &Node| self.union(left.symbol, right.symbol).unwrap_or(NO_UNION);
        ranks.clear();
        ranks.extend(nodes.windows(2).map(|pair| union(&pair[0], &pair[1])));
        while let Some((at, &(rank, id))) = ranks.iter().enumerate().min_by_key(|(_, (rank, _))| *rank) {
            if rank == u32::MAX {
                break;
            }
            nodes[at].symbol = id;
            nodes[at].end = nodes[at + 1].end;
            nodes.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = union(&nodes[at - 1], &nodes[at]);
            }
            if at < ranks.len() {
                ranks[at] = union(&nodes[at], &nodes[at + 1]);
            }
        }
        for (at, node) in nodes.iter_mut().enumerate() {
            node.next = at as u32 + 1;
        }
    }

    /// The same with a heap, whose time does not grow with the square of the length.
    fn merge_long(&self, scratch: &mut Scratch) {
        let Scratch { nodes, heap, parts, .. } = scratch;
        heap.clear();
        let mut offer = |nodes: &[Node], heap: &mut BinaryHeap<Candidate>, left: u32| {
            let Some(&Node { symbol, start, end: meet, next, .. }) = nodes.get(left as usize) else { return };
            let Some(right) = nodes.get(next as usize) else { return };
            if let Some((rank, id)) = self.union(symbol, right.symbol) {
                heap.push(Reverse((rank, left, meet, right.end, id)));
                if self.unused.contains(&id) {
                    parts.insert(id, (symbol, meet - start, right.symbol));
                }
            }
        };
        for left in 0..nodes.len() as u32 {
            offer(nodes, heap, left);
        }
        while let Some(Reverse((_, left, meet, end, id))) = heap.pop() {
            let Node { end: left_end, previous, next, .. } = nodes[left as usize];
            // Since it was offered either part may have become part of another union. A node that was swallowed ends
            // where it begins.
            if left_end != meet || nodes.get(next as usize).is_none_or(|right| right.end != end) {
                continue;
            }
            let after = nodes[next as usize].next;
            nodes[next as usize].end = nodes[next as usize].start;
            nodes[left as usize] = Node { symbol: id, end, next: after, ..nodes[left as usize] };
            if let Some(after) = nodes.get_mut(after as usize) {
                after.previous = left;
            }
            offer(nodes, heap, previous);
            offer(nodes, heap, left);
        }
    }
}

impl Scratch {
    fn push(&mut self, symbol: u32, start: usize, end: usize) {
        let at = self.nodes.len() as u32;
        let previous = at.checked_sub(1).unwrap_or(NONE);
        self.nodes.push(Node { symbol, start: start as u32, end: end as u32, previous, next: at + 1 });
    }
}
