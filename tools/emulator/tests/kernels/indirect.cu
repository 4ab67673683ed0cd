// A call through a register.
extern "C" __global__ void indirect(float *p, float (*h)(float)) { p[threadIdx.x] = h(p[threadIdx.x]); }
