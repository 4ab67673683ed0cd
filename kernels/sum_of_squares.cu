// The sum of the squares of a flat buffer, in an order that depends on nothing but its length. The root, which makes a
// norm of it, belongs to whoever has the sums of all ranges.
//
// Floor: 4 bytes an element.
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(FLAT_SUM_THREADS)
    sum_of_squares_partial(const __grid_constant__ FlatSumParams p) {
    chunk_sum(p, [](float x) { return x * x; });
}

extern "C" __global__ void __launch_bounds__(FLAT_SUM_THREADS)
    sum_of_squares_finish(const __grid_constant__ FlatSumParams p) {
    sum_of_chunks(p);
}
