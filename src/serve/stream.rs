//! A connection whose client may close its sending half after a request and still get the answer.
//!
//! For the system a client that has closed its sending half and one that has gone away are alike. The HTTP
//! implementation gives up a request at the end of the stream, so that end is kept from it for a while: as long as a
//! client may pause, if all of the request is there.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_io_timeout::TimeoutStream;

/// The end of the stream is told after this, if there is no whole request.
const SHORT: Duration = Duration::from_millis(250);

/// How far the request of a connection is.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

const IDLE: u8 = 0;
const READING: u8 = 1;
const ANSWERING: u8 = 2;
const ANSWERED: u8 = 3;

impl Progress {
    /// The head is there.
    pub fn reading(&self) {
        self.0.store(READING, Ordering::Relaxed);
    }

    /// All of the request is there.
    pub fn answering(&self) {
        self.0.store(ANSWERING, Ordering::Relaxed);
    }

    /// The answer is made, and may yet have to be written.
    pub fn answered(&self) {
        self.0.store(ANSWERED, Ordering::Relaxed);
    }
}

/// The connection.
pub struct Stream {
    inner: Pin<Box<TimeoutStream<TcpStream>>>,
    progress: Progress,
    /// Bytes wait for the client to read.
    writing: bool,
    /// How long the end may be kept.
    most: Duration,
    ended: Option<Ended>,
}

struct Ended {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Stream {
    /// A client may pause for `most`, in reading and in writing.
    pub fn new(stream: TcpStream, most: Duration, progress: Progress) -> Self {
        // A client that does not read its answer holds it no longer than one that does not send its request.
        let mut inner = Box::pin(TimeoutStream::new(stream));
        inner.as_mut().set_write_timeout_pinned(Some(most));
        Self { inner, progress, writing: false, most, ended: None }
    }

    /// Resolves when the end of the stream may be told.
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (state, writing, most) = (self.progress.0.load(Ordering::Relaxed), self.writing, self.most);
        let ended = self.ended.get_or_insert_with(|| {
            let at = Instant::now();
            Ended { at, sleep: Box::pin(sleep_until(at + SHORT)) }
        });
        if state == IDLE {
            return Poll::Ready(());
        }
        let last = ended.at + most;
        loop {
            ready!(ended.sleep.as_mut().poll(context));
            let wait = state == ANSWERING || (state == ANSWERED && writing);
            let now = Instant::now();
            if !wait || now >= last {
                return Poll::Ready(());
            }
            ended.sleep.as_mut().reset((now + SHORT).min(last));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended.is_none() {
            let before = buffer.filled().len();
            ready!(this.inner.as_mut().poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_ended(context).map(Ok)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.inner.as_mut().poll_write(context, bytes);
        this.writing = written.is_pending();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner.as_mut().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner.as_mut().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.inner.as_mut().poll_write_vectored(context, slices);
        this.writing = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
