// Vector types, atomics, bit and math intrinsics of CUDA C for the host: exact where the device approximates.
#pragma once
#include <bit>
#include <cmath>
#include <math.h>
#include <type_traits>

using std::isfinite;
using std::isinf;
using std::isnan;

// ---- vector types --------------------------------------------------------------------------------------------------
#define CUDA_SHIM_VECTOR2(T, name)        \
  struct alignas(2 * sizeof(T)) name {    \
    T x, y;                               \
  };                                      \
  inline name make_##name(T x, T y) { return {x, y}; }
#define CUDA_SHIM_VECTOR4(T, name)        \
  struct alignas(16) name {               \
    T x, y, z, w;                         \
  };                                      \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_SHIM_VECTOR2(float, float2)
CUDA_SHIM_VECTOR2(double, double2)
CUDA_SHIM_VECTOR2(int, int2)
CUDA_SHIM_VECTOR4(float, float4)
CUDA_SHIM_VECTOR4(int, int4)

// ---- minimum and maximum: the overloads CUDA has, mixed signs included ---------------------------------------------
#define CUDA_SHIM_MINMAX(T)                                  \
  inline T min(T a, T b) { return b < a ? b : a; }           \
  inline T max(T a, T b) { return a < b ? b : a; }
CUDA_SHIM_MINMAX(int)
CUDA_SHIM_MINMAX(unsigned)
CUDA_SHIM_MINMAX(long)
CUDA_SHIM_MINMAX(unsigned long)
CUDA_SHIM_MINMAX(long long)
CUDA_SHIM_MINMAX(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }  // these two return the number where one is NaN
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// ---- bits ----------------------------------------------------------------------------------------------------------
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }

// ---- atomics: blocks run one after another, so a plain read and write is atomic ------------------------------------
#define CUDA_SHIM_ATOMIC(name, update)                            \
  template <class T>                                              \
  inline T name(T* address, std::type_identity_t<T> value) {      \
    const T old = *address;                                       \
    *address = (update);                                          \
    return old;                                                   \
  }
CUDA_SHIM_ATOMIC(atomicAdd, old + value)
CUDA_SHIM_ATOMIC(atomicSub, old - value)
CUDA_SHIM_ATOMIC(atomicMax, old < value ? value : old)
CUDA_SHIM_ATOMIC(atomicMin, value < old ? value : old)
CUDA_SHIM_ATOMIC(atomicOr, old | value)
CUDA_SHIM_ATOMIC(atomicAnd, old & value)
CUDA_SHIM_ATOMIC(atomicExch, value)
template <class T>
inline T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == compare) *address = value;
  return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- mathematics ---------------------------------------------------------------------------------------------------
template <class T>
inline T __ldg(const T* address) {
  return *address;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline float sinpif(float x) { return static_cast<float>(sin(M_PI * (x - 2.0 * rint(0.5 * x)))); }
inline double sinpi(double x) { return sin(M_PI * (x - 2.0 * rint(0.5 * x))); }
inline float cospif(float x) { return static_cast<float>(cos(M_PI * (x - 2.0 * rint(0.5 * x)))); }
