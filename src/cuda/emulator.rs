//! The emulator in place of the driver: its library form is loaded under the driver's name before cudarc looks for one,
//! so that the same calls that drive a card execute the PTX here. What it finds wrong with a kernel is an error.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;

use emulator::Report;

use crate::error::{Error, Result};

/// The library, which lies beside the program or in `deps` there.
const FILE: &str = "libemulator.so";

/// The loaded library's own functions.
pub struct Emulator {
    take_reports: unsafe extern "C" fn() -> *mut c_char,
    free_text: unsafe extern "C" fn(*mut c_char),
}

impl Emulator {
    /// Loads the library. Comes before every call of cudarc.
    ///
    /// # Errors
    /// The user's when the library is not there, as beside a program that was copied without it.
    pub fn load() -> Result<Self> {
        let path = find()?;
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| Error::user(format!("{} has a zero byte in its name", path.display())))?;
        // SAFETY: the library is this workspace's own; loading it runs nothing but its constructors.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if library.is_null() {
            // SAFETY: after a failure there is a text, which stays until the next call.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned();
            return Err(Error::user(format!("cannot load {}: {why}", path.display())));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the library stays loaded.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            let missing = || Error::user(format!("{} has no {}: build again", path.display(), name.to_string_lossy()));
            if address.is_null() { Err(missing()) } else { Ok(address) }
        };
        let (take_reports, free_text) = (symbol(c"emulator_take_reports")?, symbol(c"emulator_free_text")?);
        // SAFETY: these are the signatures in the library's source.
        unsafe {
            Ok(Self {
                take_reports: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut c_char>(take_reports),
                free_text: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_char)>(free_text),
            })
        }
    }

    /// The reports of all launches since the last call.
    pub fn reports(&self) -> Result<Vec<Report>> {
        // SAFETY: the text is the caller's until it is given back.
        let json = unsafe {
            let text = (self.take_reports)();
            let json = CStr::from_ptr(text).to_string_lossy().into_owned();
            (self.free_text)(text);
            json
        };
        serde_json::from_str(&json).map_err(|e| Error::machine(format!("the emulator's reports: {e}")))
    }

    /// Refuses what was launched since the last call if the emulator found something wrong with it.
    pub fn check(&self) -> Result<()> {
        let reports = self.reports()?;
        let findings: Vec<_> = reports.iter().flat_map(|report| &report.findings).collect();
        match findings.first() {
            None => Ok(()),
            Some(first) => {
                let more = findings.len() - 1;
                Err(Error::machine(format!("the emulator found a fault in a kernel, and {more} more: {first}")))
            }
        }
    }
}

fn find() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(|e| Error::machine(format!("cannot find this program: {e}")))?;
    let folder = program.parent().unwrap_or(&program);
    let places = [folder.join(FILE), folder.join("deps").join(FILE)];
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        Error::user(format!(
            "there is no {FILE} in {}: --device emulator needs it beside the program, where `cargo build` puts it",
            folder.display()
        ))
    })
}
