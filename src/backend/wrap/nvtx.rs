//! Ranges that NVIDIA's profilers show, if their library is there: `libnvToolsExt` comes with the CUDA toolkit and is
//! looked for when a trace begins. Without it nothing happens.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// The two functions of the library.
#[derive(Clone, Copy)]
pub struct Nvtx {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
}

impl Nvtx {
    /// Looks for the library.
    pub fn find() -> Option<Self> {
        let names = [c"libnvToolsExt.so.1", c"libnvToolsExt.so"];
        // SAFETY: loads a library by name; its initialisation is NVIDIA's and asks for nothing.
        let library = names.iter().map(|name| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY) });
        let library = library.into_iter().find(|library| !library.is_null())?;
        let symbol = |name: &CStr| {
            // SAFETY: the library stays loaded.
            let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!symbol.is_null()).then_some(symbol)
        };
        let (push, pop) = (symbol(c"nvtxRangePushA")?, symbol(c"nvtxRangePop")?);
        // SAFETY: functions of these types, by nvToolsExt.h.
        unsafe {
            Some(Self {
                push: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_int>(push),
                pop: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(pop),
            })
        }
    }

    /// Runs `f` inside a range.
    pub fn range<R>(self, name: &str, f: impl FnOnce() -> R) -> R {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: a string that lives until the call is over; it is copied.
        unsafe { (self.push)(name.as_ptr()) };
        let result = f();
        // SAFETY: ends the range that was begun.
        unsafe { (self.pop)() };
        result
    }
}
