//! The committed PTX and the launch parameters that Rust has for it agree in size, kernel by kernel.

use polar_raw::backend;
use polar_raw::cuda::{abi, ptx};

/// The size of the structure that a kernel takes, by the beginning of its name.
const PARAMETERS: [(&str, usize); 17] = [
    ("gemm_", size_of::<abi::GemmParams>()),
    ("attention_forward_", size_of::<abi::AttentionParams>()),
    ("attention_backward_", size_of::<abi::AttentionBackwardParams>()),
    ("rmsnorm_forward_", size_of::<abi::RmsnormParams>()),
    ("rmsnorm_backward_", size_of::<abi::RmsnormBackwardParams>()),
    ("rope_", size_of::<abi::RopeParams>()),
    ("embedding_forward_", size_of::<abi::RowsParams>()),
    ("embedding_backward_", size_of::<abi::EmbeddingBackwardParams>()),
    ("gather_", size_of::<abi::RowsParams>()),
    ("swiglu_", size_of::<abi::SwigluParams>()),
    ("reward_head_", size_of::<abi::RewardHeadParams>()),
    ("linear_cross_entropy_", size_of::<abi::CrossEntropyParams>()),
    ("global_norm_", size_of::<abi::GlobalNormParams>()),
    ("adamw", size_of::<abi::AdamwParams>()),
    ("fill_", size_of::<abi::FillParams>()),
    ("bias_", size_of::<abi::BiasParams>()),
    ("cast_", size_of::<abi::CastParams>()),
];

#[test]
fn every_kernel_takes_what_rust_gives() {
    for module in ptx::MODULES {
        for (kernel, size) in module.entries() {
            let (_, expected) = PARAMETERS
                .into_iter()
                .find(|(prefix, _)| kernel.starts_with(prefix))
                .unwrap_or_else(|| panic!("{kernel}: which parameters does it take?"));
            assert_eq!(size, expected, "{kernel}");
        }
    }
}

#[test]
fn spans_are_the_backends() {
    let given = backend::Span {
        query_start: 1,
        queries: 2,
        own_start: 3,
        own: 4,
        prefix_start: 5,
        prefix: 6,
        row: 7,
        reserved: 8,
    };
    assert_eq!(size_of::<abi::Span>(), size_of::<backend::Span>());
    // SAFETY: both are eight u32.
    let seen: abi::Span = unsafe { std::mem::transmute(given) };
    let fields = [
        seen.query_start,
        seen.queries,
        seen.own_start,
        seen.own,
        seen.prefix_start,
        seen.prefix,
        seen.row,
        seen.reserved,
    ];
    assert_eq!(fields, [1, 2, 3, 4, 5, 6, 7, 8]);
}
