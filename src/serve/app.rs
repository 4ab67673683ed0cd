//! What all requests share: bounds on queue and memory, the way to the engine, and the router.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{timeout, timeout_at};

use super::engine::{Failure, Job, RequestSequences};
use super::error::ApiError;
use super::lanes::{Clients, Full, GivenUp, Place, Preparation};
use super::metrics::Metrics;
use super::normalise::Running;
use super::plan::Plan;
use super::routes::{About, Action, ROUTES, known};
use super::stream::Progress;
use super::work::{Context, MAX_IDS, ScoreWork, Usage, bounded, now};
use super::{Info, Options, Phase, cors, openapi};

/// All bodies together take at most this many times the largest one.
const BODIES: usize = 4;
/// All requests that wait or are computed have at most this many times the tokens of the largest one.
const REQUESTS: usize = 4;
/// Bytes of a request's head, at most.
pub const HEAD: usize = 64 << 10;
/// Sequences that go through the engine to see whether it computes, at a time.
const PROBES: usize = 4;
/// The longest that one of them may take.
const PROBE: Duration = Duration::from_secs(20);
/// The longest that a body may take to arrive.
const BODY: Duration = Duration::from_secs(120);
/// Paths that answer without a key, for those who look after the process.
const OPEN: [&str; 2] = ["/health", "/ready"];

/// Where a request comes from.
#[derive(Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The server's state.
pub struct App {
    options: Options,
    model: Arc<str>,
    key: Option<blake3::Hash>,
    begun: u64,
    /// Whether requests can be answered.
    pub phase: watch::Sender<Phase>,
    /// Requests to score that are being answered.
    pub in_flight: watch::Sender<usize>,
    /// What is counted.
    pub metrics: Metrics,
    jobs: mpsc::Sender<Job>,
    preparation: Preparation,
    running: Arc<Running>,
    /// Requests for [`About::Generate`], which take no place of others.
    probes: Arc<Semaphore>,
    probed: AtomicU32,
    queue: Clients,
    bodies: Arc<Semaphore>,
    ids: Arc<Semaphore>,
}

impl App {
    /// The state of a server whose model is yet to be loaded.
    pub fn new(options: Options, jobs: mpsc::Sender<Job>) -> Self {
        Self {
            model: options.model.as_str().into(),
            key: options.api_key.as_ref().map(|key| blake3::hash(key.as_bytes())),
            begun: now(),
            phase: watch::Sender::new(Phase::Loading),
            in_flight: watch::Sender::new(0),
            metrics: Metrics::new(),
            jobs,
            preparation: Preparation::new(),
            running: Arc::default(),
            probes: Arc::new(Semaphore::new(PROBES)),
            probed: AtomicU32::new(0),
            queue: Clients::new(options.queue),
            bodies: Arc::new(Semaphore::new((options.max_body * BODIES).min(Semaphore::MAX_PERMITS))),
            ids: Arc::new(Semaphore::new(MAX_IDS * REQUESTS)),
            options,
        }
    }

    /// The model, if requests can be answered now.
    fn info(&self) -> Result<Arc<Info>, ApiError> {
        let unavailable = |code, message: String| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message));
        match &*self.phase.borrow() {
            Phase::Ready(info) => Ok(info.clone()),
            Phase::Loading => unavailable("loading", "the model is being loaded".into()),
            Phase::Stopping => unavailable("stopping", "the server is stopping".into()),
            Phase::Failed(reason) => Err(Failure::Engine(reason.clone()).into()),
        }
    }

    async fn about(&self, about: About) -> Response {
        match about {
            About::Health => Json(json!({"status": "ok"})).into_response(),
            About::Ready => self.info().map(|_| Json(json!({"status": "ready"}))).into_response(),
            About::Models => self.info().map(|info| Json(self.models(&info))).into_response(),
            About::ModelInfo => self.info().map(|info| Json(self.model_info(&info))).into_response(),
            About::Generate => self.generate().await.into_response(),
            About::Metrics => {
                const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                let waiting = self.options.queue - self.queue.free();
                self.metrics.queue_depth.set(waiting as i64);
                let moments = self.running.moments();
                self.metrics.scores.set(moments.count as i64);
                self.metrics.score_mean.set(moments.mean);
                self.metrics.score_deviation.set(moments.deviation());
                ([(header::CONTENT_TYPE, TYPE)], self.metrics.text()).into_response()
            }
            About::OpenApi => Json(openapi::document()).into_response(),
        }
    }

    fn models(&self, info: &Info) -> Value {
        json!({
            "object": "list",
            "data": [{
                "id": *self.model,
                "object": "model",
                "created": self.begun,
                "owned_by": "polar-raw",
                "max_model_len": info.max_length,
                "parameters": info.parameters,
                "device": info.device,
                "weights_blake3": info.weights.to_hex().as_str(),
            }],
        })
    }

    fn model_info(&self, info: &Info) -> Value {
        json!({
            "model_path": *self.model,
            "tokenizer_path": *self.model,
            "is_generation": false,
            "preferred_sampling_params": null,
            "weight_version": info.weights.to_hex().as_str(),
        })
    }

    /// Has the engine compute a sequence that it does not remember.
    async fn generate(&self) -> Result<Json<Value>, ApiError> {
        let info = self.info()?;
        let specials = info.tokenizer.specials();
        // Another one each time.
        let id = self.probed.fetch_add(1, Ordering::Relaxed) % info.vocab_size.max(1) as u32;
        let ids =
            [specials.bos, Some(id), specials.separator, Some(id), specials.score].into_iter().flatten().collect();
        let busy = |_| ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", "others ask for this already");
        let permits = (None, self.probes.clone().try_acquire_owned().map_err(busy)?);
        let (reply, receiver) = oneshot::channel();
        let sequences = RequestSequences::new(vec![ids], &info, self.options.pack_length);
        let failed = || Failure::Engine("a thread of the server ended before its work was done".into());
        self.jobs.send(Job { sequences, reply, permits }).map_err(|_| failed())?;
        let late = |_| {
            let message = format!("the engine did not compute a sequence within {} s", PROBE.as_secs());
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message)
        };
        timeout(PROBE.min(self.options.timeout), receiver).await.map_err(late)?.map_err(|_| failed())??;
        Ok(Json(json!({"status": "ok"})))
    }

    /// Answers a request to score.
    async fn score(
        &self,
        endpoint: fn(&Context, &[u8]) -> Result<ScoreWork, ApiError>,
        request: Request,
    ) -> Result<Json<Value>, ApiError> {
        // Counted before it is asked whether the server stops: it waits for what counts when it begins to.
        let _flight = Flight::new(&self.in_flight);
        let info = self.info()?;
        framed(request.headers())?;
        let progress = request.extensions().get::<Progress>().cloned();
        let peer = request.extensions().get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0);
        let (body, held) = self.body(request).await?;
        if let Some(progress) = progress {
            progress.answering();
        }
        let place = self.queue.place(peer).map_err(|full| {
            let message = match full {
                Full::All => format!("{} requests are waiting already", self.options.queue),
                Full::Share => format!("{} requests of this address are waiting already", self.queue.share()),
            };
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
        })?;
        let given_up = GivenUp(Arc::new(AtomicBool::new(false)));
        let context = Context {
            info,
            model: self.model.clone(),
            compat: self.options.compat,
            normalise: self.options.normalise,
            running: self.running.clone(),
            given_up: given_up.0.clone(),
        };
        let answer = self.answer(endpoint, context, body, held, place);
        timeout(self.options.timeout, answer).await.unwrap_or_else(|_| {
            let seconds = self.options.timeout.as_secs_f64();
            Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "timeout",
                format!(
                    "not done within {seconds} s; what was computed is kept, so send it again or in smaller pieces"
                ),
            ))
        })
    }

    async fn answer(
        &self,
        endpoint: fn(&Context, &[u8]) -> Result<ScoreWork, ApiError>,
        context: Context,
        body: Vec<u8>,
        held: Held,
        place: Place,
    ) -> Result<Json<Value>, ApiError> {
        let pack_length = self.options.pack_length;
        let ids_of_all = self.ids.clone();
        let lane = self.preparation.place(body.len()).await;
        // Parsing and tokenising take milliseconds for each megabyte: not on a thread that serves connections. They go
        // on to the end of a text when the client goes away, so what bounds their memory goes with them.
        let prepared = tokio::task::spawn_blocking(move || {
            let _lane = lane;
            context.go_on()?;
            let work = endpoint(&context, &body)?;
            drop(body);
            let normalises = work.normalises;
            let (mut ids, reply) = work.split();
            let usage = Usage { tokens: ids.iter().map(Vec::len).collect() };
            let plan = if normalises.is_none() { Some(Plan::new(&context, &mut ids)?) } else { None };
            let answered = normalises.unwrap_or(usage.tokens.len());
            let tokens = ids.iter().map(Vec::len).sum();
            bounded(tokens)?;
            let memory = ids_of_all.try_acquire_many_owned(tokens as u32).map_err(|_| {
                memory_full("the sequences of other requests take all the memory that there is for them")
            })?;
            let sequences = RequestSequences::new(ids, &context.info, pack_length);
            Ok::<_, ApiError>((context, sequences, (plan, answered), reply, usage, held, (Some(place), memory)))
        });
        let failed = || Failure::Engine("a thread of the server ended before its work was done".into());
        let (context, sequences, (plan, answered), reply, usage, _held, permits) =
            prepared.await.map_err(|_| failed())??;
        let (sender, receiver) = oneshot::channel();
        self.jobs.send(Job { sequences, reply: sender, permits }).map_err(|_| failed())?;
        self.metrics.sequences.inc_by(usage.tokens.len() as u64);
        self.metrics.tokens.inc_by(usage.total() as u64);
        let mut scores = receiver.await.map_err(|_| failed())??;
        self.running.add(scores.get(..answered).unwrap_or_default());
        if let Some(plan) = plan {
            scores = plan.apply(scores, &self.running);
        }
        Ok(Json(reply(&context, &scores, &usage)))
    }

    /// Reads a body within bounds of size, memory and time.
    async fn body(&self, request: Request) -> Result<(Vec<u8>, Held), ApiError> {
        let most = self.options.max_body;
        let too_large = || {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!(
                    "the body has more than {most} bytes: send several requests, or start the server with a larger --max-body"
                ),
            )
        };
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let mut body = request.into_body();
        if announced.is_some_and(|length: usize| length > most) {
            self.discard(body).await;
            return Err(too_large());
        }
        let end = tokio::time::Instant::now() + BODY;
        let (mut bytes, mut held) = (Vec::new(), Held(None));
        loop {
            let next = end.min(tokio::time::Instant::now() + self.options.idle);
            let frame = timeout_at(next, body.frame()).await.map_err(|_| {
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body did not arrive in time")
            })?;
            let Some(frame) = frame else { return Ok((bytes, held)) };
            let frame = frame.map_err(|error| ApiError::invalid(format!("the body did not arrive whole: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > most {
                drop((bytes, held));
                self.discard(body).await;
                return Err(too_large());
            }
            if !held.grow(&self.bodies, data.len()) {
                drop((bytes, held));
                self.discard(body).await;
                return Err(memory_full("the bodies of other requests take all the memory that there is for them"));
            }
            bytes.extend_from_slice(data);
        }
    }

    /// Reads on for a moment, so that a client that is still sending gets to read the answer.
    async fn discard(&self, mut body: Body) {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = timeout(self.options.idle, rest).await;
    }

    fn admits(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(key) = self.key else { return Ok(()) };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        // Hashes are compared in constant time.
        if OPEN.contains(&path) || bearer.is_some_and(|token| blake3::hash(token.as_bytes()) == key) {
            return Ok(());
        }
        let message = "this server wants a key: Authorization: Bearer KEY";
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
    }
}

fn memory_full(message: &str) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "memory_full", message)
}

/// Bytes of a body, counted among those of all requests.
struct Held(Option<OwnedSemaphorePermit>);

impl Held {
    fn grow(&mut self, all: &Arc<Semaphore>, bytes: usize) -> bool {
        let Ok(more) = all.clone().try_acquire_many_owned(bytes as u32) else { return false };
        match &mut self.0 {
            Some(held) => held.merge(more),
            None => self.0 = Some(more),
        }
        true
    }
}

/// A request to score that is being answered.
struct Flight<'a>(&'a watch::Sender<usize>);

impl<'a> Flight<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Refuses a body that is packed: what bounds bodies counts their bytes as they come.
fn framed(headers: &HeaderMap) -> Result<(), ApiError> {
    for encoding in headers.get_all(header::CONTENT_ENCODING) {
        if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content_encoding",
                format!("content-encoding: {encoding:?} is not read here; send the body as it is"),
            ));
        }
    }
    Ok(())
}

/// Refuses a request of which another server on the way might see another host or another end.
fn sound(request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    // What reads heads may have more of them in its buffer.
    if path + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() > HEAD {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(ApiError::new(status, "head_too_large", format!("the head has more than {HEAD} bytes")));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(ApiError::invalid(format!("host: HTTP/1.1 wants the header once, and there are {hosts}")));
    }
    for encoding in headers.get_all(header::TRANSFER_ENCODING) {
        if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(ApiError::invalid(format!("transfer-encoding: {encoding:?} is not read here, only chunked")));
        }
    }
    Ok(())
}

/// The router of connections beyond those that are allowed.
pub fn reserve(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, about) in [("/health", About::Health), ("/ready", About::Ready), ("/metrics", About::Metrics)] {
        router = router.route(path, get(async move |State(app): State<Arc<App>>| app.about(about).await));
    }
    router
        .fallback(async || {
            let message = "there are as many connections as are allowed, or as one address may have: use fewer, or start \
                           the server with more --connections";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "connections_full", message)
        })
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// The router of all paths.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        router = router.route(
            route.path,
            match route.action {
                Action::Score { endpoint, .. } => {
                    post(async move |State(app): State<Arc<App>>, request: Request| app.score(endpoint, request).await)
                }
                Action::Get(about) => get(async move |State(app): State<Arc<App>>| app.about(about).await),
            },
        );
    }
    router
        .fallback(async |request: Request| {
            let message = format!("there is no {}; /openapi.json lists what there is", request.uri().path());
            ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
        })
        .method_not_allowed_fallback(async |request: Request| {
            let message = format!("{} is not for {}", request.uri().path(), request.method());
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// Asks for the key, counts, and writes the access log.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let path = known(request.uri().path());
    let method = request.method().clone();
    let progress = request.extensions().get::<Progress>().cloned();
    let origin = cors::allowed(&app.options.cors, request.headers());
    let preflight = origin.as_ref().and_then(|_| cors::preflight(&request));
    let admitted = app.admits(path, request.headers()).and_then(|()| sound(&request));
    let mut response = match (preflight, admitted) {
        (Some(response), _) => response,
        (None, Ok(())) => next.run(request).await,
        (None, Err(error)) => {
            // The body is not waited for.
            let mut response = error.into_response();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    if let Some(origin) = origin {
        cors::allow(&mut response, origin);
    }
    if let Some(progress) = progress {
        progress.answered();
    }
    let (status, seconds) = (response.status().as_u16(), begun.elapsed().as_secs_f64());
    app.metrics.answered(path, status, seconds);
    if app.options.access_log {
        let ms = seconds * 1e3;
        tracing::info!(%method, path, status, ms, "{method} {path} {status} {ms:.1} ms");
    }
    response
}
