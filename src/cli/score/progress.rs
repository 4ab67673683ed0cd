//! How far scoring is, on a terminal.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::log;

/// A reader that counts what is read.
pub struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    /// Counts from 0; the count can be read elsewhere.
    pub fn new(inner: R) -> (Self, Arc<AtomicU64>) {
        let bytes = Arc::new(AtomicU64::new(0));
        (Self { inner, bytes: bytes.clone() }, bytes)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A bar over the bytes of the input, with rows and tokens a second; nothing where there is no terminal to show it on.
pub struct Progress {
    bar: ProgressBar,
    bytes: Arc<AtomicU64>,
    started: Instant,
}

impl Progress {
    /// For an input of `length` bytes, if that is known. `hidden` if the scores themselves go to the terminal.
    pub fn new(length: Option<u64>, bytes: Arc<AtomicU64>, hidden: bool) -> Self {
        let bar = match length {
            _ if hidden || !log::draws_progress() => ProgressBar::hidden(),
            Some(length) => styled(ProgressBar::new(length), "{wide_bar} {percent} %  {eta} left\n{wide_msg}"),
            None => styled(ProgressBar::no_length(), "{spinner} {wide_msg}"),
        };
        Self { bar, bytes, started: Instant::now() }
    }

    /// What was passed over is no measure of the speed.
    pub fn begin(&mut self) {
        self.bar.set_position(self.bytes.load(Ordering::Relaxed));
        self.bar.reset_eta();
        self.started = Instant::now();
    }

    /// After a window: all rows so far, and the tokens that this process has computed.
    pub fn show(&self, rows: usize, tokens: u64) {
        self.bar.set_message(format!("{rows} rows  {:.0} tok/s", tokens as f64 / self.seconds()));
        self.bar.set_position(self.bytes.load(Ordering::Relaxed));
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::ProgressDrawTarget;

    #[test]
    fn the_bar_is_at_the_bytes_that_were_read() {
        let (mut reader, bytes) = Counted::new(&[7_u8; 100][..]);
        let mut progress = Progress::new(Some(100), bytes, true);
        progress.bar = styled(ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::hidden()), "{wide_bar}");
        progress.begin();
        assert_eq!(progress.bar.position(), 0);
        assert_eq!(reader.read(&mut [0; 60]).unwrap(), 60);
        progress.show(3, 1000);
        assert_eq!(progress.bar.position(), 60);
        assert!(progress.bar.message().starts_with("3 rows  "), "{}", progress.bar.message());
        progress.finish();
        assert!(progress.bar.is_finished());
    }
}
