//! The functions of the CUDA driver that programs over cudarc call. Each does what `cuda.h` says of it.
//!
//! # Safety
//! As for all of them in `cuda.h`: pointers that are written are valid or, where that is allowed, null; pointers to
//! memory of the host are valid for the bytes that are given; texts end in a zero byte.

use super::{Status, answer, attributes};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::time::Instant;

type Handle = *mut c_void;
type Address = u64;

/// The one context.
const CONTEXT: usize = 0x100;

/// `CU_LIMIT_PRINTF_FIFO_SIZE`; the other limits are of stacks and heaps that are not here.
const PRINTF_FIFO_SIZE: i32 = 1;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Writes through a pointer of the caller.
///
/// # Safety
/// `to` is null or valid.
unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Status> {
    if to.is_null() {
        return Err(Status::InvalidValue);
    }
    // SAFETY: valid by the caller's word.
    unsafe { to.write(value) };
    Ok(())
}

/// Functions of the driver. In each body `driver` is what lies behind the handles.
macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $ty:ty),*) |$driver:ident| $body:block)+) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $ty),*) -> i32 {
            answer(|$driver| $body)
        }
    )+};
}

/// Functions that have nothing to do here: what they ask for is always so.
macro_rules! no_ops {
    ($(fn $name:ident($($ty:ty),*))+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $ty),*) -> i32 {
            Status::Success as i32
        }
    )+};
}

/// Functions that the emulator does not offer.
macro_rules! refusals {
    ($(fn $name:ident($($ty:ty),*))+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $ty),*) -> i32 {
            Status::NotSupported as i32
        }
    )+};
}

no_ops! {
    fn cuInit(c_uint)
    fn cuDevicePrimaryCtxRelease_v2(i32)
    fn cuDevicePrimaryCtxSetFlags_v2(i32, c_uint)
    fn cuCtxSynchronize()
    fn cuCtxSetFlags(c_uint)
    fn cuCtxSetCacheConfig(i32)
    fn cuCtxDestroy_v2(Handle)
    fn cuStreamDestroy_v2(Handle)
    fn cuStreamSynchronize(Handle)
    fn cuStreamQuery(Handle)
    fn cuStreamWaitEvent(Handle, Handle, c_uint)
    fn cuEventSynchronize(Handle)
    fn cuEventQuery(Handle)
    fn cuFuncSetCacheConfig(Handle, i32)
    fn cuProfilerStart()
    fn cuProfilerStop()
}

refusals! {
    fn cuStreamBeginCapture_v2(Handle, i32)
    fn cuStreamEndCapture(Handle, *mut Handle)
    fn cuLaunchHostFunc(Handle, Handle, Handle)
    fn cuLaunchKernelEx(Handle, Handle, Handle, Handle)
    fn cuMemAllocManaged(*mut Address, usize, c_uint)
    fn cuMemcpyPeerAsync(Address, Handle, Address, Handle, usize, Handle)
    fn cuModuleLoad(*mut Handle, *const c_char)
}

// SAFETY of the blocks below: by the contract of `cuda.h`, as the module says.
functions! {
    fn cuDriverGetVersion(version: *mut i32) |_driver| {
        unsafe { put(version, 13_000) }
    }

    fn cuDeviceGetCount(count: *mut i32) |_driver| {
        unsafe { put(count, 1) }
    }

    fn cuDeviceGet(device: *mut i32, ordinal: i32) |_driver| {
        if ordinal != 0 {
            return Err(Status::InvalidDevice);
        }
        unsafe { put(device, 0) }
    }

    fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32) |_driver| {
        if name.is_null() || length < 1 || device != 0 {
            return Err(Status::InvalidValue);
        }
        let kept = attributes::NAME.len().min(length as usize - 1);
        unsafe {
            name.copy_from_nonoverlapping(attributes::NAME.as_ptr().cast(), kept);
            put(name.add(kept), 0)
        }
    }

    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: i32) |_driver| {
        if device != 0 {
            return Err(Status::InvalidDevice);
        }
        unsafe { put(uuid, *b"polar-raw emulat") }
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: i32) |_driver| {
        if device != 0 {
            return Err(Status::InvalidDevice);
        }
        unsafe { put(uuid, *b"polar-raw emulat") }
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) |_driver| {
        if device != 0 {
            return Err(Status::InvalidDevice);
        }
        unsafe { put(bytes, super::TOTAL_MEMORY) }
    }

    fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32) |driver| {
        if device != 0 {
            return Err(Status::InvalidDevice);
        }
        unsafe { put(value, attributes::of_device(attribute, driver.device.config.capability)) }
    }

    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: i32) |_driver| {
        if device != 0 {
            return Err(Status::InvalidDevice);
        }
        unsafe { put(context, CONTEXT as Handle) }
    }

    fn cuCtxSetCurrent(context: Handle) |_driver| {
        if context as usize != CONTEXT && !context.is_null() {
            return Err(Status::InvalidContext);
        }
        CURRENT.set(context as usize);
        Ok(())
    }

    fn cuCtxGetCurrent(context: *mut Handle) |_driver| {
        unsafe { put(context, CURRENT.get() as Handle) }
    }

    fn cuCtxGetDevice(device: *mut i32) |_driver| {
        unsafe { put(device, 0) }
    }

    fn cuCtxGetLimit(value: *mut usize, limit: i32) |driver| {
        let found = if limit == PRINTF_FIFO_SIZE { driver.device.printf_bytes } else { 0 };
        unsafe { put(value, found) }
    }

    fn cuCtxSetLimit(limit: i32, value: usize) |driver| {
        if limit == PRINTF_FIFO_SIZE {
            driver.device.printf_bytes = value;
        }
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: *mut i32) |_driver| {
        unsafe { put(config, 0) }
    }

    fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) |_driver| {
        unsafe {
            put(least, 0)?;
            put(greatest, 0)
        }
    }

    fn cuGetErrorName(status: i32, text: *mut *const c_char) |_driver| {
        let (name, _) = attributes::describe(status).ok_or(Status::InvalidValue)?;
        unsafe { put(text, name.as_ptr().cast()) }
    }

    fn cuGetErrorString(status: i32, text: *mut *const c_char) |_driver| {
        let (_, description) = attributes::describe(status).ok_or(Status::InvalidValue)?;
        unsafe { put(text, description.as_ptr().cast()) }
    }

    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) |driver| {
        let loaded = driver.load(unsafe { text(image)? })?;
        unsafe { put(module, loaded as Handle) }
    }

    fn cuModuleLoadDataEx(
        module: *mut Handle, image: *const c_void, count: c_uint, options: *const i32, values: *const Handle
    ) |driver| {
        let loaded = driver.load(unsafe { text(image)? });
        if loaded.is_err() {
            unsafe { write_error_log(count, options, values, &driver.last_error) };
        }
        unsafe { put(module, loaded? as Handle) }
    }

    fn cuModuleUnload(module: Handle) |driver| {
        driver.unload(module as usize)
    }

    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) |driver| {
        if name.is_null() || !driver.modules.contains_key(&(module as usize)) {
            return Err(Status::InvalidHandle);
        }
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let found = *driver.names.get(&(module as usize, name)).ok_or(Status::NotFound)?;
        unsafe { put(function, found as Handle) }
    }

    fn cuModuleGetGlobal_v2(address: *mut Address, bytes: *mut usize, module: Handle, name: *const c_char) |driver| {
        let module = driver.modules.get(&(module as usize)).ok_or(Status::InvalidHandle)?;
        if name.is_null() {
            return Err(Status::InvalidValue);
        }
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let (found, size) = module.variable(&name).ok_or(Status::NotFound)?;
        unsafe {
            put(address, found)?;
            if bytes.is_null() { Ok(()) } else { put(bytes, size) }
        }
    }

    fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: Handle) |driver| {
        let function = driver.functions.get(&(function as usize)).ok_or(Status::InvalidHandle)?;
        let found = attributes::of_function(function, attribute)?;
        unsafe { put(value, found) }
    }

    fn cuFuncSetAttribute(function: Handle, attribute: i32, value: i32) |driver| {
        let capability = driver.device.config.capability;
        let function = driver.functions.get_mut(&(function as usize)).ok_or(Status::InvalidHandle)?;
        match attribute {
            8 => {
                let most = attributes::of_device(97, capability) - function.kernel.program.layout.static_shared as i32;
                function.most_dynamic_shared =
                    u32::try_from(value).ok().filter(|_| value <= most).ok_or(Status::InvalidValue)?;
                Ok(())
            }
            // The share of shared memory and L1 is a hint.
            9 => Ok(()),
            _ => Err(Status::InvalidValue),
        }
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut i32, function: Handle, _threads: i32, _shared: usize
    ) |driver| {
        if !driver.functions.contains_key(&(function as usize)) {
            return Err(Status::InvalidHandle);
        }
        unsafe { put(blocks, 1) }
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) |driver| {
        let used: usize = driver.allocated.values().sum();
        unsafe {
            put(free, super::TOTAL_MEMORY - used)?;
            put(total, super::TOTAL_MEMORY)
        }
    }

    fn cuMemAlloc_v2(address: *mut Address, bytes: usize) |driver| {
        let allocated = driver.allocate(bytes)?;
        unsafe { put(address, allocated) }
    }

    fn cuMemAllocAsync(address: *mut Address, bytes: usize, _stream: Handle) |driver| {
        let allocated = driver.allocate(bytes)?;
        unsafe { put(address, allocated) }
    }

    fn cuMemFree_v2(address: Address) |driver| {
        driver.free(address)
    }

    fn cuMemFreeAsync(address: Address, _stream: Handle) |driver| {
        driver.free(address)
    }

    fn cuMemHostAlloc(memory: *mut Handle, bytes: usize, _flags: c_uint) |_driver| {
        let memory_of = host_layout(bytes)?;
        // SAFETY: the layout is not empty.
        let allocated = unsafe { std::alloc::alloc_zeroed(memory_of) };
        if allocated.is_null() {
            return Err(Status::OutOfMemory);
        }
        // The length is kept in front, where freeing finds it.
        unsafe {
            allocated.cast::<usize>().write(bytes);
            put(memory, allocated.add(HOST_ALIGNMENT).cast())
        }
    }

    fn cuMemFreeHost(memory: Handle) |_driver| {
        if memory.is_null() {
            return Err(Status::InvalidValue);
        }
        unsafe {
            let allocated = memory.cast::<u8>().sub(HOST_ALIGNMENT);
            std::alloc::dealloc(allocated, host_layout(allocated.cast::<usize>().read())?);
        }
        Ok(())
    }

    fn cuMemcpyHtoD_v2(to: Address, from: *const c_void, bytes: usize) |driver| {
        let result = driver.device.memory.write(to, unsafe { host(from, bytes)? });
        driver.checked(result)
    }

    fn cuMemcpyHtoDAsync_v2(to: Address, from: *const c_void, bytes: usize, _stream: Handle) |driver| {
        let result = driver.device.memory.write(to, unsafe { host(from, bytes)? });
        driver.checked(result)
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: Address, bytes: usize) |driver| {
        let result = driver.device.memory.read(from, unsafe { host_mut(to, bytes)? });
        driver.checked(result)
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: Address, bytes: usize, _stream: Handle) |driver| {
        let result = driver.device.memory.read(from, unsafe { host_mut(to, bytes)? });
        driver.checked(result)
    }

    fn cuMemcpyDtoD_v2(to: Address, from: Address, bytes: usize) |driver| {
        let result = driver.device.memory.copy(to, from, bytes);
        driver.checked(result)
    }

    fn cuMemcpyDtoDAsync_v2(to: Address, from: Address, bytes: usize, _stream: Handle) |driver| {
        let result = driver.device.memory.copy(to, from, bytes);
        driver.checked(result)
    }

    fn cuMemsetD8_v2(to: Address, value: u8, count: usize) |driver| {
        let result = driver.device.memory.fill(to, &[value], count);
        driver.checked(result)
    }

    fn cuMemsetD8Async(to: Address, value: u8, count: usize, _stream: Handle) |driver| {
        let result = driver.device.memory.fill(to, &[value], count);
        driver.checked(result)
    }

    fn cuMemsetD16Async(to: Address, value: u16, count: usize, _stream: Handle) |driver| {
        let result = driver.device.memory.fill(to, &value.to_le_bytes(), count);
        driver.checked(result)
    }

    fn cuMemsetD32Async(to: Address, value: u32, count: usize, _stream: Handle) |driver| {
        let result = driver.device.memory.fill(to, &value.to_le_bytes(), count);
        driver.checked(result)
    }

    fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) |driver| {
        let handle = driver.handle();
        unsafe { put(stream, handle as Handle) }
    }

    fn cuStreamCreateWithPriority(stream: *mut Handle, _flags: c_uint, _priority: i32) |driver| {
        let handle = driver.handle();
        unsafe { put(stream, handle as Handle) }
    }

    fn cuStreamIsCapturing(_stream: Handle, status: *mut i32) |_driver| {
        unsafe { put(status, 0) }
    }

    fn cuEventCreate(event: *mut Handle, _flags: c_uint) |driver| {
        let handle = driver.handle();
        driver.events.insert(handle, None);
        unsafe { put(event, handle as Handle) }
    }

    fn cuEventRecord(event: Handle, _stream: Handle) |driver| {
        *driver.events.get_mut(&(event as usize)).ok_or(Status::InvalidHandle)? = Some(Instant::now());
        Ok(())
    }

    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) |driver| {
        let at = |event: Handle| driver.events.get(&(event as usize)).copied().flatten().ok_or(Status::InvalidHandle);
        let elapsed = at(end)?.saturating_duration_since(at(start)?).as_secs_f64() * 1e3;
        unsafe { put(milliseconds, elapsed as f32) }
    }

    fn cuEventDestroy_v2(event: Handle) |driver| {
        driver.events.remove(&(event as usize)).map(drop).ok_or(Status::InvalidHandle)
    }

    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint,
        _stream: Handle,
        params: *const *const c_void,
        extra: *const Handle
    ) |driver| {
        if !extra.is_null() {
            return Err(Status::NotSupported);
        }
        let layout = {
            let function = driver.functions.get(&(function as usize)).ok_or(Status::InvalidHandle)?;
            function.kernel.program.clone()
        };
        let sizes = layout.layout.params.iter().map(|p| p.size);
        if params.is_null() && sizes.len() > 0 {
            return Err(Status::InvalidValue);
        }
        let mut bytes = Vec::with_capacity(sizes.len());
        for (at, size) in sizes.enumerate() {
            bytes.push(unsafe { host(*params.add(at), size)? });
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        driver.launch(function as usize, grid, block, shared, &bytes)
    }
}

/// The PTX of an image.
///
/// # Safety
/// `image` is null or a text, or begins with the mark of what is compiled already.
unsafe fn text<'a>(image: *const c_void) -> Result<&'a str, Status> {
    if image.is_null() {
        return Err(Status::InvalidValue);
    }
    // SAFETY: by the caller's word.
    let image = unsafe { CStr::from_ptr(image.cast()) };
    // Whatever is compiled already begins with the mark of ELF or of a fat binary.
    match image.to_str() {
        Ok(ptx) if !ptx.starts_with("\u{7f}ELF") => Ok(ptx),
        _ => Err(Status::NoBinaryForGpu),
    }
}

/// Writes to the log of errors (`CU_JIT_ERROR_LOG_BUFFER`) as much of a text as fits.
///
/// # Safety
/// There are `count` options and values, and the log is as long as its option says, whose value is a number in a
/// pointer's place.
unsafe fn write_error_log(count: c_uint, options: *const i32, values: *const Handle, error: &str) {
    const ERROR_LOG: i32 = 5;
    const ERROR_LOG_SIZE: i32 = 6;
    if count == 0 || options.is_null() || values.is_null() {
        return;
    }
    // SAFETY: by the caller's word.
    let (options, values) = unsafe {
        (std::slice::from_raw_parts(options, count as usize), std::slice::from_raw_parts(values, count as usize))
    };
    let value = |wanted| options.iter().position(|&option| option == wanted).map(|at| values[at]);
    if let (Some(log), Some(size)) = (value(ERROR_LOG), value(ERROR_LOG_SIZE))
        && !log.is_null()
        && size as usize > 0
    {
        let kept = error.len().min(size as usize - 1);
        // SAFETY: the log has room for that and a zero byte.
        unsafe {
            log.cast::<u8>().copy_from_nonoverlapping(error.as_ptr(), kept);
            log.cast::<u8>().add(kept).write(0);
        }
    }
}

/// Space in front of page-locked memory, which keeps its alignment.
const HOST_ALIGNMENT: usize = 256;

fn host_layout(bytes: usize) -> Result<std::alloc::Layout, Status> {
    let whole = bytes.checked_add(HOST_ALIGNMENT).ok_or(Status::OutOfMemory)?;
    std::alloc::Layout::from_size_align(whole, HOST_ALIGNMENT).map_err(|_| Status::OutOfMemory)
}

/// Memory of the host that is read.
///
/// # Safety
/// Valid for so many bytes, unless null.
unsafe fn host<'a>(from: *const c_void, bytes: usize) -> Result<&'a [u8], Status> {
    if bytes == 0 {
        return Ok(&[]);
    }
    if from.is_null() {
        return Err(Status::InvalidValue);
    }
    // SAFETY: valid by the caller's word.
    Ok(unsafe { std::slice::from_raw_parts(from.cast(), bytes) })
}

/// Memory of the host that is written.
///
/// # Safety
/// Valid for so many bytes, unless null.
unsafe fn host_mut<'a>(to: *mut c_void, bytes: usize) -> Result<&'a mut [u8], Status> {
    if bytes == 0 {
        return Ok(&mut []);
    }
    if to.is_null() {
        return Err(Status::InvalidValue);
    }
    // SAFETY: valid by the caller's word.
    Ok(unsafe { std::slice::from_raw_parts_mut(to.cast(), bytes) })
}
