//! Launch parameters that Rust, the kernels and the backends see alike. That each kernel's PTX takes a structure of the
//! size that `kernels/abi.h` says is asserted when `cuda::kernels` is compiled; here it is read from the PTX once more.

use polar_raw::backend;
use polar_raw::cuda::{abi, ptx};

#[test]
fn what_is_known_of_every_kernel_is_what_its_ptx_says() {
    let mut kernels = 0;
    for module in ptx::MODULES {
        assert!(module.ptx.contains(&format!(".target {}\n", module.target.name)), "{}", module.name);
        let entries: Vec<&str> = module.ptx.split(".visible .entry ").skip(1).collect();
        assert_eq!(entries.len(), module.kernels.len(), "{}", module.name);
        for (text, kernel) in entries.into_iter().zip(module.kernels) {
            let head = text.split('{').next().unwrap();
            assert!(head.starts_with(&format!("{}(", kernel.name)), "{}", kernel.name);
            let sizes = format!("{}_param_0[{}]", kernel.name, kernel.parameters);
            assert!(head.contains(&sizes), "{}: {head}", kernel.name);
            assert!(head.contains(&format!(".maxntid {}, 1, 1", kernel.threads)), "{}: {head}", kernel.name);
            // As many threads as fit with the most registers that a thread may have, or as many as were asked for.
            let asked = head.split_once(".minnctapersm").map_or(1, |(_, n)| n.trim().parse().unwrap());
            assert_eq!(kernel.blocks, asked.max(256 / kernel.threads), "{}", kernel.name);
            kernels += 1;
        }
    }
    assert!(kernels > 50, "{kernels} kernels");
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
