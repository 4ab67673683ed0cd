use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// A piece of memory that some backend owns, freed when the last tensor in it is dropped.
pub struct Storage {
    address: *mut u8,
    bytes: usize,
    owner: Box<dyn Any>,
}

impl Storage {
    /// `bytes` at `address`, kept alive by `owner`. The address need not be readable by the host.
    ///
    /// # Safety
    /// The backend whose tensors lie in it may read and write all `bytes` at `address`, aligned for any dtype, for as
    /// long as `owner` lives, and nothing else does.
    pub unsafe fn new(address: *mut u8, bytes: usize, owner: Box<dyn Any>) -> Self {
        Self { address, bytes, owner }
    }

    /// Where it begins.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Whether it is [`HostMemory`], which the host may read and write.
    pub fn is_host(&self) -> bool {
        self.owner.is::<HostMemory>()
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Zeroed host memory on a cache-line boundary.
pub struct HostMemory {
    address: NonNull<u8>,
    layout: Layout,
}

impl HostMemory {
    /// Takes `bytes` from the system, or says that there is not enough.
    pub fn zeroed(bytes: usize) -> Result<Self> {
        let refuse = || Error::machine(format!("cannot allocate {bytes} bytes of memory: use a smaller model or pack"));
        let layout = Layout::from_size_align(bytes.max(64), 64).map_err(|_| refuse())?;
        // SAFETY: the layout's size is not zero.
        let address = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refuse)?;
        Ok(Self { address, layout })
    }

    /// Wraps it up as a tensor's storage.
    pub fn into_storage(self) -> Storage {
        // SAFETY: this allocation, of this size, aligned to 64 bytes, is freed when its owner is dropped.
        unsafe { Storage::new(self.address.as_ptr(), self.layout.size(), Box::new(self)) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed` with this very layout, freed once.
        unsafe { dealloc(self.address.as_ptr(), self.layout) }
    }
}
