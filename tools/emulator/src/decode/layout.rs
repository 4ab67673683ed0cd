//! Where the variables and parameters of a kernel lie.
//!
//! Addresses are virtual. A generic address says its space by the window that it lies in; everything outside the
//! windows is device memory.

use crate::error::{Error, Result};
use crate::parse::{Base, Function, Module, Operand, Space, Variable};

/// The generic address of shared memory's address 0.
pub(crate) const SHARED_WINDOW: u64 = 0x7001_0000_0000;
/// The generic address of local memory's address 0.
pub(crate) const LOCAL_WINDOW: u64 = 0x7002_0000_0000;
/// The generic address of the parameters' address 0.
pub(crate) const PARAM_WINDOW: u64 = 0x7003_0000_0000;
/// The length of each window.
pub(crate) const WINDOW: u64 = 1 << 32;

/// Bytes that belong to nobody on either side of an array.
pub(crate) const RED_ZONE: usize = 256;
/// Where the first array of shared or local memory begins; below lies what a null pointer meets.
pub(crate) const FIRST_SHARED: usize = 1024;

/// The next multiple of a power of two.
pub(crate) fn align_up(n: usize, to: usize) -> usize {
    n.next_multiple_of(to.max(1))
}

/// An array in shared or local memory, or a parameter.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub name: String,
    pub start: usize,
    pub size: usize,
}

/// The memory that a kernel sees besides the device's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    /// Addresses of variables within their space.
    pub symbols: Vec<(String, u64)>,
    pub params: Vec<Array>,
    /// The offset of the first parameter in the space of parameters is 0; this is where the last one ends.
    pub param_bytes: usize,
    pub shared: Vec<Array>,
    /// Where dynamic shared memory begins, if the kernel declares any.
    pub dynamic: Option<usize>,
    /// Where static shared memory and its red zone end.
    pub shared_end: usize,
    /// Bytes of static shared memory, without red zones.
    pub static_shared: usize,
    pub local: Vec<Array>,
    /// Variables that calls pass their values in, in local memory too. Padding is passed along with them: what is
    /// read of these always counts as written.
    pub passed: Vec<Array>,
    /// Bytes of local memory of a thread, from address 0, with red zones.
    pub local_end: usize,
}

impl Layout {
    pub fn new(module: &Module, function: &Function) -> Result<Self> {
        let mut layout = Self::default();
        for param in &function.params {
            let start = align_up(layout.param_bytes, param.align);
            layout.params.push(Array { name: param.name.clone(), start, size: param.size });
            layout.symbols.push((param.name.clone(), start as u64));
            layout.param_bytes = start + param.size;
        }
        let used = |variable: &&Variable| {
            function.body.iter().flat_map(|i| &i.operands).any(|operand| mentions(operand, &variable.name))
        };
        let variables: Vec<&Variable> = module.variables.iter().filter(used).chain(&function.variables).collect();
        let mut end = FIRST_SHARED;
        for variable in variables.iter().filter(|v| v.space == Space::Shared && !v.external) {
            let start = align_up(end, variable.align);
            layout.shared.push(Array { name: variable.name.clone(), start, size: variable.size });
            layout.symbols.push((variable.name.clone(), start as u64));
            layout.static_shared = align_up(layout.static_shared, variable.align) + variable.size;
            end = start + variable.size + RED_ZONE;
        }
        // Dynamic arrays of all names are one, where the banks begin anew.
        let external = variables.iter().filter(|v| v.space == Space::Shared && v.external);
        for variable in external {
            let start = align_up(end, variable.align.max(1024));
            let start = *layout.dynamic.get_or_insert(start);
            if start % variable.align.max(1) != 0 {
                return Err(Error::at(variable.line, "dynamic shared arrays of different large alignments"));
            }
            layout.symbols.push((variable.name.clone(), start as u64));
        }
        layout.shared_end = end;
        let mut end = RED_ZONE;
        for variable in function.variables.iter().filter(|v| v.space == Space::Local) {
            let start = align_up(end, variable.align);
            layout.local.push(Array { name: variable.name.clone(), start, size: variable.size });
            layout.symbols.push((variable.name.clone(), start as u64));
            end = align_up(start + variable.size, 16) + RED_ZONE;
        }
        for variable in function.variables.iter().filter(|v| v.space == Space::Param) {
            let start = align_up(end, variable.align);
            layout.passed.push(Array { name: variable.name.clone(), start, size: variable.size });
            layout.symbols.push((variable.name.clone(), start as u64));
            end = align_up(start + variable.size, 16) + RED_ZONE;
        }
        if !layout.local.is_empty() || !layout.passed.is_empty() {
            layout.local_end = end;
        }
        for variable in &function.variables {
            if matches!(variable.space, Space::Global | Space::Const) {
                let what =
                    format!("`{}` is global and declared inside a kernel, which is not supported", variable.name);
                return Err(Error::at(variable.line, what));
            }
        }
        if end > 1 << 20 {
            return Err(Error::at(function.line, "more than 1 MiB of local memory a thread"));
        }
        Ok(layout)
    }
}

fn mentions(operand: &Operand, name: &str) -> bool {
    match operand {
        Operand::Symbol(symbol, _) | Operand::Address(Base::Symbol(symbol), _) => symbol == name,
        Operand::Vector(inner) => inner.iter().any(|o| mentions(o, name)),
        Operand::Pair(a, b) => mentions(a, name) || mentions(b, name),
        _ => false,
    }
}
