//! What a kernel may use, how many blocks of it share a multiprocessor, and what its machine code must contain:
//! `budgets.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::architecture::Architecture;
use crate::measure::Kernel;
use crate::{Result, read};

/// From the repository's root.
pub const PATH: &str = "tools/kernels/budgets.toml";

/// All budgets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Of the kernels that no other budget names.
    default: Budget,
    budget: Vec<Budget>,
}

/// One budget, for all kernels that one of its patterns names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// None in the default.
    #[serde(default)]
    kernels: Vec<String>,
    registers: u32,
    /// Bytes of static shared memory.
    #[serde(default)]
    shared: u32,
    /// The name in `kernels/abi.h` of the bytes of dynamic shared memory that it is launched with.
    dynamic: Option<String>,
    /// Blocks on a multiprocessor, by architecture; 0 where none fits.
    #[serde(default)]
    blocks: BTreeMap<String, u32>,
    /// The fewest warps on a multiprocessor, for kernels that say nothing of blocks.
    warps: Option<u32>,
    /// Bytes of stack and spills, by architecture; none where it says nothing.
    #[serde(default)]
    local: BTreeMap<String, u32>,
    #[serde(default)]
    instructions: Vec<String>,
}

impl Budgets {
    /// Reads the file.
    pub fn read(root: &Path) -> Result<Self> {
        toml::from_str(&read(&root.join(PATH))?).map_err(|e| format!("{PATH}: {e}"))
    }

    /// The budget of a kernel: the one that names it, else the default.
    pub fn of(&self, kernel: &str) -> Result<&Budget> {
        let mut fitting = self.budget.iter().filter(|b| b.kernels.iter().any(|pattern| matches(pattern, kernel)));
        match (fitting.next(), fitting.next()) {
            (Some(budget), None) => Ok(budget),
            (None, _) => Ok(&self.default),
            (Some(_), Some(_)) => Err(format!("{kernel} has two budgets in {PATH}; its name must fit one pattern")),
        }
    }

    /// Patterns that name none of the kernels.
    pub fn unused<'a>(&'a self, kernels: &[String]) -> Vec<&'a str> {
        let patterns = self.budget.iter().flat_map(|b| &b.kernels).map(String::as_str);
        patterns.filter(|pattern| !kernels.iter().any(|kernel| matches(pattern, kernel))).collect()
    }
}

impl Budget {
    /// Bytes of dynamic shared memory, as `header`, which is `kernels/abi.h`, has them.
    pub fn dynamic(&self, header: &str) -> Result<u32> {
        let Some(name) = &self.dynamic else { return Ok(0) };
        let defined =
            |line: &str| line.strip_prefix("#define ")?.trim().strip_prefix(name.as_str())?.trim().parse().ok();
        header.lines().find_map(defined).ok_or_else(|| format!("{PATH}: kernels/abi.h has no number called {name}"))
    }

    /// What a kernel does on an architecture that its budget does not allow, one line each. `dynamic` is its dynamic shared
    /// memory.
    pub fn violations(&self, kernel: &Kernel, architecture: &Architecture, dynamic: u32) -> Vec<String> {
        let mut found = Vec::new();
        let usage = &kernel.usage;
        if usage.registers > self.registers {
            found.push(format!("{} registers, {} allowed", usage.registers, self.registers));
        }
        if usage.shared > self.shared {
            found.push(format!("{} bytes of static shared memory, {} allowed", usage.shared, self.shared));
        }
        let local = self.local.get(architecture.name).copied().unwrap_or(0);
        if usage.local > local {
            found.push(format!("{} bytes of stack and spills, {local} allowed", usage.local));
        }
        for instruction in &self.instructions {
            if !kernel.code.contains(instruction) {
                found.push(format!("no {instruction} in its machine code"));
            }
        }
        for spill in ["LDL", "STL"] {
            if local == 0 && kernel.code.contains(spill) {
                found.push(format!("{spill} in its machine code: it uses local memory"));
            }
        }
        let blocks = architecture.blocks(kernel.threads, usage.registers, usage.shared + dynamic);
        match (self.blocks.get(architecture.name), self.warps) {
            (Some(&budget), _) if budget != blocks => {
                found.push(format!("{blocks} blocks share a multiprocessor, the budget says {budget}"));
            }
            (Some(_), _) => {}
            (None, Some(fewest)) if blocks * kernel.threads / 32 < fewest => {
                let warps = blocks * kernel.threads / 32;
                found.push(format!("{warps} warps share a multiprocessor, {fewest} are the fewest"));
            }
            (None, Some(_)) => {}
            (None, None) => {
                found
                    .push(format!("no budget of blocks or warps for {}; there are {blocks} blocks", architecture.name));
            }
        }
        found
    }
}

/// Whether `name` is `pattern`, where `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(first) else { return false };
    (0..=name.len()).any(|i| name.is_char_boundary(i) && matches(rest, &name[i..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::ALL;
    use crate::listing;
    use crate::measure::Usage;

    #[test]
    fn patterns() {
        assert!(matches("gemm_*_64x64", "gemm_nt_64x64"));
        assert!(matches("gemm_*_64x64", "gemm_nt_swiglu_64x64"));
        assert!(!matches("gemm_*_64x64", "gemm_nt_128x128"));
        assert!(matches("adamw", "adamw"));
        assert!(!matches("adamw", "adamw2"));
        assert!(matches("*", ""));
    }

    #[test]
    fn a_kernel_that_no_budget_names_has_the_default() {
        let named =
            |kernel: &str, registers| format!("[[budget]]\nkernels = [\"{kernel}\"]\nregisters = {registers}\n");
        let text = format!("[default]\nregisters = 64\n{}{}", named("gemm_*", 255), named("*_any", 32));
        let budgets: Budgets = toml::from_str(&text).unwrap();
        let registers = |kernel| budgets.of(kernel).map(|budget| budget.registers);
        assert_eq!(registers("gemm_nt"), Ok(255));
        assert_eq!(registers("rope_any"), Ok(32));
        assert_eq!(registers("relu"), Ok(64));
        assert!(registers("gemm_any").unwrap_err().contains("two budgets"));
        assert_eq!(budgets.unused(&["gemm_nt".into()]), ["*_any"]);
    }

    #[test]
    fn what_a_kernel_may_not_do() {
        let budget = |text: &str| {
            toml::from_str::<Budgets>(&format!("[default]\nregisters = 64\n{text}")).unwrap().budget.remove(0)
        };
        let strict = "[[budget]]\nkernels = [\"k\"]\nregisters = 32\nshared = 16\ninstructions = [\"HMMA\"]\n";
        let kernel = |registers, shared, local, instruction: &str| Kernel {
            name: "k".into(),
            threads: 128,
            usage: Usage { registers, shared, local },
            code: listing::read(&format!("\t.section\t.text.k,\"ax\"\n /*0000*/ {instruction} R1 ;\n"))
                .remove("k")
                .unwrap(),
        };
        let a100 = ALL[0];
        let blocks = budget(&format!("{strict}blocks = {{ sm_80 = 16 }}"));
        assert!(blocks.violations(&kernel(32, 16, 0, "HMMA"), &a100, 0).is_empty());
        // Too many registers and so too few blocks, shared memory, spills, no product, local memory.
        assert_eq!(blocks.violations(&kernel(33, 17, 1, "LDL"), &a100, 0).len(), 6);
        // The dynamic shared memory counts: 100 KB leave room for one.
        assert_eq!(blocks.violations(&kernel(32, 16, 0, "HMMA"), &a100, 100 << 10).len(), 1);
        let warps = budget(&format!("{strict}warps = 8\nlocal = {{ sm_80 = 8 }}"));
        assert!(warps.violations(&kernel(32, 16, 8, "HMMA"), &a100, 50 << 10).is_empty());
        assert_eq!(warps.violations(&kernel(32, 16, 0, "HMMA"), &a100, 100 << 10).len(), 1);
        assert_eq!(budget(strict).violations(&kernel(32, 16, 0, "HMMA"), &a100, 0).len(), 1);
    }

    #[test]
    fn dynamic_shared_memory_has_its_name_in_the_header() {
        let budget = |name: &str| Budget { dynamic: Some(name.into()), ..toml::from_str(EMPTY).unwrap() };
        let header = "#define A_SHARED 4096\n/// Of b.\n#define A_SHARED_2  8192\n";
        assert_eq!(budget("A_SHARED").dynamic(header), Ok(4096));
        assert_eq!(budget("A_SHARED_2").dynamic(header), Ok(8192));
        assert!(budget("B_SHARED").dynamic(header).is_err());
    }

    const EMPTY: &str = "kernels = []\nregisters = 1";
}
