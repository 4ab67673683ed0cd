//! Whether what is committed is what the pinned compilers make, and whether it keeps to its budgets.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::budget::{self, Budgets, Usage};
use crate::compile::{self, Compiler, Unit};
use crate::toolchain::{OLDER_PTXAS, Toolchain};
use crate::{Result, bindings, manifest, output, read};

/// What PTX for `target` is compiled to and measured as: the first architecture that it is for, and Hopper; what is for
/// one capability alone, as that.
fn architectures(target: &str) -> Vec<&str> {
    if target.ends_with('a') { vec![target] } else { vec![target, "sm_90"] }
}

/// What to do when something committed is not what it is made from.
const REBUILD: &str = "run `cargo run -p kernels -- build` and commit what it writes";

/// Runs all checks and reports all that is wrong.
pub fn run(root: &Path) -> Result<()> {
    let toolchain = Toolchain::install(root)?;
    let compiler = Compiler::pinned(root, &toolchain);
    let units = compile::units(root, &compiler.targets)?;
    let mut wrong = same_as_committed(root, &toolchain, &compiler, &units)?;
    let budgets = Budgets::read(root)?;
    let mut kernels = Vec::new();
    for unit in &units {
        let path = unit.ptx();
        println!("{path}");
        wrong.extend(accepted(root, &toolchain, unit)?);
        for architecture in architectures(&unit.target.name) {
            let measured = measure(root, &toolchain, unit, architecture)?;
            wrong.extend(measured.warnings.iter().map(|line| format!("{path}, {architecture}: {line}")));
            for (kernel, usage, code) in measured.kernels {
                let found = budgets.of(&kernel)?.violations(&usage, &code);
                let Usage { registers, shared, .. } = usage;
                println!("  {architecture} {kernel}: {registers} registers, {shared} bytes of static shared memory");
                wrong.extend(found.iter().map(|what| format!("{kernel}, {architecture}: {what} ({})", budget::PATH)));
                kernels.push(kernel);
            }
        }
    }
    let unused = budgets
        .unused(&kernels)
        .into_iter()
        .map(|pattern| format!("{}: no kernel is called {pattern}; remove the pattern", budget::PATH));
    wrong.extend(unused);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\nerror: ")) }
}

/// What differs between the repository and what the pinned compilers make of its sources.
fn same_as_committed(root: &Path, toolchain: &Toolchain, compiler: &Compiler, units: &[Unit]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut compare = |path: &str, made: &str| match read(&root.join(path)) {
        Ok(committed) if committed == made => {}
        Ok(_) => wrong.push(format!("{path} is not what its sources give; {REBUILD}")),
        Err(message) => wrong.push(format!("{message}; {REBUILD}")),
    };
    for unit in units {
        println!("{}", unit.source());
        compare(&unit.ptx(), &compiler.ptx(root, unit)?);
    }
    compare(manifest::PATH, &manifest::make(root, compiler, units)?);
    compare(bindings::PATH, &bindings::generate(root, toolchain)?);
    for stray in compile::strays(root, units)? {
        wrong.push(format!("{stray} has no source; {REBUILD}"));
    }
    Ok(wrong)
}

/// Which older ptxas do not take a unit. Without optimisation, since it is the grammar that they are asked about.
fn accepted(root: &Path, toolchain: &Toolchain, unit: &Unit) -> Result<Vec<String>> {
    let (path, architecture) = (unit.ptx(), &unit.target.name);
    let mut wrong = Vec::new();
    for version in OLDER_PTXAS {
        let mut ptxas = Command::new(toolchain.older_ptxas(version));
        ptxas.current_dir(root).args(["-O0", "-o", "/dev/null"]).arg(format!("-arch={architecture}")).arg(&path);
        if let Err(message) = output(&mut ptxas) {
            wrong.push(format!("ptxas {version} does not accept {path}: {message}"));
        }
    }
    Ok(wrong)
}

struct Measured {
    warnings: Vec<String>,
    kernels: Vec<(String, Usage, BTreeMap<String, usize>)>,
}

fn measure(root: &Path, toolchain: &Toolchain, unit: &Unit, architecture: &str) -> Result<Measured> {
    let cubin = root.join(format!("target/kernels/{}.{}.{architecture}.cubin", unit.name, unit.target.name));
    let mut ptxas = Command::new(toolchain.ptxas());
    ptxas.current_dir(root).arg("-v").arg(format!("-arch={architecture}")).arg("-o").arg(&cubin);
    let said = output(ptxas.arg(unit.ptx()))?;
    let mut usages = usages(&said)?;
    let mut code = machine_code(&output(Command::new(toolchain.nvdisasm()).arg("-c").arg(&cubin))?);
    let warnings = said.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect();
    let mut kernels = Vec::new();
    while let Some((kernel, usage)) = usages.pop_first() {
        let instructions = code.remove(&kernel).ok_or_else(|| format!("nvdisasm shows no code of {kernel}"))?;
        kernels.push((kernel, usage, instructions));
    }
    Ok(Measured { warnings, kernels })
}

/// Reads what `ptxas -v` says: for each kernel a line with its name, one with stack and spills, one with the rest.
fn usages(said: &str) -> Result<BTreeMap<String, Usage>> {
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

/// How often each instruction occurs in each kernel, by its name up to the first dot.
fn machine_code(listing: &str) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut kernels: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut current = None;
    for line in listing.lines() {
        if let Some(name) = line.trim().strip_prefix(".section\t.text.").or(line.trim().strip_prefix(".section .text."))
        {
            let name = name.split([',', '\t', ' ']).next().unwrap_or(name);
            current = Some(kernels.entry(name.to_owned()).or_default());
        } else if let (Some(code), Some((_, rest))) = (&mut current, line.split_once("*/")) {
            // `/*0010*/  @!P0 LDG.E.128 R4, ... ;`
            let mut words = rest.split_whitespace().skip_while(|word| word.starts_with('@') || *word == "{");
            if let Some(word) = words.next() {
                let name = word.split('.').next().unwrap_or(word).trim_end_matches(';');
                *code.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    kernels
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
        let usages = usages(said).unwrap();
        let usage = &usages["gemm_nt"];
        assert_eq!((usage.registers, usage.shared, usage.local), (96, 1088, 14));
        assert!(super::usages("nothing").is_err());
    }

    #[test]
    fn reads_what_nvdisasm_shows() {
        let listing = "\t.section\t.text.adamw,\"ax\",@progbits\n.text.adamw:\n        \
            /*0000*/                   MOV R1, c[0x0][0x28] ;\n        \
            /*0010*/              @!P0 LDG.E.128 R4, [R2] ;\n        \
            /*0020*/                   EXIT ;\n";
        let code = &machine_code(listing)["adamw"];
        assert_eq!(code["LDG"], 1);
        assert_eq!(code["MOV"], 1);
        assert_eq!(code["EXIT"], 1);
    }
}
