use half::{bf16, f16};

/// The types that elements of a tensor have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit float: the reference.
    F64,
    /// 32-bit float: the CPU, master weights, statistics.
    F32,
    /// Brain float: weights and activations on a GPU.
    Bf16,
    /// Half precision: files only.
    F16,
    /// Token ids, positions, row numbers.
    U32,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// A Rust type that is the element of some dtype.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Its dtype.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: Dtype = Dtype::$dtype; })* };
}
elements!(f64 => F64, f32 => F32, bf16 => Bf16, f16 => F16, u32 => U32);
