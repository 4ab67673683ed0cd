//! `--device`: what computes.

use std::ffi::OsStr;
use std::rc::Rc;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::cuda::{self, Cuda};
use crate::error::Result;

/// The devices that this build can compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first NVIDIA card, or the CPU where there is none.
    #[default]
    Auto,
    /// All cores of the CPU, in f32.
    Cpu,
    /// An NVIDIA card by its number, in bf16 with f32 sums and masters.
    Cuda(usize),
    /// The kernels of the card, executed on the CPU by an emulator that is stricter than a card.
    Emulator,
}

/// Reads the value of `--device`, for clap.
#[derive(Clone)]
pub struct DeviceParser;

impl DeviceParser {
    const NAMES: [(&str, &str); 5] = [
        ("auto", "The first NVIDIA card, or the CPU where there is none"),
        ("cpu", "All cores of the CPU, in f32"),
        ("cuda", "The first NVIDIA card, in bf16 with f32 sums and masters"),
        ("cuda:N", "The NVIDIA card number N, counted from 0 as the driver does"),
        (
            "emulator",
            "The kernels of the card, executed on the CPU by an emulator that is stricter than a card: for those who \
             change them. A step of a toy model takes seconds",
        ),
    ];

    fn read(text: &str) -> Option<Device> {
        match text {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            "emulator" => Some(Device::Emulator),
            // Without signs and spaces, which the standard library's numbers may have.
            _ => text
                .strip_prefix("cuda:")
                .filter(|number| number.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|number| number.parse::<u16>().ok())
                .map(|number| Device::Cuda(number.into())),
        }
    }
}

impl TypedValueParser for DeviceParser {
    type Value = Device;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> std::result::Result<Device, clap::Error> {
        value.to_str().and_then(Self::read).ok_or_else(|| {
            let mut error = clap::Error::new(ErrorKind::InvalidValue).with_cmd(command);
            let names = Self::NAMES.map(|(name, _)| name.to_string()).to_vec();
            error.insert(
                ContextKind::InvalidArg,
                ContextValue::String(arg.map_or("--device".into(), ToString::to_string)),
            );
            error.insert(ContextKind::InvalidValue, ContextValue::String(value.to_string_lossy().into_owned()));
            error.insert(ContextKind::ValidValue, ContextValue::Strings(names));
            error
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Self::NAMES.into_iter().map(|(name, about)| PossibleValue::new(name).help(about))))
    }
}

impl Device {
    /// Opens the device. What `auto` chose instead of a card, and why, is said on the standard error.
    ///
    /// # Errors
    /// The user's, when the card that was asked for is not there or too old.
    pub fn open(self) -> Result<Rc<dyn Backend>> {
        match self {
            Self::Cpu => Ok(Rc::new(Cpu::new())),
            Self::Cuda(ordinal) => Ok(Rc::new(Cuda::open(ordinal)?)),
            Self::Emulator => Ok(Rc::new(Cuda::emulated()?)),
            Self::Auto if !cuda::is_present() => {
                tracing::info!("device: the CPU, because this machine has no CUDA driver");
                Ok(Rc::new(Cpu::new()))
            }
            Self::Auto => match Cuda::open(0) {
                Ok(card) => Ok(Rc::new(card)),
                Err(error) if error.exit_code() == 2 => {
                    tracing::info!("device: the CPU, because: {error}");
                    Ok(Rc::new(Cpu::new()))
                }
                // A card that is there and fails is not to be passed over in silence.
                Err(error) => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name_and_number() {
        for (text, device) in [
            ("auto", Some(Device::Auto)),
            ("cpu", Some(Device::Cpu)),
            ("cuda", Some(Device::Cuda(0))),
            ("cuda:0", Some(Device::Cuda(0))),
            ("cuda:12", Some(Device::Cuda(12))),
            ("emulator", Some(Device::Emulator)),
            ("cuda:", None),
            ("cuda:N", None),
            ("cuda:+1", None),
            ("cuda:-1", None),
            ("cuda:99999", None),
            ("CPU", None),
            ("", None),
        ] {
            assert_eq!(DeviceParser::read(text), device, "{text}");
        }
    }
}
