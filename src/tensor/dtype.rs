use std::fmt::{self, Display, Formatter};

use half::{bf16, f16};

/// The types that numbers have, in memory and in files. What else files of weights hold
/// is an `Encoding` of `formats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit float: the reference.
    F64,
    /// 32-bit float: the CPU, master weights, statistics.
    F32,
    /// Brain float: weights and activations on a GPU.
    Bf16,
    /// IEEE 754 half precision: files only.
    F16,
    /// Token ids, positions, row numbers.
    U32,
}

impl Dtype {
    /// The types in which this program stores the weights of a model.
    pub const STORED: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// PyTorch's name, as in the `torch_dtype` of a `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::U32 => "uint32",
        }
    }

    /// The type of [`Dtype::STORED`] that a person names: by PyTorch's name, or by a short one (`bf16`).
    pub fn named(name: &str) -> Option<Self> {
        let name = match name {
            "f32" | "fp32" => "float32",
            "bf16" => "bfloat16",
            "f16" | "fp16" => "float16",
            name => name,
        };
        Self::STORED.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl Display for Dtype {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
