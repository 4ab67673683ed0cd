//! Signals that ask the program to save and stop.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::error::{Error, Result};

/// A flag that SIGTERM, SIGINT, SIGHUP (a closed terminal) and SIGUSR1 (a batch system's warning) set.
///
/// A second SIGTERM or SIGINT ends the program at once. The others never do: a terminal may send SIGHUP twice, and a
/// batch system sends SIGTERM after its warning.
///
/// # Errors
/// When the system does not let the program listen.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let failed = |e| Error::machine(format!("cannot listen for signals: {e}"));
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        // The order decides: the first signal finds `asked` unset.
        flag::register_conditional_shutdown(signal, 1, asked.clone()).map_err(failed)?;
        flag::register(signal, asked.clone()).map_err(failed)?;
        flag::register(signal, stop.clone()).map_err(failed)?;
    }
    for signal in [SIGHUP, SIGUSR1].into_iter().filter(|&signal| !is_ignored(signal)) {
        flag::register(signal, stop.clone()).map_err(failed)?;
    }
    Ok(stop)
}

/// Whether whoever started the program had it ignore `signal`, as `nohup` does with SIGHUP: that is to stay so.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: only reads what is set, into a structure of its own.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}
