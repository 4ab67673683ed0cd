//! The Rust form of `kernels/abi.h`, with assertions of every size and offset that stop the compiler.

use std::path::Path;

use crate::Result;
use crate::toolchain::Toolchain;

/// From the repository's root.
pub const PATH: &str = "src/cuda/abi.rs";

/// What the bindings have to be.
pub fn generate(root: &Path, toolchain: &Toolchain) -> Result<String> {
    // SAFETY: this program has one thread, and so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("LIBCLANG_PATH", toolchain.libclang()) };
    let header = root.join("kernels/abi.h");
    let bindings = bindgen::Builder::default()
        .header(header.to_string_lossy())
        // Sizes are those of the device, and the header needs nothing but fixed ones.
        .clang_args(["-ffreestanding", "-nostdinc", "--target=x86_64-unknown-linux-gnu"])
        .raw_line("// Generated from kernels/abi.h by `cargo run -p kernels -- build`.")
        .allowlist_type(".*Params|Span|Visible")
        .allowlist_var("[A-Z0-9_]+")
        .blocklist_var("POINTER|ALIASED")
        .disable_header_comment()
        .derive_default(true)
        .generate()
        .map_err(|e| format!("bindgen cannot read {}: {e}", header.display()))?;
    Ok(bindings.to_string())
}
