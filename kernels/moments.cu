// Gaussian-weighted moments in square windows.
// Reference: astrid_gpu/ops/moments.py.  CPU twin: moments_numba.py.  Launch: astrid_gpu/backends/cuda/moments.py.
//
//   sums of  w, w d, w d v, w d u, w d v^2, w d u^2, w d v u   with (v, u) = p - c  and  w = exp(-|p - c|^2 / 2 sigma^2)
#include "common.cuh"

__device__ __forceinline__ double warp_total(double value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_down_sync(FULL_WARP, value, step);
  return value;
}

extern "C" {

// Launch: one warp a window, 4 a block (128 threads), warps stride over the m windows; lanes stride over the pixels.
// images (n, ny, nx); mask (1 or n, ny, nx) with stride 0 or ny * nx, or null; image (m); centre (3, m): y, x, sigma;
// out (m, 7). Sums are double whatever `real` is: there are few windows, and their order of addition is fixed.
__global__ void __launch_bounds__(128, 8) measure_moments(
    const real* __restrict__ images, const unsigned char* __restrict__ mask, const long long* __restrict__ image,
    const double* __restrict__ centre, int ny, int nx, long long mask_stride, int radius, long long windows,
    double* __restrict__ out) {
  const int lane = threadIdx.x & 31;
  const long long size = static_cast<long long>(ny) * nx;
  const long long warps = static_cast<long long>(gridDim.x) * (blockDim.x >> 5);
  for (long long k = blockIdx.x * static_cast<long long>(blockDim.x >> 5) + (threadIdx.x >> 5); k < windows; k += warps) {
    const double y = centre[k], x = centre[windows + k], sigma = centre[2 * windows + k];
    const double scale = -0.5 / (sigma * sigma);
    const int cy = static_cast<int>(floor(y + 0.5)), cx = static_cast<int>(floor(x + 0.5));
    const real* plane = images + image[k] * size;
    const unsigned char* bad = mask == nullptr ? nullptr : mask + image[k] * mask_stride;
    const int side = 2 * radius + 1;
    double sum[7] = {0, 0, 0, 0, 0, 0, 0};
    for (int cell = lane; cell < side * side; cell += 32) {
      const int row = cy - radius + cell / side, column = cx - radius + cell % side;
      if (row < 0 || row >= ny || column < 0 || column >= nx) continue;
      const long long at = static_cast<long long>(row) * nx + column;
      const double d = plane[at];
      if (!isfinite(d) || (bad != nullptr && bad[at] != 0)) continue;
      const double v = row - y, u = column - x;
      const double w = exp(scale * (v * v + u * u)), wd = w * d;
      sum[0] += w;
      sum[1] += wd;
      sum[2] += wd * v;
      sum[3] += wd * u;
      sum[4] += wd * v * v;
      sum[5] += wd * u * u;
      sum[6] += wd * v * u;
    }
    for (int q = 0; q < 7; ++q) {
      const double total = warp_total(sum[q]);
      if (lane == 0) out[k * 7 + q] = total;
    }
  }
}
}
