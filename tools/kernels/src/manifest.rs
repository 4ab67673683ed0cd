//! What `ptx/` was made from: hashes of every source and every PTX, the targets, and the compilers. `build.rs` compares
//! them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::compile::{Compiler, Unit};
use crate::{Result, compile};

/// From the repository's root.
pub const PATH: &str = "ptx/manifest.toml";

/// The manifest of what lies in `kernels/` and `ptx/` now.
pub fn make(root: &Path, compiler: &Compiler, units: &[Unit]) -> Result<String> {
    let mut text = String::from("# Written by `cargo run -p kernels -- build`, read by build.rs. Hashes are BLAKE3.\n");
    text += "\n[compiler]\n";
    for (name, version) in &compiler.versions {
        let _ = writeln!(text, "{name} = \"{version}\"");
    }
    text += "\n# The folder of each target's sources.\n[targets]\n";
    let (mut sources, mut ptx) = (BTreeMap::new(), BTreeMap::new());
    for target in &compiler.targets {
        let _ = writeln!(text, "{} = \"{}\"", target.name, target.sources);
        for extension in ["cu", "cuh", "h"] {
            for name in compile::names(&root.join(&target.sources), extension)? {
                let path = format!("{}/{name}.{extension}", target.sources);
                sources.insert(path.trim_start_matches("kernels/").to_owned(), hash(root, &path)?);
            }
        }
    }
    for unit in units {
        let path = unit.ptx();
        ptx.insert(path.trim_start_matches("ptx/").to_owned(), hash(root, &path)?);
    }
    for (section, hashes) in [("kernels", sources), ("ptx", ptx)] {
        let _ = write!(text, "\n[{section}]\n");
        for (name, hash) in hashes {
            let _ = writeln!(text, "\"{name}\" = \"{hash}\"");
        }
    }
    Ok(text)
}

fn hash(root: &Path, path: &str) -> Result<String> {
    let bytes = std::fs::read(root.join(path)).map_err(|e| format!("cannot read {path}: {e}"))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
