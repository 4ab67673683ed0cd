//! Unmodified cudarc over the library form: found by its name, and used as a driver.

use approx::relative_eq;
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use emulator::{Fault, Report};
use std::ffi::{CStr, CString, c_char, c_void};

const PTX: &str = include_str!("kernels/warp.ptx");
const CALLS: &str = include_str!("kernels/calls.ptx");

/// The functions of the library that are the emulator's own.
struct Own {
    library: *mut c_void,
}

impl Own {
    /// Loads the library that lies beside this test, as a program would that has no driver.
    fn open() -> Self {
        let path = std::env::current_exe().unwrap().with_file_name("libemulator.so");
        let name = CString::new(path.to_str().unwrap()).unwrap();
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!library.is_null(), "{} cannot be loaded", path.display());
        Self { library }
    }

    fn symbol(&self, name: &CStr) -> *mut c_void {
        let found = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?} is missing");
        found
    }

    fn configure(&self, settings: &str) -> i32 {
        let settings = CString::new(settings).unwrap();
        let symbol = self.symbol(c"emulator_configure");
        unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> i32>(symbol)(settings.as_ptr())
        }
    }

    fn text(&self, name: &CStr) -> String {
        let give = self.symbol(name);
        let free = self.symbol(c"emulator_free_text");
        unsafe {
            let text = std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut c_char>(give)();
            let owned = CStr::from_ptr(text).to_str().unwrap().to_owned();
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_char)>(free)(text);
            owned
        }
    }

    fn reports(&self) -> Vec<Report> {
        serde_json::from_str(&self.text(c"emulator_take_reports")).unwrap()
    }
}

/// One test, because the process has one driver.
#[test]
fn cudarc_takes_the_library_for_a_driver() -> Result<(), DriverError> {
    let own = Own::open();
    assert!(unsafe { sys::is_culib_present() });
    let context = CudaContext::new(0)?;
    assert_eq!(context.name()?, "PTX emulator");
    assert_eq!(context.compute_capability()?, (8, 0));
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX))?;
    let softmax = module.load_function("softmax")?;

    let (rows, columns) = (5usize, 77usize);
    let x: Vec<f32> = (0..rows * columns).map(|i| (i * 37 % 101) as f32 * 0.1).collect();
    let x_device = stream.clone_htod(&x)?;
    let mut y_device = unsafe { stream.alloc::<f32>(rows * columns)? };
    let launch = |scale: u32, y: &mut cudarc::driver::CudaSlice<f32>| {
        let shape = LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        let columns = columns as u32;
        let mut call = stream.launch_builder(&softmax);
        call.arg(y).arg(&x_device).arg(&columns).arg(&scale);
        unsafe { call.launch(shape) }.map(drop)
    };
    let event = context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
    event.record(&stream)?;
    launch(1, &mut y_device)?;
    let end = context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
    end.record(&stream)?;
    assert!(event.elapsed_ms(&end)? >= 0.0);
    let y = stream.clone_dtoh(&y_device)?;
    for (x, y) in x.chunks(columns).zip(y.chunks(columns)) {
        let top = x.iter().fold(f32::MIN, |a, &b| a.max(b));
        let sum: f32 = x.iter().map(|v| (0.5 * (v - top)).exp()).sum();
        for (x, y) in x.iter().zip(y) {
            let wanted = (0.5 * (x - top)).exp() / sum;
            assert!(relative_eq!(*y, wanted, epsilon = 0.0, max_relative = 1e-5), "{y} {wanted}");
        }
    }

    // Copies on the device, fills, and memory that was never written.
    let mut copy = stream.alloc_zeros::<f32>(rows * columns)?;
    assert_eq!(stream.clone_dtoh(&copy)?, vec![0.0; rows * columns]);
    stream.memcpy_dtod(&y_device, &mut copy)?;
    assert_eq!(stream.clone_dtoh(&copy)?, y);
    let reports = own.reports();
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].kernel.as_str(), reports[0].grid, reports[0].block), ("softmax", [5, 1, 1], [128, 1, 1]));
    assert!(reports[0].findings.is_empty(), "{:?}", reports[0].findings);
    assert!(own.reports().is_empty());

    // An index far outside of an array is a fault of the launch, and the report says where.
    let error = launch(1 << 20, &mut y_device).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let reports = own.reports();
    assert_eq!(reports[0].findings[0].fault, Fault::OutOfBounds);
    assert_eq!(reports[0].findings[0].source, "warp.cu:13");
    assert!(own.text(c"emulator_last_error").contains("warp.cu:13"));

    // An assertion that fails is that of a card, with its words.
    let asserts = context.load_module(Ptx::from_src(CALLS))?.load_function("asserts")?;
    let values = stream.clone_htod(&(0..64).collect::<Vec<i32>>())?;
    for (n, wanted) in [(64i32, None), (63, Some(sys::CUresult::CUDA_ERROR_ASSERT))] {
        let shape = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
        let mut call = stream.launch_builder(&asserts);
        call.arg(&values).arg(&n);
        assert_eq!(unsafe { call.launch(shape) }.err().map(|e| e.0), wanted);
    }
    assert!(own.text(c"emulator_last_error").contains("thread: [62, 0, 0] Assertion `p[i] < n"));

    // Settings, and PTX that cannot be executed.
    assert_eq!(own.configure("seed=7, races=off,mma=hopper"), 0);
    assert_ne!(own.configure("speed=9"), 0);
    assert!(own.text(c"emulator_last_error").contains("there is no setting `speed`"));
    let wrong = PTX.replace("brev.b32", "frobnicate.b32");
    let error = context.load_module(Ptx::from_src(&wrong)).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(own.text(c"emulator_last_error").contains("frobnicate.b32"));
    Ok(())
}
