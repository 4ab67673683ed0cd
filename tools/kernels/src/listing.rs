//! What nvdisasm shows of a kernel: its instructions, and its loops.

use std::collections::{BTreeMap, HashMap};

/// The instructions of a kernel in order, by their names up to the first dot, and its jumps.
#[derive(Default)]
pub struct Listing {
    names: Vec<String>,
    /// Where a label stands: the number of the instruction behind it.
    labels: HashMap<String, usize>,
    /// Jumps: number of the instruction, label.
    jumps: Vec<(usize, String)>,
}

/// A loop: how often instructions stand in it.
pub struct Loop {
    /// All of its instructions.
    pub instructions: usize,
    /// By name.
    counts: BTreeMap<String, usize>,
}

impl Loop {
    /// How often `name` stands in it.
    pub fn count(&self, name: &str) -> usize {
        self.counts.get(name).copied().unwrap_or(0)
    }
}

impl Listing {
    /// Whether an instruction occurs.
    pub fn contains(&self, name: &str) -> bool {
        self.names.iter().any(|found| found == name)
    }

    /// The loop that a tensor core kernel spends its time in: of those with the most `HMMA`, the shortest. It is what lies
    /// between a jump backwards and its target: blocks that the compiler moved out of there are not in it, and the count
    /// of jumps says that there are some.
    pub fn hottest_loop(&self) -> Option<Loop> {
        let loops = self.jumps.iter().filter_map(|(at, label)| {
            let first = *self.labels.get(label)?;
            (first <= *at).then(|| self.between(first, *at))
        });
        let hottest = loops.max_by_key(|found| (found.count("HMMA"), usize::MAX - found.instructions))?;
        (hottest.count("HMMA") > 0).then_some(hottest)
    }

    fn between(&self, first: usize, last: usize) -> Loop {
        let mut counts = BTreeMap::new();
        for name in &self.names[first..=last] {
            *counts.entry(name.clone()).or_default() += 1;
        }
        Loop { instructions: last + 1 - first, counts }
    }

    fn line(&mut self, line: &str) {
        if let Some(label) = line.trim().strip_suffix(':').filter(|label| label.starts_with(".L_")) {
            self.labels.insert(label.to_owned(), self.names.len());
            return;
        }
        // `/*0010*/  @!P0 LDG.E.128 R4, ... ;`
        let Some((_, rest)) = line.split_once("*/") else { return };
        let mut words = rest.split_whitespace().skip_while(|word| word.starts_with('@') || *word == "{");
        let Some(word) = words.next() else { return };
        let name = word.split('.').next().unwrap_or(word).trim_end_matches(';');
        if let Some((_, label)) = rest.split_once("`(").filter(|_| name == "BRA") {
            self.jumps.push((self.names.len(), label.split(')').next().unwrap_or(label).to_owned()));
        }
        self.names.push(name.to_owned());
    }
}

/// The kernels of a listing of `nvdisasm -c`.
pub fn read(listing: &str) -> BTreeMap<String, Listing> {
    let mut kernels: BTreeMap<String, Listing> = BTreeMap::new();
    let mut current = None;
    for line in listing.lines() {
        // Not `.sectioninfo`, which stands within one.
        let section = line.trim().strip_prefix(".section").filter(|rest| rest.starts_with(char::is_whitespace));
        let section = section.map(str::trim_start);
        if let Some(name) = section.and_then(|section| section.strip_prefix(".text.")) {
            let name = name.split([',', '\t', ' ']).next().unwrap_or(name);
            current = Some(kernels.entry(name.to_owned()).or_default());
        } else if section.is_some() {
            current = None;
        } else if let Some(code) = &mut current {
            code.line(line);
        }
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\t.section\t.text.gemm,\"ax\",@progbits\n\t.sectioninfo\t@\"SHI_REGISTERS=8\"\n.text.gemm:\n        \
        /*0000*/                   MOV R1, c[0x0][0x28] ;\n.L_x_1:\n        \
        /*0010*/              @!P0 LDG.E.128 R4, [R2] ;\n        \
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;\n.L_x_2:\n        \
        /*0030*/                   LDSM.16.M88.4 R4, [R2] ;\n        \
        /*0040*/               @P1 BRA `(.L_x_2) ;\n        \
        /*0050*/               @P2 BRA `(.L_x_1) ;\n        \
        /*0060*/                   EXIT ;\n";

    #[test]
    fn reads_what_nvdisasm_shows() {
        let code = &read(LISTING)["gemm"];
        assert!(["LDG", "MOV", "EXIT", "HMMA"].iter().all(|name| code.contains(name)));
        assert!(!code.contains("LDL"));
    }

    #[test]
    fn the_loop_with_the_products_is_the_hottest() {
        let hottest = read(LISTING)["gemm"].hottest_loop().unwrap();
        assert_eq!((hottest.instructions, hottest.count("HMMA"), hottest.count("LDSM")), (5, 1, 1));
        let without = LISTING.replace("HMMA", "FFMA");
        assert!(read(&without)["gemm"].hottest_loop().is_none());
    }
}
