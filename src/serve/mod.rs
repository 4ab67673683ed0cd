//! `polar-raw serve`: scores over HTTP, in the forms of the servers that POLAR's users have, and in one of its own.
//!
//! The way of a request: `http` accepts it within bounds of connections, time and bytes; an endpoint (`routes`)
//! makes sequences of its body on a thread of its own; the `engine` computes them together with those of other
//! connections, or finds them in its cache; the endpoint makes the answer of the scores.

mod app;
mod compat;
pub mod cors;
mod engine;
mod error;
mod http;
mod input;
mod keys;
mod lanes;
mod metrics;
mod native;
mod normalise;
mod openapi;
mod plan;
mod rewards;
mod routes;
mod stream;
mod work;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use engine::Score;
pub use http::Server;
pub use normalise::Normalisation;
pub use openapi::document;
pub use routes::paths;
pub use work::Compat;

use crate::polar::{Form, TemplateConfig};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub address: SocketAddr,
    /// The model's name in answers.
    pub model: String,
    /// Whose `/pooling` a bare path means.
    pub compat: Compat,
    /// What endpoints answer in the place of raw scores.
    pub normalise: Normalisation,
    /// Origins whose pages may ask; `*` is any. None of them, and no answer says anything about it.
    pub cors: Vec<String>,
    /// What a request must bear, if anything.
    pub api_key: Option<String>,
    /// The largest body in bytes. All bodies together take at most four times that.
    pub max_body: usize,
    /// Connections at a time, half of them of one address; others learn that, and how the server does.
    pub connections: usize,
    /// Requests that wait or are computed, at most, half of them of one address.
    pub queue: usize,
    /// Scores that are remembered.
    pub cache: usize,
    /// Tokens of a pass, at most, unless a sequence is longer.
    pub pack_length: usize,
    /// The longest that a request may take once its body is there.
    pub timeout: Duration,
    /// The longest pause within a request's head or body, or in reading the answer; a connection without a request is
    /// closed after it.
    pub idle: Duration,
    /// Whether each answer is a line on the standard error.
    pub access_log: bool,
}

/// A model, as requests need to know it.
#[derive(Debug)]
pub struct Info {
    /// Makes ids of text.
    pub tokenizer: Tokenizer,
    /// What strings are.
    pub form: Form,
    /// How strings are built and cut where the request does not say.
    pub template: TemplateConfig,
    /// Ids are below.
    pub vocab_size: usize,
    /// The longest sequence that is taken.
    pub max_length: usize,
    /// BLAKE3 of the weights.
    pub weights: blake3::Hash,
    /// Number of parameters.
    pub parameters: usize,
    /// What computes.
    pub device: String,
}

/// A model that is ready to score, on the thread that loaded it.
pub struct LoadedModel {
    /// What requests need to know.
    pub info: Info,
    /// Scores groups of sequences.
    pub score: Score,
}

/// The sequences that the body of a `POST` to `path` comes to, in the order in which they are computed: what a server
/// makes of a request, without the server.
///
/// # Errors
/// The user's: a path to which nothing is posted, and what the endpoint refuses.
pub fn sequences(info: &Arc<Info>, path: &str, body: &[u8]) -> Result<Vec<Vec<u32>>> {
    let context = work::Context {
        info: info.clone(),
        model: "model".into(),
        compat: Compat::default(),
        normalise: Normalisation::default(),
        running: Arc::default(),
        given_up: Arc::default(),
    };
    let endpoint = routes::endpoint(path).ok_or_else(|| Error::user(format!("nothing is posted to {path}")))?;
    let work = endpoint(&context, body).map_err(|error| Error::user(error.message()))?;
    Ok(work.split().0)
}

/// Whether requests can be answered.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Loading,
    Ready(Arc<Info>),
    Failed(String),
    Stopping,
}

impl Phase {
    /// The engine has failed; true if that is news.
    fn fail(&mut self, reason: &str) -> bool {
        let ready = matches!(self, Self::Ready(_));
        if ready {
            *self = Self::Failed(reason.into());
        }
        ready
    }
}
