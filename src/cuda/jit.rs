//! From PTX to kernels that can be launched: the driver's compiler, on all cores, and what it says when it refuses.

use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use cudarc::driver::{CudaContext, result, sys};

use super::device::failed;
use super::kernel::Entry;
use super::ptx::Module;
use crate::error::{Error, Result};

/// Bytes of each of the compiler's two logs.
const LOG: usize = 16 << 10;

/// A module that the driver has compiled, or found in its cache, and its kernels.
pub struct LoadedModule {
    handle: sys::CUmodule,
    kernels: Vec<(&'static Entry, sys::CUfunction)>,
    context: Arc<CudaContext>,
}

// SAFETY: the handles are names that the driver takes from any thread to which the context is bound.
unsafe impl Send for LoadedModule {}

impl LoadedModule {
    /// Its kernels and the driver's handles of them, which are good as long as this lives.
    pub fn kernels(&self) -> impl Iterator<Item = (&'static Entry, sys::CUfunction)> {
        self.kernels.iter().copied()
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        // An error here has been reported by a call before, and there is nobody to tell.
        // SAFETY: made by `load`, unloaded once, after whatever was launched from it.
        let _ = self.context.synchronize().and_then(|()| unsafe { result::module::unload(self.handle) });
    }
}

/// Loads modules, as many at a time as there are cores: compiling them one after another takes 7.5 s of CPU time.
pub fn load_all(context: &Arc<CudaContext>, modules: &[&Module]) -> Result<Vec<LoadedModule>> {
    // The longest first, so that none is left to the end alone.
    let mut modules = modules.to_vec();
    modules.sort_by_key(|module| std::cmp::Reverse(module.ptx.len()));
    let cores = thread::available_parallelism().map_or(1, usize::from).min(modules.len());
    let next = AtomicUsize::new(0);
    let some = || -> Result<Vec<LoadedModule>> {
        let mut loaded = Vec::new();
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            loaded.push(load(context, module)?);
        }
        Ok(loaded)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(some)).collect();
        let mut all = Vec::new();
        for thread in threads {
            let stopped = |_| Error::machine("a thread that compiled kernels has stopped; the message above says why");
            all.extend(thread.join().map_err(stopped)??);
        }
        Ok(all)
    })
}

/// Loads a module.
///
/// # Errors
/// With the compiler's log.
pub fn load(context: &Arc<CudaContext>, module: &Module) -> Result<LoadedModule> {
    use sys::CUjit_option as Option;
    let started = Instant::now();
    let Module { name, target, kernels, ptx } = *module;
    let file = format!("ptx/{}/{name}.ptx", target.name);
    context.bind_to_thread().map_err(failed("use the card from this thread"))?;
    let text = CString::new(ptx).map_err(|_| Error::machine(format!("{file} has a zero byte")))?;
    let (mut errors, mut notes) = (vec![0u8; LOG], vec![0u8; LOG]);
    let mut options = [
        Option::CU_JIT_ERROR_LOG_BUFFER,
        Option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        Option::CU_JIT_INFO_LOG_BUFFER,
        Option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
    ];
    // A value of an option is a pointer, or a number in a pointer's place.
    let mut values: [*mut c_void; 4] = [
        errors.as_mut_ptr().cast(),
        std::ptr::without_provenance_mut(LOG),
        notes.as_mut_ptr().cast(),
        std::ptr::without_provenance_mut(LOG),
    ];
    let mut handle = std::ptr::null_mut();
    // SAFETY: the context is bound to this thread, the text ends in a zero byte, there are four options and values, and
    // the logs, which are as long as said, outlive the call.
    let status = unsafe {
        sys::cuModuleLoadDataEx(&mut handle, text.as_ptr().cast(), 4, options.as_mut_ptr(), values.as_mut_ptr())
    };
    status.result().map_err(|error| {
        let log = [errors, notes].map(|log| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            String::from_utf8_lossy(&log[..end]).trim().to_owned()
        });
        let log = log.into_iter().filter(|log| !log.is_empty()).collect::<Vec<_>>().join("\n");
        let what = format!("compile {file} (it needs a driver of CUDA 12 or newer)");
        let message = failed(&what)(error);
        if log.is_empty() { message } else { Error::machine(format!("{message}; its compiler says:\n{log}")) }
    })?;
    // From here on it is unloaded however this ends.
    let mut loaded = LoadedModule { handle, kernels: Vec::with_capacity(kernels.len()), context: context.clone() };
    for entry in kernels {
        let missing = format!("find the kernel {} in {file}", entry.name);
        let name = CString::new(entry.name).map_err(|_| Error::machine(format!("cannot {missing}")))?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(handle, name) }.map_err(failed(&missing))?;
        loaded.kernels.push((entry, function));
    }
    let ms = started.elapsed().as_millis() as u64;
    tracing::debug!(ms, "loaded {file}, {} kernels, in {ms} ms", kernels.len());
    Ok(loaded)
}
