//! What a card's clocks are, by NVIDIA's management library where it is found. Loaded by hand, so that its absence is no
//! error. A time says little without the clock that it was measured at: cards lower it for power and heat.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem::transmute;
use std::ptr;

use cudarc::driver::sys;

const NAMES: [&CStr; 2] = [c"libnvidia-ml.so.1", c"libnvidia-ml.so"];

/// Of `nvmlClockType_t` and `nvmlTemperatureSensors_t`.
const CLOCK_SM: c_int = 1;
const CLOCK_MEMORY: c_int = 2;
const TEMPERATURE_GPU: c_int = 0;
/// Of `nvmlClocksThrottleReason*`: power cap, hardware slowdown, thermal, and power brake.
const LIMITS: [(u64, &str); 5] =
    [(0x4, "power cap"), (0x8, "hardware slowdown"), (0x20, "heat"), (0x40, "heat"), (0x80, "power brake")];

type Call<T> = unsafe extern "C" fn(*mut c_void, *mut T) -> c_int;
type CallOf<T> = unsafe extern "C" fn(*mut c_void, c_int, *mut T) -> c_int;

/// The library and a card of it.
pub struct Nvml {
    card: *mut c_void,
    clock: CallOf<c_uint>,
    temperature: CallOf<c_uint>,
    power: Call<c_uint>,
    reasons: Call<u64>,
}

/// What a card says at one moment.
pub struct Clocks {
    /// MHz of multiprocessors and memory.
    pub sm: u32,
    pub memory: u32,
    /// Degrees Celsius.
    pub temperature: u32,
    /// Watts.
    pub power: f64,
    /// What keeps the clock down.
    pub limits: Vec<&'static str>,
}

impl Nvml {
    /// Loads the library for the card that `device` is; nothing where it is not found or does not start.
    pub fn load(device: sys::CUdevice) -> Option<Self> {
        // SAFETY: loading the library runs nothing but its constructors; the names and signatures are those of its public
        // header; it stays loaded. The bus id is written with its zero byte within the given length.
        unsafe {
            let mut bus = [0 as c_char; 32];
            sys::cuDeviceGetPCIBusId(bus.as_mut_ptr(), bus.len() as c_int, device).result().ok()?;
            let bus = CString::from(CStr::from_ptr(bus.as_ptr()));
            let library = NAMES
                .iter()
                .map(|name| libc::dlopen(name.as_ptr(), libc::RTLD_NOW))
                .find(|library| !library.is_null())?;
            let symbol = |name: &CStr| Some(libc::dlsym(library, name.as_ptr())).filter(|address| !address.is_null());
            let init = transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(symbol(c"nvmlInit_v2")?);
            let find = transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int>(
                symbol(c"nvmlDeviceGetHandleByPciBusId_v2")?,
            );
            let clock = transmute::<*mut c_void, CallOf<c_uint>>(symbol(c"nvmlDeviceGetClockInfo")?);
            let temperature = transmute::<*mut c_void, CallOf<c_uint>>(symbol(c"nvmlDeviceGetTemperature")?);
            let power = transmute::<*mut c_void, Call<c_uint>>(symbol(c"nvmlDeviceGetPowerUsage")?);
            let reasons = transmute::<*mut c_void, Call<u64>>(symbol(c"nvmlDeviceGetCurrentClocksThrottleReasons")?);
            let mut card = ptr::null_mut();
            let found = init() == 0 && find(bus.as_ptr(), &mut card) == 0;
            found.then_some(Self { card, clock, temperature, power, reasons })
        }
    }

    /// What the card says now.
    pub fn read(&self) -> Clocks {
        let of = |call: CallOf<c_uint>, kind| {
            let mut value = 0;
            // SAFETY: the card is one of the library's, and the value is a number.
            unsafe { call(self.card, kind, &mut value) };
            value
        };
        let (mut power, mut reasons) = (0, 0);
        // SAFETY: as above.
        unsafe {
            (self.power)(self.card, &mut power);
            (self.reasons)(self.card, &mut reasons);
        }
        Clocks {
            sm: of(self.clock, CLOCK_SM),
            memory: of(self.clock, CLOCK_MEMORY),
            temperature: of(self.temperature, TEMPERATURE_GPU),
            power: f64::from(power) / 1000.0,
            limits: LIMITS.iter().filter(|(bit, _)| reasons & bit != 0).map(|(_, name)| *name).collect(),
        }
    }
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sm, memory, temperature, power, limits } = self;
        write!(f, "{sm} MHz, memory {memory} MHz, {temperature} C, {power:.0} W")?;
        if limits.is_empty() { Ok(()) } else { write!(f, ", held down by {}", limits.join(" and ")) }
    }
}
