//! What a kernel may use and what its machine code must contain: `budgets.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::{Result, read};

/// From the repository's root.
pub const PATH: &str = "tools/kernels/budgets.toml";

/// All budgets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    budget: Vec<Budget>,
}

/// One budget, for all kernels that one of its patterns names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    kernels: Vec<String>,
    registers: u32,
    #[serde(default)]
    shared: u32,
    #[serde(default)]
    instructions: Vec<String>,
}

/// What ptxas says of a kernel.
#[derive(Default)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Bytes of stack, and of registers spilled to it, stored and loaded.
    pub local: u32,
}

impl Budgets {
    /// Reads the file.
    pub fn read(root: &Path) -> Result<Self> {
        toml::from_str(&read(&root.join(PATH))?).map_err(|e| format!("{PATH}: {e}"))
    }

    /// The budget of a kernel. Each has just one.
    pub fn of(&self, kernel: &str) -> Result<&Budget> {
        let mut fitting = self.budget.iter().filter(|b| b.kernels.iter().any(|pattern| matches(pattern, kernel)));
        match (fitting.next(), fitting.next()) {
            (Some(budget), None) => Ok(budget),
            (None, _) => Err(format!("{kernel} has no budget; give it one in {PATH}")),
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
    /// What a kernel does that its budget does not allow, one line each. `machine_code` maps instructions to how often
    /// they occur.
    pub fn violations(&self, usage: &Usage, machine_code: &BTreeMap<String, usize>) -> Vec<String> {
        let mut found = Vec::new();
        if usage.registers > self.registers {
            found.push(format!("{} registers, {} allowed", usage.registers, self.registers));
        }
        if usage.shared > self.shared {
            found.push(format!("{} bytes of static shared memory, {} allowed", usage.shared, self.shared));
        }
        if usage.local > 0 {
            found.push(format!("{} bytes of stack and spills, none allowed", usage.local));
        }
        for instruction in &self.instructions {
            if !machine_code.contains_key(instruction) {
                found.push(format!("no {instruction} in its machine code"));
            }
        }
        for spill in ["LDL", "STL"] {
            if machine_code.contains_key(spill) {
                found.push(format!("{spill} in its machine code: it uses local memory"));
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
    fn what_a_kernel_may_not_do() {
        let budget = Budget { kernels: vec![], registers: 32, shared: 16, instructions: vec!["HMMA".into()] };
        let good = BTreeMap::from([("HMMA".to_owned(), 4)]);
        assert!(budget.violations(&Usage { registers: 32, shared: 16, local: 0 }, &good).is_empty());
        let bad = BTreeMap::from([("LDL".to_owned(), 1)]);
        assert_eq!(budget.violations(&Usage { registers: 33, shared: 17, local: 1 }, &bad).len(), 5);
    }
}
