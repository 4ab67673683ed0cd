//! How fast training is beside what the device could do.

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, BackendExt};
use crate::error::Result;

/// The rate of floating-point operations that a step's is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ceiling {
    /// The card's published dense rate for the type of its floats, in FLOP/s.
    Published(f64),
    /// The highest rate that this machine was seen to reach, in FLOP/s: of matrix products measured at the start, or of
    /// a step that was faster.
    Measured(f64),
}

/// A step's rate as a share of a [`Ceiling`], under the name that says which.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Share {
    /// Model FLOP/s utilisation, 0 to 1: of the published dense peak, the definition of PaLM's appendix B (Chowdhery et
    /// al., arXiv 2204.02311), so that it compares with other people's numbers.
    #[serde(rename = "mfu")]
    Mfu(f64),
    /// Of the highest rate measured on this machine, 0 to 1.
    #[serde(rename = "rate_share", alias = "peak_share")]
    RateShare(f64),
}

impl Default for Share {
    fn default() -> Self {
        Share::RateShare(0.0)
    }
}

impl Share {
    /// The share itself, 0 to 1.
    pub fn value(self) -> f64 {
        match self {
            Share::Mfu(share) | Share::RateShare(share) => share,
        }
    }

    /// The tag in TensorBoard, in per cent: torchtitan's for MFU, and another for what is not MFU.
    pub fn tag(self) -> &'static str {
        match self {
            Share::Mfu(_) => "mfu(%)",
            Share::RateShare(_) => "rate_share(%)",
        }
    }
}

impl Ceiling {
    /// The published peak where the device is known, else a measured one, which takes a second.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn of(backend: &dyn Backend) -> Result<Self> {
        match backend.published_peak() {
            Some(peak) => Ok(Ceiling::Published(peak)),
            // Of the device alone: these products are not the run's, so no trace shows them.
            None => Ok(Ceiling::Measured(backend.wrapped().unwrap_or(backend).measure_peak()?)),
        }
    }

    /// The share of `flops` done in `seconds`. A step above a measured ceiling raises it: what was reached can be.
    pub fn share(&mut self, flops: f64, seconds: f64) -> Share {
        let rate = flops / seconds;
        match self {
            Ceiling::Published(peak) => Share::Mfu(rate / *peak),
            Ceiling::Measured(highest) => {
                *highest = highest.max(rate);
                Share::RateShare(if rate > 0.0 { rate / *highest } else { 0.0 })
            }
        }
    }

    /// What it is, for a person.
    pub fn describe(self) -> String {
        match self {
            Ceiling::Published(peak) => format!("published peak {:.0} TFLOP/s", peak / 1e12),
            Ceiling::Measured(highest) => format!("highest rate measured {:.0} GFLOP/s", highest / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_what_was_measured_is_never_above_one() {
        let mut ceiling = Ceiling::Measured(100.0);
        let shares: Vec<Share> = [50.0, 120.0, 60.0, 240.0, 0.0].map(|flops| ceiling.share(flops, 1.0)).into();
        assert_eq!(shares, [0.5, 1.0, 0.5, 1.0, 0.0].map(Share::RateShare));
        assert_eq!(ceiling, Ceiling::Measured(240.0));
        // Nothing was measured, as where every clock reading is the same.
        assert_eq!(Ceiling::Measured(0.0).share(0.0, 1.0), Share::RateShare(0.0));
    }

    #[test]
    fn mfu_counts_against_the_published_peak_alone() {
        let mut ceiling = Ceiling::Published(312e12);
        let share = ceiling.share(100e12, 1.0);
        assert_eq!((share, share.tag()), (Share::Mfu(100.0 / 312.0), "mfu(%)"));
        assert_eq!(ceiling, Ceiling::Published(312e12));
        assert_eq!(Ceiling::Measured(1.0).share(1.0, 1.0).tag(), "rate_share(%)");
    }

    #[test]
    fn shares_read_back_and_those_of_older_runs_too() {
        #[derive(Serialize, Deserialize)]
        struct Line {
            #[serde(flatten)]
            share: Share,
        }
        for (share, text) in [(Share::Mfu(0.25), r#"{"mfu":0.25}"#), (Share::RateShare(0.5), r#"{"rate_share":0.5}"#)] {
            assert_eq!(serde_json::to_string(&Line { share }).unwrap(), text);
            assert_eq!(serde_json::from_str::<Line>(text).unwrap().share, share);
        }
        assert_eq!(serde_json::from_str::<Line>(r#"{"peak_share":0.5}"#).unwrap().share, Share::RateShare(0.5));
    }
}
