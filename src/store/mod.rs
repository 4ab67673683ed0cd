//! Models on the disk: other families' configurations and layouts, opening, writing, converting, inspecting.

pub mod adapter;
pub mod config_json;
pub mod convert;
mod foreign;
pub mod hub;
pub mod inspect;
mod layout;
pub mod pretrained;
mod unsupported;
pub mod weights;

pub use foreign::Family;
pub use layout::{Layout, Names};
pub use pretrained::Pretrained;
