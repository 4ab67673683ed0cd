//! How long each operation takes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::nvtx::Nvtx;
use super::{Around, work};
use crate::backend::{Backend, BackendExt, Checked};
use crate::error::Result;
use crate::ops::Work;
use crate::tensor::{Dtype, Tensor};

/// A backend whose operations are timed: one line an operation in the table, one event a call in the trace. The host
/// waits for the device around each of them, so times are right, and the whole takes longer than without.
pub struct Traced {
    inner: Rc<dyn Backend>,
    /// Reading it waits for the device.
    waited_for: Tensor,
    nvtx: Option<Nvtx>,
    begin: Instant,
    lines: RefCell<BTreeMap<&'static str, Line>>,
    events: RefCell<Vec<Event>>,
}

/// All calls of one operation together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    /// How many calls there were.
    pub calls: u64,
    /// How long they took.
    pub time: Duration,
    /// What they cost at least.
    pub work: Work,
}

struct Event {
    name: &'static str,
    start: Duration,
    time: Duration,
    work: Work,
    /// `y Bf16[8, 16], x Bf16[8, 16]`.
    operands: String,
}

/// The most calls that a trace holds: some 60 MB of memory and of JSON. The table goes on.
pub const MOST_EVENTS: usize = 200_000;

impl Traced {
    /// Traces the operations of `inner` from now on.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn new(inner: Rc<dyn Backend>) -> Result<Self> {
        let waited_for = inner.tensor(Dtype::U32, &[1])?;
        inner.write_u32(&waited_for, &[0])?;
        let (lines, events) = (RefCell::default(), RefCell::default());
        Ok(Self { inner, waited_for, nvtx: Nvtx::find(), begin: Instant::now(), lines, events })
    }

    fn wait(&self) -> Result<()> {
        self.inner.read(&self.waited_for, &mut [0; 4])
    }

    /// What each operation took so far, by name.
    pub fn lines(&self) -> BTreeMap<&'static str, Line> {
        self.lines.borrow().clone()
    }

    /// One line an operation, the longest first: calls, time, share of all operations' time, what was achieved.
    pub fn table(&self) -> String {
        let mut lines: Vec<_> = self.lines().into_iter().collect();
        lines.sort_by_key(|(name, line)| (std::cmp::Reverse(line.time), *name));
        let all: f64 = lines.iter().map(|(_, line)| line.time.as_secs_f64()).sum();
        let head = format!(
            "{:<24} {:>8} {:>11} {:>7} {:>10} {:>8}\n",
            "operation", "calls", "time", "share", "GFLOP/s", "GB/s"
        );
        let row = |(name, line): &(&str, Line)| {
            let seconds = line.time.as_secs_f64();
            let rate = |count: u64| count as f64 / seconds.max(1e-12) / 1e9;
            format!(
                "{name:<24} {:>8} {:>8.1} ms {:>5.1} % {:>10.2} {:>8.2}\n",
                line.calls,
                1e3 * seconds,
                100.0 * seconds / all.max(1e-12),
                rate(line.work.operations()),
                rate(line.work.bytes)
            )
        };
        let table = lines.iter().map(row).fold(head, |table, row| table + &row);
        let calls: u64 = lines.iter().map(|(_, line)| line.calls).sum();
        format!("{table}{:<24} {calls:>8} {:>8.1} ms {:>5.1} %\n", "in all", 1e3 * all, 100.0)
    }

    /// How many calls the trace leaves out, because it holds the first [`MOST_EVENTS`] only.
    pub fn left_out(&self) -> u64 {
        let calls: u64 = self.lines.borrow().values().map(|line| line.calls).sum();
        calls - self.events.borrow().len() as u64
    }

    /// Writes the calls as a trace of complete events, which Perfetto and `chrome://tracing` open: `ts` and `dur` are in
    /// microseconds since the trace began.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write_trace(&self, mut out: impl Write) -> std::io::Result<()> {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let (device, left_out) = (serde_json::Value::from(self.inner.name()), self.left_out());
        writeln!(
            out,
            r#"{{"displayTimeUnit": "ns", "otherData": {{"device": {device}, "calls left out": {left_out}}},"#
        )?;
        write!(out, r#""traceEvents": ["#)?;
        for (i, Event { name, start, time, work, operands }) in self.events.borrow().iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let (start, time, operands) = (micros(*start), micros(*time), serde_json::Value::from(operands.as_str()));
            let Work { matrix, scalar, bytes } = work;
            write!(
                out,
                "{comma}\n{{\"name\": \"{name}\", \"ph\": \"X\", \"pid\": 1, \"tid\": 1, \"ts\": {start}, \"dur\": {time}, \
                 \"args\": {{\"operands\": {operands}, \"matrix operations\": {matrix}, \"other operations\": {scalar}, \
                 \"fewest bytes\": {bytes}}}}}"
            )?;
        }
        writeln!(out, "\n]}}")?;
        out.flush()
    }
}

impl Around for Traced {
    fn inner(&self) -> &dyn Backend {
        self.inner.as_ref()
    }

    fn around(&self, op: &Checked) -> Result<()> {
        let name = op.op().name();
        self.wait()?;
        let start = self.begin.elapsed();
        // SAFETY: checked for the dtypes, memory and indices of the one inside, which `Around` hands on.
        let run = || unsafe { self.inner.execute(op) }.and_then(|()| self.wait());
        self.nvtx.map_or_else(run, |nvtx| nvtx.range(name, run))?;
        let time = self.begin.elapsed() - start;
        let work = work(self.inner.as_ref(), op.op())?;
        let mut lines = self.lines.borrow_mut();
        let line = lines.entry(name).or_default();
        *line = Line { calls: line.calls + 1, time: line.time + time, work: line.work + work };
        let mut events = self.events.borrow_mut();
        if events.len() < MOST_EVENTS {
            let operands = op.op().op().operands();
            let operands = operands.iter().map(|operand| format!("{} {:?}", operand.name, operand.tensor));
            let operands = operands.collect::<Vec<_>>().join(", ");
            events.push(Event { name, start, time, work, operands });
        }
        Ok(())
    }
}
