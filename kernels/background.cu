// Sky background: clipped statistics of mesh boxes and the bicubic spline through them (SExtractor's method).
// Reference: astrid_gpu/ops/background.py.  CPU twin: background_numba.py.
// Launch: astrid_gpu/backends/cuda/background.py.
#include "common.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define HELD 16    // pixels of a box a thread holds: 256 x 16 = 64 x 64
#define BINS 1024  // four bins a thread
#define FEW 256    // candidates for the median that are ranked one against another
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

// The pixels of one box as keys, asked for again and again. A box of at most 4096 pixels (the usual 64 x 64) is held in
// registers; a larger one is read again each time, out of L1 or L2, a warp to a row.
struct Box {
  const float* image;
  const unsigned char* mask;  // nullptr: nothing is masked
  int y0, y1, x0, x1, nx;
  __device__ __forceinline__ unsigned key_at(int y, int x) const {
    const long long at = static_cast<long long>(y) * nx + x;
    if (mask != nullptr && mask[at] != 0) return BAD_KEY;
    return key_of(image[at]);
  }
  template <class F>
  __device__ __forceinline__ void each(F use) const {
    for (int y = y0 + (threadIdx.x >> 5); y < y1; y += WARPS)
      for (int x = x0 + (threadIdx.x & 31); x < x1; x += 32)
        if (const unsigned key = key_at(y, x); key != BAD_KEY) use(key);
  }
};
struct Held {
  unsigned keys[HELD];
  __device__ __forceinline__ explicit Held(const Box& box) {
    const int wide = box.x1 - box.x0, size = wide * (box.y1 - box.y0);
#pragma unroll
    for (int k = 0; k < HELD; ++k) {  // all loads are under way before the first is used
      const int i = threadIdx.x + k * THREADS;
      keys[k] = i < size ? box.key_at(box.y0 + i / wide, box.x0 + i % wide) : BAD_KEY;
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F use) const {
#pragma unroll
    for (int k = 0; k < HELD; ++k)
      if (keys[k] != BAD_KEY) use(keys[k]);
  }
};

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

// Find the bin of the histogram in `bins` that holds `rank`: found = bin, rank within it, its members. All threads call.
__device__ void find_bin(Room* room, const int* bins, int* found, int rank) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
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
    if (rank >= before && rank < before + own[b]) {  // true for one bin of one thread
      found[0] = threadIdx.x * BINS_A_THREAD + b;
      found[1] = rank - before;
      found[2] = own[b];
    }
    before += own[b];
  }
  __syncthreads();
}
__device__ __forceinline__ void clear_bins(int* bins) {
  for (int b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
  __syncthreads();
}

// Key of 0-based `rank` among the keys in [low, high]; `left` becomes its rank among its equals, `equal` their number.
// Ten bits of the range at a time by a histogram, at most four rounds; exact and without regard to order.
template <class P>
__device__ unsigned select_by_bits(const P& pixels, Room* room, int* bins, int* found, unsigned low, unsigned high,
                                   int& left, int& equal) {
  for (;;) {
    const unsigned span = high - low;
    const int shift = span < BINS ? 0 : 22 - __clz(static_cast<int>(span));
    clear_bins(bins);
    pixels.each([&](unsigned key) {
      if (key >= low && key <= high) atomicAdd(&bins[(key - low) >> shift], 1);
    });
    __syncthreads();
    find_bin(room, bins, found, left);
    const unsigned bin = found[0];
    left = found[1];
    equal = found[2];
    __syncthreads();
    low += bin << shift;
    if (shift == 0) return low;
    high = min(high, low + ((1u << shift) - 1u));
  }
}

// Key of 0-based `rank` among the pixels with keys in [low, high], how many lie below it and how many share it.
// First a histogram linear in the value: by the bits of floats a sky about zero would fall into a few bins, and its
// atomics wait for each other. The few members of the median's bin are ranked one against another.
template <class P>
__device__ unsigned select_key(const P& pixels, Room* room, int* bins, int* found, unsigned low, unsigned high, int rank,
                               int kept, int& below, int& equal) {
  if (low == high) {  // the same for all threads
    below = 0;
    equal = kept;
    return low;
  }
  const float first = static_cast<float>(number_of(low)), width = static_cast<float>(number_of(high)) - first;
  const float scale = width < 1e38f ? static_cast<float>(BINS) / width : 0.0f;
  const auto bin_of = [=](unsigned key) {  // grows with the key, whatever the rounding
    return min(static_cast<int>((static_cast<float>(number_of(key)) - first) * scale), BINS - 1);
  };
  int left = rank, members = kept, bin = 0;
  if (scale > 0.0f && scale < 1e38f) {
    clear_bins(bins);
    pixels.each([&](unsigned key) {
      if (key >= low && key <= high) atomicAdd(&bins[bin_of(key)], 1);
    });
    __syncthreads();
    find_bin(room, bins, found, left);
    bin = found[0];
    left = found[1];
    members = found[2];
    __syncthreads();
    if (threadIdx.x == 0) found[0] = 0;
    __syncthreads();
    if (members <= FEW) {
      pixels.each([&](unsigned key) {
        if (key >= low && key <= high && bin_of(key) == bin) bins[atomicAdd(&found[0], 1)] = static_cast<int>(key);
      });
      __syncthreads();
      const int t = static_cast<int>(threadIdx.x);
      const unsigned own = t < members ? static_cast<unsigned>(bins[t]) : 0u;
      int smaller = 0, same = 0;
      for (int m = 0; m < members; ++m) {
        const unsigned other = static_cast<unsigned>(bins[m]);
        smaller += other < own;
        same += other == own;
      }
      if (t < members && smaller <= left && left < smaller + same) {  // equal keys write the same
        found[0] = static_cast<int>(own);
        found[1] = left - smaller;
        found[2] = same;
      }
      __syncthreads();
      const unsigned key = static_cast<unsigned>(found[0]);
      below = rank - found[1];
      equal = found[2];
      __syncthreads();
      return key;
    }
    unsigned lowest = ~0u, highest = 0u;
    pixels.each([&](unsigned key) {
      if (key < low || key > high || bin_of(key) != bin) return;
      lowest = min(lowest, key);
      highest = max(highest, key);
    });
    int none = 0;
    block_range(room, none, lowest, highest);
    low = lowest;
    high = highest;
  }
  const unsigned key = select_by_bits(pixels, room, bins, found, low, high, left, equal);
  below = rank - left;
  return key;
}

// What is written for a box.
struct Clipped {
  int good;
  double median, offset, spread;
};

// The clipping of one box; every thread gets the result.
template <class P>
__device__ Clipped clip_box(const P& pixels, Room* room, int* bins, int* found, double clip) {
  Clipped out = {0, 0.0, 0.0, 0.0};
  int kept = 0;
  unsigned low = ~0u, high = 0u;
  pixels.each([&](unsigned key) {
    ++kept;
    low = min(low, key);
    high = max(high, key);
  });
  block_range(room, kept, low, high);
  out.good = kept;
  if (kept == 0) return out;  // the same for all threads
  for (int round = 0; round < MAX_ROUNDS; ++round) {
    int below, equal, more = 0;
    const unsigned middle = select_key(pixels, room, bins, found, low, high, kept / 2, kept, below, equal);
    unsigned upper = ~0u, lower = 0u;  // the next distinct keys on both sides
    pixels.each([&](unsigned key) {
      if (key >= low && key < middle) lower = max(lower, key);
      if (key <= high && key > middle) upper = min(upper, key);
    });
    block_range(room, more, upper, lower);
    const double m = number_of(middle);
    const double lower_edge = below > 0 ? 0.5 * (number_of(lower) + m) : m;
    const double upper_edge = below + equal < kept ? 0.5 * (m + number_of(upper)) : m;
    const double median = lower_edge + (upper_edge - lower_edge) * (0.5 * kept - below) / equal;

    double first = 0.0, second = 0.0;
    pixels.each([&](unsigned key) {
      if (key < low || key > high) return;
      const double d = number_of(key) - median;
      first += d;
      second += d * d;
    });
    block_sums(room, first, second);
    out.median = median;
    out.offset = first / kept;
    out.spread = sqrt(max(second / kept - out.offset * out.offset, 0.0));

    const double limit = out.spread > 0.0 ? clip * out.spread : 0.0;  // infinity times 0 is no limit at all
    int inside = 0;
    unsigned new_low = ~0u, new_high = 0u;
    pixels.each([&](unsigned key) {
      if (key < low || key > high || !(fabs(number_of(key) - median) <= limit)) return;
      ++inside;
      new_low = min(new_low, key);
      new_high = max(new_high, key);
    });
    block_range(room, inside, new_low, new_high);
    if (inside == kept) break;
    if (inside == 0) {  // nearly all alike, and one far off draws the median away from every one of them
      inside = equal;
      new_low = new_high = middle;
    }
    kept = inside;
    low = new_low;
    high = new_high;
  }
  return out;
}

// Box j of a block's row covers rows j ny / by to (j + 1) ny / by, and likewise along x.
__device__ __forceinline__ Box box_of(const float* images, const unsigned char* mask, int ny, int nx, long long mask_stride) {
  const long long image = blockIdx.z, j = blockIdx.y, i = blockIdx.x, by = gridDim.y, bx = gridDim.x;
  Box box;
  box.image = images + image * ny * nx;
  box.mask = mask == nullptr ? nullptr : mask + image * mask_stride;
  box.y0 = static_cast<int>(j * ny / by);
  box.y1 = static_cast<int>((j + 1) * ny / by);
  box.x0 = static_cast<int>(i * nx / bx);
  box.x1 = static_cast<int>((i + 1) * nx / bx);
  box.nx = nx;
  return box;
}
__device__ __forceinline__ void put_box(const Clipped& box, int statistic, double* level, double* rms, int* count) {
  if (threadIdx.x != 0) return;
  const long long at = (blockIdx.z * static_cast<long long>(gridDim.y) + blockIdx.y) * gridDim.x + blockIdx.x;
  double value = box.median;
  if (statistic == 2) value = box.median + box.offset;
  if (statistic == 0 && fabs(box.offset) < CROWDED * box.spread) value = box.median - 1.5 * box.offset;
  count[at] = box.good;
  level[at] = box.good == 0 ? static_cast<double>(NAN_F) : value;
  rms[at] = box.good == 0 ? static_cast<double>(NAN_F) : box.spread;
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
// A round is 5 or 6 passes over the box's keys; clipping ends when nothing falls out, usually after 2 to 4 rounds.
__global__ void __launch_bounds__(256, 3) mesh_statistics(
    const float* __restrict__ images, const unsigned char* __restrict__ mask, double* __restrict__ level,
    double* __restrict__ rms, int* __restrict__ count, int ny, int nx, long long mask_stride, double clip,
    int statistic) {
  __shared__ int bins[BINS];
  __shared__ int found[3];
  __shared__ Room room;
  const Box box = box_of(images, mask, ny, nx, mask_stride);
  put_box(clip_box(box, &room, bins, found, clip), statistic, level, rms, count);
}

// The same for boxes of at most 4096 pixels, which stay in registers: global memory is read once. On sm_100 a third block
// would leave the compiler a register short.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define HELD_BLOCKS 2
#else
#define HELD_BLOCKS 3
#endif
__global__ void __launch_bounds__(256, HELD_BLOCKS) mesh_statistics_held(
    const float* __restrict__ images, const unsigned char* __restrict__ mask, double* __restrict__ level,
    double* __restrict__ rms, int* __restrict__ count, int ny, int nx, long long mask_stride, double clip,
    int statistic) {
  __shared__ int bins[BINS];
  __shared__ int found[3];
  __shared__ Room room;
  const Held held(box_of(images, mask, ny, nx, mask_stride));
  put_box(clip_box(held, &room, bins, found, clip), statistic, level, rms, count);
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
