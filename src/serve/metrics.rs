//! What the server counts, as Prometheus reads it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters, histograms and gauges; clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Requests by path and status.
    pub requests: Family<Answered, Counter>,
    /// Seconds from a request's head to its answer's head, by path.
    pub seconds: Family<Path, Histogram, fn() -> Histogram>,
    /// Requests that wait or are computed.
    pub queue_depth: Gauge,
    /// Tokens computed in a pass.
    pub batch_tokens: Histogram,
    /// Sequences whose score was in the cache.
    pub cache_hits: Counter,
    /// Sequences asked for.
    pub sequences: Counter,
    /// Tokens of the sequences asked for.
    pub tokens: Counter,
    /// Raw scores that were given.
    pub scores: Gauge,
    /// Their mean.
    pub score_mean: Gauge<f64, AtomicU64>,
    /// Their standard deviation.
    pub score_deviation: Gauge<f64, AtomicU64>,
    /// Tokens computed: fewer, by shared prefixes and the cache.
    pub computed_tokens: Counter,
}

/// The label `path`: one of the server's, or `other`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Path {
    path: &'static str,
}

/// The labels of an answered request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    path: &'static str,
    status: u16,
}

/// From a millisecond to more than two minutes.
fn latencies() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("polar_raw");
        let metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(latencies),
            queue_depth: Gauge::default(),
            batch_tokens: Histogram::new(exponential_buckets(16.0, 2.0, 14)),
            cache_hits: Counter::default(),
            sequences: Counter::default(),
            tokens: Counter::default(),
            scores: Gauge::default(),
            score_mean: Gauge::default(),
            score_deviation: Gauge::default(),
            computed_tokens: Counter::default(),
        };
        registry.register("requests", "Requests by path and status", metrics.requests.clone());
        registry.register("request_seconds", "Seconds from request to answer", metrics.seconds.clone());
        registry.register("queue_depth", "Requests that wait or are computed", metrics.queue_depth.clone());
        registry.register("batch_tokens", "Tokens computed in a pass", metrics.batch_tokens.clone());
        registry.register("cache_hits", "Sequences whose score was in the cache", metrics.cache_hits.clone());
        registry.register("sequences", "Sequences asked for", metrics.sequences.clone());
        registry.register("tokens", "Tokens of the sequences asked for", metrics.tokens.clone());
        registry.register("scores", "Raw scores that were given", metrics.scores.clone());
        registry.register("score_mean", "Mean of the raw scores that were given", metrics.score_mean.clone());
        let deviation = metrics.score_deviation.clone();
        registry.register("score_deviation", "Standard deviation of the raw scores that were given", deviation);
        registry.register("computed_tokens", "Tokens computed", metrics.computed_tokens.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// Counts an answer.
    pub fn answered(&self, path: &'static str, status: u16, seconds: f64) {
        self.requests.get_or_create(&Answered { path, status }).inc();
        self.seconds.get_or_create(&Path { path }).observe(seconds);
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
