//! A kernel as Rust knows it: [`Kernel`], typed by the structure that it takes, and [`Launch`], where and how it runs.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use super::properties::{Capability, Properties};

/// What PTX is compiled for, and so which devices load it: the name of its folder in `ptx/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// `sm_80`, `sm_90a`.
    pub name: &'static str,
    /// The capability that it is for.
    pub capability: Capability,
    /// Whether no other capability loads it: what ends in `a` uses what newer ones need not have.
    pub exact: bool,
}

impl Target {
    /// Whether a device of `capability` can run it.
    pub fn runs_on(self, capability: Capability) -> bool {
        if self.exact { capability == self.capability } else { capability >= self.capability }
    }
}

/// What is known of a kernel without its parameters' type: from the PTX and from the table in `kernels/abi.h`.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// As a driver wants it.
    pub name: &'static str,
    /// What it is compiled for.
    pub target: Target,
    /// Threads of a block, at most.
    pub threads: u32,
    /// Blocks of so many threads for which a multiprocessor has registers, at least.
    pub blocks: u32,
    /// Bytes of dynamic shared memory of a block; 0 also where a launch decides.
    pub shared: u32,
    /// Bytes of the structure that it takes by value.
    pub parameters: usize,
}

/// A kernel that takes `P` by value. `build.rs` makes one constant a kernel: [`super::kernels`].
pub struct Kernel<P: 'static> {
    entry: &'static Entry,
    parameters: PhantomData<fn(P)>,
}

impl<P> Kernel<P> {
    /// The kernel of an entry.
    ///
    /// # Panics
    /// When its PTX takes a structure of another size. The constants are made when this is compiled, and so it is then
    /// that `kernels/abi.h` and the PTX are held together.
    pub const fn new(entry: &'static Entry) -> Self {
        assert!(entry.parameters == size_of::<P>(), "the PTX takes parameters of another size than kernels/abi.h says");
        Self { entry, parameters: PhantomData }
    }

    /// A launch on a grid of blocks of its own size.
    pub const fn on(self, grid: [usize; 2]) -> Launch<P> {
        Launch { kernel: self, grid, threads: self.entry.threads, shared: self.entry.shared }
    }

    /// Blocks that a multiprocessor of a device runs at one time, if they have the kernel's own size.
    pub fn blocks_per_sm(self, properties: &Properties) -> usize {
        properties.blocks_per_sm(self.threads, self.shared, self.blocks)
    }

    /// What is known without its parameters' type.
    pub const fn entry(self) -> &'static Entry {
        self.entry
    }
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Kernel<P> {}

impl<P> PartialEq for Kernel<P> {
    fn eq(&self, other: &Self) -> bool {
        self.entry == other.entry
    }
}

impl<P> Deref for Kernel<P> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        self.entry
    }
}

impl<P> fmt::Debug for Kernel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.entry.name, self.entry.target.name)
    }
}

/// A kernel, the blocks of its grid, and what each block has. What an operation's `plan` answers.
#[derive(Debug)]
pub struct Launch<P: 'static> {
    /// What runs.
    pub kernel: Kernel<P>,
    /// Blocks along x and y.
    pub grid: [usize; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl<P> Launch<P> {
    /// The same with blocks of so many threads.
    #[must_use]
    pub const fn with_threads(self, threads: u32) -> Self {
        Self { kernel: self.kernel, grid: self.grid, threads, shared: self.shared }
    }

    /// The same with so many bytes of dynamic shared memory.
    #[must_use]
    pub const fn with_shared(self, shared: u32) -> Self {
        Self { kernel: self.kernel, grid: self.grid, threads: self.threads, shared }
    }
}

impl<P> Clone for Launch<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Launch<P> {}

impl<P> PartialEq for Launch<P> {
    fn eq(&self, other: &Self) -> bool {
        (self.kernel, self.grid, self.threads, self.shared) == (other.kernel, other.grid, other.threads, other.shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_for_one_capability_runs_on_no_other() {
        let portable = Target { name: "sm_80", capability: Capability::new(8, 0), exact: false };
        let hopper = Target { name: "sm_90a", capability: Capability::new(9, 0), exact: true };
        let runs = |target: Target| {
            [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
                .map(|(major, minor)| target.runs_on(Capability::new(major, minor)))
        };
        assert_eq!(runs(portable), [false, true, true, true, true, true, true]);
        assert_eq!(runs(hopper), [false, false, false, false, true, false, false]);
    }
}
