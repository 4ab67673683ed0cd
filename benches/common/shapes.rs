//! The shapes of training: POLAR-1.8B, POLAR-7B, and sizes that no vector divides.

use polar_raw::backend::{Heads, Span};

use super::machine::Machine;

/// A model and the pack that it trains on.
pub struct Model {
    pub name: &'static str,
    pub hidden: usize,
    pub ffn: usize,
    pub heads: Heads,
    pub theta: f64,
    /// Tokens of a pack, for attention.
    pub tokens: usize,
    /// Tokens of a pack, for kernels that treat each by itself.
    pub rows: usize,
    /// Candidates of a pack; even.
    pub candidates: usize,
    /// What the sizes of linear layers are divided by.
    divisor: usize,
}

/// A linear layer: `[n, k]`.
pub struct Linear {
    pub name: &'static str,
    pub n: usize,
    pub k: usize,
}

impl Model {
    /// Those that a bench runs over: on the emulator with the same heads, widths and ragged packs, but fewer tokens, and
    /// linear layers an eighth as wide and deep.
    pub fn all(machine: &Machine) -> Vec<Self> {
        let reduced = machine.reduced;
        let model = |name, hidden, ffn, query, dim, theta| {
            let heads = Heads { query, kv: 8, dim };
            Self {
                name,
                hidden,
                ffn,
                heads,
                theta,
                tokens: if reduced { 256 } else { 32_768 },
                rows: if reduced { 64 } else { 32_768 },
                candidates: if reduced { 16 } else { 64 },
                divisor: if reduced { 8 } else { 1 },
            }
        };
        let mut models = vec![
            model("1.8B", 2048, 8192, 16, 128, 1e6),
            model("7B", 4096, 14_336, 32, 128, 5e7),
            model("odd", 2047, 8191, 16, 90, 1e6),
        ];
        if machine.tried {
            models.truncate(1);
        }
        models
    }

    /// The layers of a block of the transformer.
    pub fn linears(&self) -> [Linear; 4] {
        let (q, qkv) = (self.heads.query * self.heads.dim, (self.heads.query + 2 * self.heads.kv) * self.heads.dim);
        let linear = |name, n: usize, k: usize| Linear { name, n: n / self.divisor, k: k / self.divisor };
        [
            linear("wqkv", qkv, self.hidden),
            linear("wo", self.hidden, q),
            linear("w13", 2 * self.ffn, self.hidden),
            linear("w2", self.hidden, self.ffn),
        ]
    }

    /// Whether 8 elements at a time are possible.
    pub fn is_aligned(&self) -> bool {
        self.hidden.is_multiple_of(8)
    }
}

/// What a pack's tokens see of each other.
pub struct Pack {
    pub spans: Vec<Span>,
    pub positions: Vec<u32>,
}

impl Pack {
    /// Rows of lengths: first that of the prefix, then those of candidates that follow it.
    pub fn new(rows: impl Iterator<Item = Vec<u32>>) -> Self {
        let mut pack = Self { spans: Vec::new(), positions: Vec::new() };
        for (row, lengths) in rows.enumerate() {
            let start = pack.positions.len() as u32;
            for (i, &length) in lengths.iter().enumerate() {
                pack.push(row as u32, length, [start, if i == 0 { 0 } else { lengths[0] }]);
            }
        }
        pack
    }

    /// Ragged rows, each a prefix that its candidates share.
    pub fn ragged(tokens: usize) -> Self {
        const UNIT: usize = 256;
        const ROWS: [[u32; 3]; 2] = [[90, 50, 37], [60, 11, 8]];
        let scale = (tokens / UNIT).clamp(1, 16);
        let rows = 2 * (tokens / (UNIT * scale));
        Self::new((0..rows).map(|row| ROWS[row % 2].iter().map(|length| length * scale as u32).collect()))
    }

    /// Appends a run that sees a prefix and itself.
    fn push(&mut self, row: u32, length: u32, [prefix_start, prefix]: [u32; 2]) {
        let start = self.positions.len() as u32;
        self.positions.extend(prefix..prefix + length);
        self.spans.push(Span {
            query_start: start,
            queries: length,
            own_start: start,
            own: length,
            prefix_start,
            prefix,
            row,
            reserved: 0,
        });
    }
}
