// Functions that are not inlined, and the CUDA library's assert and printf.
#include <cassert>
#include <cstdio>

struct P {
    int a;
    double b;
    short c[3];
};

__device__ __noinline__ float line(float x) { return x * 2.f + 1.f; }

__device__ __noinline__ P mixed(P p, int k) {
    P q = p;
    q.a += k;
    q.b *= p.a;
    q.c[k % 3] = (short)k;
    return q;
}

__device__ __noinline__ unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

__device__ __noinline__ unsigned down(unsigned n, unsigned *p);
__device__ __noinline__ unsigned up(unsigned n, unsigned *p) {
    unsigned here[2] = {n, n + 1};
    if (n == 0) return 1;
    p[0] += down(n - 1, here);
    return p[0] + here[n & 1];
}
__device__ __noinline__ unsigned down(unsigned n, unsigned *p) {
    if (n == 0) return 2;
    p[n & 1] += 1;
    return up(n - 1, p) * 3;
}

__device__ __noinline__ void twice(int *p, int *local) {
    int x[4];
    for (int i = 0; i < 4; i++) x[i] = local[i] + p[0];
    for (int i = 0; i < 4; i++) local[i] = x[3 - i];
    if (p[0] > 100) return;
    p[0] += x[p[0] & 3];
}

__device__ __noinline__ int total(int x) {
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(0xffffffff, x, step);
    return x;
}

extern "C" __global__ void plain(float *p) {
    p[threadIdx.x] = line(p[threadIdx.x]);
    if (threadIdx.x & 1) p[threadIdx.x] += line(3.f);
}

extern "C" __global__ void structs(int *p) {
    P q;
    q.a = threadIdx.x;
    q.b = 0.5;
    q.c[0] = q.c[1] = q.c[2] = 7;
    q = mixed(q, p[threadIdx.x]);
    p[threadIdx.x] = q.a * 1000 + (int)q.b + q.c[0] + 10 * q.c[1] + 100 * q.c[2];
}

extern "C" __global__ void recursive(unsigned *p) { p[threadIdx.x] = fibonacci(threadIdx.x % 8); }

extern "C" __global__ void mutual(unsigned *p) {
    unsigned mine[2] = {threadIdx.x, 5};
    p[threadIdx.x] = up(threadIdx.x % 16, mine) + mine[0] + mine[1];
}

extern "C" __global__ void bottomless(unsigned *p) { p[threadIdx.x] = up(1000000, p); }

extern "C" __global__ void locals(int *p) {
    int l[4] = {1, 2, 3, (int)threadIdx.x};
    twice(p + threadIdx.x, l);
    twice(p + threadIdx.x, l);
    p[threadIdx.x] += l[p[threadIdx.x] & 3];
}

extern "C" __global__ void together(int *p) { p[threadIdx.x] = total(p[threadIdx.x]) - total(1); }

extern "C" __global__ void outside(float *p) { p[threadIdx.x] = line(p[threadIdx.x + 64]); }

extern "C" __global__ void asserts(int *p, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    assert(p[i] < n && "small");
    p[i] += 1;
}

extern "C" __global__ void prints(int n, double x, const char *s) {
    if (threadIdx.x % 16 == 0)
        printf("%d %u %x %#X %lld %llu %f %e %g %s %c %p %% [%5d|%-5d|%05d|%+d] [%.3f|%10.2e|%-8s|%.2s] %d\n", -n, n, n,
               n, -123456789012345ll, 18446744073709551615ull, x, x, x, s, 'A' + threadIdx.x / 16, s, n, n, n, n, x, x,
               "ab", "xyz", (int)threadIdx.x);
}

extern "C" __global__ void counts(int *p) { p[threadIdx.x] = printf("%d of %s\n", (int)threadIdx.x, "many"); }
