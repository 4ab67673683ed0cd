//! The functions of the library form that are the emulator's own. Texts end in a zero byte.

use super::{answer, driver};
use crate::driver::Status;
use std::ffi::{CStr, CString, c_char};

/// Changes settings: `name=value`, with commas between, as in the environment variable `EMULATOR`. Returns 0, or 1 if a
/// setting was not understood, which `emulator_last_error` then explains.
///
/// # Safety
/// `settings` is a text.
#[unsafe(no_mangle)]
unsafe extern "C" fn emulator_configure(settings: *const c_char) -> i32 {
    answer(|driver| {
        if settings.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the caller gives a text.
        let settings = unsafe { CStr::from_ptr(settings) }.to_string_lossy();
        let result = driver.configure(&settings);
        driver.checked(result)
    })
}

/// The reports of all launches since the last call, as a JSON array; `emulator_free_text` takes it back.
#[unsafe(no_mangle)]
extern "C" fn emulator_take_reports() -> *mut c_char {
    let reports: Vec<_> = driver().reports.drain(..).collect();
    text(serde_json::to_string(&reports).unwrap_or_else(|_| "[]".to_owned()))
}

/// What went wrong last; empty if nothing did. `emulator_free_text` takes it back.
#[unsafe(no_mangle)]
extern "C" fn emulator_last_error() -> *mut c_char {
    text(driver().last_error.clone())
}

/// Takes a text back.
///
/// # Safety
/// `text` came from a function of the emulator and is not used afterwards.
#[unsafe(no_mangle)]
unsafe extern "C" fn emulator_free_text(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the text was made by `text` below.
        drop(unsafe { CString::from_raw(text) });
    }
}

fn text(text: String) -> *mut c_char {
    CString::new(text.replace('\0', " ")).unwrap_or_default().into_raw()
}
