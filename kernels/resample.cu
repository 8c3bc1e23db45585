// Reading images between their pixels: nearest, bilinear, Lanczos-3, cubic and quintic spline.
// Reference: astrid_gpu/ops/resample.py.  CPU twin: resample_numba.py.  Launch: astrid_gpu/backends/cuda/resample.py.
// real is float, or double with -DASTRID_DOUBLE.
//
//   out(p) = sum_ji h(y - j) h(x - i) c(j, i), (y, x) = maps(p);  beyond the frame the image is mirrored
#include "common.cuh"

#ifdef ASTRID_DOUBLE
__device__ __forceinline__ real sine_of_pi(real x) { return sinpi(x); }
#else
__device__ __forceinline__ real sine_of_pi(real x) { return sinpif(x); }
#endif

// ... 2 1 | 0 1 2 ... n-2 n-1 | n-2 ...
__device__ __forceinline__ int mirrored(int index, int n) {
  if (index >= 0 && index < n) return index;
  if (n == 1) return 0;
  index = abs(index) % (2 * (n - 1));
  return index >= n ? 2 * (n - 1) - index : index;
}

// Kinds: taps of each from pixel floor(position) + FIRST on, and their weights at `f` past that pixel.
struct Nearest {
  static const int taps = 2, first = 0;
  __device__ static void weights(real f, real* w) {
    w[0] = f < real(0.5) ? real(1) : real(0);
    w[1] = real(1) - w[0];
  }
};
struct Bilinear {
  static const int taps = 2, first = 0;
  __device__ static void weights(real f, real* w) {
    w[0] = real(1) - f;
    w[1] = f;
  }
};
struct Lanczos3 {  // sinc(x) sinc(x / 3), brought to sum 1
  static const int taps = 6, first = -2;
  __device__ static void weights(real f, real* w) {
    const real whole = sine_of_pi(f);
    real total = 0;
#pragma unroll
    for (int k = 0; k < 6; ++k) {
      const real x = f - real(k - 2), sign = k % 2 == 0 ? real(1) : real(-1);  // sin pi (f - k) = (-1)^k sin pi f
      const real square = x * x;
      w[k] = square < real(1e-12) ? real(1)
                                  : sign * whole * sine_of_pi(x / real(3)) * real(0.30396355092701331433) / square;
      total += w[k];
    }
#pragma unroll
    for (int k = 0; k < 6; ++k) w[k] /= total;
  }
};
struct Cubic {
  static const int taps = 4, first = -1;
  __device__ static void weights(real f, real* w) {
    const real g = real(1) - f, sixth = real(1) / real(6);
    w[0] = g * g * g * sixth;
    w[1] = (real(4) + f * f * (real(3) * f - real(6))) * sixth;
    w[2] = (real(4) + g * g * (real(3) * g - real(6))) * sixth;
    w[3] = f * f * f * sixth;
  }
};
struct Quintic {
  static const int taps = 6, first = -2;
  __device__ static void weights(real f, real* w) {
    const real g = real(1) - f, part = real(1) / real(120);
    w[0] = power(g) * part;
    w[1] = inner(f) * part;
    w[2] = middle(f) * part;
    w[3] = middle(g) * part;
    w[4] = inner(g) * part;
    w[5] = power(f) * part;
  }
  __device__ static real power(real f) { return f * f * f * f * f; }
  __device__ static real inner(real f) {
    return real(26) + f * (real(-50) + f * (real(20) + f * (real(20) + f * (real(-20) + real(5) * f))));
  }
  __device__ static real middle(real f) {
    return real(66) + f * f * (real(-60) + f * f * (real(30) - real(10) * f));
  }
};

struct Reading {
  const real* images;
  const double *y_map, *x_map;
  const unsigned char* bad;
  real* out;
  int n, ny, nx;
  long long size;
  double beyond;
};

// One position a thread, its weights used for every image of the stack; the taps of neighbours come from L1.
template <class Kind>
__device__ __forceinline__ void read_at(const Reading& r) {
  for (long long p = grid_first(); p < r.size; p += grid_stride()) {
    const double y = r.y_map[p], x = r.x_map[p];
    const bool inside = y >= -r.beyond && y <= r.ny - 1 + r.beyond && x >= -r.beyond && x <= r.nx - 1 + r.beyond;
    const int row = inside ? static_cast<int>(floor(y)) : 0, column = inside ? static_cast<int>(floor(x)) : 0;
    real down[Kind::taps], across[Kind::taps];
    Kind::weights(inside ? static_cast<real>(y - row) : real(0), down);
    Kind::weights(inside ? static_cast<real>(x - column) : real(0), across);
    for (int image = 0; image < r.n; ++image) {
      const long long frame = image * static_cast<long long>(r.ny) * r.nx;
      real total = 0;
      bool lost = !inside;
#pragma unroll
      for (int j = 0; j < Kind::taps; ++j) {
        const long long line = frame + static_cast<long long>(mirrored(row + Kind::first + j, r.ny)) * r.nx;
        real sum = 0;
#pragma unroll
        for (int i = 0; i < Kind::taps; ++i) {
          const long long at = line + mirrored(column + Kind::first + i, r.nx);
          sum += across[i] * r.images[at];
          if (r.bad != nullptr && r.bad[at] != 0 && abs(down[j] * across[i]) > real(1e-12)) lost = true;
        }
        total += down[j] * sum;
      }
      r.out[image * r.size + p] = lost ? static_cast<real>(NAN_F) : total;
    }
  }
}

extern "C" {

// images (n, ny, nx), finite; y_map, x_map (size) positions, shared by the images; bad (n, ny, nx) or null;
// out (n, size): NaN more than `beyond` outside the outermost pixel centres, where a map is NaN, and on bad taps.
// Launch: grid any, block 128, grid-stride. (Two or three blocks an SM are asked for: with more, taps spill.)
// Bytes: 16 read a position, 4 read and 4 written a pixel and image.
#define ASTRID_RESAMPLE(Kind)                                                           \
  const Reading reading = {images, y_map, x_map, bad, out, n, ny, nx, size, beyond};    \
  read_at<Kind>(reading)
__global__ void __launch_bounds__(128, 3) resample_nearest(
    const real* __restrict__ images, const double* __restrict__ y_map, const double* __restrict__ x_map,
    const unsigned char* __restrict__ bad, real* __restrict__ out, int n, int ny, int nx, long long size, double beyond) {
  ASTRID_RESAMPLE(Nearest);
}
__global__ void __launch_bounds__(128, 3) resample_bilinear(
    const real* __restrict__ images, const double* __restrict__ y_map, const double* __restrict__ x_map,
    const unsigned char* __restrict__ bad, real* __restrict__ out, int n, int ny, int nx, long long size, double beyond) {
  ASTRID_RESAMPLE(Bilinear);
}
__global__ void __launch_bounds__(128, 2) resample_lanczos3(
    const real* __restrict__ images, const double* __restrict__ y_map, const double* __restrict__ x_map,
    const unsigned char* __restrict__ bad, real* __restrict__ out, int n, int ny, int nx, long long size, double beyond) {
  ASTRID_RESAMPLE(Lanczos3);
}
__global__ void __launch_bounds__(128, 3) resample_cubic(
    const real* __restrict__ images, const double* __restrict__ y_map, const double* __restrict__ x_map,
    const unsigned char* __restrict__ bad, real* __restrict__ out, int n, int ny, int nx, long long size, double beyond) {
  ASTRID_RESAMPLE(Cubic);
}
__global__ void __launch_bounds__(128, 2) resample_quintic(
    const real* __restrict__ images, const double* __restrict__ y_map, const double* __restrict__ x_map,
    const unsigned char* __restrict__ bad, real* __restrict__ out, int n, int ny, int nx, long long size, double beyond) {
  ASTRID_RESAMPLE(Quintic);
}

// From pixels to spline coefficients along one axis: out = sum_k taps(|k|) in(mirrored(i + k)).
// in, out (n, ny, nx), not the same memory; taps (half + 1); along x if `across`, else along y.
// Launch: grid (ceil(nx / 32), ceil(ny / 8), n), block (32, 8): a pixel a thread.
__global__ void __launch_bounds__(256) spline_filter(
    const real* __restrict__ in, real* __restrict__ out, const real* __restrict__ taps, int ny, int nx, int half,
    int across) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= nx || y >= ny) return;  // no barrier below
  const long long frame = blockIdx.z * static_cast<long long>(ny) * nx, row = static_cast<long long>(y) * nx;
  real total = taps[0] * in[frame + row + x];
  for (int k = 1; k <= half; ++k) {
    const long long before = across ? row + mirrored(x - k, nx) : static_cast<long long>(mirrored(y - k, ny)) * nx + x;
    const long long after = across ? row + mirrored(x + k, nx) : static_cast<long long>(mirrored(y + k, ny)) * nx + x;
    total += taps[k] * (in[frame + before] + in[frame + after]);
  }
  out[frame + row + x] = total;
}

}  // extern "C"
