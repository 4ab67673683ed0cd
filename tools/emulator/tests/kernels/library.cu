// What nvcc inlines of the CUDA library: double precision, powers and error functions; clocks, sleep, early exits.
extern "C" __global__ void early(float *p, int n) {
    __shared__ float s[64];
    int i = threadIdx.x;
    if (i >= n) return;
    s[i] = p[i];
    __syncthreads();
    p[i] = s[n - 1 - i];
}

extern "C" __global__ void doubles(double *y, const double *x) {
    int i = threadIdx.x + blockIdx.x * blockDim.x;
    double v = x[i];
    y[8 * i] = exp(v);
    y[8 * i + 1] = sqrt(fabs(v));
    y[8 * i + 2] = log(fabs(v));
    y[8 * i + 3] = 1.0 / v;
    y[8 * i + 4] = v / 3.0;
    y[8 * i + 5] = rsqrt(fabs(v));
    y[8 * i + 6] = tanh(v);
    y[8 * i + 7] = pow(fabs(v), 1.25);
}

extern "C" __global__ void singles(float *y, const float *x) {
    int i = threadIdx.x + blockIdx.x * blockDim.x;
    float v = x[i];
    y[4 * i] = sinf(v);
    y[4 * i + 1] = powf(fabsf(v), 1.3f);
    y[4 * i + 2] = erff(v);
    y[4 * i + 3] = expf(v);
}

extern "C" __global__ void clocks(long long *p) {
    long long a = clock64();
    __nanosleep(20);
    unsigned b = clock();
    long long c = clock64();
    unsigned long long s, t;
    unsigned high;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(s));
    asm volatile("mov.u32 %0, %%globaltimer_hi;" : "=r"(high));
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    p[threadIdx.x] = (c > a) | ((unsigned)c > b) << 1 | (t > s) << 2 | (high == s >> 32) << 3 | (long long)__activemask() << 8;
}
