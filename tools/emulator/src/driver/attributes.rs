//! What the device and its kernels say of themselves: attributes by their numbers in `cuda.h`.

use super::{Function, Status};

/// The device's name.
pub(super) const NAME: &str = "PTX emulator";

/// KiB of shared memory and threads of a multiprocessor of a capability.
fn multiprocessor((major, minor): (u32, u32)) -> (i32, i32) {
    match (major, minor) {
        (8, 0) => (164, 2_048),
        (9 | 10, _) => (228, 2_048),
        _ => (100, 1_536),
    }
}

/// An attribute of a device of a capability: that of an A100 where a kernel could depend on it and it is not the
/// capability that decides.
pub(super) fn of_device(attribute: i32, capability: (u32, u32)) -> i32 {
    let (shared, threads) = multiprocessor(capability);
    match attribute {
        // Threads of a block, and in x, y and z.
        1..=3 => 1024,
        4 => 64,
        // Blocks of a grid in x, y and z.
        5 => i32::MAX,
        6 | 7 => 65_535,
        // Shared memory of a block, constant memory, lanes of a warp, registers of a block, clock in kHz.
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        12 => 65_536,
        13 => 1_410_000,
        // Multiprocessors: blocks that really run at once.
        16 => i32::try_from(rayon::current_num_threads()).unwrap_or(1),
        // Kernels at once, unified addresses, asynchronous engines.
        31 | 40 | 41 => 1,
        // Memory clock in kHz, width of the bus in bits, L2 in bytes, threads of a multiprocessor.
        36 => 1_215_000,
        37 => 5_120,
        38 => 40 << 20,
        39 => threads,
        75 => capability.0 as i32,
        76 => capability.1 as i32,
        // Shared memory and registers of a multiprocessor; shared memory of a block that asks.
        81 => shared << 10,
        82 => 65_536,
        97 => (shared - 1) << 10,
        // Blocks of a multiprocessor, pools of memory, shared memory that is reserved in each block.
        106 => 32,
        115 => 1,
        111 => 1 << 10,
        _ => 0,
    }
}

/// An attribute of a kernel.
pub(super) fn of_function(function: &Function, attribute: i32) -> Result<i32, Status> {
    let program = &function.kernel.program;
    let bytes = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    Ok(match attribute {
        0 => bytes(program.max_threads as usize),
        1 => bytes(program.layout.static_shared),
        2 => 0,
        3 => bytes(program.layout.local.iter().map(|a| a.size).sum()),
        // Registers are what only a compiler for the real device knows; 255 is the most there are.
        4 => 255,
        5 | 6 => 80,
        7 => 0,
        8 => bytes(function.most_dynamic_shared as usize),
        9 => -1,
        _ => return Err(Status::InvalidValue),
    })
}

/// Name and description of a status.
pub(super) fn describe(status: i32) -> Option<(&'static str, &'static str)> {
    Some(match status {
        0 => ("CUDA_SUCCESS\0", "no error\0"),
        1 => ("CUDA_ERROR_INVALID_VALUE\0", "invalid argument\0"),
        2 => ("CUDA_ERROR_OUT_OF_MEMORY\0", "out of memory\0"),
        101 => ("CUDA_ERROR_INVALID_DEVICE\0", "invalid device ordinal\0"),
        201 => ("CUDA_ERROR_INVALID_CONTEXT\0", "invalid device context\0"),
        209 => ("CUDA_ERROR_NO_BINARY_FOR_GPU\0", "the emulator loads PTX only\0"),
        218 => ("CUDA_ERROR_INVALID_PTX\0", "the PTX cannot be executed; emulator_last_error says why\0"),
        400 => ("CUDA_ERROR_INVALID_HANDLE\0", "invalid resource handle\0"),
        500 => ("CUDA_ERROR_NOT_FOUND\0", "named symbol not found\0"),
        700 => ("CUDA_ERROR_ILLEGAL_ADDRESS\0", "an illegal memory access; emulator_last_error says where\0"),
        710 => ("CUDA_ERROR_ASSERT\0", "a device-side assertion failed; emulator_last_error says which\0"),
        714 => ("CUDA_ERROR_HARDWARE_STACK_ERROR\0", "calls too deep; emulator_last_error says where\0"),
        716 => ("CUDA_ERROR_MISALIGNED_ADDRESS\0", "a misaligned address; emulator_last_error says where\0"),
        719 => ("CUDA_ERROR_LAUNCH_FAILED\0", "the launch failed; emulator_last_error says how\0"),
        801 => ("CUDA_ERROR_NOT_SUPPORTED\0", "the emulator does not do this\0"),
        999 => ("CUDA_ERROR_UNKNOWN\0", "unknown error\0"),
        _ => return None,
    })
}
