//! `--device`: what computes.

use std::rc::Rc;

use clap::ValueEnum;

use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::cuda::{self, Cuda};
use crate::error::Result;
use crate::log::log;

/// The devices that this build can compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The first NVIDIA card, or the CPU where there is none.
    #[default]
    Auto,
    /// All cores of the CPU, in f32.
    Cpu,
    /// The first NVIDIA card, in bf16 with f32 sums and masters.
    Cuda,
    /// The kernels of the card, executed on the CPU by an emulator that is stricter than a card: for those who change
    /// them. A step of a toy model takes seconds.
    Emulator,
}

impl Device {
    /// Opens the device. What `auto` chose instead of a card, and why, is said on the standard error.
    ///
    /// # Errors
    /// The user's, when the card that was asked for is not there or too old.
    pub fn open(self) -> Result<Rc<dyn Backend>> {
        match self {
            Self::Cpu => Ok(Rc::new(Cpu::new())),
            Self::Cuda => Ok(Rc::new(Cuda::open(0)?)),
            Self::Emulator => Ok(Rc::new(Cuda::emulated()?)),
            Self::Auto if !cuda::is_present() => {
                log("device: the CPU, because this machine has no CUDA driver");
                Ok(Rc::new(Cpu::new()))
            }
            Self::Auto => match Cuda::open(0) {
                Ok(card) => Ok(Rc::new(card)),
                Err(error) if error.exit_code() == 2 => {
                    log(format_args!("device: the CPU, because: {error}"));
                    Ok(Rc::new(Cpu::new()))
                }
                // A card that is there and fails is not to be passed over in silence.
                Err(error) => Err(error),
            },
        }
    }
}
