//! The PTX of `ptx/`, which `build.rs` embeds after checking that it was made from the sources in `kernels/`.

use super::kernel::{Entry, Target};
use super::properties::Capability;

/// The PTX of one file of `kernels/` for one target.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The file's name, without `.cu`.
    pub name: &'static str,
    /// What it is compiled for.
    pub target: Target,
    /// Its kernels.
    pub kernels: &'static [Entry],
    /// Its PTX.
    pub ptx: &'static str,
}

/// The modules of `ptx/`, by target and name.
pub static MODULES: &[Module] = super::kernels::MODULES;

/// Those of `modules` that a device of `capability` loads.
pub fn loadable(modules: &[Module], capability: Capability) -> impl Iterator<Item = &Module> {
    modules.iter().filter(move |module| module.target.runs_on(capability))
}

/// The module that has a kernel.
pub fn module_of(kernel: &Entry) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.kernels.contains(kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_kernels_and_no_name_occurs_twice_in_a_target() {
        let mut names: Vec<(&str, &str)> =
            MODULES.iter().flat_map(|m| m.kernels.iter().map(|kernel| (m.target.name, kernel.name))).collect();
        assert!(MODULES.iter().all(|module| !module.kernels.is_empty()));
        assert!(MODULES.iter().all(|module| module.kernels.iter().all(|kernel| kernel.target == module.target)));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert_eq!(module_of(&super::super::kernels::ADAMW).map(|module| module.name), Some("adamw"));
    }

    #[test]
    fn the_constants_are_what_the_ptx_says() {
        use super::super::{abi, kernels};
        let large = kernels::GEMM_NT_128X256.entry();
        assert_eq!((large.target.name, large.name), ("sm_80", "gemm_nt_128x256"));
        assert_eq!((large.threads, large.blocks, large.shared), (256, 1, abi::GEMM_128X256_SHARED));
        assert_eq!(kernels::GEMM_NT_128X128.blocks, 2);
        assert_eq!(kernels::GEMM_NT_64X64.blocks, 4);
        assert_eq!(kernels::ATTENTION_FORWARD_ANY.shared, abi::ATTENTION_FORWARD_128_SHARED);
        assert_eq!(kernels::RMSNORM_FORWARD_VEC8.parameters, size_of::<abi::RmsnormParams>());
    }

    #[test]
    fn a_device_loads_what_its_capability_runs() {
        let of = |name, major, minor, exact| Module {
            name,
            target: Target { name, capability: Capability::new(major, minor), exact },
            kernels: &[],
            ptx: "",
        };
        let modules = [of("sm_80", 8, 0, false), of("sm_90a", 9, 0, true), of("sm_100a", 10, 0, true)];
        let loaded = |major, minor| -> Vec<&str> {
            loadable(&modules, Capability::new(major, minor)).map(|module| module.name).collect()
        };
        assert_eq!(loaded(7, 5), [""; 0]);
        assert_eq!(loaded(8, 6), ["sm_80"]);
        assert_eq!(loaded(9, 0), ["sm_80", "sm_90a"]);
        assert_eq!(loaded(12, 0), ["sm_80"]);
    }
}
