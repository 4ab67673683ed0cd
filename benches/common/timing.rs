//! Time on a card.

use std::cell::RefCell;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use polar_raw::error::Result;

use super::machine::Machine;

const SAMPLES: usize = 10;

/// Criterion, whose samples are kept for the table that follows.
pub struct Timer(Option<Criterion>);

impl Timer {
    /// One that measures on a card; without one it is never asked.
    pub fn new(card: bool) -> Self {
        Self(card.then(|| {
            Criterion::default()
                .sample_size(SAMPLES)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1))
                .configure_from_args()
        }))
    }

    /// The median time of a run in seconds. Criterion's filter may leave it out.
    pub fn median(
        &mut self,
        machine: &Machine,
        name: &str,
        work: Throughput,
        run: &dyn Fn() -> Result<()>,
    ) -> Result<Option<f64>> {
        let Some(criterion) = &mut self.0 else { return Ok(None) };
        let (samples, failure) = (RefCell::new(Vec::new()), RefCell::new(None));
        let mut group = criterion.benchmark_group("cuda");
        group.throughput(work);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| match machine.time(iterations, run) {
                Ok(time) => {
                    samples.borrow_mut().push(time.as_secs_f64() / iterations as f64);
                    time
                }
                Err(error) => {
                    failure.borrow_mut().get_or_insert(error);
                    Duration::from_secs(1)
                }
            });
        });
        group.finish();
        if let Some(error) = failure.into_inner() {
            return Err(error);
        }
        // What comes before the last samples was to warm up.
        let mut samples = samples.into_inner();
        let mut last = samples.split_off(samples.len().saturating_sub(SAMPLES));
        last.sort_by(f64::total_cmp);
        Ok(last.get(last.len() / 2).copied())
    }
}
