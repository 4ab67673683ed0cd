//! How far scoring is, on a terminal.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::log;

/// A bar over the bytes of the input, with rows and tokens a second; nothing where there is no terminal to show it on.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// For an input of `length` bytes, if that is known. `hidden` if the scores themselves go to the terminal.
    pub fn new(length: Option<u64>, hidden: bool) -> Self {
        let bar = match length {
            _ if hidden || !log::draws_progress() => ProgressBar::hidden(),
            Some(length) => styled(ProgressBar::new(length), "{wide_bar} {percent} %  {eta} left\n{wide_msg}"),
            None => styled(ProgressBar::no_length(), "{spinner} {wide_msg}"),
        };
        Self { bar, started: Instant::now() }
    }

    /// What was passed over, `bytes`, is no measure of the speed.
    pub fn begin(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        self.bar.reset_eta();
        self.started = Instant::now();
    }

    /// After a window: all rows and bytes so far, and the tokens that this process has computed.
    pub fn show(&self, rows: usize, bytes: u64, tokens: u64) {
        self.bar.set_message(format!("{rows} rows  {:.0} tok/s", tokens as f64 / self.seconds()));
        self.bar.set_position(bytes);
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
        let mut progress = Progress::new(Some(100), true);
        progress.bar = styled(ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::hidden()), "{wide_bar}");
        progress.begin(10);
        assert_eq!(progress.bar.position(), 10);
        progress.show(3, 60, 1000);
        assert_eq!(progress.bar.position(), 60);
        assert!(progress.bar.message().starts_with("3 rows  "), "{}", progress.bar.message());
        progress.finish();
        assert!(progress.bar.is_finished());
    }
}
