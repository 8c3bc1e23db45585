// Sky background: clipped statistics of mesh boxes and the bicubic spline through them (SExtractor's method).
// Reference: astrid_gpu/ops/background.py.  CPU twin: background_numba.py.
// Launch: astrid_gpu/backends/cuda/background.py.
#include "common.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define BINS 1024  // ten bits of a key at a time; four bins a thread
#define BINS_A_THREAD (BINS / THREADS)
#define MAX_ROUNDS 50  // as in the reference
#define CROWDED 0.3
#define BAD_KEY 0u  // no finite float has it

// The bits of a float turned so that unsigned order is the order of the numbers; -0 is 0; NaN and infinities are bad.
__device__ __forceinline__ unsigned key_of(float value) {
  unsigned bits = __float_as_uint(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return BAD_KEY;
  if (bits == 0x80000000u) bits = 0u;
  return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
}
__device__ __forceinline__ double number_of(unsigned key) {
  return static_cast<double>(__uint_as_float((key & 0x80000000u) ? (key & 0x7fffffffu) : ~key));
}

// One box: pixels are read from global memory (L1 after the first pass) as often as needed, a warp to a row.
struct Box {
  const float* image;
  const unsigned char* mask;  // nullptr: nothing is masked
  int y0, y1, x0, x1, nx;
};
__device__ __forceinline__ unsigned pixel_key(const Box& box, int y, int x) {
  const long long at = static_cast<long long>(y) * box.nx + x;
  if (box.mask != nullptr && box.mask[at] != 0) return BAD_KEY;
  return key_of(box.image[at]);
}
#define FOR_PIXELS(box, key)                                           \
  for (int y = (box).y0 + (threadIdx.x >> 5); y < (box).y1; y += WARPS) \
    for (int x = (box).x0 + (threadIdx.x & 31); x < (box).x1; x += 32)  \
      if (const unsigned key = pixel_key(box, y, x); key != BAD_KEY)

__device__ __forceinline__ unsigned warp_min(unsigned value) {
  for (int step = 16; step > 0; step >>= 1) value = min(value, __shfl_down_sync(FULL_WARP, value, step));
  return value;
}
__device__ __forceinline__ unsigned warp_max(unsigned value) {
  for (int step = 16; step > 0; step >>= 1) value = max(value, __shfl_down_sync(FULL_WARP, value, step));
  return value;
}

// Room for the reductions of a block; every thread gets the result, in an order that does not depend on timing.
struct Room {
  double first[WARPS], second[WARPS];
  int count[WARPS];
  unsigned low[WARPS], high[WARPS];
};
__device__ void block_sums(Room* room, double& first, double& second) {
  first = warp_sum(first);
  second = warp_sum(second);
  __syncthreads();  // the room may still be read from its last use
  if ((threadIdx.x & 31) == 0) {
    room->first[threadIdx.x >> 5] = first;
    room->second[threadIdx.x >> 5] = second;
  }
  __syncthreads();
  first = second = 0.0;
  for (int w = 0; w < WARPS; ++w) {
    first += room->first[w];
    second += room->second[w];
  }
}
__device__ void block_range(Room* room, int& count, unsigned& low, unsigned& high) {
  count = warp_sum(count);
  low = warp_min(low);
  high = warp_max(high);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) {
    room->count[threadIdx.x >> 5] = count;
    room->low[threadIdx.x >> 5] = low;
    room->high[threadIdx.x >> 5] = high;
  }
  __syncthreads();
  count = 0;
  low = ~0u;
  high = 0u;
  for (int w = 0; w < WARPS; ++w) {
    count += room->count[w];
    low = min(low, room->low[w]);
    high = max(high, room->high[w]);
  }
}

// Key of 0-based `rank` among the pixels with keys in [low, high], how many lie below it and how many share it.
// Ten bits of the range at a time by a histogram, at most four rounds; exact and without regard to order.
__device__ unsigned select_key(const Box& box, Room* room, int* bins, int* found, unsigned low, unsigned high, int rank,
                               int& below, int& equal) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int left = rank;
  for (;;) {
    const unsigned span = high - low;
    const int shift = span < BINS ? 0 : 22 - __clz(static_cast<int>(span));
    for (int b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
    __syncthreads();
    FOR_PIXELS(box, key) {
      if (key >= low && key <= high) atomicAdd(&bins[(key - low) >> shift], 1);
    }
    __syncthreads();
    int own[BINS_A_THREAD], total = 0;
    for (int b = 0; b < BINS_A_THREAD; ++b) {
      own[b] = bins[threadIdx.x * BINS_A_THREAD + b];
      total += own[b];
    }
    int before = total;  // inclusive scan over the warp, then over the warps
    for (int step = 1; step < 32; step <<= 1) {
      const int other = __shfl_up_sync(FULL_WARP, before, step);
      if (lane >= step) before += other;
    }
    if (lane == 31) room->count[warp] = before;
    __syncthreads();
    before -= total;
    for (int w = 0; w < warp; ++w) before += room->count[w];
    for (int b = 0; b < BINS_A_THREAD; ++b) {
      if (left >= before && left < before + own[b]) {  // true for one bin of one thread
        found[0] = threadIdx.x * BINS_A_THREAD + b;
        found[1] = left - before;
        found[2] = own[b];
      }
      before += own[b];
    }
    __syncthreads();
    const unsigned bin = found[0];
    left = found[1];
    equal = found[2];
    __syncthreads();
    low += bin << shift;
    if (shift == 0) break;
    high = min(high, low + ((1u << shift) - 1u));
  }
  below = rank - left;
  return low;
}

extern "C" {

// One block of 256 threads = one mesh box: grid (bx, by, n).
//
//   repeat: m = median, s = standard deviation of the pixels kept; keep |pixel - m| <= clip s; until none falls out
//   level = m + o, o = mean - m          (statistic 2)
//         = m                            (statistic 1, or |o| >= 0.3 s)
//         = m - 1.5 o = 2.5 m - 1.5 mean (statistic 0)
//
// What is kept is always a range of keys. The median is exact, ties resolved as grouped data; sums in double.
// images (n, ny, nx); mask (n, ny, nx), shared by the stack if mask_stride is 0, or null;
// level, rms (n, by, bx), NaN in a box without a good pixel; count (n, by, bx) good pixels.
// Box j covers rows j ny / by to (j + 1) ny / by. A round costs 6 passes over the box out of L1, no global atomics.
__global__ void __launch_bounds__(256, 3) mesh_statistics(
    const float* __restrict__ images, const unsigned char* __restrict__ mask, double* __restrict__ level,
    double* __restrict__ rms, int* __restrict__ count, int ny, int nx, long long mask_stride, double clip,
    int statistic) {
  __shared__ int bins[BINS];
  __shared__ int found[3];
  __shared__ Room room;
  const int by = gridDim.y, bx = gridDim.x;
  const long long image = blockIdx.z, j = blockIdx.y, i = blockIdx.x;
  Box box;
  box.image = images + image * ny * nx;
  box.mask = mask == nullptr ? nullptr : mask + image * mask_stride;
  box.y0 = static_cast<int>(j * ny / by);
  box.y1 = static_cast<int>((j + 1) * ny / by);
  box.x0 = static_cast<int>(i * nx / bx);
  box.x1 = static_cast<int>((i + 1) * nx / bx);
  box.nx = nx;
  const long long at = (image * by + j) * bx + i;

  int kept = 0;
  unsigned low = ~0u, high = 0u;
  FOR_PIXELS(box, key) {
    ++kept;
    low = min(low, key);
    high = max(high, key);
  }
  block_range(&room, kept, low, high);
  if (threadIdx.x == 0) count[at] = kept;
  if (kept == 0) {  // the same for all threads
    if (threadIdx.x == 0) level[at] = rms[at] = static_cast<double>(NAN_F);
    return;
  }
  double median = 0.0, offset = 0.0, spread = 0.0;
  for (int round = 0; round < MAX_ROUNDS; ++round) {
    int below, equal, more = 0;
    const unsigned middle = select_key(box, &room, bins, found, low, high, kept / 2, below, equal);
    unsigned upper = ~0u, lower = 0u;  // the next distinct keys on both sides
    FOR_PIXELS(box, key) {
      if (key >= low && key < middle) lower = max(lower, key);
      if (key <= high && key > middle) upper = min(upper, key);
    }
    block_range(&room, more, upper, lower);
    const double m = number_of(middle);
    const double lower_edge = below > 0 ? 0.5 * (number_of(lower) + m) : m;
    const double upper_edge = below + equal < kept ? 0.5 * (m + number_of(upper)) : m;
    median = lower_edge + (upper_edge - lower_edge) * (0.5 * kept - below) / equal;

    double first = 0.0, second = 0.0;
    FOR_PIXELS(box, key) {
      if (key >= low && key <= high) {
        const double d = number_of(key) - median;
        first += d;
        second += d * d;
      }
    }
    block_sums(&room, first, second);
    offset = first / kept;
    spread = sqrt(max(second / kept - offset * offset, 0.0));

    const double limit = spread > 0.0 ? clip * spread : 0.0;  // infinity times 0 is no limit at all
    int inside = 0;
    unsigned new_low = ~0u, new_high = 0u;
    FOR_PIXELS(box, key) {
      if (key >= low && key <= high && fabs(number_of(key) - median) <= limit) {
        ++inside;
        new_low = min(new_low, key);
        new_high = max(new_high, key);
      }
    }
    block_range(&room, inside, new_low, new_high);
    if (inside == kept) break;
    kept = inside;
    low = new_low;
    high = new_high;
  }
  if (threadIdx.x == 0) {
    double value = median;
    if (statistic == 2) value = median + offset;
    if (statistic == 0 && fabs(offset) < CROWDED * spread) value = median - 1.5 * offset;
    level[at] = value;
    rms[at] = spread;
  }
}

// One thread = one column of every gridDim.y-th row; grid (ceil(nx / 256), ceil(ny / 8), n).
//
//   out[y, x] = w0 f[left] + w1 f[right] + w2 m[left] + w3 m[right],   w = weights[:, x]
//
// nodes f, bends m (n, ny, bx): node values and second derivatives of the splines along x, already interpolated in y;
// left, right (nx); weights (4, nx); out (n, ny, nx).
__global__ void __launch_bounds__(256) mesh_interpolate(
    const real* __restrict__ nodes, const real* __restrict__ bends, const int* __restrict__ left,
    const int* __restrict__ right, const real* __restrict__ weights, real* __restrict__ out, int ny, int nx, int bx) {
  const long long image = blockIdx.z;
  for (int x = static_cast<int>(grid_first()); x < nx; x += static_cast<int>(grid_stride())) {
    const int i = left[x], j = right[x];
    const real w0 = weights[x], w1 = weights[nx + x], w2 = weights[2 * nx + x], w3 = weights[3 * nx + x];
    for (long long y = blockIdx.y; y < ny; y += gridDim.y) {
      const long long row = image * ny + y;
      const real* f = nodes + row * bx;
      const real* m = bends + row * bx;
      out[row * nx + x] = w0 * f[i] + w1 * f[j] + w2 * m[i] + w3 * m[j];
    }
  }
}
}
