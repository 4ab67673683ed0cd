//! A TensorBoard event file: TFRecords of `Event` messages.
//!
//! Record: length (u64), its masked CRC-32C, the message, its masked CRC-32C, all little-endian (`record_writer.cc`
//! of TensorFlow). Field numbers: `event.proto` and `summary.proto` of TensorBoard.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::error::{Error, Result};
use crate::train::metrics::StepMetrics;

/// The version of the format, which the first event of a file names.
const VERSION: &str = "brain.Event:2";
/// What the names of event files begin with; TensorBoard looks for it.
const PREFIX: &str = "events.out.tfevents.";

/// The event file of one process.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins a new event file in `folder` for the steps after `step`. TensorBoard joins the files of a folder and
    /// forgets what earlier ones hold beyond `step`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
        // TensorBoard reads the files in the order of their names, so that this one has to come last.
        let second = (now() as u64).max(last_second(folder)? + 1);
        let path = folder.join(format!("{PREFIX}{second:010}.polar-raw.{}", std::process::id()));
        let file = File::create_new(&path).map_err(|e| Error::io("create", &path, &e))?;
        let mut events = Self { file, path };
        events.write(0, What::FileVersion(VERSION.into()))?;
        events.write(step + 1, What::SessionLog(SessionLog { status: Status::Start.into() }))?;
        Ok(events)
    }

    /// Appends the curves of a step. They are in the file when this returns.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        let value = |(tag, value): (&str, f64)| Value { tag: tag.into(), simple_value: Some(value as f32) };
        let values = metrics.scalars().into_iter().map(value).collect();
        self.write(metrics.step, What::Summary(Summary { values }))
    }

    fn write(&mut self, step: u64, what: What) -> Result<()> {
        let event = Event { wall_time: now(), step: step as i64, what: Some(what) };
        self.file.write_all(&record(&event.encode_to_vec())).map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The latest second in the names of the event files in `folder`.
fn last_second(folder: &Path) -> Result<u64> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io("read", folder, &e))?;
    let second = |name: &str| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u32>().ok().map(u64::from);
    let seconds = entries.filter_map(|entry| second(&entry.ok()?.file_name().to_string_lossy()));
    Ok(seconds.max().unwrap_or(0))
}

/// `message` framed as a TFRecord.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), message, &masked_crc(message).to_le_bytes()].concat()
}

/// CRC-32C, rotated and shifted so that the CRC of data that holds CRCs is still of use (`crc32c.h` of TensorFlow).
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// A member of a oneof in the original: written even when it is zero.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(enumeration = "Status", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Status {
    Unspecified = 0,
    Start = 1,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::ScoreStats;

    /// Takes the records of a file apart again, checking every CRC.
    fn events(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut events = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<12>() {
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            let (message, crc) = tail[..length + 4].split_at(length);
            assert_eq!(head[8..], masked_crc(&head[..8]).to_le_bytes());
            assert_eq!(crc, masked_crc(message).to_le_bytes());
            events.push(Event::decode(message).unwrap());
            rest = &tail[length + 4..];
        }
        assert!(rest.is_empty());
        events
    }

    #[test]
    fn the_check_sum_is_tensorflows() {
        // CRC-32C of "123456789" is e3069283 (RFC 3720); rotated right by 15 bits, plus a282ead8.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn records_decode_to_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 6).unwrap();
        let scores = ScoreStats { accuracy: 0.0, margin: -0.5, ..Default::default() };
        let metrics = StepMetrics { step: 7, loss: 0.25, scores: Some(scores), ..Default::default() };
        file.append(&metrics).unwrap();
        let events = events(&file.path);
        let [version, start, step] = &events[..] else { panic!("{events:?}") };
        assert_eq!(version.what, Some(What::FileVersion("brain.Event:2".into())));
        assert_eq!((start.step, &start.what), (7, &Some(What::SessionLog(SessionLog { status: 1 }))));
        let Some(What::Summary(summary)) = &step.what else { panic!("{step:?}") };
        assert!(step.step == 7 && step.wall_time > 1.7e9);
        let find = |tag: &str| summary.values.iter().find(|v| v.tag == tag).unwrap().simple_value;
        assert_eq!(find("loss_metrics/global_avg_loss"), Some(0.25));
        assert_eq!((find("accuracy"), find("margin")), (Some(0.0), Some(-0.5)));
        assert_eq!(summary.values.len(), metrics.scalars().len());
    }

    #[test]
    fn a_later_file_sorts_last() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..3).map(|step| EventFile::create(folder.path(), step).unwrap().path).collect();
        assert!(paths.is_sorted() && paths[0] != paths[1] && paths[1] != paths[2], "{paths:?}");
    }
}
