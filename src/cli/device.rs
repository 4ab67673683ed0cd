//! `--device`: what computes.

use std::rc::Rc;

use clap::ValueEnum;

use crate::backend::Backend;
use crate::cpu::Cpu;

/// The devices that this build can compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best there is on this machine.
    #[default]
    Auto,
    /// All cores of the CPU, in f32.
    Cpu,
}

impl Device {
    /// Opens the device.
    pub fn open(self) -> Rc<dyn Backend> {
        match self {
            Self::Auto | Self::Cpu => Rc::new(Cpu::new()),
        }
    }
}
