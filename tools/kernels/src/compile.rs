//! From CUDA C++ to the PTX that is committed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolchain::Toolchain;
use crate::{Result, output, read};

/// What the PTX says it needs. nvcc writes its own generation, which only drivers of that generation take, but uses
/// nothing of it: 7.0 is the first that knows sm_80, and `check` has the ptxas of several generations agree.
const VERSION: &str = "7.0";
/// The lowest architecture that has what the kernels use, and that all newer ones take PTX for.
const ARCHITECTURE: &str = "sm_80";

/// A compiler and what it compiles for.
pub struct Compiler {
    nvcc: PathBuf,
    architecture: String,
    lower_version: bool,
    /// What the manifest says of it.
    pub versions: Vec<(String, String)>,
}

impl Compiler {
    /// The pinned one, for every card that there is.
    pub fn pinned(toolchain: &Toolchain) -> Self {
        let mut versions = Toolchain::versions();
        versions.push(("architecture".into(), ARCHITECTURE.into()));
        versions.push(("ptx".into(), VERSION.into()));
        Self { nvcc: toolchain.nvcc(), architecture: ARCHITECTURE.into(), lower_version: true, versions }
    }

    /// Another nvcc, for one architecture. What it writes is left as it is, for a driver of its own generation.
    pub fn of_the_user(nvcc: &Path, architecture: &str) -> Result<Self> {
        if architecture.strip_prefix("sm_").is_none_or(|number| !number.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(format!("--arch {architecture}: an architecture is called sm_ and a number, such as sm_90"));
        }
        // The compiler runs in the repository's root; a name without a folder is looked up on the path.
        let nvcc = if nvcc.components().count() > 1 { nvcc.canonicalize().unwrap_or(nvcc.into()) } else { nvcc.into() };
        let said = output(Command::new(&nvcc).arg("--version"))?;
        let version = said.lines().find(|line| line.contains("release")).unwrap_or("unknown").trim();
        let versions = vec![("nvcc".into(), version.into()), ("architecture".into(), architecture.into())];
        Ok(Self { nvcc, architecture: architecture.into(), lower_version: false, versions })
    }

    /// Compiles `kernels/UNIT.cu`. Line information stays in: the emulator and profilers name lines of the source by it.
    pub fn ptx(&self, root: &Path, unit: &str) -> Result<String> {
        let folder = root.join("target/kernels");
        std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        let to = folder.join(format!("{unit}.ptx"));
        let mut nvcc = Command::new(&self.nvcc);
        nvcc.current_dir(root).args(["-std=c++17", "-O3", "-lineinfo", "-Werror", "all-warnings", "-ptx"]);
        nvcc.arg(format!("-arch={}", self.architecture.replace("sm_", "compute_")));
        output(nvcc.arg("-o").arg(&to).arg(format!("kernels/{unit}.cu")))?;
        Ok(self.tidy(&read(&to)?, root))
    }

    /// The same whatever folder it was compiled in: paths from the repository's root, headers of CUDA from `cuda/`. Blank
    /// lines and comments, a tenth of it, go; so does the one thing that a lower version does not know, a hint that not
    /// all of a load's bytes are used.
    fn tidy(&self, ptx: &str, root: &Path) -> String {
        let mut tidy = String::with_capacity(ptx.len());
        for line in ptx.lines().map(str::trim_end) {
            if line.is_empty() || line.trim_start().starts_with("//") {
                continue;
            }
            if self.lower_version && line.trim_start().starts_with(".pragma \"used_bytes_mask") {
                continue;
            }
            if self.lower_version && line.starts_with(".version") {
                tidy += ".version ";
                tidy += VERSION;
            } else if let Some((before, path)) = file_directive(line) {
                tidy += before;
                tidy += &from_root(path, root);
                tidy.push('"');
            } else {
                tidy += line;
            }
            tidy.push('\n');
        }
        without_path_hashes(&tidy)
    }
}

/// nvcc names what is internal to a file, such as its own header's intrinsics, by a hash of where it was compiled. Those
/// names occur in the debugger's strings alone, which are lists of bytes: the eight digits become zeros.
fn without_path_hashes(ptx: &str) -> String {
    let (mut out, mut bytes, mut lengths) = (String::with_capacity(ptx.len()), Vec::new(), Vec::new());
    for line in ptx.lines() {
        if let Some(listed) = line.strip_prefix(".b8 ").and_then(byte_list) {
            lengths.push(listed.len());
            bytes.extend(listed);
            continue;
        }
        put_bytes(&mut out, &mut bytes, &mut lengths);
        out += line;
        out.push('\n');
    }
    put_bytes(&mut out, &mut bytes, &mut lengths);
    out
}

fn byte_list(numbers: &str) -> Option<Vec<u8>> {
    numbers.split(',').map(|number| number.parse().ok()).collect()
}

fn put_bytes(out: &mut String, bytes: &mut Vec<u8>, lengths: &mut Vec<usize>) {
    const BEFORE: &[u8] = b"_INTERNAL_";
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(BEFORE) {
            let digits = bytes[at + BEFORE.len()..].iter_mut().take(8);
            digits.take_while(|byte| byte.is_ascii_hexdigit()).for_each(|byte| *byte = b'0');
        }
    }
    let mut rest = bytes.as_slice();
    for length in lengths.drain(..) {
        let (line, after) = rest.split_at(length);
        let numbers: Vec<String> = line.iter().map(u8::to_string).collect();
        *out += ".b8 ";
        *out += &numbers.join(",");
        out.push('\n');
        rest = after;
    }
    bytes.clear();
}

/// `.file 1 "` and the path between the quotes.
fn file_directive(line: &str) -> Option<(&str, &str)> {
    if !line.trim_start().starts_with(".file") {
        return None;
    }
    let quote = line.find('"')? + 1;
    let length = line[quote..].find('"')?;
    Some((&line[..quote], &line[quote..quote + length]))
}

fn from_root(path: &str, root: &Path) -> String {
    // Before the repository's root, because the pinned compilers lie within it.
    if let Some((_, header)) = path.split_once("bin/..//include/").or_else(|| path.split_once("/include/")) {
        return format!("cuda/{header}");
    }
    match Path::new(path).strip_prefix(root) {
        Ok(inside) => inside.to_string_lossy().into_owned(),
        Err(_) => path.to_owned(),
    }
}

/// The files that are compiled, without `.cu`, in order.
pub fn units(root: &Path) -> Result<Vec<String>> {
    names(&root.join("kernels"), "cu")
}

/// The files of a folder that end in `.extension`, without it, in order.
pub fn names(folder: &Path, extension: &str) -> Result<Vec<String>> {
    let cannot = |e| format!("cannot list {}: {e}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if let (Some(stem), true) = (path.file_stem(), path.extension().is_some_and(|e| e == extension)) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_paths_become_zeros_across_lines() {
        let bytes = |text: &str| text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(",");
        let lines =
            |first: &str, second: &str| format!("{{\n.b8 {}\n.b8 {}\n}}\n.b8 __tag;\n", bytes(first), bytes(second));
        let made = without_path_hashes(&lines("_ZN43_INTERNAL_4c00", "33c5_12_x"));
        assert_eq!(made, lines("_ZN43_INTERNAL_0000", "0000_12_x"));
    }

    #[test]
    fn paths_begin_at_the_root() {
        let root = Path::new("/home/me/here");
        assert_eq!(from_root("/home/me/here/kernels/gemm.cu", root), "kernels/gemm.cu");
        let header = "/home/me/here/tools/kernels/.toolchain/nvcc/nvidia/cu13/bin/..//include/crt/math_functions.hpp";
        assert_eq!(from_root(header, root), "cuda/crt/math_functions.hpp");
        assert_eq!(file_directive("\t.file\t1 \"a/b.cu\""), Some(("\t.file\t1 \"", "a/b.cu")));
        assert_eq!(file_directive("\tret;"), None);
    }
}
