//! Machine code: what ptxas makes of a file of PTX, and what stands in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::listing::{self, Listing};
use crate::toolchain::Toolchain;
use crate::{Result, output, read};

/// What ptxas says of a kernel.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Bytes of stack, and of registers spilled to it, stored and loaded.
    pub local: u32,
}

/// A kernel as machine code.
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Threads of a block.
    pub threads: u32,
    /// What it takes.
    pub usage: Usage,
    /// Its instructions.
    pub code: Listing,
}

/// A file of PTX as machine code of one architecture.
pub struct Measured {
    /// What ptxas found to say against it.
    pub complaints: Vec<String>,
    /// Its kernels, by name.
    pub kernels: Vec<Kernel>,
}

/// Compiles `ptx`, a path from the repository's root, for `architecture` at full optimisation, and looks at what comes
/// out. `name` is that of the cubin in `target/kernels`.
pub fn measure(root: &Path, toolchain: &Toolchain, ptx: &Path, architecture: &str, name: &str) -> Result<Measured> {
    let folder = root.join("target/kernels");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let cubin = folder.join(format!("{name}.{architecture}.cubin"));
    let said = assemble(root, &toolchain.ptxas(), ptx, architecture, &cubin)?;
    let mut code = listing::read(&output(Command::new(toolchain.nvdisasm()).arg("-c").arg(&cubin))?);
    let threads = threads(&read(&root.join(ptx))?);
    let mut kernels = Vec::new();
    for (name, usage) in usages(&said)? {
        let code = code.remove(&name).ok_or_else(|| format!("nvdisasm shows no code of {name}"))?;
        let threads =
            *threads.get(&name).ok_or_else(|| format!("{name} has no .maxntid: give it __launch_bounds__"))?;
        kernels.push(Kernel { name, threads, usage, code });
    }
    Ok(Measured { complaints: complaints(&said), kernels })
}

/// Runs a ptxas at full optimisation; what it said.
pub fn assemble(root: &Path, ptxas: &Path, ptx: &Path, architecture: &str, cubin: &Path) -> Result<String> {
    let mut command = Command::new(ptxas);
    command.current_dir(root).args(["-v", "-O3"]).arg(format!("-arch={architecture}")).arg("-o").arg(cubin);
    output(command.arg(ptx))
}

/// The lines of what ptxas said that are against a kernel: warnings, and the remarks with a number, C7510 for instance,
/// by which it says that it serialised what was meant to overlap. It calls these information.
pub fn complaints(said: &str) -> Vec<String> {
    let numbered = |line: &str| {
        line.split("(C").skip(1).any(|rest| {
            rest.split_once(')').is_some_and(|(code, _)| code.len() == 4 && code.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    said.lines().filter(|line| line.contains("warning") || numbered(line)).map(|line| line.trim().to_owned()).collect()
}

/// Threads of a block of each kernel, as its launch bounds say.
fn threads(ptx: &str) -> BTreeMap<String, u32> {
    let mut threads = BTreeMap::new();
    for entry in ptx.split(".visible .entry ").skip(1) {
        let Some((name, rest)) = entry.split_once('(') else { continue };
        let bounds = rest.split_once(".maxntid ").and_then(|(_, bounds)| bounds.split([',', '\n']).next());
        if let Some(bound) = bounds.and_then(|bound| bound.trim().parse().ok()) {
            threads.insert(name.trim().to_owned(), bound);
        }
    }
    threads
}

/// Reads what `ptxas -v` says: for each kernel a line with its name, one with stack and spills, one with the rest.
pub fn usages(said: &str) -> Result<BTreeMap<String, Usage>> {
    let mut usages = BTreeMap::new();
    let mut current: Option<(String, Usage)> = None;
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            current = rest.split_once('\'').map(|(name, _)| (name.to_owned(), Usage::default()));
        } else if let Some((_, usage)) = &mut current {
            usage.local += [" bytes stack frame", " bytes spill stores", " bytes spill loads"]
                .map(|what| number_before(line, what))
                .iter()
                .sum::<u32>();
            usage.shared += number_before(line, " bytes smem");
            if line.contains(" registers") {
                usage.registers = number_before(line, " registers");
                usages.extend(current.take());
            }
        }
    }
    if usages.is_empty() { Err(format!("ptxas -v names no kernel:\n{said}")) } else { Ok(usages) }
}

fn number_before(line: &str, what: &str) -> u32 {
    let Some((before, _)) = line.split_once(what) else { return 0 };
    let digits = before.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    before[digits..].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ptxas_says() {
        let said = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'gemm_nt' for 'sm_80'\n\
            ptxas info    : Function properties for gemm_nt\n    \
            8 bytes stack frame, 4 bytes spill stores, 2 bytes spill loads\n\
            ptxas info    : Used 96 registers, used 1 barriers, 1088 bytes smem, 432 bytes cmem[0]\n";
        let usage = usages(said).unwrap()["gemm_nt"];
        assert_eq!((usage.registers, usage.shared, usage.local), (96, 1088, 14));
        assert!(super::usages("nothing").is_err());
        assert!(complaints(said).is_empty());
    }

    #[test]
    fn remarks_with_a_number_are_complaints() {
        let said = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n\
            ptxas info    : (C75) or (Copies) are none\n\
            ptxas warning : Value of threads per SM is out of range\n";
        assert_eq!(complaints(said).len(), 2);
    }

    #[test]
    fn launch_bounds_say_the_threads() {
        let ptx = ".visible .entry a(\n.param .b8 a[8]\n)\n.maxntid 128, 1, 1\n{\n}\n\
            .visible .entry b(\n)\n.maxntid 256\n.minnctapersm 2\n{\n}\n";
        assert_eq!(threads(ptx), BTreeMap::from([("a".to_owned(), 128), ("b".to_owned(), 256)]));
    }
}
