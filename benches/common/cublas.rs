//! NVIDIA's own matrix product beside ours, where its library is found. Loaded by hand, so that its absence is no error
//! and any version will do.

use std::ffi::{CStr, c_int, c_void};
use std::mem::transmute;
use std::ptr;

use polar_raw::backend::Gemm;
use polar_raw::error::{Error, Result};
use polar_raw::tensor::{Dtype, Tensor};

const NAMES: [&CStr; 4] = [c"libcublas.so", c"libcublas.so.13", c"libcublas.so.12", c"libcublas.so.11"];

/// Of `cublasOperation_t`, `cudaDataType`, `cublasComputeType_t` and `cublasGemmAlgo_t`.
const OP_N: c_int = 0;
const OP_T: c_int = 1;
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const GEMM_DEFAULT: c_int = -1;

type Create = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
type GemmEx = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// cuBLAS on the card that this thread uses.
pub struct Cublas {
    handle: *mut c_void,
    gemm_ex: GemmEx,
    destroy: Destroy,
}

impl Cublas {
    /// Loads the library; nothing where it is not found or does not start.
    pub fn load() -> Option<Self> {
        // SAFETY: loading the library runs nothing but its constructors; the names and signatures are those of its
        // public header, which have not changed since version 11; it stays loaded.
        unsafe {
            let library = NAMES
                .iter()
                .map(|name| libc::dlopen(name.as_ptr(), libc::RTLD_NOW))
                .find(|library| !library.is_null())?;
            let symbol = |name: &CStr| Some(libc::dlsym(library, name.as_ptr())).filter(|address| !address.is_null());
            let create = transmute::<*mut c_void, Create>(symbol(c"cublasCreate_v2")?);
            let destroy = transmute::<*mut c_void, Destroy>(symbol(c"cublasDestroy_v2")?);
            let gemm_ex = transmute::<*mut c_void, GemmEx>(symbol(c"cublasGemmEx")?);
            let mut handle = ptr::null_mut();
            (create(&mut handle) == 0).then_some(Self { handle, gemm_ex, destroy })
        }
    }

    /// `out (+)= op(a) op(b)`, in bf16 with sums in f32. To cuBLAS a row-major matrix is its transpose, so that the
    /// operands change places.
    pub fn gemm(&self, layout: Gemm, [out, a, b]: [&Tensor; 3], accumulate: bool) -> Result<()> {
        let (of_a, of_b, k) = match layout {
            Gemm::Nt => (OP_N, OP_T, a.cols()),
            Gemm::Nn => (OP_N, OP_N, a.cols()),
            Gemm::Tn => (OP_T, OP_N, a.rows()),
        };
        let (alpha, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        let c_type = if out.dtype() == Dtype::F32 { R_32F } else { R_16BF };
        // SAFETY: the operands are dense matrices of these sizes and types.
        let status = unsafe {
            (self.gemm_ex)(
                self.handle,
                of_b,
                of_a,
                out.cols() as c_int,
                out.rows() as c_int,
                k as c_int,
                ptr::from_ref(&alpha).cast(),
                b.address().cast(),
                R_16BF,
                b.cols() as c_int,
                a.address().cast(),
                R_16BF,
                a.cols() as c_int,
                ptr::from_ref(&beta).cast(),
                out.address().cast(),
                c_type,
                out.cols() as c_int,
                COMPUTE_32F,
                GEMM_DEFAULT,
            )
        };
        if status == 0 { Ok(()) } else { Err(Error::machine(format!("cublasGemmEx fails with status {status}"))) }
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: made by `load`, destroyed once.
        unsafe { (self.destroy)(self.handle) };
    }
}
