//! Whether what is committed is what the pinned compilers make, and whether it keeps to its budgets.

use std::path::Path;

use crate::architecture::Architecture;
use crate::budget::{self, Budgets};
use crate::compile::{self, Compiler, Unit};
use crate::measure::{self, Usage, measure};
use crate::toolchain::{OLDER_PTXAS, Toolchain};
use crate::{Result, bindings, manifest, read};

/// What to do when something committed is not what it is made from.
const REBUILD: &str = "run `cargo run -p kernels -- build` and commit what it writes";

/// Runs all checks and reports all that is wrong.
pub fn run(root: &Path) -> Result<()> {
    let toolchain = Toolchain::install(root)?;
    let compiler = Compiler::pinned(root, &toolchain);
    let units = compile::units(root, &compiler.targets)?;
    let mut wrong = same_as_committed(root, &toolchain, &compiler, &units)?;
    let budgets = Budgets::read(root)?;
    let header = read(&root.join("kernels/abi.h"))?;
    let mut kernels = Vec::new();
    for unit in &units {
        let path = unit.ptx();
        println!("{path}");
        wrong.extend(accepted(root, &toolchain, unit)?);
        for architecture in Architecture::that_take(&unit.target.name) {
            let named = architecture.for_target(&unit.target.name);
            let name = format!("{}.{}", unit.name, unit.target.name);
            let measured = measure(root, &toolchain, path.as_ref(), named, &name)?;
            wrong.extend(measured.complaints.iter().map(|line| format!("{path}, {named}: {line}")));
            for kernel in measured.kernels {
                let budget = budgets.of(&kernel.name)?;
                let dynamic = budget.dynamic(&header)?;
                let found = budget.violations(&kernel, &architecture, dynamic);
                let Usage { registers, shared, .. } = kernel.usage;
                let (name, blocks) = (&kernel.name, architecture.blocks(kernel.threads, registers, shared + dynamic));
                println!(
                    "  {named} {name}: {registers} registers, {} bytes of shared memory, {blocks} blocks",
                    shared + dynamic
                );
                wrong.extend(found.iter().map(|what| format!("{name}, {named}: {what} ({})", budget::PATH)));
                kernels.push(kernel.name);
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

/// Which older ptxas do not take a unit, or make it spill: what a driver of their time has built in does this at the
/// user's, and at full optimisation.
fn accepted(root: &Path, toolchain: &Toolchain, unit: &Unit) -> Result<Vec<String>> {
    let (path, architecture) = (unit.ptx(), &unit.target.name);
    let mut wrong = Vec::new();
    for version in OLDER_PTXAS {
        let ptxas = toolchain.older_ptxas(version);
        match measure::assemble(root, &ptxas, path.as_ref(), architecture, "/dev/null".as_ref()) {
            Err(message) => wrong.push(format!("ptxas {version} does not accept {path}: {message}")),
            Ok(said) => {
                wrong.extend(measure::complaints(&said).iter().map(|line| format!("{path}, ptxas {version}: {line}")));
                let spilled = measure::usages(&said)?.into_iter().filter(|(_, usage)| usage.local > 0);
                wrong.extend(spilled.map(|(kernel, usage)| {
                    format!("{kernel}, {architecture}, ptxas {version}: {} bytes of stack and spills", usage.local)
                }));
            }
        }
    }
    Ok(wrong)
}
