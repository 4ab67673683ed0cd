//! The structures of `kernels/abi.h` as arguments of a launch.

use cudarc::driver::DeviceRepr;

use super::abi;

macro_rules! arguments {
    ($($name:ident)*) => {
        $(
            // SAFETY: made by bindgen with the layout that the kernels' compiler gives it; plain numbers.
            unsafe impl DeviceRepr for abi::$name {}
        )*
    };
}

arguments! {
    GemmParams AttentionParams AttentionBackwardParams RmsnormParams RmsnormBackwardParams RopeParams BiasParams
    RowsParams EmbeddingBackwardParams SwigluParams RewardHeadParams CrossEntropyParams GlobalNormParams AdamwParams FillParams
    CastParams
}
