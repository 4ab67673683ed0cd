//! The emulator in place of the driver: its library form is loaded under the driver's name before cudarc looks for one,
//! so that the same calls that drive a card execute the PTX here. What it finds wrong with a kernel is an error.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;

use emulator::Report;

use super::properties::Capability;
use crate::error::{Error, Result};

/// The library, which lies beside the program or in `deps` there.
const FILE: &str = "libemulator.so";

/// The loaded library's own functions.
pub struct Emulator {
    take_reports: unsafe extern "C" fn() -> *mut c_char,
    free_text: unsafe extern "C" fn(*mut c_char),
}

impl Emulator {
    /// Loads the library, to stand in for a device of a capability. Comes before every call of cudarc.
    ///
    /// # Errors
    /// The user's when the library is not there, as beside a program that was copied without it.
    pub fn load(capability: Capability) -> Result<Self> {
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
        let configure = symbol(c"emulator_configure")?;
        let setting = CString::new(format!("capability={capability}")).unwrap_or_default();
        // SAFETY: this is the signature in the library's source, and the setting a text.
        let status = unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> i32>(configure)(setting.as_ptr())
        };
        if status != 0 {
            return Err(Error::user(format!("the emulator cannot stand in for compute capability {capability}")));
        }
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

/// The capability that the environment asks for, 8.0 where it does not.
///
/// # Errors
/// The user's when it is none that there are kernels for.
pub fn capability() -> Result<Capability> {
    const VARIABLE: &str = "POLAR_RAW_EMULATOR_CAPABILITY";
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(Capability::new(8, 0)) };
    let value = value.to_string_lossy();
    parse(&value).ok_or_else(|| {
        Error::user(format!("{VARIABLE} is `{value}`: give a compute capability from 8.0 on, such as 9.0"))
    })
}

fn parse(value: &str) -> Option<Capability> {
    let (major, minor) = value.split_once('.')?;
    let capability = Capability::new(major.parse().ok()?, minor.parse().ok()?);
    (capability >= Capability::new(8, 0) && capability.minor < 10).then_some(capability)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_and_old_or_odd_ones_refused() {
        assert_eq!(parse("9.0"), Some(Capability::new(9, 0)));
        assert_eq!(parse("12.0"), Some(Capability::new(12, 0)));
        for wrong in ["", "9", "sm_90", "7.5", "8.10", "9.-1", "9.0 "] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
