//! From CUDA C++ to the PTX that is committed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolchain::Toolchain;
use crate::{Result, output, read};

/// An architecture that kernels are compiled for. Its PTX lies in `ptx/NAME/`.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// `sm_80`, `sm_90a`.
    pub name: String,
    /// The folder with its sources, from the repository's root.
    pub sources: String,
    /// The `.version` that its PTX says it needs; `None` leaves what nvcc writes, its own generation, which only drivers
    /// of that generation take.
    pub version: Option<&'static str>,
}

impl Target {
    /// The targets of the committed PTX. `kernels/` itself is compiled for the lowest architecture that has what it uses,
    /// and that all newer ones take PTX for; 7.0 is the first version that knows sm_80, and `check` has the ptxas of
    /// several generations agree. A target of one capability alone has the folder of its name in `kernels/`: sm_90a,
    /// which no other card loads, needs PTX 8.0.
    pub fn committed(root: &Path) -> Vec<Self> {
        let own = |name: &str, version| Self { name: name.into(), sources: format!("kernels/{name}"), version };
        let portable = Self { name: "sm_80".into(), sources: "kernels".into(), version: Some("7.0") };
        let mut all = vec![portable, own("sm_90a", Some("8.0"))];
        all.retain(|target| root.join(&target.sources).is_dir());
        all
    }

    /// The files that are compiled, in order.
    pub fn units(&self, root: &Path) -> Result<Vec<Unit>> {
        let names = names(&root.join(&self.sources), "cu")?;
        Ok(names.into_iter().map(|name| Unit { target: self.clone(), name }).collect())
    }
}

/// A file of sources for one target.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What it is compiled for.
    pub target: Target,
    /// The file's name without `.cu`.
    pub name: String,
}

impl Unit {
    /// Where its source lies, from the repository's root.
    pub fn source(&self) -> String {
        format!("{}/{}.cu", self.target.sources, self.name)
    }

    /// Where its PTX lies, from the repository's root.
    pub fn ptx(&self) -> String {
        format!("ptx/{}/{}.ptx", self.target.name, self.name)
    }
}

/// The files of all targets.
pub fn units(root: &Path, targets: &[Target]) -> Result<Vec<Unit>> {
    let mut all = Vec::new();
    for target in targets {
        all.extend(target.units(root)?);
    }
    Ok(all)
}

/// PTX that no source gives, from the repository's root.
pub fn strays(root: &Path, units: &[Unit]) -> Result<Vec<String>> {
    let mut strays = Vec::new();
    let mut look = |folder: String| -> Result<()> {
        for name in names(&root.join(&folder), "ptx")? {
            let path = format!("{folder}/{name}.ptx");
            if !units.iter().any(|unit| unit.ptx() == path) {
                strays.push(path);
            }
        }
        Ok(())
    };
    look("ptx".into())?;
    let cannot = |e| format!("cannot list ptx: {e}");
    for entry in std::fs::read_dir(root.join("ptx")).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if let (true, Some(name)) = (path.is_dir(), path.file_name()) {
            look(format!("ptx/{}", name.to_string_lossy()))?;
        }
    }
    Ok(strays)
}

/// A compiler and what it compiles for.
pub struct Compiler {
    nvcc: PathBuf,
    /// What it compiles for.
    pub targets: Vec<Target>,
    /// What the manifest says of it.
    pub versions: Vec<(String, String)>,
}

impl Compiler {
    /// The pinned one, for every card that there is.
    pub fn pinned(root: &Path, toolchain: &Toolchain) -> Self {
        Self { nvcc: toolchain.nvcc(), targets: Target::committed(root), versions: Toolchain::versions() }
    }

    /// Another nvcc, for one architecture, for which it compiles `kernels/`. What it writes is left as it is, for a driver
    /// of its own generation.
    pub fn of_the_user(nvcc: &Path, architecture: &str) -> Result<Self> {
        if architecture.strip_prefix("sm_").is_none_or(|number| !number.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(format!("--arch {architecture}: an architecture is called sm_ and a number, such as sm_90"));
        }
        // The compiler runs in the repository's root; a name without a folder is looked up on the path.
        let nvcc = if nvcc.components().count() > 1 { nvcc.canonicalize().unwrap_or(nvcc.into()) } else { nvcc.into() };
        let said = output(Command::new(&nvcc).arg("--version"))?;
        let version = said.lines().find(|line| line.contains("release")).unwrap_or("unknown").trim();
        let versions = vec![("nvcc".into(), version.into())];
        let target = Target { name: architecture.into(), sources: "kernels".into(), version: None };
        Ok(Self { nvcc, targets: vec![target], versions })
    }

    /// Compiles a unit. Line information stays in: the emulator and profilers name lines of the source by it.
    pub fn ptx(&self, root: &Path, unit: &Unit) -> Result<String> {
        let folder = root.join("target/kernels");
        std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        let to = folder.join(format!("{}.{}.ptx", unit.name, unit.target.name));
        let mut nvcc = Command::new(&self.nvcc);
        nvcc.current_dir(root).args(["-std=c++17", "-O3", "-lineinfo", "-Werror", "all-warnings", "-ptx"]);
        nvcc.arg(format!("-arch={}", unit.target.name.replace("sm_", "compute_")));
        output(nvcc.arg("-o").arg(&to).arg(unit.source()))?;
        Ok(tidy(&read(&to)?, root, unit.target.version))
    }
}

/// The same whatever folder it was compiled in: paths from the repository's root, headers of CUDA from `cuda/`. Blank
/// lines and comments, a tenth of it, go; so does the one thing that a lower version does not know, a hint that not
/// all of a load's bytes are used.
fn tidy(ptx: &str, root: &Path, version: Option<&str>) -> String {
    let mut tidy = String::with_capacity(ptx.len());
    for line in ptx.lines().map(str::trim_end) {
        if line.is_empty() || line.trim_start().starts_with("//") {
            continue;
        }
        if version.is_some() && line.trim_start().starts_with(".pragma \"used_bytes_mask") {
            continue;
        }
        if let (Some(version), true) = (version, line.starts_with(".version")) {
            tidy += ".version ";
            tidy += version;
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
