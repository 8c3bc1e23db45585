// Local maxima above a threshold (strict/loose test; ties are marked for the caller to resolve).
// Reference: astrid_gpu/ops/peaks.py, step 1.  CPU twin: peaks_numba.py.  Launch: astrid_gpu/backends/cuda/peaks.py.
//
//   peak(c) = c > threshold  and  c > o for the 4 neighbours earlier in raster order  and  c >= o for the 4 later ones
//
// Masked, NaN, infinite and absent neighbours are lower than c. With `both`, the same for -c as well.
#include "common.cuh"

__device__ __forceinline__ bool usable(const real* image, const unsigned char* mask, long long at) {
  return isfinite(image[at]) && (mask == nullptr || mask[at] == 0);
}

// 0: not a maximum, 1: a maximum, 3: one with an equal neighbour. Only the few pixels beyond the threshold come here,
// so their neighbours are read from the caches as they are: no shared tile is loaded for the other 99.9 %.
__device__ int judge(const real* image, const unsigned char* mask, long long at, int ny, int nx, real sign) {
  const int y = static_cast<int>(at / nx), x = static_cast<int>(at % nx);
  const real centre = sign * image[at];
  int verdict = 1;
  for (int dy = -1; dy <= 1; ++dy) {
    for (int dx = -1; dx <= 1; ++dx) {
      if ((dy == 0 && dx == 0) || y + dy < 0 || y + dy >= ny || x + dx < 0 || x + dx >= nx) continue;
      const long long there = at + static_cast<long long>(dy) * nx + dx;
      if (!usable(image, mask, there)) continue;
      const real other = sign * image[there];
      const bool before = dy < 0 || (dy == 0 && dx < 0);
      if (other > centre || (other == centre && before)) return 0;
      if (other == centre) verdict = 3;
    }
  }
  return verdict;
}

#define PIXELS 4  // of a thread in one round: four loads are under way before the first is looked at

extern "C" {

// Launch: blocks of 256, grid (any, n): grid-stride over one image in steps of 1024 pixels a block, blockIdx.y = image.
// Every warp makes the same number of rounds, so the votes below always have all 32 lanes.
// images (n, ny, nx); mask (1 or n, ny, nx) with stride 0 or ny * nx between images, or null; thresholds (n).
// Appended to `key` (image * ny * nx + pixel), `value`, `tied`, in no fixed order; `count` goes on past `capacity`.
// Bytes: 4 read a pixel (8 in double).
__global__ void __launch_bounds__(256) local_maxima(
    const real* __restrict__ images, const unsigned char* __restrict__ mask, const real* __restrict__ thresholds,
    int ny, int nx, long long mask_stride, int both, long long capacity, unsigned long long* __restrict__ count,
    long long* __restrict__ key, double* __restrict__ value, unsigned char* __restrict__ tied) {
  const long long size = static_cast<long long>(ny) * nx, image = blockIdx.y;
  const real* plane = images + image * size;
  const unsigned char* bad = mask == nullptr ? nullptr : mask + image * mask_stride;
  const real threshold = thresholds[image];
  const long long step = static_cast<long long>(blockDim.x) * PIXELS;
  const int lane = threadIdx.x & 31;
  for (long long base = blockIdx.x * step; base < size; base += gridDim.x * step) {
    real c[PIXELS];
    bool beyond = false;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
      const long long at = base + k * static_cast<long long>(blockDim.x) + threadIdx.x;
      c[k] = at < size ? plane[at] : threshold;  // the threshold itself is not beyond it
    }
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) beyond = beyond || c[k] > threshold || (both && c[k] < -threshold);
    if (__ballot_sync(FULL_WARP, beyond) == 0) continue;
    for (int k = 0; k < PIXELS; ++k) {
      const long long at = base + k * static_cast<long long>(blockDim.x) + threadIdx.x;
      int verdict = 0;
      const real centre = at < size ? plane[at] : threshold;  // again, from the cache: the few warps that come here
      const bool above = centre > threshold, below = both && centre < -threshold;
      if ((above || below) && usable(plane, bad, at)) verdict = judge(plane, bad, at, ny, nx, above ? real(1) : real(-1));
      const unsigned votes = __ballot_sync(FULL_WARP, verdict != 0);
      if (votes == 0) continue;
      const int leader = __ffs(votes) - 1;
      unsigned long long first = 0;
      if (lane == leader) first = atomicAdd(count, static_cast<unsigned long long>(__popc(votes)));
      first = __shfl_sync(FULL_WARP, first, leader);
      const long long slot = static_cast<long long>(first) + __popc(votes & ((1u << lane) - 1u));
      if (verdict != 0 && slot < capacity) {
        key[slot] = image * size + at;
        value[slot] = centre;
        tied[slot] = verdict == 3;
      }
    }
  }
}
}
