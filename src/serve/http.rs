//! Connections: accepting them, bounding them, and ending well.

use std::future::{Future, pending};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::app::{self, App, Peer};
use super::engine::{Engine, Job};
use super::lanes::{Clients, cores, threads};
use super::stream::{Progress, Stream};
use super::{Info, LoadedModel, Options, Phase};
use crate::error::{Error, Result};

/// Connections beyond those that are allowed, at a time: they are told so, and how the server does. More wait in the
/// system's queue.
const RESERVE: usize = 64;
/// The longest that a connection of the reserve may take to send its request's head.
const RESERVE_HEAD: Duration = Duration::from_secs(1);
/// Bytes of a body that is not yet asked for, at most.
const BUFFER: usize = app::HEAD;
/// The longest that a connection may take to close at the end.
const CLOSE: Duration = Duration::from_secs(5);
/// The stack of the engine's thread, as large as a main thread's.
const STACK: usize = 8 << 20;

/// A server that listens and does not yet answer.
pub struct Server {
    listener: TcpListener,
    options: Options,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The user's, when the address is taken or not this machine's.
    pub fn bind(options: Options) -> Result<Self> {
        let address = options.address;
        let failed = |error| Error::user(format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, options })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The machine's.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| Error::machine(format!("no address: {error}")))
    }

    /// Loads the model on a thread of its own, answers until `stop`, then answers what is in flight. `ready` is called
    /// when requests are answered, unless the server is being stopped by then.
    ///
    /// # Errors
    /// Those of `load`, and the machine's.
    pub fn run(
        self,
        load: impl FnOnce() -> Result<LoadedModel> + Send + 'static,
        ready: impl FnOnce(&Info) + Send + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        let failed = |error| Error::machine(format!("cannot start the server: {error}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores().clamp(2, 4))
            .max_blocking_threads(threads())
            .enable_all()
            .build()
            .map_err(failed)?;
        let bounds = Bounds { idle: self.options.idle, connections: self.options.connections };
        let (sender, jobs) = mpsc::channel();
        let (failure, failures) = oneshot::channel();
        let app = Arc::new(App::new(self.options.clone(), sender));
        let compute = engine(self.options, &app, load, ready, jobs, failure);
        let engine = thread::Builder::new().name("engine".into()).stack_size(STACK).spawn(compute).map_err(failed)?;
        let outcome = runtime.block_on(serve(self.listener, app.clone(), bounds, failures, stop));
        // Ends the connections that did not end by themselves, and with them the last senders of jobs.
        runtime.shutdown_timeout(CLOSE);
        drop(app);
        // A model that is being loaded is not waited for.
        if outcome? && engine.join().is_err() {
            return Err(Error::machine("the engine panicked"));
        }
        Ok(())
    }
}

/// What the engine's thread does: it loads the model, and computes until nobody can ask any more.
fn engine(
    options: Options,
    app: &App,
    load: impl FnOnce() -> Result<LoadedModel> + Send + 'static,
    ready: impl FnOnce(&Info) + Send + 'static,
    jobs: mpsc::Receiver<Job>,
    failure: oneshot::Sender<Error>,
) -> impl FnOnce() + Send + 'static {
    let (phase, metrics) = (app.phase.clone(), app.metrics.clone());
    let load = move || {
        let panicked = |_| Err(Error::machine("loading the model panicked"));
        catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(panicked)
    };
    move || match load() {
        Ok(LoadedModel { info, score }) => {
            let info = Arc::new(info);
            let answers = phase.send_if_modified(|phase| {
                let loading = matches!(phase, Phase::Loading);
                if loading {
                    *phase = Phase::Ready(info.clone());
                }
                loading
            });
            if answers {
                ready(&info);
            }
            Engine::new(score, options.pack_length, options.cache, phase, metrics).run(&jobs);
        }
        // Nobody listens if the server has been stopped meanwhile.
        Err(error) => drop(failure.send(error)),
    }
}

/// Answers until all is done. Returns whether the model had been loaded by the time of `stop`.
async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    bounds: Bounds,
    failures: oneshot::Receiver<Error>,
    stop: impl Future<Output = ()>,
) -> Result<bool> {
    let graceful = GracefulShutdown::new();
    let failure = async {
        match failures.await {
            Ok(error) => error,
            Err(_) => pending().await,
        }
    };
    let drained = async {
        stop.await;
        let loaded = !matches!(app.phase.send_replace(Phase::Stopping), Phase::Loading);
        // The sender is ours, so there is no error.
        let _ = app.in_flight.subscribe().wait_for(|count| *count == 0).await;
        loaded
    };
    let loaded = tokio::select! {
        outcome = accept(listener, &app, bounds, &graceful) => return outcome.map(|()| true),
        error = failure => return Err(error),
        loaded = drained => loaded,
    };
    let _ = timeout(CLOSE, graceful.shutdown()).await;
    Ok(loaded)
}

/// Bounds of connections.
#[derive(Clone, Copy)]
struct Bounds {
    /// The longest pause.
    idle: Duration,
    /// At a time; one address has half of them.
    connections: usize,
}

/// Accepts connections; also while the server stops, so that others are told.
async fn accept(listener: TcpListener, app: &Arc<App>, bounds: Bounds, graceful: &GracefulShutdown) -> Result<()> {
    let failed = |error| Error::machine(format!("cannot listen: {error}"));
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let Bounds { idle, connections } = bounds;
    let [all, few] = [app::router(app.clone()), app::reserve(app.clone())].map(TowerToHyperService::new);
    let [for_all, for_few] = [(idle, true), (RESERVE_HEAD.min(idle), false)].map(|(head, keep_alive)| {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(head).keep_alive(keep_alive).max_buf_size(BUFFER);
        builder
    });
    let clients = Clients::new(connections);
    let reserve = Arc::new(Semaphore::new(RESERVE));
    loop {
        let Ok(spare) = reserve.clone().acquire_owned().await else { return pending().await };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of file descriptors: some will be given back.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Answers are small and final: nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        let place = clients.place(peer.ip()).ok();
        let (builder, service, spare) =
            if place.is_some() { (&for_all, all.clone(), None) } else { (&for_few, few.clone(), Some(spare)) };
        let progress = Progress::default();
        let stream = Stream::new(stream, idle, progress.clone());
        let service = service_fn(move |request| answer(&service, &progress, peer.ip(), request));
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A connection that breaks is its client's matter.
            let _ = connection.await;
            drop((place, spare));
        });
    }
}

/// Answers a request, which carries how far it is and where it comes from.
fn answer(
    service: &TowerToHyperService<Router>,
    progress: &Progress,
    address: IpAddr,
    mut request: Request<Incoming>,
) -> <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future {
    progress.reading();
    request.extensions_mut().insert(progress.clone());
    request.extensions_mut().insert(Peer(address));
    service.call(request)
}
