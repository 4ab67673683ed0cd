//! `--trace`: where the time of a command goes.

use std::cell::RefCell;
use std::io::BufWriter;
use std::path::Path;
use std::rc::Rc;

use super::device::Device;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::files::Staged;
use crate::wrap::{MOST_EVENTS, Traced};

/// A trace that was asked for, or not.
pub struct Trace<'a> {
    file: Option<&'a Path>,
    traced: RefCell<Option<Rc<Traced>>>,
}

impl<'a> Trace<'a> {
    /// A trace to `file`. To be made before anything is computed, so that what cannot be written is said then.
    ///
    /// # Errors
    /// The user's, when there is something at `file`, or its folder cannot be written.
    pub fn to(file: Option<&'a Path>) -> Result<Self> {
        if let Some(file) = file {
            if file.symlink_metadata().is_ok() {
                return Err(Error::user(format!(
                    "--trace: {} exists already: give the name of a new file",
                    file.display()
                )));
            }
            // What is dropped leaves nothing.
            Staged::create(file).map_err(|e| e.context("--trace"))?;
        }
        Ok(Self { file, traced: RefCell::default() })
    }

    /// Opens the device, and times its operations if that was asked for; a second time it is the same one then.
    ///
    /// # Errors
    /// Those of [`Device::open`].
    pub fn open(&self, device: Device) -> Result<Rc<dyn Backend>> {
        if self.file.is_none() {
            return device.open();
        }
        let mut traced = self.traced.borrow_mut();
        match &*traced {
            Some(traced) => Ok(traced.clone()),
            None => Ok(traced.insert(Rc::new(Traced::new(device.open()?)?)).clone()),
        }
    }

    /// Writes the trace, and the table to the standard error.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn finish(&self) -> Result<()> {
        let (Some(file), Some(traced)) = (self.file, &*self.traced.borrow()) else { return Ok(()) };
        if traced.lines().is_empty() {
            tracing::info!("trace: nothing was computed, so nothing was written");
            return Ok(());
        }
        if file.symlink_metadata().is_ok() {
            // What the command has written meanwhile is not replaced.
            return Err(Error::user(format!("--trace: {} exists by now: give it a name of its own", file.display())));
        }
        let mut staged = Staged::create(file)?;
        traced.write_trace(BufWriter::new(&mut staged)).map_err(|e| Error::io("write", file, &e))?;
        staged.commit()?;
        tracing::info!("\n{}", traced.table().trim_end());
        if traced.left_out() > 0 {
            tracing::info!("the trace holds the first {MOST_EVENTS} calls and leaves out {}", traced.left_out());
        }
        tracing::info!("trace   {}", file.display());
        Ok(())
    }
}
