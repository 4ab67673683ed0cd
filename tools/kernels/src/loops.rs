//! The hottest loop of each kernel of the tensor cores, as machine code: what bounds it before any card was asked.

use std::path::{Path, PathBuf};

use crate::architecture::Architecture;
use crate::budget::Budgets;
use crate::compile::{self, Target, Unit};
use crate::measure::{Kernel, measure};
use crate::toolchain::Toolchain;
use crate::{Result, read};

/// Prints a table of the kernels whose names contain `pattern`, on `architectures`. `ptx`: another file of PTX than the
/// committed ones, an earlier state of one for instance.
pub fn run(root: &Path, pattern: &str, architectures: &[String], ptx: Option<&Path>) -> Result<()> {
    let toolchain = Toolchain::install(root)?;
    let budgets = Budgets::read(root)?;
    let header = read(&root.join("kernels/abi.h"))?;
    println!("| kernel | target | registers | blocks | instructions | HMMA | LDSM | LDGSTS | BAR | BRA | HMMA share |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (path, target) in files(root, ptx)? {
        for architecture in Architecture::that_take(&target) {
            let named = architecture.for_target(&target);
            if !architectures.iter().any(|wanted| wanted == named) {
                continue;
            }
            let measured = measure(root, &toolchain, &path, named, "loops")?;
            for kernel in measured.kernels.iter().filter(|kernel| kernel.name.contains(pattern)) {
                let blocks = match budgets.of(&kernel.name).and_then(|budget| budget.dynamic(&header)) {
                    Ok(dynamic) => architecture
                        .blocks(kernel.threads, kernel.usage.registers, kernel.usage.shared + dynamic)
                        .to_string(),
                    // A kernel of an earlier state, which has no budget any more.
                    Err(_) => "-".into(),
                };
                row(kernel, named, &blocks);
            }
        }
    }
    Ok(())
}

fn row(kernel: &Kernel, architecture: &str, blocks: &str) {
    let Some(hottest) = kernel.code.hottest_loop() else { return };
    let [hmma, ldsm, ldgsts, bar, bra] = ["HMMA", "LDSM", "LDGSTS", "BAR", "BRA"].map(|name| hottest.count(name));
    let share = 100.0 * hmma as f64 / hottest.instructions as f64;
    println!(
        "| {} | {architecture} | {} | {blocks} | {} | {hmma} | {ldsm} | {ldgsts} | {bar} | {bra} | {share:.0} % |",
        kernel.name, kernel.usage.registers, hottest.instructions
    );
}

/// The files to look at, and what each is for.
fn files(root: &Path, ptx: Option<&Path>) -> Result<Vec<(PathBuf, String)>> {
    if let Some(ptx) = ptx {
        let text = read(ptx)?;
        let target = text.lines().find_map(|line| line.trim().strip_prefix(".target "));
        let target = target.ok_or_else(|| format!("{} has no line .target: it is not PTX", ptx.display()))?;
        let target = target.split(',').next().unwrap_or(target).trim().to_owned();
        let ptx = ptx.canonicalize().map_err(|e| format!("cannot find {}: {e}", ptx.display()))?;
        return Ok(vec![(ptx, target)]);
    }
    let units = compile::units(root, &Target::committed(root))?;
    let has_products = |unit: &&Unit| read(&root.join(unit.ptx())).is_ok_and(|text| text.contains("mma."));
    Ok(units.iter().filter(has_products).map(|unit| (unit.ptx().into(), unit.target.name.clone())).collect())
}
