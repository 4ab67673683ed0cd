// How many elements of a flat buffer are not finite: what has to be nothing before state is saved.
//
// Floor: 4 bytes an element. The count is an f32 like all sums, exact up to 2^24 and never zero where something was
// found.
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(FLAT_SUM_THREADS)
    count_non_finite_partial(const __grid_constant__ FlatSumParams p) {
    chunk_sum(p, [](float x) { return is_finite(x) ? 0.0f : 1.0f; });
}

extern "C" __global__ void __launch_bounds__(FLAT_SUM_THREADS)
    count_non_finite_finish(const __grid_constant__ FlatSumParams p) {
    sum_of_chunks(p);
}
