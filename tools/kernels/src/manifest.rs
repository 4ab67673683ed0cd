//! What `ptx/` was made from: hashes of every source and every PTX, and the compilers. `build.rs` compares them.

use std::fmt::Write;
use std::path::Path;

use crate::{Result, compile};

/// From the repository's root.
pub const PATH: &str = "ptx/manifest.toml";

/// The manifest of what lies in `kernels/` and `ptx/` now.
pub fn make(root: &Path, versions: &[(String, String)]) -> Result<String> {
    let mut text = String::from("# Written by `cargo run -p kernels -- build`, read by build.rs. Hashes are BLAKE3.\n");
    text += "\n[compiler]\n";
    for (name, version) in versions {
        let _ = writeln!(text, "{name} = \"{version}\"");
    }
    for (folder, extensions) in [("kernels", ["cu", "cuh", "h"].as_slice()), ("ptx", &["ptx"])] {
        let _ = write!(text, "\n[{folder}]\n");
        for extension in extensions {
            for name in compile::names(&root.join(folder), extension)? {
                let path = root.join(folder).join(format!("{name}.{extension}"));
                let bytes = std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                let _ = writeln!(text, "\"{name}.{extension}\" = \"{}\"", blake3::hash(&bytes).to_hex());
            }
        }
    }
    Ok(text)
}
