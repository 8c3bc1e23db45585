// Shared by the kernels of this folder; put in place of its #include line as text (NVRTC, nvcc and the CPU emulator
// of tests/cuda_host get the same source). float2 (real2) holds a complex number: x real, y imaginary.
// Offsets into stacks are long long: 128 images of 4096 x 4096 are 2^31 pixels.
#ifndef ASTRID_GPU_COMMON_CUH
#define ASTRID_GPU_COMMON_CUH

// A kernel written with `real` and `real2` is compiled a second time for double with -DASTRID_DOUBLE.
#ifdef ASTRID_DOUBLE
typedef double real;
typedef double2 real2;
__device__ __forceinline__ real2 make_real2(real x, real y) { return make_double2(x, y); }
__device__ __forceinline__ real inverse_sqrt(real x) { return rsqrt(x); }
#else
typedef float real;
typedef float2 real2;
__device__ __forceinline__ real2 make_real2(real x, real y) { return make_float2(x, y); }
__device__ __forceinline__ real inverse_sqrt(real x) { return rsqrtf(x); }
#endif

#define FULL_WARP 0xffffffffu
#define NAN_F __int_as_float(0x7fc00000)
#define INFINITY_F __int_as_float(0x7f800000)

// Dynamic shared memory of the launch as an array: DYNAMIC_SHARED(float, tile);
#ifdef CUDA_SHIM
#define DYNAMIC_SHARED(type, name) CUDA_SHIM_DYNAMIC_SHARED(type, name)
#else
#define DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];  \
  type* name = reinterpret_cast<type*>(dynamic_shared_memory)
#endif

// First index and stride of a thread that walks a flat range together with all threads of its grid row.
__device__ __forceinline__ long long grid_first() { return blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; }
__device__ __forceinline__ long long grid_stride() { return gridDim.x * static_cast<long long>(blockDim.x); }

// ---- complex: in either precision whatever `real` is ----------------------------------------------------------------
#define ASTRID_COMPLEX(T, T2, make)                                                                                 \
  __device__ __forceinline__ T2 cscale(T2 a, T s) { return make(a.x * s, a.y * s); }                               \
  __device__ __forceinline__ T2 cadd(T2 a, T2 b) { return make(a.x + b.x, a.y + b.y); }                            \
  __device__ __forceinline__ T2 csub(T2 a, T2 b) { return make(a.x - b.x, a.y - b.y); }                            \
  __device__ __forceinline__ T2 cmul(T2 a, T2 b) { return make(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }    \
  __device__ __forceinline__ T2 cmul_conj(T2 a, T2 b) { return make(a.x * b.x + a.y * b.y, a.y * b.x - a.x * b.y); } \
  __device__ __forceinline__ T cabs2(T2 a) { return a.x * a.x + a.y * a.y; }
ASTRID_COMPLEX(float, float2, make_float2)
ASTRID_COMPLEX(double, double2, make_double2)  // cmul_conj(a, b) is a * conj(b)

// ---- sums over a warp: lane 0 has the result, in an order that does not depend on timing ---------------------------
__device__ __forceinline__ float warp_sum(float value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_down_sync(FULL_WARP, value, step);
  return value;
}
__device__ __forceinline__ double warp_sum(double value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_down_sync(FULL_WARP, value, step);
  return value;
}
__device__ __forceinline__ int warp_sum(int value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_down_sync(FULL_WARP, value, step);
  return value;
}

#endif
