// Groups of lanes that each vote, match and reduce by themselves, and a last block without its fence.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;

extern "C" __global__ void groups(int *p) {
    int t = threadIdx.x;
    unsigned m = __match_any_sync(0xffffffff, t % 3);
    p[t] = __reduce_max_sync(m, t);
    p[32 + t] = __reduce_add_sync(m, 1);
    p[64 + t] = (int)m;
    p[96 + t] = __shfl_sync(m, t, __ffs(m) - 1);
    p[128 + t] = __ballot_sync(m, t & 1);
}

extern "C" __global__ void partition(int *p) {
    int t = threadIdx.x;
    auto g = cg::labeled_partition(cg::coalesced_threads(), t % 3);
    p[t] = cg::reduce(g, t, cg::greater<int>());
    p[32 + t] = g.size();
    p[64 + t] = g.thread_rank();
}

extern "C" __global__ void last_block(float *s, unsigned *f, float *o) {
    __shared__ unsigned t;
    atomicAdd(&s[threadIdx.x], 1.f);
    __syncthreads();
    if (threadIdx.x == 0) t = atomicAdd(f, 1u);
    __syncthreads();
    if (t == gridDim.x - 1) o[threadIdx.x] = s[threadIdx.x];
}
