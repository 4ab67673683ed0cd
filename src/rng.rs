//! Random streams by name: whatever is random is a pure function of the seed, a purpose and an index.
//!
//! A stream never depends on how much another one was used, so that data, initialisation and order can be
//! reproduced apart, and resuming at step `n` needs the number `n` alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The stream of `purpose` number `index` under `seed`. Streams of different arguments are independent.
pub fn stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.update(&index.to_le_bytes());
    hash.update(purpose.as_bytes());
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}
