//! CUDA: the kernels' PTX, which is part of the program, and what launchers and kernels agree on.

#[allow(missing_docs, clippy::pedantic, reason = "generated from kernels/abi.h, whose comments are its documentation")]
pub mod abi;
pub mod ptx;
