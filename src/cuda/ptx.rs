//! The PTX of `ptx/`, which `build.rs` embeds after checking that it was made from the sources in `kernels/`.

/// The PTX of one file of `kernels/`.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The file's name, without `.cu`.
    pub name: &'static str,
    /// What it is compiled for, such as `sm_80`: the name of its folder in `ptx/`.
    pub target: &'static str,
    /// Its PTX.
    pub ptx: &'static str,
}

impl Module {
    /// The names of its kernels, as a driver wants them.
    pub fn kernels(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.entries().map(|(name, _)| name)
    }

    /// Its kernels and the size of their launch parameters in bytes: each takes one structure by value.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, usize)> + use<> {
        self.ptx.split(".visible .entry ").skip(1).filter_map(|rest| {
            let (name, rest) = rest.split_once('(')?;
            let (parameters, _) = rest.split_once(')')?;
            let (_, size) = parameters.rsplit_once('[')?;
            Some((name.trim(), size.split(']').next()?.parse().ok()?))
        })
    }
}

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// The module that has a kernel.
pub fn module_of(kernel: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.kernels().any(|name| name == kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_kernels_and_no_name_occurs_twice() {
        let mut names: Vec<&str> = MODULES.iter().flat_map(Module::kernels).collect();
        assert!(MODULES.iter().all(|module| module.kernels().next().is_some()));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert_eq!(module_of("adamw").map(|module| module.name), Some("adamw"));
        assert!(module_of("no such kernel").is_none());
    }
}
